"""The VOC layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.contracts import ImageSet
from vitrail.data import UnreadableImage, VocSegmentation
from vitrail.data.voc import VOC_CLASSES

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmax>{3}</xmax><xmin>{1}</xmin><ymin>{2}</ymin><ymax>{4}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""


def make(root: Path, ids: tuple[str, ...] = ("x1", "x2"), split: str = "val", size: tuple[int, int] = (6, 4)) -> Path:
    for name in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(ids) + "\n")
    for name in ids:
        Image.new("RGB", size).save(root / "JPEGImages" / f"{name}.jpg")
        mask = Image.new("P", size)
        mask.putpalette([value % 256 for value in range(3 * 256)])
        mask.putdata(([0, 1, 15, 255] * size[0] * size[1])[: size[0] * size[1]])
        mask.save(root / "SegmentationClass" / f"{name}.png")
        objects = OBJECT.format(0, 1, 1, 6, 4, name="dog", difficult=0)
        objects += OBJECT.format(0, 2, 3, "3.0", 4, name="person", difficult=1)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    return root


@pytest.mark.parametrize("below", ["", "VOCdevkit/VOC2012", "VOC2007"])
def test_samples(tmp_path: Path, below: str) -> None:
    make(tmp_path / below)
    data = VocSegmentation(tmp_path, "val")
    assert isinstance(data, ImageSet)
    assert len(data) == 2
    sample = data[-1]
    assert sample.image.size == (6, 4)
    assert sample.mask is not None
    assert sample.mask.dtype == np.uint8
    assert sample.mask[0].tolist() == [0, 1, 15, 255, 0, 1]
    assert sample.boxes is not None
    assert sample.boxes.tolist() == [[0, 0, 6, 4], [1, 2, 3, 4]]
    objects = data.objects(0)
    assert objects.classes.tolist() == [VOC_CLASSES.index("dog") + 1, VOC_CLASSES.index("person") + 1]
    assert objects.difficult.tolist() == [False, True]
    assert sample.box_labels is not None
    assert sample.box_labels.tolist() == objects.classes.tolist()
    assert sample.box_hard is not None
    assert sample.box_hard.tolist() == [False, True]
    assert sample.path.endswith("x2.jpg")


def test_the_latest_year_is_taken(tmp_path: Path) -> None:
    make(tmp_path / "VOCdevkit" / "VOC2007", ("old",))
    make(tmp_path / "VOCdevkit" / "VOC2012", ("new",))
    assert VocSegmentation(tmp_path).ids == ("new",)


def test_an_image_without_objects_has_no_boxes_but_an_array(tmp_path: Path) -> None:
    make(tmp_path, ("x",))
    (tmp_path / "Annotations" / "x.xml").write_text("<annotation></annotation>")
    boxes = VocSegmentation(tmp_path)[0].boxes
    assert boxes is not None
    assert boxes.shape == (0, 4)


def test_without_annotations(tmp_path: Path) -> None:
    make(tmp_path, ("x",))
    (tmp_path / "Annotations" / "x.xml").unlink()
    (tmp_path / "Annotations").rmdir()
    data = VocSegmentation(tmp_path)
    assert data[0].boxes is None
    with pytest.raises(ValueError, match="no folder Annotations"):
        data.objects(0)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not have the VOC layout"):
        VocSegmentation(tmp_path)
    make(tmp_path)
    with pytest.raises(ValueError, match=r"no split list .*test\.txt; there are val"):
        VocSegmentation(tmp_path, "test")
    (tmp_path / "SegmentationClass" / "x2.png").unlink()
    with pytest.raises(ValueError, match=r"1 files .* SegmentationClass/x2\.png"):
        VocSegmentation(tmp_path)
    (tmp_path / "JPEGImages" / "x1.jpg").unlink()
    with pytest.raises(ValueError, match=r"2 files .* JPEGImages/x1\.jpg, SegmentationClass/x2\.png"):
        VocSegmentation(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        VocSegmentation(tmp_path)


def test_damage_is_unreadable(tmp_path: Path) -> None:
    data = VocSegmentation(make(tmp_path, ("x",)))
    xml = tmp_path / "Annotations" / "x.xml"
    good = xml.read_text()
    for bad in (good[:40], good.replace("dog", "unicorn"), good.replace("<xmin>1</xmin>", "", 1)):
        xml.write_text(bad)
        with pytest.raises(UnreadableImage, match=r"x\.xml: damaged annotation"):
            data[0]
    xml.write_text(good)
    mask = tmp_path / "SegmentationClass" / "x.png"
    Image.new("L", (6, 4), 21).save(mask)
    with pytest.raises(UnreadableImage, match=r"class ids \[21\] beyond 20"):
        data[0]
    Image.new("L", (4, 6)).save(mask)
    with pytest.raises(UnreadableImage, match="mask of 4 x 6 for an image of 6 x 4"):
        data[0]


def test_digest_follows_content(tmp_path: Path) -> None:
    first = VocSegmentation(make(tmp_path)).digest()
    assert VocSegmentation(tmp_path).digest() == first
    for path in (tmp_path / "SegmentationClass" / "x1.png", tmp_path / "Annotations" / "x2.xml"):
        before = path.read_bytes()
        for edited in (before + b"x", before[:-1] + b"x"):
            path.write_bytes(edited)
            assert VocSegmentation(tmp_path).digest() != first
        path.write_bytes(before)
    assert VocSegmentation(tmp_path).digest() == first


def test_real_data(real_data: Callable[[str], Path]) -> None:
    root = real_data("voc-mini")
    data = VocSegmentation(root, "val")
    assert len(data) == 68
    for index in range(0, 68, 7):
        sample, objects = data[index], data.objects(index)
        assert sample.mask is not None
        width, height = sample.image.size
        assert sample.mask.shape == (height, width)
        assert (objects.boxes >= 0).all()
        assert (objects.boxes <= [width, height, width, height]).all()
        inside = np.unique(sample.mask)
        for box, name, difficult in zip(objects.boxes.astype(int), objects.classes, objects.difficult):
            if not difficult:
                assert name in sample.mask[box[1] : box[3], box[0] : box[2]]
                assert name in inside
    camvid = real_data("camvid-mini")
    classes = (camvid / "classes.txt").read_text().split()
    road = VocSegmentation(camvid, "val", classes=classes[1:])
    assert road[0].boxes is None
    assert len(road) == 101


def test_a_list_of_classes_names_the_values_from_0(tmp_path: Path) -> None:
    make(tmp_path)
    plain = VocSegmentation(tmp_path)
    assert plain.background
    for path in (tmp_path / "Annotations").iterdir():
        path.unlink()
    (tmp_path / "Annotations").rmdir()
    before = VocSegmentation(tmp_path).digest()
    names = [f"kind {number}" for number in range(16)]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    data = VocSegmentation(tmp_path)
    assert (data.classes, data.background) == (tuple(names), False)
    assert data.digest() != before
    sample = data[0]
    assert sample.mask is not None
    assert sample.mask[0].tolist() == [1, 2, 16, 255, 1, 2]
    assert data.classes is not None
    assert data.classes[sample.mask[0][2] - 1] == "kind 15"
    (tmp_path / "classes.txt").write_text("\n".join(names[:15]))
    with pytest.raises(UnreadableImage, match=r"class ids \[15\] beyond 15 classes"):
        VocSegmentation(tmp_path)[0]
    (tmp_path / "classes.txt").write_text("\n".join(["Background", *names[:15]]))
    other = VocSegmentation(tmp_path)
    assert (other.classes, other.background) == (tuple(names[:15]), True)
    assert other[0].mask is not None
    assert other[0].mask[0].tolist() == [0, 1, 15, 255, 0, 1]  # type: ignore[index]
    assert VocSegmentation(tmp_path, classes=VOC_CLASSES).classes == VOC_CLASSES


@pytest.mark.parametrize("text", ["", "background\n", "a\na\n", "\n".join(f"c{n}" for n in range(256))])
def test_a_list_of_classes_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    make(tmp_path)
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=r"classes\.txt names \d+ classes, \d+ different ones; its lines name"):
        VocSegmentation(tmp_path)


def test_road_scenes_in_this_layout(real_data: Callable[[str], Path]) -> None:
    data = VocSegmentation(real_data("camvid-mini"), "val")
    assert data.classes is not None
    assert (len(data), len(data.classes), data.background, data.has_boxes) == (101, 11, False, False)
    mask = data[0].mask
    assert mask is not None
    # The sky is at the top and the road at the bottom.
    rows = [
        np.flatnonzero((mask == data.classes.index(name) + 1).any(1)).mean() for name in ("sky", "building", "road")
    ]
    assert rows == sorted(rows)
    assert VocSegmentation(real_data("voc-mini"), "val").classes == VOC_CLASSES
