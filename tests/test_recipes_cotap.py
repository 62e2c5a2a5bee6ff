"""Recipes of Leopart and CoTAP: values, what comes first, rows of the table, mixed data, neighbors, refusals."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vitrail.backbones import load
from vitrail.cli import app
from vitrail.config import ConfigError
from vitrail.contracts import Step
from vitrail.data import EvalTransformConfig
from vitrail.data.neighbors import NeighborTable
from vitrail.evaluation.features import FeatureConfig, eval_transform, extract, weights_digest
from vitrail.ops.neighbors import nearest
from vitrail.recipes import cotap, leopart, neighbors
from vitrail.recipes.run import Verbs, describe, prepare, resolve, run
from vitrail.recipes.sources import open_splits

BACKBONE = ["backbone.embed_dim=24", "backbone.depth=2", "backbone.heads=2", "backbone.patch_size=6"]
IMAGES = ["data.scenes.count=32", "data.scenes.val_count=8", "data.scenes.image_size=24"]
SETTINGS = [
    *BACKBONE,
    *IMAGES,
    *(f"stage1.{each}" for each in (*BACKBONE, *IMAGES)),
    "scene_data.scenes.count=16",
    "scene_data.scenes.val_count=8",
    "scene_data.scenes.image_size=32",
    "stage1.views.global_size=24",
    "stage1.views.local_size=12",
    "stage1.method.head.hidden_dim=16",
    "stage1.train.epochs=1",
    "stage1.train.global_batch_size=16",
    "stage1.train.warmup_epochs=0",
    "views.global_size=24",
    "views.local_size=12",
    "method.head.hidden_dim=16",
    "method.head.bottleneck_dim=8",
    "method.cells=3",
    "train.epochs=1",
    "train.global_batch_size=16",
    "train.warmup_epochs=0",
]
TABLE = ["object_filter.prototypes=4", "neighbor_count=3"]


def tiny(*settings: str, recipe: str = "scenes_cotap") -> Any:
    return resolve(recipe).override([*SETTINGS, *(TABLE if recipe == "scenes_cotap" else []), *settings])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of CoTAP that trained its first stage and searched its neighbors."""
    folder = tmp_path_factory.mktemp("runs") / "cotap"
    run(tiny(), Verbs(), folder)
    return folder


@pytest.fixture(scope="module")
def start(trained: Path) -> str:
    return str(trained / "stage1")


class TestARun:
    def test_what_it_leaves(self, trained: Path) -> None:
        backbone = load(weights=trained)
        assert backbone.object_filter is not None
        assert backbone.object_filter.prototypes.shape[0] == 4
        assert load(weights=trained / "stage1").object_filter is None
        lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
        told = {name for line in lines for name in line}
        assert {f"train/{name}" for name in cotap.TERMS} <= told
        assert "val/knn_top1" in told
        table = NeighborTable.load(trained / "neighbors.safetensors")
        assert table.neighbors.shape == (32, 3)
        assert not (trained / ".neighbors.safetensors.work").exists()

    def test_it_goes_on_without_searching_again(self, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cotap, "neighbors_for", lambda *_, **__: pytest.fail("searched again"))
        monkeypatch.setattr(cotap, "_before", lambda *_: pytest.fail("the first weights were asked for"))
        config, _ = prepare("scenes_cotap", [], Verbs(extend=2), trained)
        assert run(config, Verbs(extend=2), trained).steps == 8

    def test_leopart(self, start: str, tmp_path: Path) -> None:
        config = tiny(f"init_from={start}", "method.queue=64", recipe="scenes_leopart")
        run(config, Verbs(), tmp_path / "run")
        state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["method"]
        assert int(state["queue.filled"]) == 64
        assert load(weights=tmp_path / "run").object_filter is None

    def test_from_cotap_to_cotap_takes_the_head_along(self, trained: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO", "vitrail"):
            parts = cotap.build(tiny(f"init_from={trained}", "method.concentration=0"), 0, 1)
        assert "head: taken over from" in caplog.text
        assert parts.method.backbone.object_filter is not None
        with caplog.at_level("INFO", "vitrail"):
            cotap.build(tiny(f"init_from={trained / 'stage1'}", "method.concentration=0"), 0, 1)
        assert "is another one and starts fresh" in caplog.text


def test_stage_2_starts_at_the_loaded_weights(start: str) -> None:
    parts = cotap.build(tiny(f"init_from={start}", "method.concentration=0"), 0, 1)
    images = torch.randn(2, 3, 24, 24)
    before, after = load(weights=start).eval(), parts.method.backbone.eval()
    assert after.object_filter is not None
    with torch.no_grad():
        assert torch.equal(before(images).patches, after(images).patches)
        assert torch.equal(before(images).cls, after(images).cls)


@pytest.mark.parametrize("row", range(1, 8))
def test_rows_of_table_7(row: int, start: str, tmp_path: Path) -> None:
    config = tiny(f"init_from={start}", f"ablation={row}")
    expected = {
        1: {"image_alignment"},
        2: {"dense_alignment"},
        3: {"image_alignment", "dense_alignment"},
        4: {"image_alignment", "concentration"},
        5: {"dense_alignment", "correspondence"},
        6: {"image_alignment", "dense_alignment", "concentration", "correspondence"},
        7: {"image_alignment", "dense_alignment", "concentration", "correspondence", "prototype_entropy"},
    }[row]
    assert {name for name in cotap.TERMS if getattr(config.method, name) == 1} == expected
    assert all(getattr(config.method, name) in (0, 1) for name in cotap.TERMS)
    assert (config.object_filter is not None) == (row == 7)
    (tmp_path / "config.yaml").write_text(config.yaml())
    assert resolve(str(tmp_path / "config.yaml")) == config


def test_a_row_and_a_weight_of_its_own_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ablation=5 sets method\.correspondence to 1, and 0\.5 is asked for"):
        tiny("ablation=5", "method.correspondence=0.5")


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ConfigError, match="all weights are 0"):
        tiny(*(f"method.{name}=0" for name in cotap.TERMS))


