"""Training curves of several runs in one axis, with a band where a run was repeated with other seeds.

The line is the mean over seeds, the band reaches from the lowest to the highest. A figure is a matplotlib
`Figure` of its own: nothing of pyplot's global state is touched, so it can be drawn from any thread or
notebook. Where all curves have one point, at one place, the axis has that place alone: there is nothing between.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from vitrail.viz.canvas import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Look = Literal["both", "light", "dark"]
Legend = Literal["inside", "below", "none"]
_INSIDE = 4  # curves, at most, whose names find room among them
COLORS = ("#3b78d8", "#cf4a5b", "#1f9a76", "#b9820f", "#8a63c7", "#1792ab", "#c0569a", "#7d8a2e")
_STYLES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.6, 1.4)), (0, (6, 1.4, 1.4, 1.4)))
LOOKS: Mapping[str, tuple[str, str, str]] = {
    "both": ("#7a8390", "#80808040", "none"),
    "light": ("#3a4250", "#e3e6ea", "#ffffff"),
    "dark": ("#c3c9d2", "#343a44", "#181b21"),
}
"""Ink, grid, background. "both" is drawn on nothing, in a gray that stands out from white and from black."""


class Curve(NamedTuple):
    """One run's values; non-finite ones leave gaps."""

    x: Sequence[float]  # ascending: steps or epochs
    y: Sequence[float]


def curves_figure(
    curves: Mapping[str, Curve | Sequence[Curve]],
    *,
    title: str = "",
    x_label: str = "epoch",
    y_label: str = "",
    log_y: bool = False,
    dashes: bool = False,
    look: Look = "both",
    size: tuple[float, float] = (6.4, 3.6),
    legend: Legend | None = None,
) -> Figure:
    """Draw curves.

    Args:
        curves: name of a run -> its curve, or one curve per seed.
        log_y: logarithmic vertical axis; values at and below 0 leave gaps.
        dashes: whether neighbors differ in their dashes, too, for many lines and color-blind eyes; without, only those
            of one color do.
        look: "light", "dark", or "both": a transparent picture that can be read on either.
        size: inches, without a legend below, which makes the figure higher.
        legend: where the names stand; by default among up to four curves, and below more.

    Raises:
        ValueError: no curve, x and y of different length, x that does not ascend, or a run without finite
            values.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    if not curves:
        raise ValueError("give at least one curve")
    ink, grid, background = LOOKS[look]
    figure = Figure(figsize=size, layout="constrained", facecolor=background)
    axes = figure.add_subplot(facecolor=background)
    for number, (name, given) in enumerate(curves.items()):
        x, center, low, high = mean_and_band([given] if isinstance(given, Curve) else given, name)
        color = COLORS[number % len(COLORS)]
        turn = number // len(COLORS)
        style = _STYLES[(number * dashes + turn) % len(_STYLES)]
        seeds = 1 if isinstance(given, Curve) else len(given)
        label = name if seeds == 1 else f"{name} ({seeds} seeds)"
        marker = "o" if np.isfinite(center).sum() == 1 else None
        label = f"\u200b{label}" if label.startswith("_") else label  # a leading underscore hides a label
        axes.plot(
            x,
            center,
            color=color,
            linestyle=style,
            linewidth=1.8,
            label=label.replace("$", r"\$"),
            marker=marker,
        )
        if seeds > 1:
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    if log_y:
        axes.set_yscale("log", nonpositive="mask")
        for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            ticks(StrMethodFormatter("{x:g}"))
    _dress(axes, title, x_label, y_label, ink, grid)
    _mark_x(axes)
    legend = legend or ("inside" if len(curves) <= _INSIDE else "below")
    if legend == "inside":
        axes.legend(frameon=False, labelcolor=ink, fontsize=9)
    elif legend == "below":
        legend_below(axes)
    return figure


def legend_below(axes: Any, size: float = 8.5) -> None:
    """Names of lines below an axis, in as many columns as they fit into; the figure grows by what they need.

    Args:
        axes: with its lines, in a constrained layout, alone in its figure.
        size: of the names, points.
    """
    figure, ink = axes.figure, axes.xaxis.label.get_color()
    names = axes.get_legend_handles_labels()[1]
    width, height = figure.get_size_inches()
    longest = max(map(len, names)) * 0.58 * size / 72 + 0.55  # inches, with the piece of line before it
    columns = max(1, min(len(names), int((width - 0.5) / longest)))
    figure.set_size_inches(width, height + (-(-len(names) // columns) * 1.6 * size + 6) / 72)
    axes.legend(
        frameon=False,
        labelcolor=ink,
        fontsize=size,
        ncols=columns,
        loc="upper left",
        bbox_to_anchor=(0, -0.55 / height),
        borderaxespad=0,
    )


def curves_png(curves: Mapping[str, Curve | Sequence[Curve]], *, dots_per_inch: int = 160, **how: Any) -> Image.Image:
    """The figure as pixels: RGBA where `look="both"`, RGB otherwise. Other arguments: see `curves_figure`."""
    picture = pixels_of(curves_figure(curves, **how), dots_per_inch)
    return picture if how.get("look", "both") == "both" else picture.convert("RGB")


def pixels_of(figure: Figure, dots_per_inch: int = 160) -> Image.Image:
    """A figure as an RGBA picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dots_per_inch)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()).copy())


