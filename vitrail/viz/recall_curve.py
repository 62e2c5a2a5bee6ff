"""Patch recall against the share of patches that is kept, one line a ranker, as in Figure 5 of LTRP.

A random selection keeps k of N patches of anything, so it runs along the diagonal; what bends above it prefers objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from vitrail.viz.curves import Curve, Look, curves_figure, pixels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = Mapping[str, Sequence[float]]


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
    for drawn in axes.lines:
        drawn.set(marker="o", markersize=3.5, clip_on=False)
    ink = axes.yaxis.label.get_color()
    axes.plot([0, 1], [0, 100], color=ink, linewidth=1, linestyle=(0, (1.6, 1.8)), label="random")
    axes.legend(frameon=False, labelcolor=ink, fontsize=9, loc="lower right")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 100)
    return figure
