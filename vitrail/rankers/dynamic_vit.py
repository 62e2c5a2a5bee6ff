"""DynamicViT's predictors say which patches are worth keeping.

Before blocks 3, 6 and 9 of 12 (from 0) a small network sees each patch that is left, and the mean of them, and says
with which probability it is to be kept:

    u = GELU(Linear(LN(x))),    z = [u's first half, mean of u's second half over the patches that are left]
    log pi = log softmax(MLP(z)), [B, N, 2], index 0 is "keep"

In training, keeping is drawn from pi (Gumbel-softmax, straight-through) and nobody attends to what is not kept; after
training, the patches of the largest pi stay and the others leave: N r, N r^2 and N r^3 stay.

The ranker takes r = (number / N)^(1/3), so that exactly `number` patches are left in the end (the released code rounds
r^3 N down, where floats often miss the whole number by a little: 47 of 196 numbers give one patch less). Who stays
longer is kept first; the log probability at the last stage a patch saw decides among equals.

Sources: Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification", 2021 (arXiv
2106.02034); the supplement of LTRP, the ranker. Weights: DeiT's names, and `score_predictor.N.in_conv` and `out_conv`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.backbones import TimmViT
from vitrail.nn.open_block import OpenBlock
from vitrail.nn.policy_attention import policy_attention
from vitrail.ops.patches import grid_of
from vitrail.ops.selection import number_kept
from vitrail.rankers.source import Source, variant_of
from vitrail.rankers.stages import STAGES, blocks_of, by_level, rate_for, take
from vitrail.rankers.vit import open_with_part

VARIANTS = ("staged",)
WEIGHTS = "a run of `vitrail train folder_dynamic_vit`, or a released dynamic-vit_*.pth of a DeiT"
PART = "score_predictor"
"""What the predictors are called in a file."""


class Predictor(nn.Module):
    """Log probabilities that a patch is kept (index 0), or not (1)."""

    def __init__(self, width: int) -> None:
        """Args: width: D of the tokens; at least 4."""
        super().__init__()
        half, quarter = width // 2, width // 4
        self.in_conv = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(width, half), nn.GELU(), nn.Linear(half, quarter), nn.GELU(), nn.Linear(quarter, 2)
        )

    def forward(self, patches: Tensor, kept: Tensor) -> Tensor:
        """Of patches `[B, N, D]`, of which `kept` (`[B, N]` in [0, 1]) are left: `[B, N, 2]` float32 or wider."""
        own, all_ = self.in_conv(patches).tensor_split((patches.shape[2] // 2,), dim=2)
        weight = kept.unsqueeze(-1).to(all_.dtype)
        mean = (all_ * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1e-6)
        says = self.out_conv(torch.cat((own, mean.expand_as(all_)), dim=2))
        return says.to(torch.promote_types(says.dtype, torch.float32)).log_softmax(-1)


def predictors(width: int, stages: int = STAGES) -> nn.ModuleList:
    """One for each stage, with weights of std 0.02 as the rest of a ViT."""
    made = nn.ModuleList(Predictor(width) for _ in range(stages))
    for part in made.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
    return made


class Stage(NamedTuple):
    """What one predictor did after training: n patches stood for choice, k of them stayed."""

    ids: Tensor  # [B, n] patch ids
    keep: Tensor  # [B, n] log probability to be kept
    kept: Tensor  # [B, k] places among the n, ascending


class Sparse(NamedTuple):
    """What is left of an image."""

    cls: Tensor  # [B, D] after the final norm
    patches: Tensor  # [B, k, D] after the final norm
    ids: Tensor  # [B, k] of these patches
    grid: tuple[int, int]  # (Y, X) of the whole image
    stages: tuple[Stage, ...]
    used: float  # share of the patches that blocks worked on, mean over blocks


class Masked(NamedTuple):
    """What training sees: every patch, and the decisions."""

    cls: Tensor  # [B, D] after the final norm
    patches: Tensor  # [B, N, D] after the final norm, those that are not kept included
    decisions: tuple[Tensor, ...]  # [B, N] a stage, 0 or 1, with the gradient of the probability


def drop(
    backbone: TimmViT,
    parts: nn.ModuleList,
    images: Tensor,
    keep: float,
    blocks: Sequence[int] | None = None,
    *,
    stop: bool = False,
) -> Sparse:
    """Run a ViT that drops patches by its predictors: of N are left `int(N keep^s)` after stage s, at least one.

    Args:
        backbone: any.
        parts: `predictors`, one a block.
        images: `[B, 3, H, W]`, normalized.
        keep: r, in (0, 1].
        blocks: before which patches are dropped, counted from 0; None for 3, 6, 9 of 12 and in that proportion.
        stop: run no block after the last drop, for those who look at the stages alone.
    """
    chosen = _stages(backbone, parts, blocks)
    x, grid = backbone.embed(images)
    prefix, patches = backbone.prefix_tokens, grid[0] * grid[1]
    ids = torch.arange(patches, device=x.device).expand(len(x), -1)
    stages: list[Stage] = []
    worked = 0
    for index, block in enumerate(backbone.vit.blocks):
        if index in chosen:
            left = x[:, prefix:]
            says = parts[len(stages)](left, torch.ones_like(left[:, :, 0]))[:, :, 0]
            number = min(number_kept(keep ** (len(stages) + 1), patches), left.shape[1])
            kept = says.argsort(dim=1, descending=True, stable=True)[:, :number].sort(dim=1).values
            stages.append(Stage(ids, says, kept))
            ids = ids.gather(1, kept)
            x = torch.cat((x[:, :prefix], take(left, kept)), dim=1)
            if stop and len(stages) == len(chosen):
                break
        x = backbone.run_block(block, x)
        worked += x.shape[1] - prefix
    x = backbone.norm(x)
    used = worked / patches / backbone.depth
    return Sparse(x[:, 0], x[:, prefix:], ids, grid, tuple(stages), used)


def mask(backbone: TimmViT, parts: nn.ModuleList, images: Tensor, blocks: Sequence[int] | None = None) -> Masked:
    """Run a ViT in which nobody attends to patches that were not drawn; chance is torch's global one."""

    def draw(says: Tensor) -> Tensor:
        return F.gumbel_softmax(says, hard=True)[:, :, 0]

    return decided(backbone, parts, images, draw, blocks)


