"""Pictures as text inside the page, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

# Longest side in pixels and WebP quality, tried from the first on until everything fits.
LEVELS = ((2400, 90), (1800, 85), (1400, 82), (1000, 80), (700, 75), (480, 70), (320, 60))
WORDS = 600  # characters of the sentences about what was done to fit, at most
_LONGEST = 80  # characters of a folder's name in them
_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


class Embedded(NamedTuple):
    """One picture for the page. Either `uri` or `problem` is empty."""

    uri: str
    width: int = 0
    height: int = 0
    problem: str = ""


def embed(sources: Sequence[Path | Image.Image], budget: int) -> tuple[list[Embedded], str]:
    """Pictures as data URIs of together at most `budget` bytes.

    Where they do not fit as they are, all are scaled down and re-encoded alike, so that pictures that stand
    side by side stay comparable; where that is not enough, the last ones are left out.

    Args:
        sources: picture files (PNG, JPEG, WebP) or pictures.
        budget: bytes of all URIs together.

    Returns:
        One entry per source, and a sentence about what was done to fit (empty where nothing was).
    """
    found = [_as_is(source) for source in sources]
    if _size(found) <= budget:
        return found, ""
    for longest, quality in LEVELS:
        found = [one if one.problem else _smaller(source, one, longest, quality) for source, one in zip(sources, found)]
        if _size(found) <= budget:
            break
    words = (
        f"To keep this page small, pictures were scaled down to at most {longest} pixels and re-encoded"
        f" (WebP, quality {quality}).{_originals(sources)}"
    )
    left_out = 0
    for number in range(len(found) - 1, -1, -1):
        if _size(found) <= budget:
            break
        if found[number].uri:
            found[number] = Embedded("", problem="left out: the page would be too large")
            left_out += 1
    if left_out:
        words += f" {left_out} of {len(found)} pictures did not fit even so and are left out."
    return found, words


def _originals(sources: Sequence[Path | Image.Image]) -> str:
    """Where pictures lie as they were: two folders by name, and how many more there are."""
    folders = list(dict.fromkeys(str(source.parent) for source in sources if isinstance(source, Path)))
    named = [name if len(name) <= _LONGEST else f"...{name[3 - _LONGEST :]}" for name in folders[:2]]
    named += [f"{len(folders) - 2} more"] * (len(folders) > 2)
    words = f" The originals lie in {', '.join(named[:-1])}{' and ' * (len(named) > 1)}{named[-1]}." if named else ""
    if len(folders) and any(isinstance(source, Image.Image) for source in sources):
        return f"{words} Those that were drawn for this page are kept nowhere else."
    return words or " They were drawn for this page and are kept nowhere else."


def _size(found: Sequence[Embedded]) -> int:
    return sum(len(one.uri) for one in found)


def _as_is(source: Path | Image.Image) -> Embedded:
    try:
        if isinstance(source, Image.Image):
            stream = io.BytesIO()
            source.save(stream, "PNG")
            return _encoded(stream.getvalue(), "PNG", source.size)
        content = source.read_bytes()
        with Image.open(io.BytesIO(content), formats=tuple(_MIME)) as picture:
            picture.load()
            return _encoded(content, str(picture.format), picture.size)
    except UnidentifiedImageError:
        return Embedded("", problem="cannot be read: it is no PNG, JPEG or WebP picture")
    except Exception as error:  # decoders raise many kinds of exception on broken files
        return Embedded("", problem=f"cannot be read ({type(error).__name__}: {str(error)[:120]})")


def _smaller(source: Path | Image.Image, before: Embedded, longest: int, quality: int) -> Embedded:
    if isinstance(source, Image.Image):
        picture = source
    else:
        with Image.open(source, formats=tuple(_MIME)) as opened:
            picture = opened.copy()
    picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=quality, method=4)
    after = _encoded(stream.getvalue(), "WEBP", picture.size)
    return after if len(after.uri) < len(before.uri) else before


def _encoded(content: bytes, kind: str, size: tuple[int, int]) -> Embedded:
    return Embedded(f"data:{_MIME[kind]};base64,{base64.b64encode(content).decode()}", *size)
