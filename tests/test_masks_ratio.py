"""Numbers that vary from image to image."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from vitrail.config import ConfigError
from vitrail.masks import RatioConfig, draw_numbers


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_half_of_the_images_hide_nothing_the_others_a_uniform_share() -> None:
    numbers = draw_numbers(RatioConfig(), 20_000, 1000, generator=seeded())
    assert numbers.dtype == torch.int64
    masked = numbers[numbers > 0]
    assert stats.binomtest(len(masked), 20_000, 0.5).pvalue > 0.01
    assert masked.min() >= 650
    assert masked.max() < 750
    assert stats.chisquare(torch.bincount((masked - 650) // 10, minlength=10).numpy()).pvalue > 0.01


def test_each_image_by_itself() -> None:
    masked = torch.stack([(draw_numbers(RatioConfig(), 8, 196, generator=seeded(n)) > 0).sum() for n in range(400)])
    assert masked.double().var().item() == pytest.approx(2, rel=0.25)  # binomial, not always half of them


def test_no_spread_is_one_number() -> None:
    config = RatioConfig(mean=0.3, spread=0, probability=1)
    assert draw_numbers(config, 50, 196, generator=seeded()).unique().tolist() == [58]
    assert draw_numbers(config.override(["mean=0.9999999999999999"]), 3, 4).tolist() == [3] * 3


def test_the_generator_is_all_chance() -> None:
    first = draw_numbers(RatioConfig(), 30, 196, generator=seeded())
    assert draw_numbers(RatioConfig(), 30, 196, generator=seeded()).equal(first)
    assert not draw_numbers(RatioConfig(), 30, 196, generator=seeded(1)).equal(first)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mean": 0.0}, "mean"),
        ({"mean": 1.0}, "mean"),
        ({"probability": 0.0}, "probability"),
        ({"probability": 1.1}, "probability"),
        ({"spread": -0.1}, "spread"),
        ({"mean": 0.9, "spread": 0.2}, r"mean 0\.9 and spread 0\.2 give shares from 0\.7 to 1\.1; .* lower the spread"),
        ({"mean": 0.1, "spread": 0.1}, r"shares from 0 to 0\.2"),
    ],
)
def test_bad_ratios(values: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RatioConfig.parse(values)
