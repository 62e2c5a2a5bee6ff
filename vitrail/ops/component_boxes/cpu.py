"""Component trees on the CPU: pixels are added from the highest level down, and union-find joins what meets, in numba.

A map of levels (how many thresholds a pixel is above) is taken pixel by pixel, those of one level in reading order. A
pixel without a neighbor begins a component; else it is added to its neighbors', which become one where they were
several. Whenever a component is about to change at a lower level, it is written down with the thresholds over which it
was as it is.

Which of the eight neighbors are there when a pixel comes, its code, follows from levels alone and is found for all
pixels beforehand. Neighbors that touch each other are of one component, so one of each group is asked; nearly all
pixels have one group. The code also says what a pixel adds to the area within the outline and to the number of holes
(Gray 1971, "Local properties of binary images in two dimensions"). Without holes this area is what OpenCV measures;
with holes it is a lower bound, and the box gives an upper one. Where the two leave open which component is the largest,
its outline is followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vitrail.ops.compiled import compiled, share_out

if TYPE_CHECKING:
    from vitrail.ops.component_boxes import ComponentBoxes, Largest

_X0, _Y0, _X1, _Y1, _PIXELS, _FIRST, _LAST, _SEED, _AREA, _EULER = range(10)  # columns of what is written down
_FIELDS = 10
_ACROSS = (1, 1, 0, -1, -1, -1, 0, 1)  # neighbors: to the right, then against the clock
_DOWN = (0, -1, -1, -1, 0, 1, 1, 1)


def _gains() -> np.ndarray:
    """What a pixel adds, by the neighbors that are there (bits 0 to 7): twice the area, Euler number; `[256, 2]`.

    Of each square of four pixels: area 0, 0, 0, 1/2, 1 with 0 to 4 of them; Euler number 1/4, 0, -1/4, 0 with 1 to 4 of
    them, and -1/2 with two at opposite corners.
    """
    gains = np.zeros((256, 2), np.int32)
    for code in range(256):
        for corner in (1, 3, 5, 7):
            near, far, other = ((code >> (corner + turn) % 8 & 1) for turn in (-1, 0, 1))
            around = near + far + other
            diagonal = -3 if far else -1
            gains[code, 0] += max(0, around - 1) - max(0, around - 2)
            gains[code, 1] += (1, diagonal, 1 if near and other else -1, 1)[around]
    return gains // np.array([1, 4], np.int32)


_GAINS = _gains()


def _groups(diagonal: bool) -> np.ndarray:
    """Of the neighbors of a code, how many groups touch each other, and one of each: int8 `[256, 5]`.

    With `diagonal` all eight are neighbors, and those touch that are one or, at the sides, two steps apart; without,
    the four at the sides, which touch by the corner between them.
    """
    groups = np.full((256, 5), -1, np.int8)
    for code in range(256):
        there = [code >> turn & 1 == 1 for turn in range(8)]
        ring = [turn for turn in range(8) if there[turn] and (diagonal or turn % 2 == 0)]
        group = {turn: turn for turn in ring}
        for _ in range(4):  # a ring of at most eight, whose least numbers travel both ways
            for turn in ring:
                for step in (1, 2) if diagonal and turn % 2 == 0 else (1,) if diagonal else (2,):
                    other = (turn + step) % 8
                    if other in group and (diagonal or there[(turn + 1) % 8]):
                        group[turn] = group[other] = min(group[turn], group[other])
        kept = sorted(set(group.values()))
        groups[code, 0] = len(kept)
        groups[code, 1 : 1 + len(kept)] = kept
    return groups


_TOUCHING, _BESIDE = _groups(True), _groups(False)


@compiled
def _root(parent: Any, part: Any) -> Any:
    while parent[part] != part:  # numbers without a sign spare the test for negative places
        parent[part] = parent[parent[part]]
        part = parent[part]
    return part


@compiled
def _falling(levels: Any, most: int, order: Any, place: Any) -> None:
    """List pixels above level 0 by falling level, as `y << 16 | x`; those of level l end before `place[1, most - l]`.

    Both halves are listed at once, each from places of its own: a place that was just raised would be waited for.
    """
    rows, columns = levels.shape
    half = rows // 2
    place[:] = 0
    for y in range(rows):
        own = place[0 if y < half else 1]
        for x in range(columns):
            own[np.uintp(most - np.int64(levels[y, x]))] += 1
    begin = 0
    for step in range(most + 1):
        upper, lower = place[0, step], place[1, step]
        place[0, step], place[1, step] = begin, begin + upper
        begin += upper + lower
    for y in range(rows - half):
        upper, lower = min(y, half - 1), half + y
        for x in range(columns):
            if y < half:
                slot = np.uintp(most - np.int64(levels[upper, x]))
                order[place[0, slot]] = upper << 16 | x
                place[0, slot] += 1
            slot = np.uintp(most - np.int64(levels[lower, x]))
            order[place[1, slot]] = lower << 16 | x
            place[1, slot] += 1


@compiled
def _code_all(levels: Any, framed: Any, codes: Any) -> None:
    """Which neighbors come before each pixel `[Y, X]`, bits as in `_ACROSS`; `framed [Y + 2, X + 2]` is 0 around."""
    rows, columns = levels.shape
    framed[1:-1, 1:-1] = levels
    for y in range(rows):
        up, here, down = framed[y], framed[y + 1], framed[y + 2]
        for x in range(columns):
            own = here[x + 1]
            code = np.uint8(here[x + 2] > own) | np.uint8(up[x + 2] >= own) << 1 | np.uint8(up[x + 1] >= own) << 2
            code |= np.uint8(up[x] >= own) << 3 | np.uint8(here[x] >= own) << 4 | np.uint8(down[x] > own) << 5
            codes[y, x] = code | np.uint8(down[x + 1] > own) << 6 | np.uint8(down[x + 2] > own) << 7


@compiled
def _keep(part: int, level: int, state: Any, last: Any, columns: int, found: Any, count: int) -> int:
    """Write a component down if it is above a threshold that pixels of `level` are not; returns the new count."""
    if last[part] < level:
        return count
    here, own = found[count], state[part]
    here[_X0], here[_Y0], here[_X1], here[_Y1] = -own[0], -own[1] // columns, own[2], own[3]
    here[_FIRST], here[_LAST], here[_SEED] = level, last[part], -own[1]
    here[_PIXELS], here[_AREA], here[_EULER] = own[4], own[5], own[6]
    return count + 1


@compiled
def _join(parent: Any, state: Any, into: int, part: int) -> None:
    parent[part] = into
    for end in range(4):
        state[into, end] = max(state[into, end], state[part, end])
    for total in range(4, 7):
        state[into, total] += state[part, total]


@compiled
def _scratch(rows: int, columns: int, most: int) -> Any:
    """What `_components` works in: pixels' order, codes and components, and by component parent and state."""
    cells = rows * columns
    framed, codes = np.zeros((rows + 2, columns + 2), np.uint16), np.empty((rows, columns), np.uint8)
    order, place, owner = np.empty(cells, np.uint32), np.empty((2, most + 1), np.int64), np.empty(cells, np.uint32)
    parent, state, last = np.empty(cells, np.uint32), np.empty((cells, 8), np.int32), np.empty(cells, np.int32)
    return order, place, framed, codes, owner, parent, state, last


