"""Patch features of every image of a data set, beside the class that each patch has by the image's mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vitrail.contracts import Backbone, ImageSet
from vitrail.data.dense_batches import left_out
from vitrail.data.images import UnreadableImage
from vitrail.data.transforms import EvalTransform
from vitrail.evaluation.features import Precision, autocast, frozen
from vitrail.evaluation.progress import progress
from vitrail.ops.patch_classes import patch_classes

VOID, WIDE_VOID = 255, 65535


class Labeled(NamedTuple):
    """One image's patches that have a class."""

    number: int  # position in the data set
    features: Tensor  # [n, D] float32 of length 1, after the final norm
    labels: Tensor  # [n] int64 class ids as in masks
    places: Tensor  # [n] int64, which patches of the grid, in raster order
    grid: tuple[int, int]


class Found(NamedTuple):
    """What there was in the data."""

    images: int  # with a labeled patch
    patches: int  # labeled ones
    notes: list[str]


def each_labeled(
    backbone: Backbone,
    data: ImageSet,
    transform: EvalTransform,
    visit: Callable[[Labeled], None],
    *,
    purity: float = 0.5,
    background: bool | None = None,
    batch_size: int = 32,
    precision: Precision = "fp32",
    device: str = "auto",
    title: str = "patches",
) -> Found:
    """Show every image to the backbone, in order, and hand the patches that have a class to `visit`.

    Args:
        purity: the least share of a patch's pixels that its class has.
        background: whether mask value 0 is a class of its own; None as the set says by an attribute `background`.

    Raises:
        ValueError: an empty data set, no labeled patch in it, or features that are not finite (the message names the
            image).
    """
    if not len(data):
        raise ValueError(f"{title}: the data set is empty; an evaluation needs at least one image")
    background = bool(getattr(data, "background", False)) if background is None else background
    images = patches = 0
    skipped: dict[int, str] = {}
    # A callback and no generator: one that is left half-way would keep gradients off for its caller.
    with frozen(backbone, device) as place, progress(title, len(data)) as advance:
        for indices in torch.arange(len(data)).split(batch_size):
            waiting = [entry for index in indices.tolist() if (entry := _look(data, index, transform, skipped))]
            if waiting:
                with autocast(place, precision):
                    tokens = backbone(torch.stack([image for _, image, _ in waiting]).to(place))
                for own, (number, _, mask) in zip(tokens.patches.float().cpu(), waiting, strict=True):
                    found = _labeled(number, own, mask, tokens.grid, purity, background)
                    if len(found.labels):
                        visit(found)
                        images, patches = images + 1, patches + len(found.labels)
            advance(len(indices))
    if not images:
        raise ValueError(
            f"none of {len(data)} images has a patch with a class by its mask; give data with masks (VOC, ADE20K, "
            f"scenes), or a smaller purity than {purity}"
        )
    notes = [left_out(title, skipped, len(data))] if skipped else []
    if images + len(skipped) < len(data):
        notes.append(f"{len(data) - len(skipped) - images} of {len(data)} images have no patch with a class")
    return Found(images, patches, notes)


def _look(
    data: ImageSet, index: int, transform: EvalTransform, skipped: dict[int, str]
) -> tuple[int, Tensor, Tensor | None] | None:
    try:
        sample = data[index]
    except UnreadableImage as error:
        skipped[index] = str(error)
        return None
    image, mask, _ = transform.with_targets(sample)
    return index, image, mask


def _labeled(
    number: int, patches: Tensor, mask: Tensor | None, grid: tuple[int, int], purity: float, background: bool
) -> Labeled:
    if not patches.isfinite().all():
        raise ValueError(f"patches of image {number} are not finite; check the weights, or use precision fp32")
    labels = torch.full((len(patches),), -1)
    if mask is not None:
        void = WIDE_VOID if mask.dtype == torch.int32 else VOID
        labels = patch_classes(mask, grid, purity, (void,) if background else (void, 0))
    places = (labels >= 0).nonzero()[:, 0]
    return Labeled(number, functional.normalize(patches[places], dim=1), labels[places], places, grid)
