"""Which output of a classifier stands for which class of the data: by name, or by the order of ImageNet's classes.

A class list that is silently shifted, or 1,000 outputs that are compared with the labels 0 to 199 of 200 folders, is
how 0.1 % top-1 comes about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.data.imagenet_names import are_wnids, imagenet_wnids


class Match(NamedTuple):
    """How classes of data become outputs of the classifier."""

    names: Sequence[str] | None  # of the outputs; None where they are not known
    outputs: int
    imagenet: bool = False  # whether the outputs are ImageNet's whatever their names

    def to(self, classes: Sequence[str]) -> Tensor:
        """The output of each class, int64; -1 where there is none.

        Raises:
            ValueError: where the classifier knows none of the classes, or nothing says which output is which.
        """
        named = self.names
        if named is None:
            named = imagenet_wnids() if self.imagenet else output_names(self.outputs, classes)
        places = {name: place for place, name in enumerate(named)}
        found = torch.tensor([places.get(name, -1) for name in classes])
        if bool((found < 0).all()):
            ids = self.outputs == 1000 and are_wnids(tuple(classes))
            more = "; imagenet_order=true takes its outputs for ImageNet's" if ids else ""
            raise ValueError(
                f"the classifier knows {', '.join(list(named)[:3])}, ..., and none of the data's {len(classes)} "
                f"classes ({', '.join(list(classes)[:3])}, ...); give data with its classes{more}"
            )
        return found


def output_names(outputs: int, classes: Sequence[str]) -> tuple[str, ...]:
    """What outputs without names stand for, in the words of the data.

    1,000 of them are ImageNet's in their standard order where the data's classes are WordNet ids; as many as the data
    has classes are these, in their order; and where classes have no names but `class 7`, as lists without names give
    them, output k is label k.

    Args:
        outputs: how many the classifier has.
        classes: of the data.

    Raises:
        ValueError: where nothing says which output is which.
    """
    if outputs == 1000 and are_wnids(tuple(classes)):
        return imagenet_wnids()
    if len(classes) == outputs:
        return tuple(classes)
    if len(classes) < outputs and _are_numbers(classes, imagenet_wnids() if outputs == 1000 else ()):
        return (*classes, *(f"class {place}" for place in range(len(classes), outputs)))
    raise ValueError(
        f"the classifier has {outputs:,} outputs without names and the data {len(classes)} classes "
        f"({', '.join(list(classes)[:3])}, ...), so nothing says which is which; name the class folders by "
        "WordNet ids such as n01440764, or give weights that know their classes"
    )


def _are_numbers(classes: Sequence[str], wnids: Sequence[str]) -> bool:
    """Whether each name is that of its place: `class 7`, as for lists without names, or ImageNet's id."""
    return all(
        name == f"class {place}" or (place < len(wnids) and name == wnids[place]) for place, name in enumerate(classes)
    )
