"""MATLAB's files of version 5 to 7.2 (`.mat`), as data sets keep their labels in: numbers, text, cells and structs.

An element is a tag of 8 bytes (kind, length) and its bytes, padded to 8; up to 4 bytes stand in the tag itself. A
variable is an element that holds others: flags, dimensions, a name, and then its values by class. Whole variables may
be packed by zlib. Nothing in such a file can run.

Source: The MathWorks, "MAT-File Format". Left out: objects, sparse and complex matrices, big-endian files, and version
7.3, which is HDF5; each is refused in words.
"""

from __future__ import annotations

import struct
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Kinds of elements that hold numbers, little-endian."""
TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}
MATRIX, PACKED = 14, 15
CELL, STRUCT, CHAR = 1, 2, 4
ARRAYS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Classes of numeric variables; values may be stored in a smaller kind."""
COMPLEX = 0x0800


def read_mat(path: str | Path) -> dict[str, Any]:
    """The variables of a file by name.

    Returns:
        Numbers as arrays of MATLAB's shape (`[1, N]` for a row), text as `str` (of several rows joined), cells as lists
        and arrays of structs as lists of dicts, both in MATLAB's order, columns first.

    Raises:
        ValueError: the file is no such file, is cut short, or holds what is left out here.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if content[:10] == b"MATLAB 7.3":
            raise ValueError("it is of version 7.3; save it with -v7 in MATLAB")
        if len(content) < 128 or content[126:128] != b"IM":
            raise ValueError("it is no little-endian MATLAB file of version 5 to 7.2")
        return dict(_variables(content))
    except (ValueError, struct.error, zlib.error, UnicodeDecodeError, IndexError, KeyError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}; copy it again") from None


def _variables(content: bytes) -> list[tuple[str, Any]]:
    found, place = [], 128
    while place < len(content):
        kind, data, place = _element(content, place)
        if kind == PACKED:
            kind, data, _ = _element(zlib.decompress(data), 0)
        if kind == MATRIX:
            found.append(_matrix(data))
    return found


def _element(content: bytes, place: int) -> tuple[int, bytes, int]:
    """Kind, bytes, and where the next element begins."""
    kind, length = struct.unpack_from("<II", content, place)
    if kind >> 16:  # a small one: its length in the upper half of the kind, its bytes in the tag
        return kind & 0xFFFF, content[place + 4 : place + 4 + (kind >> 16)], place + 8
    begin = place + 8
    if begin + length > len(content):
        raise ValueError(f"it ends after {len(content)} bytes, within an element of {length}")
    return kind, content[begin : begin + length], begin + length + (0 if kind == PACKED else -length % 8)


def _matrix(data: bytes) -> tuple[str, Any]:
    """Name and value of a variable."""
    if not data:
        return "", np.zeros((0, 0))
    _, flags, place = _element(data, 0)
    (words,) = struct.unpack_from("<I", flags)
    _, sides, place = _element(data, place)
    shape = tuple(int(side) for side in np.frombuffer(sides, "<i4"))
    _, letters, place = _element(data, place)
    name, kind = letters.decode("latin-1"), words & 0xFF
    if words & COMPLEX or kind not in (CELL, STRUCT, CHAR, *ARRAYS):
        raise ValueError(f"its variable {name!r} is complex, or of class {kind}, which is not read here")
    if kind == CELL:
        return name, _several(data, place, prod(shape))[0]
    if kind == STRUCT:
        return name, _structs(data, place, prod(shape))
    stored, values, _ = _element(data, place)
    if kind == CHAR:
        return name, _text(values.decode(TEXT[stored]), shape)
    numbers = np.frombuffer(values, f"<{NUMBERS[stored]}").astype(ARRAYS[kind])
    return name, numbers.reshape(shape, order="F")


def _several(data: bytes, place: int, count: int) -> tuple[list[Any], int]:
    found = []
    for _ in range(count):
        _, inner, place = _element(data, place)
        found.append(_matrix(inner)[1])
    return found, place


def _structs(data: bytes, place: int, count: int) -> list[dict[str, Any]]:
    _, length, place = _element(data, place)
    (wide,) = struct.unpack_from("<i", length)
    _, names, place = _element(data, place)
    fields = [names[start : start + wide].split(b"\0")[0].decode("latin-1") for start in range(0, len(names), wide)]
    found = []
    for _ in range(count):
        values, place = _several(data, place, len(fields))
        found.append(dict(zip(fields, values)))
    return found


def _text(letters: str, shape: tuple[int, ...]) -> str:
    """Text of one row as it is; of several rows, which MATLAB keeps column by column, row after row."""
    if len(shape) != 2 or shape[0] < 2:
        return letters
    return "".join(letters[row :: shape[0]] for row in range(shape[0]))
