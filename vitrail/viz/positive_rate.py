"""Positive rate against similarity, as in Figure 4 of CoTAP, above the share of pairs that are so similar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from vitrail.viz.curves import Curve, Look, curves_figure, pixels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = Mapping[str, Sequence[float | None]]


def positive_rate_curve(
    tables: Mapping[str, Table], *, look: Look = "light", dots_per_inch: int = 100, **how: Any
) -> Image.Image:
    """The figure as pixels: RGBA where `look="both"`, RGB otherwise. Other arguments: see `positive_rate_figure`."""
    picture = pixels_of(positive_rate_figure(tables, look=look, **how), dots_per_inch)
    return picture if look == "both" else picture.convert("RGB")


def positive_rate_figure(
    tables: Mapping[str, Table],
    *,
    floor: float | None = None,
    title: str = "Positive rate against similarity",
    look: Look = "light",
    size: tuple[float, float] = (6.4, 4.0),
) -> Figure:
    """A line for each table, with the share of its pairs as a filled curve at the bottom, of a scale of its own.

    Args:
        tables: by name, what the protocol `positive_rate` leaves under `details["curve"]`: `similarity` in [-1, 1],
            `positive_rate` in percent or None, `share` in percent.
        floor: of all pairs, in percent; dotted.
        title: above.
        look: "light", "dark", or "both": a transparent picture that can be read on either.
        size: inches.

    Raises:
        ValueError: no table, or one without any rate.
    """
    lines = {}
    for name, table in tables.items():
        rates = [math.nan if rate is None else rate for rate in table["positive_rate"]]
        lines[name] = Curve([x for x in table["similarity"] if x is not None], rates)
    words = "cosine similarity of two patches", "pairs of one class, %"
    figure = curves_figure(lines, title=title, x_label=words[0], y_label=words[1], look=look, size=size)
    axes: Any = figure.axes[0]
    ink = axes.yaxis.label.get_color()
    values = [rate for line in lines.values() for rate in line.y if not math.isnan(rate)]
    top = min(1.15 * max([*values, floor or 0.0]) or 100.0, 100.0)
    for drawn, (name, table) in zip(axes.lines[: len(lines)], tables.items()):
        shares = [share or 0.0 for share in table["share"]]
        heights = [0.18 * top * share / max(max(shares), 1e-9) for share in shares]
        axes.fill_between(lines[name].x, heights, step="mid", color=drawn.get_color(), alpha=0.18, linewidth=0)
        drawn.set(marker="o", markersize=3)
    if floor is not None:
        axes.axhline(floor, color=ink, linewidth=1, linestyle=(0, (1.2, 2.4)), label=f"all pairs, {floor:.1f}")
    axes.set_xlim(-1, 1)
    axes.set_ylim(0, top)
    axes.legend(frameon=False, labelcolor=ink, fontsize=9, loc="best", title="filled: share of the pairs")
    axes.get_legend().get_title().set(color=ink, fontsize=8)
    return figure
