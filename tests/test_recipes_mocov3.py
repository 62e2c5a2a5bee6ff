"""Recipes of MoCo-v3: published values, what a run leaves and takes over, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vitrail.backbones import BackboneConfig, create, load, load_part, save_exported
from vitrail.config import ConfigError
from vitrail.contracts import Step
from vitrail.recipes import mocov3
from vitrail.recipes.run import Verbs, prepare, resolve, run

TINY = [
    "data.scenes.count=48",
    "data.scenes.val_count=16",
    "data.scenes.image_size=24",
    "backbone.patch_size=6",
    "backbone.embed_dim=24",
    "backbone.depth=2",
    "backbone.heads=2",
    "views.global_size=24",
    "method.head.hidden_dim=16",
    "method.head.out_dim=8",
    "method.predictor_dim=16",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "train.global_batch_size=16",
    "train.device=cpu",
    "probe.train=32",
    "probe.val=16",
]
SMALL = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2)
NAMES = [
    "folder_mocov3",
    "mocov3_small",
    "mocov3_small_in100",
    "mocov3_small_sar",
    "scenes_mocov3",
    "scenes_mocov3_sar",
]


def made(*settings: str) -> Any:
    return mocov3.build(mocov3.scenes_mocov3().override([*TINY, *settings]), 0, 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "run"
    run(mocov3.scenes_mocov3_sar().override(TINY), Verbs(), place)
    return place


def test_what_a_run_leaves(trained: Path) -> None:
    for name in ("config.yaml", "log.txt", "checkpoints/last.pt", "curves.png", "pictures/attention_after.png"):
        assert (trained / name).stat().st_size > 0, name
    backbone = load(weights=trained)
    assert (backbone.embed_dim, backbone.image_size, backbone.mean) == (24, (24, 24), (0.5, 0.5, 0.5))
    assert backbone.config is not None
    assert backbone.config.surgery == "F"
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    names = {name for line in lines for name in line}
    assert {"train/contrast", "train/spread", "train/spatial_entropy", "val/knn_top1"} <= names
    assert resolve(str(trained / "config.yaml")).kind == "mocov3"  # type: ignore[attr-defined]


def test_from_a_run_everything_is_taken_over(trained: Path) -> None:
    method = made(f"init_from={trained}").method
    for name, module in (("projector", method.head), ("predictor", method.predictor), ("projector", method.key_head)):
        part = load_part(trained, name)
        assert part is not None
        for key, value in module.state_dict().items():
            assert torch.equal(value, part.state[key]), key
    for each in (method.backbone, method.key_backbone):
        for key, value in load(weights=trained).vit.state_dict().items():
            assert torch.equal(each.vit.state_dict()[key], value), key
    with pytest.raises(ValueError, match="set the same sizes"):
        made(f"init_from={trained}", "method.predictor_dim=17")


def test_from_a_backbone_alone_heads_start_fresh_and_a_run_goes_on_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tmp_path / "w.safetensors"
    backbone = create(SMALL)
    save_exported(backbone.export(), weights)
    caplog.set_level("WARNING", logger="vitrail")
    method = made(f"init_from={weights}").method
    assert "w.safetensors brings no head: it starts fresh" in caplog.text
    assert "w.safetensors brings no predictor: it starts fresh" in caplog.text
    assert torch.equal(method.backbone.vit.pos_embed, backbone.vit.pos_embed)
    verbs = Verbs(init_from=str(weights))
    started, _ = prepare("scenes_mocov3", TINY, verbs)
    run(started, verbs, tmp_path / "run")
    weights.unlink()
    longer, _ = prepare("scenes_mocov3", TINY, Verbs(extend=2), tmp_path / "run")
    assert run(longer, Verbs(extend=2), tmp_path / "run").steps == 6


def test_weights_of_regularizers_know_how_long_training_is() -> None:
    weight = "{kind: warmup_cosine, warmup_epochs: 1, peak: 0.5}"
    parts = made(f"method.regularizers=[{{kind: spatial_entropy, weight: {weight}}}]", "train.epochs=3")
    first = next(iter(parts.loader.batches(0, 1)))[0]
    assert len(first.views) == 1
    assert parts.method.training_step(first, Step(0, 4)).parts["spatial_entropy_weight"] == 0


class TestRefused:
    def test_small_crops(self) -> None:
        with pytest.raises(ConfigError, match=r"views\.locals is 2, and MoCo-v3 compares two.*set views\.locals=0"):
            mocov3.scenes_mocov3().override(["views.locals=2", "views.local_size=24"])

    def test_sizes(self) -> None:
        with pytest.raises(ConfigError, match=r"backbone\.image_size 24 and views\.global_size 48 differ"):
            mocov3.scenes_mocov3().override(["backbone.image_size=24"])
        with pytest.raises(ConfigError, match=r"scenes of 48 pixels are not what views\.global_size 24"):
            mocov3.check(mocov3.scenes_mocov3().override(["views.global_size=24"]))


class TestValues:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_recipe_survives_its_yaml_and_says_its_command(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "recipe.yaml").write_text(resolve(name).yaml())
        assert resolve(str(tmp_path / "recipe.yaml")) == resolve(name)
        assert "Command:" in getattr(mocov3, name).__doc__

    def test_published_ones(self) -> None:
        for recipe, batch, heads in (
            (mocov3.mocov3_small(), 4096, 12),
            (mocov3.mocov3_small_in100(), 1024, 6),
            (mocov3.mocov3_small_sar(), 1024, 6),
        ):
            train, method, views = recipe.train, recipe.method, recipe.views
            assert (recipe.backbone.name, recipe.backbone.heads) == ("vit_small_patch16_224", heads)
            assert (train.optimizer, train.epochs, train.warmup_epochs) == ("adamw", 300, 40)
            assert (train.global_batch_size, train.learning_rate * 256 / batch) == (batch, pytest.approx(1.5e-4))
            assert (train.min_learning_rate, train.warmup_learning_rate, train.betas) == (0, 0, (0.9, 0.999))
            assert (method.momentum, method.temperature, method.weight_decay) == (0.99, 0.2, 0.1)
            assert (method.freeze_patch_embed, method.positions) == (True, "fixed")
            head = method.head
            assert (head.layers, head.hidden_dim, head.out_dim, method.predictor_dim) == (3, 4096, 256, 4096)
            assert head.norm
            assert head.last_norm
            assert head.whole_batch
            assert (views.global_size, views.locals, views.global_scale) == (224, 0, (0.08, 1.0))
            assert (views.blur[:2], views.solarize[:2], views.sigma) == ((1.0, 0.1), (0.0, 0.2), (0.1, 2.0))
            assert (views.jitter, views.color_jitter, views.grayscale) == (0.8, (0.4, 0.4, 0.2, 0.1), 0.2)
        sar = mocov3.mocov3_small_sar()
        assert sar.backbone.surgery == "F"
        assert [(each.kind, each.block, each.weight.peak) for each in sar.method.regularizers] == [
            ("spatial_entropy", -1, 0.01)
        ]
        plain = mocov3.mocov3_small_in100()
        assert (plain.backbone.surgery, plain.method.regularizers, plain.train) == (None, (), sar.train)
