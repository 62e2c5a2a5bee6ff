"""Batches of images with their masks, in order or cut at random.

What an image becomes depends on (seed, epoch, index) alone, as in `vitrail.data.loader`, so the number of workers
changes nothing. Unreadable images are left out and noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitrail.contracts import ImageSet, Sample
from vitrail.data.images import UnreadableImage
from vitrail.data.loader import epoch_order, sample_seed
from vitrail.data.mask_crop import mask_of
from vitrail.data.semantic import SemanticLabels
from vitrail.data.transforms import EvalTransform

T = TypeVar("T")
Place = tuple[int, int]
"""Epoch and index of an image."""
Cut = Callable[[Sample, int], tuple[Tensor, Tensor]]
"""Sample and seed -> image `[3, h, w]` and mask `[h, w]`."""


class DenseBatch(NamedTuple):
    """Images and what their pixels are; classes as `SemanticLabels.targets` returns them."""

    indices: list[int]  # positions in the data set
    paths: list[str]
    images: Tensor  # [B, 3, h, w] float32, normalized
    targets: Tensor  # [B, h, w] int64, in the frame of the images
    truths: list[Tensor]  # B of [H, W] int64, as large as the mask in its file


class _Read(NamedTuple):
    """An image as a worker hands it over."""

    position: int
    path: str
    image: Tensor
    mask: Tensor
    truth: Tensor


def dense_batches(
    data: ImageSet,
    labels: SemanticLabels,
    cut: Cut,
    requests: Sequence[Sequence[Place]],
    *,
    seed: int = 0,
    workers: int = 0,
    skipped: dict[int, str] | None = None,
) -> Iterator[DenseBatch]:
    """One batch for each request; one of which nothing can be read is left out.

    Args:
        cut: makes image and mask of a sample, all of one size.
        requests: epoch and index of each image of each batch; see `in_order` and `in_chance_order`.
        seed: handed on to `cut`, mixed with epoch and index.
        skipped: learns the index and the reason of unreadable images.

    Raises:
        ValueError: an image without a mask, or with class ids beyond the classes; or where nothing could be read.
    """
    reader = _Reader(data, cut, seed)
    loader = DataLoader(
        reader,
        batch_size=None,
        sampler=list(requests),
        num_workers=workers,
        collate_fn=_as_it_is,  # called with one item where batch_size is None
        generator=torch.Generator(),  # else starting an iterator would draw from the global generator
    )
    found, unread = False, {} if skipped is None else skipped
    for read, unreadable in loader:
        unread.update(unreadable)
        if read:
            found = True
            yield _joined(read, labels)
    if unread and not found:
        reason = next(iter(unread.values()))
        raise ValueError(f"none of {len(unread)} images could be read, the first one: {reason}; see `vitrail doctor`")


def left_out(role: str, skipped: dict[int, str], count: int) -> str:
    """What a report says of unusable images: how many of `count`, and what is the matter with the first one."""
    first = skipped[min(skipped)]
    return f"{role}: {len(skipped)} of {count} images could not be used and were left out, the first one: {first}"


def in_order(count: int, batch_size: int) -> list[list[Place]]:
    """All images once, in order; the last batch may be smaller."""
    return [[(0, index) for index in part] for part in _split(range(count), batch_size)]


def in_chance_order(count: int, batch_size: int, steps: int, seed: int) -> list[list[Place]]:
    """`steps` batches of `batch_size`, each epoch in an order of its own; a batch may span two."""
    places: list[Place] = []
    epoch = 0
    while len(places) < steps * batch_size:
        places += [(epoch, int(index)) for index in epoch_order(count, seed, epoch)]
        epoch += 1
    return [list(part) for part in _split(places, batch_size)][:steps]


def as_evaluated(transform: EvalTransform) -> Cut:
    """The evaluation transform as a cut; chance has no part in it."""
    return _Evaluated(transform)


class _Evaluated:
    def __init__(self, transform: EvalTransform) -> None:
        self.transform = transform

    def __call__(self, sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
        mask_of(sample)
        image, mask, _ = self.transform.with_targets(sample)
        assert mask is not None
        return image, mask


class _Reader(Dataset[tuple[list[_Read], dict[int, str]]]):
    """Reads whole batches; lives in the workers."""

    def __init__(self, data: ImageSet, cut: Cut, seed: int) -> None:
        self.data, self.cut, self.seed = data, cut, seed

    def __getitem__(self, request: Sequence[Place]) -> tuple[list[_Read], dict[int, str]]:
        read, skipped = [], {}
        for epoch, index in request:
            try:
                sample = self.data[index]
            except UnreadableImage as error:
                skipped[index] = str(error)
                continue
            image, mask = self.cut(sample, sample_seed(self.seed, epoch, index))
            truth = torch.from_numpy(sample.mask)
            read.append(_Read(index, sample.path, image, mask, truth))
        return read, skipped


def _joined(read: Sequence[_Read], labels: SemanticLabels) -> DenseBatch:
    return DenseBatch(
        [each.position for each in read],
        [each.path for each in read],
        torch.stack([each.image for each in read]),
        torch.stack([labels.targets(each.mask, each.path) for each in read]),
        [labels.targets(each.truth, each.path) for each in read],
    )


def _split(values: Sequence[T], size: int) -> list[Sequence[T]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _as_it_is(loaded: T) -> T:
    return loaded
