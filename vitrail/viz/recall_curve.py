"""Patch recall against the share of patches that is kept, one line a ranker, as in Figure 5 of LTRP.

A random selection keeps k of N patches of anything, so it runs along the diagonal; what bends above it prefers objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vitrail.viz.curves import Curve, Look, curves_figure, pixels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = Mapping[str, Sequence[float]]
INSIDE = 6
"""How many lines have room for their legend below the diagonal, that of a random selection included."""
_DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.4)), (0, (7, 1.6, 1.6, 1.6)))  # solid below, dashes above
_MARKERS = "osD^vPX"  # 7 of them beside 4 dashes and 8 colors: no two of 28 lines look alike


def lines_of(table: Table, ranker: str = "ranker") -> dict[str, Curve]:
    """The lines of one report: the ranker's, over all classes and over each split, and the center prior's.

    Args:
        table: what the protocol `patch_recall` leaves under `details["curves"]`: `keep` in (0, 1], and in percent
            `recall`, `recall_learned` and so on, `center`.
        ranker: how its line is called.
    """
    lines = {ranker: Curve(table["keep"], table["recall"])}
    for name, values in table.items():
        if name.startswith("recall_"):
            lines[f"{ranker}, {name.removeprefix('recall_')} classes"] = Curve(table["keep"], values)
    if "center" in table and ranker != "center":
        lines["center"] = Curve(table["keep"], table["center"])
    return lines


def recall_curve(
    lines: Mapping[str, Curve], *, look: Look = "light", dots_per_inch: int = 100, **how: Any
) -> Image.Image:
    """The figure as pixels: RGBA where `look="both"`, RGB otherwise. Other arguments: see `recall_figure`."""
    picture = pixels_of(recall_figure(lines, look=look, **how), dots_per_inch)
    return picture if look == "both" else picture.convert("RGB")


def recall_figure(
    lines: Mapping[str, Curve],
    *,
    title: str = "Patch recall",
    look: Look = "light",
    size: tuple[float, float] = (6.4, 4.0),
) -> Figure:
    """Lines of recall, and the diagonal of a random selection.

    Every line has a color, dashes and markers of its own, so that one that covers another does not hide it. The legend
    is in the order of the lines, the highest first, by the mean of recall over all shares, which it tells; more than
    `INSIDE` lines have it beside the axes.

    Args:
        lines: by the name of the ranker, x in (0, 1] ascending and y in percent; several reports' lines may be joined.
        title: above.
        look: "light", "dark", or "both": a transparent picture that can be read on either.
        size: inches.

    Raises:
        ValueError: no line.
    """
    if not lines:
        raise ValueError("there is no recall to draw; give at least one line")
    words = "share of patches kept", "recall, %"
    figure = curves_figure(lines, title=title, x_label=words[0], y_label=words[1], look=look, size=size)
    axes: Any = figure.axes[0]
    values = [_mean(curve) for curve in lines.values()]
    ranks = sorted(range(len(values)), key=lambda place: -values[place])
    for rank, place in enumerate(ranks):
        drawn, often = axes.lines[place], min(len(lines), max(len(axes.lines[place].get_xdata()) // 4, 1))
        drawn.set(linestyle=_DASHES[rank % len(_DASHES)], marker=_MARKERS[rank % len(_MARKERS)], markersize=4.5)
        drawn.set(markevery=(rank % often, often), linewidth=1.5, clip_on=False, zorder=2 + rank / len(ranks))
    ink = axes.yaxis.label.get_color()
    axes.plot([0, 1], [0, 100], color=ink, linewidth=1, linestyle=(0, (1.2, 2.4)), label="random")
    _legend(figure, axes, [*values, 50.0], ink)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 100)
    return figure


def _legend(figure: Figure, axes: Any, values: Sequence[float], ink: str) -> None:
    ordered = sorted(zip(values, axes.lines), key=lambda pair: -pair[0])
    handles = [drawn for _, drawn in ordered]
    labels = [f"{drawn.get_label()}, {value:.1f}" for value, drawn in ordered]
    axes.get_legend().remove()
    place: Any = figure if len(handles) > INSIDE else axes
    where = "outside right upper" if len(handles) > INSIDE else "lower right"
    made = place.legend(handles, labels, loc=where, frameon=False, labelcolor=ink, fontsize=9, title="mean recall, %")
    made.get_title().set(color=ink, fontsize=9)


def _mean(curve: Curve) -> float:
    """Of recall over shares from 0, where nothing is found, to 1; straight between its points."""
    shares = np.array([0, *curve.x, 1])
    return float(np.trapezoid(np.array([0, *curve.y, curve.y[-1]]), shares))
