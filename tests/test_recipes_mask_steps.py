"""How the masks of a run came about, by its folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from object_scenes import squares
from tiny_vit import tiny_vit

from vitrail.backbones import load, save_exported
from vitrail.data.object_masks import ObjectMasksConfig
from vitrail.recipes.mask_steps import made_by, mask_steps
from vitrail.recipes.object_masks import make_object_masks

SETTINGS = {"heads": [0, 2], "size": 32, "high": 0.5, "low": 0.2}


def run(folder: Path, **values: Any) -> Path:
    """A run folder with weights that has learned from masks."""
    (folder / "exported").mkdir(parents=True)
    save_exported(tiny_vit().export(), folder / "exported" / "backbone.safetensors")
    config = {"kind": "locloc", "mask_settings": SETTINGS, "object_masks": None, "masks_from": None} | values
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_settings_of_the_run(tmp_path: Path) -> None:
    found = made_by(str(run(tmp_path / "a")))
    assert found is not None
    assert (found.weights, found.digest) == (str(tmp_path / "a"), None)
    assert found.config == ObjectMasksConfig(heads=(0, 2), size=32, high=0.5, low=0.2)
    other = made_by(str(run(tmp_path / "b", masks_from="dino.pth") / "exported" / "backbone.safetensors"))
    assert other is not None
    assert other.weights == "dino.pth"


def test_settings_of_the_masks_count_where_they_are_there(tmp_path: Path) -> None:
    folder = run(tmp_path / "a")
    backbone = load(weights=str(folder))
    make_object_masks(
        backbone, squares(2), folder / "object_masks", ObjectMasksConfig(heads=(1,), size=24), processes=1, device="cpu"
    )
    found = made_by(str(folder))
    assert found is not None
    assert (found.config.heads, found.config.size) == ((1,), 24)
    steps = mask_steps(str(folder), squares(6), 2, device="cpu")
    assert steps is not None
    assert steps.caption.startswith("Attention of heads 1; from 0.1 on surely the object, below 0.03 surely background")
    assert "other weights" not in steps.caption
    about = folder / "object_masks" / "object_masks.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"weights": "0" * 16}))
    steps = mask_steps(str(folder), squares(6), 2, device="cpu")
    assert steps is not None
    assert f"are of other weights than {folder}" in steps.caption


def test_a_row_for_each_class(tmp_path: Path) -> None:
    folder = str(run(tmp_path / "a"))
    one, three = mask_steps(folder, squares(6), 1, device="cpu"), mask_steps(folder, squares(6), 9, device="cpu")
    assert one is not None
    assert three is not None
    assert three.picture.height > 2.5 * one.picture.height
    assert mask_steps(folder, squares(6), 0, device="cpu") is None


def test_weights_without_masks(tmp_path: Path) -> None:
    folder = run(tmp_path / "a")
    weights = tmp_path / "vit.safetensors"
    save_exported(tiny_vit().export(), weights)
    assert made_by(str(weights)) is None
    (folder / "config.yaml").write_text("kind: dino\n")
    assert made_by(str(folder)) is None
    assert mask_steps(str(folder), squares(2), device="cpu") is None


def test_what_cannot_be_drawn_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = str(run(tmp_path / "a", masks_from=str(tmp_path / "gone.pth")))
    with caplog.at_level(logging.WARNING, "vitrail"):
        assert mask_steps(folder, squares(2), device="cpu") is None
    assert f"the masks that {folder} learned from are not drawn" in caplog.text
    assert "gone.pth" in caplog.text
