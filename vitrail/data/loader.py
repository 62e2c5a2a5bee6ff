"""Batches in an order that depends on the seed and the step alone.

What an image becomes is decided by (seed, epoch, index): the global generators of `random`, NumPy and torch
are seeded from these around its transform, and put back where the main process does the work. So the batches
are equal to the bit for any number of workers, for any split of a global batch over ranks, and wherever a run
is taken up again:

    order of epoch e  = argsort of a 64-bit hash of (seed, e, index); what does not fill a batch is left out
    step s            = global batch s mod S of epoch s div S, S steps per epoch
    rank r of W       = the r-th of W contiguous slices of the global batch, cut into `accumulate` parts

Labels of a batch are `[B]` class ids. Where the samples of a set have any number of `labels`, they are `[B, C]`, 1 for
each of an image's labels and 0 for the set's other classes.

An unreadable image is replaced by the next readable one in the data set (of its kind), which does not depend on
anything else, and noted in `Loader.skipped`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitrail.config import Config
from vitrail.contracts import Batch, Crops, ImageSet, Sample
from vitrail.data.images import UnreadableImage
from vitrail.data.transforms import Picture

Transform = (
    Callable[[Picture], Tensor | tuple[Tensor, ...]]
    | Callable[[Picture, Picture | None], Crops]
    | Callable[[Sample], tuple[Tensor, ...]]
)
"""PIL image -> float tensor `[3, H, W]`, or a tuple of them: the image and further views of it.

