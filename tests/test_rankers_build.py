"""Rankers by name: what the catalog finds, and what does not open."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from processes import python

import vitrail.rankers
from vitrail import catalog
from vitrail.backbones import BackboneConfig, create, save_exported
from vitrail.rankers import open_ranker
from vitrail.rankers.center import Center
from vitrail.rankers.ltrp import LtrpRanker


def test_the_catalog_names_the_files_that_can_be_opened() -> None:
    entries = {entry.name: entry for entry in catalog.rankers()}
    assert {"center", "dino", "grad_cam", "moco", "random", "tome"} <= set(entries)
    assert not {"build", "source", "convnet", "vit"} & set(entries)
    folder = Path(vitrail.rankers.__file__).parent
    for name, entry in entries.items():
        assert "\ndef from_source(source: Source) -> " in (folder / f"{name}.py").read_text()
        assert entry.module == f"vitrail.rankers.{name}"
        assert 10 < len(entry.summary) < 100
        assert not entry.summary.endswith(".")


def test_opened_by_name() -> None:
    ranker = open_ranker("center", image_size=(32, 48), patch_size=8)
    assert isinstance(ranker, Center)
    assert (ranker.image_size, ranker.patch_size) == ((32, 48), (8, 8))
    assert not ranker.training


def test_the_catalog_says_what_opening_says(tmp_path: Path) -> None:
    """Which rankers need weights, and which variants each has, is read from the files without importing them."""
    for entry in catalog.rankers():
        if entry.weights:
            with pytest.raises(ValueError, match=re.escape(f"{entry.name} needs weights: give {entry.weights};")):
                open_ranker(entry.name)
        else:
            open_ranker(entry.name)
        known = f"known: {', '.join(entry.variants)}" if entry.variants else "has no variants"
        with pytest.raises(ValueError, match=re.escape(known)):
            open_ranker(entry.name, weights="pretrained" if entry.weights else None, variant="nonsense")
    needless = [entry.name for entry in catalog.rankers() if not entry.weights]
    assert needless == ["center", "random"]


def test_weights_of_another_ranker_are_told(tmp_path: Path) -> None:
    backbone = create(BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2))
    save_exported(LtrpRanker(backbone).export(), tmp_path / "ltrp.safetensors")
    save_exported(backbone.export(), tmp_path / "plain.safetensors")
    with pytest.warns(UserWarning, match=r"holds what the ranker ltrp reads.* say --ranker ltrp"):
        open_ranker("dino", str(tmp_path / "ltrp.safetensors"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_ranker("ltrp", str(tmp_path / "ltrp.safetensors"))
        open_ranker("dino", str(tmp_path / "plain.safetensors"))
        open_ranker("center", str(tmp_path / "ltrp.safetensors"))


def test_what_is_no_batch_of_images_is_told() -> None:
    ranker = open_ranker("center", image_size=32, patch_size=8)
    assert ranker(torch.zeros(2, 3, 32, 32)).shape == (2, 4, 4)
    with pytest.raises(ValueError, match=r"a list of 2, \[3, 32, 32\], \[3, 40, 32\]; a ranker scores one tensor"):
        ranker([torch.zeros(3, 32, 32), torch.zeros(3, 40, 32)])
    with pytest.raises(ValueError, match=r"\[2, 3, 32, 32\] of torch.uint8; a ranker scores floats"):
        ranker(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    for wrong in (torch.zeros(3, 32, 32), torch.zeros(2, 1, 32, 32), "photo.jpg"):
        with pytest.raises(ValueError, match=r"a ranker scores floats \[B, 3, H, W\]"):
            ranker(wrong)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="there is no ranker 'dyno'; did you mean 'dino'"):
        open_ranker("dyno")
    with pytest.raises(ValueError, match="there is no ranker 'source'"):
        open_ranker("source")
    with pytest.raises(AttributeError, match="has no attribute 'open'"):
        vitrail.rankers.open  # noqa: B018


def test_the_room_is_light() -> None:
    code = "import sys, vitrail.rankers; print('timm' in sys.modules or 'torch' in sys.modules)"
    done = python("-c", code)
    assert done.stdout.strip() == "False"
