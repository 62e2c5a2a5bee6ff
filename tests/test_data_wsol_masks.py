"""Metadata of wsolevaluation with masks, as OpenImages has it, and PxAP on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.contracts import ImageSet
from vitrail.data import UnreadableImage, Wsol, inspect_folder
from vitrail.evaluation.heat_maps import HeatMaps
from vitrail.evaluation.localization import LocalizationConfig, evaluate
from vitrail.recipes.sources import open_data, open_held_out

NAMES = ("test/01226z/a.jpg", "test/0138tl/b.jpg", "test/0138tl/c.jpg")
SIDE = 8


def open_images(root: Path, home: str = "dataset/OpenImages") -> Path:
    """Three images with two objects that overlap, one object, and one beside an ignore mask of another size."""
    place, below = root / "metadata" / "OpenImages" / "test", root / home
    place.mkdir(parents=True)
    (place / "image_ids.txt").write_text("\n".join(NAMES))
    (place / "class_labels.txt").write_text("".join(f"{name},{label}\n" for name, label in zip(NAMES, (0, 1, 1))))
    for name in NAMES:
        (below / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), (90, 9, 9)).save(below / name)
    one, other, third, ignored = (np.zeros((SIDE, SIDE), np.uint8) for _ in range(4))
    one[1:4, 1:4], other[2:6, 2:6], third[0:2], ignored[:, 4:] = 255, 255, 255, 255
    masks = {
        "a_1": one,
        "a_2": other,
        "a_ignore": ignored,
        "b_1": third,
        "b_ignore": np.zeros_like(third),
        "c_1": third,
    }
    for name, mask in masks.items():
        folder = "01226z" if name[0] == "a" else "0138tl"
        Image.fromarray(mask).save(below / "test" / folder / f"{name}.png")
    small = Image.fromarray(np.array([[0, 255], [0, 0]], np.uint8))  # the upper right quarter
    small.convert("1").save(below / "test" / "0138tl" / "c_ignore.png")
    lines = [f"{NAMES[0]},test/01226z/a_1.png,test/01226z/a_ignore.png", f"{NAMES[0]},test/01226z/a_2.png,"]
    lines += [f"{name},{name[:-4]}_1.png,{name[:-4]}_ignore.png" for name in NAMES[1:]]
    (place / "localization.txt").write_text("\n".join(lines) + "\n")
    return root


def expected() -> list[np.ndarray]:
    """The masks, drawn by hand."""
    first, second, third = (np.zeros((SIDE, SIDE), np.uint8) for _ in range(3))
    first[:, 4:], third[:4, 4:] = 255, 255
    first[1:4, 1:4], first[2:6, 2:6], second[:2], third[:2] = 1, 1, 1, 1
    return [first, second, third]


def test_masks_are_united_and_ignored_where_no_object_is(tmp_path: Path) -> None:
    data = Wsol(open_images(tmp_path))
    assert isinstance(data, ImageSet)
    assert (data.has_masks, data.has_boxes, data.classes) == (True, False, ("01226z", "0138tl"))
    for index, mask in enumerate(expected()):
        sample = data[index]
        assert sample.boxes is None
        assert sample.mask is not None
        assert sample.mask.dtype == np.uint8
        assert np.array_equal(sample.mask, mask)
    before = data.digest()
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "dataset/OpenImages/test/0138tl/b_1.png")
    assert Wsol(tmp_path).digest() != before


@pytest.mark.parametrize("home", ["", "images", "OpenImages"])
def test_where_images_and_masks_lie(tmp_path: Path, home: str) -> None:
    assert Wsol(open_images(tmp_path, home))[2].mask is not None


def test_pxap_is_that_of_all_pixels_sorted(tmp_path: Path) -> None:
    """Average precision over the pixels of all images, each distinct value a threshold, ignored ones left out."""
    root = open_images(tmp_path / "data")
    (tmp_path / "maps").mkdir()
    values, truth = [], []
    for number, (name, mask) in enumerate(zip(NAMES, expected())):
        map_ = np.random.default_rng(number).permutation(SIDE * SIDE).reshape(SIDE, SIDE) / (SIDE * SIDE - 1)
        (tmp_path / "maps" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "maps" / f"{name}.npy", map_)
        values.append(map_[mask != 255])
        truth.append(mask[mask != 255] == 1)
    data = open_data(str(root)).val
    assert open_held_out(str(root)) is None
    report = evaluate(HeatMaps(tmp_path / "maps"), data, LocalizationConfig(image_size=SIDE))
    flat, object_ = np.concatenate(values), np.concatenate(truth)
    area = 0.0
    for value in np.unique(flat):
        precision = object_[flat >= value].mean()
        area += precision * object_[flat == value].sum() / object_.sum()
    assert report.numbers == {"pxap": pytest.approx(100 * area)}
    assert not report.details["notes"]


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    root = open_images(tmp_path)
    place, below = root / "metadata/OpenImages/test", root / "dataset/OpenImages"
    (below / NAMES[1]).with_name("b_1.png").unlink()
    with pytest.raises(UnreadableImage, match=r"b_1\.png: the file does not exist"):
        Wsol(root)[1]
    lines = (place / "localization.txt").read_text()
    (place / "localization.txt").write_text(lines + "test/0138tl/cc.jpg,test/0138tl/c_1.png,\n")
    with pytest.warns(UserWarning, match=r"localization.txt:5: .* names no image .*; did you mean test/0138tl/c.jpg\?"):
        Wsol(root)
    found = {each.what: each.level for each in inspect_folder(root, patch_size=4, image_size=8)}
    assert found["test: localization.txt: 4 masks in 3 of 3 images, 3 ignore masks"] == "ok"
    assert any("1 of 7 masks are not in" in what and level == "error" for what, level in found.items())
    assert any("lines name no image, by their numbers: 5" in what for what in found)
    (place / "localization.txt").write_text(lines + f"{NAMES[2]},1,2,3,4\n")
    with pytest.raises(ValueError, match=r"localization.txt:5: expected `<path>,<mask>,<ignore mask or nothing>`"):
        Wsol(root)
    (place / "localization.txt").write_text(lines.replace("a_1.png", "gone.png"))
    with pytest.raises(ValueError, match=r"the mask test/01226z/gone.png of localization.txt is in none of"):
        Wsol(root)
