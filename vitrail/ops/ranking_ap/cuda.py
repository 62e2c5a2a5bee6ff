"""Sums over the items of smaller targets on a GPU: three Triton kernels, no atomics, no host sync.

The order of q and the order of p are cut into blocks of about sqrt(N) items, so that N items make a board of blocks by
blocks. Of the items j with a smaller target than i,

- those in the q block where the targets of i begin are taken one by one (`_near_in_q`),
- those in the p block of i, and in the one where p_i - tau2 lies, too (`_near_in_p`),
- all others make whole fields of the board, for which l is one polynomial: three sums of powers for each field, summed
  over the board beforehand (`_sum_board`), answer for all of them.

That is O(N sqrt(N)) operations of an even kind, and for N = 38,416 about 60 times fewer than there are pairs. Sums over
fields are float64; pairs are taken in the type of the scores, within blocks.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vitrail.ops.ranking_ap.batched import Dominated, Layout

_BOARD_BYTES = 2**28  # rows are taken in groups whose boards fit in here


@triton.jit
def _sum_board(  # type: ignore[no-untyped-def]
    board, scores, weight, rank, count, blocks, BLOCK: tl.constexpr, COLUMNS: tl.constexpr, FULL: tl.constexpr
):
    """Entry [row, b, c]: sums of w, w x and w x^2 over the items of q blocks before b and of p blocks before c."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mass = tl.zeros([COLUMNS], tl.float64)
    first = tl.zeros([COLUMNS], tl.float64)
    second = tl.zeros([COLUMNS], tl.float64)
    for block in range(blocks):
        entry = board + ((row * blocks + block) * (blocks + 1) + column) * 4
        tl.store(entry, mass, mask=column <= blocks)
        tl.store(entry + 1, first, mask=column <= blocks)
        if FULL:
            tl.store(entry + 2, second, mask=column <= blocks)
        item = block * BLOCK + tl.arange(0, BLOCK)
        inside = item < count
        x = tl.load(scores + row * count + item, mask=inside, other=0.0)
        w = tl.load(weight + row * count + item, mask=inside, other=0.0)
        r = tl.load(rank + row * count + item, mask=inside, other=2147483647)
        before = r[None, :] < column[:, None] * BLOCK
        mass += tl.sum(tl.where(before, w[None, :], 0.0), 1)
        first += tl.sum(tl.where(before, (w * x)[None, :], 0.0), 1)
        if FULL:
            second += tl.sum(tl.where(before, (w * x * x)[None, :], 0.0), 1)


@triton.jit
def _add_window(  # type: ignore[no-untyped-def]
    value, steepness, x_i, counts, x_j, weight_j, FULL: tl.constexpr
):
    """Add l and -l'/2 of items i with items j, times the weights of j, where the pair counts; tau2 is 1."""
    reach = tl.maximum(1 - (x_i[:, None] - x_j[None, :]), 0.0)
    near = tl.minimum(reach, 1.0)
    w = tl.where(counts, weight_j[None, :], 0.0)
    steepness += near * w
    if FULL:
        value += (near * near + 2 * (reach - near)) * w
    return value, steepness


