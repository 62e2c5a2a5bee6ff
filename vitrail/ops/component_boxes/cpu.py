"""Component trees on the CPU: pixels are added from the highest level down, and union-find joins what meets, in numba.

A map of levels (how many thresholds a pixel is above) is taken pixel by pixel, those of one level in reading order. A
pixel without a neighbor begins a component; else it is added to its neighbors', which become one where they were
several. Whenever a component is about to change at a lower level, it is written down with the thresholds over which it
was as it is. Pixels bear the number of their component at the time, so that nearly all of them see one number around
them and nothing has to be looked up.

Which of the eight neighbors are there says what a pixel adds to the area within the outline and to the number of
holes (Gray 1971, "Local properties of binary images in two dimensions"). Without holes this area is what OpenCV
measures; with holes it is a lower bound, and the box gives an upper one. Where the two leave open which component is
the largest, its outline is followed.
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
    """What a pixel adds, by the neighbors that are there (bits 0 to 7): twice the area, and Euler number `[256, 2]`.

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


@compiled
def _root(parent: Any, part: Any) -> Any:
    while parent[part] != part:  # numbers without a sign spare the test for negative places
        parent[part] = parent[parent[part]]
        part = parent[part]
    return part


@compiled
def _falling(levels: Any, most: int, order: Any) -> int:
    """List the pixels above level 0 by falling level, as `y << 32 | x`; returns how many there are."""
    rows, columns = levels.shape
    place = np.zeros(most + 2, np.int64)
    for y in range(rows):
        for x in range(columns):
            place[most + 1 - np.int64(levels[y, x])] += 1
    for step in range(1, most + 2):
        place[step] += place[step - 1]
    for y in range(rows):
        for x in range(columns):
            slot = most - np.int64(levels[y, x])
            order[place[slot]] = y << 32 | x
            place[slot] += 1
    return place[most - 1]


@compiled
def _keep(state: Any, part: int, level: int, found: Any, count: int) -> int:
    """Write a component down if it is above a threshold that pixels of `level` are not; returns the new count."""
    if state[part, _LAST] < level:
        return count
    for field in range(_FIELDS):
        found[count, field] = state[part, field]
    found[count, _FIRST] = level
    return count + 1


@compiled
def _join(parent: Any, state: Any, into: int, part: int) -> None:
    parent[part] = into
    for low in (_X0, _Y0, _SEED):
        state[into, low] = min(state[into, low], state[part, low])
    for high in (_X1, _Y1):
        state[into, high] = max(state[into, high], state[part, high])
    for total in (_PIXELS, _AREA, _EULER):
        state[into, total] += state[part, total]


@compiled
def _scratch(rows: int, columns: int) -> Any:
    """What `_components` works in: pixels' order, their components in a frame, and by component parent and state."""
    order, owner = np.empty(rows * columns, np.int64), np.empty((rows + 2) * (columns + 2), np.int32)
    return order, owner, np.empty(rows * columns, np.uint32), np.empty((rows * columns, _FIELDS), np.int32)


@compiled
def _around(owner: Any, place: int, width: int, diagonal: bool) -> Any:
    """Components of the eight neighbors, -1 where there is none."""
    up, down, one, none = place - width, place + width, np.uintp(1), np.int32(-1)
    right, left = owner[place + one], owner[place - one]
    if not diagonal:
        return right, none, owner[up], none, left, none, owner[down], none
    return right, owner[up + one], owner[up], owner[up - one], left, owner[down - one], owner[down], owner[down + one]


@compiled
def _least(around: Any) -> Any:
    """The least number that is not negative; a negative one is large without its sign."""
    least = np.uint32(0xFFFFFFFF)
    for each in around:
        least = min(least, np.uint32(each))
    return least


