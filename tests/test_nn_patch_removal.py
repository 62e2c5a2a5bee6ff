"""Labels of removed patches against golden numbers, and against removals one at a time by a mask on the attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitrail.backbones import BackboneConfig, TimmViT, create, load, need_part
from vitrail.nn.masked_autoencoder import DecoderConfig, MaskedDecoder
from vitrail.nn.patch_removal import PatchRemoval, RemovalConfig

PATCH, GRID, WIDTH = (4, 4), (3, 4), 24
HEADS = 2
VISIBLE = torch.tensor([[0, 3, 5, 10], [1, 2, 7, 11]])


@pytest.fixture
def autoencoder() -> tuple[TimmViT, MaskedDecoder]:
    """Float64, with every weight of the decoder moved from its start."""
    torch.manual_seed(0)
    config = BackboneConfig(image_size=(12, 16), patch_size=4, embed_dim=WIDTH, depth=2, heads=3)
    backbone = create(config).double().eval()
    decoder = MaskedDecoder(DecoderConfig(embed_dim=16, depth=3, heads=HEADS), WIDTH, PATCH, GRID).double()
    with torch.no_grad():
        for value in decoder.parameters():
            value.add_(torch.randn_like(value) * 0.3)
    return backbone, decoder


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def masked_attention(block: nn.Module, x: Tensor, gone: int) -> Tensor:
    """A block whose attention never looks at one token, by minus infinity added to its scores."""
    state = dict(block.named_modules())
    attention = state["attn"]
    q, k, v = (
        part.unflatten(-1, (HEADS, -1)).transpose(0, 1)
        for part in attention.get_submodule("qkv")(state["norm1"](x)).chunk(3, -1)
    )
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    away = torch.zeros(len(x), dtype=x.dtype)
    away[gone] = -torch.inf
    mixed = (scores + away).softmax(-1) @ v
    x = x + attention.get_submodule("proj")(mixed.transpose(0, 1).flatten(1))
    return x + state["mlp"](state["norm2"](x))


@torch.no_grad()
def one_at_a_time(backbone: TimmViT, decoder: MaskedDecoder, images: Tensor, visible: Tensor) -> Tensor:
    """Labels of deletion, image by image and patch by patch; the deleted token stays and nobody looks at it."""
    tokens = backbone(images, keep=visible)
    labels = torch.zeros(visible.shape, dtype=torch.float64)
    for b in range(len(images)):
        given = tokens.cls[b : b + 1], tokens.patches[b : b + 1], visible[b : b + 1]
        anchor = decoder(*given, tokens.grid)[0]
        hidden = [patch for patch in range(len(anchor)) if patch not in visible[b].tolist()]
        for i, gone in enumerate(visible[b].tolist()):
            x = decoder.sequence(*given, tokens.grid)[0]
            for block in decoder.blocks:
                x = masked_attention(block, x, 1 + gone)
            changed = decoder.predict(decoder.norm(x))[1:]
            labels[b, i] = (anchor[hidden] - changed[hidden]).abs().mean()
    return labels


class TestGolden:
    def test_labels(self, oracle: Callable[[str], dict[str, np.ndarray]], tmp_path: Path) -> None:
        golden = oracle("ltrp_pseudo_labels")
        state = {name[2:]: torch.from_numpy(value) for name, value in golden.items() if name.startswith("w:")}
        torch.save({"model": state}, tmp_path / "mae.pth")
        config = BackboneConfig(image_size=64, patch_size=16, embed_dim=32, depth=2, heads=4)
        backbone = load(config, weights=tmp_path / "mae.pth")
        part = need_part(tmp_path / "mae.pth", "decoder", heads=4)
        decoder = MaskedDecoder(DecoderConfig.parse(part.config), 32, (16, 16), (4, 4))
        part.fill(decoder)
        for module in [*backbone.modules(), *decoder.modules()]:
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-5  # of the network that made the numbers; MAE's is 1e-6
        images, hidden = torch.from_numpy(golden["x"]), torch.from_numpy(golden["mask"]) > 0
        visible = (~hidden).nonzero()[:, 1].view(2, 6)
        labels = PatchRemoval(backbone, decoder)(images, visible)
        torch.testing.assert_close(labels, torch.from_numpy(golden["y_true"]), atol=5e-8, rtol=0)


class TestDeletion:
    def test_every_chunk_size(self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor) -> None:
        expected = one_at_a_time(*autoencoder, images, VISIBLE)
        assert expected.min() > 1e-3
        for chunk in [*range(1, 9), 100, None]:
            labels = PatchRemoval(*autoencoder, RemovalConfig(chunk=chunk))(images, VISIBLE)
            torch.testing.assert_close(labels, expected, atol=1e-10, rtol=0)

    def test_other_order_other_place(self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor) -> None:
        removal, order = PatchRemoval(*autoencoder), torch.tensor([2, 0, 3, 1])
        labels = removal(images, VISIBLE)
        torch.testing.assert_close(removal(images, VISIBLE[:, order]), labels[:, order], atol=1e-12, rtol=0)

    def test_a_single_visible_patch(self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor) -> None:
        single = VISIBLE[:, 2:3]
        expected = one_at_a_time(*autoencoder, images, single)
        torch.testing.assert_close(PatchRemoval(*autoencoder)(images, single), expected, atol=1e-10, rtol=0)

    def test_a_decoder_that_ignores_patches(self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor) -> None:
        backbone, decoder = autoencoder
        with torch.no_grad():
            for block in decoder.blocks:
                block.get_submodule("attn.proj").weight.zero_()  # type: ignore[operator]
        assert PatchRemoval(backbone, decoder)(images, VISIBLE).max() < 1e-14


class TestManners:
    def test_no_gradient_float32_evaluation_mode(
        self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor
    ) -> None:
        removal = PatchRemoval(*(part.float() for part in autoencoder)).train()
        assert not any(part.training for part in removal.modules())
        labels = removal(images.float(), VISIBLE)
        assert labels.dtype == torch.float32
        assert not labels.requires_grad

    def test_half_precision_keeps_the_order(self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor) -> None:
        removal = PatchRemoval(*(part.float() for part in autoencoder))
        exact = removal(images.float(), VISIBLE)
        with torch.autocast("cpu", torch.bfloat16):
            labels = removal(images.float(), VISIBLE)
        assert labels.dtype == torch.float32
        torch.testing.assert_close(labels, exact, rtol=0.05, atol=0)

    def test_errors(self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor) -> None:
        removal = PatchRemoval(*autoencoder)
        with pytest.raises(ValueError, match=r"visible is \[1, 4\] of torch.int64; .* B = 2"):
            removal(images, VISIBLE[:1])
        with pytest.raises(ValueError, match=r"visible is \[2, 0\]"):
            removal(images, VISIBLE[:, :0])
        with pytest.raises(ValueError, match="twice"):
            removal(images, torch.tensor([[0, 0], [1, 2]]))
        with pytest.raises(ValueError, match="0 to 11"):
            removal(images, torch.tensor([[0, 12], [1, 2]]))
        with pytest.raises(ValueError, match="12 of 12 patches are visible"):
            removal(images, torch.arange(12).expand(2, -1))
        images[1, 0, 0, 0] = torch.nan  # in patch 0, which is hidden in image 1
        assert removal(images, VISIBLE).isfinite().all()
        images[1, 0, 0, 4] = torch.nan
        with pytest.raises(ValueError, match="labels of 1 of 2 images are NaN or infinite, of image 1 of the batch"):
            removal(images, VISIBLE)
