"""ADE20K, in trees that the tests write."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.contracts import ImageSet, Sample
from vitrail.data import Ade20k, UnreadableImage
from vitrail.data.ade20k import is_ade20k
from vitrail.data.transforms import EvalTransform, EvalTransformConfig
from vitrail.evaluation.attention_jaccard import image_jaccard

IDS = np.array([[0, 1, 255], [256, 700, 1]])


def scenes(root: Path, mask: np.ndarray | None = None) -> Path:
    for name in ("images/validation", "annotations/validation"):
        (root / name).mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(root / "images/validation/ADE_val_1.jpg")
    values = np.array([[0, 1, 150], [2, 2, 1]], np.uint8) if mask is None else mask
    Image.fromarray(values).save(root / "annotations/validation/ADE_val_1.png")
    return root


def full(root: Path, count: int = 700, below: str = "images/ADE/validation/urban/street") -> Path:
    (root / below).mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(root / below / "ADE_val_1.jpg")
    pixels = np.stack([IDS // 256 * 10 + 3, IDS % 256, IDS * 0 + 9], -1).astype(np.uint8)  # R need not end in 0
    Image.fromarray(pixels).save(root / below / "ADE_val_1_seg.png")
    Image.fromarray(pixels).save(root / below / "ADE_val_1_parts_1.png")
    names = [f"name {number}" for number in range(1, count)] + ["sidewalk, pavement"]
    index = {"objectnames": names, "objectPresence": np.eye(2), "filename": ["ADE_val_1.jpg"]}
    (root / "index_ade20k.pkl").write_bytes(pickle.dumps(index))
    return root


@pytest.mark.parametrize("below", ["", "ADEChallengeData2016"])
def test_scene_parsing(tmp_path: Path, below: str) -> None:
    scenes(tmp_path / below)
    data = Ade20k(tmp_path)
    assert isinstance(data, ImageSet)
    assert (len(data), data.layout, data.stuff, data.has_boxes) == (1, "scenes", None, False)
    assert data.classes is not None
    assert data.classes[0] == "class 1"
    assert len(data.classes) == 150
    mask = data[0].mask
    assert mask is not None
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 1, 150], [2, 2, 1]]


@pytest.mark.parametrize("mark", ["\t", ","])
def test_names_and_stuff_of_the_table(tmp_path: Path, mark: str) -> None:
    scenes(tmp_path)
    rows = [["Idx", "Ratio", "Train", "Val", "Stuff", "Name"]]
    rows += [[str(n), "0.1", "9", "9", str(n % 2), f"thing {n};other"] for n in range(1, 151)]
    (tmp_path / "objectInfo150.csv").write_text("\n".join(mark.join(row) for row in rows))
    data = Ade20k(tmp_path)
    assert data.classes is not None
    assert data.classes[1] == "thing 2, other"
    assert data.stuff is not None
    assert len(data.stuff) == 75
    assert "thing 1, other" in data.stuff
    (tmp_path / "objectInfo150.csv").write_text("\n".join(mark.join(row) for row in rows[:-1]))
    with pytest.raises(ValueError, match="names 149 classes"):
        Ade20k(tmp_path)


@pytest.mark.parametrize("below", ["images/ADE/validation/urban/street", "images/validation/s/street"])
def test_full(tmp_path: Path, below: str) -> None:
    data = Ade20k(full(tmp_path, below=below))
    assert (len(data), data.layout) == (1, "full")
    mask = data[0].mask
    assert mask is not None
    assert mask.dtype == np.uint16
    assert (mask == IDS).all()
    assert data.classes is not None
    assert data.classes[699] == "sidewalk, pavement"


def test_wide_masks_move_with_the_image_and_keep_class_255() -> None:
    sample = Sample(Image.new("RGB", (3, 2)), mask=IDS.astype(np.uint16))
    _, mask, _ = EvalTransform(EvalTransformConfig(image_size=(4, 6), mode="squash")).with_targets(sample)
    assert mask is not None
    assert mask.dtype == torch.int32
    assert mask.tolist() == np.kron(IDS, np.ones((2, 2), int)).tolist()
    _, padded, _ = EvalTransform(EvalTransformConfig(mode="pad", multiple=4)).with_targets(sample)
    assert padded is not None
    assert (padded[2:] == 65535).all()
    assert image_jaccard(torch.ones(1, 4, 4, dtype=torch.bool), padded).flatten().tolist() == [2 / 6, *[1 / 6] * 3]


def test_an_index_that_runs_code_is_refused(tmp_path: Path) -> None:
    full(tmp_path)

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.unlink, (str(tmp_path),))

    (tmp_path / "index_ade20k.pkl").write_bytes(pickle.dumps({"objectnames": [Evil()]}))
    with pytest.raises(ValueError, match=r"it asks for .*, which is not data"):
        Ade20k(tmp_path)
    assert tmp_path.is_dir()


def test_a_full_set_needs_names(tmp_path: Path) -> None:
    full(tmp_path)
    (tmp_path / "index_ade20k.pkl").unlink()
    with pytest.raises(ValueError, match=r"names no classes: put index_ade20k\.pkl there"):
        Ade20k(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join(f"n{number}" for number in range(700)))
    assert Ade20k(tmp_path).classes == tuple(f"n{number}" for number in range(700))
    short = Ade20k(tmp_path, classes=["one", "two"])
    with pytest.raises(UnreadableImage, match="class id 700 beyond 2 classes"):
        short[0]


def test_damage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not have a layout of ADE20K"):
        Ade20k(tmp_path)
    assert not is_ade20k(tmp_path / "nowhere")
    data = Ade20k(scenes(tmp_path))
    with pytest.raises(ValueError, match="no images of the split 'train'"):
        Ade20k(tmp_path, "train")
    path = tmp_path / "annotations/validation/ADE_val_1.png"
    Image.fromarray(np.full((2, 3), 151, np.uint8)).save(path)
    with pytest.raises(UnreadableImage, match="class id 151 beyond 150"):
        data[0]
    Image.fromarray(np.zeros((3, 2), np.uint8)).save(path)
    with pytest.raises(UnreadableImage, match="mask of 2 x 3 for an image of 3 x 2"):
        data[0]
    path.unlink()
    with pytest.raises(ValueError, match=r"1 of 1 images .* have no mask: annotations.*ADE_val_1\.png"):
        Ade20k(tmp_path)


def test_digest_follows_the_mask(tmp_path: Path) -> None:
    before = Ade20k(scenes(tmp_path)).digest()
    assert Ade20k(tmp_path).digest() == before
    Image.fromarray(np.ones((2, 3), np.uint8)).save(tmp_path / "annotations/validation/ADE_val_1.png")
    assert Ade20k(tmp_path).digest() != before
