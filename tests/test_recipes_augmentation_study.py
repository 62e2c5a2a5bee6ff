"""The tables of the study of augmentations: which cells there are, and what is switched off in each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitrail.config import ConfigError
from vitrail.recipes.augmentation_study import METHODS, ROWS, TABLE_I, augmentation

SCENES = "scenes=true"


def mini(folder: Path, classes: int = 10) -> str:
    folder.mkdir()
    images, labels = np.zeros((classes, 32, 32, 3), np.uint8), np.arange(classes)
    np.savez(folder / "x.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return str(folder)


def test_the_whole_table_on_both_sets(tmp_path: Path) -> None:
    table = augmentation([f"cifar10={mini(tmp_path / 'a')}", f"cifar100={mini(tmp_path / 'b', 100)}"])
    assert (len(table.rows), len(table.columns), len(table.cells)) == (13, 8, 104)
    assert len({cell.folder for cell in table.cells}) == 104
    by_place = {(cell.row, cell.column): cell for cell in table.cells}
    first = by_place["own crops, blur, gray, colors, flip", "CIFAR-10 SimCLR"]
    assert (first.published, first.recipe, first.number) == (89.8, "cifar_simclr", "knn200_top1")
    assert by_place["one crop for both, blur, gray, colors", "CIFAR-100 SimSiam"].published == 5.4
    assert by_place["no crop, blur", "CIFAR-100 Barlow Twins"].published == 10.0
    assert by_place["no crop, blur, gray, colors", "CIFAR-10 MoCo"].published == 53.6
    config: Any = by_place["own crops", "CIFAR-10 MoCo"].config()
    assert (config.method.kind, config.train.learning_rate, config.train.epochs) == ("moco", 0.08, 800)
    assert (config.views.blur, config.views.grayscale, config.views.jitter, config.views.flip) == (0, 0, 0, 0)
    assert config.data.root == str(tmp_path / "a")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_is_what_its_name_says_and_can_be_trained(row: Any) -> None:
    table = augmentation([SCENES, f"rows={row.name}", "methods=simclr"])
    views: Any = table.cells[0].config().views  # type: ignore[attr-defined]
    crop, _, letters = row.name.partition("-")
    assert views.crop == {"crop": "independent", "whole": "none", "shared": "shared"}[crop]
    on = {"b": views.blur, "g": views.grayscale, "j": views.jitter, "f": views.flip}
    assert {letter for letter, chance in on.items() if chance} == set(letters)
    assert views.differ()
    assert table.rows == (row.words,)


def test_the_numbers_agree_with_what_the_paper_says_of_them() -> None:
    """Without random crops everything falls, in Table I row by row; shared crops and none are alike."""
    published = {row.name: np.array(row.published) for row in ROWS}
    assert all(len(values) == 2 * len(METHODS) for values in published.values())
    for letters in ("bgj", "bg", "b"):
        assert (published[f"crop-{letters}"] > published[f"whole-{letters}"]).all()
        assert (published[f"crop-{letters}"] > published[f"shared-{letters}"]).all()
    for fewer, more in (("crop", "crop-b"), ("crop-b", "crop-bg"), ("crop-bg", "crop-bgj"), ("crop-bgj", "crop-bgjf")):
        assert (published[fewer] <= published[more]).all()
    assert published["crop-bgj"].tolist() == [88.5, 85.4, 89.7, 89.3, 55.4, 55.2, 62.5, 60.3]  # Table I, row 1


def test_table_one_methods_repeats_and_settings_of_the_recipes() -> None:
    table = augmentation([SCENES, "table=I", "methods=moco,simclr", "repeats=3", "train.epochs=2"])
    assert len(table.rows) == len(TABLE_I) == 6
    assert table.columns == ("scenes MoCo", "scenes SimCLR")
    assert len(table.cells) == 6 * 2 * 3
    assert {cell.published for cell in table.cells} == {None}
    assert {cell.config().train.epochs for cell in table.cells} == {2}  # type: ignore[attr-defined]
    assert table.cells[2].config().train.seed == 2  # type: ignore[attr-defined]
    assert any("train.epochs=2" in note for note in table.notes)


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing to train on: give cifar10=FOLDER.*download_cifar"):
        augmentation([])
    with pytest.raises(ConfigError, match=r"no row 'crop-x'; known: crop-bgjf, crop-bgj"):
        augmentation([SCENES, "rows=crop-x"])
    with pytest.raises(ConfigError, match=r"views.blur=0: rows, data sets and repeats of the study set this"):
        augmentation([SCENES, "views.blur=0"])
    with pytest.raises(ConfigError, match="methods"):
        augmentation([SCENES, "methods=byol"])
    with pytest.raises(ValueError, match="there is no folder"):
        augmentation([f"cifar10={tmp_path / 'gone'}"])
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "meta").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cifar10=.* holds cifar100; give it as cifar100="):
        augmentation([f"cifar10={folder}"])
