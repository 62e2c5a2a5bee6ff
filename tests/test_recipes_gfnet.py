"""GFNet's recipes: a run trains, resumes, goes on from another, and leaves a ranker that is no backbone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from vitrail.config import ConfigError
from vitrail.rankers import open_ranker
from vitrail.recipes.gfnet import build, scenes_gfnet
from vitrail.recipes.measure import measure
from vitrail.recipes.run import Verbs, describe, prepare, resolve, run

TINY = [
    "data.scenes.count=48",
    "data.scenes.val_count=16",
    "data.scenes.image_size=24",
    "augment.image_size=24",
    "method.network.image_size=24",
    "method.network.window=16",
    "method.network.hidden=16",
    "method.network.cnn_options={channels: [8, 8, 8, 8], stem_width: 8, output_stride: 8}",
    "train.epochs=2",
    "train.warmup_epochs=0",
    "train.global_batch_size=16",
    "train.device=cpu",
]


def test_a_run_goes_on_and_leaves_a_ranker(tmp_path: Path) -> None:
    ready, _ = prepare("scenes_gfnet", TINY, Verbs())
    outcome = run(ready, Verbs(), tmp_path / "run")
    assert 0 <= outcome.losses["val/top1"] <= 100
    ranker: Any = open_ranker("gfnet", str(tmp_path / "run"))
    assert ranker(torch.randn(2, 3, 24, 24)).shape == (2, 4, 4)
    longer, _ = prepare("scenes_gfnet", TINY, Verbs(extend=3), tmp_path / "run")
    assert run(longer, Verbs(extend=3), tmp_path / "run").steps == 9
    with pytest.raises(ValueError, match="for the ranker gfnet: name it by"):
        measure("accuracy", str(tmp_path / "run"), "scenes", [])


def test_another_network_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ready, _ = prepare("scenes_gfnet", TINY, Verbs())
    run(ready, Verbs(), tmp_path / "run")
    again, _ = prepare("scenes_gfnet", TINY, Verbs(init_from=str(tmp_path / "run")))
    found: Any = build(again, 0, 1).method  # type: ignore[arg-type]
    ranker: Any = open_ranker("gfnet", str(tmp_path / "run"))
    wanted = ranker.network.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in found.network.state_dict().items())
    assert torch.equal(found.actor.gru.weight_hh_l0, wanted["policy.gru.weight_hh_l0"])
    fewer, _ = prepare("scenes_gfnet", [*TINY, "data.scenes.classes=3"], Verbs(init_from=str(tmp_path / "run")))
    with caplog.at_level(logging.WARNING, logger="vitrail"):
        assert build(fewer, 0, 1).method.head.out_features == 3  # type: ignore[arg-type]
    assert "the data has 3: its last layer starts fresh" in caplog.text


def test_words() -> None:
    assert "24 x 24 px in 16 patches" in describe(scenes_gfnet().override(TINY), 1)
    recipe: Any = resolve("gfnet_resnet50")
    assert (recipe.method.network.window, recipe.method.network.looks) == (128, 5)
    with pytest.raises(ConfigError, match=r"method\.network\.image_size 48 and augment\.image_size 24 differ"):
        scenes_gfnet().override(["augment.image_size=24"])
