"""Top-1 of a classifier that sees only kept patches, one line a ranker: against the share that is kept, or speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from vitrail.viz.curves import Curve, Look, curves_figure, pixels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
Over = Literal["keep", "speed", "gflops"]
_LABELS = {
    "keep": "share of patches kept",
    "speed": "images per second, with the ranker",
    "gflops": "GFLOPs of an image, with the ranker",
}


def selection_curve(
    rows: Sequence[Row], full: Row, *, look: Look = "light", dots_per_inch: int = 100, **how: Any
) -> Image.Image:
    """The figure as pixels: RGBA where `look="both"`, RGB otherwise. Other arguments: see `selection_figure`."""
    picture = pixels_of(selection_figure(rows, full, look=look, **how), dots_per_inch)
    return picture if look == "both" else picture.convert("RGB")


def selection_figure(
    rows: Sequence[Row],
    full: Row,
    *,
    over: Over = "keep",
    title: str = "Accuracy on kept patches",
    look: Look = "light",
    size: tuple[float, float] = (6.4, 4.0),
) -> Figure:
    """Lines of top-1; the full image is a dotted line, and a star where it has a speed or operations of its own.

    Args:
        rows: what the protocol `selection_accuracy` leaves under `details["rows"]`.
        full: its `details["full"]`.
        over: the horizontal axis: share kept, images per second or GFLOPs, the last two with the ranker's.
        title: above.
        look: "light", "dark", or "both": a transparent picture that can be read on either.
        size: inches.

    Raises:
        ValueError: no row, or no speed where it is asked for.
    """
    if not rows:
        raise ValueError("there is no accuracy to draw; give at least one row")
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        points.setdefault(row["ranker"], []).append((_place(row, over), row["top1"]))
    curves = {name: Curve(*map(list, zip(*sorted(found)))) for name, found in points.items()}
    figure = curves_figure(curves, title=title, x_label=_LABELS[over], y_label="top-1, %", look=look, size=size)
    axes: Any = figure.axes[0]
    for drawn in axes.lines:
        drawn.set(marker="o", markersize=4)
    ink = axes.yaxis.label.get_color()
    axes.axhline(full["top1"], color=ink, linewidth=1, linestyle=(0, (1.6, 1.8)), label="full image")
    if over != "keep":
        axes.plot([_place(full, over)], [full["top1"]], color=ink, marker="*", markersize=9, linestyle="none")
    axes.legend(frameon=False, labelcolor=ink, fontsize=9)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return figure


def _place(row: Row, over: Over) -> float:
    if over == "keep":
        return float(row["keep"])
    if over == "gflops":
        return float(row["gflops"] + row.get("gflops_ranker", 0))
    speed = row.get("images_per_second_with_ranker", row["images_per_second"])
    if speed is None:
        raise ValueError("no speed was measured (rounds=0); draw over keep or gflops")
    return float(speed)
