"""Sinkhorn-Knopp against golden numbers, its definition, its marginals and itself on two ranks."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from vitrail.ops.sinkhorn import over_ranks, sinkhorn


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(scores: Tensor, temperature: float, iterations: int) -> Tensor:
    """The published form, with all of its factors."""
    count, prototypes = scores.shape
    mass = (scores / temperature).exp()
    mass /= mass.sum()
    for _ in range(iterations):
        mass /= mass.sum(0, keepdim=True) * prototypes
        mass /= mass.sum(1, keepdim=True) * count
    return mass * count


class Ranks:
    """Threads that reduce with each other, as processes do."""

    def __init__(self, world: int) -> None:
        self.values: list[Tensor] = [torch.empty(0)] * world
        self.barrier = threading.Barrier(world, timeout=20)

    def reduction(self, rank: int, join: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def reduce(values: Tensor) -> Tensor:
            self.values[rank] = values
            self.barrier.wait()
            joined = join(torch.stack(self.values))
            self.barrier.wait()
            return joined

        return reduce

    def run(self, parts: list[Tensor], valid: list[Tensor | None], **settings: float) -> list[Tensor]:
        found: list[Tensor] = [torch.empty(0)] * len(parts)

        def work(rank: int) -> None:
            combine = over_ranks(
                self.reduction(rank, lambda all_values: all_values.amax(0)),
                self.reduction(rank, lambda all_values: all_values.mean(0)),
            )
            found[rank] = sinkhorn(parts[rank], valid=valid[rank], combine=combine, **settings)

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(parts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


def test_golden_numbers(oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = oracle("leopart_sinkhorn")
    found = sinkhorn(torch.from_numpy(golden["logits"]), float(golden["eps"]), int(golden["iters"]))
    torch.testing.assert_close(found, torch.from_numpy(golden["assign"]), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_equals_the_published_form(iterations: int) -> None:
    scores = logits(13, 7)
    expected = by_definition(scores, 0.3, iterations)
    torch.testing.assert_close(sinkhorn(scores, 0.3, iterations), expected, rtol=1e-10, atol=1e-14)


def test_marginals() -> None:
    found = sinkhorn(logits(40, 8), 0.3, 3)
    torch.testing.assert_close(found.sum(1), torch.ones(40, dtype=torch.float64))
    uneven = (found.sum(0) - 5).abs().max()
    assert 1e-6 < uneven < 1, "three iterations come close to equal columns, and no closer"
    torch.testing.assert_close(sinkhorn(logits(40, 8), 0.3, 300).sum(0), torch.full((8,), 5.0, dtype=torch.float64))


def test_uniform_logits_and_equal_rows() -> None:
    torch.testing.assert_close(sinkhorn(torch.full((6, 4), 3.0)), torch.full((6, 4), 0.25))
    # Rows that are all alike say nothing of which sample prefers what: equal use leaves the uniform distribution.
    torch.testing.assert_close(sinkhorn(logits(1, 4).expand(6, 4)), torch.full((6, 4), 0.25, dtype=torch.float64))


def test_clear_preferences_are_followed() -> None:
    found = sinkhorn(torch.eye(5).repeat(3, 1))
    assert (found.argmax(1) == torch.arange(5).repeat(3)).all()
    assert found.amax(1).min() > 0.999


def test_moving_a_column_changes_nothing() -> None:
    scores = logits(12, 5)
    torch.testing.assert_close(sinkhorn(scores + logits(1, 5, seed=1), 0.5), sinkhorn(scores, 0.5))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_are_finite(size: float) -> None:
    scores = (size * logits(20, 6)).float()
    found = sinkhorn(scores)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(1), torch.ones(20))
    assert sinkhorn(torch.tensor([[3e38, -3e38], [-3e38, 3e38]]), 1.0).isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    scores = logits(12, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = sinkhorn(scores)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, sinkhorn(scores.float()), rtol=0, atol=0)


def test_a_batch_equals_its_parts() -> None:
    scores = logits(2, 3, 9, 4)
    valid = torch.rand(2, 3, 9, generator=torch.Generator().manual_seed(0)) < 0.6
    found = sinkhorn(scores, 0.2, valid=valid)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(found[i, j], sinkhorn(scores[i, j], 0.2, valid=valid[i, j]))


def test_rows_that_do_not_count() -> None:
    scores = logits(10, 4)
    valid = torch.arange(10) % 3 != 0
    found = sinkhorn(scores, 0.2, valid=valid)
    torch.testing.assert_close(found[valid], sinkhorn(scores[valid], 0.2))
    assert (found[~valid] == 0).all()
    assert (sinkhorn(scores, valid=torch.zeros(10, dtype=torch.bool)) == 0).all()
    assert sinkhorn(torch.empty(0, 4)).shape == (0, 4)


def test_closed_prototypes() -> None:
    scores = logits(10, 4)
    scores[:, 2] = -torch.inf
    found = sinkhorn(scores, 0.2)
    torch.testing.assert_close(found[:, [0, 1, 3]], sinkhorn(scores[:, [0, 1, 3]], 0.2))
    assert (found[:, 2] == 0).all()
    scores[4] = -torch.inf
    assert (sinkhorn(scores)[4] == 0).all()
    assert sinkhorn(scores).isfinite().all()


@pytest.mark.parametrize("first", [0, 3, 6])
def test_two_ranks_equal_one(first: int) -> None:
    scores, valid = logits(11, 5), torch.arange(11) % 4 != 1
    expected = sinkhorn(scores, 0.1, 4, valid=valid)
    found = Ranks(2).run(
        [scores[:first], scores[first:]], [valid[:first], valid[first:]], temperature=0.1, iterations=4
    )
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-12, atol=1e-15)
    alone = torch.cat([sinkhorn(scores[:first], 0.1, 4), sinkhorn(scores[first:], 0.1, 4)])
    assert first == 0 or (alone - expected).abs().max() > 1e-3, "without the other rank the result is another"


def test_two_ranks_of_which_one_has_nothing_that_counts() -> None:
    scores = (1e4 * logits(8, 5)).float()
    nothing = torch.zeros(8, dtype=torch.bool)
    first, second = Ranks(2).run([scores, scores], [None, nothing])
    torch.testing.assert_close(first, sinkhorn(scores))
    assert (second == 0).all()
    assert all((each == 0).all() for each in Ranks(2).run([scores, scores], [nothing, nothing]))


def test_no_gradient_and_no_change_of_the_input() -> None:
    scores = logits(6, 4).requires_grad_()
    before = scores.detach().clone()
    assert not sinkhorn(scores).requires_grad
    assert torch.equal(scores.detach(), before)


@pytest.mark.parametrize(
    ("scores", "settings", "words"),
    [
        (torch.zeros(4), {}, r"float32 \[4\]; they must be floating point \[\.\.\., B, K\]"),
        (torch.zeros(4, 3, dtype=torch.int64), {}, "int64"),
        (torch.zeros(4, 3), {"temperature": 0.0}, "temperature is 0.0; it must be positive"),
        (torch.zeros(4, 3), {"temperature": -1.0}, "temperature is -1.0"),
        (torch.zeros(4, 3), {"temperature": float("nan")}, "temperature is nan"),
        (torch.zeros(4, 3), {"iterations": 0}, "iterations is 0; give at least 1"),
        (torch.tensor([[0.0, torch.nan]]), {}, "NaN"),
        (torch.tensor([[0.0, torch.inf]]), {}, r"\+inf"),
        (torch.zeros(4, 3), {"valid": torch.ones(3, dtype=torch.bool)}, r"\[3\], but logits \[4, 3\] need bool \[4\]"),
        (torch.zeros(4, 3), {"valid": torch.ones(4)}, "valid is torch.float32"),
    ],
)
def test_errors(scores: Tensor, settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sinkhorn(scores, **settings)
