"""Names of numbers that there are of each attention head: `blobs_head_0`, `blobs_head_1`, ...

They are written beside the mean over heads, and shown together: as lines of one chart, and in no table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_OF_HEAD = re.compile(r"(.+)_head_(\d+)")


def named_by_head(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """One number for each quantity and head, from the values of all heads by the quantity's name."""
    return {f"{name}_head_{head}": value for name, found in values.items() for head, value in enumerate(found)}


def quantities_by_head(names: Iterable[str]) -> dict[str, dict[int, str]]:
    """The names among `names` that are of heads: by quantity in order of appearance, then by head, ascending."""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        if match := _OF_HEAD.fullmatch(name):
            found.setdefault(match[1], {})[int(match[2])] = name
    return {quantity: dict(sorted(heads.items())) for quantity, heads in found.items()}


def is_of_head(name: str) -> bool:
    """Whether a number is that of one head."""
    return _OF_HEAD.fullmatch(name) is not None
