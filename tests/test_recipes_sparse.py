"""Recipes of classifiers that skip patches: they run, take a trained classifier over, and leave a ranker behind."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from vitrail.backbones import BackboneConfig, create, load_classifier, save_exported
from vitrail.config import ConfigError
from vitrail.methods.supervised import Supervised, SupervisedConfig
from vitrail.rankers import open_ranker
from vitrail.recipes.measure import measure
from vitrail.recipes.run import Verbs, prepare, resolve, run
from vitrail.recipes.sparse import METHODS, Recipe, build, classifier_of, plain_classifier, scenes_evit

TINY = [
    "data.scenes.count=48",
    "data.scenes.val_count=16",
    "data.scenes.image_size=24",
    "augment.image_size=24",
    "backbone.embed_dim=24",
    "backbone.depth=4",
    "backbone.heads=2",
    "classifier.epochs=1",
    "classifier.global_batch_size=16",
    "classifier.warmup_epochs=0",
    "train.epochs=2",
    "train.warmup_epochs=0",
    "train.global_batch_size=16",
    "train.device=cpu",
]


def classifier(path: Path, classes: tuple[str, ...]) -> Supervised:
    """A trained classifier's file."""
    backbone = create(BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=4, heads=2))
    made = Supervised(SupervisedConfig(mixup=0, cutmix=0), backbone, classes)
    save_exported(made.export(), path)
    return made


def names_of_scenes() -> tuple[str, ...]:
    return build(Recipe.parse(resolve("scenes_evit").override(TINY).plain()), 0, 1).method.classes


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_run_trains_measures_and_leaves_a_ranker(name: str, tmp_path: Path) -> None:
    ready, _ = prepare(f"scenes_{name}", TINY, Verbs())
    outcome = run(ready, Verbs(), tmp_path / "run")
    assert 0 <= outcome.losses["val/top1"] <= 100
    assert 0 < outcome.losses["val/used_tokens"] <= 1
    ranker: Any = open_ranker(name, str(tmp_path / "run"))
    scores = ranker(torch.randn(2, 3, 24, 24), number=5)
    assert scores.shape == (2, 4, 4)
    report, _ = measure("accuracy", str(tmp_path / "run"), "scenes", [])
    assert 0 <= report.numbers["top1"] <= 100
    longer, _ = prepare(f"scenes_{name}", TINY, Verbs(extend=3), tmp_path / "run")
    assert run(longer, Verbs(extend=3), tmp_path / "run").steps == 9


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_classifier_of_the_same_classes_is_taken_over(name: str, tmp_path: Path) -> None:
    trained = classifier(tmp_path / "w.safetensors", names_of_scenes())
    ready, _ = prepare(f"scenes_{name}", TINY, Verbs(init_from=str(tmp_path / "w.safetensors")))
    method: Any = build(ready, 0, 1).method  # type: ignore[arg-type]
    assert torch.equal(method.head.weight, trained.head.weight)
    assert torch.equal(method.backbone.vit.patch_embed.proj.weight, trained.backbone.vit.patch_embed.proj.weight)


def test_a_plain_classifier_comes_first_and_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is trained once, with the run's seed, and a run that is given weights trains none."""
    ready, _ = prepare("scenes_dynamic_vit", [*TINY, "train.seed=3"], Verbs())
    with caplog.at_level(logging.INFO, logger="vitrail"):
        run(ready, Verbs(), tmp_path / "run")
    assert "there is no teacher" not in caplog.text
    first: Any = resolve(str(tmp_path / "run" / "classifier" / "config.yaml"))
    assert (first.kind, first.train.seed, first.train.epochs) == ("supervised", 3, 1)
    before = (tmp_path / "run" / "classifier" / "checkpoints" / "last.pt").stat().st_mtime_ns
    again, _ = prepare("scenes_dynamic_vit", [], Verbs(resume=True), tmp_path / "run")
    assert run(again, Verbs(resume=True), tmp_path / "run").steps == 6
    assert (tmp_path / "run" / "classifier" / "checkpoints" / "last.pt").stat().st_mtime_ns == before
    given, _ = prepare("scenes_evit", TINY, Verbs(init_from=str(tmp_path / "run" / "classifier")))
    run(given, Verbs(), tmp_path / "given")
    assert not (tmp_path / "given" / "classifier").exists()


def test_the_classifier_of_scenes_is_that_of_the_recipe_scenes() -> None:
    assert plain_classifier(scenes_evit()).plain() == resolve("scenes").plain()
    assert resolve("folder_evit").classifier is None  # type: ignore[attr-defined]


def test_another_classifier_starts_fresh_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "w.safetensors"
    classifier(path, ("a", "b"))
    with caplog.at_level(logging.WARNING, logger="vitrail"):
        assert classifier_of(str(path), ("b", "a")) is None
        assert classifier_of(str(path), ("a", "b", "c")) is None
        save_exported(load_classifier(path).backbone.export(), path)
        assert classifier_of(str(path), ("a", "b")) is None
        assert classifier_of("pretrained", ("a", "b")) is None
    words = [record.getMessage() for record in caplog.records]
    assert "knows 2 classes (a, b), the data has 3 (a, b, c)" in words[1]
    assert "holds no classifier" in words[2]
    assert "come without a classifier" in words[3]


def test_the_published_values_of_evit() -> None:
    recipe: Any = resolve("evit_small")
    train = recipe.train
    assert (train.epochs, train.learning_rate, train.min_learning_rate) == (30, 2e-5, 2e-6)
    assert (train.global_batch_size, train.warmup_epochs, recipe.method.weight_decay) == (1024, 0, 1e-6)
    assert (recipe.method.keep, recipe.method.anneal_until) == (0.7, 0)
    with pytest.raises(ConfigError, match="fine-tuning starts from weights"):
        build(recipe, 0, 1)


def test_words_that_cannot_be() -> None:
    """Keys are called as one writes them, and near ones are of the method at hand."""
    recipe = resolve("scenes_evit")
    with pytest.raises(ConfigError, match=r"method\.epochs is 3 and train\.epochs is 2"):
        recipe.override(["method.epochs=3"])
    with pytest.raises(ConfigError, match=r"method\.keep = 0: "):
        recipe.override(["method.keep=0"])
    with pytest.raises(ConfigError, match=r"method\.labels\.mixup = -1: "):
        recipe.override(["method.labels.mixup=-1"])
    with pytest.raises(ConfigError, match=r"unknown key 'method\.ratio_wait'; did you mean 'method\.ratio_weight'"):
        resolve("scenes_dynamic_vit").override(["method.ratio_wait=1"])
    with pytest.raises(ConfigError, match=r"unknown key .*method.*kep"):
        recipe.override(["method.kep=0.5"])
    with pytest.raises(ConfigError, match=r"unknown key 'method\.budgt'; did you mean 'method\.budget'\?"):
        resolve("scenes_dge").override(["method.budgt=0.5"])
