"""What is said about a folder: each fault gives its finding, and each finding that is no "ok" its mend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.data import Finding, inspect_folder


def put(root: Path, *names: str, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(abs(hash(name))).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).convert(mode).save(path)
    return root


def look(root: Path, **changes: object) -> list[Finding]:
    settings = {"patch_size": 16, "image_size": 32, **changes}
    found = inspect_folder(root, **settings)  # type: ignore[arg-type]
    assert found
    assert all(finding.mend for finding in found if finding.level != "ok")
    return found


def said(found: list[Finding], level: str) -> str:
    return "\n".join(finding.what for finding in found if finding.level == level)


def good(root: Path) -> Path:
    return put(root, *(f"{split}/{name}/{k}.png" for split in ("train", "val") for name in "ab" for k in range(3)))


def test_a_good_folder(tmp_path: Path) -> None:
    found = look(good(tmp_path))
    assert [finding.what for finding in found if finding.level != "ok"] == ["train: fewer than 256 images"]
    words = said(found, "ok")
    for part in (
        "train: 6 images in 2 classes, 3 (a) to 3 (a) each",
        "val: 6 images",
        "train and val have the same classes",
        "all 6 images decoded, all readable",
        "every image is 64 x 64",
    ):
        assert part in words


@pytest.mark.parametrize(
    ("content", "level", "words"),
    [
        ((), "error", "has no images"),
        (("a.png", "b.png"), "warning", "2 images without class folders"),
        (("train/a/1.png", "train/b/1.png"), "warning", "has train/ but no val/"),
        (("val/a/1.png", "val/b/1.png"), "warning", "has val/ but no train/"),
        (
            ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"),
            "warning",
            "has test/ but no val/: training validates on test/",
        ),
        (
            ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"),
            "error",
            "1 classes that train lacks: c",
        ),
        (
            ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"),
            "warning",
            "val lacks 1 classes of train: b",
        ),
        (("train/a/1.png", "train/b/1.png", "val/1.png"), "error", "only train has class folders"),
        (("a/1.png", "b/1.png", "stray.png"), "warning", "1 image beside the class folders"),
        (("annotations/1.png", "train2017/1.png"), "warning", "taken for classes by their folders: annotations"),
        ((*(f"a/{k}.png" for k in range(21)), "b/1.png"), "warning", "a has over 20 times the images of b"),
    ],
)
def test_faults_of_the_layout(tmp_path: Path, content: tuple[str, ...], level: str, words: str) -> None:
    assert words in said(look(put(tmp_path, *content)), level)


def test_the_folder_that_holds_the_classes_is_named(tmp_path: Path) -> None:
    found = look(put(tmp_path, "pictures/a/1.png", "pictures/b/1.png"))
    mends = [finding.mend for finding in found if "without class folders" in finding.what]
    assert mends[0].endswith(f"give {tmp_path / 'pictures'}")


def test_a_test_folder_beside_val_is_left_alone(tmp_path: Path) -> None:
    found = look(put(good(tmp_path), "test/c/1.png"))
    assert [finding.what for finding in found if finding.level != "ok"] == ["train: fewer than 256 images"]


def test_no_folder(tmp_path: Path) -> None:
    assert "there is no folder" in said(look(tmp_path / "none"), "error")


def test_empty_class_folders(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "c").mkdir()
    assert "folders without images, which are no classes: c" in said(look(tmp_path), "warning")


def test_sizes(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/2.png", size=(100, 70))
    put(tmp_path, "b/1.png", size=(10, 40))
    found = look(tmp_path, image_size=96)
    assert "10 to 100 wide, 40 to 70 high, median 100 x 70" in said(found, "ok")
    assert "1 of 3 images are smaller than one patch" in said(found, "warning")
    assert "3 of 3 images are smaller than 96 pixels" in said(found, "warning")
    assert "3 of 3 images have sides that are no multiple of the patch size 16" in said(found, "ok")
    assert any("64 fits most" in finding.mend for finding in found)


def test_unreadable_files(tmp_path: Path) -> None:
    good(tmp_path)
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"")
    found = look(tmp_path)
    assert "1 unreadable" in said(found, "error")
    assert "0.png: the file is empty (0 bytes)" in said(found, "error")


def test_few_unreadable_files_are_a_warning_and_a_sample_may_miss_them(tmp_path: Path) -> None:
    put(tmp_path, *(f"{name}/{k}.png" for name in "ab" for k in range(60)), size=(32, 32))
    (tmp_path / "a" / "1.png").write_bytes(b"no")
    assert "all 120 images decoded, 1 unreadable" in said(look(tmp_path, every=True), "warning")
    assert "10 of 120 images decoded, all readable" in said(look(tmp_path, sample=10), "ok")


def test_modes(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/2.png", mode="L")
    put(tmp_path, "b/1.png", mode="RGBA")
    found = look(tmp_path)
    assert "converted to RGB: 2 gray, 1 with transparency" in said(found, "ok")
    assert "67 % are gray" in said(found, "warning")


def test_files_in_both_splits(tmp_path: Path) -> None:
    good(tmp_path)
    copy = tmp_path / "val" / "b" / "0.png"
    copy.write_bytes((tmp_path / "train" / "a" / "2.png").read_bytes())
    assert "1 files are in both train and val" in said(look(tmp_path, every=True), "warning")
    copy.unlink()
    assert "no file is in both" in said(look(tmp_path, every=True), "ok")


def test_voc(tmp_path: Path) -> None:
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("x\n")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("y\n")
    Image.new("RGB", (64, 48)).save(tmp_path / "JPEGImages/x.jpg")
    Image.new("P", (64, 48)).save(tmp_path / "SegmentationClass/x.png")
    found = look(tmp_path)
    assert "VOC split val: 1 images with masks, without boxes" in said(found, "ok")
    assert "VOC split train: 2 files" in said(found, "error")
    Image.new("RGB", (64, 48)).save(tmp_path / "SegmentationClass/x.png")
    assert "a mask of class ids is palette or gray" in said(look(tmp_path), "error")
    Image.new("P", (32, 48)).save(tmp_path / "SegmentationClass/x.png")
    assert "mask of 32 x 48 for an image of 64 x 48" in said(look(tmp_path), "error")
    Image.fromarray(np.full((48, 64), 77, np.uint8)).save(tmp_path / "SegmentationClass/x.png")
    assert "holds class ids [77] beyond 20 classes" in said(look(tmp_path), "error")


def test_coco(tmp_path: Path) -> None:
    def write(split: str, names: list[str]) -> None:
        images = [{"id": k, "file_name": name, "width": 64, "height": 48} for k, name in enumerate(names)]
        box = {"image_id": 0, "category_id": 7, "bbox": [8, 8, 16, 16], "iscrowd": 0}
        boxes = [box, box | {"bbox": [100, 8, 16, 16]}, box | {"iscrowd": 1}]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "car"}]}
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))

    put(tmp_path, "val2017/0.png", "val2017/1.png", size=(64, 48))
    write("val2017", ["0.png", "1.png", "2.png"])
    found = look(tmp_path)
    for words in ("val2017: 2 images with 1 boxes of 1 classes", "1 images have no object", "all 2 images decoded"):
        assert words in said(found, "ok")
    for words in ("1 boxes lie wholly outside", "1 crowd regions were left out", "every image is 64 x 48"):
        assert words in said(found, "ok")
    assert said(found, "warning") == "COCO split val2017: 1 listed images are not there"
    assert any("data.missing=leave_out" in finding.mend for finding in found)
    assert "class" not in said(found, "warning")  # its folders are not taken for classes
    write("train2017", ["9.png"])
    put(tmp_path, "val2017/1.png", size=(48, 64))
    found = look(tmp_path)
    assert "COCO split train2017: none of the 1 images" in said(found, "error")
    assert "48 x 64 pixels, instances_val2017.json says 64 x 48" in said(found, "error")


def test_ade20k(tmp_path: Path) -> None:
    for number in range(2):
        put(tmp_path, f"ADE/images/validation/{number}.jpg")
        put(tmp_path, f"ADE/annotations/validation/{number}.png", mode="L")
        Image.new("L", (64, 64), 150).save(tmp_path / f"ADE/annotations/validation/{number}.png")
    found = look(tmp_path)
    words = "ADE20K, 150 classes, split val: 2 images with masks, things and stuff not told apart"
    assert words in said(found, "ok")
    assert "split train" not in said(found, "ok") + said(found, "error")
    assert said(found, "warning") == said(found, "error") == ""
    Image.new("L", (64, 64), 151).save(tmp_path / "ADE/annotations/validation/1.png")
    assert "1.png: holds the class id 151 beyond 150 classes" in said(look(tmp_path), "error")
    (tmp_path / "ADE/annotations/validation/0.png").unlink()
    assert "1 of 2 images in" in said(look(tmp_path), "error")


def test_real_data(real_data: Callable[[str], Path]) -> None:
    found = look(real_data("cls-mini"), patch_size=8, image_size=64)
    assert said(found, "error") == said(found, "warning") == ""
    assert "train: 12500 images in 50 classes" in said(found, "ok")
    assert "gray" in said(found, "ok")
    voc = look(real_data("voc-mini"), image_size=224)
    assert "VOC split val: 68 images with masks, with boxes" in said(voc, "ok")
    assert said(voc, "error") == ""
    coco = look(real_data("coco-mini"), image_size=224)
    assert "COCO split" in said(coco, "ok")
    assert said(coco, "error") == ""


def test_a_table_of_labels(tmp_path: Path) -> None:
    for split, lines in (("train", "a/1.png,cat;dog\na/2.png,dog\n"), ("val", "a/1.png,cat\n")):
        put(tmp_path, *(f"{split}/a/{number}.png" for number in (1, 2)))
        (tmp_path / split / "labels.csv").write_text(f"image,labels\n{lines}")
    found = look(tmp_path)
    assert "train: 2 images with any of 2 labels, 1.5 an image" in said(found, "ok")
    assert "1 images below" in said(found, "warning")
    assert "val lacks 1 classes of train: dog" in said(found, "warning")
    (tmp_path / "val" / "labels.csv").unlink()
    assert "val has no labels.csv" in said(look(tmp_path), "error")


def test_fewer_images_than_recipes_take_at_a_step(tmp_path: Path) -> None:
    """A folder without val/ is trained on but for a tenth, so 270 images are too few as well."""
    for name, count in (("train", 270), ("train-few", 40)):
        (tmp_path / name / "a").mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (index % 256, index // 256, 0)).save(tmp_path / name / "a" / f"{index}.png")
    few = inspect_folder(tmp_path / "train-few", patch_size=8, image_size=16)
    (one,) = [each for each in few if "global_batch_size" in each.mend]
    assert (one.level, "fewer than 256 images" in one.what) == ("warning", True)
    assert one.mend.endswith("give train.global_batch_size=32 or less")
    several = inspect_folder(tmp_path / "train", patch_size=8, image_size=16)
    (one,) = [each for each in several if "global_batch_size" in each.mend]
    assert (one.level, "270 images, 243 without those held out" in one.what) == ("warning", True)
    assert one.mend.endswith("give train.global_batch_size=128 or less")
