"""Images per second of each corruption on one core, beside plain definitions in NumPy, SciPy and Pillow.

    python benchmarks/corruptions.py [--sides 64 224] [--images 20] [--rounds 5] [--out FILE.json]

Photo-like images are generated. For each corruption all five severities run on every image; rounds alternate between
the sides. The plain definitions are one array expression after the other, as a user would write them, and loops over
pixels where NumPy has no word (glass blur). Of snow, frost, fog and the elastic transform, whose plain definition is
much the same arithmetic, there is none. "all" is the total time of the 15, so that the slow ones count most.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from record import record
from scipy import ndimage

from vitrail.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, strengths
from vitrail.ops.corruptions.blur import disk_kernel

Plain = Callable[..., np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    numbers: dict[str, Any] = {}
    for side in given.sides:
        images = [photo(side, seed) for seed in range(given.images)]
        numbers[f"images_per_second_{side}"] = {name: measured(name, images, given.rounds) for name in CORRUPTIONS}
        seconds = sum(1 / each["vitrail"] for each in numbers[f"images_per_second_{side}"].values())
        numbers[f"images_per_second_{side}"]["all"] = {"vitrail": round(len(CORRUPTIONS) / seconds, 1)}
    path = record("corruptions", numbers, given.out)
    print(path.read_text())


def photo(side: int, seed: int) -> np.ndarray:
    """A smooth picture with some noise, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def measured(name: str, images: list[np.ndarray], rounds: int) -> dict[str, float]:
    """Median images per second of each side, and the median of the paired ratios."""
    sides: dict[str, Callable[[], None]] = {"vitrail": lambda: ours(name, images)}
    few = images[:1] if name == "glass_blur" else images[: max(1, len(images) // 4)]
    if name in PLAIN:
        sides["plain"] = lambda: theirs(PLAIN[name], few, strengths(name, len(images[0])))
    counts = {"vitrail": len(images), "plain": len(few)}
    for run in sides.values():
        run()  # compiles, draws textures, fills tables
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, run in sides.items():
            start = time.perf_counter()
            run()
            rates[side].append(counts[side] * len(SEVERITIES) / (time.perf_counter() - start))
    found = {side: round(statistics.median(each), 1) for side, each in rates.items()}
    if "plain" in rates:
        found["ratio"] = round(statistics.median(a / b for a, b in zip(rates["vitrail"], rates["plain"])), 2)
    return found


def ours(name: str, images: list[np.ndarray]) -> None:
    for index, image in enumerate(images):
        for severity in SEVERITIES:
            corrupt(image, name, severity, index=index)


def theirs(plain: Plain, images: list[np.ndarray], told: tuple[tuple[float, ...], ...]) -> None:
    rng = np.random.default_rng(0)
    for image in images:
        for strength in told:
            plain(image / 255, *strength, rng)


def levels(values: np.ndarray) -> np.ndarray:
    """[0, 1] to uint8."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def gaussian_noise(x: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return levels(x + rng.normal(0, sigma, x.shape))


def shot_noise(x: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    return levels(rng.poisson(x * photons) / photons)


def impulse_noise(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    drawn = rng.random(x.shape)
    return levels(np.where(drawn < share / 2, 0, np.where(drawn > 1 - share / 2, 1, x)))


def defocus_blur(x: np.ndarray, radius: float, softness: float, _: object) -> np.ndarray:
    kernel = disk_kernel(radius, softness)
    return levels(np.stack([ndimage.convolve(x[..., c], kernel, mode="mirror") for c in range(3)], -1))


def glass_blur(x: np.ndarray, sigma: float, reach: int, rounds: int, rng: np.random.Generator) -> np.ndarray:
    x = levels(ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest"))
    for _ in range(rounds):
        for y in range(len(x) - reach, reach, -1):
            for column in range(len(x[0]) - reach, reach, -1):
                down, right = rng.integers(-reach, reach, 2)
                other = (y + down, column + right)
                x[y, column], x[other] = x[other].copy(), x[y, column].copy()
    return levels(ndimage.gaussian_filter(x / 255, (sigma, sigma, 0), mode="nearest"))


def motion_blur(x: np.ndarray, radius: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    weights, turn = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2)), rng.uniform(-math.pi / 4, math.pi / 4)
    padded = np.pad(x, ((2 * radius, 2 * radius), (2 * radius, 2 * radius), (0, 0)), "edge")
    out = np.zeros_like(x)
    for k, weight in enumerate(weights / weights.sum()):
        down, right = (2 * radius + round(k * part) for part in (math.sin(turn), math.cos(turn)))
        out += weight * padded[down : down + len(x), right : right + len(x[0])]
    return levels(out)


def zoom_blur(x: np.ndarray, zooms: int, step: float, _: object) -> np.ndarray:
    total = 2 * x
    height, width = x.shape[:2]
    for k in range(1, zooms):
        large = ndimage.zoom(x, (1 + k * step, 1 + k * step, 1), order=1)
        top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
        total += large[top : top + height, left : left + width]
    return levels(total / (zooms + 1))


def brightness(x: np.ndarray, rise: float, _: object) -> np.ndarray:
    colors = rgb_to_hsv(x)
    colors[..., 2] = np.minimum(colors[..., 2] + rise, 1)
    return levels(hsv_to_rgb(colors))


def contrast(x: np.ndarray, factor: float, _: object) -> np.ndarray:
    means = x.mean((0, 1))
    return levels((x - means) * factor + means)


def pixelate(x: np.ndarray, share: float, _: object) -> np.ndarray:
    image, size = Image.fromarray(levels(x)), (x.shape[1], x.shape[0])
    small = image.resize((int(size[0] * share), int(size[1] * share)), Image.Resampling.BOX)
    return np.asarray(small.resize(size, Image.Resampling.BOX))


def jpeg_compression(x: np.ndarray, quality: int, _: object) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(levels(x)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


PLAIN: dict[str, Plain] = {
    each.__name__: each
    for each in (
        *(gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur),
        *(brightness, contrast, pixelate, jpeg_compression),
    )
}


if __name__ == "__main__":
    main()
