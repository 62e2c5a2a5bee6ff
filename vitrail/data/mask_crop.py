"""A random crop of an image and of its mask, alike: augmentation for training a segmenter."""

from __future__ import annotations

import random

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
    random_crop,
)
from vitrail.ops.patches import sides_of


class MaskCropConfig(Config):
    """Where a crop may lie, and what becomes of it."""

    image_size: int | tuple[int, int] = 336
    """Pixels a side, or (height, width)."""
    scale: tuple[float, float] = (0.5, 1.0)
    """Share of the image's area that the crop covers, least and most."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width by height of the crop before it is resized, least and most; drawn log-uniformly."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    interpolation: Interpolation = "bicubic"
    """Of images; masks always take the nearest pixel."""
    mean: Channels = IMAGENET_MEAN
    """Subtracted from red, green and blue in [0, 1]."""
    std: Channels = IMAGENET_STD
    """What the difference is divided by."""

    @model_validator(mode="after")
    def _sensible(self) -> MaskCropConfig:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is (least, most) share of the area within (0, 1], not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is (least, most) and positive, not {self.ratio}")
        return self


class MaskCrop:
    """The callable of a `MaskCropConfig`."""

    def __init__(self, config: MaskCropConfig) -> None:
        self.config = config
        size = config.image_size
        self.height, self.width = sides_of(size)
        self._normalize = Normalize(config.mean, config.std)

    def __call__(self, sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
        """Image float32 `[3, h, w]` and mask `[h, w]`, uint8 or, of 16 bits, int32.

        Args:
            sample: an image with a mask.
            seed: decides the crop and the flip; the global generators are left as they were.

        Raises:
            ValueError: without a mask, or with one of another size than the image.
        """
        mask = mask_of(sample)
        state = random.getstate()
        random.seed(seed)
        box = random_crop(sample.image.size, self.config.scale, self.config.ratio)
        flip = random.random() < self.config.flip
        random.setstate(state)
        size = (self.width, self.height)
        image = sample.image.crop(box).resize(size, RESAMPLING[self.config.interpolation])
        ids = mask.crop(box).resize(size, Image.Resampling.NEAREST)
        if flip:
            image, ids = (each.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for each in (image, ids))
        return self._normalize(np.asarray(image)), torch.from_numpy(np.array(ids))


def mask_of(sample: Sample) -> Image.Image:
    """The mask as a picture, 8 bits or (of 16) 32. Raises `ValueError` without one, or for one of another size."""
    if sample.mask is None:
        raise ValueError(f"{sample.path} has no mask; segmentation needs one for each image")
    if sample.mask.shape != (sample.image.height, sample.image.width):
        raise ValueError(
            f"{sample.path}: mask {sample.mask.shape} and image {(sample.image.height, sample.image.width)} differ in "
            "size"
        )
    wide = sample.mask.dtype == np.uint16
    return Image.fromarray(np.ascontiguousarray(sample.mask, dtype=np.int32 if wide else np.uint8))
