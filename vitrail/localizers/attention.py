"""Attention of the last block's class token, a mean over chosen heads.

    S[h, j] = softmax over all tokens of q_cls . k_j / sqrt(d), j a patch
    map_j   = mean over the heads of S[h, j], stretched to [0, 1]

    all_heads      (the default) every head
    first_three    heads 0, 1 and 2, as PPD and LocLoc take of DINO's ViT-S/16, which has 6

Which heads look at the object differs between weights: for others than these, ask `heads`. The softmax runs over class
and register tokens, too, so a head that looks at itself counts for less in the mean.

Sources: Caron et al. 2021 (arXiv 2104.14294), for the attention; the heads as in the released code of PPD and LocLoc.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.contracts import Located
from vitrail.ops.mean_attention import stretched
from vitrail.rankers.dino import Dino
from vitrail.rankers.source import Source, variant_of
from vitrail.rankers.vit import open_vit

VARIANTS = ("all_heads", "first_three")
WEIGHTS = "the file of a ViT, such as dino_deitsmall16_pretrain.pth, a run folder, or `pretrained` with a model's name"


def from_source(source: Source, *, heads: Sequence[int] | None = None) -> Attention:
    """Any ViT with a class token that `vitrail.load` reads; `heads`, counted from 0, in place of a variant."""
    variant = variant_of(source, "attention", VARIANTS, "localizer")
    if heads is not None and source.variant is not None:
        raise ValueError(f"heads {tuple(heads)} and the variant {variant} both say which heads; give one of them")
    if variant == "first_three":
        heads = (0, 1, 2)
    return Attention(open_vit(source, "attention", WEIGHTS, "localizer"), heads)


class Attention(nn.Module):
    """The class token's attention as a map. Fulfills `vitrail.contracts.Localizer`; does not classify."""

    classes: tuple[str, ...] | None = None

    def __init__(self, backbone: TimmViT, heads: Sequence[int] | None = None) -> None:
        """Args: a backbone whose last block can be opened; heads counted from 0, None for all of them.

        Raises:
            ValueError: for no head, one that is not there or is named twice, or a last block that stays closed.
        """
        super().__init__()
        if reason := backbone.closed.get(backbone.depth - 1):
            raise ValueError(f"the localizer attention reads the last block's attention: {reason}")
        chosen = tuple(range(backbone.heads) if heads is None else heads)
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(backbone.heads)):
            raise ValueError(
                f"heads are {chosen}; this backbone has 0 to {backbone.heads - 1}: name at least one, and each once"
            )
        self.heads = chosen
        self.ranker = Dino(backbone)
        self.mean, self.std, self.image_size = backbone.mean, backbone.std, backbone.image_size

    @torch.no_grad()
    def forward(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        """Maps `[B, Y, X]` in [0, 1], 0 where attention is the same everywhere."""
        return Located(stretched(self.ranker.attention(images)[:, list(self.heads)].mean(1)))
