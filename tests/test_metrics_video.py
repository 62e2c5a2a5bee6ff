import doctest
from collections.abc import Callable

import numpy as np
import pytest
import torch

from vitrail.metrics import video as module
from vitrail.metrics.video import statistics, tolerance_pixels, video_scores


def test_golden_numbers(oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = oracle("davis_jf")
    target, found = (torch.from_numpy(golden[name]).to(torch.uint8) for name in ("gt", "res"))
    scores = video_scores(target, found, 1)
    for name, values in (("J", scores.j), ("F", scores.f)):
        np.testing.assert_allclose(values[:, 0].numpy(), golden[name], rtol=0, atol=1e-9)
        own = [part.item() for part in statistics(values[:, 0])]
        np.testing.assert_allclose(own, golden[f"{name}stat"], rtol=0, atol=1e-9)


def test_closed_forms() -> None:
    """A square of 10 pixels, found 2 pixels to the right."""
    target, found = torch.zeros(2, 1, 40, 40, dtype=torch.uint8)
    target[0, 10:20, 10:20], found[0, 10:20, 12:22] = 1, 1
    scores = video_scores(target, found, 1, tolerance=2)
    assert scores.j.item() == pytest.approx(80 / 120)
    assert scores.f.item() == 1.0  # every pixel of the one outline is 2 px from the other
    close = video_scores(target, found, 1, tolerance=1)
    # Outline: rows 9 and 19, columns 9 and 19 of the square: 40 px. Horizontal parts of 11 px are shared but for 2 px,
    # of which one is within 1 px; the vertical parts meet only where the horizontal ones pass.
    shared = 2 * (9 + 1) + 2
    assert close.f.item() == pytest.approx(shared / 40)


def test_nothing_there() -> None:
    nothing, square = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    square[0, 2:5, 2:5] = 1
    assert [part.item() for part in video_scores(nothing, nothing, 1)] == [1.0, 1.0]
    assert [part.item() for part in video_scores(nothing, square, 1)] == [0.0, 0.0]
    assert [part.item() for part in video_scores(square, nothing, 1)] == [0.0, 0.0]
    scores = video_scores(square, square, 3)
    assert scores.j.tolist() == scores.f.tolist() == [[1.0, 1.0, 1.0]]


def test_objects_are_measured_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    target, found = torch.randint(0, 4, (2, 5, 16, 12), dtype=torch.uint8, generator=generator)
    together = video_scores(target, found, 3)
    for number in (1, 2, 3):
        alone = video_scores(*((ids == number).to(torch.uint8) for ids in (target, found)), 1)
        assert torch.equal(together.j[:, number - 1], alone.j[:, 0])
        assert torch.equal(together.f[:, number - 1], alone.f[:, 0])


def test_statistics_by_hand() -> None:
    values = torch.tensor([1.0, 0.9, 0.8, 0.5, 0.4], dtype=torch.float64)
    found = statistics(values)
    assert found.mean.item() == pytest.approx(0.72)
    assert found.recall.item() == pytest.approx(0.6)  # 0.5 is not above 0.5
    assert found.decay.item() == pytest.approx(0.95 - 0.45)  # frames 0, 1 and 3, 4
    assert statistics(values[:1]).decay.item() == 0
    assert statistics(torch.stack([values, values], 1)).mean.shape == (2,)
    # Seven frames: the ends of the quarters lie at 0, 1.5, 3, 4.5 and 6, halves are rounded up.
    assert statistics(torch.arange(7.0)).decay.item() == pytest.approx((0 + 1 + 2) / 3 - (5 + 6) / 2)
    with pytest.raises(ValueError, match="no frame to take a mean over"):
        statistics(values[:0])


def test_tolerance() -> None:
    assert tolerance_pixels(120, 214) == 2
    assert tolerance_pixels(480, 854) == 8
    assert tolerance_pixels(10, 10, 0) == 0
    with pytest.raises(ValueError, match="tolerance is -1"):
        tolerance_pixels(10, 10, -1)
    assert doctest.testmod(module).failed == 0
