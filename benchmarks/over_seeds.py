"""Numbers of several seeds, as a benchmark writes them."""

from __future__ import annotations

import statistics
from typing import Any


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations of what each row, one a seed, holds by the same names."""
    words: dict[str, Any] = {"seeds": rows}
    for key in rows[0]:
        values = [row[key] for row in rows]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        words[key] = {"mean": statistics.mean(values), "deviation": deviation}
    return words
