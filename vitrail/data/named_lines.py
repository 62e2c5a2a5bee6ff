"""Files that say something of images, a line for each: what their lines say, which are wrong, which name no image."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

V = TypeVar("V")
MOST = 20_000
"""Names that are looked through for a similar one."""


class NamedLine(NamedTuple, Generic[V]):
    """A line that could be read."""

    number: int  # from 1
    text: str
    name: str  # of the image, as the file has it
    value: V  # what it says of the image, such as a box


class WrongLine(NamedTuple):
    """A line that could not be read."""

    number: int  # from 1
    text: str
    reason: str  # what was expected


class NamedLines(NamedTuple, Generic[V]):
    """All lines of a file."""

    path: Path
    lines: list[NamedLine[V]]
    wrong: list[WrongLine]  # the others

    def checked(self) -> list[NamedLine[V]]:
        """The lines. Raises `ValueError` where any is wrong, with the first and how many more there are."""
        if self.wrong:
            more = f"; {len(self.wrong) - 1} more lines are wrong" if len(self.wrong) > 1 else ""
            first = self.wrong[0]
            raise ValueError(f"{self.path}:{first.number}: {first.reason}, got {first.text!r}{more}")
        return self.lines


def read_named_lines(path: Path, parse: Callable[[str], tuple[str, V]]) -> NamedLines[V]:
    """Read a file; empty lines are passed over.

    Args:
        parse: a line -> name and value; raises `ValueError`, with what was expected.

    Raises:
        ValueError: no such file.
    """
    if not path.is_file():
        raise ValueError(f"there is no boxes file at {path}")
    lines: list[NamedLine[V]] = []
    wrong: list[WrongLine] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        text = line.strip()
        if not text:
            continue
        try:
            name, value = parse(text)
        except ValueError as error:
            wrong.append(WrongLine(number, text, str(error)))
            continue
        lines.append(NamedLine(number, text, name, value))
    return NamedLines(path, lines, wrong)


def of_images(found: NamedLines[V], names: Collection[str], where: str) -> list[NamedLine[V]]:
    """The lines that name an image; one warning tells of the others.

    Args:
        names: of all images, as lines are to have them.
        where: what they lie in, for the words.

    Raises:
        ValueError: a line is wrong, or none names an image.
    """
    lines = found.checked()
    known = names if isinstance(names, set | dict) else set(names)
    kept = [line for line in lines if line.name in known]
    strangers = [line for line in lines if line.name not in known]
    example = next(iter(names), "class/image.jpg")
    begin = f"lines begin with {'ids' if example.isdecimal() else 'paths'} like {example}"
    if not kept:
        first = f", as line {lines[0].number}, {lines[0].text!r}{_meant(lines[0].name, names)}" if lines else ""
        raise ValueError(f"no line of {found.path} names an image of {where}{first}; {begin}")
    if strangers:
        one = strangers[0]
        count = f"{len(strangers)} of {len(lines)} lines name none and are" if len(strangers) > 1 else "the line is"
        warnings.warn(
            f"{found.path}:{one.number}: {one.text!r} names no image of {where}"
            f"{_meant(one.name, names) or f'; {begin}'}; {count} left out",
            stacklevel=3,
        )
    return kept


def _meant(name: str, names: Collection[str]) -> str:
    near = nearest(name, names)
    return f"; did you mean {near}?" if near else ""


def nearest(name: str, names: Collection[str]) -> str | None:
    """The image that a name may mean; None where none is close.

    It is the path with folders in front of it too many or too few, or one that is spelled alike, in the same folder or
    in one that is spelled alike, and has the same numbers in it: neighbors in a series are no slips of the pen.
    """
    known = names if isinstance(names, set | dict) else set(names)
    parts = name.split("/")
    shorter = ("/".join(parts[start:]) for start in range(1, len(parts)))
    longer = [each for each in names if each.endswith(f"/{name}")]
    found = next((each for each in shorter if each in known), longer[0] if len(longer) == 1 else None)
    if found is not None:
        return found
    folders = sorted({each.rpartition("/")[0] for each in names})
    home = _alike("/".join(parts[:-1]), {each: each for each in folders})
    files = {each.rpartition("/")[2].rsplit(".", 1)[0]: each for each in names if each.rpartition("/")[0] == home}
    return _alike(parts[-1].rsplit(".", 1)[0], files)


def _alike(word: str, known: dict[str, str]) -> str | None:
    """What stands under the word that is spelled alike, with the same numbers in it."""
    if word in known:
        return known[word]
    numbers = [int(digits) for digits in re.findall(r"\d+", word)]
    some = islice((each for each in known if [int(digits) for digits in re.findall(r"\d+", each)] == numbers), MOST)
    lower = {each.lower(): known[each] for each in some}
    close = get_close_matches(word.lower(), lower, n=1)
    return lower[close[0]] if close else None
