"""Attention of the last block's class token, of DINO or any other ViT.

    S[h, j] = softmax over all tokens of q_cls . k_j / sqrt(d), j a patch

    sum_attention   sum over heads of S[h, j]                                          the text
    mass_vote       how many heads have j in the smallest set of patches that holds    the released code
                    number / N of what the head gives to patches

The softmax runs over class and register tokens, too, so a head that looks at itself counts for less in the sum.

`mass_vote` gives whole numbers from 0 to the number of heads, many of them equal, and 0 to all patches that no head
keeps: a head of a peaked map reaches its share with few patches. Of equal scores the smaller id is taken.

Sources: Caron et al., "Emerging properties in self-supervised Vision Transformers", 2021; Luo et al., "LTRP",
supplement A.2.

Deviations: the released code leaves equal scores to an unstable sort.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.nn.open_block import attend
from vitrail.ops.attention_mass import mass_mask
from vitrail.rankers.source import Source, need_number, variant_of
from vitrail.rankers.vit import open_vit

VARIANTS = ("sum_attention", "mass_vote")
WEIGHTS = "the file of a ViT, such as dino_deitsmall16_pretrain.pth, a run folder, or `pretrained` with a model's name"


def from_source(source: Source) -> Dino:
    """Any ViT with a class token that `vitrail.load` reads."""
    variant = variant_of(source, "dino", VARIANTS)
    return Dino(open_vit(source, "dino", WEIGHTS), variant)


class Dino(nn.Module):
    """The class token's attention as a score of each patch. Fulfills `vitrail.contracts.Ranker`."""

    def __init__(self, backbone: TimmViT, variant: str = "sum_attention") -> None:
        """Args: a backbone whose last block can be opened; one of `VARIANTS`, of which mass_vote needs a number."""
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}; known: {', '.join(VARIANTS)}")
        if reason := backbone.closed.get(backbone.depth - 1):
            raise ValueError(f"the ranker dino reads the last block's attention: {reason}")
        self.backbone = backbone
        self.variant = variant
        self.needs_number = variant == "mass_vote"
        self.mean, self.std = backbone.mean, backbone.std
        self.image_size, self.patch_size = backbone.image_size, backbone.patch_size

    @torch.no_grad()
    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Scores `[B, Y, X]`: in [0, heads], `sum_attention` adds up to at most the number of heads."""
        attention = self.attention(images)
        if self.variant == "sum_attention":
            return attention.sum(1)
        count = attention.shape[-2] * attention.shape[-1]
        share = need_number(number, count, "dino with variant mass_vote") / count
        return mass_mask(attention, share, dims=2).sum(1).float()

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor:
        """S `[B, H, Y, X]`, float32, not negative."""
        x, grid = self.backbone.embed(images)
        blocks: list[Any] = list(self.backbone.vit.blocks)
        for block in blocks[:-1]:
            x = block(x)
        _, scores = attend(blocks[-1].attn, blocks[-1].norm1(x))
        return scores.float().softmax(-1)[:, :, self.backbone.prefix_tokens :].unflatten(2, grid)
