"""Rankers by words, and trees of data by their folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vitrail.backbones import BackboneConfig, create, save_exported
from vitrail.cli import app
from vitrail.contracts import Exported
from vitrail.data import Ade20k, CocoInstances
from vitrail.evaluation.result import Report
from vitrail.recipes.measure import measure
from vitrail.recipes.rankers import RankerWords, open_rankers, parse_ranker
from vitrail.recipes.sources import DataConfig, open_data, open_splits, tree_of


def coco(root: Path, split: str = "val") -> Path:
    (root / "annotations").mkdir(parents=True)
    (root / split).mkdir()
    Image.new("RGB", (32, 32)).save(root / split / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 32, "height": 32}],
        "annotations": [{"image_id": 1, "category_id": 3, "bbox": [8, 8, 16, 16], "iscrowd": 0}],
        "categories": [{"id": 3, "name": "car"}],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def ade(root: Path) -> Path:
    for folder, ending in (("images", "jpg"), ("annotations", "png")):
        (root / folder / "validation").mkdir(parents=True)
        Image.new("RGB" if ending == "jpg" else "L", (8, 8), 1).save(root / folder / "validation" / f"a.{ending}")
    return root


def test_words() -> None:
    assert parse_ranker("center") == RankerWords("center", None, None)
    assert parse_ranker("dino=a=b.pth") == RankerWords("dino", None, "a=b.pth")
    assert parse_ranker("dino:mass_vote=x.pth") == RankerWords("dino", "mass_vote", "x.pth")
    assert parse_ranker("dino=C:/x.pth").weights == "C:/x.pth"
    for bad in ("", "=x", "dino=", "dino:", ":v=x"):
        with pytest.raises(ValueError, match="is not NAME, NAME=WEIGHTS or"):
            parse_ranker(bad)


def test_titles_tell_rankers_apart() -> None:
    assert list(open_rankers(["center"])) == ["center"]
    assert list(open_rankers(["center=one.pth", "center=two.pth"])) == ["center one", "center two"]
    with pytest.raises(ValueError, match="the ranker center is named twice"):
        open_rankers(["center", "center"])
    with pytest.raises(ValueError, match="no ranker 'centre'; did you mean 'center'"):
        open_rankers(["centre"])


def test_trees_are_recognized(tmp_path: Path) -> None:
    assert tree_of(coco(tmp_path / "c")) == "COCO"
    assert tree_of(ade(tmp_path / "a")) == "ADE20K"
    assert tree_of(tmp_path / "c" / "val") is None
    splits = open_data(str(tmp_path / "c"))  # there is no training split, and nothing asks for it
    assert isinstance(splits.val, CocoInstances)
    with pytest.raises(ValueError, match="no split 'train'"):
        len(splits.train)
    assert isinstance(open_data(str(tmp_path / "a")).val, Ade20k)
    for name in ("c", "a"):
        with pytest.raises(ValueError, match="tree, whose images have several objects"):
            open_splits(DataConfig(root=str(tmp_path / name)))


def test_a_training_split_is_opened_when_it_is_used(tmp_path: Path) -> None:
    coco(tmp_path)
    content = (tmp_path / "annotations" / "instances_val.json").read_text()
    (tmp_path / "annotations" / "instances_train.json").write_text(content)
    (tmp_path / "train").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "train" / "1.png")
    train = open_data(str(tmp_path)).train
    assert (len(train), train.classes, train.split) == (1, ("car",), "train")  # type: ignore[attr-defined]
    assert train[0].boxes is not None
    assert train.digest() == CocoInstances(tmp_path, "train").digest()
    with pytest.raises(AttributeError):
        train._nothing  # type: ignore[attr-defined]  # noqa: B018


def test_patch_recall_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", "patch_recall", "--ranker", "center", "--data", str(coco(tmp_path / "c")), "keeps=0.25,1"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "recall_0.25" in done.output
    report = Report.load(tmp_path / "evaluation" / "center" / "patch_recall.json")
    assert report.numbers["recall_1"] == 100
    assert report.card["config"]["ranker"] == "center"
    with Image.open(tmp_path / "evaluation" / "center" / "patch_recall.png") as picture:
        assert picture.size == (640, 400)


def test_what_a_protocol_needs_is_said(tmp_path: Path) -> None:
    where = str(coco(tmp_path))
    with pytest.raises(ValueError, match=r"patch_recall measures one ranker; name it as --ranker NAME .*center"):
        measure("patch_recall", None, where, [])
    with pytest.raises(ValueError, match="patch_recall measures one ranker"):
        measure("patch_recall", None, where, [], rankers=["center", "center"])
    with pytest.raises(ValueError, match="selection_accuracy measures at least one ranker"):
        measure("selection_accuracy", "w", where, [])
    with pytest.raises(ValueError, match="selection_accuracy needs --weights"):
        measure("selection_accuracy", None, where, [], rankers=["center"])
    with pytest.raises(ValueError, match="knn measures no ranker; leave --ranker center out"):
        measure("knn", "w", where, [], rankers=["center"])
    with pytest.raises(ValueError, match="knn needs --weights"):
        measure("knn", None, where, [])


def test_selection_accuracy_of_a_classifier(tmp_path: Path) -> None:
    exported = create(BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=1, heads=2)).export()
    head = {"head.weight": torch.eye(2, 24), "head.bias": torch.zeros(2)}
    named = Exported(exported.state | head, exported.metadata | {"classes": ["a", "b"]})
    save_exported(named, tmp_path / "w.safetensors")
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.new("RGB", (24, 24), (90, 9, len(name))).save(tmp_path / "d" / name / "1.png")
    settings, out = ["keeps=0.5,1", "rounds=1"], tmp_path / "own.json"
    weights, data = str(tmp_path / "w.safetensors"), str(tmp_path / "d")
    report, _ = measure("selection_accuracy", weights, data, settings, rankers=["center"], out=out)
    assert report.card["resolution"] == [24, 24]
    assert report.details["patches"] == 16  # the center prior took the classifier's grid
    assert report.numbers["center_1_top1"] == report.numbers["full_top1"] == 50
    for name in ("own.png", "own-speed.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (640, 400)
    measure("selection_accuracy", weights, data, ["rounds=0"], rankers=["center"], out=tmp_path / "still.json")
    assert (tmp_path / "still.png").is_file()
    assert not (tmp_path / "still-speed.png").is_file()
