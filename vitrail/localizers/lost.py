"""LOST: the patch that resembles fewest others, and what resembles it, by keys of the last block.

The equation, the source and the deviations in it stand in `vitrail.ops.lost`.

    component    (the default) 1 on the connected component that holds the seed, 0 elsewhere; a map of the image's
                 pixels, so that every threshold gives LOST's own box
    soft         r, the sum of products with the seed and those that joined it; a map of patches, the threshold decides

Deviations: the paper shows each image at its own size, a side of several hundred pixels; here it is shown as the
evaluator shows it, 224 x 224 by default, so that k = 100 of 196 patches is half of them. `k` says another number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.contracts import Located
from vitrail.localizers.maps import box_map, of_patches
from vitrail.ops.lost import check_k, expand_seed
from vitrail.rankers.source import Source, variant_of
from vitrail.rankers.vit import open_vit

VARIANTS = ("component", "soft")
WEIGHTS = "the file of a ViT, such as dino_deitsmall16_pretrain.pth, a run folder, or `pretrained` with a model's name"


def from_source(source: Source, *, k: int = 100) -> Lost:
    """Any ViT with a class token that `vitrail.load` reads; `k`, how many patches of lowest degree may join."""
    variant = variant_of(source, "lost", VARIANTS, "localizer")
    return Lost(open_vit(source, "lost", WEIGHTS, "localizer"), variant, k)


class Lost(nn.Module):
    """The seed's component. Fulfills `vitrail.contracts.Localizer`; does not classify."""

    classes: tuple[str, ...] | None = None

    def __init__(self, backbone: TimmViT, variant: str = "component", k: int = 100) -> None:
        """Args: a backbone whose last block can be opened; one of `VARIANTS`; how many patches may join the seed."""
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}; known: {', '.join(VARIANTS)}")
        if reason := backbone.closed.get(backbone.depth - 1):
            raise ValueError(f"the localizer lost reads keys of the last block: {reason}")
        check_k(k)
        self.any_threshold = variant == "component"  # see `vitrail.contracts.Localizer`
        self.backbone, self.variant, self.k = backbone, variant, k
        self.mean, self.std, self.image_size = backbone.mean, backbone.std, backbone.image_size

    @torch.no_grad()
    def forward(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        """Maps `[B, H, W]` of 0 and 1; in `soft` `[B, Y, X]`, of any sign."""
        keys, grid = self.backbone.keys(images)
        found = expand_seed(keys, grid, self.k)
        if self.variant == "soft":
            return Located(found.likeness.float())
        return Located(box_map(of_patches(found.mask, self.backbone.patch_size)))
