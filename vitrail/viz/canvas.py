"""From numbers to pictures, and from pictures to one sheet with captions.

Everything that the other files of this room draw goes through here: pixels are un-normalized, small maps are
enlarged, captions are set in Pillow's own typeface, so a sheet looks the same on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

Array = NDArray[np.float64]
Color = tuple[int, int, int]
_WIDEST_WORD = 9  # times the text's size, that is kept on one line
_SUPERSAMPLING = 4  # text is drawn this much larger and averaged down: even spacing at small sizes


class Theme(NamedTuple):
    """Colors of a sheet, as RGB in 0..255."""

    background: Color
    ink: Color
    faint: Color  # secondary text


PAPER = Theme((255, 255, 255), (27, 33, 43), (96, 104, 117))
LEAD = Theme((24, 27, 33), (238, 240, 243), (158, 166, 178))


def to_image(
    pixels: Tensor, mean: Sequence[float] | Tensor | None = None, std: Sequence[float] | Tensor | None = None
) -> Image.Image:
    """A picture from a tensor, with normalization taken back.

    Args:
        pixels: `[3, H, W]` or `[1, H, W]`; uint8, or floating point that un-normalizes to [0, 1] (the rest is
            clipped).
        mean, std: per channel, as they were subtracted and divided by; None where pixels are not normalized.

    Raises:
        ValueError: another shape, NaN or infinite pixels, or only one of mean and std.
    """
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(
            f"pixels have shape {tuple(pixels.shape)}, not [3, H, W] or [1, H, W]; take one image of a batch"
        )
    if (mean is None) != (std is None):
        raise ValueError("give both mean and std, or neither")
    values = pixels.detach().cpu()
    if values.dtype == torch.uint8:
        values = values.double() / 255
    values = values.double()
    if mean is not None and std is not None:
        shift, scale = (torch.as_tensor(part).double().cpu().reshape(-1, 1, 1) for part in (mean, std))
        values = values * scale + shift
    if not values.isfinite().all():
        raise ValueError("pixels hold NaN or infinite values; there is nothing true to draw")
    levels = (values.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def as_map(values: Tensor | Array, name: str = "map") -> Array:
    """A float64 array `[Y, X]` of finite numbers; `ValueError`, naming the map, for anything else."""
    return as_maps(values, name, axes=2)


def as_maps(values: Tensor | Array, name: str = "maps", axes: int = 3) -> Array:
    """A float64 array `[H, Y, X]` of finite numbers; `ValueError`, naming the maps, for anything else."""
    array = np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, dtype=np.float64)
    if array.ndim != axes or 0 in array.shape:
        wanted = "[H, Y, X]" if axes == 3 else "[Y, X]"
        raise ValueError(f"{name} have shape {array.shape}, not {wanted}; take one image of a batch")
    if not np.isfinite(array).all():
        broken = int((~np.isfinite(array)).sum())
        raise ValueError(f"{name} hold {broken} NaN or infinite values of {array.size}; check the weights, or use fp32")
    return array


def to_unit(values: Array, low: float | None = None, high: float | None = None) -> Array:
    """`values` with [low, high] (by default lowest and highest) moved to [0, 1]; constant ones become 0."""
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    # Halved first, so that even the range of the largest floats does not overflow.
    span = high / 2 - low / 2
    if not span > 0:
        return np.zeros_like(values)
    result: Array = np.clip((values / 2 - low / 2) / span, 0.0, 1.0)
    return result


def enlarge(values: Array, size: tuple[int, int], smooth: bool = False) -> Array:
    """A map `[Y, X]` with values in [0, 1] at `size` (width, height) in pixels: `[height, width]`.

    Nearest shows the patches as they are; `smooth` is bicubic, clipped to the map's range, which it
    overshoots.
    """
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    large = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, method), dtype=np.float64)
    result: Array = np.clip(large, values.min(), values.max())
    return result


def paint(values: Array, colormap: str = "inferno") -> Image.Image:
    """A map `[h, w]` with values in [0, 1] as an RGB picture, through one of matplotlib's colormaps."""
    from matplotlib import colormaps

    return Image.fromarray((colormaps[colormap](values)[..., :3] * 255).round().astype(np.uint8))


def fit(image: Image.Image, longest: int) -> Image.Image:
    """The picture as RGB with its longer side `longest` pixels, shrunk or grown."""
    image = image.convert("RGB")
    scale = longest / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)


