"""Flowers-102, Pets, Stanford Cars and DomainNet: as torchvision and the lists have them, and told when broken."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_trees import annotations, cars_tree, domain_tree, flowers_tree, pets_tree, save_mat

from vitrail.contracts import ImageSet
from vitrail.data.cars import open_cars
from vitrail.data.domainnet import is_domain, open_domain
from vitrail.data.flowers import open_flowers
from vitrail.data.images import UnreadableImage
from vitrail.data.inspect import inspect_folder
from vitrail.data.listed import ListedImages
from vitrail.data.pets import open_pets
from vitrail.data.published_sets import download, listed_layout
from vitrail.recipes.run import resolve
from vitrail.recipes.sources import DataConfig, open_data, open_splits
from vitrail.recipes.start import check_data

Opening = Callable[..., ListedImages]
TREES: list[tuple[str, Callable[[Path], Path], Opening, list[int], list[int], tuple[str, ...]]] = [
    ("Flowers-102", flowers_tree, open_flowers, [0, 0, 1, 1], [2, 1, 2], ("1", "2", "3")),
    ("Oxford-IIIT Pets", pets_tree, open_pets, [0, 0, 1, 1], [0, 1], ("Abyssinian", "American Bulldog")),
    (
        "Stanford Cars",
        cars_tree,
        open_cars,
        [0, 1, 0, 1],
        [0, 1],
        ("AM General Hummer SUV 2000", "Acura RL Sedan 2012"),
    ),
    ("DomainNet", domain_tree, open_domain, [0, 0, 1, 1], [0, 1, 2], ("aircraft carrier", "zebra", "t-shirt")),
]


@pytest.mark.parametrize(
    ("name", "tree", "opening", "train", "val", "classes"), TREES, ids=lambda value: str(value)[:8]
)
def test_splits_labels_and_recognition(
    name: str,
    tree: Callable[[Path], Path],
    opening: Opening,
    train: list[int],
    val: list[int],
    classes: tuple[str, ...],
    tmp_path: Path,
) -> None:
    place = tree(tmp_path)
    for root in (place, tmp_path):
        found = listed_layout(root)
        assert found is not None
        assert found.name == name
        splits = open_splits(DataConfig(root=str(root)))
        assert isinstance(splits.train, ImageSet)
        assert [splits.train[index].label for index in range(len(splits.train))] == train
        assert [splits.val[index].label for index in range(len(splits.val))] == val
        assert splits.train.classes == splits.val.classes == classes
    data, held = opening(place, "train"), opening(place, "test")
    assert held.digest() == opening(place, "val").digest() == splits.val.digest() != data.digest()
    assert pickle.loads(pickle.dumps(data)).digest() == data.digest()
    assert data[-1].label == train[-1]
    assert data[0].path == data.path(0)
    assert data.path(0).endswith(data.relative_path(0))
    assert data[0].image.size == (20, 20)
    assert open_data(str(place)).val.digest() == held.digest()
    with pytest.raises(ValueError, match=r"no split 'dev'; .* has \"train\", and \"val\""):
        opening(place, "dev")
    with pytest.raises(IndexError):
        data[len(data)]
    levels = {(finding.level, finding.what.partition(" split ")[0]) for finding in inspect_folder(place)}
    assert ("ok", name) in levels
    Path(data.path(0)).unlink()
    with pytest.raises(UnreadableImage):
        data[0]
    assert opening(place, "train").digest() != data.digest()
    with pytest.raises(ValueError, match="has no"):
        opening(tmp_path / "elsewhere")


def test_torchvision_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets: Any = pytest.importorskip("torchvision.datasets")
    flowers_tree(tmp_path), pets_tree(tmp_path), cars_tree(tmp_path)
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)  # checksums of the whole files
    sets = {
        "train": (datasets.OxfordIIITPet(str(tmp_path), "trainval"), datasets.StanfordCars(str(tmp_path), "train")),
        "val": (datasets.OxfordIIITPet(str(tmp_path), "test"), datasets.StanfordCars(str(tmp_path), "test")),
    }
    for split, theirs in sets.items():
        for ours, other in zip((open_pets(tmp_path, split), open_cars(tmp_path, split)), theirs):
            assert list(ours.classes or ()) == other.classes
            _same(ours, [other[index] for index in range(len(other))])
    parts = {part: datasets.Flowers102(str(tmp_path), part) for part in ("train", "val", "test")}
    both = [parts[part][index] for part in ("train", "val") for index in range(len(parts[part]))]
    _same(open_flowers(tmp_path, "train"), both)
    _same(open_flowers(tmp_path, "val"), [parts["test"][index] for index in range(3)])


def _same(ours: ListedImages, theirs: list[tuple[Any, int]]) -> None:
    assert len(ours) == len(theirs)
    for sample, (image, label) in zip((ours[index] for index in range(len(ours))), theirs):
        assert sample.label == label
        assert np.array_equal(np.asarray(sample.image), np.asarray(image))


def test_lists_in_the_domain_and_several_domains(tmp_path: Path) -> None:
    place = domain_tree(tmp_path, "sketch", beside=False)
    assert open_domain(place).name == "DomainNet sketch"
    assert len(open_domain(place)) == 4
    assert not is_domain(tmp_path)
    for domain in ("clipart", "painting"):
        domain_tree(tmp_path, domain)
    with pytest.raises(ValueError, match=r"holds several domains; name one: .*clipart, .*painting"):
        open_splits(DataConfig(root=str(tmp_path)))
    assert open_domain(tmp_path / "painting").classes == ("aircraft carrier", "zebra", "t-shirt")
    lists = tmp_path / "clipart_test.txt"
    lists.write_text(lists.read_text().replace("zebra", "horse"))
    with pytest.raises(ValueError, match="label 1 of clipart is 'zebra' and 'horse'"):
        open_domain(tmp_path / "clipart")
    lists.write_text("clipart/zebra/1.jpg one\n")
    with pytest.raises(ValueError, match=r"clipart_test.txt:1: expected `<path> <label>`"):
        open_domain(tmp_path / "clipart")


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    place = flowers_tree(tmp_path)
    save_mat(place / "setid.mat", trnid=np.array([[1, 9]]), valid=np.array([[2]]), tstid=np.array([[3]]))
    with pytest.raises(ValueError, match="images 1 to 9 are asked for, and 8 have labels"):
        open_flowers(place)
    save_mat(place / "setid.mat", trnid=np.array([[1]]))
    with pytest.raises(ValueError, match=r"setid.mat has trnid, and not trnid and valid; download it again"):
        open_flowers(place)
    pets = pets_tree(tmp_path)
    (pets / "annotations" / "test.txt").write_text("Birman_1 1 1 1\n")
    with pytest.raises(ValueError, match="breed 1 is 'Abyssinian' and 'Birman'"):
        open_pets(pets)
    (pets / "annotations" / "test.txt").write_text("Birman_1 0 1 1\n")
    with pytest.raises(ValueError, match=r"test.txt:1: expected `<name> <breed, from 1>"):
        open_pets(pets)
    cars = cars_tree(tmp_path)
    save_mat(cars / "devkit" / "cars_train_annos.mat", annotations=annotations(["00001.jpg"], [3]))
    with pytest.raises(ValueError, match="labels run from 2 to 2, and there are 2 classes"):
        open_cars(cars)
    (cars / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(ValueError, match=r"no cars_test_annos_withlabels.mat; Stanford Cars are devkit/cars_meta.mat"):
        open_cars(cars, "val")
    shutil.rmtree(pets / "images")
    assert listed_layout(pets) is None


def test_a_download_without_a_network_says_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets: Any = pytest.importorskip("torchvision.datasets")
    asked = []

    def no_network(root: str, download: bool = False) -> None:
        asked.append((root, download))
        (Path(root) / "flowers-102" / "jpg").mkdir(parents=True, exist_ok=True)
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "Flowers102", no_network)
    no_network.__name__ = "Flowers102"
    root = tmp_path / "new" / "flowers-102"
    words = (
        r"could not be downloaded by torchvision.datasets.Flowers102 \(OSError: no route to host\)\. Without a network"
        rf": get its archives elsewhere and unpack them to {root}, so that it holds imagelabels.mat, setid.mat, jpg"
    )
    with pytest.raises(ValueError, match=words):
        check_data(DataConfig(root=str(root), download=True), 224)
    assert asked == [(str(tmp_path / "new"), True)]
    assert not list(tmp_path.iterdir())  # neither folders nor the lock
    with pytest.raises(ValueError, match=r"there is no folder.*fetches flowers-102 there with data.download=true"):
        open_splits(DataConfig(root=str(root)))
    root.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has no images .*fetches flowers-102 there with data.download=true"):
        open_splits(DataConfig(root=str(root)))
    with pytest.raises(ValueError, match=words):
        check_data(DataConfig(root=str(root), download=True), 224)
    assert sorted(root.parent.iterdir()) == [root]  # which was there before; the lock was not
    with pytest.raises(ValueError, match=r"StanfordCars has is dead. Get the archives elsewhere.*cars_train_annos.mat"):
        download(tmp_path / "stanford_cars")
    with pytest.raises(
        ValueError, match=r"no set 'roses' to download to .*; known folders: flowers-102, oxford-iiit-pet"
    ):
        download(tmp_path / "roses")


def test_what_is_there_is_not_fetched_again(tmp_path: Path, real_data: Callable[[str], Path]) -> None:
    place = pets_tree(tmp_path)
    assert download(place) == place
    config = DataConfig(root=str(place), download=True)
    assert len(open_splits(config).train) == 4
    cifar = real_data("cifar10-mini")
    assert download(cifar) == cifar


def test_fine_tuning_takes_them(tmp_path: Path) -> None:
    recipe: Any = resolve("finetune").override([f"data.root={pets_tree(tmp_path)}", "data.download=true"])
    assert open_splits(recipe.data).train.classes == ("Abyssinian", "American Bulldog")
