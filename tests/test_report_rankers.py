"""The page that compares rankers: what is measured, what stands on it, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from vitrail.backbones import BackboneConfig, create, save_exported
from vitrail.data import SyntheticScenes
from vitrail.evaluation.result import Report
from vitrail.methods.supervised import Supervised, SupervisedConfig
from vitrail.recipes.rank import Shown
from vitrail.recipes.rankers import Shape, titled
from vitrail.report import Section
from vitrail.report.page import write_sections
from vitrail.report.rankers import Wanted, compare_rankers, recall_section, shared_shape, table_html

CPU = Shown(device="cpu")


def voc(root: Path) -> Path:
    """A tree of two images, each with one object in its upper left quarter."""
    for name in ("JPEGImages", "SegmentationClass", "SegmentationObject", "Annotations", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for name in ("a", "b"):
        Image.effect_noise((64, 64), 60).convert("RGB").save(root / "JPEGImages" / f"{name}.jpg")
        mask = Image.new("P", (64, 64))
        mask.putpalette([0, 0, 0, 255, 0, 0])
        mask.paste(15, (0, 0, 32, 32))
        mask.save(root / "SegmentationClass" / f"{name}.png")
        (root / "Annotations" / f"{name}.xml").write_text(
            "<annotation><object><name>person</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>"
            "<xmax>32</xmax><ymax>32</ymax></bndbox></object></annotation>"
        )
    for split in ("train", "val"):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("a\nb\n")
    return root


def classifier(folder: Path, data: SyntheticScenes) -> str:
    assert data.classes is not None
    backbone = create(BackboneConfig(image_size=48, patch_size=16, embed_dim=12, depth=2, heads=2))
    save_exported(Supervised(SupervisedConfig(), backbone, data.classes).export(), folder / "head.safetensors")
    return str(folder / "head.safetensors")


def folder_of(root: Path, data: SyntheticScenes, count: int = 12) -> Path:
    assert data.classes is not None
    for number in range(count):
        sample = data[number]
        assert sample.label is not None
        place = root / "val" / data.classes[sample.label]
        place.mkdir(parents=True, exist_ok=True)
        sample.image.save(place / f"{number}.png")
    for name in data.classes:
        for part in ("train", "val"):
            (root / part / name).mkdir(parents=True, exist_ok=True)
        data[0].image.save(root / "train" / name / "x.png")
    return root


def test_recall_and_pictures_where_objects_are_marked(tmp_path: Path) -> None:
    wanted = Wanted(str(voc(tmp_path / "voc")), images=2, settings=("keeps=0.25,1",))
    page = compare_rankers(["center"], wanted, CPU, tmp_path / "out")
    text = page.read_text()
    for words in ("What they keep", "Patch recall", "random, expected", "Protocol card"):
        assert words in text
    assert text.count("<img") >= 2
    numbers = json.loads((tmp_path / "out" / "patch_recall-center.json").read_text())["numbers"]
    assert numbers["recall_1"] == 100
    assert f"<td>{numbers['recall_0.25']:.1f}</td>" in text


def test_grids_that_differ_stand_in_the_names_with_floors_of_their_own() -> None:
    def report(patches: int, recall: float) -> Report:
        curves = {"keep": [0.5], "recall": [recall], "random": [patches / 10], "center": [patches / 5]}
        return Report("patch_recall", {}, {}, {"patches": patches, "curves": curves, "images": 3, "labels": "boxes"})

    section = recall_section({"a": report(64, 30.0), "b": report(196, 40.0), "c": report(64, 50.0)})
    for words in ("a, 64 patches", "b, 196 patches", "random, expected, 196 patches", "center, 64 patches"):
        assert words in section.html
    cells = re.findall(r"<td>([\d.]+)</td>", section.html)
    assert cells == ["30.0", "40.0", "50.0", "6.4", "12.8", "19.6", "39.2"]
    assert "not comparable" in section.pictures[0][0]
    assert "patches" not in recall_section({"a": report(64, 30.0), "c": report(64, 50.0)}).html


def test_rankers_without_weights_get_the_grid_of_the_others(tmp_path: Path) -> None:
    def vit(name: str, image_size: int, patch_size: int) -> str:
        backbone = create(BackboneConfig(image_size=image_size, patch_size=patch_size, embed_dim=12, depth=1, heads=2))
        save_exported(backbone.export(), tmp_path / f"{name}.safetensors")
        return str(tmp_path / f"{name}.safetensors")

    texts = ["center", f"dino={vit('a', 32, 8)}", f"tome={vit('b', 64, 16)}", "random"]
    assert shared_shape(titled(texts), CPU) == Shape((32, 32), 8)
    assert shared_shape(titled([*texts, f"dino:mass_vote={vit('c', 32, 16)}"]), CPU) is None
    assert shared_shape(titled(["center", "random"]), CPU) is None
    assert shared_shape(titled(texts[1:3]), CPU) is None

    wanted = Wanted(str(voc(tmp_path / "voc")), images=1, settings=("keeps=0.25,1",))
    text = compare_rankers(texts[:2], wanted, CPU, tmp_path / "out").read_text()
    details = json.loads((tmp_path / "out" / "patch_recall-center.json").read_text())["details"]
    assert details["patches"] == 16
    assert "not comparable" not in text


def test_accuracy_where_there_is_a_classifier(tmp_path: Path) -> None:
    data = SyntheticScenes(12, image_size=48, classes=3, split="val")
    photos = folder_of(tmp_path / "photos", data)
    wanted = Wanted(str(photos), classifier(tmp_path, data), settings=("keeps=0.5", "rounds=1"), images=0)
    text = compare_rankers(["center"], wanted, CPU, tmp_path / "out").read_text()
    assert "Accuracy on kept patches" in text
    assert "Patch recall" not in text
    rows = json.loads((tmp_path / "out" / "selection_accuracy.json").read_text())["details"]["rows"]
    assert {row["ranker"] for row in rows} == {"center", "random"}
    assert all(f"<td>{row['top1']:.1f}</td>" in text for row in rows)


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    data = SyntheticScenes(4, image_size=48, classes=3, split="val")
    photos = str(folder_of(tmp_path / "photos", data, 4))
    with pytest.raises(ValueError, match="neither boxes nor masks"):
        compare_rankers(["center"], Wanted(photos), CPU, tmp_path)
    with pytest.raises(ValueError, match="name rankers"):
        compare_rankers([], Wanted(photos), CPU, tmp_path)
    with pytest.raises(ValueError, match="named twice"):
        compare_rankers(["center", "center"], Wanted(photos), CPU, tmp_path)
    tree = Wanted(str(voc(tmp_path / "voc")), settings=("kept=1",))
    with pytest.raises(ValueError, match="'kept=1' is no setting of patch_recall"):
        compare_rankers(["center"], tree, CPU, tmp_path)


def test_tables_escape_what_they_hold() -> None:
    assert "&lt;b&gt;" in table_html(["<b>"], [["x", "1"]])


def test_a_page_of_sections_stays_inside_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one section"):
        write_sections(tmp_path / "p.html", [], title="x")
    with pytest.raises(ValueError, match="self-contained"):
        write_sections(tmp_path / "p.html", [Section("a", '<img src="http://x/y.png">')], title="x")
    with pytest.raises(ValueError, match="limit"):
        write_sections(tmp_path / "p.html", [Section("a", "word " * 4000)], title="x", limit=10_000)
    assert not (tmp_path / "p.html").exists()
