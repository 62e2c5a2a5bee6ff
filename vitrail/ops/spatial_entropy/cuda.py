"""Spatial entropy and its gradient on a GPU: one Triton program per map, no host sync."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vitrail.ops.components.cuda import first_cells, launch_size


@triton.jit
def _entropy_map(  # type: ignore[no-untyped-def]
    scores, entropy, slope, columns, cells, FLOOR: tl.constexpr, TINY: tl.constexpr, BLOCK: tl.constexpr
):
    index = tl.program_id(0).to(tl.int64)
    cell = tl.arange(0, BLOCK)
    inside = cell < cells
    score = tl.load(scores + index * cells + cell, mask=inside, other=0.0).to(tl.float64)
    mean = tl.sum(score, 0) / cells
    above = tl.where(inside & (score > mean), score - mean, 0.0)
    total = tl.sum(above, 0)
    # No cell passes the bar of a constant or broken map, so that nothing below divides by its total.
    bar = tl.where((total > FLOOR) & (total < float("inf")), 0.0, float("inf"))
    mask = above > bar
    first = first_cells(mask, cell, columns, cells, True, BLOCK)

    nats = tl.sum(tl.zeros([BLOCK], tl.float64), 0)
    information = tl.zeros([BLOCK], tl.float64)  # -ln of the share of the cell's component
    rest = first
    lowest = tl.min(rest, 0)
    while lowest < BLOCK:  # one component after the other: their sums need no atomics and no masks in memory
        member = first == lowest
        share = tl.maximum(tl.sum(tl.where(member, above, 0.0), 0) / total, TINY)
        nats -= share * tl.log(share)
        information = tl.where(member, -tl.log(share), information)
        rest = tl.where(member, BLOCK, rest)
        lowest = tl.min(rest, 0)

    gain = tl.where(mask, (information - nats) / total, 0.0)
    broken = mean - mean  # 0, or NaN where the map holds inf or NaN
    tl.store(entropy + index, nats + broken)
    tl.store(slope + index * cells + cell, gain - tl.sum(gain, 0) / cells + broken, mask=inside)


def entropy_and_slope(scores: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """As `vitrail.ops.spatial_entropy.entropy_and_slope`, for non-empty maps of up to 64x64."""
    rows, columns = scores.shape[-2:]
    cells = rows * columns
    result = torch.promote_types(scores.dtype, torch.float32)
    entropy = torch.empty(scores.shape[:-2], dtype=result, device=scores.device)
    slope = torch.empty(scores.shape, dtype=result, device=scores.device)
    grid = (scores.numel() // cells,)
    flat = scores.contiguous()
    _entropy_map[grid](flat, entropy, slope, columns, cells, FLOOR=floor, TINY=2.0**-1022, **launch_size(cells))
    return entropy, slope