@compiled
def _components(levels: Any, most: int, diagonal: bool, gains: Any, scratch: Any, found: Any) -> int:
    """Write down all components of one map `[Y, X]` of levels 0 to `most`; returns how many there are."""
    order, owner, parent, state = scratch
    columns, width = levels.shape[1], np.uintp(levels.shape[1] + 2)
    owner[:] = -1
    parts = count = 0
    for index in range(_falling(levels, most, order)):
        y, x = order[index] >> 32, order[index] & 0xFFFFFFFF
        level, seed = np.int64(levels[np.uintp(y), np.uintp(x)]), y * columns + x
        place = np.uintp(seed + 2 * y + columns + 3)
        a, b, c, d, e, f, g, h = around = _around(owner, place, width, diagonal)
        code = (a >= 0) | (b >= 0) << 1 | (c >= 0) << 2 | (d >= 0) << 3
        code |= (e >= 0) << 4 | (f >= 0) << 5 | (g >= 0) << 6 | (h >= 0) << 7
        if code == 0:
            part, parts = np.uint32(parts), parts + 1
            parent[part] = part
            state[part, _X0], state[part, _Y0], state[part, _X1], state[part, _Y1] = x, y, x + 1, y + 1
            state[part, _SEED], state[part, _PIXELS], state[part, _AREA], state[part, _EULER] = seed, 0, 0, 0
        else:
            high = max(max(max(a, b), max(c, d)), max(max(e, f), max(g, h)))
            part = _root(parent, np.uint32(high))
            count = _keep(state, part, level, found, count)
            if _least(around) != np.uint32(high):
                for other in around:
                    root = _root(parent, np.uint32(other)) if other >= 0 else part
                    if root != part:
                        count = _keep(state, root, level, found, count)
                        if state[root, _PIXELS] > state[part, _PIXELS]:  # fewer pixels bear an old number
                            part, root = root, part
                        _join(parent, state, part, root)
            state[part, _X0], state[part, _Y0] = min(state[part, _X0], x), min(state[part, _Y0], y)
            state[part, _X1], state[part, _Y1] = max(state[part, _X1], x + 1), max(state[part, _Y1], y + 1)
            state[part, _SEED] = min(state[part, _SEED], seed)
        owner[place] = part
        state[part, _LAST] = level - 1
        state[part, _PIXELS] += 1
        state[part, _AREA] += gains[np.uintp(code), 0]
        state[part, _EULER] += gains[np.uintp(code), 1]
    for index in range(parts):
        if parent[index] == index:
            count = _keep(state, np.uint32(index), 0, found, count)
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
    first: int, last: int, levels: Any, places: Any, gains: Any, by_pixels: bool, found: Any, counts: Any, largest: Any
) -> None:
    scratch = _scratch(*levels[0].shape)
    for index in range(first, last):
        here = found[places[index] : places[index + 1]]
        counts[index] = _components(levels[index], largest.shape[1], True, gains, scratch, here)
        here = here[: counts[index]]
        if by_pixels:
            _largest_by_pixels(here, largest[index])
        else:
            _largest_outlined(levels[index], here, largest[index])


@compiled
def _list_holes(
    first: int, last: int, framed: Any, most: int, places: Any, gains: Any, found: Any, counts: Any
) -> None:
    """The same for `framed [N, Y + 2, X + 2]`, maps turned upside down in a frame of the highest level."""
    scratch = _scratch(*framed[0].shape)
    for index in range(first, last):
        here = found[places[index] : places[index + 1]]
        all_of_them, kept = _components(framed[index], most, False, gains, scratch, here), 0
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
    share_out(_list_maps, count, cells, levels, places, _GAINS, largest == "pixels", found, counts, best)
    parts = [[found[place : place + number]] for place, number in zip(places, counts)]
    if holes:
        for number, listed in _holes_of(levels, most, [part[0] for part in parts]):
            parts[number].append(listed)
            counts[number] += len(listed)
    starts = np.concatenate([[0], np.cumsum(counts)])
    every = torch.from_numpy(np.concatenate([each for part in parts for each in part]))
    best = np.where(best < 0, -1, best + starts[:-1, None])
    fields = [every[:, field].contiguous() for field in (_PIXELS, _FIRST, _LAST)]
    return every[:, :_PIXELS].contiguous(), *fields, torch.from_numpy(starts), torch.from_numpy(best)


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
    share_out(_list_holes, len(chosen), levels[0].size, framed, most, places, _GAINS, found, counts)
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
    own = components.boxes.double()
    if rim is not None:
        own = own.minimum(torch.tensor([rim[1], rim[0]] * 2, dtype=torch.float64))
    truth = torch.cat([torch.zeros(0, 4, dtype=torch.float64), *(each.double().reshape(-1, 4) for each in boxes)])
    owners = np.concatenate([[0], np.cumsum([len(each) for each in boxes], dtype=np.int64)])
    best = torch.zeros(components.largest.shape, dtype=torch.float64)
    at = torch.full(components.largest.shape, -1, dtype=torch.int64)
    spans = torch.stack([components.first, components.last], 1)
    share_out(
        _overlap_maps,
        len(boxes),
        max(1, len(own) // max(1, len(boxes))),
        *(each.numpy() for each in (own, spans, components.starts, truth)),
        owners,
        int(inclusive),
        best.numpy(),
        at.numpy(),
    )
    return best, at
