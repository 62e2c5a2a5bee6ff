"""The two schedules of lambda."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from vitrail.config import ConfigError
from vitrail.contracts import Step
from vitrail.regularizers import WeightConfig, weight_at


@pytest.mark.parametrize("epochs", [100, 300])
@pytest.mark.parametrize("steps", [1, 7, 977, 1251])
def test_golden_schedule(epochs: int, steps: int, oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = oracle("sar_blob_weight_schedule")[f"w{epochs}"]
    config = WeightConfig(kind="warmup_cosine", epochs=epochs)
    for at in {0, steps // 2, steps - 1}:  # the first, a middle and the last step of every epoch
        ours = [weight_at(config, Step(epoch * steps + at, epochs * steps).progress) for epoch in range(epochs)]
        np.testing.assert_allclose(ours, golden, atol=1e-12, rtol=0)


def test_mean_is_about_half_the_peak() -> None:
    config = WeightConfig(kind="warmup_cosine", epochs=100)
    assert sum(weight_at(config, epoch / 100) for epoch in range(100)) / 100 == pytest.approx(0.00505, abs=1e-5)


def test_constant_is_constant() -> None:
    assert {weight_at(WeightConfig(peak=0.05), progress) for progress in (0, 0.3, 0.999, 1)} == {0.05}


def test_short_trainings() -> None:
    def weights(epochs: int, warmup: int) -> list[float]:
        config = WeightConfig(kind="warmup_cosine", peak=1, epochs=epochs, warmup_epochs=warmup)
        return [weight_at(config, epoch / epochs) for epoch in range(epochs)]

    assert weights(4, 0) == pytest.approx([(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)])
    assert weights(3, 1) == pytest.approx([0, 1, 0.5])
    assert weights(3, 3) == pytest.approx([0, 0.5, 1])
    assert weights(1, 0) == [1]
    assert weight_at(WeightConfig(kind="warmup_cosine", epochs=3, warmup_epochs=1), 1.0) == pytest.approx(0.005)


def test_bad_values_are_refused_in_words() -> None:
    with pytest.raises(ConfigError, match=r"warmup_epochs 10 is more than epochs 5"):
        WeightConfig.parse({"kind": "warmup_cosine", "epochs": 5})
    with pytest.raises(ConfigError, match=r"peak = -1"):
        WeightConfig.parse({"peak": -1})
    with pytest.raises(ConfigError, match=r"did you mean 'peak'"):
        WeightConfig.parse({"peek": 0.1})
    with pytest.raises(ValueError, match=r"progress is 1\.5"):
        weight_at(WeightConfig(), 1.5)
