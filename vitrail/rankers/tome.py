"""One patch for each group of alike ones, by token merging (ToMe).

Between attention and MLP of each block the r most similar pairs of tokens are merged (`vitrail.ops.token_merging`),
alike by the cosine of their keys, averaged over heads; class, distillation and register tokens are left alone. r
follows from the number of patches that are kept of N, in L blocks:

    r = int((N + 1 - number) / L)         at most half of the patches' tokens that are left
    attention = softmax(q . k / sqrt(d) + log s) v          s: how many tokens a token stands for

so number - 1 to number + L - 2 groups of patches are left, or more where half is the bound.
ToMe says which patches are alike and not which matter, so any order among groups is a choice:

    representatives  1 + 1 / size of the group for its representative, the patch that the others were merged into,
                     1 / size for the others: all representatives come first, those of small groups before others
    last_groups      1 + place / groups for representatives, so that the last of the network's tokens come first, as
                     in the released code; 1 / size for the others
    inverse_size     1 / size for all: patches that are like no other come first

A generator draws the representative of each group among its patches, alike likely, as the released code does.

Sources: Bolya et al., "Token merging: your ViT but faster", 2023 (arXiv 2210.09461); Luo et al., "LTRP", supplement
A.2, which gives no order: it takes groups "from the source attribute".

Deviations: the text sets r, a number of tokens per block, to the keep ratio, which the released code does by the rule
above; there each group's patch is drawn anew at every call, here only with a generator.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail.backbones import TimmViT
from vitrail.nn.open_block import OpenBlock, gathered, projections
from vitrail.ops.cluster import draw_members, member_counts
from vitrail.ops.token_merging import match_tokens, merge_tokens, most_merges
from vitrail.rankers.source import Source, need_number, variant_of
from vitrail.rankers.vit import open_vit

VARIANTS = ("representatives", "last_groups", "inverse_size")
WEIGHTS = "the file of a ViT, such as deit_small_patch16_224.pth, a run folder, or `pretrained` with a model's name"


def from_source(source: Source) -> Tome:
    """Any ViT with a class token that `vitrail.load` reads; the paper merges tokens of supervised ones."""
    variant = variant_of(source, "tome", VARIANTS)
    return Tome(open_vit(source, "tome", WEIGHTS), variant)


class Groups(NamedTuple):
    """What merging leaves of N patches: G groups, the same number in all images."""

    tokens: Tensor
    """`[B, P + G, D]`, class and other prefix tokens first, before the final norm."""
    sizes: Tensor
    """`[B, P + G]`, how many patches each stands for."""
    group: Tensor
    """int64 `[B, N]`, 0 to G - 1: which group each patch is in, in the order of the tokens."""
    seeds: Tensor
    """int64 `[B, G]`, ids of patches: the one of each group that the others were merged into."""
    grid: tuple[int, int]


class Tome(nn.Module):
    """One patch for each group of alike ones. Fulfills `vitrail.contracts.Ranker`; needs the number."""

    needs_number = True

    def __init__(self, backbone: TimmViT, variant: str = "representatives") -> None:
        """Args: a backbone whose blocks can be opened; one of `VARIANTS`."""
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}; known: {', '.join(VARIANTS)}")
        for index, reason in backbone.closed.items():
            raise ValueError(f"the ranker tome merges tokens inside all blocks; block {index}: {reason}")
        self.backbone = backbone
        self.variant = variant
        self.mean, self.std = backbone.mean, backbone.std
        self.image_size, self.patch_size = backbone.image_size, backbone.patch_size

    @torch.no_grad()
    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Scores `[B, Y, X]` in (0, 2]; representatives are above 1, but in `inverse_size`."""
        x, grid = self.backbone.embed(images)
        patches = grid[0] * grid[1]
        number = need_number(number, patches, "tome")
        found = merged(self.backbone, x, grid, int((patches + 1 - number) / self.backbone.depth))
        count = found.seeds.shape[1]
        inverse = member_counts(found.group, count).float().reciprocal()
        scores = inverse.gather(1, found.group)
        if self.variant != "inverse_size":
            first = found.seeds if generator is None else draw_members(found.group, count, generator)
            order = torch.arange(1, count + 1, device=x.device).expand_as(first) / count
            scores.scatter_(1, first, 1 + (inverse if self.variant == "representatives" else order))
        return scores.unflatten(1, grid)


def merged(backbone: TimmViT, x: Tensor, grid: tuple[int, int], merges: int) -> Groups:
    """Run the blocks, merging tokens in each.

    Args:
        backbone: its blocks are opened (`vitrail.nn.open_block`).
        x: what `backbone.embed` returns, `[B, P + N, D]`.
        grid: (Y, X), Y * X = N.
        merges: r, tokens to merge in each block; fewer where half of the patches' tokens are fewer.
    """
    batch, count, prefix = len(x), x.shape[1], backbone.prefix_tokens
    sizes = torch.ones(batch, count, dtype=torch.float32, device=x.device)
    source = torch.arange(count, device=x.device).expand(batch, -1)  # the token that each one has become
    seeds = source  # of each token that is left: which one the others were merged into
    blocks: list[Any] = list(backbone.vit.blocks)
    for block in blocks:
        x, keys = attend_in_proportion(block, x, sizes)
        step = min(merges, most_merges(x.shape[1], prefix))
        if step:
            places = match_tokens(keys, step, prefix)
            seeds = _survivors(seeds, places, x.shape[1] - step)
            x, sizes = merge_tokens(x, sizes, places, x.shape[1] - step)
            source = places.gather(1, source)
        x = block.change(x)
    return Groups(x, sizes, source[:, prefix:] - prefix, seeds[:, prefix:] - prefix, grid)


def attend_in_proportion(block: OpenBlock, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """A block's first half, where a token that stands for s tokens is attended to s times: z' and keys `[B, T, d]`.

    Keys are averaged over heads. `sizes` are `[B, T]`.
    """
    normed = block.norm1(x)
    attn: Any = block.attn
    query, key, value = projections(attn, normed)
    bias = sizes.log().to(query.dtype)[:, None, None]
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return block.join(x, gathered(attn, normed, mixed)), key.float().mean(1)


def _survivors(seeds: Tensor, places: Tensor, count: int) -> Tensor:
    """Of the tokens that go to one place, the seed of the one in B, into which the others are merged."""
    kept = seeds.new_empty(len(seeds), count)
    kept.scatter_(1, places[:, ::2], seeds[:, ::2])
    return kept.scatter_(1, places[:, 1::2], seeds[:, 1::2])
