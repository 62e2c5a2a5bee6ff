"""The protocol `localization` by words: what is measured, which images choose the threshold, where results are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_scenes import squares
from PIL import Image
from test_localizers_locloc import saved
from tiny_vit import vit_file
from typer.testing import CliRunner

from vitrail.cli import app
from vitrail.evaluation.result import Report
from vitrail.recipes.measure import measure
from vitrail.recipes.sources import Part, Splits, open_data
from vitrail.report import write_page
from vitrail.report.collect import read_run
from vitrail.report.compare import number_groups

NAMES = ("red", "green", "blue")


def folder_of(root: Path, *, train_boxes: bool = True, maps: bool = True) -> Path:
    """Squares as an image folder with boxes, and perfect heat maps of all of them in `maps`."""
    for split, count, seed in (("train", 9, 1), ("val", 6, 0)):
        lines = []
        for number, sample in enumerate(squares(count, seed).samples):
            name = f"{NAMES[sample.label or 0]}/{number}.png"
            (root / split / name).parent.mkdir(parents=True, exist_ok=True)
            sample.image.save(root / split / name)
            assert sample.boxes is not None
            left, top, right, bottom = sample.boxes[0].astype(int)
            lines.append(f"{name} {left} {top} {right - 1} {bottom - 1}")
            if maps:
                path = root / "maps" / split / f"{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, sample.mask)
        if split == "val" or train_boxes:
            (root / f"{split}_boxes.txt").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_heat_maps_of_another_program(images: Path) -> None:
    maps, train = f"heat_maps={images / 'maps' / 'val'}", str(images / "maps" / "train")
    report, path = measure("localization", None, str(images), [], localizers=[maps], held_out_maps=train)
    assert report.numbers["gt_known_loc"] == report.numbers["max_box_acc_v2"] == 100
    assert path == Path("evaluation/heat_maps-val/localization.json")
    assert report.card["config"]["localizer"] == "heat_maps"
    assert report.card["data"]["held_out"]["images"] == 9
    report, _ = measure("localization", None, str(images), ["threshold=0.3"], localizers=[maps])
    assert report.numbers["gt_known_loc"] == 100
    with pytest.raises(ValueError, match=r"6 held-out images have names of measured ones, such as blue/2\.png"):
        measure("localization", None, str(images), [], localizers=[maps])
    empty = images.parent / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"no map of any of 9 held-out .* --held-out-maps FOLDER, .*threshold=0\.5"):
        measure("localization", None, str(images), [], localizers=[maps], held_out_maps=str(empty))
    with pytest.raises(ValueError, match="6 of 6 images have no usable map"):
        measure("localization", None, str(images), ["threshold=0.3"], localizers=[f"heat_maps={empty}"])
    with pytest.raises(ValueError, match="whole_image locates in held-out images itself; leave --held-out-maps"):
        measure("localization", None, str(images), [], localizers=["whole_image"], held_out_maps=train)


def test_weights_are_measured_as_what_they_were_trained_to_be(images: Path, tmp_path: Path) -> None:
    _, weights = saved("locloc", tmp_path)
    report, path = measure("localization", weights, str(images), [])
    assert path == Path("evaluation/run/localization.json")
    assert report.card["config"]["localizer"] == "locloc"
    assert report.card["resolution"] == [32, 32]
    assert {"top1_loc", "gt_known_loc", "floor_centered_box"} <= set(report.numbers)
    assert report.card["data"]["held_out"]["images"] == 9
    plain = vit_file(tmp_path)
    report, _ = measure("localization", plain, str(images), [])
    assert report.card["config"]["localizer"] == "attention"
    assert "top1_loc" not in report.numbers


def run_in(folder: Path) -> Path:
    """A run folder with the weights of a tiny ViT."""
    run = folder / "run"
    (run / "exported").mkdir(parents=True)
    Path(vit_file(folder)).rename(run / "exported" / "backbone.safetensors")
    (run / "config.yaml").write_text("recipe: x\n")
    return run


def test_results_of_a_run_stand_in_its_folder_each_localizer_in_a_file(images: Path, tmp_path: Path) -> None:
    run = run_in(tmp_path)
    paths = []
    for words in ("attention", "attention:0", "lost", "attention"):
        _, path = measure("localization", str(run), str(images), [], localizers=[words])
        paths.append(path)
    assert paths[0] == paths[3] == run / "evaluation" / "localization.json"
    assert paths[1].name.startswith("localization-default-attention_0-photos-")
    assert paths[2].name.startswith("localization-default-lost-photos-")
    titles = [Report.load(path).card["config"]["localizer"] for path in paths]
    assert titles == ["attention", "attention:0", "lost", "attention"]


def test_preset_and_threshold_tell_results_of_a_run_apart(images: Path, tmp_path: Path) -> None:
    run = run_in(tmp_path)
    names = []
    for settings in ([], ["threshold=test_set"], ["preset=ppd", "image_size=32"], ["threshold=0.25"]):
        _, path = measure("localization", str(run), str(images), settings)
        names.append(path.name)
    assert names[0] == "localization.json"
    starts = ("localization-default-test_set-", "localization-ppd-attention-", "localization-default-threshold0_25-")
    assert all(name.startswith(start) for name, start in zip(names[1:], starts, strict=True)), names
    titles = {re.sub(r" \(localization-.*?\)", "", group.title) for group in number_groups([read_run(run)])}
    assert titles == {
        "localization: attention, preset default, on photos",
        "localization: attention, preset default, threshold = test_set (standard held_out), on photos",
        "localization: attention, preset ppd, image_size = 32 (standard null), on photos",
        "localization: attention, preset default, threshold = 0.25 (standard held_out), on photos",
    }
    page = write_page(tmp_path / "page.html", [run]).read_text()
    assert "<summary>localization: attention, preset default, on photos</summary>" in page
    captions = json.loads((run / "pictures" / "captions.json").read_text())
    assert any("; preset ppd; image_size = 32" in words for words in captions.values())


def test_what_reads_no_weights_and_rankers(images: Path) -> None:
    report, path = measure("localization", None, str(images), [], localizers=["whole_image"])
    assert path == Path("evaluation/whole_image/localization.json")
    assert report.numbers["gt_known_loc"] == report.numbers["floor_whole_image"]
    report, path = measure("localization", None, str(images), [], localizers=["ranker:center"])
    assert path == Path("evaluation/ranker_center/localization.json")
    assert report.card["config"]["localizer"] == "ranker:center"


def test_where_the_threshold_comes_from(tmp_path: Path) -> None:
    bare = str(folder_of(tmp_path / "bare", train_boxes=False, maps=False))
    words = r"no held-out images .*write train_boxes\.txt beside train/, a line .*threshold=0\.5, or threshold=test"
    with pytest.raises(ValueError, match=words):
        measure("localization", None, bare, [], localizers=["whole_image"])
    report, _ = measure("localization", None, bare, ["threshold=test_set"], localizers=["whole_image"])
    assert any("numbers are too good" in note for note in report.details["notes"])
    scenes = ["data.scenes.count=30", "data.scenes.val_count=8", "data.scenes.image_size=24"]
    report, _ = measure("localization", None, "scenes", scenes, localizers=["whole_image"])
    assert {role: entry["images"] for role, entry in report.card["data"].items()} == {"val": 8, "held_out": 30}


def test_images_that_are_open_already(images: Path) -> None:
    data: Any = open_data(str(images))
    some = Splits(data.train, Part(data.val, [0, 1, 2]))
    with pytest.raises(ValueError, match="no held-out images with boxes were given"):
        measure("localization", None, "", [], localizers=["whole_image"], splits=some)
    held = Part(data.val, [3, 4, 5])
    report, _ = measure("localization", None, "", [], localizers=["whole_image"], splits=some, held_out=held)
    assert report.card["data"]["held_out"]["images"] == 3


def test_by_command(images: Path) -> None:
    maps = ["--heat-maps", str(images / "maps" / "val"), "--held-out-maps", str(images / "maps" / "train")]
    told = CliRunner().invoke(app, ["evaluate", "localization", "preset=wsolevaluation", "-d", str(images), *maps])
    assert told.exit_code == 0, told.output
    assert "gt_known_loc                 100.000" in told.output
    assert "was chosen on 9 held-out images" in told.output
    assert "written: evaluation/heat_maps-val/localization.json" in told.output
    assert Image.open(images / "val" / "red" / "0.png").size == (32, 32)
