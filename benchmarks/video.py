"""J and F of a video, and labels handed on by the likeness of patches, against the plain way to do each.

    python benchmarks/video.py [--pairs 5] [--threads 1] [--out FILE.json]

J and F: 40 frames of 480 x 854 px with 3 objects, which move and wobble. The alternative takes one object of one frame
at a time, draws its outline with NumPy, dilates both outlines by a disk with OpenCV and counts. Labels: one frame of
30 x 53 patches with 384 features, as of a ViT-S/16 at 480 px, from 8 others with 4 labels; the alternative multiplies
all pairs of patches, takes exponentials, and masks the window with zeros afterwards. Both ways run in turns in one
process; their results are compared first. About a minute on one core.

Wanted: J and F at least 3 times faster and equal to 1e-9; labels of a frame under 1 s on two cores.
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
from torch.nn.functional import normalize

from vitrail.metrics.video import tolerance_pixels, video_scores
from vitrail.ops.label_propagation import enlarged, propagate

FRAMES, HEIGHT, WIDTH, OBJECTS = 40, 480, 854, 3


def sequence(seed: int) -> np.ndarray:
    """Ids `[T, H, W]`: flowers with petals that turn while they move; `seed` shifts and bends them a little."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    ids = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for t in range(FRAMES):
        for number in range(OBJECTS):
            v, u = y - 120 - 110 * number - 3 * seed, x - 160 - 12 * t - 90 * number + 4 * seed
            outline = 90 + 18 * np.sin(7 * np.arctan2(v, u) + 0.2 * t + 0.3 * seed) + 5 * np.sin(31 * np.arctan2(v, u))
            ids[t][np.hypot(u, v) < outline] = number + 1
    return ids


def outline(region: np.ndarray) -> np.ndarray:
    """The pixels whose right, lower or lower right neighbor is on the other side, uint8."""
    edge = np.zeros(region.shape, bool)
    edge[:, :-1] |= region[:, :-1] != region[:, 1:]
    edge[:-1] |= region[:-1] != region[1:]
    edge[:-1, :-1] |= region[:-1, :-1] != region[1:, 1:]
    return edge.astype(np.uint8)


def object_by_object(target: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J and F `[T, K]` with a loop over frames and objects."""
    radius = tolerance_pixels(HEIGHT, WIDTH)
    span = np.arange(-radius, radius + 1)
    disk = (span[:, None] ** 2 + span**2 <= radius**2).astype(np.uint8)
    j, f = np.ones((len(target), OBJECTS)), np.ones((len(target), OBJECTS))
    for t in range(len(target)):
        for number in range(OBJECTS):
            one, other = target[t] == number + 1, found[t] == number + 1
            either = (one | other).sum()
            j[t, number] = (one & other).sum() / either if either else 1.0
            edge, own = outline(one), outline(other)
            near, own_near = cv2.dilate(edge, disk), cv2.dilate(own, disk)
            if not edge.any() and not own.any():
                continue
            precision = (own & near).sum() / max(own.sum(), 1)
            recall = (edge & own_near).sum() / max(edge.sum(), 1)
            f[t, number] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return j, f


def all_pairs(target: Tensor, sources: Tensor, labels: Tensor) -> Tensor:
    """Labels by every pair of patches, the window masked afterwards."""
    rows, columns = target.shape[:2]
    likeness = (sources.flatten(0, 2) @ target.flatten(0, 1).T).div(0.1).exp()
    y, x = (part.flatten() for part in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    near = ((y[:, None] - y).abs() <= 12) & ((x[:, None] - x).abs() <= 12)
    likeness = likeness * near.repeat(len(sources), 1)
    least = likeness.topk(5, dim=0).values[-1]
    likeness = torch.where(likeness < least, 0, likeness)
    return ((likeness / likeness.sum(0)).T @ labels.flatten(0, 2)).view(rows, columns, -1)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turns(theirs: Callable[[], object], ours: Callable[[], object], pairs: int) -> dict[str, float]:
    """Medians of interleaved times, and of their ratio."""
    times = [(seconds(theirs), seconds(ours)) for _ in range(pairs)]
    ratios = sorted(their / our for their, our in times)
    return {
        "pairs": pairs,
        "alternative_ms_median": 1e3 * statistics.median(their for their, _ in times),
        "ours_ms_median": 1e3 * statistics.median(our for _, our in times),
        "ours_ms_best": 1e3 * min(our for _, our in times),
        "ratio_median": statistics.median(ratios),
        "ratio_lowest": ratios[0],
        "ratio_highest": ratios[-1],
    }


def of_masks(pairs: int) -> dict[str, Any]:
    """J and F both ways."""
    target, found = sequence(0), sequence(1)
    one, other = torch.from_numpy(target), torch.from_numpy(found)
    scores, (j, f) = video_scores(one, other, OBJECTS), object_by_object(target, found)
    difference = max(np.abs(scores.j.numpy() - j).max(), np.abs(scores.f.numpy() - f).max())
    assert difference < 1e-9, difference
    words = {"difference": float(difference), "mean_j": float(j.mean()), "mean_f": float(f.mean())}
    theirs, ours = lambda: object_by_object(target, found), lambda: video_scores(one, other, OBJECTS)
    return words | in_turns(theirs, ours, pairs)


def of_labels(pairs: int) -> dict[str, Any]:
    """One frame's labels both ways."""
    generator = torch.Generator().manual_seed(0)
    target = normalize(torch.randn(30, 53, 384, generator=generator), dim=-1)
    sources = normalize(torch.randn(8, 30, 53, 384, generator=generator), dim=-1)
    labels = torch.rand(8, 30, 53, 4, generator=generator)
    given, expected = propagate(target, sources, labels), all_pairs(target, sources, labels)
    difference = (given - expected).abs().max().item()
    assert difference < 1e-5, difference
    numbers = in_turns(lambda: all_pairs(target, sources, labels), lambda: propagate(target, sources, labels), pairs)
    return {"difference": difference, "enlarge_ms": 1e3 * seconds(lambda: enlarged(given, (16, 16)))} | numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    numbers: dict[str, Any] = {
        "threads": options.threads,
        "masks": f"{FRAMES} frames of {HEIGHT} x {WIDTH}, {OBJECTS} objects, radius {tolerance_pixels(HEIGHT, WIDTH)}",
        "labels": "30 x 53 patches, 384 features, 8 frames, 4 labels, radius 12",
        "j_and_f": of_masks(options.pairs),
        "propagation": of_labels(options.pairs),
    }
    path = record("video", numbers, options.out)
    for name in ("j_and_f", "propagation"):
        each = numbers[name]
        print(
            f"{name}: {each['alternative_ms_median']:.0f} ms -> {each['ours_ms_median']:.0f} ms,"
            f" {each['ratio_median']:.1f} times faster ({each['ratio_lowest']:.1f} to {each['ratio_highest']:.1f})"
        )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
