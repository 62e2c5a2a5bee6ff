"""ImageNet's 1,000 classes by their WordNet ids, in the order of every published classifier's outputs.

That order is the ids sorted. The list is timm's.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection

IMAGENET_A = "f6aa4b23244554d9"
"""Of the ids of ImageNet-A's 200 classes, sorted, one a line: 16 hex digits of SHA-256."""


@functools.cache
def imagenet_wnids() -> tuple[str, ...]:
    """`n01440764`, ..., `n15075141`: the name of output k stands at place k."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def are_wnids(names: tuple[str, ...] | None) -> bool:
    """Whether these are ids of ImageNet's classes, all of them and at least one."""
    looks = bool(names) and all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in names or ())
    return looks and set(names or ()) <= set(imagenet_wnids())


def of_imagenet_a(names: Collection[str]) -> bool:
    """Whether these are the ids of the 200 classes of ImageNet-A (Hendrycks et al. 2021, arXiv 1907.07174)."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16] == IMAGENET_A
