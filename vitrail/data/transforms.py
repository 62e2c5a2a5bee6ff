"""From a decoded image to what a backbone reads: augmentation for training, fixed geometry for evaluation.

Both transforms take a PIL image or a uint8 array `[H, W, 3]`, give a float32 tensor `[3, h, w]`, and can be
pickled. Training draws from the global generators of `random`, NumPy and torch, as timm's parts do; the
loader seeds all three for each image. torchvision is not used and timm only where RandAugment or random
erasing is asked for, since importing them takes seconds.

The evaluation transform also moves masks and boxes (`EvalTransform.with_targets`). Frames are pixels of the
image, x to the right, y down, boxes half-open.

Sources: random crops of Szegedy et al. 2015 (arXiv 1409.4842), RandAugment of Cubuk et al. 2020 (arXiv
1909.13719) and random erasing of Zhong et al. 2020 (arXiv 1708.04896), both as in timm; DeiT's values,
Touvron et al. 2021 (arXiv 2012.12877).
"""

from __future__ import annotations

import math
import random
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from PIL import Image, ImageEnhance
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from vitrail.config import Config
from vitrail.contracts import Sample
from vitrail.ops.patches import sides_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Channels = tuple[float, float, float]
Interpolation = Literal["bicubic", "bilinear"]
Picture = Image.Image | np.ndarray

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class TrainTransformConfig(Config):
    """What is done to an image before training on it. By default: a random crop, resized, and a flip."""

    image_size: int | tuple[int, int] = 224
    """Pixels a side, or (height, width)."""
    scale: tuple[float, float] | None = (0.08, 1.0)
    """Share of the image's area that a random crop covers, least and most; null takes the whole image (its
    middle, where the aspect ratio differs)."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width by height of a random crop before it is resized, least and most; drawn log-uniformly."""
    interpolation: Interpolation = "bicubic"
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    rand_augment: str | None = None
    """timm's description of a RandAugment policy, such as "rand-m9-mstd0.5-inc1"; null for none."""
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Brightness, contrast and saturation are multiplied by a factor from [1 - x, 1 + x] in random order; hue
    is moved by up to x of the color circle, x at most 0.5. One number sets the first three."""
    erase: float = Field(default=0.0, ge=0, le=1)
    """Probability that a rectangle of 2 % to 33 % of the area becomes normal noise, after normalization."""
    mean: Channels = IMAGENET_MEAN
    """Subtracted from red, green and blue in [0, 1]."""
    std: Channels = IMAGENET_STD
    """What the difference is divided by."""

    @classmethod
    def deit(cls, image_size: int | tuple[int, int] = 224) -> Self:
        """DeiT's and SAR's values. Their color jitter has no effect beside RandAugment and is left out."""
        return cls(image_size=image_size, rand_augment="rand-m9-mstd0.5-inc1", erase=0.25)

    @classmethod
    def flips(cls, image_size: int | tuple[int, int] = 48) -> Self:
        """Flips alone, for generated scenes and other images that come in the right size: cheap."""
        return cls(image_size=image_size, scale=None)

    @field_validator("color_jitter", mode="before")
    @classmethod
    def _one_number(cls, value: Any) -> Any:
        return (value, value, value, 0.0) if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        _check_size(self.image_size)
        check_std(self.std)
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is (least, most) share of the area within (0, 1], not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is (least, most) and positive, not {self.ratio}")
        if min(self.color_jitter) < 0 or self.color_jitter[3] > 0.5:
            raise ValueError(f"color_jitter is not negative and its hue at most 0.5, not {self.color_jitter}")
        if self.rand_augment is not None and not self.rand_augment.startswith("rand-"):
            raise ValueError(f'rand_augment is like "rand-m9-mstd0.5-inc1", not {self.rand_augment!r}')
        return self


class EvalTransformConfig(Config):
    """How an image is brought to the size that a backbone is evaluated at."""

    image_size: int | tuple[int, int] = 224
    """Pixels a side, or (height, width). Not used by mode "pad"."""
    mode: Literal["crop", "squash", "pad"] = "crop"
    """crop: the shorter side is resized, the middle is cut out; squash: both sides are resized, the aspect
    ratio changes, nothing is lost; pad: nothing is resized, right and bottom are padded to a `multiple`."""
    keep: float | None = Field(default=None, gt=0, le=1)
    """Mode "crop": share of the resized shorter side that stays. null is 0.875 from 128 pixels on (256 to
    224), and 1 for smaller images, whose rims are too dear to lose."""
    multiple: int = Field(default=16, ge=1)
    """Mode "pad": the patch size."""
    interpolation: Interpolation = "bicubic"
    """Of images; masks always take the nearest pixel."""
    mean: Channels = IMAGENET_MEAN
    """Subtracted from red, green and blue in [0, 1]."""
    std: Channels = IMAGENET_STD
    """What the difference is divided by."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        _check_size(self.image_size)
        check_std(self.std)
        return self

    @property
    def kept(self) -> float:
        """`keep`, or the default for this size."""
        if self.keep is not None:
            return self.keep
        return 0.875 if min(sides_of(self.image_size)) >= 128 else 1.0


