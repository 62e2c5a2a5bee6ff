"""The COCO instances layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitrail.contracts import ImageSet
from vitrail.data import CocoInstances, UnreadableImage

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]


def box(image: int, category: int, *bbox: float, crowd: int = 0) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(bbox), "iscrowd": crowd, "segmentation": []}


GOOD = [box(7, 18, 1, 2, 3, 4), box(7, 1, 0, 0, 10, 8), box(5, 1, 2, 2, 1, 1, crowd=1)]


def make(
    root: Path, annotations: list[dict[str, Any]] | None = None, split: str = "val2017", below: str = "val2017"
) -> Path:
    """Images 7 (10 x 8) and 5 (6 x 6), listed in this order."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / below).mkdir(parents=True, exist_ok=True)
    images = []
    for number, (width, height) in ((7, (10, 8)), (5, (6, 6))):
        Image.new("RGB", (width, height), (number, 0, 0)).save(root / below / f"{number:04d}.png")
        images.append({"id": number, "file_name": f"{number:04d}.png", "width": width, "height": height})
    content = {"images": images, "annotations": GOOD if annotations is None else annotations, "categories": CATEGORIES}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("below", ["val2017", "images/val2017", "images", "."])
def test_samples(tmp_path: Path, below: str) -> None:
    data = CocoInstances(make(tmp_path, below=below), "val")
    assert isinstance(data, ImageSet)
    assert (len(data), data.classes) == (2, ("person", "dog"))
    sample = data[0]
    assert sample.image.size == (10, 8)
    assert sample.boxes is not None
    assert sample.box_labels is not None
    assert sample.box_hard is not None
    assert sample.boxes.dtype == np.float32
    assert sample.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 10, 8]]
    assert sample.box_labels.tolist() == [2, 1]
    assert sample.box_hard.tolist() == [False, False]
    assert sample.path.endswith("0007.png")


def test_crowds_are_left_out_or_flagged_and_said(tmp_path: Path) -> None:
    data = CocoInstances(make(tmp_path))
    assert data.notes == ("1 crowd regions were left out",)
    boxes = data[1].boxes
    assert boxes is not None
    assert boxes.shape == (0, 4)
    assert data.counts.without_objects == 1
    asked = CocoInstances(tmp_path, crowds=True)
    assert asked.notes == ("1 crowd regions are flagged as hard",)
    assert asked[1].box_hard is not None
    assert asked[1].box_hard.tolist() == [True]
    assert asked.counts.without_objects == 0
    assert asked.digest() != data.digest()


def test_boxes_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    bad = [
        box(5, 1, -2, 1, 5, 3),  # cut to 0..3
        box(5, 1, 4, 4, 2.009, 2),  # within rounding
        box(5, 1, 1, 1, 0, 3),
        box(5, 1, 1, 1, 3, -1),
        box(5, 1, 1, 1, float("nan"), 1),
        box(5, 18, 8, 1, 2, 2),
        box(99, 18, 1, 1, 2, 2),
    ]
    data = CocoInstances(make(tmp_path, bad))
    counts = data.counts
    assert (counts.boxes, counts.clipped, counts.empty, counts.outside, counts.strangers) == (2, 1, 3, 1, 1)
    boxes = data[1].boxes
    assert boxes is not None
    assert boxes.tolist() == [[0, 1, 3, 4], [4, 4, 6, 6]]
    said = "; ".join(data.notes)
    for words in ("1 boxes reach out", "3 boxes without a positive", "1 boxes lie wholly", "1 boxes of images that"):
        assert words in said


def test_missing_images_are_refused_or_left_out(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "val2017" / "0007.png").unlink()
    with pytest.raises(ValueError, match=r'1 of 2 images .* are not in .*: 0007\.png; .*missing="leave_out"'):
        CocoInstances(tmp_path)
    data = CocoInstances(tmp_path, missing="leave_out")
    assert len(data) == 1
    assert data[0].image.size == (6, 6)
    assert data.counts.boxes == 0
    assert "1 listed images are not there and were left out" in data.notes
    (tmp_path / "val2017" / "0005.png").unlink()
    with pytest.raises(ValueError, match="none of the 2 images"):
        CocoInstances(tmp_path, missing="leave_out")


def test_the_latest_year_of_a_split_is_taken(tmp_path: Path) -> None:
    make(tmp_path, split="val2014", below="val2014")
    make(tmp_path, split="val2017")
    assert CocoInstances(tmp_path, "val").annotations.name == "instances_val2017.json"
    assert CocoInstances(tmp_path, "val2014").annotations.name == "instances_val2014.json"
    with pytest.raises(ValueError, match=r"no split 'train', .*instances_train.*'val2014', 'val2017'"):
        CocoInstances(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"image_id": 5, "category_id": 1}]}, "is damaged"),
        ({"annotations": [box(5, 3, 0, 0, 1, 1)]}, "category that is not listed"),
        ({"categories": [*CATEGORIES, {"id": 1, "name": "cat"}]}, "two categories of the same id"),
        ({"images": []}, "lists no images"),
        ({"images": [{"id": 1}]}, "lacks id, file_name"),
        ({"categories": None}, "no COCO instances file"),
    ],
)
def test_files_that_are_no_coco(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    make(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        CocoInstances(tmp_path)


def test_what_is_no_json_or_no_tree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not have the COCO layout"):
        CocoInstances(tmp_path)
    make(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match="is not valid JSON"):
        CocoInstances(tmp_path)


def test_an_image_of_another_size_is_unreadable(tmp_path: Path) -> None:
    data = CocoInstances(make(tmp_path))
    Image.new("RGB", (8, 10)).save(tmp_path / "val2017" / "0007.png")
    with pytest.raises(UnreadableImage, match=r"is 8 x 10 pixels, instances_val2017\.json says 10 x 8"):
        data[0]


def test_digest_follows_boxes_and_images(tmp_path: Path) -> None:
    before = CocoInstances(make(tmp_path)).digest()
    assert CocoInstances(tmp_path).digest() == before
    make(tmp_path, [box(7, 18, 1, 2, 3, 4.5), *GOOD[1:]])
    assert CocoInstances(tmp_path).digest() != before
    make(tmp_path)
    Image.new("RGB", (10, 8), (9, 9, 9)).save(tmp_path / "val2017" / "0007.png")
    assert CocoInstances(tmp_path).digest() != before


def test_real_data(real_data: Callable[[str], Path]) -> None:
    root = real_data("coco-mini")
    val, train = CocoInstances(root, "val"), CocoInstances(root, "train")
    assert (len(val), val.counts.boxes, val.counts.crowds, len(val.classes or ())) == (100, 707, 5, 80)
    assert (len(train), train.counts.boxes + train.counts.crowds) == (128, 939)
    assert train.counts.without_objects >= 2  # two have no annotation at all
    for index in range(0, 100, 9):
        sample = val[index]
        width, height = sample.image.size
        assert sample.boxes is not None
        assert sample.box_labels is not None
        assert (sample.boxes >= 0).all()
        assert (sample.boxes <= [width, height, width, height]).all()
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
        assert sample.box_labels.min() >= 1
        assert sample.box_labels.max() <= 80
