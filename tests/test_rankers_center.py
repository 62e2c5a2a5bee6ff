"""The center prior in closed form."""

from __future__ import annotations

import math

import torch

from vitrail.ops.selection import select
from vitrail.rankers.center import Center

OPENINGS = {"center": lambda folder: {"image_size": 64, "patch_size": 16}}


def test_the_distance_from_the_middle() -> None:
    scores = Center()(torch.zeros(2, 3, 32, 64))
    for y in range(2):
        for x in range(4):
            distance = math.hypot((y + 0.5) / 2 * 2 - 1, (x + 0.5) / 4 * 2 - 1)
            torch.testing.assert_close(scores[:, y, x], torch.full((2,), -distance))


def test_the_middle_comes_first() -> None:
    scores = Center()(torch.zeros(1, 3, 80, 80))
    assert select(scores, 1).tolist() == [[12]]
    assert select(scores, 5).tolist() == [[7, 11, 12, 13, 17]]
    assert select(scores, 9).tolist() == [[6, 7, 8, 11, 12, 13, 16, 17, 18]]
    torch.testing.assert_close(scores, scores.flip(1))
    torch.testing.assert_close(scores, scores.flip(2))


def test_all_sizes_share_one_scale() -> None:
    ranker = Center(patch_size=(4, 8))
    assert ranker(torch.zeros(1, 3, 4, 8)).tolist() == [[[0.0]]]
    large = ranker(torch.zeros(1, 3, 400, 800))
    assert large.min() > -math.sqrt(2)
    assert large[0, 0, 0] < -1.4
