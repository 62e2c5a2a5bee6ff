"""Fifteen corruptions of an image at five severities, by name, as ImageNet-C has them.

    noise     gaussian_noise  shot_noise  impulse_noise
    blur      defocus_blur  glass_blur  motion_blur  zoom_blur
    weather   snow  frost  fog  brightness
    digital   contrast  elastic_transform  pixelate  jpeg_compression

What is drawn depends on (seed, index of the image, corruption, severity) alone, so a corrupted set is the same for
any number of workers and any order. The strengths are those of two published sets: of ImageNet-C, for images of 224
pixels, and of Tiny-ImageNet-C, for those of 64. Images whose shorter side is below `BETWEEN` pixels, the geometric mean
of the two, take those of 64 pixels. Radii and the like are pixels and are not scaled with the image; those of the
elastic transform are shares of its shorter side, as published.

Source: Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
(arXiv 1903.12261), and the strengths of the authors' released programs.

Deviations: these are not the authors' images, so numbers on them are not those of ImageNet-C.
- Results are rounded, not cut to whole levels, and not written as JPEG of quality 85 in between.
- Frost is drawn (`vitrail.ops.corruptions.frost`) where the authors lay photographs over the image.
- Motion, also of snow, takes the nearest pixels on its way and has a weight for each of 2 radius + 1 steps, after
  ImageMagick, which the authors call.
- Zoom blur enlarges around the exact middle, the authors' around the nearest whole pixel.
- Glass blur swaps two pixels. In the released program the second of two assignments reads what the first wrote, so
  that it copies one over the other.
- The elastic transform reads the image once for both of its steps, mirrored without the outermost pixels twice (theirs
  has them twice in the second step, SciPy's `reflect`), and a Gaussian is not cut at three deviations.
- The disk of defocus blur sums to 1. The released one is cut at its edge for radius 8 and 10 (224 pixels, severities 4
  and 5) and sums to 1.013 and 1.011, so published images are about 1 % brighter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vitrail.data.loader import sample_seed
from vitrail.ops.corruptions import blur, digital, noise, weather

SEVERITIES = (1, 2, 3, 4, 5)
BETWEEN = 120
"""Pixels of the shorter side from which on the strengths for 224 pixels hold."""
LEAST = 32
"""Pixels of the shorter side, at least."""
GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for names in GROUPS.values() for name in names)
"""The 15 names in the order of the paper's tables."""
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Four more that are published beside them, for tuning, and count in no mean."""

Strength = tuple[float, ...]


class _Kind(NamedTuple):
    """A corruption: what is done, and its five strengths for large and small images."""

    function: Callable[..., np.ndarray]  # of (image, *strength, rng)
    large: tuple[Strength, ...]
    small: tuple[Strength, ...]


def corrupt(image: np.ndarray, name: str, severity: int, *, seed: int = 0, index: int = 0) -> np.ndarray:
    """The image spoiled, uint8 `[H, W, 3]` as given; the same for the same arguments.

    Args:
        image: uint8 `[H, W, 3]`, RGB, both sides at least 32 pixels.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed, index: of the set and of the image in it; others draw other chance.

    Raises:
        ValueError: another shape or type, a smaller image, or a name or severity that there is not.
    """
    _check(image, name, severity)
    key = sample_seed(sample_seed(seed, CORRUPTIONS.index(name), severity), -3, index)
    rng = np.random.Generator(np.random.SFC64(key))
    return _KINDS[name].function(image, *strengths(name, min(image.shape[:2]))[severity - 1], rng)


def strengths(name: str, side: int) -> tuple[Strength, ...]:
    """What a corruption is told at severities 1 to 5, for images whose shorter side has so many pixels."""
    return _KINDS[name].small if side < BETWEEN else _KINDS[name].large


def check_names(names: tuple[str, ...], severities: tuple[int, ...]) -> None:
    """`ValueError` for a name or severity that there is not, one that comes twice, or none."""
    for what, given, known in (("corruption", names, CORRUPTIONS), ("severity", severities, SEVERITIES)):
        if not given or len(set(given)) < len(given) or not set(given) <= set(known):
            raise ValueError(f"{given} is no list of each {what} once; known: {', '.join(map(str, known))}")


def _check(image: np.ndarray, name: str, severity: int) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the image is {list(image.shape)} of {image.dtype}; corruptions take uint8 [H, W, 3], RGB")
    if min(image.shape[:2]) < LEAST:
        height, width = image.shape[:2]
        raise ValueError(
            f"the image is {height} x {width} pixels; corruptions want at least {LEAST} a side: enlarge it"
        )
    check_names((name,), (severity,))


def _fixed(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A corruption without chance, called like the others."""
    return lambda image, *given: function(image, *given[:-1])


def _motion(image: np.ndarray, radius: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return blur.motion_blur(image, radius, sigma, rng.uniform(-45, 45))


def _elastic(image: np.ndarray, strength: float, smooth: float, jitter: float, rng: np.random.Generator) -> np.ndarray:
    side = min(image.shape[:2])
    return digital.elastic_transform(image, strength * side, smooth * side, jitter * side, rng)


def _single(*values: float) -> tuple[Strength, ...]:
    return tuple((value,) for value in values)


_E = 244 / 224  # the authors' elastic transform takes the side for 244 pixels
_RISE = _single(0.1, 0.2, 0.3, 0.4, 0.5)
_FLAT = _single(0.4, 0.3, 0.2, 0.1, 0.05)
_KINDS = {
    "gaussian_noise": _Kind(
        noise.gaussian_noise, _single(0.08, 0.12, 0.18, 0.26, 0.38), _single(0.04, 0.08, 0.12, 0.15, 0.18)
    ),
    "shot_noise": _Kind(noise.shot_noise, _single(60, 25, 12, 5, 3), _single(250, 100, 50, 30, 15)),
    "impulse_noise": _Kind(
        noise.impulse_noise, _single(0.03, 0.06, 0.09, 0.17, 0.27), _single(0.01, 0.02, 0.05, 0.08, 0.14)
    ),
    "defocus_blur": _Kind(
        _fixed(blur.defocus_blur),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    ),
    "glass_blur": _Kind(
        blur.glass_blur,
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    ),
    "motion_blur": _Kind(
        _motion,
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    ),
    "zoom_blur": _Kind(
        _fixed(blur.zoom_blur),
        ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03)),
        ((7, 0.01), (12, 0.01), (16, 0.01), (21, 0.01), (26, 0.01)),
    ),
    "snow": _Kind(
        weather.snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
    ),
    "frost": _Kind(
        weather.frost,
        ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
        ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
    ),
    "fog": _Kind(
        weather.fog,
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    ),
    "brightness": _Kind(_fixed(digital.brightness), _RISE, _RISE),
    "contrast": _Kind(_fixed(digital.contrast), _FLAT, _FLAT),
    "elastic_transform": _Kind(
        _elastic,
        (
            (2 * _E, 0.7 * _E, 0.1 * _E),
            (2 * _E, 0.08 * _E, 0.2 * _E),
            (0.05 * _E, 0.01 * _E, 0.02 * _E),
            (0.07 * _E, 0.01 * _E, 0.02 * _E),
            (0.12 * _E, 0.01 * _E, 0.02 * _E),
        ),
        ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    ),
    "pixelate": _Kind(_fixed(digital.pixelate), _single(0.6, 0.5, 0.4, 0.3, 0.25), _single(0.9, 0.8, 0.7, 0.6, 0.5)),
    "jpeg_compression": _Kind(_fixed(digital.jpeg), _single(25, 18, 15, 10, 7), _single(65, 58, 50, 40, 25)),
}
