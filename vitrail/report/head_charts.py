"""What training logged of each attention head: for each quantity a chart of every run, a line a head.

The charts of one quantity have one scale, so that runs can be compared by eye.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vitrail.metrics.by_head import quantities_by_head
from vitrail.report.chart import Chart, make_chart
from vitrail.report.collect import RunRecord


def head_charts(records: Sequence[RunRecord], axis: str, most_points: int = 240) -> list[tuple[str, list[Chart]]]:
    """Charts by the quantities' titles, in the order of runs; runs that logged nothing of their heads have none.

    Args:
        records: the runs.
        axis: what x is ("epoch" or "step").
        most_points: of one line.
    """
    rows = []
    for quantity in quantities_by_head(sorted({key for record in records for line in record.metrics for key in line})):
        found = [_series(record, quantity, axis) for record in records]
        values = [y for series in found for _, ys in series.values() for y in ys if math.isfinite(y)]
        charts = [
            chart._replace(run=number, members=[f"head {head}" for head in series])
            for number, (record, series) in enumerate(zip(records, found))
            if (chart := _chart(record.name, axis, series, most_points, (min(values), max(values)) if values else None))
        ]
        if charts:
            rows.append((f"{quantity} of each head", charts))
    return rows


def _series(record: RunRecord, quantity: str, axis: str) -> dict[int, tuple[list[float], list[float]]]:
    names = quantities_by_head({key for line in record.metrics for key in line}).get(quantity, {})
    return {head: record.series(name, axis) for head, name in names.items()}


def _chart(
    name: str,
    axis: str,
    series: dict[int, tuple[list[float], list[float]]],
    most_points: int,
    y_range: tuple[float, float] | None,
) -> Chart | None:
    heads = [f"head {head}" for head in series]
    return make_chart(name, axis, [one if one[0] else None for one in series.values()], heads, most_points, y_range)
