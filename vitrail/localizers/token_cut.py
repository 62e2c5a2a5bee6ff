"""TokenCut: a normalized cut of the graph of patches, by keys of the last block.

The equation, the source and the deviations in it stand in `vitrail.ops.token_cut`.

    component    (the default) 1 on the connected component that holds the patch of largest |y|, 0 elsewhere; a map of
                 the image's pixels, so that every threshold gives TokenCut's own box
    soft         y, the eigenvector, positive at that patch; a map of patches, the threshold decides

Deviations: the paper shows each image at its own size; here it is shown as the evaluator shows it, 224 x 224 by
default.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.contracts import Located
from vitrail.localizers.maps import box_map, of_patches
from vitrail.ops.token_cut import check_graph, cut_tokens
from vitrail.rankers.source import Source, variant_of
from vitrail.rankers.vit import open_vit

VARIANTS = ("component", "soft")
WEIGHTS = "the file of a ViT, such as dino_deitsmall16_pretrain.pth, a run folder, or `pretrained` with a model's name"


def from_source(source: Source, *, tau: float = 0.2, epsilon: float = 1e-5) -> TokenCut:
    """Any ViT with a class token that `vitrail.load` reads; `tau` and `epsilon` as `vitrail.ops.token_cut` says."""
    variant = variant_of(source, "token_cut", VARIANTS, "localizer")
    return TokenCut(open_vit(source, "token_cut", WEIGHTS, "localizer"), variant, tau, epsilon)


class TokenCut(nn.Module):
    """One side of the cut. Fulfills `vitrail.contracts.Localizer`; does not classify."""

    classes: tuple[str, ...] | None = None

    def __init__(self, backbone: TimmViT, variant: str = "component", tau: float = 0.2, epsilon: float = 1e-5) -> None:
        """Args: a backbone whose last block can be opened; one of `VARIANTS`; `tau` and `epsilon` of the graph."""
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}; known: {', '.join(VARIANTS)}")
        if reason := backbone.closed.get(backbone.depth - 1):
            raise ValueError(f"the localizer token_cut reads keys of the last block: {reason}")
        check_graph(tau, epsilon)
        self.any_threshold = variant == "component"  # see `vitrail.contracts.Localizer`
        self.backbone, self.variant, self.tau, self.epsilon = backbone, variant, tau, epsilon
        self.mean, self.std, self.image_size = backbone.mean, backbone.std, backbone.image_size

    @torch.no_grad()
    def forward(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        """Maps `[B, H, W]` of 0 and 1; in `soft` `[B, Y, X]`, of any sign."""
        keys, grid = self.backbone.keys(images)
        found = cut_tokens(keys, grid, self.tau, self.epsilon)
        if self.variant == "soft":
            return Located(found.eigenvector.float())
        return Located(box_map(of_patches(found.mask, self.backbone.patch_size)))
