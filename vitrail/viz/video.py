"""Objects followed through a video: J and F over time, and frames with their masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vitrail.viz.canvas import PAPER, Color, Theme, fit, wrapped
from vitrail.viz.curves import COLORS, Curve, Look, curves_figure, pixels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OBJECTS: tuple[Color, ...] = tuple((int(c[1:3], 16), int(c[3:5], 16), int(c[5:], 16)) for c in COLORS)
"""Of the objects 1, 2, ..., again from the first after the last."""
_DASHES: Mapping[str, Any] = {"j": "-", "f": (0, (5, 1.6))}


def video_curve(
    objects: Mapping[str, Mapping[str, Sequence[float]]], *, look: Look = "light", dots_per_inch: int = 100, **how: Any
) -> Image.Image:
    """The figure as pixels: RGBA where `look="both"`, RGB otherwise. Other arguments: see `video_figure`."""
    picture = pixels_of(video_figure(objects, look=look, **how), dots_per_inch)
    return picture if look == "both" else picture.convert("RGB")


def video_figure(
    objects: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    title: str = "",
    x: Sequence[float] | None = None,
    x_label: str = "frame",
    look: Look = "light",
    size: tuple[float, float] = (6.4, 3.8),
) -> Figure:
    """J (solid) and F (dashed) of each object in a color of its own; what a first mask earns that is kept is dotted.

    Args:
        objects: by name; `j` and `f` in percent, one value a frame, and where known `floor_j`.
        title: above.
        x: of the values, ascending; by default the numbers of the frames from 1, for the first one does not count.
        look: "light", "dark", or "both": a transparent picture that can be read on either.
        size: inches.

    Raises:
        ValueError: no object.
    """
    from matplotlib.ticker import MaxNLocator

    if not objects:
        raise ValueError("there is no object to draw; give at least one")
    places = {name: list(range(1, len(each["j"]) + 1)) if x is None else list(x) for name, each in objects.items()}
    lines = {
        f"{name}, {key.upper()}": Curve(places[name], each[key]) for name, each in objects.items() for key in _DASHES
    }
    figure = curves_figure(lines, title=title, x_label=x_label, y_label="percent", look=look, size=size)
    axes: Any = figure.axes[0]
    for number, (name, each) in enumerate(objects.items()):
        color = COLORS[number % len(COLORS)]
        for drawn, dashes in zip(axes.lines[2 * number : 2 * number + 2], _DASHES.values()):
            drawn.set(color=color, linestyle=dashes)
        if "floor_j" in each:
            label = "J of the first mask kept" if number == 0 else None
            axes.plot(places[name], each["floor_j"], color=color, linestyle=(0, (1, 2)), linewidth=1, label=label)
    ink = axes.yaxis.label.get_color()
    if x is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(-2, 102)
    axes.legend(frameon=False, labelcolor=ink, fontsize=8, ncols=1 + len(objects) // 4, loc="best")
    return figure


def masked(image: Image.Image, ids: np.ndarray, opacity: float = 0.5) -> Image.Image:
    """The picture with each object in its color, and a line of it around.

    Args:
        image: RGB.
        ids: `[H, W]` of the picture's size; 0 is no object.
        opacity: of the colors, in [0, 1].

    Raises:
        ValueError: a mask of another size.
    """
    if ids.shape != (image.height, image.width):
        raise ValueError(
            f"a mask of {ids.shape[1]} x {ids.shape[0]} px for a picture of {image.width} x {image.height} px"
        )
    pixels = np.array(image.convert("RGB"), dtype=np.float64)
    colors = np.array([(0, 0, 0), *OBJECTS], np.float64)
    place = np.where(ids > 0, (ids.astype(np.int64) - 1) % len(OBJECTS) + 1, 0)
    framed = np.pad(ids, 1, mode="edge")
    edge = np.zeros(ids.shape, bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        edge |= framed[dy : dy + ids.shape[0], dx : dx + ids.shape[1]] != ids
    share = np.where(ids > 0, np.where(edge, 1.0, opacity), 0.0)[..., None]
    return Image.fromarray((pixels * (1 - share) + colors[place] * share + 0.5).astype(np.uint8))


def video_sheet(
    frames: Sequence[Image.Image],
    masks: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    columns: int = 4,
    cell: int = 240,
    theme: Theme = PAPER,
) -> Image.Image:
    """Frames with their masks side by side.

    Args:
        frames: RGB.
        masks: `[H, W]` of object ids each.
        captions: one a frame.
        columns: pictures in a row.
        cell: longer side of a picture, pixels.

    Raises:
        ValueError: other numbers of frames, masks and captions, or none.
    """
    if not frames or not len(frames) == len(masks) == len(captions):
        raise ValueError(
            f"{len(frames)} frames, {len(masks)} masks, {len(captions)} captions; give one of each a frame"
        )
    pictures = []
    for frame, ids in zip(frames, masks):
        small = fit(frame, cell)
        resized = Image.fromarray(np.asarray(ids, np.uint8)).resize(small.size, Image.Resampling.NEAREST)
        pictures.append(masked(small, np.array(resized)))
    return wrapped(pictures, captions, min(columns, len(pictures)), theme=theme)
