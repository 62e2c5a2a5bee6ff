"""Boxes of components: OpenCV's outlines, the definition threshold by threshold, and the corners."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from vitrail.ops.component_boxes import ComponentBoxes, best_overlaps, component_boxes, reference


def at(found: ComponentBoxes, number: int, t: int) -> list[int]:
    """Which components of a map there are at a threshold."""
    begin, end = found.starts[number : number + 2].tolist()
    return [index for index in range(begin, end) if found.first[index] <= t <= found.last[index]]


def outlines(image: np.ndarray, threshold: int) -> tuple[list[list[int]], list[bool], list[int] | None]:
    """Boxes of OpenCV's outlines, which of them are of holes, and the box of the largest."""
    _, mask = cv2.threshold(image, threshold, 255, cv2.THRESH_BINARY)
    found, above = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not found:
        return [], [], None
    sides = [cv2.boundingRect(each) for each in found]
    boxes = [[x, y, x + width, y + height] for x, y, width, height in sides]
    tree, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    x, y, width, height = cv2.boundingRect(max(tree, key=cv2.contourArea))
    return boxes, [parent >= 0 for parent in above[0][:, 3]], [x, y, x + width, y + height]


def check_against_opencv(maps: np.ndarray, thresholds: int) -> None:
    given = torch.from_numpy(maps)
    found = component_boxes(given, torch.arange(thresholds, dtype=torch.uint8), holes=True)
    for number, image in enumerate(maps):
        for t in range(thresholds):
            boxes, is_hole, largest = outlines(image, t)
            own = at(found, number, t)
            assert sorted(found.boxes[own].tolist()) == sorted(boxes)
            holes = [found.boxes[index].tolist() for index in own if found.pixels[index] == 0]
            assert sorted(holes) == sorted(box for box, hole in zip(boxes, is_hole, strict=True) if hole)
            best = int(found.largest[number, t])
            assert (None if best < 0 else found.boxes[best].tolist()) == largest


def test_random_maps_equal_opencv() -> None:
    rng = np.random.default_rng(0)
    for _ in range(120):
        height, width = rng.integers(1, 18, 2)
        maps = rng.integers(0, rng.integers(2, 9), (2, height, width)).astype(np.uint8)
        check_against_opencv(maps, int(maps.max()) + 1)


def test_holes_of_a_part_that_joins_a_larger_one_are_counted() -> None:
    """One of two holes is filled after the joining: what is left is the largest by its outline alone."""
    map_ = np.zeros((30, 40), np.uint8)
    map_[0:12, 0:20] = 3
    map_[1:11, 1:19] = 0  # a wide hole
    map_[1:3, 1:3] = 3
    map_[1, 1] = 1  # and a small one, filled at last
    map_[0:9, 21:30] = 3  # more pixels than the part with holes
    map_[4, 20] = 2  # joins them
    map_[14:27, 0:13] = 3  # less within its outline, more without holes
    check_against_opencv(map_[None], 3)


def test_a_side_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"maps are 1 x 70,000 pixels; sides go to 65,535"):
        component_boxes(torch.zeros(1, 1, 70_000), torch.tensor([0.0]))


def test_smooth_and_noisy_maps_equal_opencv() -> None:
    rng = np.random.default_rng(1)
    for noise in (0, 0, 2, 6):
        map_ = cv2.resize(rng.random((5, 6)).astype(np.float32), (41, 33), interpolation=cv2.INTER_CUBIC)
        map_ = 50 * (map_ - map_.min()) / np.ptp(map_) + noise * rng.random(map_.shape)
        check_against_opencv(map_.astype(np.uint8)[None], 58)


def test_the_definition_threshold_by_threshold() -> None:
    maps = torch.randint(0, 6, (3, 9, 11), generator=torch.Generator().manual_seed(2))
    thresholds = torch.tensor([0, 1, 3, 4])
    found, by_pixels = (component_boxes(maps, thresholds, largest=way) for way in ("contour", "pixels"))
    assert sorted(found.boxes.tolist()) == sorted(by_pixels.boxes.tolist())
    for number in range(3):
        for t, threshold in enumerate(thresholds.tolist()):
            listed = reference.components_at(maps[number] > threshold)
            own = at(found, number, t)
            boxes = sorted((found.boxes[index].tolist(), int(found.pixels[index])) for index in own)
            assert boxes == sorted((box, pixels) for box, pixels, _, _ in listed)
            for answer, size in ((found, 2), (by_pixels, 1)):
                largest = max(listed, key=lambda each: (each[size], each[3]))
                assert answer.boxes[answer.largest[number, t]].tolist() == largest[0]
    framed = component_boxes(maps, thresholds, holes=True)
    for t, threshold in enumerate(thresholds.tolist()):
        holes = [framed.boxes[index].tolist() for index in at(framed, 0, t) if framed.pixels[index] == 0]
        assert sorted(holes) == sorted(reference.holes_at(maps[0] > threshold))


