"""What a classifier that skips parts of its network says: logits, and how much of the network it has used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Answer(NamedTuple):
    """To images that are asked about after training, without mixing and without chance."""

    logits: Tensor  # [B, classes]
    used: Mapping[str, Tensor] = {}  # by the part's name: the share of it that an image has used, [B] in [0, 1]
