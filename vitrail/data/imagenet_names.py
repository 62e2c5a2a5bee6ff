"""ImageNet's 1,000 classes by their WordNet ids, in the order of every published classifier's outputs.

That order is the ids sorted. The list is timm's.
"""

from __future__ import annotations

import functools


@functools.cache
def imagenet_wnids() -> tuple[str, ...]:
    """`n01440764`, ..., `n15075141`: the name of output k stands at place k."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def are_wnids(names: tuple[str, ...] | None) -> bool:
    """Whether these are ids of ImageNet's classes, all of them and at least one."""
    looks = bool(names) and all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in names or ())
    return looks and set(names or ()) <= set(imagenet_wnids())
