"""Corruption errors: how much a classifier's error grows on corrupted images, also relative to another classifier's.

With E(s, c) the top-1 error at severity s of corruption c, E the one on clean images, and B those of a baseline:

    CE(c)           100 sum_s E(s, c) / sum_s B(s, c)
    relative CE(c)  100 sum_s (E(s, c) - E) / sum_s (B(s, c) - B)

mCE and relative mCE are their means over corruptions. AlexNet has 100 in both by definition.

Source: Hendrycks and Dietterich 2019 (arXiv 1903.12261), Section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

ALEXNET_CLEAN = 43.5
"""AlexNet's top-1 error on the clean validation images, percent, as in the paper's tables."""
ALEXNET = {
    "gaussian_noise": 88.6428,
    "shot_noise": 89.4468,
    "impulse_noise": 92.2640,
    "defocus_blur": 81.9880,
    "glass_blur": 82.6268,
    "motion_blur": 78.5948,
    "zoom_blur": 79.8360,
    "snow": 86.6816,
    "frost": 82.6572,
    "fog": 81.9324,
    "brightness": 56.4592,
    "contrast": 85.3204,
    "elastic_transform": 64.6056,
    "pixelate": 71.7840,
    "jpeg_compression": 60.6500,
}
"""AlexNet's top-1 error on ImageNet-C in percent, the mean over five severities of 1,000 classes."""


class Baseline(NamedTuple):
    """A classifier to be compared with; errors in percent."""

    name: str
    errors: Mapping[str, float]  # by corruption, the mean over severities
    clean: float | None = None  # on clean images; None where it is not known


def corruption_errors(errors: Mapping[str, Sequence[float]], baseline: Baseline) -> dict[str, float | None]:
    """CE of each corruption in percent of the baseline; None where the baseline makes no error, so that it has none.

    Args:
        errors: by corruption, percent at each severity.

    Raises:
        ValueError: a corruption that the baseline lacks.
    """
    known = {name: _of(baseline, name) for name in errors}
    return {name: 100 * mean(values) / known[name] if known[name] > 0 else None for name, values in errors.items()}


def relative_corruption_errors(
    errors: Mapping[str, Sequence[float]], clean: float, baseline: Baseline
) -> dict[str, float | None]:
    """Relative CE of each corruption in percent; None where the baseline does not get worse, so that it has none.

    Args:
        clean: the error on clean images, percent.

    Raises:
        ValueError: a baseline without an error on clean images, or as `corruption_errors`.
    """
    if baseline.clean is None:
        raise ValueError(f"the baseline {baseline.name} has no error on clean images, which a relative error needs")
    rises = {name: _of(baseline, name) - baseline.clean for name in errors}
    return {
        name: 100 * (mean(values) - clean) / rises[name] if rises[name] > 0 else None for name, values in errors.items()
    }


def mean(values: Sequence[float]) -> float:
    """The mean. Raises `ValueError` for none."""
    if not values:
        raise ValueError("the mean error of no severity or corruption is undefined; give at least one")
    return sum(values) / len(values)


def _of(baseline: Baseline, name: str) -> float:
    known = baseline.errors.get(name)
    if known is None:
        raise ValueError(
            f"the baseline {baseline.name} has no error of {name}; it has {', '.join(baseline.errors) or 'none'}"
        )
    return known
