"""Several labels an image: the table beside the images, the classes of boxes, and what a batch holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vitrail.contracts import ImageSet, Sample
from vitrail.data import Loader, MultiLabelFolder, ObjectLabels, UnreadableImage, is_multi_label, ordered_batches
from vitrail.recipes.sources import DataConfig, open_splits

ROWS = ("a/1.png,dog;person", "a/2.png,cat", '"b, c.png",person ; dog', "4.png,-")


def write(folder: Path, rows: tuple[str, ...] = ROWS, header: str = "image,labels") -> Path:
    """The table, and an image for each name in it."""
    for name in ("a/1.png", "a/2.png", "b, c.png", "4.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3), len(str(name)), np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "labels.csv").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return folder


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)


def test_a_table_beside_the_images(tmp_path: Path) -> None:
    data = MultiLabelFolder(write(tmp_path))
    assert isinstance(data, ImageSet)
    assert is_multi_label(data)
    assert data.classes == ("cat", "dog", "person")
    assert [data[index].labels for index in range(4)] == [(1, 2), (0,), (1, 2), ()]
    assert all(data[index].label is None for index in range(4))
    assert data.path(2) == str(tmp_path / "b, c.png")
    assert data.counts() == {"cat": 1, "dog": 2, "person": 2}
    assert data[-1].path == str(tmp_path / "4.png")


def test_splits_share_the_classes_of_the_training_images(tmp_path: Path) -> None:
    write(tmp_path / "train")
    write(tmp_path / "validation", ("a/1.png,person",))
    train = MultiLabelFolder(tmp_path, "train")
    with pytest.warns(UserWarning, match=r"3 images below .* are not in labels.csv: left out"):
        val = MultiLabelFolder(tmp_path, "val", classes=train.classes)
    assert val[0].labels == (2,)
    with pytest.warns(UserWarning, match="left out"):
        splits = open_splits(DataConfig(root=str(tmp_path)))
    assert (len(splits.train), len(splits.val), splits.val.classes) == (4, 1, ("cat", "dog", "person"))
    write(tmp_path / "validation", ("a/1.png,person;emu",))
    with pytest.raises(ValueError, match=r"1 classes that the training set \(3 classes\) lacks: emu"):
        MultiLabelFolder(tmp_path, "val", classes=train.classes)


def test_without_a_val_folder_some_images_are_held_out(tmp_path: Path) -> None:
    splits = open_splits(DataConfig(root=str(write(tmp_path)), held_out=0.25))
    assert (len(splits.train), len(splits.val)) == (3, 1)
    assert is_multi_label(splits.train)
    assert is_multi_label(splits.val)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (("a/1.png,",), r"labels.csv:2: a/1.png has an empty label in ''.*write - where"),
        (("a/1.png,dog;;cat",), r"empty label in 'dog;;cat'"),
        (("a/1.png,dog;-",), r"has -, no label, beside others"),
        (("a/1.png,dog,cat",), r":2: expected `image,labels`, got 'a/1.png,dog,cat'"),
        (("a/1.png",), r":2: expected `image,labels`"),
        ((",dog",), r":2: expected `image,labels`"),
        (("4.png,dog", "", "4.png,cat"), r":4: 4.png is named a second time"),
        (("x/9.png,dog", "4.png,cat"), r"1 of 2 images that .* not below .*: x/9.png; names are paths from that"),
        ((), "names no images"),
        (("4.png,-",), "none of its 1 images a label"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, rows: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MultiLabelFolder(write(tmp_path, rows))


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        MultiLabelFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no labels.csv; write one"):
        MultiLabelFolder(tmp_path)
    with pytest.raises(ValueError, match="no folder for the split 'train'"):
        MultiLabelFolder(tmp_path, "train")
    with pytest.raises(ValueError, match=r"begins with 'file,tags'; its first line is `image,labels`"):
        MultiLabelFolder(write(tmp_path, header="file,tags"))


def test_a_byte_order_mark_and_windows_paths_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "labels.csv").write_bytes("\ufeffimage,labels\r\na\\1.png,dog\r\n".encode())
    with pytest.warns(UserWarning, match="left out"):
        data = MultiLabelFolder(tmp_path)
    assert data.path(0) == str(tmp_path / "a/1.png")


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    data = MultiLabelFolder(write(tmp_path))
    (tmp_path / "4.png").write_bytes(b"")
    with pytest.raises(UnreadableImage, match=r"4\.png"):
        data[3]


def test_the_digest_tells_labels_and_files(tmp_path: Path) -> None:
    same = [MultiLabelFolder(write(tmp_path / name)).digest() for name in ("one", "two")]
    assert same[0] == same[1]
    other = MultiLabelFolder(write(tmp_path / "one", (*ROWS[:3], "4.png,cat"))).digest()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "two" / "4.png")
    assert len({same[0], other, MultiLabelFolder(tmp_path / "two").digest()}) == 3


def test_a_batch_holds_a_row_of_zeros_and_ones_an_image(tmp_path: Path) -> None:
    data = MultiLabelFolder(write(tmp_path))
    (batch,) = ordered_batches(data, pixels, 4)
    assert batch.labels is not None
    assert batch.labels.tolist() == [[0, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert batch.labels.dtype == torch.float32
    for workers in (0, 2):
        loader = Loader(data, pixels, global_batch_size=2, seed=0, workers=workers)
        (drawn,) = next(iter(loader.batches(0, 1)))
        assert drawn.labels is not None
        assert torch.equal(drawn.labels, batch.labels[drawn.indices])


class Listed:
    """A set of given samples."""

    classes = ("a", "b", "c")

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def digest(self) -> str:
        return "listed"


IMAGE = Image.new("RGB", (4, 4))


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([Sample(IMAGE, 1), Sample(IMAGE, labels=(1,))], r"images \[0, 1\] some have one label and some a tuple"),
        ([Sample(IMAGE, labels=(1,)), Sample(IMAGE)], r"images \[1\] have no label"),
        (
            [Sample(IMAGE, labels=(0,)), Sample(IMAGE, labels=(0, 3))],
            r"image 1 has labels \(0, 3\).* 3 classes, 0 to 2",
        ),
    ],
)
def test_labels_that_do_not_belong_together(samples: list[Sample], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(ordered_batches(Listed(samples), pixels, 2))


def test_boxes_say_what_an_image_shows() -> None:
    boxes = np.zeros((3, 4))
    samples = [
        Sample(IMAGE, boxes=boxes, box_labels=np.array([3, 1, 3])),
        Sample(IMAGE, boxes=boxes[:0], box_labels=np.zeros(0, np.int64)),
    ]
    data = ObjectLabels(Listed(samples))
    assert isinstance(data, ImageSet)
    assert is_multi_label(data)
    assert [data[0].labels, data[1].labels] == [(0, 2), ()]
    (batch,) = ordered_batches(data, pixels, 2)
    assert batch.labels is not None
    assert batch.labels.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert data.digest() != "listed"
    with pytest.raises(ValueError, match="nothing says what the boxes of image 0 hold"):
        ObjectLabels(Listed([Sample(IMAGE, boxes=boxes)]))[0]


def test_boxes_without_class_names_are_refused() -> None:
    nameless = Listed([])
    nameless.classes = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="Listed has no class names"):
        ObjectLabels(nameless)
