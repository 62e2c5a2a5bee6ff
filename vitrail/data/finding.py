"""One thing that was looked at, and what to do about it: what the doctor lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: Literal["ok", "warning", "error"]
    what: str
    mend: str  # what to do about it; empty where nothing is to be done


def few(names: Sequence[str], most: int = 10) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
