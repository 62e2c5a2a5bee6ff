"""A set of images in which each comes once for every corruption and severity, spoiled when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image
from torch.utils.data import get_worker_info

from vitrail.contracts import ImageSet, Sample
from vitrail.data.corruptions import CORRUPTIONS, LEAST, SEVERITIES, check_names, corrupt
from vitrail.data.folders import position
from vitrail.data.transforms import EvalTransform

CLEAN = ("clean", 0)
"""The variant of an image that nothing is done to."""


class Corrupted:
    """Every image as it is and in all variants, one after the other. Fulfills `vitrail.contracts.ImageSet`.

    Number n is variant n mod V of image n div V, so an image is read and cropped about once for all its variants.

    Args:
        data: the images.
        transform: brings them to the size that they are spoiled at.
        corruptions, severities: which ones, see `vitrail.data.corruptions`.
        seed: of what is drawn.
        numbers: what stands for each image beside the seed; None for its place in `data`.

    Attributes:
        variants: (corruption, severity), the first one `CLEAN`.

    Raises:
        ValueError: names or severities that there are not, or a transform that leaves images their own size or makes
            them smaller than 32 pixels a side.
    """

    def __init__(
        self,
        data: ImageSet,
        transform: EvalTransform,
        corruptions: Sequence[str] = CORRUPTIONS,
        severities: Sequence[int] = SEVERITIES,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> None:
        check_names(tuple(corruptions), tuple(severities))
        _check_frame(transform)
        self.data, self.transform, self.seed, self.classes = data, transform, seed, data.classes
        self.numbers = range(len(data)) if numbers is None else tuple(numbers)
        self.variants = (CLEAN, *((name, severity) for name in corruptions for severity in severities))
        self._last: tuple[int, Sample, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.data) * len(self.variants)

    def __getitem__(self, index: int) -> Sample:
        """One variant of one image. Raises `UnreadableImage` as the set does."""
        number, place = divmod(position(index, len(self)), len(self.variants))
        sample, pixels = self._read(number)
        name, severity = self.variants[place]
        if (name, severity) != CLEAN:
            pixels = corrupt(pixels, name, severity, seed=self.seed, index=self.numbers[number])
        return sample._replace(image=Image.fromarray(pixels), mask=None, boxes=None)

    def variant_of(self, indices: np.ndarray) -> np.ndarray:
        """Places in `variants` of these numbers of the set."""
        return indices % len(self.variants)

    def digest(self) -> str:
        """Of the images and of what is done to them."""
        words = f"{self.data.digest()} {self.transform.config.plain()} {self.variants} {self.seed}"
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def _read(self, number: int) -> tuple[Sample, np.ndarray]:
        if self._last is None or self._last[0] != number:
            if get_worker_info() is not None:
                import cv2

                # A started process does not inherit what its parent has set. Not 1: that waits for OpenCV's threads to
                # end, which a forked process does not have.
                cv2.setNumThreads(0)
            sample = self.data[number]
            self._last = number, sample, self.transform.framed(sample.image)
        return self._last[1:]


def _check_frame(transform: EvalTransform) -> None:
    config = transform.config
    if config.mode == "pad":
        raise ValueError('transform.mode is "pad", which leaves each image its size; give "crop" or "squash" here')
    least = config.image_size if isinstance(config.image_size, int) else min(config.image_size)
    if least < LEAST:
        raise ValueError(
            f"images are of {least} pixels, and corruptions want {LEAST} a side; a model of smaller images cannot be "
            "measured with them"
        )


@contextmanager
def one_thread_of_opencv() -> Iterator[None]:
    """OpenCV uses one thread inside: others help little on small images, and a forked process would wait for them."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(0)  # not 1: see `_read`
    try:
        yield
    finally:
        cv2.setNumThreads(before)
