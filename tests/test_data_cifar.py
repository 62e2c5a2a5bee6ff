"""CIFAR as published, which is to say by Python 2, and as an npz."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from vitrail.contracts import ImageSet
from vitrail.data import Cifar, inspect_folder
from vitrail.data.cifar import download_cifar, find_cifar, is_cifar
from vitrail.recipes.sources import DataConfig, open_data, open_splits


class _Python2(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes text and bytes as Python 2 did, and NumPy's names as they were then."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def string(self, value: Any) -> None:
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = (getattr(obj, "__module__", None) or "numpy").replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or obj.__name__}\n".encode())

    dispatch[str] = dispatch[bytes] = string
    dispatch[type] = dispatch[type(len)] = save_global


def write(path: Path, content: Any) -> None:
    with path.open("wb") as file:
        _Python2(file, 2).dump(content)


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def planes(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)


def published(root: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A tree with 3 images a file; returns the training images and the test images."""
    if name == "cifar10":
        folder, label, parts = root / "cifar-10-batches-py", "labels", [f"data_batch_{n}" for n in range(1, 6)]
        test, meta = "test_batch", {"label_names": [f"class {n}" for n in range(10)], "num_vis": 3072}
        name_of_meta = "batches.meta"
    else:
        folder, label, parts, test = root / "cifar-100-python", "fine_labels", ["train"], "test"
        meta = {"fine_label_names": [f"fine {n}" for n in range(100)], "coarse_label_names": ["a", "b"]}
        name_of_meta = "meta"
    folder.mkdir(parents=True)
    write(folder / name_of_meta, meta)
    for number, part in enumerate([*parts, test]):
        content = {"data": planes(images(3, number)), label: [0, number, 2], "filenames": ["a.png"] * 3}
        write(folder / part, content | ({"coarse_labels": [1, 1, 0]} if name == "cifar100" else {}))
    return np.concatenate([images(3, number) for number in range(len(parts))]), images(3, len(parts))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_published_pickles(name: str, tmp_path: Path) -> None:
    train, test = published(tmp_path, name)
    raw = next(path for path in tmp_path.rglob("test*")).read_bytes()
    assert b"numpy.core.multiarray" in raw  # as Python 2 wrote it
    place, found = find_cifar(tmp_path)
    assert found == name
    for root in (tmp_path, place):
        data, held = Cifar(root, "train"), Cifar(root, "val")
        assert isinstance(data, ImageSet)
        assert np.array_equal(data.images, train)
        assert np.array_equal(held.images, test)
    assert len(data.classes) == (10 if name == "cifar10" else 100)
    assert data.name == name
    assert data.labels[:3].tolist() == [0, 0, 2]
    sample = held[1]
    assert np.array_equal(np.asarray(sample.image), test[1])
    assert sample.label == (5 if name == "cifar10" else 1)
    assert held[-1].label == 2
    with pytest.raises(IndexError, match="index 3 in a data set of 3"):
        held[3]
    assert data.digest() != held.digest() == Cifar(tmp_path, "val").digest()


def test_recipes_and_protocols_find_it(tmp_path: Path) -> None:
    published(tmp_path, "cifar10")
    train, val = open_splits(DataConfig(root=str(tmp_path)))
    assert (len(train), len(val)) == (15, 3)
    assert open_data(str(tmp_path)).val.digest() == val.digest()
    published(tmp_path, "cifar100")
    assert is_cifar(tmp_path)
    with pytest.raises(ValueError, match=r"several sets.*cifar-10-batches-py and .*cifar-100-python; name one"):
        open_splits(DataConfig(root=str(tmp_path)))
    assert not is_cifar(tmp_path / "nothing")


def npz(folder: Path, **changes: Any) -> Path:
    values: dict[str, Any] = {"x_train": images(6, 0), "y_train": np.array([0, 1, 2, 0, 1, 2])}
    values |= {"x_test": images(2, 1), "y_test": np.array([2, 0]), "classes": np.array(["cat", "dog", "owl"])}
    values = {name: value for name, value in (values | changes).items() if value is not None}
    folder.mkdir(exist_ok=True)
    np.savez(folder / "small.npz", **values)
    return folder


