"""Images per second of multi-crop, side by side with torchvision's transforms v2.

    python benchmarks/multi_crop.py [--images 16] [--rounds 7] [--out FILE.json]

Photo-like images of 500 x 375 pixels, decoded beforehand; two views of 224 pixels and eight of 96 with DINO's
changes of color, one thread. torchvision does the same on Pillow images (`torchvision_pillow`), with DINO's blur by
Pillow, and on uint8 tensors (`torchvision_tensor`), as it recommends. Rounds alternate between the sides. Further:
the crops alone, without changes of color, and images of 48 pixels with the tiny setting.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader import write_photos
from PIL import Image, ImageFilter
from record import record

from vitrail.data import MultiCrop, MultiCropConfig
from vitrail.data.transforms import IMAGENET_MEAN, IMAGENET_STD

Transform = Callable[[Image.Image], Any]
NO_COLOR: dict[str, Any] = {"jitter": 0.0, "grayscale": 0.0, "blur": (0.0,) * 3, "solarize": (0.0,) * 3}


class PillowBlur:
    """DINO's blur: Pillow's approximation by three box filters."""

    def __init__(self, sigma: tuple[float, float]) -> None:
        self.sigma = sigma

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*self.sigma)))


class Torchvision:
    """The same views by torchvision's transforms v2."""

    def __init__(self, config: MultiCropConfig, *, tensor: bool) -> None:
        self.config, self.tensor = config, tensor
        self.kinds = [self._view(kind) for kind in range(3)]

    def __call__(self, image: Image.Image) -> list[torch.Tensor]:
        given: Any = image
        if self.tensor:
            from torchvision.transforms.v2 import functional

            given = functional.pil_to_tensor(image)
        return [self.kinds[kind](given) for kind in (0, 1, *[2] * self.config.locals)]

    def _view(self, kind: int) -> Any:
        from torchvision.transforms import v2

        config = self.config
        size, scale = (
            (config.local_size, config.local_scale) if kind == 2 else (config.global_size, config.global_scale)
        )
        blur = v2.GaussianBlur(13, config.sigma) if self.tensor else PillowBlur(config.sigma)
        steps = [
            v2.RandomResizedCrop(size, scale, config.ratio, v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(config.flip),
            v2.RandomApply([v2.ColorJitter(*config.color_jitter)], config.jitter),
            v2.RandomGrayscale(config.grayscale),
            v2.RandomApply([blur], config.blur[kind]),
            v2.RandomSolarize(128, config.solarize[kind]),
            *([] if self.tensor else [v2.PILToTensor()]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
        return v2.Compose(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), given.images)
        photos = [Image.open(path).convert("RGB") for path in sorted(Path(folder).rglob("*.jpg"))]
    numbers = {
        "dino_500x375_images_per_second": interleaved(sides(MultiCropConfig()), photos, given.rounds),
        "crops_alone_500x375_images_per_second": interleaved(sides(MultiCropConfig(**NO_COLOR)), photos, given.rounds),
    }
    rng = np.random.default_rng(0)
    tiny = [Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)) for _ in range(8 * given.images)]
    numbers["tiny_48_images_per_second"] = interleaved(sides(MultiCropConfig.tiny()), tiny, given.rounds)
    path = record("multi_crop", numbers, given.out)
    print(path.read_text())


def sides(config: MultiCropConfig) -> dict[str, Transform]:
    return {
        "vitrail": MultiCrop(config),
        "torchvision_pillow": Torchvision(config, tensor=False),
        "torchvision_tensor": Torchvision(config, tensor=True),
    }


def interleaved(transforms: dict[str, Transform], images: list[Image.Image], rounds: int) -> dict[str, Any]:
    """Median rate of each side with its quartiles, rounds alternating, and the median of the paired ratios."""
    rates: dict[str, list[float]] = {name: [] for name in transforms}
    for transform in transforms.values():
        transform(images[0])
    for number in range(rounds):
        for name, transform in transforms.items():
            random.seed(number)
            torch.manual_seed(number)
            started = time.perf_counter()
            for image in images:
                transform(image)
            rates[name].append(len(images) / (time.perf_counter() - started))
    found: dict[str, Any] = {}
    ours = rates["vitrail"]
    for name, each in rates.items():
        low, middle, high = statistics.quantiles(each, n=4)
        found[name] = {"median": round(middle, 1), "quartiles": [round(low, 1), round(high, 1)]}
        if name != "vitrail":
            ratios = [one / other for one, other in zip(ours, each, strict=True)]
            found[f"ratio_to_{name}"] = round(statistics.median(ratios), 2)
    return found


if __name__ == "__main__":
    main()