def test_a_filled_rectangle_gives_its_box_at_every_threshold() -> None:
    map_ = torch.zeros(1, 224, 224)
    map_[0, 60:160, 50:100] = 1.0
    found = component_boxes(map_, torch.arange(100) / 100)
    assert found.boxes.tolist() == [[50, 60, 100, 160]]
    assert (found.first.tolist(), found.last.tolist(), found.pixels.tolist()) == ([0], [99], [5000])
    assert found.largest.tolist() == [[0] * 100]


def test_a_ring_around_more_pixels_is_the_largest_outline_but_not_of_most_pixels() -> None:
    map_ = torch.zeros(1, 12, 12, dtype=torch.uint8)
    map_[0, 1:9, 1:9] = 1
    map_[0, 2:8, 2:8] = 0
    map_[0, 10:12, :] = 1  # 24 pixels; the ring has 28 and the area of 49 squares
    map_[0, 9, :] = 0
    outline = component_boxes(map_, torch.tensor([0]))
    assert outline.boxes[outline.largest[0, 0]].tolist() == [1, 1, 9, 9]
    map_[0, 3:7, 3:7] = 1
    map_[0, 1, 1:5] = 0  # the ring is open: 24 pixels, an outline of no area
    open_ring, most = (component_boxes(map_, torch.tensor([0]), largest=way) for way in ("contour", "pixels"))
    assert open_ring.boxes[open_ring.largest[0, 0]].tolist() == [0, 10, 12, 12]
    assert int(most.pixels[most.largest[0, 0]]) == 24


def test_constant_maps_and_maps_without_pixels() -> None:
    full = component_boxes(torch.ones(2, 3, 5), torch.tensor([0.0, 1.0]), holes=True)
    assert full.boxes.tolist() == [[0, 0, 5, 3]] * 2
    assert full.largest.tolist() == [[0, -1], [1, -1]]  # strictly above
    assert component_boxes(torch.zeros(2, 3, 5), torch.tensor([0.0])).largest.tolist() == [[-1], [-1]]
    for shape in ((0, 4, 4), (2, 0, 4), (2, 4, 0)):
        nothing = component_boxes(torch.zeros(shape), torch.tensor([0.0]))
        assert (len(nothing.boxes), len(nothing.starts)) == (0, shape[0] + 1)


def test_types_batches_and_threads_change_nothing() -> None:
    maps = torch.randint(0, 40, (7, 60, 50), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    thresholds = torch.arange(0, 40, 3, dtype=torch.uint8)
    together = component_boxes(maps, thresholds, holes=True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        shared = component_boxes(maps.double(), thresholds.double(), holes=True)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(together, shared, strict=True))
    for number in range(7):
        alone = component_boxes(maps[number : number + 1], thresholds, holes=True)
        begin, end = together.starts[number : number + 2].tolist()
        assert torch.equal(alone.boxes, together.boxes[begin:end])
        same = torch.where(alone.largest[0] < 0, -1, alone.largest[0] + begin)
        assert torch.equal(same, together.largest[number])


def plain_overlap(box: list[float], other: list[float], wider: int) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0]) + wider
    height = min(box[3], other[3]) - max(box[1], other[1]) + wider
    both = max(width, 0) * max(height, 0)
    areas = [(each[2] - each[0] + wider) * (each[3] - each[1] + wider) for each in (box, other)]
    return both / (sum(areas) - both)


@pytest.mark.parametrize("inclusive", [False, True])
def test_best_overlaps_by_a_plain_loop(inclusive: bool) -> None:
    maps = torch.randint(0, 5, (3, 10, 12), generator=torch.Generator().manual_seed(4))
    boxes: list[Tensor] = [torch.tensor([[1.0, 2, 7, 9], [3, 3, 6.5, 5]]), torch.zeros(0, 4), torch.ones(1, 4) * 4]
    boxes[2][0, :2] = 0
    found = component_boxes(maps, torch.arange(5), holes=True)
    best, which = best_overlaps(found, boxes, inclusive=inclusive, rim=(9, 11) if inclusive else None)
    for number in range(3):
        for t in range(5):
            own = [found.boxes[index].tolist() for index in at(found, number, t)]
            if inclusive:
                own = [[min(value, limit) for value, limit in zip(box, (11, 9, 11, 9))] for box in own]
            overlaps = [plain_overlap(box, other, inclusive) for box in own for other in boxes[number].tolist()]
            assert best[number, t].item() == pytest.approx(max(overlaps, default=0.0))
            assert (int(which[number, t]) < 0) == (not own)


def test_errors_are_in_words() -> None:
    with pytest.raises(ValueError, match=r"give maps \[N, Y, X\]"):
        component_boxes(torch.zeros(3, 3), torch.tensor([0.0]))
    with pytest.raises(ValueError, match="rise strictly"):
        component_boxes(torch.zeros(1, 3, 3), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        component_boxes(torch.full((1, 3, 3), torch.nan), torch.tensor([0.5]))
    with pytest.raises(ValueError, match='"contour" or "pixels", not \'area\''):
        component_boxes(torch.zeros(1, 3, 3), torch.tensor([0.5]), largest="area")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 lists of boxes for 1 maps"):
        best_overlaps(component_boxes(torch.zeros(1, 3, 3), torch.tensor([0.5])), [torch.zeros(0, 4)] * 2)