def test_a_row_without_a_filter_does_not_start_from_weights_with_one(trained: Path) -> None:
    with pytest.raises(ConfigError, match="has an object-aware filter, and row 5 of the table is without one"):
        cotap.build(tiny(f"init_from={trained}", "ablation=5"), 0, 1)


def test_a_device_gets_as_many_objects_as_scenes(start: str) -> None:
    recipe = tiny(f"init_from={start}", "ablation=3", "train.global_batch_size=12")
    cotap.build(recipe, 0, 2)
    with pytest.raises(ConfigError, match="3 images a device and micro-batch cannot be one object-centric to one"):
        cotap.build(recipe, 0, 4)
    cotap.build(recipe.override(["scene_data=null"]), 0, 4)


def test_scenes_take_turns_with_objects_and_objects_bring_neighbors(start: str, tmp_path: Path) -> None:
    recipe = tiny(f"init_from={start}")
    path = tmp_path / "table.safetensors"
    cotap.neighbors_for(recipe, path, 3)
    parts = cotap.build(recipe.override([f"neighbors={path}"]), 0, 1)
    batch = next(parts.loader.batches(0, 1))[0]
    assert batch.sources is not None
    assert batch.sources.tolist() == [0, 1] * 8
    assert len(batch.views) == 1 + 2 + 1
    assert batch.boxes is not None
    assert batch.boxes.shape == (16, 5, 4)


