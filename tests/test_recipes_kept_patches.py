"""Recipes on kept patches: published values, a run of each kind, and what they refuse."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.backbones import BackboneConfig, create, load, load_classifier, save_exported
from vitrail.backbones.reading import read_file
from vitrail.config import ConfigError
from vitrail.data import EvalTransformConfig, MultiLabelFolder, SyntheticScenes, build_eval_transform, ordered_batches
from vitrail.metrics.multi_label import mean_average_precision
from vitrail.recipes.kept_patches import build, finetune_kept, finetune_kept_multi_label, scenes_kept, score
from vitrail.recipes.mae import build as build_mae
from vitrail.recipes.mae import scenes_mae
from vitrail.recipes.measure import measure
from vitrail.recipes.run import Verbs, prepare, run
from vitrail.recipes.sources import DataConfig, open_several, open_splits
from vitrail.recipes.supervised import build as build_supervised
from vitrail.recipes.supervised import scenes

SMALL = ["train.epochs=1", "train.warmup_epochs=0", "train.global_batch_size=16", "train.device=cpu", "workers=0"]
BODY = ["backbone.embed_dim=24", "backbone.depth=2", "backbone.heads=2"]
TINY = [
    *SMALL,
    *BODY,
    "data.scenes.count=48",
    "data.scenes.val_count=40",
    "data.scenes.image_size=24",
    "augment.image_size=24",
]
SEVERAL = [
    "method.loss=asymmetric",
    "method.head=ml_decoder",
    "method.decoder.width=16",
    "method.decoder.heads=2",
    "method.decoder.hidden=16",
]


def tables(root: Path, train: int = 32, val: int = 12) -> Path:
    """Two scenes side by side, with the labels of both."""
    for split, count in (("train", train), ("val", val)):
        scenes_of = SyntheticScenes(2 * count, 24, 4, split=split)  # type: ignore[arg-type]
        (root / split).mkdir(parents=True)
        with open(root / split / "labels.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "labels"])
            for number in range(count):
                parts = [scenes_of[number], scenes_of[count + (number * 5 + number // 4) % count]]
                both = np.hstack([np.asarray(part.image) for part in parts])
                Image.fromarray(both).save(root / split / f"{number}.png")
                names = {scenes_of.classes[part.label] for part in parts if part.label is not None}
                table.writerow([f"{number}.png", ";".join(names)])
    return root


def test_the_published_values() -> None:
    single, several = finetune_kept(), finetune_kept_multi_label()
    for recipe, blr, epochs, decay, erase in ((single, 1e-3, 50, 0.75, 0.25), (several, 5e-4, 100, 0.65, 0.0)):
        train, method = recipe.train, recipe.method
        assert train.learning_rate * 256 / train.global_batch_size == pytest.approx(blr)
        assert (train.optimizer, train.epochs, train.warmup_epochs) == ("adamw", epochs, 5)
        assert (method.layer_decay, method.weight_decay, recipe.backbone.drop_path) == (decay, 0.05, 0.1)
        assert (recipe.augment.rand_augment, recipe.augment.erase) == ("rand-m9-mstd0.5-inc1", erase)
        with pytest.raises(ConfigError, match="fine-tuning starts from weights; give --init-from"):
            build(recipe, 0, 1)
    method = several.method
    assert several.train.global_batch_size == 1024
    assert (method.head, method.loss, method.decoder.width) == ("ml_decoder", "asymmetric", 768)
    assert int(method.keep * 196) == 147
    loss = method.asymmetric
    assert (loss.gamma_negative, loss.gamma_positive, loss.clip) == (4, 0, 0.05)
    assert (single.method.labels.smoothing, single.method.labels.mixup, single.method.labels.cutmix) == (0.1, 0, 0)
    assert (single.method.head, single.method.pool, single.method.loss) == ("linear", "cls", "cross_entropy")


def test_scenes_leave_a_run_that_says_what_it_kept(tmp_path: Path) -> None:
    learning = ["train.epochs=10", "train.learning_rate=5e-3", "train.evaluate_every=null", "data.scenes.classes=3"]
    recipe = scenes_kept().override([*TINY, *learning, "keeps=[0.25,1]"])
    outcome = run(recipe, Verbs(), tmp_path / "run")
    numbers = {name for name in outcome.losses if name.startswith("val/")}
    assert numbers == {"val/top1", "val/top1_keep_0.25", "val/top1_keep_1"}
    assert len({outcome.losses[name] for name in numbers}) > 1  # so that what follows can fail
    exported = tmp_path / "run" / "exported" / "backbone.safetensors"
    _, own = read_file(exported)
    assert own is not None
    assert own["kept"]["keep"] == 0.5
    assert own["kept"]["ranker"]["name"] == "center"
    found = load_classifier(exported)
    assert (len(found.classes or ()), found.pool) == (3, "cls")
    # Whole images are what `evaluate accuracy` shows it.
    report, _ = measure("accuracy", str(tmp_path / "run"), "scenes", [])
    assert report.numbers["top1"] == pytest.approx(outcome.losses["val/top1_keep_1"])
    asked = ["keeps=[0.25,0.5]", "rounds=0"]
    report, _ = measure("selection_accuracy", str(tmp_path / "run"), "scenes", asked, rankers=["center"])
    assert report.numbers["center_0.5_top1"] == pytest.approx(outcome.losses["val/top1"])
    assert report.numbers["center_0.25_top1"] == pytest.approx(outcome.losses["val/top1_keep_0.25"])
    captions = json.loads((tmp_path / "run" / "pictures" / "captions.json").read_text())
    drawn = {"attention_before.png", "attention_after.png", "kept_patches.png"}
    assert set(captions) == drawn | {"selection_accuracy.png"}
    assert captions["kept_patches.png"].startswith("The 50 % of the patches of held-out images that center keeps")


def test_with_all_patches_the_run_is_the_supervised_one(tmp_path: Path) -> None:
    """The same seed, the same weights, the same losses; no ranker is opened."""
    same = [*TINY, "train.log_every=1"]
    plain = run(scenes().override(same), Verbs(), tmp_path / "plain")
    kept = run(scenes_kept().override([*same, "method.keep=1", "keeps=[]"]), Verbs(), tmp_path / "kept")
    for name in ("train/loss", "val/top1"):
        assert kept.losses[name] == pytest.approx(plain.losses[name], rel=1e-6), name
    parts = build(scenes_kept().override([*same, "method.keep=1", "keeps=[]"]), 0, 1)
    assert parts.method.ranker is None


@pytest.mark.parametrize("init", [False, True])
def test_several_labels_an_image(tmp_path: Path, init: bool) -> None:
    """From a table to a mean average precision of the whole validation set."""
    root = tables(tmp_path / "data")
    settings = [*SMALL, *SEVERAL, f"data.root={root}", "augment.image_size=[24,48]", "train.precision=fp32"]
    verbs = Verbs()
    if init:
        weights = create(BackboneConfig(image_size=(24, 48), patch_size=6, embed_dim=24, depth=2, heads=2))
        save_exported(weights.export(), tmp_path / "w.safetensors")
        verbs = Verbs(init_from=str(tmp_path / "w.safetensors"))
        recipe, _ = prepare("finetune_kept_multi_label", settings, verbs)
    else:
        recipe = scenes_kept().override([*settings, *BODY, "keeps=[1]"])
    outcome = run(recipe, verbs, tmp_path / "run")
    assert np.isfinite(outcome.losses["train/asymmetric"])
    found = outcome.losses["val/mean_average_precision"]
    assert ("val/mean_average_precision_keep_1" in outcome.losses) == (not init)
    method: Any = build(recipe, 0, 1, str(tmp_path / "run" / "exported" / "backbone.safetensors")).method
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["method"]
    method.load_state_dict(state)
    method.eval()
    data = MultiLabelFolder(root, "val", method.classes)
    seen = EvalTransformConfig(image_size=(24, 48), mean=method.backbone.mean, std=method.backbone.std)
    (batch,) = ordered_batches(data, build_eval_transform(seen), 12)
    assert batch.labels is not None
    with torch.no_grad():
        assert found == pytest.approx(mean_average_precision(method(batch.images), batch.labels).mean)
    load(None, str(tmp_path / "run" / "exported" / "backbone.safetensors"))
    longer, _ = prepare("scenes_kept", [], Verbs(extend=2), tmp_path / "run")
    assert run(longer, Verbs(extend=2), tmp_path / "run").steps == 4


def test_the_mean_is_over_the_set_and_not_over_batches() -> None:
    """131 images are two batches of validation; `score` gets all of them at once."""
    generator = torch.Generator().manual_seed(0)
    logits, rows = torch.randn(131, 3, generator=generator), (torch.rand(131, 3, generator=generator) < 0.2).float()
    ((name, value),) = score(logits, rows)
    assert name == "mean_average_precision"
    assert value == mean_average_precision(logits, rows).mean
    parts = [score(*part)[0][1] for part in zip(logits.split(128), rows.split(128))]
    assert abs(sum(parts) / 2 - value) > 1
    assert score(torch.eye(3), torch.tensor([0, 1, 1])) == [("top1", pytest.approx(200 / 3))]


def test_labels_that_do_not_suit_the_loss_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images of the scenes have one each; set method.loss=cross_entropy"):
        build(scenes_kept().override([*TINY, *SEVERAL]), 0, 1)
    root = tables(tmp_path / "data", 16, 4)
    wide = [*SMALL, *BODY, f"data.root={root}", "augment.image_size=[24,48]"]
    with pytest.raises(ValueError, match=r"any number of labels each, .* set method.loss=asymmetric, or take"):
        build(scenes_kept().override(wide), 0, 1)
    parts = build_supervised(scenes().override(wide), 0, 1)
    (batch,) = next(iter(parts.loader.batches(0, 1)))
    with pytest.raises(ValueError, match=r"of 4 classes, and cross entropy wants one; finetune_kept_multi_label"):
        parts.method.training_step(batch, None)
    (tmp_path / "loose").mkdir()
    for number in range(20):
        Image.new("RGB", (24, 24)).save(tmp_path / "loose" / f"{number}.png")
    with pytest.raises(ValueError, match=r"no class folders and no labels.csv"):
        build(scenes_kept().override([*TINY, f"data.root={tmp_path / 'loose'}"]), 0, 1)


def coco(root: Path, names: tuple[str, ...] = ("dog", "person")) -> Path:
    """Two images a split: a dog beside a person, and a crowd of people."""
    boxes = [(1, 18, 0), (1, 1, 0), (2, 1, 1)]
    for split in ("train2017", "val2017"):
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        listed = [{"id": number, "file_name": f"{number}.png", "width": 24, "height": 24} for number in (1, 2)]
        for each in listed:
            Image.new("RGB", (24, 24)).save(root / split / str(each["file_name"]))
        said = [
            {"image_id": image, "category_id": kind, "bbox": [1, 1, 9, 9], "iscrowd": crowd}
            for image, kind, crowd in boxes
        ]
        kinds = [{"id": 18, "name": names[0]}, {"id": 1, "name": names[1] if split == "train2017" else "person"}]
        content = {"images": listed, "annotations": said, "categories": kinds}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def voc(root: Path) -> Path:
    """One image a split, with a dog and two people, one of them difficult."""
    for split in ("train", "val"):
        for folder, name, mode in (("JPEGImages", f"{split}.jpg", "RGB"), ("SegmentationClass", f"{split}.png", "L")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.new(mode, (24, 24)).save(root / folder / name)
        things = "".join(
            f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
            "<ymax>9</ymax></bndbox></object>"
            for name, hard in (("dog", 0), ("person", 0), ("person", 1))
        )
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{split}.xml").write_text(f"<annotation>{things}</annotation>")
        (root / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(f"{split}\n")
    return root


def test_objects_of_coco_and_voc_are_labels(tmp_path: Path) -> None:
    root = coco(tmp_path / "coco")
    train, val = open_several(DataConfig(root=str(root)))
    assert train.classes == val.classes == ("person", "dog")
    assert [train[0].labels, train[1].labels, val[1].labels] == [(0, 1), (0,), (0,)]
    settings = [*SMALL[:2], *BODY, *SEVERAL, f"data.root={root}", "augment.image_size=24", "workers=0"]
    parts = build(scenes_kept().override([*settings, "train.global_batch_size=2"]), 0, 1)
    (batch,) = next(iter(parts.loader.batches(0, 1)))
    assert batch.labels is not None
    assert sorted(batch.labels.tolist()) == [[1, 0], [1, 1]]
    with pytest.raises(ValueError, match=r"is a COCO tree, .* several labels by finetune_kept_multi_label"):
        open_splits(DataConfig(root=str(root)))
    with pytest.raises(ValueError, match="list other categories"):
        open_several(DataConfig(root=str(coco(tmp_path / "odd", ("dog", "people")))))
    found = open_several(DataConfig(root=str(voc(tmp_path / "voc")))).train
    assert found.classes is not None
    assert [found.classes[label] for label in found[0].labels or ()] == ["dog", "person"]


def test_protocols_for_one_label_say_so(tmp_path: Path) -> None:
    root = tables(tmp_path / "data", 16, 8)
    backbone = create(BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2))
    save_exported(backbone.export(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"any number of labels each, of 4 classes, and this protocol wants one"):
        measure("knn", str(tmp_path / "w.safetensors"), str(root), ["transform.image_size=24"])
    # Learning without labels goes on, without a k-NN.
    settings = [*SMALL, f"data.root={root}", "augment.image_size=24", "backbone.embed_dim=24", "backbone.depth=2"]
    assert build_mae(scenes_mae().override([*settings, "backbone.heads=2"]), 0, 1).evaluate is None


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"method.keep = 1.5: keep is 1.5; it is the share .* at most 1"):
        scenes_kept().override(["method.keep=1.5"])
    with pytest.raises(ConfigError, match=r"keep is 0; it is the share"):
        scenes_kept().override(["keeps=[0.5,0]"])
    assert scenes_kept().override(["keeps=0.25,1"]).keeps == (0.25, 1)
    with pytest.raises(ConfigError, match=r"no ranker 'centre'; did you mean 'center'"):
        scenes_kept().override(["ranker.name=centre"])
    with pytest.raises(ConfigError, match=r"48.*64.*differ"):
        scenes_kept().override(["backbone.image_size=48", "augment.image_size=64"])
