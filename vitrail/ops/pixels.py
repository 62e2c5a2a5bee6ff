"""Pixels that were normalized for one network, normalized for another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Normalization(NamedTuple):
    """What was subtracted from red, green and blue in [0, 1], and what the difference was divided by."""

    mean: Sequence[float]
    std: Sequence[float]


def renormalize(images: Tensor, old: Normalization, new: Normalization) -> Tensor:
    """The same pixels under another normalization: `((x * old.std + old.mean) - new.mean) / new.std`.

    Args:
        images: `[B, C, H, W]`, normalized by `old`; they are returned as they are where both agree.
        old, new: one number a channel each.

    Raises:
        ValueError: where the numbers of channels differ.
    """
    counts = [len(part) for part in (*old, *new)]
    if set(counts) != {images.shape[1]}:
        raise ValueError(f"images have {images.shape[1]} channels; means and deviations are for {counts}")
    if tuple(old.mean) == tuple(new.mean) and tuple(old.std) == tuple(new.std):
        return images
    scale = [before / after for before, after in zip(old.std, new.std)]
    shift = [(before - after) / spread for before, after, spread in zip(old.mean, new.mean, new.std)]
    factor, offset = (images.new_tensor(values).view(-1, 1, 1) for values in (scale, shift))
    return torch.addcmul(offset, images, factor)
