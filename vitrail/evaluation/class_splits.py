"""Which classes a ranker trained on ImageNet-1k has not seen, as LTRP lists them for COCO and VOC.

Source: LTRP, supplement, Appendix B. For ADE20K it leaves none out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from vitrail.data.voc import VOC_CLASSES

COCO_CLASSES = 80
COCO_UNSEEN = (
    *("person", "traffic light", "fire hydrant", "stop sign", "giraffe", "frisbee", "surfboard"),
    *("fork", "sandwich", "carrot", "toothbrush", "sink", "potted plant"),
)
"""13 of COCO's 80 classes."""
VOC_UNSEEN = ("person",)
"""1 of VOC's 20 classes."""


def unseen_of(classes: Sequence[str]) -> tuple[str, ...] | None:
    """The paper's list, for sets that have COCO's or VOC's classes; None for others."""
    if set(classes) == set(VOC_CLASSES):
        return VOC_UNSEEN
    if len(classes) == COCO_CLASSES and set(COCO_UNSEEN) <= set(classes):
        return COCO_UNSEEN
    return None


def named(name: str, asked: Iterable[str]) -> bool:
    """Whether a class is among those asked for: by its whole name, or by one of the words for it that commas part, as
    in ADE20K's "sidewalk, pavement"."""
    words = {name, *(word.strip() for word in name.split(","))}
    return not words.isdisjoint(asked)


def check_named(asked: Iterable[str], classes: Sequence[str], setting: str) -> None:
    """Raise `ValueError`, with the nearest name or the known ones, for a class that none of `classes` is `named`.

    "class 7" is the name of an id beyond the end of `classes`.
    """
    for name in asked:
        if any(named(each, (name,)) for each in classes) or _is_beyond(name, len(classes)):
            continue
        known = list(dict.fromkeys(word.strip() for each in classes for word in each.split(",")))
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {_some(known)}"
        raise ValueError(f"{setting}: these data have no class {name!r}; {hint}")


def _is_beyond(name: str, count: int) -> bool:
    word, _, number = name.partition(" ")
    return word == "class" and number.isdecimal() and int(number) > count


def _some(names: Sequence[str], count: int = 20) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
