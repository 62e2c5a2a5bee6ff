"""Trainings, protocols and pictures of PVT and CvT, from recipes alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_staged import NAMES, SIZES, staged_file, tiny_staged

from vitrail.backbones import StagedBackbone, load, load_part
from vitrail.data import SyntheticScenes
from vitrail.evaluation import attention_jaccard, knn, linear, pointing
from vitrail.recipes import augmentation, dino, ibot, leopart, mae, mocov3, supervised
from vitrail.recipes.look import draw
from vitrail.recipes.run import Verbs, describe, run
from vitrail.recipes.ship import ship
from vitrail.recipes.supervised import build

SCENES = ["data.scenes.count=16", "data.scenes.val_count=8", "data.scenes.image_size=64"]
LARGER = "data.scenes.image_size=96"  # 3 x 3 keys, as the spatial entropy wants
COMMON = [
    *SCENES,
    "train.epochs=1",
    "train.warmup_epochs=0",
    "train.global_batch_size=8",
    "train.device=cpu",
    "backbone.patch_size=null",
    "backbone.embed_dim=null",
    "backbone.depth=null",
    "backbone.heads=null",
]
HEAD = ["method.head.prototypes=12", "method.head.hidden_dim=16", "method.head.bottleneck_dim=8"]
VIEWS = ["views.global_size=64", "views.local_size=32", "views.locals=1"]
PROBE = ["probe.train=16", "probe.val=8"]


def of(name: str, key: str = "backbone") -> list[str]:
    return [f"{key}.name={name}", f"{key}.options={json.dumps(SIZES[name])}"]


@pytest.mark.parametrize("name", NAMES)
def test_supervised_with_sar(name: str, tmp_path: Path) -> None:
    """With all regularizers at once, and from there on at another size."""
    kinds = ("spatial_entropy", "total_variation", "drloc")
    settings = [*COMMON, *of(name), "backbone.surgery=F", "augment.image_size=96", LARGER]
    regularizers = ", ".join(f"{{kind: {kind}}}" for kind in kinds)
    recipe = supervised.scenes().override([*settings, f"method.regularizers=[{regularizers}]"])
    outcome = run(recipe, Verbs(), tmp_path / "run")
    assert outcome.steps == 2
    assert all(np.isfinite(outcome.losses[f"train/{kind}"]) for kind in kinds)
    backbone = load(tmp_path / "run")
    assert isinstance(backbone, StagedBackbone)
    assert backbone.config.surgery == "F"
    assert (tmp_path / "run" / "pictures" / "attention_after.png").is_file()
    more = [f"init_from={tmp_path / 'run'}", "augment.image_size=128", "data.scenes.image_size=128"]
    again = build(recipe.override(more), 0, 1).method.backbone  # type: ignore[attr-defined]
    assert again.image_size == (128, 128)
    assert torch.equal(again.norm.weight, backbone.norm.weight)


@pytest.mark.parametrize("name", NAMES)
def test_dino(name: str, tmp_path: Path) -> None:
    recipe = dino.scenes_dino_sar().override(
        [*COMMON, *of(name), *HEAD, *VIEWS, *PROBE, "views.global_size=96", LARGER]
    )
    outcome = run(recipe, Verbs(), tmp_path / "run")
    assert np.isfinite(outcome.losses["train/spatial_entropy"])
    assert load(tmp_path / "run").embed_dim == SIZES[name]["embed_dims"][-1]
    assert load_part(tmp_path / "run", "projector") is not None


@pytest.mark.parametrize(("name", "method"), [("pvt_small", "simclr"), ("cvt_13", "moco")])
def test_two_views(name: str, method: str, tmp_path: Path) -> None:
    recipe: Any = {"simclr": augmentation.scenes_simclr, "moco": augmentation.scenes_moco}[method]()
    settings = [setting for setting in COMMON if not setting.startswith("backbone.")]
    settings += ["method.queue=16"] if method == "moco" else []
    recipe = recipe.override([*settings, *PROBE, *of(name, "vit"), "views.size=64"])
    assert run(recipe, Verbs(), tmp_path / "run").steps == 2
    assert load(tmp_path / "run").embed_dim == SIZES[name]["embed_dims"][-1]


def test_leopart(tmp_path: Path) -> None:
    """It looks at the patches of the last stage alone, and takes any grid of them."""
    scenes = [f"scene_{setting}" for setting in SCENES]
    settings = [*COMMON, *of("cvt_13"), *VIEWS, *scenes, "stage1=null", f"init_from={staged_file(tmp_path, 'cvt_13')}"]
    more = ["method.head.prototypes=12", "method.head.hidden_dim=16", "method.queue=0", "method.cells=2", *PROBE]
    assert run(leopart.scenes_leopart().override([*settings, *more]), Verbs(), tmp_path / "run").steps > 0
    assert isinstance(load(tmp_path / "run"), StagedBackbone)


@pytest.mark.parametrize(("kind", "words"), [("mae", "MAE"), ("ibot", "iBOT")])
def test_methods_that_hide_patches_need_a_plain_vit(kind: str, words: str) -> None:
    made = {"mae": mae.scenes_mae, "ibot": ibot.scenes_ibot}[kind]()
    sizes = VIEWS if kind == "ibot" else ["augment.image_size=64"]
    with pytest.raises(ValueError, match=rf"{words} needs a plain Vision Transformer.*is a pvt_small"):
        describe(made.override([*COMMON, *of("pvt_small"), *sizes]), 1)


@pytest.mark.parametrize("name", NAMES)
def test_too_few_keys_for_the_entropy_are_told_at_build(name: str) -> None:
    """64 pixels are 2 x 2 keys of both; local crops count where they are regularized."""
    words = r"maps of 2 x 2 keys, on which it is always 0.*of 96 pixels and more"
    cut = [*COMMON, *of(name), "backbone.surgery=F"]
    with pytest.raises(ValueError, match=words):
        describe(supervised.scenes_sar().override([*cut, "augment.image_size=64"]), 1)
    crops = dino.scenes_dino_sar().override([*cut, *HEAD, *VIEWS, *PROBE])
    with pytest.raises(ValueError, match=words):
        describe(crops, 1)
    larger = crops.override(["views.global_size=96", LARGER])
    assert "16 images" in describe(larger, 1)
    with pytest.raises(ValueError, match=r"maps of 1 x 1 keys"):
        describe(larger.override(["method.regularize=all"]), 1)


def test_too_few_patches_of_a_vit() -> None:
    """Also with iBOT and MoCo-v3, whose patches of 12 pixels are 2 x 2 of an image of 24."""
    small = ["data.scenes.image_size=24", "train.device=cpu", "backbone.patch_size=12", "views.global_size=24"]
    asked = ["views.locals=0", "method.regularizers=[{kind: spatial_entropy}]"]
    for recipe, module in ((ibot.scenes_ibot(), ibot), (mocov3.scenes_mocov3(), mocov3)):
        with pytest.raises(ValueError, match="maps of 2 x 2 keys"):
            module.build(recipe.override([*small, *asked]), 0, 1)


def test_crops_of_no_whole_patches() -> None:
    views = [*VIEWS, "views.local_size=48"]
    with pytest.raises(ValueError, match=r"views.local_size 48 is not a multiple of the patch size 32.*set it to 32"):
        describe(dino.scenes_dino().override([*COMMON, *of("pvt_small"), *HEAD, *views]), 1)


@pytest.mark.parametrize("name", NAMES)
def test_protocols(name: str) -> None:
    backbone = tiny_staged(name)
    train, val = (SyntheticScenes(count=24, image_size=64, seed=seed) for seed in (0, 1))
    sized = {"transform": {"image_size": 64}}
    found = knn.evaluate(backbone, train, val, knn.KnnConfig.parse(sized))
    assert all(0 <= number <= 100 for number in found.numbers.values())
    config = linear.LinearConfig.parse(
        {"transform": {"image_size": 64}, "train_transform": {"image_size": 64}, "epochs": 1, "preset": "dino_vitb"}
    )
    assert all(0 <= number <= 100 for number in linear.evaluate(backbone, train, val, config).numbers.values())
    jaccard = attention_jaccard.evaluate(backbone, val, attention_jaccard.JaccardConfig(image_size=64))
    assert 0 < jaccard.numbers["jaccard"] < 100
    points = pointing.evaluate(backbone, val, pointing.PointingConfig(image_size=64))
    assert 0 <= points.numbers["pointing"] <= 100


def test_keys_that_are_no_equal_parts_of_the_image() -> None:
    """80 pixels are 5 x 5 patches of CvT, and 3 x 3 keys."""
    val = SyntheticScenes(count=4, image_size=64)
    with pytest.raises(ValueError, match=r"3 x 3 keys stand for 5 x 5 patches.*twice as many whole patches"):
        attention_jaccard.evaluate(tiny_staged("cvt_13"), val, attention_jaccard.JaccardConfig(image_size=80))


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_shipping(name: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    path = staged_file(tmp_path, name)
    for picture in ("attention", "blobs", "pca"):
        (written,) = draw(picture, [tmp_path / "photo.png"], path, tmp_path / "out")
        assert min(Image.open(written).size) > 50
    said = ship(path, tmp_path / "alone.safetensors", model=None, key="auto", size=None, batch="1")
    assert "its authors' names" in said
    assert "timm has no such network" in said
    torch.testing.assert_close(load(tmp_path / "alone.safetensors").norm.weight, load(path).norm.weight)