Or `Crops`, views with their boxes; a transform that makes them also gets the sample's companion, or None. One with an
attribute `reads_samples` gets the whole sample, for its mask.
"""

_Label = int | tuple[int, ...] | None

TOLERATED = 0.01
"""Share of a data set that may be unreadable before training stops."""


class LoaderConfig(Config):
    """How images are loaded; nothing here changes what is loaded."""

    workers: int = Field(default=0, ge=0)
    """Processes that decode and transform; 0 does it in the main process."""
    prefetch: int = Field(default=2, ge=1)
    """Micro-batches that each worker prepares ahead."""
    pin: bool | None = None
    """Lock batches in memory for faster copies to a GPU; null does so where there is one."""


class TooManyUnreadable(Exception):
    """More than 1 % of a data set cannot be read.

    `skipped` maps the index to (path, reason); `total` is the size of the set.
    """

    def __init__(self, skipped: Mapping[int, tuple[str, str]], total: int) -> None:
        self.skipped, self.total = dict(skipped), total
        super().__init__(self.skipped, total)

    def __str__(self) -> str:
        shown = [f"  {path}: {reason}" for _, (path, reason) in sorted(self.skipped.items())[:20]]
        more = [f"  and {len(self.skipped) - 20} more"] if len(self.skipped) > 20 else []
        share = f"{len(self.skipped)} images cannot be read, more than {100 * TOLERATED:g} % of {self.total}"
        head = f"{share}; mend or remove them, `vitrail doctor` finds them all:"
        return "\n".join([head, *shown, *more])


class WorkerCrashed(RuntimeError):
    """A loading process died: killed, out of memory, or a crash in native code."""


class Loader:
    """Endless, resumable batches of a data set for training, for one rank.

    Args:
        data: the images.
        transform: PIL image -> float tensor `[3, H, W]` of one size, or a tuple of them, of which the first fills
            `Batch.images` and the others `Batch.views`; view v has one size in all images. Must be picklable where
            workers are spawned.
        global_batch_size: images per optimizer step, over all ranks and micro-batches.
        seed: decides the order and the augmentation.
        rank, world: which of how many processes this is.
        accumulate: micro-batches per optimizer step.
        workers, prefetch, pin: as in `LoaderConfig`.

    Raises:
        ValueError: sizes that do not fit each other; the message names both.
    """

    def __init__(
        self,
        data: ImageSet,
        transform: Transform,
        *,
        global_batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        workers: int = 0,
        prefetch: int = 2,
        pin: bool | None = None,
    ) -> None:
        _check_split(len(data), global_batch_size, rank, world, accumulate)
        self.data, self.transform, self.seed = data, transform, seed
        self.global_batch_size, self.rank, self.world, self.accumulate = (
            global_batch_size,
            rank,
            world,
            accumulate,
        )
        self.config = LoaderConfig(workers=workers, prefetch=prefetch, pin=pin)
        self.steps_per_epoch = len(data) // global_batch_size
        self.skipped: dict[int, tuple[str, str]] = {}
        """Index -> (path, reason) of the unreadable images that this rank met so far."""

    def batches(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """The micro-batches of optimizer steps start, ..., stop - 1 of the whole run, a list for each step.

        Workers are started once, at the first step. `Batch.indices` names the images that are really there.

        Raises:
            TooManyUnreadable: this rank found more than 1 % of the data set unreadable; see `tolerate`.
            WorkerCrashed: a worker died.
        """
        if start >= stop:
            return
        requests = _Requests(self, start, stop)
        reader = _Reader(self.data, self.transform, self.seed, replace=True)
        micro_batches: list[Batch] = []
        for loaded in _load(reader, requests, self.config):
            self._note(loaded.skipped)
            assert loaded.batch is not None
            micro_batches.append(loaded.batch)
            if len(micro_batches) == self.accumulate:
                yield micro_batches
                micro_batches = []

    def order(self, epoch: int) -> np.ndarray:
        """The indices in the order of an epoch, int64 `[N]`, with those that fill no batch at its end.

        A set with an attribute `kinds` of k kinds of images, number i of kind i mod k, keeps them in turn: each k
        images that follow each other are one of each kind.
        """
        kinds = int(getattr(self.data, "kinds", 1))
        if kinds == 1:
            return epoch_order(len(self.data), self.seed, epoch)
        each = [
            kinds * epoch_order(len(self.data) // kinds, sample_seed(self.seed, kind, -2), epoch) + kind
            for kind in range(kinds)
        ]
        return np.stack(each, 1).reshape(-1)

    def tolerate(self, skipped: Mapping[int, tuple[str, str]]) -> None:
        """Raise `TooManyUnreadable` where these are more than 1 % of the data set.

        Each rank asks this of what it met itself; the trainer asks it at every save of what all ranks met.
        """
        if len(skipped) > TOLERATED * len(self.data):
            raise TooManyUnreadable(skipped, len(self.data))

    def _note(self, skipped: Mapping[int, tuple[str, str]]) -> None:
        self.skipped.update(skipped)
        self.tolerate(self.skipped)


def ordered_batches(
    data: ImageSet,
    transform: Transform,
    batch_size: int,
    workers: int = 0,
    *,
    rank: int = 0,
    world: int = 1,
    skipped: dict[int, tuple[str, str]] | None = None,
    prefetch: int = 2,
    pin: bool | None = None,
) -> Iterator[Batch]:
    """All images once, in order, for evaluation; the last batch may be smaller.

    Rank r of `world` gets the r-th contiguous part, so the ranks' batches, one rank after the other, are the
    whole set in order. Unreadable images are left out; give `skipped` to learn of them (index -> (path,
    reason)).

    Raises:
        ValueError: a batch size below 1, or a rank outside of the world.
        WorkerCrashed: a worker died.
    """
    if batch_size < 1 or not 0 <= rank < world:
        raise ValueError(f"batch_size {batch_size} is at least 1 and rank {rank} below world {world}")
    first, last = rank * len(data) // world, (rank + 1) * len(data) // world
    requests = [
        _Request(0, np.arange(start, min(start + batch_size, last))) for start in range(first, last, batch_size)
    ]
    reader = _Reader(data, transform, 0, replace=False)
    for loaded in _load(reader, requests, LoaderConfig(workers=workers, prefetch=prefetch, pin=pin)):
        if skipped is not None:
            skipped.update(loaded.skipped)
        if loaded.batch is not None:
            yield loaded.batch


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0, ..., count - 1, int64, the same for every version of NumPy and on every machine."""
    keys = np.arange(count, dtype=np.uint64)
    keys += np.uint64(sample_seed(seed, epoch, -1))
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(keys ^ (keys >> np.uint64(31)), kind="stable")


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """64 bits that decide the augmentation of one image in one epoch."""
    return _scramble(_scramble(_scramble(seed) + epoch) + index)


_ALL = 0xFFFF_FFFF_FFFF_FFFF


def _scramble(value: int) -> int:
    # The finalizer of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits that mixes them well.
    value = (value + 0x9E3779B97F4A7C15) & _ALL
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _ALL
    return value ^ (value >> 31)


class _Request(NamedTuple):
    """A micro-batch to load."""

    epoch: int
    indices: np.ndarray  # [B] int64


class _Loaded(NamedTuple):
    """A micro-batch, None where nothing of it was readable, and what was skipped for it."""

    batch: Batch | None
    skipped: dict[int, tuple[str, str]]