@compiled
def _begin(part: Any, parent: Any, state: Any) -> None:
    parent[part] = part
    state[part, 0] = state[part, 1] = -(2**31)
    for field in range(2, 7):
        state[part, field] = 0


@compiled
def _add(own: Any, x0: int, x1: int, first: int, y1: int, pixels: int, area: int, euler: int) -> None:
    """Add pixels of one component to its state: their outermost columns, first place, last row, and totals."""
    own[0], own[1], own[2], own[3] = max(own[0], -x0), max(own[1], -first), max(own[2], x1), max(own[3], y1)
    own[4] += pixels
    own[5] += area
    own[6] += euler


@compiled
def _components(levels: Any, most: int, gains: Any, groups: Any, scratch: Any, found: Any) -> int:
    """Write down all components of one map `[Y, X]` of levels 0 to `most`; returns how many there are.

    Pixels of a level that follow each other into the same component are summed up first, and added together.
    """
    order, place, framed, codes, owner, parent, state, last = scratch
    columns = levels.shape[1]
    steps = np.array([1, 1 - columns, -columns, -columns - 1, -1, columns - 1, columns, columns + 1])
    near = steps[np.maximum(groups[:, 1:], 0)]
    _falling(levels, most, order, place)
    _code_all(levels, framed, codes)
    parts, count, begin = 0, 0, 0
    nothing: Any = np.uint32(0xFFFFFFFF), 0, 0, 0, 0, 0, 0, 0
    for level in range(most, 0, -1):
        now, x0, x1, first, y1, pixels, area, euler = nothing
        for index in range(begin, place[1, most - level]):
            y, x = np.int64(order[index] >> 16), np.int64(order[index] & 0xFFFF)
            seed = np.uintp(y * columns + x)
            code = np.uintp(codes[np.uintp(y), np.uintp(x)])
            number = groups[code, 0]
            if number != 1 or owner[seed + np.uintp(near[code, 0])] != now:
                if pixels:
                    _add(state[now], x0, x1, first, y1, pixels, area, euler)
                x0, x1, first, pixels, area, euler = x, x + 1, np.int64(seed), 0, 0, 0
                if number == 0:
                    now, parts = np.uint32(parts), parts + 1
                    _begin(now, parent, state)
                else:
                    now = _root(parent, owner[seed + np.uintp(near[code, 0])])
                    count = _keep(now, level, state, last, columns, found, count)
                    for other in range(1, number):
                        root = _root(parent, owner[seed + np.uintp(near[code, other])])
                        if root != now:
                            count = _keep(root, level, state, last, columns, found, count)
                            if state[root, 4] > state[now, 4]:  # fewer pixels bear an old number
                                now, root = root, now
                            _join(parent, state, now, root)
                last[now] = level - 1
            owner[seed] = now
            x0, x1, y1, pixels = min(x0, x), max(x1, x + 1), y + 1, pixels + 1
            area, euler = area + gains[code, 0], euler + gains[code, 1]
        if pixels:
            _add(state[now], x0, x1, first, y1, pixels, area, euler)
        begin = place[1, most - level]
    for index in range(parts):
        if parent[index] == index:
            count = _keep(np.uint32(index), 0, state, last, columns, found, count)
    return count


