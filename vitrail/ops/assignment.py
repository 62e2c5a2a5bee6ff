"""The best one-to-one assignment of rows to columns (Hungarian method), exact.

Rows are added one after the other; each opens a shortest augmenting path over reduced costs, which are kept from being
negative by potentials of rows and columns. O(R^2 C) operations, most of them on whole rows: 500 x 500 take about a
second.

Source: Kuhn 1955; the shortest paths are those of Jonker and Volgenant 1987.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def best_assignment(values: Array) -> NDArray[np.int64]:
    """The columns whose values have the largest sum, each taken at most once.

    Args:
        values: `[R, C]`, finite.

    Returns:
        int64 `[R]`, the column of each row; -1 for R - C rows where there are more rows than columns.

    Raises:
        ValueError: another shape, or values that are not finite.

    >>> best_assignment(np.array([[3.0, 2.0], [2.0, 0.0]])).tolist()
    [1, 0]
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"values have the shape {values.shape}; give finite ones, [R, C] with at least one of each")
    rows, columns = values.shape
    if rows <= columns:
        return _assigned(-values)
    found = np.full(rows, -1, np.int64)
    found[_assigned(-values.T)] = np.arange(columns)
    return found


def _assigned(costs: Array) -> NDArray[np.int64]:
    """The column of each row of least total cost, `[R]`; R <= C."""
    rows, columns = costs.shape
    of_row, of_column = np.zeros(rows), np.zeros(columns)  # potentials
    owner = np.full(columns, -1, np.int64)
    for row in range(rows):
        least = np.full(columns, np.inf)  # cost of the shortest path to each column
        before = np.full(columns, -1, np.int64)  # the column before it on that path; -1: the row itself
        closed = np.zeros(columns, bool)
        here, at, way = row, -1, 0.0
        while True:
            steps = way + costs[here] - of_row[here] - of_column
            better = ~closed & (steps < least)
            least[better], before[better] = steps[better], at
            at = int(np.where(closed, np.inf, least).argmin())
            way = least[at]
            closed[at] = True
            if owner[at] < 0:
                break
            here = int(owner[at])
        # Columns on the way, but for the last one, and their owners move by what the whole path was longer.
        passed = closed.copy()
        passed[at] = False
        of_row[row] += way
        of_row[owner[passed]] += way - least[passed]
        of_column[passed] -= way - least[passed]
        while at >= 0:
            earlier = int(before[at])
            owner[at] = row if earlier < 0 else owner[earlier]
            at = earlier
    found = np.full(rows, -1, np.int64)
    found[owner[owner >= 0]] = np.flatnonzero(owner >= 0)
    return found
