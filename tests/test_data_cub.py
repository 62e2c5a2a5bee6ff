"""CUB as published, and metadata of wsolevaluation: samples, splits, names, and tables that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.contracts import ImageSet
from vitrail.data import Cub, ImageFolder, Wsol, inspect_folder
from vitrail.data.cub import is_cub
from vitrail.data.wsol import is_wsol, wsol_splits
from vitrail.recipes.sources import DataConfig, open_data, open_held_out, open_splits

IMAGES = ("001.Gull/a.jpg", "001.Gull/b.jpg", "002.Tern/c.jpg", "002.Tern/d.jpg")


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name), 90, 90)).save(path)


def cub(root: Path) -> Path:
    """Two classes with two images each, the first of each to train with."""
    for name in IMAGES:
        picture(root / "images" / name)
    lines = {
        "images.txt": [f"{number} {name}" for number, name in enumerate(IMAGES, 1)],
        "image_class_labels.txt": ["1 1", "2 1", "3 2", "4 2"],
        "classes.txt": ["1 001.Gull", "2 002.Tern"],
        "train_test_split.txt": ["1 1", "2 0", "3 1", "4 0"],
        "bounding_boxes.txt": [f"{number} 4.0 6.0 20.5 {number}.0" for number in (1, 2, 3, 4)],
    }
    for name, rows in lines.items():
        (root / name).write_text("\n".join(rows) + "\n")
    return root


def wsol(root: Path, split: str = "test", names: tuple[str, ...] = IMAGES, folder: str = "metadata") -> Path:
    """Metadata of the same images, in 80 x 60 pixels."""
    place = root / folder / split
    place.mkdir(parents=True)
    for name in names:
        picture(root / name)
    (place / "image_ids.txt").write_text("\n".join(names) + "\n")
    (place / "class_labels.txt").write_text("".join(f"{name},{int(name[:3]) - 1}\n" for name in names))
    (place / "image_sizes.txt").write_text("".join(f"{name},80,60\n" for name in names))
    boxes = [f"{names[0]},8,12,20,40", f"{names[0]},0,0,80,60", f"{names[-1]},10,10,30,50"]
    (place / "localization.txt").write_text("\n".join(boxes) + "\n")
    return root


def test_cub_by_its_tables(tmp_path: Path) -> None:
    root = cub(tmp_path / "CUB_200_2011")
    train, test = Cub(tmp_path), Cub(root, "test")
    assert isinstance(train, ImageSet)
    assert (len(train), len(test), train.classes) == (2, 2, ("001.Gull", "002.Tern"))
    sample = test[1]
    assert (sample.label, test.relative_path(1)) == (1, "002.Tern/d.jpg")
    assert sample.boxes is not None
    assert sample.boxes.tolist() == [[4, 6, 24.5, 10]]
    assert sample.box_labels is not None
    assert sample.box_labels.tolist() == [2]
    assert len({train.digest(), test.digest(), Cub(root, "val").digest()}) == 2
    (root / "bounding_boxes.txt").write_text("1 4 6 20 1\n2 4 6 20 3\n3 4 6 20 3\n4 4 6 20 4\n")
    assert Cub(root, "test").digest() != test.digest()
    (root / "bounding_boxes.txt").unlink()
    assert Cub(root)[0].boxes is None


def test_masks_of_cub_are_what_half_of_the_annotators_say(tmp_path: Path) -> None:
    root = cub(tmp_path)
    shares = np.zeros((30, 40), np.uint8)
    shares[5:10, 5:10], shares[20:, :] = 204, 51
    for name in IMAGES:
        path = (root / "segmentations" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shares).save(path)
    mask = Cub(root)[0].mask
    assert mask is not None
    assert (mask.dtype, set(np.unique(mask).tolist()), int(mask.sum())) == (np.uint8, {0, 1}, 25)


def test_tables_of_cub_that_are_wrong(tmp_path: Path) -> None:
    root = cub(tmp_path)
    with pytest.raises(ValueError, match='"train" and "test"'):
        Cub(root, "valid")
    (root / "bounding_boxes.txt").write_text("1 4 6 20\n")
    with pytest.raises(ValueError, match=r"bounding_boxes\.txt:1: expected an id and 4 more"):
        Cub(root)
    (root / "bounding_boxes.txt").write_text("1 4 6 20 3\n")
    with pytest.raises(ValueError, match="no line for image 3"):
        Cub(root)
    (root / "bounding_boxes.txt").write_text("1 4 6 nan 3\n")
    with pytest.raises(ValueError, match=r"bounding_boxes\.txt:1: expected finite .*got '1 4 6 nan 3'"):
        Cub(root)
    (root / "bounding_boxes.txt").write_text("1 4 6 20 1\n2 4 6 20 3\n3 4 6 20 3\n4 4 6 20 4\n9 1 1 2 2\n")
    with pytest.warns(
        UserWarning, match=r"bounding_boxes\.txt:5: '9 1 1 2 2' names no image of images.txt; lines begin"
    ):
        Cub(root)
    (root / "image_class_labels.txt").write_text("1 1\n2 1\n3 7\n4 2\n")
    with pytest.raises(ValueError, match="lacks the classes 7"):
        Cub(root)
    (root / "images.txt").unlink()
    assert not is_cub(root)
    with pytest.raises(ValueError, match="does not have CUB's layout"):
        Cub(root)


def test_metadata_scales_boxes_to_the_image(tmp_path: Path) -> None:
    data = Wsol(wsol(tmp_path))
    assert isinstance(data, ImageSet)
    first, second, last = data[0], data[1], data[3]
    assert first.boxes is not None
    assert first.boxes.tolist() == [[4, 6, 10, 20], [0, 0, 40, 30]]
    assert second.boxes is not None
    assert second.boxes.shape == (0, 4)
    assert (last.label, data.classes, data.relative_path(3)) == (1, ("001.Gull", "002.Tern"), IMAGES[3])
    assert Wsol(tmp_path, "test", classes=("001.Gull", "002.Tern", "003.Owl")).classes == (
        "001.Gull",
        "002.Tern",
        "003.Owl",
    )
    with pytest.raises(ValueError, match=r"label 0 of the metadata is '001.Gull', and class 0 .* '002.Tern'"):
        Wsol(tmp_path, "test", classes=("002.Tern", "001.Gull"))
    with pytest.raises(ValueError, match="has the label 1, and only 1 classes"):
        Wsol(tmp_path, "test", classes=("001.Gull",))


def test_metadata_in_a_folder_of_the_sets_name_and_without_class_folders(tmp_path: Path) -> None:
    place = tmp_path / "metadata" / "ILSVRC" / "val"
    place.mkdir(parents=True)
    picture(tmp_path / "dataset" / "all" / "1,5.jpg")
    (place / "image_ids.txt").write_text("all/1,5.jpg\n")
    (place / "class_labels.txt").write_text("all/1,5.jpg,3\n")
    data = Wsol(tmp_path, "train-fullsup")
    assert (data.split, data.has_boxes, data[0].label, data[0].boxes) == ("val", False, 3, None)
    assert data.classes == ("class 0", "class 1", "class 2", "all")
    assert wsol_splits(tmp_path) == {"val": place}
    with pytest.raises(ValueError, match=r"no metadata of wsolevaluation for the split 'test' \(there are: val\)"):
        Wsol(tmp_path)


def test_folders_that_are_numbers_name_no_class(tmp_path: Path) -> None:
    """As in ILSVRC's own lists, val2/0/....jpeg, beside training images in folders of WordNet ids."""
    place, names = tmp_path / "metadata" / "val", ("val2/0/1.jpeg", "val2/1/2.jpeg")
    place.mkdir(parents=True)
    for name in names:
        picture(tmp_path / name)
    (place / "image_ids.txt").write_text("\n".join(names))
    (place / "class_labels.txt").write_text(f"{names[0]},0\n{names[1]},1\n")
    for given in (("n01440764", "n01443537"), ("class 0", "class 1", "class 2")):
        assert Wsol(tmp_path, "val", classes=given).classes == given
    (place / "class_labels.txt").write_text(f"{names[0]},1\n{names[1]},0\n")
    with pytest.raises(ValueError, match="label 0 of the metadata is '1', and class 0"):
        Wsol(tmp_path, "val", classes=("n01440764", "n01443537"))