class Geometry(NamedTuple):
    """Where the pixels of an image go: first resized, then shifted into a frame that cuts and pads."""

    source: tuple[int, int]  # height, width of the image
    resized: tuple[int, int]  # height, width after resizing
    shift: tuple[int, int]  # y, x of the frame's corner in the resized image
    size: tuple[int, int]  # height, width of the frame

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Half-open boxes `[n, 4]` of the image, moved and cut to the frame; one outside has no area left."""
        return np.clip(np.asarray(boxes, np.float64) * self._scale() - self._shift(), 0, self._most()).astype(
            np.float32
        )

    def back(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes `[n, 4]` of the frame in pixels of the image."""
        return ((np.asarray(boxes, np.float64) + self._shift()) / self._scale()).astype(np.float32)

    def _scale(self) -> np.ndarray:
        down, right = (new / old for new, old in zip(self.resized, self.source, strict=True))
        return np.array([right, down, right, down])

    def _shift(self) -> np.ndarray:
        return np.array([self.shift[1], self.shift[0]] * 2, np.float64)

    def _most(self) -> np.ndarray:
        return np.array([self.size[1], self.size[0]] * 2, np.float64)


class TrainTransform:
    """The callable of a `TrainTransformConfig`. Raises `ValueError` for an image that is not RGB."""

    def __init__(self, config: TrainTransformConfig) -> None:
        self.config = config
        self.size = sides_of(config.image_size)
        self._normalize = Normalize(config.mean, config.std)
        self._rand_augment = _rand_augment(config) if config.rand_augment is not None else None
        self._erase = _random_erasing(config.erase) if config.erase else None
        self._plain = config.scale is None and self._rand_augment is None and not any(config.color_jitter)

    def __call__(self, image: Picture) -> Tensor:
        """One augmented image, float32 `[3, height, width]`."""
        if self._plain and _size(image) == self.size:
            pixels = rgb_pixels(image)
            if random.random() < self.config.flip:
                pixels = pixels[:, ::-1]
        else:
            pixels = np.asarray(self._augmented(_pil(image)))
        tensor = self._normalize(pixels)
        return self._erase(tensor) if self._erase is not None else tensor

    def _augmented(self, image: Image.Image) -> Image.Image:
        config = self.config
        resample = RESAMPLING[config.interpolation]
        if config.scale is None:
            image = _middle(image, self.size, resample)
        else:
            box = random_crop(image.size, config.scale, config.ratio)
            image = image.crop(box).resize((self.size[1], self.size[0]), resample)
        if random.random() < config.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self._rand_augment is not None:
            image = self._rand_augment(image)
        return jitter_colors(image, config.color_jitter) if any(config.color_jitter) else image


