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
        if named is None and self._of_imagenet(classes):
            named = imagenet_wnids()
        if named is None:
            if len(classes) == self.outputs and not self.imagenet:
                return torch.arange(self.outputs)
            raise ValueError(
                f"the classifier has {self.outputs:,} outputs without names and the data {len(classes)} classes "
                f"({', '.join(list(classes)[:3])}, ...), so nothing says which is which; name the class folders by "
                "WordNet ids such as n01440764, or give weights that know their classes"
            )
        places = {name: place for place, name in enumerate(named)}
        found = torch.tensor([places.get(name, -1) for name in classes])
        if bool((found < 0).all()):
            more = "" if not self._of_imagenet(classes) else "; imagenet_order=true takes its outputs for ImageNet's"
            raise ValueError(
                f"the classifier knows {', '.join(list(named)[:3])}, ..., and none of the data's {len(classes)} "
                f"classes ({', '.join(list(classes)[:3])}, ...); give data with its classes{more}"
            )
        return found

    def _of_imagenet(self, classes: Sequence[str]) -> bool:
        return self.outputs == 1000 and are_wnids(tuple(classes))