def test_metadata_that_is_wrong(tmp_path: Path) -> None:
    root = wsol(tmp_path)
    place = root / "metadata" / "test"
    for line in (f"{IMAGES[0]},1,2,3", f"{IMAGES[0]},1,2,3,x", f"{IMAGES[0]},1,2,inf,9"):
        (place / "localization.txt").write_text(f"{IMAGES[1]},1,2,3,4\n{line}\n")
        with pytest.raises(ValueError, match=r"localization.txt:2: expected .*a path and 4 numbers.* got '001.Gull/a"):
            Wsol(root)
    (place / "localization.txt").write_text(f"{IMAGES[0]},1,2,3,4\n001.Gul/a.jpg,1,2,3,4\n")
    with pytest.warns(
        UserWarning, match=r"localization.txt:2: .* names no image of image_ids.txt; did you mean 001.Gull/a"
    ):
        Wsol(root)
    (place / "class_labels.txt").write_text(f"{IMAGES[0]},inf\n")
    with pytest.raises(ValueError, match=r"class_labels.txt:1: expected a path and 1 numbers"):
        Wsol(root)
    (place / "class_labels.txt").write_text(f"{IMAGES[0]},0\n")
    with pytest.raises(ValueError, match=r"no label for 3 images: 001\.Gull/b\.jpg"):
        Wsol(root)
    (root / "metadata" / "other" / "test").mkdir(parents=True)
    for name in ("image_ids.txt", "class_labels.txt"):
        (root / "metadata" / "other" / "test" / name).write_text("")
    with pytest.raises(ValueError, match="several data sets"):
        wsol_splits(root)