@compiled
def _outlined(levels: Any, seed: int, threshold: int) -> int:
    """Twice the area within the outer outline of the component of {level > threshold} whose first pixel is `seed`."""
    rows, columns = levels.shape
    y, x = seed // columns, seed % columns
    first_y, first_x, second_y, second_x = y, x, -1, -1
    direction, twice = 7, 0
    while True:
        direction = (direction + 7 - (direction & 1)) & 7
        tries = 0
        while tries < 8:
            new_y, new_x = y + _DOWN[direction], x + _ACROSS[direction]
            if 0 <= new_y < rows and 0 <= new_x < columns and levels[new_y, new_x] > threshold:
                break
            direction = (direction + 1) & 7
            tries += 1
        if tries == 8:
            return 0
        if second_y < 0:
            second_y, second_x = new_y, new_x
        elif y == first_y and x == first_x and new_y == second_y and new_x == second_x:
            return abs(twice)
        twice += x * new_y - new_x * y
        y, x = new_y, new_x


@compiled
def _most_area(each: Any) -> Any:
    """Twice the largest area within the outline that a component can have."""
    if each[_EULER] == 1:  # no holes
        return np.int64(each[_AREA])
    return 2 * np.int64(each[_X1] - each[_X0] - 1) * np.int64(each[_Y1] - each[_Y0] - 1)


