"""An image, the mask of its object, and a view for a classifier: augmentation for localizers that learn from masks.

    picture   the image with its shorter side, or (`squash`) both sides, resized
    image     a random crop of the picture, flipped or not;  mask  the same crop of the mask, flipped alike
    view      the picture times max(M, R), augmented for a classifier: M the mask, R a random rectangle left visible

R is CutMix's: a share lam of the area, uniform in [0, 1], is hidden; the sides are sqrt(1 - lam) of the picture's, the
center lies anywhere, and what stands over the rim is cut off. So a view shows the object, or part of what is around it,
or by chance nearly all.

Source: Xu et al., "LocLoc", 2023, Algorithm 1 (the enhanced image); the released code has the rectangle's form and the
order: hidden first, then augmented. Yun et al., "CutMix", 2019.

Deviations
- The released code makes pictures square before they are hidden; here they keep their aspect ratio, as images have at
  test, unless `squash` is set.
"""

from __future__ import annotations

import math
import random
from typing import Literal, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from vitrail.config import Config
from vitrail.contracts import Sample
from vitrail.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RESAMPLING,
    Channels,
    Interpolation,
    Normalize,
    TrainTransform,
    TrainTransformConfig,
    check_std,
)

Box = tuple[int, int, int, int]
Wanted = Literal["both", "generator", "classifier"]


class MaskViewsConfig(Config):
    """How images become views. By default LocLoc's: 256 pixels, crops of 224."""

    image_size: int = Field(224, ge=1)
    """Pixels a side of the image with its mask."""
    resize: int | None = Field(256, ge=1)
    """Pixels of the picture's shorter side, at least `image_size`; null for `image_size`, which leaves nothing to crop
    from a square picture."""
    squash: bool = False
    """Both sides are resized, and the aspect ratio changes, as PPD does."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip of image and mask."""
    interpolation: Interpolation = "bicubic"
    """Of images; masks always take the nearest pixel."""
    masked: bool = True
    """The classifier's view shows mask and rectangle alone; false: the whole image, as PPD does."""
    augment: TrainTransformConfig = TrainTransformConfig(rand_augment="rand-m9-mstd0.5-inc1")
    """Of the classifier's view."""
    mean: Channels = IMAGENET_MEAN
    """Subtracted from red, green and blue in [0, 1]; in both views."""
    std: Channels = IMAGENET_STD
    """What the difference is divided by."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        check_std(self.std)
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(
                f"resize {self.resize} is less than image_size {self.image_size}, so that no crop fits; set it to "
                f"{self.image_size} or more, or to null"
            )
        return self

    def normalized(self, mean: Channels, std: Channels) -> Self:
        """The same for pixels that are normalized otherwise, in both views."""
        pixels = {"mean": mean, "std": std}
        return self.model_copy(update=pixels | {"augment": self.augment.model_copy(update=pixels)})


class MaskViews:
    """The callable of a `MaskViewsConfig`; the loader gives it whole samples."""

    reads_samples = True

    def __init__(self, config: MaskViewsConfig, wanted: Wanted = "both") -> None:
        """Args: wanted: "both" (image, mask, view), "generator" (image, mask) or "classifier" (view)."""
        self.config, self.wanted = config, wanted
        self.side = config.resize or config.image_size
        self._normalize = Normalize(config.mean, config.std)
        pixels = {"mean": config.mean, "std": config.std}
        self._augment = TrainTransform(config.augment.model_copy(update=pixels))

    def __call__(self, sample: Sample) -> tuple[Tensor, ...]:
        """Float32: image `[3, h, w]` and mask `[1, h, w]` of 0 and 1, view `[3, h', w']`; of these what is wanted.

        Raises:
            ValueError: no mask where one is needed, one of another size than the image, or of other values.
        """
        needed = self.wanted != "classifier" or self.config.masked
        size = self._size(sample.image)
        picture = sample.image.resize(size, RESAMPLING[self.config.interpolation])
        mask = binary_mask(sample).resize(size, Image.Resampling.NEAREST) if needed else None
        found: tuple[Tensor, ...] = ()
        if self.wanted != "classifier":
            assert mask is not None  # as was asked for
            found += self._cropped(picture, mask)
        if self.wanted != "generator":
            found += (self._augment(self._hidden(picture, mask) if self.config.masked else sample.image),)
        return found

    def _size(self, image: Image.Image) -> tuple[int, int]:
        if self.config.squash:
            return self.side, self.side
        scale = self.side / min(image.size)
        return max(round(image.width * scale), self.side), max(round(image.height * scale), self.side)

    def _cropped(self, picture: Image.Image, mask: Image.Image) -> tuple[Tensor, Tensor]:
        side = self.config.image_size
        left, top = (random.randint(0, whole - side) for whole in picture.size)
        flipped = random.random() < self.config.flip
        pixels, inside = (np.asarray(each.crop((left, top, left + side, top + side))) for each in (picture, mask))
        if flipped:
            pixels, inside = pixels[:, ::-1], inside[:, ::-1]
        return self._normalize(pixels), torch.from_numpy(inside.astype(np.float32))[None]

    def _hidden(self, picture: Image.Image, mask: Image.Image | None) -> Image.Image:
        assert mask is not None  # as was asked for
        return Image.fromarray(masked_view(np.asarray(picture), np.asarray(mask), visible_box(picture.size)))


def masked_view(pixels: np.ndarray, mask: np.ndarray, box: Box) -> np.ndarray:
    """I * max(M, R): pixels that neither the mask nor the box shows are 0.

    Args:
        pixels: uint8 `[H, W, 3]`.
        mask: `[H, W]`, 0 or 1.
        box: left, top, right, bottom, half-open; R is 1 inside.
    """
    shown = mask.astype(np.uint8)
    left, top, right, bottom = box
    shown[top:bottom, left:right] = 1
    return pixels * shown[..., None]


def visible_box(size: tuple[int, int]) -> Box:
    """A random box of CutMix in a picture of (width, height); it may be empty. Draws from the generator of `random`."""
    share = math.sqrt(1 - random.random())
    spans = []
    for whole in size:
        half, center = int(whole * share) // 2, random.randrange(whole)
        spans.append((max(center - half, 0), min(center + half, whole)))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def binary_mask(sample: Sample) -> Image.Image:
    """The object's mask as a picture of 0 and 1.

    Raises:
        ValueError: no mask, another size than the image's, or other values, such as those of class ids.
    """
    if sample.mask is None:
        raise ValueError(
            f"{sample.path} has no mask of its object; make masks by `vitrail object-masks` and wrap images in them"
        )
    if sample.mask.shape != (sample.image.height, sample.image.width):
        raise ValueError(
            f"{sample.path}: mask {sample.mask.shape} and image {(sample.image.height, sample.image.width)} differ in "
            "size"
        )
    if sample.mask.size and int(sample.mask.max()) > 1:
        raise ValueError(
            f"{sample.path}: the mask holds the value {int(sample.mask.max())}, and masks of an object hold 0 and 1; "
            "class ids of annotated images are not what a localizer learns from"
        )
    return Image.fromarray(np.ascontiguousarray(sample.mask, dtype=np.uint8))
