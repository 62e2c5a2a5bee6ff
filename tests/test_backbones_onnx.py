"""ONNX files: the same numbers in onnxruntime, a fixed or a free batch, sizes baked in."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch

from vitrail.backbones import BackboneConfig, create
from vitrail.backbones.onnx import export_onnx
from vitrail.nn.object_filter import ObjectFilterConfig

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

TINY = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "heads": 3}


def run(path: Path, images: torch.Tensor) -> list[Any]:
    return onnxruntime.InferenceSession(str(path)).run(["cls", "patches"], {"images": images.numpy()})


def test_a_free_batch_and_another_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    asked = ObjectFilterConfig(prototypes=5, class_token=True)
    backbone = create(BackboneConfig(**TINY, surgery="F", object_filter=asked, options={"reg_tokens": 2}))
    for value in backbone.parameters():
        value.data.add_(torch.randn_like(value) * 0.1)  # a fresh filter would do nothing
    difference = export_onnx(backbone, tmp_path / "x.onnx", image_size=(24, 48), batch="dynamic")
    assert difference is not None
    assert difference < 1e-5
    assert backbone.training
    assert backbone.image_size == (32, 32)
    for count in (1, 5):
        images = torch.randn(count, 3, 24, 48)
        with torch.no_grad():
            tokens = backbone.eval()(images)
        for expected, found in zip((tokens.cls, tokens.patches), run(tmp_path / "x.onnx", images)):
            torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)
    assert [each.name for each in tmp_path.iterdir()] == ["x.onnx"]


def test_a_fixed_batch(tmp_path: Path) -> None:
    backbone = create(BackboneConfig(**TINY))
    export_onnx(backbone, tmp_path / "x.onnx", batch=3)
    assert run(tmp_path / "x.onnx", torch.randn(3, 3, 32, 32))[1].shape == (3, 16, 24)
    with pytest.raises(Exception, match=r"(?i)invalid|dimension"):
        run(tmp_path / "x.onnx", torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("name", ["t2t_vit_7", "t2t_vit_t_14"])
def test_tokens_to_token(name: str, tmp_path: Path) -> None:
    sizes = {"image_size": 32, "embed_dim": 24, "depth": 1, "heads": 3, "options": {"token_dim": 8}}
    backbone = create(BackboneConfig(name=name, **sizes)).eval()
    difference = export_onnx(backbone, tmp_path / "x.onnx", image_size=(32, 48), batch="dynamic")
    assert difference is not None
    assert difference < 1e-5
    images = torch.randn(3, 3, 32, 48)
    with torch.no_grad():
        expected = backbone(images).patches
    torch.testing.assert_close(torch.from_numpy(run(tmp_path / "x.onnx", images)[1]), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"batch": 0}, "batch 0"), ({"batch": "many"}, "'many'"), ({"image_size": 33}, "33 is not a multiple")],
)
def test_errors(asked: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        export_onnx(create(BackboneConfig(**TINY)), tmp_path / "x.onnx", **asked)


def test_a_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxscript":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"onnxscript.*pip install 'vitrail\[onnx\]'"):
        export_onnx(create(BackboneConfig(**TINY)), tmp_path / "x.onnx")
