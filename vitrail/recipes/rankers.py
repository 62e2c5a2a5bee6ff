"""Rankers by the words of a command line: `NAME[:VARIANT][=WEIGHTS]`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from vitrail.contracts import Ranker
from vitrail.rankers import open_ranker
from vitrail.recipes.rank import Asked


def parse_ranker(text: str) -> Asked:
    """Read `center`, `dino=dino.pth` or `dino:mass_vote=dino.pth`. Raises `ValueError` where a part is empty."""
    title, equals, weights = text.partition("=")
    name, colon, variant = title.partition(":")
    if not name.strip() or (equals and not weights.strip()) or (colon and not variant.strip()):
        raise ValueError(f"--ranker {text!r} is not NAME, NAME=WEIGHTS or NAME:VARIANT=WEIGHTS")
    return Asked.parse(text)


def open_rankers(texts: Sequence[str], weights: str | None = None, **how: Any) -> dict[str, Ranker]:
    """Rankers by their titles, `NAME` or `NAME (VARIANT)`; where two have one, the names of their weights are added.

    Args:
        texts: see the module.
        weights: of those that name none.
        how: as for `vitrail.rankers.open_ranker`.

    Raises:
        ValueError: the same ranker twice, and as `open_ranker`.
    """
    asked = [parse_ranker(text) for text in texts]
    asked = [each._replace(weights=each.weights or weights) for each in asked]
    often = Counter(each.title for each in asked)
    found: dict[str, Ranker] = {}
    for each in asked:
        title = each.title if often[each.title] == 1 else f"{each.title} {Path(each.weights or '').stem}".strip()
        if title in found:
            raise ValueError(f"the ranker {title} is named twice; give weights whose files have other names")
        found[title] = cast(Ranker, open_ranker(each.name, each.weights, variant=each.variant, **how))
    return found
