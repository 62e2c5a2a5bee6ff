"""COCO-Stuff, COCO's semantic maps and Cityscapes, in trees that the tests write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.contracts import ImageSet
from vitrail.data import Cityscapes, CocoInstances, CocoSemantic, CocoStuff, UnreadableImage
from vitrail.data.cityscapes import CITYSCAPES_CLASSES, LABEL_IDS, is_cityscapes
from vitrail.data.coco_semantic import has_semantic
from vitrail.data.cocostuff import CURATED, REMOVED, STUFF, THINGS, coarse_of, fine_names, is_cocostuff
from vitrail.data.inspect import inspect_folder
from vitrail.data.mask_pairs import MaskPairs, Pair, table_of
from vitrail.recipes.sources import open_data, open_segmented, tree_of

VALUES = np.array([[0, 1, 91], [181, 255, 83]], np.uint8)


def save(path: Path, values: np.ndarray | None = None, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        Image.new("RGB", (3, 2)).save(path)
        return
    picture = Image.fromarray(values)
    if palette:
        picture = picture.convert("P")
        picture.putdata(values.ravel().tolist())
        picture.putpalette([255 - value % 256 for value in range(768)])
    picture.save(path)


def stuff(root: Path, images: str = "", masks: str = "stuffthingmaps", palette: bool = False) -> Path:
    for split in ("train", "val"):
        for name in ("000000000001", "000000000002"):
            save(root / images / f"{split}2017" / f"{name}.jpg")
            save(root / masks / f"{split}2017" / f"{name}.png", VALUES, palette)
    return root


def semantic(root: Path, names: str = "0\t1\tperson\tthing\n1\t92\tbanner\tstuff\n") -> Path:
    for split in ("train", "val"):
        save(root / f"{split}2017" / "1.jpg")
        save(root / f"{split}2017" / "2.jpg")
        save(root / "annotations" / f"semantic_{split}2017" / "2.png", np.array([[0, 1, 255], [1, 1, 0]], np.uint8))
    (root / "annotations" / "semantic_classes.txt").write_text(names)
    return root


def streets(root: Path, ending: str = "_gtFine_labelIds.png", values: np.ndarray | None = None) -> Path:
    found = np.array([[7, 33, 0], [8, 26, 255]], np.uint8) if values is None else values
    for split, city in (("train", "aachen"), ("val", "ulm")):
        save(root / "leftImg8bit" / split / city / f"{city}_000000_000019_leftImg8bit.png")
        save(root / "gtFine" / split / city / f"{city}_000000_000019{ending}", found)
    return root


def mask_of(data: MaskPairs, index: int = 0) -> list[list[int]]:
    mask = data[index].mask
    assert mask is not None
    assert mask.dtype == np.uint8
    return mask.tolist()


def test_the_hierarchy_of_cocostuff() -> None:
    names, coarse = fine_names(), coarse_of()
    assert list(names) == list(range(1, 183)) == sorted(coarse)
    assert len(set(names.values())) == 182
    assert (len(THINGS), len(STUFF), len(set(THINGS) | set(STUFF))) == (12, 15, 27)
    assert set(coarse.values()) == set(range(27))
    kinds = [*THINGS, *STUFF]
    for name, kind in (
        ("person", "person"),
        ("toilet", "furniture"),
        ("skyscraper", "building"),
        ("fog", "water"),
        ("wood", "solid"),
        ("straw", "plant"),
        ("clothes", "textile"),
        ("paper", "rawmaterial"),
        ("stairs", "furniture-stuff"),
        ("fruit", "food-stuff"),
        ("cage", "structural"),
        ("playingfield", "ground"),
    ):
        number = next(number for number, each in names.items() if each == name)
        assert kinds[coarse[number]] == kind, name
    assert {names[number] for number in REMOVED} >= {"street sign", "hat", "plate", "door", "blender", "hair brush"}
    assert all((coarse[number] < 12) == (number <= 91) for number in names)


@pytest.mark.parametrize("images", ["", "images"])
@pytest.mark.parametrize("masks", ["stuffthingmaps", "annotations", "annotations/stuffthingmaps"])
@pytest.mark.parametrize("palette", [False, True])
def test_cocostuff_in_27_classes(tmp_path: Path, images: str, masks: str, palette: bool) -> None:
    assert not is_cocostuff(tmp_path)
    data = CocoStuff(stuff(tmp_path, images, masks, palette), "val")
    assert isinstance(data, ImageSet)
    assert (len(data), len(data.classes or ()), data.background, data.curated) == (2, 27, False, False)
    named = [[(data.classes or ())[value - 1] if value != 255 else None for value in row] for row in mask_of(data)]
    assert named == [["person", "vehicle", "textile"], ["solid", None, "indoor"]]
    assert data.stuff == frozenset(STUFF)
    assert tree_of(tmp_path) == "COCO-Stuff"


def test_cocostuff_in_171_classes(tmp_path: Path) -> None:
    data = CocoStuff(stuff(tmp_path), "val", coarse=False)
    assert len(data.classes or ()) == 171
    assert len(data.stuff or ()) == 91
    named = [[(data.classes or ())[value - 1] if value != 255 else None for value in row] for row in mask_of(data)]
    assert named == [["person", "bicycle", "banner"], ["wood", None, "book"]]
    save(tmp_path / "stuffthingmaps/val2017/000000000001.png", np.full((2, 3), 11, np.uint8))
    with pytest.raises(UnreadableImage, match=r"holds the values \[11\], and known are 0\.\.10, 12\.\.24, "):
        data[0]
    assert mask_of(CocoStuff(tmp_path, "val"))[0][0] == [*THINGS].index("outdoor") + 1
    opened = open_segmented(str(tmp_path), settings=["coarse=false"])
    assert len(opened.val.classes or ()) == len(opened.train.classes or ()) == 171


def test_the_curated_list(tmp_path: Path) -> None:
    listed = stuff(tmp_path) / "curated" / "val2017" / CURATED
    listed.parent.mkdir(parents=True)
    listed.write_text("000000000002\n")
    data = CocoStuff(tmp_path, "val")
    assert (len(data), data.curated, len(CocoStuff(tmp_path, "train"))) == (1, True, 2)
    assert data.paths(0).image.name == "000000000002.jpg"
    listed.write_text("000000000002\n000000000009\n")
    with pytest.raises(ValueError, match=r"names 2 images, of which 1 are not in .*val2017: 000000000009; copy them"):
        CocoStuff(tmp_path, "val")


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    data = CocoStuff(stuff(tmp_path), "val")
    folder = tmp_path / "stuffthingmaps" / "val2017"
    save(folder / "000000000001.png", np.full((2, 3), 182, np.uint8))
    with pytest.raises(UnreadableImage, match=r"holds the values \[182\], and known are 0\.\.181, 255"):
        data[0]
    save(folder / "000000000001.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(UnreadableImage, match="mask of 3 x 3 for an image of 3 x 2"):
        data[0]
    save(folder / "000000000001.png", np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(UnreadableImage, match="palette or gray, this is RGB"):
        data[0]
    (folder / "000000000001.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 images in .* have no mask: stuffthingmaps/val2017/000000000001\.png"):
        CocoStuff(tmp_path, "val")
    with pytest.raises(ValueError, match="neither stuffthingmaps/test2017 nor annotations/test2017"):
        CocoStuff(tmp_path, "test")


def test_semantic_maps(tmp_path: Path) -> None:
    assert not has_semantic(tmp_path)
    data = CocoSemantic(semantic(tmp_path), "val")
    assert (data.classes, data.stuff, len(data), data.without) == (("person", "banner"), frozenset({"banner"}), 1, 1)
    assert mask_of(data) == [[1, 2, 255], [2, 2, 1]]
    assert open_segmented(str(tmp_path)).val.classes == ("person", "banner")
    save(tmp_path / "annotations/semantic_val2017/2.png", np.full((2, 3), 2, np.uint8))
    with pytest.raises(UnreadableImage, match=r"holds the values \[2\], and known are 0\.\.1, 255"):
        data[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0\t1\tperson\tthing\n2\t9\tboat\tthing\n", r"classes\.txt:2: expected `1`"),
        ("0 1 person thing\n", "with tabs between; got '0 1 person thing'"),
        ("0\t1\tperson\tanimal\n", "thing or stuff"),
        ("0\t1\ta\tthing\n1\t2\ta\tstuff\n", "names 2 classes; it names 1 to 253, each once"),
    ],
)
def test_lists_of_classes_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    semantic(tmp_path, text)
    with pytest.raises(ValueError, match=words):
        CocoSemantic(tmp_path, "val")


def test_maps_without_images(tmp_path: Path) -> None:
    (semantic(tmp_path) / "val2017" / "2.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 1 maps in .* have no image in .*: 2; copy"):
        CocoSemantic(tmp_path, "val")


def test_cityscapes(tmp_path: Path) -> None:
    data = Cityscapes(streets(tmp_path), "val")
    assert (data.classes, data.background) == (CITYSCAPES_CLASSES, False)
    assert len(LABEL_IDS) == 19
    car = CITYSCAPES_CLASSES.index("car") + 1
    assert mask_of(data) == [[1, 19, 255], [2, car, 255]]
    assert data.stuff is not None
    assert "sky" in data.stuff
    assert "rider" not in data.stuff
    assert is_cityscapes(tmp_path)
    assert tree_of(tmp_path) == "Cityscapes"
    assert len(open_data(str(tmp_path)).train) == 1
    save(tmp_path / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png", np.full((2, 3), 40, np.uint8))
    with pytest.raises(UnreadableImage, match=r"\[40\], and known are 0\.\.33, 255"):
        data[0]


def test_cityscapes_by_train_ids(tmp_path: Path) -> None:
    streets(tmp_path, "_gtFine_labelTrainIds.png", np.array([[0, 18, 255], [1, 13, 255]], np.uint8))
    assert mask_of(Cityscapes(tmp_path)) == [[1, 19, 255], [2, 14, 255]]
    streets(tmp_path)
    assert mask_of(Cityscapes(tmp_path)) == [[1, 19, 255], [2, 14, 255]]


def test_cityscapes_that_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images of the split 'val'"):
        Cityscapes(tmp_path)
    (streets(tmp_path) / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(ValueError, match="has no masks; unpack gtFine"):
        Cityscapes(tmp_path)


def test_digests_tell_files_and_meanings_apart(tmp_path: Path) -> None:
    stuff(tmp_path)
    first, fine = CocoStuff(tmp_path), CocoStuff(tmp_path, coarse=False)
    assert first.digest() == CocoStuff(tmp_path).digest()
    assert first.digest() not in (fine.digest(), CocoStuff(tmp_path, "train").digest())
    save(tmp_path / "stuffthingmaps/val2017/000000000001.png", VALUES.T.copy())
    assert CocoStuff(tmp_path).digest() != first.digest()


def test_at_most_253_classes(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "a.jpg", tmp_path / "a.png")
    with pytest.raises(ValueError, match="254 classes do not fit"):
        MaskPairs(tmp_path, "val", "many", [pair], [str(number) for number in range(254)], table_of({}))


def test_which_masks_a_tree_of_coco_gives(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    root = real_data("coco-mini")
    assert isinstance(open_data(str(root)).val, CocoInstances)
    opened = open_segmented(str(root))
    assert isinstance(opened.val, CocoSemantic)
    assert (len(opened.train), len(opened.val), len(opened.val.classes or ()), len(opened.val.stuff or ())) == (
        100,
        100,
        133,
        53,
    )
    assert all(0 < value <= 133 or value == 255 for value in np.unique(opened.val[3].mask).tolist())  # type: ignore[arg-type]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{}")
    with pytest.raises(ValueError, match="has no masks of class ids: put COCO-Stuff's"):
        open_segmented(str(tmp_path))
    with pytest.raises(ValueError, match=r"leave data\.root out"):
        open_segmented(str(root), settings=["root=x"])


def test_the_doctor_knows_them(tmp_path: Path) -> None:
    for name, make, words in (
        ("stuff", stuff, "COCO-Stuff, 27 classes, split val: 2 images with masks"),
        ("streets", streets, "Cityscapes, split val: 1 images with masks"),
    ):
        root = make(tmp_path / name)
        findings = inspect_folder(root)
        assert words in [each.what for each in findings]
        assert not [each for each in findings if each.level == "error"]
    save(tmp_path / "stuff" / "stuffthingmaps/val2017/000000000001.png", np.zeros((9, 9), np.uint8))
    assert any("mask of 9 x 9" in each.what for each in inspect_folder(tmp_path / "stuff"))
    (tmp_path / "stuff" / "stuffthingmaps/val2017/000000000001.png").unlink()
    assert any("have no mask" in each.what and each.level == "error" for each in inspect_folder(tmp_path / "stuff"))


def test_the_doctor_sees_semantic_maps_beside_instances(real_data: Callable[[str], Path]) -> None:
    findings = inspect_folder(real_data("coco-mini"), sample=4)
    assert "COCO, 133 classes, split val: 100 images with masks" in [each.what for each in findings]
