"""Several views of one image, for methods that compare them: two large crops and a number of small ones.

`MultiCrop` takes a PIL image or a uint8 array `[H, W, 3]` and gives float32 tensors `[3, size, size]`: the two
global views first, then the local ones. `MultiCrop.views` also says where each was cut out. It can be pickled, and
draws from the global generator of `random`, which the loader seeds for each image.

Sources: multi-crop of SwAV, Caron et al. 2020 (arXiv 2006.09882); the values of DINO, Caron et al. 2021 (arXiv
2104.14294), whose color changes are BYOL's, Grill et al. 2020 (arXiv 2006.07733). Differences: colors are changed
without rounding to whole levels in between, and the blur is a Gaussian instead of Pillow's approximation by boxes.

Crops are resized by torch's antialiased resize of uint8, in whole numbers, in a quarter of Pillow's time where the
processor has AVX2, and by Pillow elsewhere; the two differ by one level at most.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.nn.functional import interpolate

from vitrail.config import Config
from vitrail.data import colors
from vitrail.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RESAMPLING,
    Channels,
    Interpolation,
    Picture,
    check_std,
    random_crop,
    rgb_pixels,
)

GLOBAL_VIEWS = 2

TORCH_RESIZES = torch.backends.cpu.get_cpu_capability().startswith("AVX")
"""Whether torch has fast code for resizing uint8 on this processor; its other code is slower than Pillow."""


class MultiCropConfig(Config):
    """Which views of an image are made. By default DINO's."""

    global_size: int = Field(default=224, ge=1)
    """Pixels a side of the two global views."""
    local_size: int = Field(default=96, ge=1)
    """Pixels a side of the local views."""
    locals: int = Field(default=8, ge=0)
    """How many local views."""
    global_scale: tuple[float, float] = (0.4, 1.0)
    """Share of the image's area that a global crop covers, least and most."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Share of the image's area that a local crop covers, least and most."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width by height of a crop before it is resized, least and most; drawn log-uniformly."""
    interpolation: Interpolation = "bicubic"
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip, for each view."""
    jitter: float = Field(default=0.8, ge=0, le=1)
    """Probability that a view's colors are changed by `color_jitter`."""
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Brightness, contrast and saturation are multiplied by a factor from [1 - x, 1 + x] in random order; hue
    is moved by up to x of the color circle, x at most 0.5. One number sets the first three."""
    grayscale: float = Field(default=0.2, ge=0, le=1)
    """Probability that a view loses its colors."""
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    """Probability of a Gaussian blur: of the first global view, of the second, of each local one."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur, least and most, in pixels of the view, whatever its size."""
    solarize: tuple[float, float, float] = (0.0, 0.2, 0.0)
    """Probability that levels from 128 on are inverted: of the first global view, of the second, of each local
    one."""
    mean: Channels = IMAGENET_MEAN
    """Subtracted from red, green and blue in [0, 1]."""
    std: Channels = IMAGENET_STD
    """What the difference is divided by."""

    @classmethod
    def tiny(cls, image_size: int = 48) -> Self:
        """For generated scenes and other small images: local views of half the size, four of them, and no blur,
        which would take away what little detail there is."""
        return cls(global_size=image_size, local_size=max(1, image_size // 2), locals=4, blur=(0.0, 0.0, 0.0))

    @field_validator("color_jitter", mode="before")
    @classmethod
    def _one_number(cls, value: Any) -> Any:
        return (value, value, value, 0.0) if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        check_std(self.std)
        for name, (least, most) in {"global_scale": self.global_scale, "local_scale": self.local_scale}.items():
            if not 0 < least <= most <= 1:
                raise ValueError(f"{name} is (least, most) share of the area within (0, 1], not {(least, most)}")
        if self.locals and self.local_size > self.global_size:
            raise ValueError(
                f"local_size {self.local_size} is larger than global_size {self.global_size}; swap them, or set"
                " locals=0"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is (least, most) and positive, not {self.ratio}")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma is (least, most) pixels and positive, not {self.sigma}")
        if min(self.color_jitter) < 0 or self.color_jitter[3] > 0.5:
            raise ValueError(f"color_jitter is not negative and its hue at most 0.5, not {self.color_jitter}")
        for name, chances in {"blur": self.blur, "solarize": self.solarize}.items():
            if min(chances) < 0 or max(chances) > 1:
                raise ValueError(f"{name} holds probabilities in [0, 1], not {chances}")
        return self


class View(NamedTuple):
    """One view of an image, and where it was cut out."""

    pixels: Tensor  # [3, size, size] float32, normalized
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels of the image, half-open
    flipped: bool  # the view's right side is the box's left one


class MultiCrop:
    """The callable of a `MultiCropConfig`."""

    def __init__(self, config: MultiCropConfig) -> None:
        self.config = config
        spread = np.array(config.std, np.float64).reshape(3, 1, 1)
        self._factor = (1 / (255 * spread)).astype(np.float32)
        self._offset = (-np.array(config.mean).reshape(3, 1, 1) / spread).astype(np.float32)

    def __call__(self, image: Picture) -> tuple[Tensor, ...]:
        """Two `[3, global_size, global_size]`, then `locals` of `[3, local_size, local_size]`.

        Raises `ValueError` for an image that is not RGB. Images smaller than a view are enlarged.
        """
        return tuple(view.pixels for view in self.views(image))

    def views(self, image: Picture) -> list[View]:
        """The same views with their boxes; the same state of `random` gives the same ones as calling does."""
        levels = rgb_pixels(image)
        return [self.view(levels, kind) for kind in (0, 1, *[GLOBAL_VIEWS] * self.config.locals)]

    def view(self, levels: np.ndarray, kind: int, box: tuple[int, int, int, int] | None = None) -> View:
        """One view of uint8 `[H, W, 3]`; `kind` is 0 and 1 for the global ones and 2 for a local one.

        A box that is not given is drawn.
        """
        config = self.config
        local = kind == GLOBAL_VIEWS
        size = config.local_size if local else config.global_size
        height, width, _ = levels.shape
        scale = config.local_scale if local else config.global_scale
        box = box or random_crop((width, height), scale, config.ratio)
        small = resized(levels, box, size, config.interpolation)
        flipped = random.random() < config.flip
        pixels = small[:, :, :: -1 if flipped else 1].astype(np.float32, order="C")
        self._recolor(pixels, kind)
        pixels *= self._factor
        pixels += self._offset
        return View(torch.from_numpy(pixels), box, flipped)

    def _recolor(self, pixels: np.ndarray, kind: int) -> None:
        config = self.config
        if random.random() < config.jitter:
            jitter_levels(pixels, config.color_jitter)
        if random.random() < config.grayscale:
            pixels[:] = colors.gray(pixels)
        if random.random() < config.blur[kind]:
            colors.blur(pixels, random.uniform(*config.sigma))
        if random.random() < config.solarize[kind]:
            colors.solarize(pixels, 128)


def resized(levels: np.ndarray, box: tuple[int, int, int, int], size: int, interpolation: Interpolation) -> np.ndarray:
    """A box (left, top, right, bottom) of uint8 `[H, W, 3]`, resized: uint8 `[3, size, size]`."""
    left, top, right, bottom = box
    crop = levels[top:bottom, left:right].copy()
    if TORCH_RESIZES:
        planes = torch.from_numpy(crop).permute(2, 0, 1)[None]
        return interpolate(planes, (size, size), mode=interpolation, antialias=True)[0].numpy()
    return np.asarray(Image.fromarray(crop).resize((size, size), RESAMPLING[interpolation])).transpose(2, 0, 1)


def jitter_levels(pixels: np.ndarray, strength: tuple[float, float, float, float]) -> None:
    """Change brightness, contrast, saturation and hue by random amounts up to `strength`, in random order, in place.

    Pixels are float32 `[3, H, W]` in [0, 255]; the amounts are those of `transforms.jitter_colors`.
    """
    kinds = (colors.scale_brightness, colors.scale_contrast, colors.scale_saturation)
    for place in random.sample(range(4), 4):
        most = strength[place]
        if not most:
            continue
        if place < 3:
            kinds[place](pixels, random.uniform(max(0.0, 1 - most), 1 + most))
        else:
            colors.turn_hue(pixels, random.uniform(-most, most))