class EvalTransform:
    """The callable of an `EvalTransformConfig`; `with_targets` moves the mask and the boxes along."""

    def __init__(self, config: EvalTransformConfig) -> None:
        self.config = config
        self._normalize = Normalize(config.mean, config.std)
        self._filling = tuple(min(255, round(255 * channel)) for channel in config.mean)

    def __call__(self, image: Picture) -> Tensor:
        """The image in its frame, float32 `[3, height, width]`."""
        return self._normalize(self.framed(image))

    def framed(self, image: Picture) -> np.ndarray:
        """The image in its frame before it is normalized, uint8 `[height, width, 3]`, which may be read-only.

        One that has the frame's size already, and of which all is kept, comes back as it is.
        """
        height, width = _size(image)
        geometry = self.geometry(height, width)
        if geometry.resized == geometry.size == (height, width):
            return rgb_pixels(image)
        resample = RESAMPLING[self.config.interpolation]
        return np.asarray(_moved(_pil(image), geometry, resample, self._filling))

    def with_targets(self, sample: Sample) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Image `[3, h, w]` float32, mask `[h, w]` uint8 (255 where padded), boxes `[n, 4]` float32.

        A uint16 mask comes back as int32, 65535 where padded. Boxes keep their number and order; one that lies
        outside of the crop has no area left.
        """
        height, width = _size(sample.image)
        geometry = self.geometry(height, width)
        mask = boxes = None
        if sample.mask is not None:
            if sample.mask.shape != (height, width):
                raise ValueError(f"{sample.path}: mask {sample.mask.shape} and image {(height, width)} differ in size")
            wide = sample.mask.dtype == np.uint16
            picture = Image.fromarray(np.ascontiguousarray(sample.mask, dtype=np.int32 if wide else np.uint8))
            moved = _moved(picture, geometry, Image.Resampling.NEAREST, 65535 if wide else 255)
            mask = torch.from_numpy(np.array(moved))
        if sample.boxes is not None:
            boxes = torch.from_numpy(geometry.boxes(sample.boxes.reshape(-1, 4)))
        return self(sample.image), mask, boxes

    def geometry(self, height: int, width: int) -> Geometry:
        """Where the pixels of an image of this size go."""
        source, config = (height, width), self.config
        if config.mode == "pad":
            padded = tuple(-(-side // config.multiple) * config.multiple for side in source)
            return Geometry(source, source, (0, 0), (padded[0], padded[1]))
        size = sides_of(config.image_size)
        if config.mode == "squash":
            return Geometry(source, size, (0, 0), size)
        return _cropped(source, size, config.kept)


class Normalize:
    """uint8 `[H, W, 3]` to float32 `[3, H, W]`: `(x / 255 - mean) / std`."""

    def __init__(self, mean: Channels, std: Channels) -> None:
        self._factor = torch.tensor([1 / (255 * spread) for spread in std]).view(3, 1, 1)
        self._offset = torch.tensor([-middle / spread for middle, spread in zip(mean, std)]).view(3, 1, 1)

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """Raises `ValueError` for anything but three channels of uint8."""
        _check_pixels(pixels)
        channels = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        return channels.to(torch.float32).mul_(self._factor).add_(self._offset)


def build_train_transform(config: TrainTransformConfig) -> TrainTransform:
    """The training transform that a configuration describes."""
    return TrainTransform(config)


def build_eval_transform(config: EvalTransformConfig) -> EvalTransform:
    """The evaluation transform that a configuration describes."""
    return EvalTransform(config)


def random_crop(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A random box (left, top, right, bottom), half-open, in an image of (width, height).

    Area and log aspect ratio are drawn until a box fits, ten times at most; then the largest middle box whose
    ratio is allowed is taken.
    """
    width, height = size
    least, most = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = width * height * random.uniform(*scale)
        shape = math.exp(random.uniform(least, most))
        across, down = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < across <= width and 0 < down <= height:
            left, top = random.randint(0, width - across), random.randint(0, height - down)
            return left, top, left + across, top + down
    across, down = width, height
    if width < ratio[0] * height:
        down = max(1, round(width / ratio[0]))
    elif width > ratio[1] * height:
        across = max(1, round(height * ratio[1]))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def jitter_colors(image: Image.Image, strength: tuple[float, float, float, float]) -> Image.Image:
    """Change brightness, contrast, saturation and hue by random amounts up to `strength`, in random order."""
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for place in random.sample(range(4), 4):
        most = strength[place]
        if not most:
            continue
        if place < 3:
            image = kinds[place](image).enhance(random.uniform(max(0.0, 1 - most), 1 + most))
        else:
            image = _turn_hue(image, random.uniform(-most, most))
    return image