@compiled
def _largest_outlined(levels: Any, found: Any, out: Any) -> None:
    """Of each threshold, the component of the largest area within its outline; `out [T]` is -1 before."""
    bound, rivals, best = np.full(len(out), -1, np.int64), np.zeros(len(out), np.int64), np.full(len(out), -1, np.int64)
    for index in range(len(found)):
        for t in range(found[index, _FIRST], found[index, _LAST] + 1):
            bound[t] = max(bound[t], found[index, _AREA])
    for index in range(len(found)):
        most = _most_area(found[index])
        for t in range(found[index, _FIRST], found[index, _LAST] + 1):
            rivals[t] += most >= bound[t]
    for index in range(len(found)):
        most, area = _most_area(found[index]), np.int64(-1)
        for t in range(found[index, _FIRST], found[index, _LAST] + 1):
            if most < bound[t]:
                continue
            if area < 0:
                area = np.int64(found[index, _AREA])
            if rivals[t] > 1 and area < most:
                area = most = _outlined(levels, found[index, _SEED], t)
            if area > best[t] or (area == best[t] and found[index, _SEED] > found[out[t], _SEED]):
                best[t], out[t] = area, index


@compiled
def _largest_by_pixels(found: Any, out: Any) -> None:
    """As `_largest_outlined`, of most pixels."""
    for index in range(len(found)):
        each = found[index]
        for t in range(each[_FIRST], each[_LAST] + 1):
            other = found[max(out[t], 0)]
            more = out[t] < 0 or each[_PIXELS] > other[_PIXELS]
            if more or (each[_PIXELS] == other[_PIXELS] and each[_SEED] > other[_SEED]):
                out[t] = index


@compiled
def _list_maps(
    first: int,
    last: int,
    levels: Any,
    places: Any,
    gains: Any,
    groups: Any,
    by_pixels: bool,
    found: Any,
    counts: Any,
    largest: Any,
) -> None:
    rows, columns = levels[0].shape
    scratch = _scratch(rows, columns, largest.shape[1])
    for index in range(first, last):
        here = found[places[index] : places[index + 1]]
        counts[index] = _components(levels[index], largest.shape[1], gains, groups, scratch, here)
        here = here[: counts[index]]
        if by_pixels:
            _largest_by_pixels(here, largest[index])
        else:
            _largest_outlined(levels[index], here, largest[index])


@compiled
def _list_holes(
    first: int, last: int, framed: Any, most: int, places: Any, gains: Any, groups: Any, found: Any, counts: Any
) -> None:
    """The same for `framed [N, Y + 2, X + 2]`, maps turned upside down in a frame of the highest level."""
    rows, columns = framed[0].shape
    scratch = _scratch(rows, columns, most)
    for index in range(first, last):
        here = found[places[index] : places[index + 1]]
        all_of_them, kept = _components(framed[index], most, gains, groups, scratch, here), 0
        for number in range(all_of_them):
            x0, y0, x1, y1 = here[number, _X0], here[number, _Y0], here[number, _X1], here[number, _Y1]
            if x0 == 0:  # the frame is in it: no hole
                continue
            begin, end = most - 1 - here[number, _LAST], most - 1 - here[number, _FIRST]
            here[kept, _X0], here[kept, _Y0], here[kept, _X1], here[kept, _Y1] = x0 - 2, y0 - 2, x1, y1
            here[kept, _FIRST], here[kept, _LAST], here[kept, _PIXELS] = begin, end, 0
            kept += 1
        counts[index] = kept


def component_boxes(levels: np.ndarray, most: int, largest: Largest, holes: bool) -> tuple[Tensor, ...]:
    """As `vitrail.ops.component_boxes.component_boxes`, for levels uint16 `[N, Y, X]` from 0 to `most`."""
    count, cells = len(levels), levels[0].size if len(levels) else 0
    best = np.full((count, most), -1, np.int64)
    if not count or not cells:
        none = torch.zeros(0, dtype=torch.int32)
        return none.view(0, 4), none, none, none, torch.zeros(count + 1, dtype=torch.int64), torch.from_numpy(best)
    levels = np.ascontiguousarray(levels)
    places, found, counts = _room_for(levels)
    share_out(_list_maps, count, cells, levels, places, _GAINS, _TOUCHING, largest == "pixels", found, counts, best)
    parts = [[found[place : place + number]] for place, number in zip(places, counts)]
    if holes:
        for number, listed in _holes_of(levels, most, [part[0] for part in parts]):
            parts[number].append(listed)
            counts[number] += len(listed)
    starts = np.concatenate([[0], np.cumsum(counts)])
    every = np.concatenate([each for part in parts for each in part])
    best = np.where(best < 0, -1, best + starts[:-1, None])
    fields = (np.ascontiguousarray(every[:, field]) for field in (slice(_PIXELS), _PIXELS, _FIRST, _LAST))
    return *(torch.from_numpy(field) for field in fields), torch.from_numpy(starts), torch.from_numpy(best)