@triton.jit
def _near_in_q(  # type: ignore[no-untyped-def]
    value, steepness, passed, scores, weight, rank, start, count, blocks,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr, FULL: tl.constexpr
):  # fmt: skip
    """Of each item of a q block, the pairs within the q block where the items of its target begin."""
    row = (tl.program_id(0) // blocks).to(tl.int64) * count
    own = (tl.program_id(0) % blocks) * BLOCK
    place = own + tl.arange(0, BLOCK)
    inside = place < count
    x_i = tl.load(scores + row + place, mask=inside, other=0.0)
    rank_i = tl.load(rank + row + place, mask=inside, other=0)
    start_i = tl.load(start + row + place, mask=inside, other=0)
    values = tl.zeros([BLOCK, CHUNK], x_i.dtype)
    slopes = tl.zeros([BLOCK, CHUNK], x_i.dtype)
    numbers = tl.zeros([BLOCK, CHUNK], tl.int32)
    earlier = tl.load(start + row + own) // BLOCK * BLOCK  # where the items that tie with the first of the block begin
    for window in tl.static_range(2):
        if window == 0:
            first = own
            last = own + BLOCK
            limit = tl.where(start_i >= own, start_i, 0)
        else:
            first = earlier
            last = tl.where(earlier < own, earlier + BLOCK, earlier)
            limit = tl.where(start_i < own, start_i, 0)
        for begin in range(first, last, CHUNK):
            other = begin + tl.arange(0, CHUNK)
            x_j = tl.load(scores + row + other, mask=other < count, other=0.0)
            w_j = tl.load(weight + row + other, mask=other < count, other=0.0)
            counts = other[None, :] < limit[:, None]
            values, slopes = _add_window(values, slopes, x_i, counts, x_j, w_j, FULL)
            if FULL:
                rank_j = tl.load(rank + row + other, mask=other < count, other=0)
                numbers += (counts & (rank_j[None, :] < rank_i[:, None])).to(tl.int32)
    tl.store(steepness + row + place, tl.sum(slopes, 1), mask=inside)
    if FULL:
        tl.store(value + row + place, tl.sum(values, 1), mask=inside)
        tl.store(passed + row + place, tl.sum(numbers, 1), mask=inside)


@triton.jit
def _blocks_under(  # type: ignore[no-untyped-def]
    scores, bound, blocks, BLOCK: tl.constexpr, STEPS: tl.constexpr
):
    """How many p blocks of a row begin with a score under each bound, by bisection."""
    low = tl.zeros(bound.shape, tl.int32)
    high = low + blocks
    for _ in range(STEPS):
        middle = (low + high) // 2
        under = tl.load(scores + middle * BLOCK, mask=low < high, other=float("inf")) < bound
        low = tl.where(under, middle + 1, low)
        high = tl.where(under, high, middle)
    return low


@triton.jit
def _near_in_p(  # type: ignore[no-untyped-def]
    value, steepness, passed, near_value, near_steepness, near_passed, board, scores, weight, position, start,
    count, blocks, BLOCK: tl.constexpr, CHUNK: tl.constexpr, STEPS: tl.constexpr, FULL: tl.constexpr
):  # fmt: skip
    """Of each item of a p block, the pairs near in p, the fields of the board, and what `_near_in_q` found."""
    row = (tl.program_id(0) // blocks).to(tl.int64) * count
    block = tl.program_id(0) % blocks
    place = block * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    x_i = tl.load(scores + row + place, mask=inside, other=0.0)
    field_i = (
        tl.load(start + row + place, mask=inside, other=0) // BLOCK
    )  # q blocks that lie under the target as a whole
    under = _blocks_under(scores + row, x_i - 1, blocks, BLOCK, STEPS)
    values = tl.zeros([BLOCK, CHUNK], x_i.dtype)
    slopes = tl.zeros([BLOCK, CHUNK], x_i.dtype)
    numbers = tl.zeros([BLOCK, CHUNK], tl.int32)
    lag = tl.where(inside & (under <= block), under - 1, -1)  # the block that p_i - tau2 cuts, unless it is this one
    most = tl.max(lag, 0)
    least = tl.minimum(tl.min(tl.where(lag < 0, blocks, lag), 0), most + 1)
    for step in range(least, most + 2):  # the blocks that are cut, and this one at last
        window = tl.where(step > most, block, step)
        takes = (lag == window) | (window == block)
        for begin in range(window * BLOCK, (window + 1) * BLOCK, CHUNK):
            other = begin + tl.arange(0, CHUNK)
            x_j = tl.load(scores + row + other, mask=other < count, other=0.0)
            w_j = tl.load(weight + row + other, mask=other < count, other=0.0)
            field_j = tl.load(position + row + other, mask=other < count, other=2147483647) // BLOCK
            counts = (field_j[None, :] < field_i[:, None]) & takes[:, None]
            values, slopes = _add_window(values, slopes, x_i, counts, x_j, w_j, FULL)
            if FULL:
                numbers += (counts & (window == block) & (other[None, :] < place[:, None])).to(tl.int32)

    # Whole p blocks: before `begin` they are under p_i - tau2 and add nothing, from `block + 1` on they lie above p_i.
    entry = board + (tl.program_id(0) // blocks * blocks + field_i).to(tl.int64) * (blocks + 1) * 4
    begin = entry + tl.minimum(under, block) * 4
    mass = tl.load(entry + block * 4)
    mass_in, first_in = mass - tl.load(begin), tl.load(entry + block * 4 + 1) - tl.load(begin + 1)
    mass_above = tl.load(entry + blocks * 4) - tl.load(entry + block * 4 + 4)
    x = x_i.to(tl.float64)
    found_at = row + tl.load(position + row + place, mask=inside, other=0)
    total = tl.sum(slopes, 1) + tl.load(near_steepness + found_at)
    total += mass_above + (1 - x) * mass_in + first_in
    tl.store(steepness + row + place, -2 * total, mask=inside)
    if FULL:
        first_above = tl.load(entry + blocks * 4 + 1) - tl.load(entry + block * 4 + 5)
        second_in = tl.load(entry + block * 4 + 2) - tl.load(begin + 2)
        total = tl.sum(values, 1) + tl.load(near_value + found_at)
        total += mass_above + 2 * (first_above - x * mass_above)
        total += (1 - x) * ((1 - x) * mass_in + 2 * first_in) + second_in
        tl.store(value + row + place, total, mask=inside)
        number = tl.sum(numbers, 1) + tl.load(near_passed + found_at)
        tl.store(passed + row + place, number + mass, mask=inside)


def launch_size(count: int) -> dict[str, int]:
    """The side of a block, what is taken at a time, and the warps, for rows of `count` items."""
    block = min(512, max(16, triton.next_power_of_2(int(count**0.5 / 2))))
    return {"BLOCK": block, "CHUNK": 8, "num_warps": max(1, block // 32)}


def dominated(layout: Layout, weight: Tensor | None, tau2: float) -> Dominated:
    """As `vitrail.ops.ranking_ap.levels.dominated`."""
    count, sizes = layout.start.shape[-1], launch_size(layout.start.shape[-1])
    blocks = triton.cdiv(count, sizes["BLOCK"])
    group = max(1, _BOARD_BYTES // (32 * blocks * (blocks + 1)))
    found = Dominated(*(torch.empty_like(layout.start, dtype=torch.float64) for _ in range(3)))
    # In units of tau2, and centered, both in float64: one rounding.
    wide = layout.scores.double()
    scores = ((wide - wide.mean(-1, keepdim=True)) / tau2).to(layout.scores.dtype)
    start, position = layout.start.int(), layout.position.int()
    weights = torch.ones_like(scores) if weight is None else weight.to(scores.dtype)
    for first in range(0, len(start), group):
        part = slice(first, first + group)
        into = [each[part] for each in found]
        _launch(scores[part], weights[part], start[part], position[part], into, blocks, sizes, weight is None)
    return found._replace(steepness=found.steepness / tau2)


def _launch(
    scores: Tensor,
    weight: Tensor,
    start: Tensor,
    position: Tensor,
    into: list[Tensor],
    blocks: int,
    sizes: dict[str, Any],
    full: bool,
) -> None:
    rows, count = start.shape
    device = scores.device
    at = position.long()
    places = torch.arange(count, device=device, dtype=torch.int32).expand_as(start)
    by_q = [torch.empty_like(each).scatter_(-1, at, each) for each in (scores, weight, places.contiguous(), start)]
    near = [torch.empty_like(scores) for _ in range(2)] + [torch.empty_like(start)]
    board = torch.empty((rows, blocks, blocks + 1, 4), dtype=torch.float64, device=device)
    columns = min(32, triton.next_power_of_2(blocks + 1))
    _sum_board[(rows, triton.cdiv(blocks + 1, columns))](
        board, *by_q[:3], count, blocks, BLOCK=sizes["BLOCK"], COLUMNS=columns, FULL=full
    )
    grid = (rows * blocks,)
    _near_in_q[grid](*near, *by_q, count, blocks, FULL=full, **sizes)
    steps = blocks.bit_length()
    _near_in_p[grid](
        *into, *near, board, scores, weight, position, start, count, blocks, STEPS=steps, FULL=full, **sizes
    )
