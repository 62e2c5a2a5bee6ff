"""Boxes of all components of maps at all thresholds, and MaxBoxAccV2 of them, against the plain loop with OpenCV.

    python benchmarks/localization.py [--maps 1000] [--thresholds 100] [--pairs 3] [--threads 1 2] [--out FILE.json]

Maps of 224 x 224 px in whole numbers 0 to 255, of three kinds: `patches`, 14 x 14 random numbers enlarged (bicubic), as
of a ViT's attention; the same with 5 % of noise in each pixel; and `blobs`, a few wide bumps, as a trained localizer
gives. Each has one to three ground-truth boxes. The alternative takes one threshold of one map at a time, as evaluators
do: cv2.threshold, cv2.findContours, a box for each contour, the overlaps with the ground truth by NumPy. Both ways take
all contours; once the outlines of objects alone, and once those of holes, too, as wsolevaluation does (RETR_TREE).
MaxBoxAccV2 and the best overlap of each map at each threshold are compared first. Both ways run in turns in one
process, with each number of threads; the maps are shared out among them, which the loop cannot do.

Wanted: at least 5 times faster, with equal results. With 1,000 maps about a minute a pair on one core.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from record import record
from torch import Tensor

from vitrail.metrics.localization import box_accuracy
from vitrail.ops.component_boxes import best_overlaps, component_boxes

SIDE = 224
IOUS = (0.3, 0.5, 0.7)
BATCH = 16


def maps_of(kind: str, count: int) -> np.ndarray:
    """uint8 `[count, 224, 224]`."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    found = []
    for _ in range(count):
        if kind == "blobs":
            bumps = zip(rng.uniform(30, 194, (4, 2)), rng.uniform(15, 50, 4), rng.uniform(0.3, 1, 4), strict=True)
            one = sum(high * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * wide**2)) for at, wide, high in bumps)
        else:
            one = cv2.resize(rng.random((14, 14)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            one = one + (0.05 * rng.random((SIDE, SIDE)) if kind == "noise" else 0)
        found.append((255 * (one - one.min()) / np.ptp(one)).astype(np.uint8))
    return np.stack(found)


def truths_of(count: int) -> list[np.ndarray]:
    """One to three boxes a map."""
    rng = np.random.default_rng(1)
    corners = [rng.uniform(0, 120, (1 + number % 3, 2)) for number in range(count)]
    return [np.hstack([each, each + rng.uniform(20, 100, each.shape)]) for each in corners]


def one_by_one(maps: np.ndarray, truths: list[np.ndarray], levels: list[int], holes: bool) -> np.ndarray:
    """The best overlap of each map at each threshold `[N, T]`, with a loop over both."""
    best = np.zeros((len(maps), len(levels)))
    for number, (map_, truth) in enumerate(zip(maps, truths, strict=True)):
        area = (truth[:, 2] - truth[:, 0]) * (truth[:, 3] - truth[:, 1])
        for place, level in enumerate(levels):
            _, mask = cv2.threshold(map_, level, 255, cv2.THRESH_BINARY)
            contours, tree = cv2.findContours(mask, cv2.RETR_TREE if holes else cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
            if not holes and contours:
                contours = [each for each, above in zip(contours, tree[0][:, 3]) if above < 0]
            if not contours:
                continue
            boxes = np.array([cv2.boundingRect(each) for each in contours], np.float64)
            boxes[:, 2:] += boxes[:, :2]
            low, high = np.maximum(boxes[:, None, :2], truth[:, :2]), np.minimum(boxes[:, None, 2:], truth[:, 2:])
            both = (high - low).clip(0).prod(2)
            own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            best[number, place] = (both / (own[:, None] + area - both)).max()
    return best


def at_once(maps: Tensor, truths: list[Tensor], levels: Tensor, holes: bool) -> Tensor:
    """The same by component trees, in batches as the protocol takes them."""
    parts = []
    for place in range(0, len(maps), BATCH):
        components = component_boxes(maps[place : place + BATCH], levels, holes=holes)
        parts.append(best_overlaps(components, truths[place : place + BATCH])[0])
    return torch.cat(parts)


def max_box_acc_v2(overlaps: Tensor) -> float:
    """Percent."""
    return box_accuracy(overlaps, IOUS).amax(1).mean().item()


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measured(kind: str, holes: bool, count: int, thresholds: int, pairs: int) -> dict[str, Any]:
    """Equality first, then times in turns."""
    maps, truths = maps_of(kind, count), truths_of(count)
    levels = sorted({255 * number // thresholds for number in range(thresholds)})
    given, boxes = torch.from_numpy(maps), [torch.from_numpy(each) for each in truths]
    steps = torch.tensor(levels, dtype=torch.uint8)
    at_once(given[:1], boxes[:1], steps, holes)  # compiles
    theirs, ours = torch.from_numpy(one_by_one(maps, truths, levels, holes)), at_once(given, boxes, steps, holes)
    difference = (theirs - ours).abs().max().item()
    assert difference < 1e-12, difference
    assert max_box_acc_v2(theirs) == max_box_acc_v2(ours)
    times = []
    for _ in range(pairs):
        plain = seconds(lambda: one_by_one(maps, truths, levels, holes))
        times.append((plain, seconds(lambda: at_once(given, boxes, steps, holes))))
    ratios = sorted(plain / own for plain, own in times)
    return {
        "max_box_acc_v2": max_box_acc_v2(ours),
        "difference": difference,
        "pairs": pairs,
        "alternative_s_median": statistics.median(plain for plain, _ in times),
        "ours_s_median": statistics.median(own for _, own in times),
        "ratio_median": statistics.median(ratios),
        "ratio_lowest": ratios[0],
        "ratio_highest": ratios[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=1000)
    parser.add_argument("--thresholds", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    numbers: dict[str, Any] = {"maps": options.maps, "thresholds": options.thresholds}
    for threads in options.threads:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        for kind in ("patches", "noise", "blobs"):
            for holes in (False, True):
                name = f"{kind}_with_holes_threads_{threads}" if holes else f"{kind}_threads_{threads}"
                numbers[name] = each = measured(kind, holes, options.maps, options.thresholds, options.pairs)
                low, middle, high = (each[f"ratio_{which}"] for which in ("lowest", "median", "highest"))
                print(
                    f"{name}: {each['alternative_s_median']:.2f} s -> {each['ours_s_median']:.2f} s, "
                    f"{middle:.1f} times faster ({low:.1f} to {high:.1f})"
                )
    print(f"written to {record('localization', numbers, options.out)}")


if __name__ == "__main__":
    main()