def _holes_of(levels: np.ndarray, most: int, components: list[np.ndarray]) -> list[tuple[int, np.ndarray]]:
    """Of each map that has holes its number, and its holes as `_list_holes` writes them down.

    Above the last threshold at which a component has a hole, nothing has to be looked at.
    """
    tops = np.array([each[each[:, _EULER] < 1, _LAST].max(initial=-2) + 1 for each in components])
    chosen = np.flatnonzero(tops >= 0)
    if not len(chosen):
        return []
    framed = np.full((len(chosen), levels.shape[1] + 2, levels.shape[2] + 2), most, np.uint16)
    framed[:, 1:-1, 1:-1] = np.where(levels[chosen] > tops[chosen, None, None], 0, most - levels[chosen])
    places, found, counts = _room_for(framed)
    share_out(_list_holes, len(chosen), levels[0].size, framed, most, places, _GAINS, _BESIDE, found, counts)
    parts = (found[place : place + number] for place, number in zip(places, counts))
    return list(zip(chosen.tolist(), parts, strict=True))


def _room_for(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each map's components go: never more than it has runs. Memory that is not written to is not taken."""
    runs = (levels[:, :, 1:] != levels[:, :, :-1]).sum(axis=(1, 2)) + levels.shape[1]
    places = np.concatenate([[0], np.cumsum(runs)])
    return places, np.empty((places[-1], _FIELDS), np.int32), np.zeros(len(levels), np.int64)


@compiled
def _overlap_maps(
    begin: int, end: int, boxes: Any, spans: Any, starts: Any, truth: Any, owners: Any, wider: int, best: Any, at: Any
) -> None:
    for index in range(begin, end):
        for number in range(starts[index], starts[index + 1]):
            x0, y0, x1, y1 = boxes[number]
            own, highest = (x1 - x0 + wider) * (y1 - y0 + wider), 0.0
            for box in range(owners[index], owners[index + 1]):
                width = min(x1, truth[box, 2]) - max(x0, truth[box, 0]) + wider
                height = min(y1, truth[box, 3]) - max(y0, truth[box, 1]) + wider
                if width > 0 and height > 0:
                    other = (truth[box, 2] - truth[box, 0] + wider) * (truth[box, 3] - truth[box, 1] + wider)
                    highest = max(highest, width * height / (own + other - width * height))
            for t in range(spans[number, 0], spans[number, 1] + 1):
                if at[index, t] < 0 or highest > best[index, t]:
                    best[index, t], at[index, t] = highest, number


def best_overlaps(
    components: ComponentBoxes, boxes: Sequence[Tensor], inclusive: bool, rim: tuple[int, int] | None
) -> tuple[Tensor, Tensor]:
    """As `vitrail.ops.component_boxes.best_overlaps`."""
    own = components.boxes.numpy().astype(np.float64)
    if rim is not None:
        own = np.minimum(own, np.array([rim[1], rim[0]] * 2, np.float64))
    truth = np.concatenate([np.zeros((0, 4)), *(each.cpu().numpy().reshape(-1, 4) for each in boxes)], dtype=np.float64)
    owners = np.concatenate([[0], np.cumsum([len(each) for each in boxes], dtype=np.int64)])
    best = np.zeros(components.largest.shape)
    at = np.full(components.largest.shape, -1, np.int64)
    spans = np.stack([components.first.numpy(), components.last.numpy()], 1)
    cells = max(1, len(own) // max(1, len(boxes)))
    starts = components.starts.numpy()
    share_out(_overlap_maps, len(boxes), cells, own, spans, starts, truth, owners, int(inclusive), best, at)
    return torch.from_numpy(best), torch.from_numpy(at)
