"""Corruptions as pictures: one image in all of them, and what they do to the accuracy of classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vitrail.data.corruptions import CORRUPTIONS, GROUPS, SEVERITIES, corrupt
from vitrail.viz.canvas import PAPER, fit, heading, sheet, stacked
from vitrail.viz.curves import COLORS, LOOKS, Look, pixels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
_GAP = 10
CLEAN_WORDS = ", clean images"


def corruption_sheet(image: Image.Image, *, seed: int = 0, title: str = "", cell: int = 128) -> Image.Image:
    """All corruptions of an image, a row each with severities from left to right.

    The image itself stands above; noise and blur left, weather and what cameras and files do right.

    Args:
        image: RGB, at least 32 pixels a side; it is spoiled at its own size and shown smaller or larger.
        seed: of what is drawn.
        title: above.
        cell: longer side of a picture, pixels.
    """
    pixels = np.asarray(image.convert("RGB"))
    left = _rows(pixels, [name for group in ("noise", "blur") for name in GROUPS[group]], seed, cell)
    left = stacked([_as_it_is(fit(image, cell), left.width), left])
    right = _rows(pixels, [name for group in ("weather", "digital") for name in GROUPS[group]], seed, cell)
    both = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), PAPER.background)
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return stacked([heading(title, both.width), both]) if title else both


def _as_it_is(image: Image.Image, width: int) -> Image.Image:
    """The image where the first column of the rows below stands, with a title of its own."""
    row = sheet([[image]], row_titles=["as it is"])
    x, first = row.width - _GAP - image.width, width - len(SEVERITIES) * (image.width + _GAP)
    strip = Image.new("RGB", (width, _GAP + image.height), PAPER.background)
    strip.paste(row.crop((0, 0, x, strip.height)), (0, 0))
    strip.paste(row.crop((x, 0, row.width, strip.height)), (first, 0))
    return strip


def _rows(pixels: np.ndarray, names: Sequence[str], seed: int, cell: int) -> Image.Image:
    drawn = [[Image.fromarray(corrupt(pixels, name, severity, seed=seed)) for severity in SEVERITIES] for name in names]
    titles = [told(name) for name in names]
    columns = [f"severity {severity}" for severity in SEVERITIES]
    return sheet(
        [[fit(each, cell) for each in row] for row in drawn], row_titles=titles, column_titles=columns, gap=_GAP
    )


def told(name: str) -> str:
    """A corruption's name in words."""
    return {"jpeg_compression": "JPEG"}.get(name, name.replace("_", " "))


def corruption_bars(
    models: Mapping[str, Sequence[Row]],
    clean: Mapping[str, float | None] | None = None,
    *,
    look: Look = "light",
    dots_per_inch: int = 100,
    **how: Any,
) -> Image.Image:
    """The figure as pixels: RGBA where `look="both"`, RGB otherwise. Other arguments: see `corruption_figure`."""
    picture = pixels_of(corruption_figure(models, clean, look=look, **how), dots_per_inch)
    return picture if look == "both" else picture.convert("RGB")


def corruption_figure(
    models: Mapping[str, Sequence[Row]],
    clean: Mapping[str, float | None] | None = None,
    *,
    title: str = "Accuracy on corrupted images",
    look: Look = "light",
    size: tuple[float, float] = (9.6, 4.2),
) -> Figure:
    """Bars of top-1 by corruption, the mean over severities; dots for each severity where it is known.

    Args:
        models: by name, what the protocol `robustness` leaves under `details["rows"]`; rows of which only the mean
            error is known, `error` in percent, have no dots.
        clean: by name, the error on clean images in percent, drawn as a line; None where it is not known.
        title: above.
        look: "light", "dark", or "both": a transparent picture that can be read on either.
        size: inches.

    Raises:
        ValueError: no row.
    """
    from matplotlib.figure import Figure

    shown = [name for name in CORRUPTIONS if any(row["corruption"] == name for rows in models.values() for row in rows)]
    if not shown:
        raise ValueError("there is no corruption to draw; give at least one row")
    ink, grid, background = LOOKS[look]
    figure = Figure(figsize=size, layout="constrained", facecolor=background)
    axes: Any = figure.add_subplot(facecolor=background)
    places = _places(shown)
    wide = 0.8 / len(models)
    for number, (name, rows) in enumerate(models.items()):
        color = COLORS[number % len(COLORS)]
        _bars(axes, rows, places, (number - (len(models) - 1) / 2) * wide, wide, color, name)
        error = (clean or {}).get(name)
        if error is not None:
            axes.axhline(100 - error, color=color, linewidth=1.1, linestyle=(0, (4, 2)), label=name + CLEAN_WORDS)
    _dress(axes, shown, places, title, ink, grid)
    return figure


def _places(shown: Sequence[str]) -> dict[str, float]:
    """Where each corruption stands: groups are a little apart."""
    found, place, before = {}, 0.0, ""
    for name in shown:
        group = next(group for group, names in GROUPS.items() if name in names)
        place += 0.5 if before and group != before else 0
        found[name], before = place, group
        place += 1
    return found


def _bars(
    axes: Any, rows: Sequence[Row], places: Mapping[str, float], shift: float, wide: float, color: str, name: str
) -> None:
    label: str | None = name
    for row in rows:
        middle = places[row["corruption"]] + shift
        severities = {int(key): 100 - error for key, error in (row.get("errors") or {}).items()}
        if row.get("error") is not None:
            axes.bar(middle, 100 - row["error"], 0.94 * wide, color=color, alpha=0.55, linewidth=0, label=label)
            label = None
        if severities:
            xs = [middle + (severity - 3) * wide * 0.17 for severity in severities]
            axes.plot(xs, list(severities.values()), color=color, marker="o", markersize=2.6, linewidth=0.9)


def _dress(axes: Any, shown: Sequence[str], places: Mapping[str, float], title: str, ink: str, grid: str) -> None:
    axes.set_title(title.replace("$", r"\$"), color=ink, fontsize=11, loc="left")
    axes.set_ylabel("top-1, %", color=ink, fontsize=9)
    axes.set_xticks([places[name] for name in shown], [told(name) for name in shown], rotation=38, ha="right")
    axes.tick_params(colors=ink, labelsize=8.5, length=0)
    axes.grid(color=grid, linewidth=0.8, axis="y")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(grid)
    axes.set_ylim(0, 1.04 * axes.get_ylim()[1])
    axes.margins(x=0.015)
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    names = [name for name in found if not name.endswith(CLEAN_WORDS)]
    names = [each for name in names for each in (name, name + CLEAN_WORDS) if each in found]
    place = {"loc": "lower left", "bbox_to_anchor": (0.3, 1.0), "ncols": 4, "borderaxespad": 0.2}
    handles = [found[name] for name in names]
    axes.legend(handles, names, frameon=False, labelcolor=ink, fontsize=9, **place)