def curves_svg(curves: Mapping[str, Curve | Sequence[Curve]], **how: Any) -> str:
    """The figure as SVG text, the same for the same curves. Other arguments as for `curves_figure`."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure = curves_figure(curves, **how)
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "vitrail", "svg.fonttype": "path"}):
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    return stream.getvalue()


def mean_and_band(curves: Sequence[Curve], name: str = "run") -> tuple[Array, Array, Array, Array]:
    """x, mean, lowest and highest over seeds, `[n]` each.

    x are those of the first seed, cut to the range that all seeds have; the other seeds are interpolated
    linearly there. A point that is not finite in one seed is a gap (NaN) in all four but x.

    Raises `ValueError` for curves that cannot be drawn.
    """
    if not curves:
        raise ValueError(f"{name}: give at least one curve")
    arrays = [_checked(curve, name) for curve in curves]
    first, last = max(x[0] for x, _ in arrays), min(x[-1] for x, _ in arrays)
    if first > last:
        raise ValueError(f"{name}: its seeds have no x in common (one starts at {first:g}, one ends at {last:g})")
    x = arrays[0][0]
    x = x[(x >= first) & (x <= last)]
    if not len(x):
        raise ValueError(f"{name}: its first seed has no point between {first:g} and {last:g}, where all seeds have")
    values = np.stack([np.interp(x, *array) for array in arrays])
    values = np.where(np.isfinite(values).all(0), values, np.nan)
    if not np.isfinite(values).any():
        raise ValueError(f"{name}: no finite value to draw")
    return x, values.mean(0), values.min(0), values.max(0)


def _checked(curve: Curve, name: str) -> tuple[Array, Array]:
    x, y = np.asarray(curve.x, dtype=np.float64), np.asarray(curve.y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"{name}: x is shaped {x.shape}, y {y.shape}; give as many of each, at least one")
    if not np.isfinite(x).all() or (np.diff(x) < 0).any():
        raise ValueError(f"{name}: x must be finite and ascend; sort the points by x")
    return x, y


def _dress(axes: Any, title: str, x_label: str, y_label: str, ink: str, grid: str) -> None:
    words = [word.replace("$", r"\$") for word in (title, x_label, y_label)]
    axes.set_title(words[0], color=ink, fontsize=11, loc="left")
    axes.set_xlabel(words[1], color=ink, fontsize=9)
    axes.set_ylabel(words[2], color=ink, fontsize=9)
    axes.tick_params(colors=ink, labelsize=8.5, length=0, which="both")
    axes.grid(color=grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(grid)


def _mark_x(axes: Any) -> None:
    """Marks at whole numbers where all x are; only at the value where there is one, and so of y."""
    from matplotlib.ticker import MaxNLocator

    xs, ys = ({float(v) for line in axes.lines for v in line.get_data()[each] if np.isfinite(v)} for each in (0, 1))
    if len(xs) == 1:
        (x,) = xs
        axes.set_xticks([x], [f"{x:g}"])
        if len(ys) == 1:
            (y,) = ys
            axes.set_yticks([y], [f"{y:.4g}"])
            axes.set_yticks([], minor=True)
    elif all(value == round(value) for value in xs):
        axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 5, 10]))