def decided(
    backbone: TimmViT,
    parts: nn.ModuleList,
    images: Tensor,
    decide: Callable[[Tensor], Tensor],
    blocks: Sequence[int] | None = None,
) -> Masked:
    """As `mask`, with decisions `[B, N]` by a function of the log probabilities `[B, N, 2]`; once gone, gone.

    Raises `ValueError` where a block from the first stage on cannot be opened.
    """
    chosen = _stages(backbone, parts, blocks)
    closed = [index for index in backbone.closed if index >= chosen[0]]
    if closed:
        raise ValueError(backbone.closed[closed[0]])
    x, _ = backbone.embed(images)
    prefix = backbone.prefix_tokens
    left = x.new_ones(x.shape[0], x.shape[1] - prefix)
    decisions: list[Tensor] = []
    for index, block in enumerate(backbone.vit.blocks):
        if index in chosen:
            left = left * decide(parts[len(decisions)](x[:, prefix:], left))
            decisions.append(left)
        if not decisions:
            x = backbone.run_block(block, x)
            continue
        everyone = torch.cat((left.new_ones(len(left), prefix), left), dim=1)
        x = backbone.run_block(block, x, through=partial(_masked_block, tokens=everyone))
    x = backbone.norm(x)
    return Masked(x[:, 0], x[:, prefix:], tuple(decisions))


def _masked_block(block: OpenBlock, x: Tensor, tokens: Tensor) -> Tensor:
    return block.change(block.join(x, policy_attention(block.attn, block.norm1(x), tokens)))


def _stages(backbone: TimmViT, parts: nn.ModuleList, blocks: Sequence[int] | None) -> tuple[int, ...]:
    chosen = blocks_of(blocks, backbone.depth)
    if len(chosen) != len(parts):
        raise ValueError(f"there are {len(parts)} predictors for {len(chosen)} blocks {chosen}; give one a block")
    return chosen


def staged_scores(sparse: Sparse) -> Tensor:
    """Scores `[B, Y, X]`: how many stages a patch has stayed, then the log probability at the last stage it saw."""
    patches = sparse.grid[0] * sparse.grid[1]
    level = torch.zeros(len(sparse.cls), patches, device=sparse.cls.device)
    soft = torch.zeros_like(level)
    for stage in sparse.stages:
        soft = soft.scatter(1, stage.ids, stage.keep.float())
        level = level.scatter_add(1, stage.ids.gather(1, stage.kept), torch.ones_like(stage.kept, dtype=level.dtype))
    return by_level(level, soft).unflatten(1, sparse.grid)


def from_source(source: Source) -> DynamicVitRanker:
    """From a run of DynamicViT, or from the released file of a DeiT (`model`, with its `score_predictor`)."""
    variant_of(source, "dynamic_vit", VARIANTS)
    backbone, part = open_with_part(source, "dynamic_vit", PART, WEIGHTS)
    stages = 1 + max(int(name.partition(".")[0]) for name in part.state)
    parts = predictors(backbone.embed_dim, stages)
    part.fill(parts)
    return DynamicVitRanker(backbone, parts, part.config.get("blocks"))


class DynamicVitRanker(nn.Module):
    """Scores by DynamicViT's predictors. Fulfills `vitrail.contracts.Ranker`."""

    needs_number = True

    def __init__(self, backbone: TimmViT, parts: nn.ModuleList, blocks: Sequence[int] | None = None) -> None:
        """Args: as of `drop`."""
        super().__init__()
        self.backbone, self.predictors = backbone, parts
        self.blocks = _stages(backbone, parts, blocks)
        self.mean, self.std = backbone.mean, backbone.std
        self.image_size, self.patch_size = backbone.image_size, backbone.patch_size

    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Scores `[B, Y, X]`: the stages survived, 0 to their number, and a place in [0, 1) by log probability."""
        rows, columns = grid_of(images.shape[-2], images.shape[-1], self.patch_size)
        keep = rate_for(number, rows * columns, "dynamic_vit", len(self.blocks))
        return staged_scores(drop(self.backbone, self.predictors, images, keep, self.blocks, stop=True))