def _turn_hue(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    steps = round(turn * 256)
    hue = hue.point([(level + steps) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _rand_augment(config: TrainTransformConfig) -> Any:
    from timm.data.auto_augment import rand_augment_transform

    assert config.rand_augment is not None
    settings = {
        "translate_const": int(min(sides_of(config.image_size)) * 0.45),
        "img_mean": tuple(min(255, round(255 * channel)) for channel in config.mean),
        "interpolation": RESAMPLING[config.interpolation],
    }
    try:
        return rand_augment_transform(config.rand_augment, settings)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"timm cannot read the RandAugment policy {config.rand_augment!r}"
            f'{f": {error}" if str(error) else ""}; write it like "rand-m9-mstd0.5-inc1"'
        ) from None


def _random_erasing(probability: float) -> Any:
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(probability, mode="pixel", max_count=1, device="cpu")


def _cropped(source: tuple[int, int], size: tuple[int, int], keep: float) -> Geometry:
    # The image is resized just so far that it covers the frame enlarged by 1 / keep; the longer side is
    # rounded down, as in torchvision, so that published numbers can be met.
    height, width = source
    down, across = (math.floor(side / keep + 1e-6) for side in size)
    if down * width >= across * height:
        resized = down, down * width // height
    else:
        resized = across * height // width, across
    shift = tuple(round((old - new) / 2) for old, new in zip(resized, size, strict=True))
    return Geometry(source, resized, (shift[0], shift[1]), size)


def _middle(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return _moved(image, _cropped((image.height, image.width), size, 1.0), resample, 0)


def _moved(image: Image.Image, geometry: Geometry, resample: Image.Resampling, filling: Any) -> Image.Image:
    height, width = geometry.resized
    if image.size != (width, height):
        image = image.resize((width, height), resample)
    top, left = geometry.shift
    bottom, right = top + geometry.size[0], left + geometry.size[1]
    if (left, top, right, bottom) == (0, 0, width, height):
        return image
    if bottom <= height and right <= width:
        return image.crop((left, top, right, bottom))
    frame = Image.new(image.mode, (geometry.size[1], geometry.size[0]), filling)
    frame.paste(image, (-left, -top))
    return frame


def _size(image: Picture) -> tuple[int, int]:
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    return image.height, image.width


def rgb_pixels(image: Picture) -> np.ndarray:
    """The picture as a uint8 array `[H, W, 3]`, which may be read-only. `ValueError` for what is not RGB."""
    if isinstance(image, np.ndarray):
        _check_pixels(image)
        return image
    _check_mode(image)
    return np.asarray(image)


def _pil(image: Picture) -> Image.Image:
    if isinstance(image, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(image))
    _check_mode(image)
    return image


def _check_size(size: int | tuple[int, int]) -> None:
    if min(sides_of(size)) < 1:
        raise ValueError(f"image_size is at least 1 pixel, not {size}")


def _check_mode(image: Image.Image) -> None:
    if image.mode != "RGB":
        raise ValueError(f"expected an RGB image, got mode {image.mode}; open images by vitrail.data.open_image")


def _check_pixels(pixels: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"expected uint8 [H, W, 3], got {pixels.dtype} {pixels.shape}; open images by open_image")


def check_std(std: Channels) -> None:
    """Raise `ValueError` for a standard deviation that is not positive."""
    if min(std) <= 0:
        raise ValueError(f"std is positive, not {std}")
