"""Decoding: any image file to upright 8-bit RGB, or an error in words.

What is done with what is not RGB:

- gray, bilevel, palette, CMYK, YCbCr and HSV are converted; color profiles are not applied;
- transparency is laid on white, the paper that pictures are printed on; what lies hidden under it is not
  shown;
- 16-bit gray is scaled from 0..65535 and floating point gray from 0..1; values beyond that range are scaled
  from their own least and greatest, so that nothing is clipped;
- the EXIF orientation is applied: images are as a viewer shows them, and so must boxes and masks be;
- of several frames (GIF, TIFF, APNG) the first one is taken.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".png", ".apng", ".gif", ".webp", ".avif"),
        *(".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
"""What counts as an image in a folder, in lower case; upper case is the same."""

MAX_PIXELS = 178_956_970
"""Images that claim to be larger are refused before they are decoded: a few bytes can unpack to gigabytes."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WITH_ALPHA = {"RGBA", "RGBa", "LA", "La", "PA"}
_MACHINE_TROUBLE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}


class UnreadableImage(Exception):
    """A file that cannot be used as an image. Has `path` and `reason`, both in words for people."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(self.path, reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image file as upright 8-bit RGB.

    Raises:
        UnreadableImage: the file is missing, empty, truncated, no image, larger than `max_pixels`, or of a
            mode that has no RGB. Trouble of the machine (too many open files, no memory) is raised as it is.
    """
    try:
        with _opened(path, max_pixels) as image:
            image.load()
            return to_rgb(image)
    except UnreadableImage as error:
        raise UnreadableImage(path, error.reason) from None
    except Exception as error:
        raise _in_words(path, error) from error


def open_mask(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a mask of class ids, `[H, W]` uint8, as stored: palette indices (not their colors) or gray values.

    Raises:
        UnreadableImage: as `open_image`, and for a picture in colors, which holds no ids.
    """
    try:
        with _opened(path, max_pixels) as image:
            if image.mode not in {"P", "L", "1"}:
                raise UnreadableImage(path, f"a mask of class ids is palette or gray, this is {image.mode}")
            return np.array(image, dtype=np.uint8)
    except UnreadableImage:
        raise
    except Exception as error:
        raise _in_words(path, error) from error


def upright_size(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of an image as `open_image` gives it, by its header alone. Raises `UnreadableImage`."""
    try:
        with _opened(path, max_pixels) as image:
            width, height = image.size
            return (height, width) if _orientation(image) >= 5 else (width, height)
    except UnreadableImage as error:
        raise UnreadableImage(path, error.reason) from None
    except Exception as error:
        raise _in_words(path, error) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An open image of any mode, upright, in 8-bit RGB. Raises `UnreadableImage` where a mode has no RGB."""
    turn = _UPRIGHT.get(_orientation(image))
    if image.mode != "RGB" or "transparency" in image.info:
        image = _converted(image)
    return image.transpose(turn) if turn is not None else image


def _opened(path: str | Path, max_pixels: int) -> Image.Image:
    image = Image.open(path)
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise UnreadableImage(
            path,
            f"claims {width} x {height} pixels, more than the {max_pixels:,} allowed (a decompression bomb?)",
        )
    return image


def _orientation(image: Image.Image) -> int:
    # Broken EXIF is common in the wild and no reason to lose the picture.
    with contextlib.suppress(Exception):
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _converted(image: Image.Image) -> Image.Image:
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        picture = image.convert("RGBA")
        paper = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, picture).convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bits(image))
    try:
        return image.convert("RGB")
    except ValueError:
        raise UnreadableImage(_name(image), f"color mode {image.mode} cannot be shown as RGB") from None


def _eight_bits(image: Image.Image) -> np.ndarray:
    wide = np.asarray(image).astype(np.float64)
    if not np.isfinite(wide).all():
        raise UnreadableImage(_name(image), "holds NaN or infinite values")
    low, high = float(wide.min()), float(wide.max())
    top = 1.0 if image.mode == "F" else 65535.0
    if low >= 0 and high <= top:
        low, high = 0.0, top
    scaled = (wide - low) * (255.0 / (high - low if high > low else 1.0))
    return np.floor(scaled + 0.5).astype(np.uint8)


def _name(image: Image.Image) -> str:
    return str(getattr(image, "filename", "")) or "an image in memory"


def _in_words(path: str | Path, error: Exception) -> Exception:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _MACHINE_TROUBLE):
        return error
    return UnreadableImage(path, _reason(path, error))


def _reason(path: str | Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file does not exist (any more)"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if isinstance(error, IsADirectoryError):
        return "this is a folder, not a file"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels (a decompression bomb?): {error}"
    if isinstance(error, UnidentifiedImageError):
        with contextlib.suppress(OSError):
            if os.path.getsize(path) == 0:
                return "the file is empty (0 bytes)"
        return "no image, or a format that Pillow does not know"
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return f"the file is truncated ({error})"
    return f"the file is damaged ({type(error).__name__}: {error})"
