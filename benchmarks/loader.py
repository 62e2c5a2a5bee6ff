"""Images per second of the loader, side by side with torchvision's ImageFolder and torch's DataLoader.

    python benchmarks/loader.py [--images 512] [--rounds 5] [--out FILE.json]

Photo-like JPEGs of 500 x 375 pixels are generated; both sides decode them, crop, resize to 224 by bicubic
interpolation, flip and normalize, batch 64, with 0 and 2 workers. Rounds of three epochs alternate between
the sides; each starts its workers anew, keeps them over the epochs, and is timed from its first batch on.
Further: images of 48 pixels in memory with flips alone, and the time to list a folder of many files.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import record

from vitrail.contracts import Sample
from vitrail.data import ImageFolder, Loader, TrainTransform, TrainTransformConfig
from vitrail.data.transforms import IMAGENET_MEAN, IMAGENET_STD

BATCH = 64
EPOCHS = 3


class InMemory:
    """Random pictures that are decoded already."""

    classes = None

    def __init__(self, count: int, size: int) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        self.samples = [Sample(Image.fromarray(each), 0) for each in pixels]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def digest(self) -> str:
        return "memory"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=100_000, help="of the folder that is only listed")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    numbers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_photos(root / "photos", given.images)
        for workers in (0, 2):
            sides = {
                "vitrail": ours(root / "photos", workers),
                "torchvision": theirs(root / "photos", workers),
            }
            rates = interleaved(sides, given.rounds)
            numbers[f"jpeg_500x375_to_224_workers_{workers}_images_per_second"] = rates
        numbers["memory_48_workers_0_images_per_second"] = memory_rate(given.rounds)
        numbers["listing"] = listing(root / "many", given.files)
    path = record("loader", numbers, given.out)
    print(path.read_text())


def write_photos(root: Path, count: int) -> None:
    """Smooth pictures with some noise: they compress like photographs."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.float64)
        pixels = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        path = root / f"class{number % 8}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)


def ours(root: Path, workers: int) -> Callable[[], float]:
    """A function that reads three epochs and returns images per second from the first batch on."""
    data = ImageFolder(root)
    transform = TrainTransform(TrainTransformConfig(image_size=224))
    loader = Loader(data, transform, global_batch_size=BATCH, seed=0, workers=workers)

    def read() -> Iterator[int]:
        for step in loader.batches(0, EPOCHS * loader.steps_per_epoch):
            yield len(step[0].indices)

    return lambda: rate(read())


def theirs(root: Path, workers: int) -> Callable[[], float]:
    """The same by torchvision and torch's DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    crop = transforms.RandomResizedCrop(224, interpolation=transforms.InterpolationMode.BICUBIC)
    normalize = transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    steps = [crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize]
    data = datasets.ImageFolder(str(root), transforms.Compose(steps))

    def read() -> Iterator[int]:
        loader: DataLoader[Any] = DataLoader(
            data, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
        )
        for _ in range(EPOCHS):
            for _, labels in loader:
                yield len(labels)

    return lambda: rate(read())


def rate(counts: Iterator[int]) -> float:
    """Images per second after the first batch."""
    next(counts)
    started = time.perf_counter()
    return sum(counts) / (time.perf_counter() - started)


def interleaved(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median rate of each side, rounds alternating, and the median of the paired ratios."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, epoch in sides.items():
            rates[name].append(epoch())
    first, second = rates.values()
    ratio = statistics.median(one / other for one, other in zip(first, second, strict=True))
    medians = {name: round(statistics.median(found), 1) for name, found in rates.items()}
    return {**medians, "ratio": round(ratio, 3)}


def memory_rate(rounds: int) -> float:
    """Median images per second of 48-pixel images that need no decoding, flips alone."""
    data = InMemory(2048, 48)
    loader = Loader(data, TrainTransform(TrainTransformConfig.flips(48)), global_batch_size=BATCH, seed=0)
    rates = []
    for epoch in range(rounds):
        started = time.perf_counter()
        steps = loader.steps_per_epoch
        count = sum(len(step[0].indices) for step in loader.batches(epoch * steps, (epoch + 1) * steps))
        rates.append(count / (time.perf_counter() - started))
    return round(statistics.median(rates), 1)


def listing(root: Path, files: int) -> dict[str, float]:
    """Seconds to list a folder of empty files in 100 classes, by both sides."""
    from torchvision import datasets

    for number in range(100):
        (root / f"class{number:03d}").mkdir(parents=True)
    for number in range(files):
        os.close(os.open(root / f"class{number % 100:03d}" / f"{number:08d}.jpg", os.O_CREAT | os.O_WRONLY))
    found: dict[str, float] = {"files": files}
    for name, read in {"vitrail": ImageFolder, "torchvision": datasets.ImageFolder}.items():
        started = time.perf_counter()
        assert len(read(str(root))) == files
        found[f"{name}_seconds"] = round(time.perf_counter() - started, 3)
    return found


if __name__ == "__main__":
    main()
