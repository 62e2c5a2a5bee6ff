"""Alignment and diversity of masks against tau, as in Figure 7 of DPPMask's supplement; other masks stand beside.

Both are distances of class tokens: from masked images to the whole one (alignment, small where a mask leaves the
meaning), and between masks of one image (diversity). They share an axis, so that they can be weighed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from vitrail.viz.curves import COLORS, Curve, Look, curves_figure, pixels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, float | None]
_PARTS = {"alignment": "alignment: to the whole image", "diversity": "diversity: between masks"}


def alignment_curve(
    strategies: Mapping[str, Row], *, look: Look = "light", dots_per_inch: int = 100, **how: Any
) -> Image.Image:
    """The figure as pixels: RGBA where `look="both"`, RGB otherwise. Other arguments: see `alignment_figure`."""
    picture = pixels_of(alignment_figure(strategies, look=look, **how), dots_per_inch)
    return picture if look == "both" else picture.convert("RGB")


def alignment_figure(
    strategies: Mapping[str, Row],
    *,
    floor: float | None = None,
    title: str = "Alignment and diversity of masks",
    look: Look = "light",
    size: tuple[float, float] = (6.4, 3.6),
) -> Figure:
    """Two curves with bars of two standard errors.

    Args:
        strategies: by name, `tau` (None for a mask without one), `alignment` and `diversity`, and where they are
            known `alignment_error` and `diversity_error`, standard errors: what the protocol `alignment_diversity`
            leaves under `details["strategies"]`.
        floor: mean distance of two images' class tokens, drawn as a line; None for none.
        title: above.
        look: "light", "dark", or "both": a transparent picture that can be read on either.
        size: inches.

    Raises:
        ValueError: no strategy.
    """
    if not strategies:
        raise ValueError("there is no mask to draw; give at least one")
    points = _placed(strategies)
    line = [point for point in points if _has_tau(point.row)] or points
    curves = {
        label: Curve([point.x for point in line], [_number(point.row, part) for point in line])
        for part, label in _PARTS.items()
    }
    over_tau = _has_tau(line[0].row)
    x_label, y_label = "tau (1: random masking)" if over_tau else "mask", "L2 distance of CLS tokens"
    figure = curves_figure(curves, title=title, x_label=x_label, y_label=y_label, look=look, size=size)
    axes: Any = figure.axes[0]
    for drawn in axes.lines:
        drawn.set(marker="o", markersize=4, linestyle="-" if over_tau else "none")
    for part, color in zip(_PARTS, COLORS):
        for point in points:
            error = 2 * _number(point.row, f"{part}_error")
            dot = {"fmt": "o", "markersize": 4, "capsize": 2.5, "color": color, "clip_on": False}
            axes.errorbar([point.x], [_number(point.row, part)], [error], **dot)
    ink = axes.yaxis.label.get_color()
    if floor is not None:
        axes.axhline(floor, color=ink, linewidth=1, linestyle=(0, (1.6, 1.8)), label="two images, unmasked")
    axes.legend(frameon=False, labelcolor=ink, fontsize=9)
    axes.set_xticks([point.x for point in points], [point.tick for point in points])
    axes.set_ylim(bottom=0)
    return figure


class _Point(NamedTuple):
    x: float
    tick: str
    row: Row


def _placed(strategies: Mapping[str, Row]) -> list[_Point]:
    """Masks with a tau at it, ascending; the others to the right of 1, in their order."""
    with_tau = [_Point(_number(row, "tau"), f"{row['tau']:g}", row) for row in strategies.values() if _has_tau(row)]
    others = [(name.replace("_", "\n"), row) for name, row in strategies.items() if not _has_tau(row)]
    beside = [_Point(1.0 + 0.18 * (number + 1), tick, row) for number, (tick, row) in enumerate(others)]
    return sorted(with_tau, key=lambda point: point.x) + beside


def _has_tau(row: Row) -> bool:
    return row.get("tau") is not None


def _number(row: Row, key: str) -> float:
    return float(row.get(key) or 0)