class TestNeighbors:
    def test_equals_a_search_by_hand(self, start: str, tmp_path: Path) -> None:
        data, backbone = open_splits(tiny().data).train, load(weights=start)
        table = neighbors.make_neighbors(backbone, data, 4, tmp_path / "t")
        features = extract(
            backbone, data, eval_transform(EvalTransformConfig(image_size=24), backbone), FeatureConfig()
        )
        ids = nearest(features.values, features.values, len(data))[1]
        for row, near in enumerate(table.neighbors.tolist()):
            assert near == [number for number in ids[row].tolist() if number != row][:4]
        assert (table.weights, table.data) == (weights_digest(backbone), data.digest())

    def test_goes_on_where_it_stopped(self, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data, backbone = open_splits(tiny().data).train, load(weights=start)
        whole = neighbors.make_neighbors(backbone, data, 4, tmp_path / "whole")
        monkeypatch.setattr(neighbors, "PART", 10)
        right, seen = neighbors._others, []

        def stops(queries: torch.Tensor, values: torch.Tensor, k: int, first: int) -> torch.Tensor:
            seen.append(first)
            if first == 20 and seen.count(20) == 1:
                raise KeyboardInterrupt
            return right(queries, values, k, first)

        monkeypatch.setattr(neighbors, "_others", stops)
        with pytest.raises(KeyboardInterrupt):
            neighbors.make_neighbors(backbone, data, 4, tmp_path / "parts")
        damaged = sorted((tmp_path / ".parts.work").rglob("*.npy"))[0]
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x7f")
        again = neighbors.make_neighbors(backbone, data, 4, tmp_path / "parts")
        assert seen == [0, 10, 20, 0, 20, 30]
        assert torch.equal(again.neighbors, whole.neighbors)

    def test_images_that_stand_twice_are_not_their_own_neighbors(self) -> None:
        values = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0], [0, 1]])
        for start in (0, 2):
            rows = neighbors._others(values[start:], values, 2, start)
            assert all(row + start not in near for row, near in enumerate(rows.tolist()))

    def test_too_few_images(self, start: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="32 readable images have no 32 neighbors"):
            neighbors.make_neighbors(load(weights=start), open_splits(tiny().data).train, 32, tmp_path / "t")

    def test_a_table_of_other_weights_is_refused(self, start: str, trained: Path, tmp_path: Path) -> None:
        path = tmp_path / "t.safetensors"
        cotap.neighbors_for(tiny(f"init_from={trained}"), path, 3)
        settings = [f"init_from={start}", f"neighbors={path}"]
        with pytest.raises(ValueError, match="neighbors_of=any"):
            cotap.build(tiny(*settings), 0, 1)
        cotap.build(tiny(*settings, "neighbors_of=any"), 0, 1)
        with pytest.raises(ValueError, match="of other images"):
            cotap.build(tiny(*settings, "data.scenes.seed=5"), 0, 1)

    def test_by_the_command(self, start: str, tmp_path: Path) -> None:
        out = tmp_path / "t.safetensors"
        arguments = ["neighbors", "scenes_cotap", *SETTINGS, "--init-from", start, "-k", "2", "--out", str(out)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert NeighborTable.load(out).neighbors.shape == (32, 2)
        assert f"neighbors={out}" in result.output
        result = CliRunner().invoke(app, [*arguments[:-6], "--init-from", start, "--out", str(out), "--help"])
        assert "nearest neighbors" in result.output
        failed = CliRunner().invoke(app, ["neighbors", "scenes_dino", "--init-from", start])
        assert "learns from no neighbors" in str(failed.exception)


class TestRefused:
    def test_weights_are_needed(self) -> None:
        for name in ("folder_cotap", "folder_leopart"):
            with pytest.raises(ConfigError, match="--init-from WEIGHTS"):
                prepare(name, [], Verbs())

    def test_one_kind_of_images_in_a_folder_and_the_other_generated(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"scene_data.root=FOLDER"):
            cotap.check(tiny(f"data.root={tmp_path}"))

    def test_a_table_that_is_not_there(self) -> None:
        with pytest.raises(ConfigError, match="nowhere is not there"):
            cotap.check(tiny("neighbors=nowhere"))

    def test_crops_that_hold_no_whole_patches(self) -> None:
        with pytest.raises(ConfigError, match="local_size 10 is not a multiple"):
            tiny("views.local_size=10")


def test_two_folders_of_photos(tmp_path: Path, start: str) -> None:
    """Images without labels, of several sizes: the whole way by a user's own folders."""
    drawn = np.random.default_rng(0)
    for name, count in (("objects", 12), ("streets", 6)):
        (tmp_path / name).mkdir()
        for number in range(count):
            size = tuple(drawn.integers(20, 60, 2))
            Image.fromarray(drawn.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / name / f"{number}.png")
    settings = [
        f"data.root={tmp_path / 'objects'}",
        f"scene_data.root={tmp_path / 'streets'}",
        f"init_from={start}",
        "train.global_batch_size=8",
    ]
    recipe = tiny(*settings)
    assert describe(recipe, 1).startswith("22 images")
    run(recipe, Verbs(), tmp_path / "run")
    assert load(weights=tmp_path / "run").object_filter is not None


def test_published_values() -> None:
    recipe = cotap.cotap_small()
    assert (recipe.train.learning_rate, recipe.train.min_learning_rate) == (3e-5, 1e-6)
    assert (recipe.method.weight_decay, recipe.method.weight_decay_end) == (0.024, 0.24)
    assert (recipe.method.momentum, recipe.train.global_batch_size) == (0.9997, 256)
    assert (recipe.method.tau1, recipe.method.tau2, recipe.method.tau3) == (-0.2, 0.5, 0.1)
    assert (recipe.views.global_size, recipe.views.local_size, recipe.views.locals) == (224, 96, 4)
    assert all(getattr(recipe.method, name) == 1 for name in cotap.TERMS)
    assert recipe.train.epochs * 2 * 1_281_167 // 256 == pytest.approx(100_000, rel=0.002)
    assert leopart.leopart_small().method.head.prototypes == 300


@pytest.mark.parametrize("name", ["dino_small_longer", "ibot_small_longer"])
def test_the_controls_of_longer_training_mix_the_same_images(name: str) -> None:
    recipe: Any = resolve(name)
    assert (recipe.train.epochs, recipe.train.learning_rate) == (10, 3e-5)
    assert recipe.train.epochs * 2 * 1_281_167 // recipe.train.global_batch_size == pytest.approx(100_000, rel=0.002)
    small = resolve("scenes_dino").override(
        [*BACKBONE, *IMAGES, *(each for each in SETTINGS if each.startswith("scene_data")), "views.global_size=24"]
    )
    parts = importlib.import_module(type(small).__module__).build(
        small.override(["views.local_size=12", "train.global_batch_size=8", "method.head.hidden_dim=16"]), 0, 1
    )
    batch = next(parts.loader.batches(0, 1))[0]
    assert batch.sources.tolist() == [0, 1] * 4
    assert torch.isfinite(parts.method.training_step(batch, Step(0, 10)).total)
