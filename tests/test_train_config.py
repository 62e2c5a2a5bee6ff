"""Contradictions are refused; the schedule is its closed form; seeds are functions of their arguments."""

from __future__ import annotations

import random

import numpy
import pytest
import torch

from vitrail.config import ConfigError
from vitrail.recipes import supervised
from vitrail.train import TrainConfig, deterministic_kernels, seed_everything
from vitrail.train.progress import Progress, console
from vitrail.train.schedule import learning_rate_at, weight_decay_at


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"global_batch_size": 30, "accumulate": 4}, "30 does not split into accumulate=4"),
        ({"epochs": 3, "warmup_epochs": 4}, r"warmup_epochs 4 is more than epochs 3"),
        ({"learning_rate": 1e-3, "min_learning_rate": 1e-2}, "min_learning_rate 0.01 is above the peak"),
        ({"learning_rate": 1e-3, "warmup_learning_rate": 1e-2}, "warmup_learning_rate 0.01 is above"),
        ({"fsdp": True, "precision": "fp16"}, "precision=bf16"),
        ({"betas": [0.9, 1.0]}, "must each be in"),
        ({"ema": 1.0}, "ema = 1.0"),
        ({"global_batchsize": 4}, "did you mean 'global_batch_size'"),
        ({"precision": "fp8"}, "precision = 'fp8'"),
    ],
)
def test_contradictions_are_refused_in_words(values, words):
    with pytest.raises(ConfigError, match=words):
        TrainConfig.parse(values)


def test_a_contradiction_says_the_way_out_and_not_the_whole_section():
    with pytest.raises(ConfigError) as error:
        supervised.folder().override(["train.epochs=2"])
    assert str(error.value).endswith(
        "train: warmup_epochs 5 is more than epochs 2; for a short run give train.warmup_epochs=0.1 too"
    )
    supervised.folder().override(["train.epochs=2", "train.warmup_epochs=0.1"])


def test_a_configuration_survives_yaml(tmp_path):
    config = TrainConfig(epochs=7, ema=0.99, betas=(0.8, 0.95), clip_norm=1.0)
    config.save(tmp_path / "config.yaml")
    assert TrainConfig.load(tmp_path / "config.yaml") == config
    assert all(field.description for field in TrainConfig.model_fields.values())


def test_the_schedule_is_linear_then_half_a_cosine():
    config = TrainConfig(epochs=10, warmup_epochs=2, learning_rate=1.0, min_learning_rate=0.1, warmup_learning_rate=0.2)
    rates = [learning_rate_at(step, 5, config) for step in range(51)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[5] == pytest.approx(0.6)
    assert rates[10] == pytest.approx(1.0)
    assert rates[20] == pytest.approx(0.1 + 0.9 * (1 + 2**-0.5) / 2)
    assert rates[30] == pytest.approx(0.55)
    assert rates[50] == pytest.approx(0.1)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_schedules_without_warmup_and_of_nothing_but_warmup():
    config = TrainConfig(epochs=2, warmup_epochs=0, learning_rate=1.0)
    assert learning_rate_at(0, 3, config) == 1.0
    config = TrainConfig(epochs=2, warmup_epochs=2, learning_rate=1.0, warmup_learning_rate=0.0)
    assert [learning_rate_at(step, 2, config) for step in range(4)] == [0, 0.25, 0.5, 0.75]
    config = TrainConfig(epochs=1, warmup_epochs=0.5, learning_rate=1.0, warmup_learning_rate=0.0)
    assert learning_rate_at(1, 4, config) == 0.5


def drawn() -> tuple[float, float, float]:
    return random.random(), float(numpy.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_seeds_depend_on_seed_rank_and_step():
    seen = set()
    for place in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]:
        seed_everything(*place)
        first = drawn()
        seed_everything(*place)
        assert drawn() == first
        seen.update(first)
    assert len(seen) == 12


def test_the_deterministic_switch_is_switched_back():
    before = torch.backends.cuda.flash_sdp_enabled()
    with deterministic_kernels(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled()
        assert torch.backends.cudnn.deterministic
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() == before


def test_progress_on_a_terminal_and_elsewhere(monkeypatch, caplog):
    numbers = {
        "epoch": 0.5,
        "train/loss": 1.25,
        "images_per_second": 321.0,
        "data_wait": 0.25,
        "memory_gb": 1.5,
    }
    caplog.set_level("DEBUG", logger="vitrail")
    for terminal in (False, True):
        monkeypatch.setattr(console(), "_force_terminal", terminal)
        with console().capture() as captured, Progress(10, 4, shown=True) as progress:
            progress.step()
            progress.line(numbers)
        record = caplog.records[-1]
        assert "step 5/10  epoch 0.50  loss 1.2500  321 img/s  data wait 25%  1.5 GB" in record.message
        assert record.levelname == ("DEBUG" if terminal else "INFO")
        assert ("step 5/10" in captured.get()) == terminal


def test_weight_decay_goes_along_half_a_cosine():
    assert weight_decay_at(0, 8, 0.04, 0.4) == pytest.approx(0.04)
    assert weight_decay_at(4, 8, 0.04, 0.4) == pytest.approx(0.22)
    assert weight_decay_at(8, 8, 0.04, 0.4) == pytest.approx(0.4)
