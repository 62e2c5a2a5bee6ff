"""The examples run as they stand, and learn."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vitrail.backbones import load
from vitrail.contracts import Batch, Method, Step
from vitrail.data import SyntheticScenes

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def own_method() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_method", EXAMPLES / "own_method.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_method"] = module
    spec.loader.exec_module(module)
    return module


def test_a_method_of_one_s_own_trains_and_exports(own_method: ModuleType, tmp_path: Path) -> None:
    found = own_method.main(tmp_path / "run", scenes=384, epochs=8)
    exported = load(None, str(tmp_path / "run" / "exported" / "backbone.safetensors"))
    torch.manual_seed(0)
    untrained = own_method.Handfuls(own_method.create(exported.config))
    assert isinstance(untrained, Method)
    images, _, _ = SyntheticScenes(64, image_size=48, split="val").arrays(0, 64)
    batch = Batch(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1, None, torch.arange(64))
    with torch.no_grad():
        before = untrained.training_step(batch, Step(0, 1)).parts["found"].item()
    assert found > before + 10, (found, before)
    assert found > 50