def grayed(image: Image.Image) -> Image.Image:
    """The picture as RGB without its colors."""
    return ImageOps.grayscale(image.convert("RGB")).convert("RGB")


def edged(image: Image.Image, theme: Theme = PAPER) -> Image.Image:
    """The picture with a thin line on its outermost pixels, so that it ends somewhere on paper of its own color."""
    image = image.convert("RGB")
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=theme.faint)
    return image


def widened(image: Image.Image, least: int, theme: Theme = PAPER) -> Image.Image:
    """The picture on a strip at least `least` pixels wide, so that words fit under one that is tall and narrow."""
    if image.width >= least:
        return image
    strip = Image.new("RGB", (least, image.height), theme.background)
    strip.paste(image, (0, 0))
    return strip


def sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    *,
    captions: Sequence[Sequence[str]] = (),
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    theme: Theme = PAPER,
    gap: int = 10,
    text_size: int = 13,
) -> Image.Image:
    """Pictures in a grid. Columns are as wide as their widest picture, rows as high as their highest.

    A column of narrow pictures is as wide as the longest word above or below them, up to nine times the text's size.

    Args:
        rows: pictures, row by row; None leaves a cell empty, rows may differ in length.
        captions: one text under each picture, shaped like `rows`.
        row_titles, column_titles: text left of each row, above each column.
        theme: `PAPER` (white) or `LEAD` (dark).
        gap, text_size: pixels.

    Returns:
        An RGB picture.

    Raises:
        ValueError: no picture at all, or captions and titles that do not match the rows.
    """
    columns = max((len(row) for row in rows), default=0)
    if not any(cell is not None for row in rows for cell in row):
        raise ValueError("a sheet needs at least one picture")
    _check_counts(rows, captions, row_titles, column_titles, columns)
    cells = [[*row, *[None] * (columns - len(row))] for row in rows]
    words = _column_words(captions, column_titles, columns)
    widths = [
        max([_room(words[x], text_size), *(cell.width for row in cells if (cell := row[x]) is not None)])
        for x in range(columns)
    ]
    heights = [max((cell.height for cell in row if cell is not None), default=1) for row in cells]
    under = [
        [_paragraph(text, width, text_size, theme.faint, theme) for text, width in zip(texts, widths)]
        for texts in captions
    ]
    left = [_paragraph(text, _WIDEST_WORD * text_size, text_size, theme.ink, theme) for text in row_titles]
    top = [_paragraph(text, width, text_size, theme.ink, theme) for text, width in zip(column_titles, widths)]
    under_heights = [max((text.height for text in texts), default=0) for texts in under] or [0] * len(rows)
    first_x = gap + max((text.width + gap for text in left), default=0)
    x_of = list(accumulate((width + gap for width in widths), initial=first_x))
    steps = (height + under_height + gap for height, under_height in zip(heights, under_heights))
    y_of = list(accumulate(steps, initial=gap + max((text.height + gap // 2 for text in top), default=0)))
    placed = [(text, x, y_of[0] - gap // 2 - text.height) for text, x in zip(top, x_of)]
    placed += [(text, gap, y + max(0, (h - text.height) // 2)) for text, y, h in zip(left, y_of, heights)]
    for row, y in zip(cells, y_of):
        placed += [(cell.convert("RGB"), x, y) for cell, x in zip(row, x_of) if cell is not None]
    for texts, y, height in zip(under, y_of, heights):
        placed += [(text, x, y + height) for text, x in zip(texts, x_of)]
    canvas = Image.new("RGB", (x_of[-1], y_of[-1]), theme.background)
    for picture, x, y in placed:
        canvas.paste(picture, (x, y))
    return canvas


def wrapped(
    pictures: Sequence[Image.Image],
    captions: Sequence[str],
    columns: int,
    *,
    theme: Theme = PAPER,
    gap: int = 10,
    text_size: int = 13,
) -> Image.Image:
    """Pictures side by side with captions, a new row after every `columns`."""
    if len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures but {len(captions)} captions; give one for each")
    if columns < 1:
        raise ValueError(f"columns is {columns}; give at least 1")
    starts = range(0, len(pictures), columns)
    return sheet(
        [pictures[start : start + columns] for start in starts],
        captions=[captions[start : start + columns] for start in starts],
        theme=theme,
        gap=gap,
        text_size=text_size,
    )


def stacked(parts: Sequence[Image.Image], theme: Theme = PAPER) -> Image.Image:
    """Pictures one below the other, aligned left."""
    if not parts:
        raise ValueError("give at least one picture to stack")
    canvas = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts)), theme.background)
    y = 0
    for part in parts:
        canvas.paste(part, (0, y))
        y += part.height
    return canvas


def heading(text: str, width: int, *, theme: Theme = PAPER, size: int = 16, gap: int = 10) -> Image.Image:
    """A line of text (or several, wrapped) on a strip `width` pixels wide."""
    words = _paragraph(text, width - 2 * gap, size, theme.ink, theme)
    strip = Image.new("RGB", (width, words.height + gap), theme.background)
    strip.paste(words, (gap, gap))
    return strip


def _check_counts(
    rows: Sequence[Sequence[Image.Image | None]],
    captions: Sequence[Sequence[str]],
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    columns: int,
) -> None:
    if captions and [len(texts) for texts in captions] != [len(row) for row in rows]:
        counts = [len(texts) for texts in captions]
        raise ValueError(f"captions are shaped {counts}, pictures {[len(row) for row in rows]}; give one for each")
    if row_titles and len(row_titles) != len(rows):
        raise ValueError(f"{len(row_titles)} row titles for {len(rows)} rows; give one for each")
    if column_titles and len(column_titles) != columns:
        raise ValueError(f"{len(column_titles)} column titles for {columns} columns; give one for each")


def _paragraph(text: str, width: int, size: int, color: Color, theme: Theme) -> Image.Image:
    lines = _lines(text, width, size)
    step = round(size * 1.3)
    widest = max((_line(line, size).width for line in lines), default=1)
    picture = Image.new("RGB", (max(1, min(width, widest)), step * len(lines) + 4 if text else 1), theme.background)
    for number, line in enumerate(lines):
        ink = _line(line, size)
        picture.paste(color, (0, 4 + step * number, ink.width, 4 + step * number + ink.height), ink)
    return picture


def _lines(text: str, width: int, size: int) -> list[str]:
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for piece in (piece for word in re.split(r"[ \t]+", paragraph) for piece in _pieces(word, width, size)):
            longer = f"{line} {piece}".strip()
            if line and _line(longer, size).width > width:
                lines.append(line)
                line = piece
            else:
                line = longer
        lines.append(line)
    return lines


def _column_words(captions: Sequence[Sequence[str]], titles: Sequence[str], columns: int) -> list[list[str]]:
    """All words above and below the pictures of each column."""
    texts = [[row[x] for row in (titles, *captions) if x < len(row)] for x in range(columns)]
    return [[word for text in column for word in re.split(r"[ \t\n]+", text)] for column in texts]


def _room(words: Sequence[str], size: int) -> int:
    """What the widest of the words needs, but not what a file name does."""
    return min(max((_line(word, size).width for word in words), default=1), _WIDEST_WORD * size)


def _pieces(word: str, width: int, size: int) -> list[str]:
    """A word, cut where it is wider than `width` (file names are): after `_`, `-`, `/` or `.`, else anywhere."""
    pieces = [""]
    for part in re.findall(r"[^_/.-]*[_/.-]*", word)[:-1] if _line(word, size).width > width else [word]:
        if _line(pieces[-1] + part, size).width <= width:
            pieces[-1] += part
            continue
        while len(part) > 1 and _line(part, size).width > width:
            fits = next((n for n in range(len(part) - 1, 1, -1) if _line(part[:n], size).width <= width), 1)
            pieces.append(part[:fits])
            part = part[fits:]
        pieces.append(part)
    return [piece for piece in pieces if piece] or [""]


@lru_cache(maxsize=1024)
def _line(text: str, size: int) -> Image.Image:
    text = text.replace("\u00a0", " ")  # has kept two words on one line
    font = _font(size * _SUPERSAMPLING, text.isascii())
    box = font.getbbox(text)
    width, height = (int(-(-box[2] // _SUPERSAMPLING)) or 1), round(size * 1.3)
    large = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    ImageDraw.Draw(large).text((0, 0), text, fill=255, font=font)
    return large.resize((width, height), Image.Resampling.BOX)


@lru_cache(maxsize=32)
def _font(size: int, ascii_only: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if ascii_only:
        return ImageFont.load_default(size)
    # Pillow's typeface has few letters beyond ASCII; matplotlib brings one that knows most alphabets.
    import matplotlib

    path = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(path, round(size * 0.92), layout_engine=ImageFont.Layout.BASIC)
