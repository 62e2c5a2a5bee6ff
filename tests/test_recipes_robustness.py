"""The protocol by its name, on weights and folders by theirs, and pictures of image files."""

from __future__ import annotations

from pathlib import Path

import pytest
from corrupted_trees import WNIDS, imagenet_c, wnid_folder
from photos import photo
from PIL import Image
from typer.testing import CliRunner

from vitrail.backbones import BackboneConfig, create, save_exported
from vitrail.cli import app
from vitrail.contracts import Exported
from vitrail.data import ImageFolder
from vitrail.data.imagenet_c import ImageNetC
from vitrail.evaluation.result import Report
from vitrail.recipes.measure import measure
from vitrail.recipes.sources import DataConfig, Part, open_data, open_whole, tree_of
from vitrail.recipes.tell import corruption_table, told

runner = CliRunner()
SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three classes that nothing was taught."""
    import torch

    exported = create(BackboneConfig(**SIZES)).export()
    head = {"head.weight": torch.randn(3, 24), "head.bias": torch.zeros(3)}
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_exported(Exported(dict(exported.state) | head, dict(exported.metadata) | {"classes": list(WNIDS)}), path)
    return path


def photos(root: Path) -> Path:
    for number in range(12):
        folder = root / "val" / WNIDS[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(40, 48, number)).save(folder / f"{number}.png")
        (root / "train" / WNIDS[number % 3]).mkdir(parents=True, exist_ok=True)
    for name in WNIDS:
        Image.fromarray(photo(40, 40)).save(root / "train" / name / "0.png")
    return root


def test_a_folder_is_measured_and_drawn(weights: Path, tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    report, path = measure("robustness", str(weights), str(root), ["severities=1,5"], out=tmp_path / "one.json")
    assert report.card["resolution"] == [32, 32]
    assert report.details["mode"] == "generated"
    assert report.details["images"] == 12
    assert Report.load(path).numbers == report.numbers
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size == (960, 420)
    again, _ = measure(
        "robustness",
        str(weights),
        str(root),
        ["severities=1,5", f"baseline={path}", "workers=1"],
        out=tmp_path / "b.json",
    )
    assert again.details["rows"][0]["errors"] == report.details["rows"][0]["errors"]
    assert again.numbers["mce"] == pytest.approx(100)
    words = "\n".join(told(again))
    assert "gaussian_noise" in words
    assert "mce_unnormalized" in words
    assert [line.split()[0] for line in told(again)[:3]] == ["top-1", "gaussian_noise", "shot_noise"]


def test_trees_are_told_apart(weights: Path, tmp_path: Path) -> None:
    tree = imagenet_c(tmp_path / "c")
    assert tree_of(tree) == "ImageNet-C"
    report, _ = measure("robustness", str(weights), str(tree), [], out=tmp_path / "c.json")
    assert report.card["preset"] == "imagenet_c"
    assert isinstance(open_whole(str(tree)).val, ImageNetC)
    with pytest.raises(ValueError, match=r"tree of ImageNet-C.*evaluate robustness.*gaussian_noise/1"):
        open_data(str(tree))
    one = open_data(str(tree / "fog" / "3"), settings=["held_out=0.4"])  # a folder of it is a folder like others
    assert len(one.train) + len(one.val) == 3


def test_a_test_set_of_wordnet_ids_is_taken_whole(tmp_path: Path) -> None:
    root = wnid_folder(tmp_path / "imagenet-a")
    whole = open_whole(str(root)).val
    assert isinstance(whole, ImageFolder)
    assert len(whole) == 6
    own = open_whole(str(root), DataConfig(root=str(root), held_out=0.5)).val
    assert isinstance(own, Part)
    assert len(own) == 3
    for name in WNIDS:
        (root / name).rename(root / name.replace("n0", "class "))
    assert isinstance(open_whole(str(root), settings=["held_out=0.5"]).val, Part)


def test_a_thousand_outputs_on_some_classes(tmp_path: Path) -> None:
    import torch

    exported = create(BackboneConfig(**SIZES)).export()
    head = {"head.weight": torch.zeros(1000, 24), "head.bias": torch.arange(1000.0)}
    path = tmp_path / "thousand.safetensors"
    save_exported(Exported(dict(exported.state) | head, exported.metadata), path)
    report, _ = measure("robustness", str(path), str(wnid_folder(tmp_path / "a")), [], out=tmp_path / "a.json")
    assert report.card["preset"] == "imagenet_a"
    assert report.numbers["top1"] == pytest.approx(100 / 3)  # of the three, the last output is the largest
    report, _ = measure("accuracy", str(path), str(tmp_path / "a"), [], out=tmp_path / "accuracy.json")
    assert report.card["data"]["val"]["images"] == 6  # all of them, none held out
    assert report.numbers["top1"] == 0  # of a thousand outputs the last one is the largest
    assert {each["predicted"] for each in report.details["confused"]} == {"n15075141"}
    with pytest.raises(ValueError, match=r"is a tree of ImageNet-C; measure with `vitrail evaluate robustness`"):
        measure("accuracy", str(path), str(imagenet_c(tmp_path / "c")), [])
    (tmp_path / "a" / WNIDS[0]).rename(tmp_path / "a" / "tench")
    with pytest.raises(ValueError, match=r"1,000 outputs without names and the data 3 classes .*WordNet ids such as"):
        measure("accuracy", str(path), str(tmp_path / "a"), ["data.held_out=0.5"])


def test_tables() -> None:
    rows = [
        {"corruption": "fog", "errors": {"1": 10.0, "3": 30.25}, "error": 20.125, "ce": 50.0},
        {"corruption": "snow", "errors": {"3": 99.0}, "error": None},
    ]
    lines = [line.split() for line in corruption_table(rows)]
    assert lines == [
        ["top-1", "error", "1", "3", "mean", "ce"],
        ["fog", "10.0", "30.2", "20.1", "50.0"],
        ["snow", "99.0"],
    ]


def test_show_corruptions_needs_no_weights(tmp_path: Path) -> None:
    Image.fromarray(photo(50, 70)).save(tmp_path / "cat.png")
    arguments = ["show", "corruptions", str(tmp_path / "cat.png"), "--size", "48", "--out", str(tmp_path / "drawn")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "cat-corruptions.png" in result.output
    with Image.open(tmp_path / "drawn" / "cat-corruptions.png") as picture:
        assert picture.width > 1000
    small = runner.invoke(app, [*arguments[:3], "--size", "16"])
    assert "--size 16 is too small for corruptions" in str(small.exception)
    absent = runner.invoke(app, ["show", "corruptions", str(tmp_path / "dog.png")])
    assert "none of 1 images can be read" in str(absent.exception)
