import itertools
import time

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from vitrail.ops.assignment import best_assignment


def worth(values: np.ndarray, columns: np.ndarray) -> float:
    return float(sum(values[row, column] for row, column in enumerate(columns) if column >= 0))


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (3, 3), (3, 5), (5, 3), (6, 6)])
def test_brute_force(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    for values in (rng.normal(size=shape), rng.integers(0, 3, shape).astype(float), np.zeros(shape)):
        found = best_assignment(values)
        taken = [column for column in found if column >= 0]
        assert len(set(taken)) == len(taken) == min(shape)
        wide = values if shape[0] <= shape[1] else values.T
        every = itertools.permutations(range(wide.shape[1]), wide.shape[0])
        best = max(sum(wide[row, column] for row, column in enumerate(columns)) for columns in every)
        assert worth(values, found) == pytest.approx(best)


@pytest.mark.parametrize("shape", [(30, 30), (27, 60), (60, 27)])
def test_as_scipy(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=shape), rng.integers(0, 9, shape).astype(float), rng.pareto(1, shape) * 1e6):
        rows, columns = linear_sum_assignment(values, maximize=True)
        assert worth(values, best_assignment(values)) == pytest.approx(values[rows, columns].sum())


def test_a_permutation_is_found_again() -> None:
    order = np.random.default_rng(0).permutation(150)
    values = np.eye(150)[order] * 7
    start = time.perf_counter()
    assert best_assignment(values).tolist() == order.tolist()
    assert time.perf_counter() - start < 10  # a fraction of a second on an idle core


def test_errors() -> None:
    for values in (np.zeros((0, 3)), np.zeros(3), np.array([[np.nan]]), np.array([[np.inf, 0.0]])):
        with pytest.raises(ValueError, match="give finite ones"):
            best_assignment(values)
