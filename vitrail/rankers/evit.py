"""EViT's class token says which patches it attends to.

In some blocks the network keeps `ceil(r (n - 1))` of its n - 1 tokens, those that the class token attends to most (a
mean over heads), and fuses the others into one token, `sum a_i x_i` over what is left out:

    a = mean_h softmax(q_cls . K / sqrt(d)),    between the attention and the MLP of blocks 3, 6, 9 of 12 (from 0)

A fused token is a token like others at the next stage, and stands for no patch.

Variants of the ranker
    fourth_layer    (the text of LTRP, the default) a of the first of these blocks, the 4th of 12, over all patches
    staged          (as its released code, which keeps k patches) r = (number / N)^(1/3) at three blocks; who stays
                    longer is kept first, and the class token's attention at the last stage a patch saw decides among
                    equals. The released code maps a fused token that survives to patch 0; here it is no patch.

Sources: Liang et al., "Not All Patches Are What You Need: Expediting Vision Transformers via Token Reorganizations",
2022 (arXiv 2202.07800), the network; the supplement of LTRP, the ranker. Weights: DeiT's names, nothing beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitrail.backbones import TimmViT, load, need_vit
from vitrail.backbones.reading import read_file, weights_file
from vitrail.nn.open_block import OpenBlock, attend
from vitrail.ops.patches import grid_of
from vitrail.rankers.source import Source, need_weights, variant_of
from vitrail.rankers.stages import blocks_of, by_level, rate_for, take

VARIANTS = ("fourth_layer", "staged")
WEIGHTS = "a run of EViT (scenes_evit, folder_evit), or a published evit-*.pth"


class Stage(NamedTuple):
    """What one block did: n tokens stood for choice, k of them stayed."""

    ids: Tensor  # [B, n] patch ids, N for a fused token
    attention: Tensor  # [B, n] of the class token, mean over heads, not negative
    kept: Tensor  # [B, k] places among the n, ascending


class Thinned(NamedTuple):
    """What is left of an image."""

    cls: Tensor  # [B, D] after the final norm
    tokens: Tensor  # [B, n, D] after the final norm: the patches that are left, then fused tokens
    grid: tuple[int, int]  # (Y, X) of the whole image
    stages: tuple[Stage, ...]
    used: float  # share of patch tokens that blocks worked on, mean over blocks; fused ones count


def thin(
    backbone: TimmViT,
    images: Tensor,
    keep: float,
    blocks: Sequence[int] | None = None,
    *,
    fuse: bool = True,
    stop: bool = False,
) -> Thinned:
    """Run a ViT that drops tokens. With `keep` 1 it is the plain one.

    Args:
        backbone: of plain blocks (`backbone.closed` is empty).
        images: `[B, 3, H, W]`, normalized.
        keep: share of the tokens to keep at each stage, in (0, 1].
        blocks: at which to drop, counted from 0; None for 3, 6, 9 of 12 and in that proportion.
        fuse: leave one token for those that are dropped.
        stop: run no block after the last of `blocks`, for those who look at the stages alone.

    Raises:
        ValueError: a share outside (0, 1], blocks that are not there or cannot be opened.
    """
    chosen = blocks_of(blocks, backbone.depth)
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep:g}; it is the share of tokens that stay at a stage, above 0 and at most 1")
    for index in chosen:
        if index in backbone.closed:
            raise ValueError(backbone.closed[index])
    x, grid = backbone.embed(images)
    prefix, patches = backbone.prefix_tokens, grid[0] * grid[1]
    ids = torch.arange(patches, device=x.device).expand(len(x), -1)
    stages, worked = [], 0.0
    last = chosen[-1] if stop else backbone.depth
    for index, block in enumerate(backbone.vit.blocks[: last + 1]):
        before = x.shape[1] - prefix
        if index in chosen:
            way = partial(_thin_block, keep=keep, prefix=prefix, fuse=fuse)
            x, attention, kept = backbone.run_block(block, x, through=way)
            stages.append(Stage(ids, attention, kept))
            fused = x.shape[1] - prefix - kept.shape[1]
            ids = torch.cat((ids.gather(1, kept), ids.new_full((len(x), fused), patches)), dim=1)
        else:
            x = backbone.run_block(block, x)
        worked += (before + x.shape[1] - prefix) / 2 / patches
    x = backbone.norm(x)
    return Thinned(x[:, 0], x[:, prefix:], grid, tuple(stages), worked / backbone.depth)


def _thin_block(block: OpenBlock, x: Tensor, keep: float, prefix: int, fuse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The block's output with fewer tokens, the attention `[B, n]`, and the places that stayed `[B, k]`."""
    attended, scores = attend(block.attn, block.norm1(x))
    x = block.join(x, attended)
    attention = scores.softmax(-1).mean(1)[:, prefix:]
    count = attention.shape[1]
    number = number_left(keep, count)
    if number == count:
        places = torch.arange(count, device=x.device).expand(len(x), -1)
        return block.change(x), attention, places
    order = attention.argsort(dim=1, descending=True, stable=True)
    kept, rest = order[:, :number].sort(dim=1).values, order[:, number:]
    patches = x[:, prefix:]
    parts = [x[:, :prefix], take(patches, kept)]
    if fuse:
        weights = attention.gather(1, rest).unsqueeze(-1).to(x.dtype)
        parts.append((take(patches, rest) * weights).sum(1, keepdim=True))
    return block.change(torch.cat(parts, dim=1)), attention, kept