def test_an_npz(tmp_path: Path) -> None:
    data, held = (Cifar(npz(tmp_path), split) for split in ("train", "val"))
    assert np.array_equal(data.images, images(6, 0))
    assert data.classes == ("cat", "dog", "owl")
    assert [held[index].label for index in range(2)] == [2, 0]
    assert data.name == "small"
    assert Cifar(npz(tmp_path, classes=None)).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.zeros((6, 32, 32, 3))}, r"images are float64 \[6, 32, 32, 3\]; give uint8"),
        ({"x_train": images(5, 0)}, r"5 images have labels int64 \[6\]"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 3])}, "labels run from 0 to 3, and there are 3 classes"),
        ({"x_train": images(0, 0), "y_train": np.zeros(0, np.int64)}, "holds no images"),
        ({"y_train": np.array([object()] * 6)}, "cannot be read: Object arrays"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        Cifar(npz(tmp_path, **changes))


def test_another_npz_is_none(tmp_path: Path) -> None:
    assert not is_cifar(npz(tmp_path, y_test=None))
    (tmp_path / "small.npz").write_bytes(b"PK")
    assert not is_cifar(tmp_path)
    with pytest.raises(
        ValueError, match=r"holds no CIFAR: neither cifar-10-batches-py nor cifar-100-python nor an npz"
    ):
        Cifar(tmp_path)
    with pytest.raises(ValueError, match="no split 'test'"):
        Cifar(tmp_path, "test")


class Shell:
    def __reduce__(self) -> object:
        return os.system, ("touch ran",)


def test_files_that_are_cut_short_or_could_run_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path, "cifar10")
    monkeypatch.chdir(tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    whole = batch.read_bytes()
    batch.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"data_batch_3 cannot be read as a file of CIFAR.*download it again"):
        Cifar(tmp_path)
    batch.write_bytes(pickle.dumps({"data": Shell()}))
    with pytest.raises(ValueError, match=r"data_batch_3.*which is not data"):
        Cifar(tmp_path)
    assert not (tmp_path / "ran").exists()
    write(batch, {"data": planes(images(3, 0))})
    with pytest.raises(ValueError, match="data_batch_3 has no 'labels'"):
        Cifar(tmp_path)
    write(batch, {"data": planes(images(3, 0))[:, :30], "labels": [0, 1, 2]})
    with pytest.raises(ValueError, match=r"data_batch_3 holds uint8 \[3, 30\]; CIFAR's images are uint8 \[N, 3072\]"):
        Cifar(tmp_path)
    batch.unlink()
    with pytest.raises(ValueError, match="data_batch_3 cannot be read"):
        Cifar(tmp_path)


def test_a_download_without_a_network_says_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")

    def offline(root: str, download: bool) -> None:
        raise OSError(f"no route to host, {root}, {download}")

    monkeypatch.setattr(datasets, "CIFAR10", offline)
    with pytest.raises(
        ValueError, match=r"cifar10 could not be downloaded.*no route to host.*unpack it to .*batches-py"
    ):
        download_cifar(tmp_path)
    with pytest.raises(ValueError, match="no set 'cifar20' to download; known: cifar10, cifar100"):
        download_cifar(tmp_path, "cifar20")  # type: ignore[arg-type]
    published(tmp_path, "cifar10")
    assert download_cifar(tmp_path) == tmp_path / "cifar-10-batches-py"  # what is there is not fetched


def test_doctor_knows_it(tmp_path: Path) -> None:
    published(tmp_path, "cifar10")
    found = inspect_folder(tmp_path, patch_size=4, image_size=32)
    assert next(each.what for each in found if each.level == "ok") == "cifar10, train: 15 images in 10 classes"
    assert not [each for each in found if each.level == "error"]
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    (broken,) = [each for each in inspect_folder(tmp_path, patch_size=4, image_size=32) if each.level == "error"]
    assert "test_batch cannot be read" in broken.what


def test_the_mini_set(real_data: Callable[[str], Path]) -> None:
    train, val = open_splits(DataConfig(root=str(real_data("cifar10-mini"))))
    assert (len(train), len(val)) == (9000, 2000)
    assert train.classes == val.classes
    assert train.classes is not None
    assert train.classes[:3] == ("airplane", "automobile", "bird")
    assert train[0].image.size == (32, 32)