def test_both_are_opened_by_their_folder(tmp_path: Path) -> None:
    splits = open_splits(DataConfig(root=str(cub(tmp_path / "cub"))))
    assert isinstance(splits.train, Cub)
    assert [len(each) for each in splits] == [2, 2]
    held_out = open_held_out(str(tmp_path / "cub"), most=1)
    assert held_out is not None
    assert (len(held_out), held_out[0].label) == (1, 0)
    assert held_out.relative_path(0) == IMAGES[0]  # type: ignore[attr-defined]
    listed = open_data(str(wsol(wsol(tmp_path / "listed"), "val", IMAGES[:2])))
    assert isinstance(listed.val, Wsol)
    assert listed.val.split == "test"
    with pytest.raises(ValueError, match="split 'train'"):
        len(listed.train)
    held_out = open_held_out(str(tmp_path / "listed"))
    assert held_out is not None
    assert len(held_out) == 2


def test_metadata_beside_a_folder_of_training_images(tmp_path: Path) -> None:
    wsol(tmp_path, "val")
    for name in ("001.Gull/1.jpg", "002.Tern/2.jpg", "003.Owl/3.jpg"):
        picture(tmp_path / "train" / name)
    train, val = open_data(str(tmp_path))
    assert isinstance(train, ImageFolder)
    assert train.classes == val.classes == ("001.Gull", "002.Tern", "003.Owl")
    assert open_held_out(str(tmp_path)) is None


def test_a_folders_training_boxes_are_held_out(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png"):
        picture(tmp_path / name)
    assert open_held_out(str(tmp_path)) is None
    (tmp_path / "train_boxes.txt").write_text("a/1.png 2 2 9 9\n")
    held_out = open_held_out(str(tmp_path))
    assert held_out is not None
    boxes = held_out[0].boxes
    assert boxes is not None
    assert boxes.tolist() == [[2, 2, 10, 10]]


def test_the_doctor_knows_both(tmp_path: Path) -> None:
    found = inspect_folder(cub(tmp_path / "cub"), image_size=16)
    assert any("CUB split test: 2 images of 2 of 2 classes, with boxes" in each.what for each in found)
    found = inspect_folder(wsol(tmp_path / "listed"), image_size=16)
    assert any("metadata of wsolevaluation, split test: 4 images" in each.what for each in found)
    (tmp_path / "listed" / "metadata" / "test" / "class_labels.txt").write_text("x\n")
    assert any(each.level == "error" for each in inspect_folder(tmp_path / "listed"))


def test_boxes_of_cub_and_of_the_metadata_agree(real_data: Callable[[str], Path]) -> None:
    root = real_data("cub-mini")
    assert is_cub(root)
    assert is_wsol(root)
    cub_set, listed = Cub(root, "test"), Wsol(root, "test")
    assert cub_set.classes == listed.classes
    places = {listed.relative_path(index): index for index in range(len(listed))}
    for index in range(0, len(cub_set), 200):
        one, other = cub_set[index], listed[places[cub_set.relative_path(index)]]
        assert one.label == other.label
        assert one.boxes is not None
        assert other.boxes is not None
        assert np.abs(one.boxes - other.boxes).max() <= 1
