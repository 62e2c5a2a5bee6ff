"""SimCLR, Barlow Twins, MoCo and SimSiam as recipes: published values, runs, resuming, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vitrail import catalog
from vitrail.backbones import TimmConvNet, TimmViT, load, load_convnet, load_part
from vitrail.config import ConfigError
from vitrail.recipes import augmentation as family
from vitrail.recipes.measure import measure
from vitrail.recipes.run import Verbs, describe, prepare, resolve, run

METHODS = ("simclr", "barlow_twins", "moco", "simsiam")
TINY = [
    "data.scenes.count=32",
    "data.scenes.val_count=16",
    "data.scenes.image_size=16",
    "views.size=16",
    "backbone.width=4",
    "train.epochs=2",
    "train.warmup_epochs=0",
    "train.global_batch_size=16",
    "train.device=cpu",
    "probe.train=16",
    "probe.val=16",
]


def tiny(name: str, *more: str) -> Any:
    return resolve(f"scenes_{name}").override([*TINY, *more])


@pytest.mark.parametrize(
    ("name", "rate"), [("simclr", 0.06), ("moco", 0.08), ("simsiam", 0.05), ("barlow_twins", 0.11)]
)
def test_appendix_b1(name: str, rate: float) -> None:
    recipe: Any = resolve(f"cifar_{name}")
    train, views = recipe.train, recipe.views
    assert (train.epochs, train.global_batch_size, train.optimizer, train.momentum) == (800, 512, "sgd", 0.9)
    assert (train.learning_rate, train.min_learning_rate, train.warmup_epochs, train.nesterov) == (rate, 0, 0, False)
    assert recipe.method.weight_decay == 5e-4
    assert (recipe.method.kind, recipe.backbone.name, recipe.backbone.stem) == (name, "resnet18", "small")
    assert (views.size, views.scale, views.crop) == (32, (0.08, 1.0), "independent")
    assert (views.flip, views.blur, views.grayscale, views.jitter) == (0.5, 0.5, 0.2, 0.8)
    assert views.color_jitter == (0.4, 0.4, 0.4, 0.1)  # an intensity of 0.5 in SimCLR's words


def test_every_method_has_both_recipes() -> None:
    known = {entry.name for entry in catalog.recipes()}
    assert {f"{where}_{name}" for where in ("cifar", "scenes") for name in METHODS} <= known


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_trained_exported_and_measured(name: str, tmp_path: Path) -> None:
    outcome = run(tiny(name), Verbs(), tmp_path)
    assert outcome.steps == 4
    assert {"train/loss", "train/spread", "val/knn_top1"} <= outcome.losses.keys()
    backbone = load_convnet(tmp_path)
    assert backbone.image_size == (16, 16)
    assert backbone.mean == (0.5, 0.5, 0.5)
    assert load_part(tmp_path, "projector") is not None
    report, path = measure("knn", str(tmp_path), "scenes", ["preset=moco_cifar", "k=20"])
    assert path == tmp_path / "evaluation" / "knn.json"
    assert set(report.numbers) == {"knn20_top1", "best_top1"}
    assert report.card["resolution"] == [16, 16]
    assert report.card["config"]["temperature"] == 0.1
    with pytest.raises(ValueError, match=r"scores was asked of resnet18, a convolutional network, which has no blocks"):
        measure("attention_jaccard", str(tmp_path), "scenes", [])


@pytest.mark.parametrize("name", ["moco", "simsiam"])
def test_a_run_that_is_resumed_ends_in_the_same_bits(name: str, tmp_path: Path) -> None:
    """SGD's momentum, the queue and the batch norms included."""
    run(tiny(name), Verbs(), tmp_path / "whole")

    class Cut(Exception):
        pass

    def stop(parts: Any) -> Any:
        right, steps = parts.method.after_step, []

        def after_step(step: Any) -> None:
            if len(steps) == 2:  # after the first epoch's checkpoint
                raise Cut
            steps.append(step)
            right(step)

        parts.method.after_step = after_step
        return parts

    build = family.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family, "build", lambda *given: stop(build(*given)))
        with pytest.raises(Cut):
            run(tiny(name), Verbs(), tmp_path / "cut")
    run(tiny(name), Verbs(resume=True), tmp_path / "cut")
    one, two = (torch.load(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "cut"))
    assert one["step"] == two["step"] == 4
    for key, value in one["method"].items():
        assert torch.equal(value, two["method"][key]), key


def test_a_vit_takes_the_network_s_place(tmp_path: Path) -> None:
    vit = "vit={name: vit_tiny_patch16_224, patch_size: 8, embed_dim: 12, depth: 1, heads: 2}"
    recipe = tiny("simclr", vit, "train.epochs=1")
    assert isinstance(family.build(recipe, 0, 1).method.backbone, TimmViT)
    run(recipe, Verbs(), tmp_path)
    assert load(str(tmp_path)).image_size == (16, 16)
    with pytest.raises(ConfigError, match=r"backbone.image_size 32 and views.size 16 differ"):
        recipe.override(["vit.image_size=32"])


def test_rows_share_weights_and_order_of_images() -> None:
    """What differs between rows are the views alone."""
    both = []
    for crop in ("independent", "shared"):
        torch.manual_seed(0)
        both.append(family.build(tiny("simclr", f"views.crop={crop}"), 0, 1))
    first, second = (parts.method for parts in both)
    assert isinstance(first.backbone, TimmConvNet)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    batches = [next(iter(parts.loader.batches(0, 1)))[0] for parts in both]
    assert torch.equal(batches[0].indices, batches[1].indices)
    assert not torch.equal(batches[0].views[0], batches[1].views[0])


def test_views_that_cannot_differ_are_refused() -> None:
    off = [f"views.{name}=0" for name in ("flip", "jitter", "grayscale", "blur")]
    with pytest.raises(
        ConfigError, match=r"views.crop is 'none' and flip.*both views of an image are one and the same"
    ):
        resolve("cifar_simclr").override(["views.crop=none", *off])


def test_what_is_wrong_is_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        prepare("cifar_moco", [f"data.root={tmp_path / 'gone'}"], Verbs())
    with pytest.raises(ConfigError, match="unknown key"):
        resolve("cifar_moco").override(["method.redundancy=1"])


def test_words_of_a_dry_run() -> None:
    words = describe(tiny("simclr"), 1)
    assert "32 images, 2 epochs of 2 steps of 16: 4 steps; 16 x 16 px in 4 patches" in words
