"""Folders: layouts, order, labels, boxes, and errors in words."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.contracts import ImageSet
from vitrail.data import SPLITS, ImageFolder, UnreadableImage
from vitrail.data.box_file import box_file
from vitrail.data.folders import scan
from vitrail.data.named_lines import nearest


def put(root: Path, *names: str, size: tuple[int, int] = (8, 6)) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number % 256, 0, 0)).save(path, "PNG")
    return root


def names(data: ImageFolder) -> list[str]:
    return [data.relative_path(index) for index in range(len(data))]


def test_splits_with_classes(tmp_path: Path) -> None:
    put(tmp_path, "train/dog/b.png", "train/dog/a.PNG", "train/cat/deep/er/x.jpeg", "validation/dog/z.png")
    train = ImageFolder(tmp_path, "train")
    assert isinstance(train, ImageSet)
    assert train.classes == ("cat", "dog")
    assert names(train) == ["cat/deep/er/x.jpeg", "dog/a.PNG", "dog/b.png"]
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1, 1]
    assert train.counts() == {"cat": 1, "dog": 2}
    sample = train[-1]
    assert (sample.label, sample.image.size, sample.mask, sample.boxes) == (1, (8, 6), None, None)
    assert sample.path == str(tmp_path / "train" / "dog" / "b.png")
    val = ImageFolder(tmp_path, "val", classes=train.classes)
    assert val.classes == ("cat", "dog")
    assert val[0].label == 1


def test_classes_in_the_root(tmp_path: Path) -> None:
    put(tmp_path, "b/1.png", "a/1.png", "10/1.png")
    assert ImageFolder(tmp_path).classes == ("10", "a", "b")


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "a.png")
    data = ImageFolder(tmp_path)
    assert (data.classes, data.labels, names(data), data[0].label) == (None, None, ["a.png", "b.png"], None)
    with pytest.raises(ValueError, match=r"holds 2 images but no class folders.*one folder per class"):
        ImageFolder(tmp_path, labels="folders")
    with pytest.raises(ValueError, match="no class folders"):
        ImageFolder(tmp_path, classes=["a"])


def test_one_sub_folder_is_no_class_unless_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "images/b.png")
    assert ImageFolder(tmp_path).classes is None
    assert ImageFolder(tmp_path, labels="folders").classes == ("images",)
    assert ImageFolder(tmp_path, classes=["images", "other"])[0].label == 0


def test_labels_can_be_ignored(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "val/a/1.png", "loose.png")
    data = ImageFolder(tmp_path, labels="none")
    assert names(data) == ["loose.png", "train/a/1.png", "val/a/1.png"]
    assert data[1].label is None


def test_splits_are_not_taken_for_classes(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "val/a/1.png")
    with pytest.raises(ValueError, match='split="train"'):
        ImageFolder(tmp_path)


def test_hidden_files_other_files_and_empty_folders_do_not_count(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png", "a/.hidden.png", ".cache/x.png", "a/.thumbs/y.png")
    (tmp_path / "a" / "Thumbs.db").write_text("x")
    (tmp_path / "notes").mkdir()
    data = ImageFolder(tmp_path)
    assert data.classes == ("a", "b")
    assert names(data) == ["a/1.png", "b/2.png"]


def test_loose_images_beside_classes_are_left_out_aloud(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/1.png", "stray.png")
    with pytest.warns(UserWarning, match="1 image beside the class folders"):
        assert len(ImageFolder(tmp_path)) == 2


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        ImageFolder(tmp_path / "none")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.dcm").write_text("x")
    for labels in ("auto", "folders", "none"):
        with pytest.raises(ValueError, match=r"no images.*1 of \.dcm"):
            ImageFolder(tmp_path, labels=labels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no folder for the split 'val'; it has a"):
        ImageFolder(tmp_path, "val")
    with pytest.raises(ValueError, match="labels is"):
        ImageFolder(tmp_path, labels="some")  # type: ignore[arg-type]


def test_classes_that_train_lacks(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png", "val/d/1.png")
    train = ImageFolder(tmp_path, "train")
    with pytest.raises(ValueError, match=r"2 classes that the training set \(2 classes\) lacks: c, d"):
        ImageFolder(tmp_path, "val", classes=train.classes)


def test_mixed_sizes_and_a_broken_file(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", size=(5, 9))
    put(tmp_path, "a/2.png", size=(300, 2))
    (tmp_path / "a" / "3.png").write_bytes(b"")
    data = ImageFolder(tmp_path)
    assert [data[0].image.size, data[1].image.size] == [(5, 9), (300, 2)]
    with pytest.raises(UnreadableImage, match=r"3\.png: the file is empty"):
        data[2]
    for beyond in (3, -4):
        with pytest.raises(IndexError):
            data[beyond]


def test_boxes_become_half_open(tmp_path: Path) -> None:
    put(tmp_path, "val/a/1 one.png", "val/a/2.png", "val/b/3.png")
    file = tmp_path / "val_boxes.txt"
    file.write_text("b/3.png 1 2 3 4\na/1 one.png 0 0 7 5\r\n\nb/3.png 0 0 0 0\nelse/9.png 1 1 2 2\n")
    with pytest.warns(UserWarning, match=r"val_boxes.txt:5: 'else/9.png 1 1 2 2' names no image of .*val; lines begin"):
        data = ImageFolder(tmp_path, "val", boxes=file)
    assert data[0].boxes is not None
    assert data[0].boxes.tolist() == [[0, 0, 8, 6]]
    assert data[1].boxes is None
    assert data[2].boxes is not None
    assert data[2].boxes.tolist() == [[1, 2, 4, 5], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a/1.png 1 2 3", r"boxes\.txt:1: expected"),
        ("a/1.png 1 2 3 x", r"boxes\.txt:1: expected"),
        ("\na/1.png 5 5 4 6", r"boxes\.txt:2: the box .* ends before"),
        ("train/a/1.png 1 2 3 4", r"no line .* names an image.*'train/a/1.png 1 2 3 4'; did you mean a/1\.png\?"),
        ("x/y.png 1 2 3 4", r"no line .* names an image.*paths like a/1\.png"),
        ("", r"no line .* names an image.*paths like a/1\.png"),
        ("a/1.png 1 2 3 4\nb/1.png 1 nan 3 4", r"boxes\.txt:2: expected finite numbers of pixels.*'b/1.png 1 nan 3 4'"),
        (
            "a/1.png 1 2 inf 4\nb/1.png 1 2 3",
            r"boxes\.txt:1: expected finite .*'a/1.png 1 2 inf 4'; 1 more lines are wrong",
        ),
    ],
)
def test_bad_boxes_files(tmp_path: Path, content: str, words: str) -> None:
    put(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "boxes.txt").write_text(content)
    with pytest.raises(ValueError, match=words):
        ImageFolder(tmp_path, boxes=tmp_path / "boxes.txt")


def test_lines_that_name_no_image_are_told_once_with_what_they_may_mean(tmp_path: Path) -> None:
    put(tmp_path, "cats/tabby_1.png", "cats/tabby_2.png", "dogs/spot.png")
    (tmp_path / "boxes.txt").write_text("cats/tabby_1.png 0 0 1 1\ncats/taby_2.png 0 0 1 1\nfish/1.png 0 0 1 1\n")
    with pytest.warns(UserWarning, match="names no image") as told:
        data = ImageFolder(tmp_path, boxes=tmp_path / "boxes.txt")
    (words,) = (str(each.message) for each in told)
    assert "boxes.txt:2: 'cats/taby_2.png 0 0 1 1' names no image" in words
    assert "did you mean cats/tabby_2.png?; 2 of 3 lines name none and are left out" in words
    assert [data[index].boxes is None for index in range(3)] == [False, True, True]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("val/a/x/1.png", "a/x/1.png"),  # a folder too many
        ("1.png", "a/x/1.png"),  # one too few
        ("a/x/1.jpg", "a/x/1.png"),
        ("albatros/IMG_1234.png", "albatross/img_1234.png"),
        ("elsewhere/nothing.png", None),
        ("17", None),
        ("albatross/img_1235.png", None),  # a neighbor in a series is no slip of the pen
        ("albatross/img_01234.png", "albatross/img_1234.png"),
        ("albatross/1.png", None),
    ],
)
def test_the_nearest_name(name: str, meant: str | None) -> None:
    assert nearest(name, ["a/x/1.png", "albatross/img_1234.png", "albatross/img_9876.png", "16"]) == meant


def test_which_file_holds_the_boxes_of_a_split(tmp_path: Path) -> None:
    assert box_file(tmp_path, "validation", "val") is None
    (tmp_path / "val_boxes.txt").write_text("")
    assert box_file(tmp_path, "validation", "val") == tmp_path / "val_boxes.txt"
    (tmp_path / "validation_boxes.txt").write_text("")
    assert box_file(tmp_path, "validation", "val") == tmp_path / "validation_boxes.txt"


def test_no_boxes_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no boxes file"):
        ImageFolder(put(tmp_path, "a.png"), boxes=tmp_path / "none.txt")


def test_names_of_splits(tmp_path: Path) -> None:
    root = put(tmp_path, "training/a/1.png", "training/b/1.png", "test/a/1.png")
    assert SPLITS["val"][-1] == "test"
    assert ImageFolder(root, "train").folder == root / "training"
    assert ImageFolder(root, "val").folder == root / "test"
    with pytest.raises(ValueError, match="has the splits train and val, which are no classes"):
        ImageFolder(root)
    put(root, "valid/b/1.png")
    assert ImageFolder(root, "val").folder == root / "valid"


def test_digest_follows_names_and_content_not_times(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    first = ImageFolder(tmp_path).digest()
    os.utime(tmp_path / "a" / "1.png", (1, 1))
    assert ImageFolder(tmp_path).digest() == first
    assert ImageFolder(tmp_path, labels="none").digest() != first
    assert ImageFolder(tmp_path, classes=["b", "a"]).digest() != first
    path = tmp_path / "a" / "1.png"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))  # the same size
    assert ImageFolder(tmp_path).digest() != first
    path.write_bytes(before)
    assert ImageFolder(tmp_path).digest() == first
    path.write_bytes(before + b"x")
    assert ImageFolder(tmp_path).digest() != first
    assert len(first) == 16


def test_scanning_asks_for_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, *(f"{name}/{number}.png" for name in "abc" for number in range(20)))
    asked: list[str] = []

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(path: str, *arguments: object, **options: object) -> object:
            asked.append(str(path))
            return real(path, *arguments, **options)

        return call

    monkeypatch.setattr(os, "stat", counted(os.stat))
    monkeypatch.setattr("builtins.open", counted(open))
    data = ImageFolder(tmp_path)
    assert not [path for path in asked if path.endswith(".png")]
    data.digest()
    data.digest()
    assert len([path for path in asked if path.endswith(".png")]) == 60


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    put(tmp_path / "store", "x/1.png")
    root = put(tmp_path / "root", "a/0.png")
    (root / "b").symlink_to(tmp_path / "store" / "x")
    (root / "a" / "again").symlink_to(root / "a")
    assert scan(root) == {"a": ["a/0.png"], "b": ["b/1.png"]}


def test_odd_names(tmp_path: Path) -> None:
    put(tmp_path, "größe/ä ö.png", "日本/猫.png")
    data = ImageFolder(tmp_path)
    assert data.classes == ("größe", "日本")
    assert [data[index].label for index in range(2)] == [0, 1]


def test_it_travels_to_workers_cheaply(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    data = pickle.loads(pickle.dumps(ImageFolder(tmp_path)))
    assert names(data) == ["a/1.png", "b/2.png"]
    assert data[1].label == 1


def test_real_data(real_data: Callable[[str], Path]) -> None:
    root = real_data("cls-mini")
    train = ImageFolder(root, "train", boxes=root / "train_boxes.txt")
    val = ImageFolder(root, "val", classes=train.classes, boxes=root / "val_boxes.txt")
    assert (len(train), len(val)) == (12_500, 2_500)
    assert train.classes is not None
    assert len(train.classes) == 50
    assert set(train.counts().values()) == {250}
    boxes = [val[index].boxes for index in range(0, 2_500, 50)]
    for box in boxes:
        assert box is not None
        assert box.shape == (1, 4)
        assert (box >= 0).all()
        assert (box <= 64).all()
        assert (box[:, 2:] > box[:, :2]).all()
    assert max(box.max() for box in boxes if box is not None) == 64
    assert np.bincount(val.labels).tolist() == [50] * 50  # type: ignore[arg-type]
