"""Ids of the patches that a mask leaves visible, and the way back to raster order."""

from __future__ import annotations

import torch
from torch import Tensor

from vitrail.masks.counts import number_of


def visible(mask: Tensor, hidden: float | None = None) -> Tensor:
    """Ids of the visible patches, ascending: int64 `[B, K]`, what backbones take as `keep`.

    Args:
        mask: bool `[B, N]`, True is hidden; every image keeps the same number K.
        hidden: the share or the number that the mask was asked for. K follows from it; without it the mask is looked
            at, which waits for a GPU once.

    Raises:
        ValueError: for a mask that is not bool `[B, N]` and, on the CPU, images that keep different numbers, or
            another number than `hidden` says.
    """
    _check(mask)
    batch, patches = mask.shape
    if mask.device.type == "cpu":
        kept = _same_number(mask)
        if hidden is not None and batch and kept != patches - number_of(hidden, patches):
            raise ValueError(
                f"the mask keeps {kept} of {patches} patches, hidden {hidden} keeps "
                f"{patches - number_of(hidden, patches)}; give the `hidden` that the mask was made with"
            )
    elif hidden is not None:
        kept = patches - number_of(hidden, patches)
    else:
        kept = int((~mask[:1]).sum())
    return _visible_first(mask)[:, :kept]


def restore(mask: Tensor) -> Tensor:
    """Where each patch stands once the hidden ones are appended to the visible: int64 `[B, N]`.

    With `tokens [B, N, D]` that hold the visible patches and then the hidden ones, both ascending,
    `tokens.gather(1, restore(mask)[:, :, None].expand_as(tokens))` is in raster order.
    """
    _check(mask)
    return _visible_first(mask).argsort(dim=1)


def _visible_first(mask: Tensor) -> Tensor:
    return mask.to(torch.uint8).argsort(dim=1, stable=True)


def _same_number(mask: Tensor) -> int:
    counts = (~mask).sum(1)
    if not len(counts):
        return 0
    low, high = int(counts.argmin()), int(counts.argmax())
    if counts[low] != counts[high]:
        raise ValueError(
            f"image {low} keeps {int(counts[low])} patches and image {high} keeps {int(counts[high])}; patches can be "
            "dropped only where all images keep as many: hide the same number, or pass the mask with a mask token"
        )
    return int(counts[low])


def _check(mask: Tensor) -> None:
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ValueError(f"the mask is {mask.dtype} {list(mask.shape)}; it is bool [B, N], True is hidden")