class _Requests:
    """The micro-batches of steps start, ..., stop - 1 in order: the one sampler that spans all epochs."""

    def __init__(self, loader: Loader, start: int, stop: int) -> None:
        self.loader, self.start, self.stop = loader, start, stop

    def __len__(self) -> int:
        return max(0, self.stop - self.start) * self.loader.accumulate

    def __iter__(self) -> Iterator[_Request]:
        loader, known, order = self.loader, -1, np.empty(0, np.int64)
        own = loader.global_batch_size // loader.world
        for step in range(self.start, self.stop):
            epoch, place = divmod(step, loader.steps_per_epoch)
            if epoch != known:
                known, order = epoch, loader.order(epoch)
            first = place * loader.global_batch_size + loader.rank * own
            for indices in order[first : first + own].reshape(loader.accumulate, -1):
                yield _Request(epoch, indices)


class _Reader(Dataset[_Loaded]):
    """Reads whole micro-batches; lives in the workers."""

    def __init__(self, data: ImageSet, transform: Transform, seed: int, *, replace: bool) -> None:
        self.data, self.transform, self.seed, self.replace = data, transform, seed, replace
        self.kinds = int(getattr(data, "kinds", 1))

    def __getitem__(self, request: _Request) -> _Loaded:
        images: list[Tensor | tuple[Tensor, ...] | Crops] = []
        labels: list[_Label] = []
        sources: list[int | None] = []
        kept: list[int] = []
        skipped: dict[int, tuple[str, str]] = {}
        with _generators_kept():
            for index in request.indices.tolist():
                # Before the image is read: a set may draw a companion for it.
                _seed_generators(sample_seed(self.seed, request.epoch, index))
                found = self._readable(index, skipped)
                if found is None:
                    continue
                kept.append(found[0])
                labels.append(found[1].label if found[1].labels is None else found[1].labels)
                sources.append(found[1].source)
                images.append(self._transformed(found[1]))
        complete = len(kept) == len(request.indices)
        if not kept or (self.replace and not complete):
            return _Loaded(None, skipped)
        return _Loaded(self._joined(images, labels, sources, kept), skipped)

    def _transformed(self, sample: Sample) -> Tensor | tuple[Tensor, ...] | Crops:
        transform: Any = self.transform
        if getattr(transform, "reads_samples", False):
            return transform(sample)
        if sample.companion is None:
            return transform(sample.image)
        return transform(sample.image, sample.companion)

    def _readable(self, index: int, skipped: dict[int, tuple[str, str]]) -> tuple[int, Sample] | None:
        most = TOLERATED * len(self.data) if self.replace else float("inf")
        while len(skipped) <= most:
            if index not in skipped:
                try:
                    return index, self.data[index]
                except UnreadableImage as error:
                    skipped[index] = (error.path, error.reason)
            if not self.replace:
                return None
            index = (index + self.kinds) % len(self.data)
        return None

    def _joined(
        self,
        images: list[Tensor | tuple[Tensor, ...] | Crops],
        labels: list[_Label],
        sources: list[int | None],
        kept: list[int],
    ) -> Batch:
        known = _labels(labels, kept, len(self.data.classes or ()))
        cut = [image for image in images if isinstance(image, Crops)]
        boxes = torch.stack([image.boxes for image in cut]) if cut else None
        flat = [image.views if isinstance(image, Crops) else image for image in images]
        first, *views = (_stacked(slot, kept) for slot in _slots(flat, kept))
        kinds = [source for source in sources if source is not None]
        return Batch(
            first,
            known,
            torch.tensor(kept),
            tuple(views),
            boxes,
            torch.tensor(kinds) if len(kinds) == len(kept) else None,
        )


def _labels(labels: list[_Label], kept: list[int], classes: int) -> Tensor | None:
    """Labels `[B]`; `[B, C]` with 1 for each of an image's labels, where images have any number of them; or None."""
    given = [label for label in labels if label is not None]
    if given and len(given) < len(labels):
        raise ValueError(f"images {[i for i, label in zip(kept, labels) if label is None][:8]} have no label")
    if not any(isinstance(label, tuple) for label in given):
        return torch.tensor(given) if given else None
    if not all(isinstance(label, tuple) for label in given):
        raise ValueError(
            f"of images {kept[:8]} some have one label and some a tuple of labels; a set has the one or the other"
        )
    several = torch.zeros(len(given), classes)
    for row, (index, label) in enumerate(zip(kept, given)):
        assert isinstance(label, tuple)  # as was checked
        if label and not 0 <= min(label) <= max(label) < classes:
            raise ValueError(f"image {index} has labels {label}, and the set has {classes} classes, 0 to {classes - 1}")
        several[row, list(label)] = 1
    return several


