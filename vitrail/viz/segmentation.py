"""Label maps in colors: an image, what is true and what a segmenter says, side by side, with a legend.

Colors come from the class's number alone, by the bits of the palette that VOC made usual, so that a class has one color
in every picture. Ignored pixels are light gray.

Source: the palette is that of the VOC development kit (Everingham et al. 2010).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vitrail.viz.canvas import PAPER, Color, Theme, fit, sheet, stacked, wrapped

Ids = NDArray[np.int64]
UNKNOWN: Color = (222, 224, 228)


class Segmented(NamedTuple):
    """An image and the classes of its pixels; negative ids are ignored."""

    image: Image.Image
    truth: Ids  # [H, W]
    predicted: Ids  # [h, w], stretched over the image
    title: str = ""


def color_of(label: int, background: bool = False) -> Color:
    """The color of a class.

    Args:
        label: its number, 0 or more.
        background: whether class 0 is a background, which is black; otherwise colors begin with the next one.

    Raises:
        ValueError: a negative number.
    """
    if label < 0:
        raise ValueError(f"class {label} has no color; ignored pixels have the color UNKNOWN")
    number = label if background else label + 1
    channels = [0, 0, 0]
    for bit in range(7, -1, -1):
        for place in range(3):
            channels[place] |= (number >> place & 1) << bit
        number >>= 3
    return channels[0], channels[1], channels[2]


def colored(classes: Ids, background: bool = False) -> Image.Image:
    """A map `[H, W]` of class ids as a picture; negative ids are light gray. Raises `ValueError` for another shape."""
    if classes.ndim != 2 or not classes.size:
        raise ValueError(f"a label map has shape {classes.shape}, not [H, W]")
    palette = np.array([UNKNOWN, *(color_of(label, background) for label in range(int(classes.max()) + 1))], np.uint8)
    return Image.fromarray(palette[np.maximum(classes, -1) + 1])


def segmentation_sheet(
    rows: Sequence[Segmented],
    classes: Sequence[str],
    *,
    background: bool = False,
    cell: int = 224,
    most: int = 24,
    theme: Theme = PAPER,
) -> Image.Image:
    """A row for each image: itself, the truth, the prediction; below, what the colors mean.

    Args:
        rows: at least one.
        classes: names of the ids 0, 1, ...
        background: whether class 0 is a background, which is black.
        cell: longer side of a picture, pixels.
        most: how many classes the legend holds, those of most pixels; it says how many it leaves out.
        theme: `PAPER` or `LEAD`.

    Raises:
        ValueError: no row, or an id without a name.
    """
    if not rows:
        raise ValueError("a sheet of label maps needs at least one image")
    counts: Counter[int] = Counter()
    pictures = []
    for row in rows:
        for ids in (row.truth, row.predicted):
            values, found = np.unique(ids, return_counts=True)
            counts.update(dict(zip(values.tolist(), (found / ids.size).tolist())))
        image = fit(row.image, cell)
        maps = [colored(ids, background).resize(image.size, Image.Resampling.NEAREST) for ids in row[1:3]]
        pictures.append([image, *maps])
    if max(counts) >= len(classes):
        raise ValueError(f"a map holds the class {max(counts)}, and there are names for 0 to {len(classes) - 1}")
    titles = [row.title for row in rows] if any(row.title for row in rows) else []
    columns = ["image", "ground truth", "prediction"]
    grid = sheet(pictures, row_titles=titles, column_titles=columns, theme=theme)
    ranked = [label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if label >= 0]
    named = [(color_of(label, background), classes[label]) for label in sorted(ranked[:most])]
    if -1 in counts:
        named.append((UNKNOWN, "not labeled"))
    left = f"and {len(ranked) - most} more" if len(ranked) > most else ""
    return stacked([grid, _legend(named, left, grid.width, theme)], theme)


def _legend(named: Sequence[tuple[Color, str]], left: str, width: int, theme: Theme) -> Image.Image:
    swatch, gap = 92, 10
    pictures, captions = [], []
    for color, name in named:
        square = Image.new("RGB", (swatch, 14), theme.background)
        ImageDraw.Draw(square).rectangle((0, 0, 27, 13), fill=color, outline=theme.faint)
        pictures.append(square)
        captions.append(name)
    if left:
        pictures.append(Image.new("RGB", (swatch, 14), theme.background))
        captions.append(left)
    columns = max(1, (width - gap) // (swatch + gap))
    return wrapped(pictures, captions, columns, theme=theme, gap=gap, text_size=12)