def number_left(keep: float, count: int) -> int:
    """How many of `count` tokens a share keeps: `ceil(keep * count)`."""
    # The nearest number where the product misses it by rounding: 0.07 * 100 is 7.000000000000001.
    return min(math.ceil(keep * count - 1e-9), count)


def staged_scores(thinned: Thinned) -> Tensor:
    """Scores `[B, Y, X]`: how many stages a patch has stayed, then the attention at the last stage it saw."""
    patches = thinned.grid[0] * thinned.grid[1]
    # One place more than there are patches takes what is said of fused tokens.
    level = thinned.cls.new_zeros(len(thinned.cls), patches + 1, dtype=torch.float32)
    soft = torch.zeros_like(level)
    for stage in thinned.stages:
        soft = soft.scatter(1, stage.ids, stage.attention.float())
        level = level.scatter_add(1, stage.ids.gather(1, stage.kept), torch.ones_like(stage.kept, dtype=torch.float32))
    return by_level(level[:, :patches], soft[:, :patches]).unflatten(1, thinned.grid)


def from_source(source: Source) -> EvitRanker:
    """From a run of EViT, which says its blocks, or from a file in DeiT's layout (`model`), such as the published."""
    weights = need_weights(source, "evit", WEIGHTS)
    variant = variant_of(source, "evit", VARIANTS)
    found = load(source.model, weights, image_size=source.image_size, checkpoint_key=source.key)
    backbone = need_vit(found, "the ranker evit")
    own = None if weights == "pretrained" else read_file(weights_file(weights))[1]
    said = (own or {}).get("evit", {})  # what the header of a run's file says about the stages
    return EvitRanker(backbone, variant, said.get("blocks"), said.get("fuse", True))


class EvitRanker(nn.Module):
    """Scores by EViT's attention. Fulfills `vitrail.contracts.Ranker`."""

    def __init__(
        self,
        backbone: TimmViT,
        variant: str = "fourth_layer",
        blocks: Sequence[int] | None = None,
        fuse: bool = True,
    ) -> None:
        """Args: as of `thin`; variant: see above."""
        super().__init__()
        self.backbone, self.variant, self.fuse = backbone, variant, fuse
        self.blocks = blocks_of(blocks, backbone.depth)
        self.mean, self.std = backbone.mean, backbone.std
        self.image_size, self.patch_size = backbone.image_size, backbone.patch_size
        self.needs_number = variant == "staged"

    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Scores `[B, Y, X]`: attention in [0, 1], or of `staged` the stages survived, then the attention's place."""
        if self.variant == "staged":
            rows, columns = grid_of(images.shape[-2], images.shape[-1], self.patch_size)
            keep = rate_for(number, rows * columns, "evit, variant staged,", len(self.blocks))
            return staged_scores(thin(self.backbone, images, keep, self.blocks, fuse=self.fuse, stop=True))
        thinned = thin(self.backbone, images, 1.0, self.blocks[:1], stop=True)
        return thinned.stages[0].attention.float().unflatten(1, thinned.grid)
