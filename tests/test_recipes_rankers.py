"""Rankers by words, and trees of data by their folders."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vitrail import catalog
from vitrail.backbones import BackboneConfig, create, save_exported
from vitrail.cli import app
from vitrail.contracts import Exported
from vitrail.data import Ade20k, CocoInstances
from vitrail.evaluation.result import Report
from vitrail.rankers.ltrp import LtrpRanker
from vitrail.recipes.measure import measure
from vitrail.recipes.rankers import RankerWords, open_rankers, parse_ranker, titled
from vitrail.recipes.sources import DataConfig, open_data, open_several, open_splits, tree_of


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
    exported = [f"ltrp={part}/run/exported/backbone.safetensors" for part in ("a", "b")]
    assert list(titled([*exported, "ltrp=c/other.pth", "center"])) == [
        "ltrp a/run",
        "ltrp b/run",
        "ltrp other",
        "center",
    ]
    assert parse_ranker("ltrp").given("x.pth").weights == parse_ranker("ltrp=x.pth").given("x.pth").weights == "x.pth"
    assert parse_ranker("ltrp=x.pth").given(None).weights == "x.pth"
    with pytest.raises(ValueError, match=r"named twice, x\.pth with the ranker and y\.pth"):
        parse_ranker("ltrp=x.pth").given("y.pth")
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
    lines = done.stdout.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["kept", "patches", "recall", "center", "random"],
        ["0.25", "49", *["76.6"] * 2, "25.0"],  # all 49 lie in the 8 x 8 patches of the box
        ["1", "196", *["100.0"] * 3],
    ]
    assert lines[3].startswith("patch_recall (LTRP")
    report = Report.load(tmp_path / "evaluation" / "center" / "patch_recall.json")
    assert report.numbers["recall_1"] == 100
    assert report.card["config"]["ranker"] == "center"
    with Image.open(tmp_path / "evaluation" / "center" / "patch_recall.png") as picture:
        assert picture.size == (640, 400)


def ltrp(where: Path, seed: int = 0, embed_dim: int = 24) -> Path:
    """What LTRP leaves of a ranking model that nothing was learned by; a run folder, unless `where` is a file."""
    torch.manual_seed(seed)
    ranker = LtrpRanker(create(BackboneConfig(image_size=24, patch_size=6, embed_dim=embed_dim, depth=1, heads=2)))
    path = where if where.suffix else where / "exported" / "backbone.safetensors"
    save_exported(ranker.export(), path)
    if not where.suffix:
        (where / "config.yaml").write_text("kind: ltrp\ndata: {scenes: {val_count: 7, image_size: 24}}\n")
    return where


def test_a_ranker_s_result_lies_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = str(coco(tmp_path / "c"))
    for name, text in (("one", "ltrp=runs/one"), ("two", "ltrp=runs/two/exported/backbone.safetensors")):
        ltrp(Path("runs") / name, seed=len(name))
        _, path = measure("patch_recall", None, data, ["keeps=0.25"], rankers=[text])
        assert path.resolve() == tmp_path / "runs" / name / "evaluation" / "patch_recall.json"
    assert (tmp_path / "runs" / "one" / "pictures" / "patch_recall.png").is_file()
    assert not (tmp_path / "evaluation").exists()
    _, again = measure("patch_recall", "runs/one", data, ["keeps=0.25"], rankers=["ltrp"])
    assert again == Path("runs/one/evaluation/patch_recall.json")
    with pytest.warns(UserWarning, match="holds what the ranker ltrp reads"):
        _, other = measure("patch_recall", "runs/one", data, ["keeps=0.25"], rankers=["dino"])
    assert other.name.startswith("patch_recall-dino-c-")
    # The run's own scenes are measured, as many as it held out.
    report, _ = measure("patch_recall", None, "scenes", ["keeps=0.25"], rankers=["ltrp=runs/one"])
    assert report.card["data"]["val"]["images"] == 7


def test_results_of_files_do_not_replace_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = str(coco(tmp_path / "c"))
    found = []
    for place in ("a", "b", "a"):
        file = ltrp(Path(place) / "ranks.safetensors", seed=ord(place))
        found.append(measure("patch_recall", None, data, ["keeps=0.25"], rankers=[f"ltrp={file}"])[1])
    assert found[0] == found[2] == Path("evaluation/ranks/patch_recall.json")
    assert found[1].parent == found[0].parent
    assert found[1].name.startswith("patch_recall-ltrp-c-")
    with pytest.warns(UserWarning, match="dino scores by the network beneath"):
        _, own = measure("patch_recall", None, data, ["keeps=0.25"], rankers=["dino=a/ranks.safetensors"])
    assert own not in found
    # The center prior reads no weights, so its result belongs to none.
    _, path = measure("patch_recall", "a/ranks.safetensors", data, ["keeps=0.25"], rankers=["center"])
    assert path == Path("evaluation/center/patch_recall.json")
    assert Report.load(path).card["weights"] == "none"


def test_out_is_a_file_that_ends_in_json_or_a_folder(tmp_path: Path) -> None:
    words = [
        "evaluate",
        "patch_recall",
        "--ranker",
        "center",
        "--data",
        str(coco(tmp_path / "c")),
        "keeps=0.5",
        "--out",
    ]
    for out, file in (
        ("own.json", "own.json"),
        ("results", "results/patch_recall.json"),
        ("v1.5", "v1.5/patch_recall.json"),
    ):
        done = CliRunner().invoke(app, [*words, str(tmp_path / out)], catch_exceptions=False)
        assert done.stdout.splitlines()[-1] == f"written: {tmp_path / file}"
        assert (tmp_path / file).with_suffix(".png").is_file()
    assert "ends in .json, or a folder" in " ".join(CliRunner().invoke(app, ["evaluate", "--help"]).output.split())


def test_images_that_a_file_lists_in_vain_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = coco(tmp_path / "c") / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["images"].append({"id": 2, "file_name": "2.png", "width": 32, "height": 32})
    file.write_text(json.dumps(content))
    words = ["evaluate", "patch_recall", "--ranker", "center", "--data", "c", "keeps=0.5"]
    refused = CliRunner().invoke(app, words)
    assert "1 of 2 images" in str(refused.exception)
    assert "data.missing=leave_out" in str(refused.exception)
    done = CliRunner().invoke(app, [*words, "data.missing=leave_out"], catch_exceptions=False)
    assert "1 listed images are not there and were left out" in done.output
    page = CliRunner().invoke(
        app, ["compare", "--data", "c", "-r", "center", "data.missing=leave_out", "--images", "1"]
    )
    assert "written: rankers/rankers.html" in page.output
    assert "did you mean 'missing'" in str(CliRunner().invoke(app, [*words, "data.mising=leave_out"]).exception)
    assert "leave data.root out" in str(CliRunner().invoke(app, [*words, "data.root=d"]).exception)
    for split in ("train", "val"):
        (tmp_path / "c" / "annotations" / f"instances_{split}.json").write_text(file.read_text())
        (tmp_path / "c" / split).mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "c" / split / "1.png")
    assert len(open_several(DataConfig(root="c", missing="leave_out")).train) == 1
    with pytest.raises(ValueError, match=r"data\.missing=leave_out"):
        open_several(DataConfig(root="c"))


def test_what_a_protocol_asks_for_is_read_from_its_file() -> None:
    """As its signature says, without importing it."""
    for entry in catalog.protocols():
        wanted = inspect.signature(importlib.import_module(entry.module).evaluate).parameters
        needed = {name: each.default is inspect.Parameter.empty for name, each in wanted.items()}
        assert catalog.asks_for(entry) == needed, entry.name


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
