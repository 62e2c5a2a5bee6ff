"""How many images are hit against the threshold on the map: on measured images, on held-out ones, and which was chosen.

A flat top says that the threshold matters little, and a chosen one beside the top what choosing it elsewhere costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from vitrail.viz.curves import Curve, Look, curves_figure, legend_below, pixels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DASHES: Any = (0, (4, 1.8))
_RULE: Any = (0, (1.2, 2.4))


class Line(NamedTuple):
    """Of one IoU, or of one localizer."""

    measured: Sequence[float]  # percent at each threshold
    held_out: Sequence[float] | None = None  # the same of the images that the threshold was chosen with
    chosen: float | None = None  # one of the thresholds


def lines_of(details: Mapping[str, Any], config: Mapping[str, Any], contour: str) -> dict[str, Line]:
    """The lines of one report, an IoU each, the lowest first; thresholds are marked where a number is read off.

    Args:
        details: what the protocol `localization` leaves in its report.
        config: what its card says of its settings.
        contour: "largest" or "all".
    """
    held = (details["held_out_curves"] or {}).get(contour, {})
    marks = _marks(details["chosen"], config, contour)
    return {
        f"IoU {iou}": Line(values, held.get(iou), marks.get(iou)) for iou, values in details["curves"][contour].items()
    }


def threshold_curve(
    thresholds: Sequence[float],
    lines: Mapping[str, Line],
    *,
    look: Look = "light",
    dots_per_inch: int = 100,
    **how: Any,
) -> Image.Image:
    """The figure as pixels: RGBA where `look="both"`, RGB otherwise. Other arguments: see `threshold_figure`."""
    picture = pixels_of(threshold_figure(thresholds, lines, look=look, **how), dots_per_inch)
    return picture if look == "both" else picture.convert("RGB")


def threshold_figure(
    thresholds: Sequence[float],
    lines: Mapping[str, Line],
    *,
    title: str = "Box of the largest component",
    look: Look = "light",
    size: tuple[float, float] = (6.4, 4.0),
) -> Figure:
    """Solid lines of the measured images, dashed ones of held-out images, a dot and a rule at the chosen thresholds.

    The legend stands below, where it covers no line. It tells what a line has at its dot, and at which threshold;
    without one, its highest value.

    Args:
        thresholds: ascending, shares of a map's range.
        lines: by name, of as many values as there are thresholds.
        title: above.
        look: "light", "dark", or "both": a transparent picture that can be read on either.
        size: inches, without the legend.

    Raises:
        ValueError: no line, other numbers of values than of thresholds, or a chosen threshold that is none of them.
    """
    if not lines:
        raise ValueError("there is nothing to draw against the threshold; give at least one line")
    for name, line in lines.items():
        _check(thresholds, line, name)
    curves = {name: Curve(thresholds, line.measured) for name, line in lines.items()}
    words = "threshold, share of the map's range", "images that are hit, %"
    how: dict[str, Any] = {"look": look, "size": size, "legend": "none"}
    figure = curves_figure(curves, title=title, x_label=words[0], y_label=words[1], **how)
    axes: Any = figure.axes[0]
    for drawn, line in zip(list(axes.lines), lines.values(), strict=True):
        drawn.set_label(f"{drawn.get_label()}: {_words(thresholds, line)}")
        _mark(axes, thresholds, line, drawn.get_color())
    ink = axes.yaxis.label.get_color()
    if any(line.held_out is not None for line in lines.values()):
        axes.plot([], [], color=ink, linewidth=1.2, linestyle=_DASHES, label="dashed: held-out images")
    legend_below(axes)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 100)
    return figure


def _check(thresholds: Sequence[float], line: Line, name: str) -> None:
    for values in (line.measured, line.held_out):
        if values is not None and len(values) != len(thresholds):
            raise ValueError(f"{name} has {len(values)} values for {len(thresholds)} thresholds; give one for each")
    if line.chosen is not None and line.chosen not in thresholds:
        raise ValueError(f"{name}: {line.chosen} was chosen, which is none of the thresholds")


def _mark(axes: Any, thresholds: Sequence[float], line: Line, color: str) -> None:
    if line.held_out is not None:
        axes.plot(thresholds, line.held_out, color=color, linewidth=1.2, linestyle=_DASHES, label="_held out")
    if line.chosen is not None:
        place = list(thresholds).index(line.chosen)
        axes.axvline(line.chosen, color=color, linewidth=1, linestyle=_RULE, label="_chosen")
        axes.plot([line.chosen], [line.measured[place]], color=color, marker="o", markersize=6, label="_dot")


def _words(thresholds: Sequence[float], line: Line) -> str:
    place = max(range(len(thresholds)), key=lambda each: line.measured[each])
    end = ", its highest"
    if line.chosen is not None:
        place, end = list(thresholds).index(line.chosen), ""
    return f"{line.measured[place]:.1f} at {thresholds[place]:.2f}{end}"


def _marks(chosen: Mapping[str, Any], config: Mapping[str, Any], contour: str) -> dict[str, float]:
    """The chosen threshold of each IoU that counts in a number by this contour."""
    ious = [f"{iou:g}" for iou in config["ious"]]
    marks = dict(zip(ious, chosen["max_box_acc_v2"], strict=True)) if contour == "all" else {}
    if contour == "largest":
        marks["0.5"] = chosen["max_box_acc"]
    return marks | ({"0.5": chosen["loc"]} if contour == config["contour"] else {})