def _slots(images: list[Tensor | tuple[Tensor, ...]], kept: list[int]) -> list[tuple[Tensor, ...]]:
    """The image and each further view, of all images."""
    rows = [image if isinstance(image, tuple) else (image,) for image in images]
    for index, row in zip(kept, rows):
        if not row or len(row) != len(rows[0]):
            raise ValueError(
                f"image {kept[0]} became {len(rows[0])} views and image {index} {len(row)}; a transform gives the same"
                " number, at least 1, for each image"
            )
    return list(zip(*rows, strict=True))


def _stacked(images: tuple[Tensor, ...], kept: list[int]) -> Tensor:
    for index, image in zip(kept, images):
        if image.shape != images[0].shape:
            raise ValueError(
                f"image {kept[0]} became {list(images[0].shape)} and image {index} {list(image.shape)}; "
                'one batch needs one size: use mode "crop" or "squash", or a batch size of 1'
            )
    return torch.stack(images)


def _load(reader: _Reader, requests: Any, config: LoaderConfig) -> Iterator[_Loaded]:
    pin = torch.cuda.is_available() if config.pin is None else config.pin
    loader = DataLoader(
        reader,
        batch_size=None,
        sampler=requests,
        num_workers=config.workers,
        collate_fn=_as_it_is,  # type: ignore[arg-type]  # called with one item where batch_size is None
        pin_memory=pin,
        prefetch_factor=config.prefetch if config.workers else None,
        worker_init_fn=_start_worker if config.workers else None,
        generator=torch.Generator(),  # else starting an iterator would draw from the global generator
    )
    iterator = iter(loader)
    while True:
        try:
            loaded = next(iterator)
        except StopIteration:
            return
        except (RuntimeError, EOFError, ConnectionError) as error:
            crash = _last_words(error)
            if crash is None:
                raise
            break
        yield _tuples(loaded)
    del iterator  # outside of the except block nothing else refers to it, so this ends the other workers
    raise WorkerCrashed(
        f"a loading process died ({crash}). Usual causes: the system ran out of memory, /dev/shm is too "
        "small (in containers: --shm-size), or the process was killed; "
        f"try fewer workers than {config.workers}"
    )


def _last_words(error: Exception) -> str | None:
    """What torch says of a worker's death; None for an error that a worker raised."""
    words = str(error)
    if words.startswith("Caught ") or (isinstance(error, RuntimeError) and "DataLoader worker (pid" not in words):
        return None
    try:
        # A worker's pipe breaks before the signal of its end arrives, and then torch raises wherever we are.
        time.sleep(0.2)
    except RuntimeError as late:
        words = str(late)
    return words.strip() or "its pipe broke"


def _tuples(loaded: _Loaded) -> _Loaded:
    """Undo that pinning turns tuples into lists, in some versions of torch."""
    batch, skipped = loaded
    if batch is not None:
        batch = batch._replace(views=tuple(batch.views))
    return _Loaded(batch, {index: (path, reason) for index, (path, reason) in skipped.items()})


def _as_it_is(loaded: _Loaded) -> _Loaded:
    return loaded


def _start_worker(_: int) -> None:
    """Make a worker modest and quiet: one thread, and Ctrl-C is the main process's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A forked worker inherits the trainer's handler, which would only set a flag; and a worker that SIGTERM
    # kills makes torch raise in the main process while that is saving. Status 0 it takes for an ordinary end.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    torch.set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
    threadpool_limits(1)


@contextmanager
def _generators_kept() -> Iterator[None]:
    python, numpy, own = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(own)


def _seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed & 0xFFFF_FFFF)  # noqa: NPY002  timm draws from the global generator
    # Not torch.manual_seed: that also reaches for the GPUs, once for each image.
    torch.default_generator.manual_seed(seed)


def _check_split(count: int, global_batch_size: int, rank: int, world: int, accumulate: int) -> None:
    if count == 0:
        raise ValueError("the data set is empty; there is nothing to load")
    if world < 1 or not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not within a world of {world}")
    if accumulate < 1 or global_batch_size < 1:
        raise ValueError(f"global_batch_size {global_batch_size} and accumulate {accumulate} are at least 1")
    if world > count:
        raise ValueError(f"{world} ranks are more than the {count} images; use fewer processes")
    if global_batch_size > count:
        raise ValueError(
            f"global_batch_size {global_batch_size} is larger than the {count} images to train on; lower it, as in "
            f"train.global_batch_size={1 << count.bit_length() - 1}"
        )
    if global_batch_size % (world * accumulate):
        unit = world * accumulate
        below, above = global_batch_size // unit * unit, -(-global_batch_size // unit) * unit
        advice = f"use {above}" if not below else f"use {below} or {above}"
        raise ValueError(
            f"global_batch_size {global_batch_size} does not divide into {world} ranks x {accumulate} "
            f"micro-batches; {advice}"
        )
