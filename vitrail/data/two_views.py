"""Two views of one image with every change behind a switch: crop, flip, color distortion, color dropping, blur.

`TwoViews` takes a PIL image or a uint8 array `[H, W, 3]` and gives two float32 tensors `[3, size, size]`. It can be
pickled, and draws from the global generator of `random`, which the loader seeds for each image. A change that is
switched off draws nothing.

Source: the changes of SimCLR, Chen et al. 2020 (arXiv 2002.05709), in the order crop, flip, jitter, grayscale, blur;
the values and the three kinds of crops of Wen et al. 2025 (arXiv 2509.09429), appendix B.1.

What that text leaves open, and how it is read here
- "A mean kernel size of 3.2" for the blur at 32 pixels: the strength is a tenth of the side, as in SimCLR, and a kernel
  three pixels wide has a standard deviation of about 1 pixel.
- "Intensity of 0.5" for the color distortion: SimCLR's strength s, which stands for (0.8 s, 0.8 s, 0.8 s, 0.2 s).
- "No random cropping": the whole image, resized; its aspect ratio changes where it is not square.
"""

from __future__ import annotations

import random
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from vitrail.config import Config
from vitrail.data import colors
from vitrail.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Channels,
    Interpolation,
    Picture,
    check_std,
    random_crop,
    rgb_pixels,
)
from vitrail.data.views import jitter_levels, resized

Box = tuple[int, int, int, int]


class TwoViewsConfig(Config):
    """How two views are made. By default those of the study on CIFAR."""

    size: int = Field(32, ge=1)
    """Pixels a side of both views."""
    crop: Literal["independent", "shared", "none"] = "independent"
    """Each view its own random crop; both the same one; or the whole image for both."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a crop covers, least and most."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width by height of a crop before it is resized, least and most; drawn log-uniformly."""
    interpolation: Interpolation = "bilinear"
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip, for each view."""
    jitter: float = Field(0.8, ge=0, le=1)
    """Probability that a view's colors are changed by `color_jitter`: color distortion."""
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Brightness, contrast and saturation are multiplied by a factor from [1 - x, 1 + x] in random order; hue is moved
    by up to x of the color circle, x at most 0.5."""
    grayscale: float = Field(0.2, ge=0, le=1)
    """Probability that a view loses its colors: color dropping."""
    blur: float = Field(0.5, ge=0, le=1)
    """Probability of a Gaussian blur, for each view."""
    sigma: tuple[float, float] = (1.0, 1.0)
    """Standard deviation of the blur, least and most, in pixels of the view."""
    mean: Channels = IMAGENET_MEAN
    """Subtracted from red, green and blue in [0, 1]."""
    std: Channels = IMAGENET_STD
    """What the difference is divided by."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        check_std(self.std)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is (least, most) share of the area within (0, 1], not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is (least, most) and positive, not {self.ratio}")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma is (least, most) pixels and positive, not {self.sigma}")
        if min(self.color_jitter) < 0 or self.color_jitter[3] > 0.5:
            raise ValueError(f"color_jitter is not negative and its hue at most 0.5, not {self.color_jitter}")
        return self

    def differ(self) -> bool:
        """Whether two views of an image can differ at all."""
        return self.crop == "independent" or any((self.flip, self.jitter, self.grayscale, self.blur))


class TwoViews:
    """The callable of a `TwoViewsConfig`."""

    def __init__(self, config: TwoViewsConfig) -> None:
        self.config = config
        spread = np.array(config.std, np.float64).reshape(3, 1, 1)
        self._factor = (1 / (255 * spread)).astype(np.float32)
        self._offset = (-np.array(config.mean).reshape(3, 1, 1) / spread).astype(np.float32)

    def __call__(self, image: Picture) -> tuple[Tensor, Tensor]:
        """Two `[3, size, size]`. Raises `ValueError` for an image that is not RGB; small images are enlarged."""
        levels = rgb_pixels(image)
        height, width, _ = levels.shape
        first = self._box(width, height)
        second = self._box(width, height) if self.config.crop == "independent" else first
        return self._view(levels, first), self._view(levels, second)

    def _box(self, width: int, height: int) -> Box:
        if self.config.crop == "none":
            return 0, 0, width, height
        return random_crop((width, height), self.config.scale, self.config.ratio)

    def _view(self, levels: np.ndarray, box: Box) -> Tensor:
        config = self.config
        small = resized(levels, box, config.size, config.interpolation)
        pixels = small[:, :, :: -1 if _happens(config.flip) else 1].astype(np.float32, order="C")
        if _happens(config.jitter):
            jitter_levels(pixels, config.color_jitter)
        if _happens(config.grayscale):
            pixels[:] = colors.gray(pixels)
        if _happens(config.blur):
            colors.blur(pixels, random.uniform(*config.sigma))
        pixels *= self._factor
        pixels += self._offset
        return torch.from_numpy(pixels)


def _happens(chance: float) -> bool:
    return chance > 0 and random.random() < chance
