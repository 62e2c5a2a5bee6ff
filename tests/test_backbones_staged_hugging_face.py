"""PVT and CvT equal Hugging Face's on the same random weights, read from a file in Hugging Face's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_staged import SIZES, config, images, moved
from torch import Tensor, nn
from torch.nn import functional

from vitrail.backbones import AnyBackbone, load, load_classifier

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def hugging_face() -> Any:
    try:
        import transformers
    except ImportError:
        pytest.skip("TRANSFORMERS ABSENT: Hugging Face's networks are not there to be compared with")
    return transformers


def their_pvt(side: int = 64) -> Any:
    library, sizes = hugging_face(), SIZES["pvt_small"]
    how = {"hidden_sizes": sizes["embed_dims"], "depths": sizes["depths"], "num_attention_heads": sizes["heads"]}
    torch.manual_seed(0)
    model = library.PvtForImageClassification(library.PvtConfig(image_size=side, num_labels=5, **how)).eval()
    moved(model)
    return model


def their_cvt() -> Any:
    library, sizes = hugging_face(), SIZES["cvt_13"]
    how = {"embed_dim": sizes["embed_dims"], "depth": sizes["depths"], "num_heads": sizes["heads"]}
    torch.manual_seed(0)
    config = library.CvtConfig(num_labels=5, drop_path_rate=[0.0, 0.0, 0.0], **how)
    model = library.CvtForImageClassification(config).eval()
    moved(model)
    return model


def ours(model: nn.Module, name: str, folder: Path) -> AnyBackbone:
    torch.save(model.state_dict(), folder / "theirs.pth")
    backbone = load(config(name), folder / "theirs.pth").eval()
    assert backbone.report.layout == f"Hugging Face {name[:3].replace('pvt', 'PVT').replace('cvt', 'CvT')}"
    assert not backbone.report.missing
    assert not backbone.report.unexpected
    return backbone


def of_pvt(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    found = model.pvt(pixels).last_hidden_state
    return found[:, 0], found[:, 1:]


def of_cvt(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    found = model.cvt(pixels)
    cells = found.last_hidden_state.flatten(2).transpose(1, 2)
    return model.layernorm(found.cls_token_value[:, 0]), model.layernorm(cells)


def test_pvt(tmp_path: Path) -> None:
    model = their_pvt()
    backbone = ours(model, "pvt_small", tmp_path)
    pixels = images()
    tokens = backbone(pixels)
    cls, patches = of_pvt(model, pixels)
    torch.testing.assert_close(tokens.cls, cls, **CLOSE)
    torch.testing.assert_close(tokens.patches, patches, **CLOSE)
    found = load_classifier(tmp_path / "theirs.pth", config("pvt_small"))
    torch.testing.assert_close(found.head(found.backbone.eval()(pixels).cls), model(pixels).logits, **CLOSE)


def test_their_pvt_has_other_epsilons_than_its_authors(tmp_path: Path) -> None:
    """Built as the authors' it is off by little, and equal where theirs get the authors' epsilons."""
    model = their_pvt()
    backbone = ours(model, "pvt_small", tmp_path)
    assert backbone.config is not None
    assert backbone.config.options["inner_eps"] == 1e-6
    assert "inner_eps is 1e-6" in backbone.report.words()
    authors = config("pvt_small", options={**SIZES["pvt_small"], "inner_eps": 1e-5})
    other = load(authors, tmp_path / "theirs.pth").eval()
    assert 1e-5 < (other(images()).cls - of_pvt(model, images())[0]).abs().max() < 1e-3
    for name, part in model.named_modules():
        if name.endswith(".layer_norm") and name != "pvt.encoder.layer_norm":
            part.eps = 1e-5
    torch.testing.assert_close(other(images()).cls, of_pvt(model, images())[0], **CLOSE)


@pytest.mark.parametrize("size", [(96, 96), (64, 128), (32, 32)])
def test_pvt_at_another_size(size: tuple[int, int], tmp_path: Path) -> None:
    """Hugging Face's PVT cannot change its grid, so one that is made for it gets interpolated positions."""
    model = their_pvt()
    backbone = ours(model, "pvt_small", tmp_path)
    for stage, part in enumerate(model.pvt.encoder.patch_embeddings):
        known, old, prefix = part.position_embeddings, 16 // 2**stage, int(stage == 3)
        grid = (size[0] // 4 // 2**stage, size[1] // 4 // 2**stage)
        laid = known[:, prefix:].transpose(1, 2).reshape(1, -1, old, old)
        changed = functional.interpolate(laid, grid, mode="bilinear").flatten(2).transpose(1, 2)
        part.position_embeddings = nn.Parameter(torch.cat((known[:, :prefix], changed), 1))
        part.interpolate_pos_encoding = lambda positions, *_: positions
    pixels = images(2, *size)
    tokens = backbone(pixels)
    cls, patches = of_pvt(model, pixels)
    assert tokens.grid == (size[0] // 32, size[1] // 32)
    torch.testing.assert_close(tokens.cls, cls, **CLOSE)
    torch.testing.assert_close(tokens.patches, patches, **CLOSE)


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (80, 80)])
def test_cvt(size: tuple[int, int], tmp_path: Path) -> None:
    model = their_cvt()
    backbone = ours(model, "cvt_13", tmp_path)
    pixels = images(2, *size)
    tokens = backbone(pixels)
    cls, patches = of_cvt(model, pixels)
    assert tokens.grid == (size[0] // 16, size[1] // 16)
    torch.testing.assert_close(tokens.cls, cls, **CLOSE)
    torch.testing.assert_close(tokens.patches, patches, **CLOSE)
    found = load_classifier(tmp_path / "theirs.pth", config("cvt_13"))
    torch.testing.assert_close(found.head(found.backbone.eval()(pixels).cls), model(pixels).logits, **CLOSE)


def test_cvt_in_training(tmp_path: Path) -> None:
    """Batch norm sees the batch, its running values move, and gradients are the same."""
    model = their_cvt().train()
    backbone = ours(model, "cvt_13", tmp_path).train()
    one, other = images().requires_grad_(), images().requires_grad_()
    weight = torch.randn(3, 24, generator=torch.Generator().manual_seed(1))
    cls, _ = of_cvt(model, one)
    found = backbone(other).cls
    torch.testing.assert_close(found, cls, **CLOSE)
    (cls * weight).sum().backward()
    (found * weight).sum().backward()
    assert one.grad is not None
    assert one.grad.abs().max() > 1e-3
    torch.testing.assert_close(other.grad, one.grad, **CLOSE)
    theirs = model.state_dict()
    part = "layers.2.attention.attention.convolution_projection_key.convolution_projection.normalization"
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        mine = backbone.state_dict()[f"net.stage2.blocks.2.attn.conv_proj_k.bn.{name}"]
        torch.testing.assert_close(mine, theirs[f"cvt.encoder.stages.2.{part}.{name}"])


def test_their_cvt_has_another_activation_than_its_authors(tmp_path: Path) -> None:
    model = their_cvt()
    backbone = ours(model, "cvt_13", tmp_path)
    assert backbone.config is not None
    assert backbone.config.options["activation"] == "gelu"
    assert "activation is gelu" in backbone.report.words()
    quick = config("cvt_13", options={**SIZES["cvt_13"], "activation": "quick_gelu"})
    other = load(quick, tmp_path / "theirs.pth").eval()
    assert (other(images()).cls - backbone(images()).cls).abs().max() > 1e-4
