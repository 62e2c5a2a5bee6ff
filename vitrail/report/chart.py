"""A small line chart for the page: coordinates for inline SVG, and the values that show on hover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

WIDTH, HEIGHT = 420, 232
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 30
Series = tuple[Sequence[float], Sequence[float]]


class Tick(NamedTuple):
    """A mark on an axis."""

    place: float  # in the chart's own pixels
    text: str


class Line(NamedTuple):
    """One run's line, or that of one member of a run."""

    run: int  # the position among the names
    path: str  # of an SVG path; gaps where values are not finite
    dots: list[tuple[float, float]]  # points without neighbors, which a path would not show
    points: list[list[float]]  # place x, place y, x, y; for the hover


class Chart(NamedTuple):
    """Everything that the template draws."""

    title: str
    axis: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    summary: str  # in words, for readers who do not see the picture
    gathered: int  # logged values behind one point, at most
    run: int | None = None  # whose chart it is, where the lines are members of one run, such as its heads
    members: Sequence[str] = ()  # names of the lines then; without, they are runs
    note: str = ""  # a sentence below

    @property
    def payload(self) -> dict[str, Any]:
        """What the hover needs, as JSON values."""
        return {
            "title": self.title,
            "axis": self.axis,
            "members": list(self.members),
            "lines": [{"run": line.run, "points": line.points} for line in self.lines],
        }


def make_chart(
    title: str,
    axis: str,
    series: Sequence[Series | None],
    names: Sequence[str],
    most_points: int = 240,
    y_range: tuple[float, float] | None = None,
) -> Chart | None:
    """Lay out one chart.

    Args:
        title: the metric.
        axis: what x is ("epoch" or "step").
        series: per run its x and y, or None; values that are not finite leave gaps.
        names: of the runs.
        most_points: of one line; longer ones are averaged over stretches of equal count.
        y_range: lowest and highest value that have to fit, for charts of one scale; None for those of the series.

    Returns:
        The chart, or None where no run has a finite value.
    """
    thinned = [None if one is None else _thin(*one, most_points) for one in series]
    gathered = max((math.ceil(len(one[0]) / most_points) for one in series if one), default=1)
    points = [p for one in thinned if one for p in one if math.isfinite(p[1])]
    if not points:
        return None
    x_low, x_high = _widened(min(x for x, _ in points), max(x for x, _ in points), pad=0.0)
    y_low, y_high = _widened(*(y_range or (min(y for _, y in points), max(y for _, y in points))), pad=0.05)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + across, 1), round(HEIGHT - BOTTOM - up, 1)

    lines = [_line(run, one, place) for run, one in enumerate(thinned) if one]
    x_marks = _only({x for x, _ in points}) or _ticks(x_low, x_high, 5)
    y_marks = (None if y_range else _only({y for _, y in points})) or _ticks(y_low, y_high, 5)
    x_ticks = [Tick(place(value, y_low)[0], text) for value, text in x_marks]
    y_ticks = [Tick(place(x_low, value)[1], text) for value, text in y_marks]
    last = [f"{names[line.run]} {line.points[-1][3]:.4g}" for line in lines if line.points]
    return Chart(title, axis, x_ticks, y_ticks, lines, f"{title}, last values: {', '.join(last)}", gathered)


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between `low` and `high`: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _only(values: set[float]) -> list[tuple[float, str]] | None:
    """A mark at the value where there is but one, for around it there is nothing to read off."""
    return [(value, f"{value:,.4g}".replace("-", "−")) for value in values] if len(values) == 1 else None


def _ticks(low: float, high: float, about: int) -> list[tuple[float, str]]:
    values = nice_ticks(low, high, about)
    largest = max((abs(value) for value in values), default=0.0)
    if largest >= 1e5 or 0 < largest < 1e-3:
        return [(value, f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e") if value else "0") for value in values]
    step = values[1] - values[0] if len(values) > 1 else 1.0
    decimals = max(0, next((n for n in range(8) if abs(round(step, n) - step) < 1e-9 * max(step, 1e-9)), 8))
    return [(value, f"{value:,.{decimals}f}".replace("-", "−")) for value in values]


def _widened(low: float, high: float, pad: float) -> tuple[float, float]:
    span = high - low
    if not span > 1e-6 * max(abs(low), abs(high)):
        room = max(abs(low), abs(high)) * 0.1 or 0.5
        return low - room, high + room
    return low - pad * span, high + pad * span


def _thin(x: Sequence[float], y: Sequence[float], most: int) -> list[tuple[float, float]]:
    if len(x) <= most:
        return list(zip(x, y))
    bounds = [len(x) * number // most for number in range(most + 1)]
    points = []
    for first, last in pairwise(bounds):
        finite = [value for value in y[first:last] if math.isfinite(value)]
        mean = math.fsum(finite) / len(finite) if finite else math.nan
        points.append((math.fsum(x[first:last]) / (last - first), mean))
    return points


def _line(run: int, points: Sequence[tuple[float, float]], place: Any) -> Line:
    pieces: list[list[tuple[float, float]]] = [[]]
    kept = []
    for x, y in points:
        if math.isfinite(y):
            pieces[-1].append(place(x, y))
            kept.append([*place(x, y), float(f"{x:.5g}"), float(f"{y:.5g}")])
        elif pieces[-1]:
            pieces.append([])
    path = " ".join("M" + " L".join(f"{x:g} {y:g}" for x, y in piece) for piece in pieces if len(piece) > 1)
    return Line(run, path, [piece[0] for piece in pieces if len(piece) == 1], kept)
