"""Labels of removed patches against golden numbers, and against removals one at a time by a mask on the attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitrail.backbones import BackboneConfig, TimmViT, create, load, need_part
from vitrail.config import ConfigError
from vitrail.nn.approximate_removal import group_ends
from vitrail.nn.masked_autoencoder import DecoderConfig, MaskedDecoder
from vitrail.nn.partial_decoding import first_influence, whole_pass
from vitrail.nn.patch_removal import PatchRemoval, RemovalConfig
from vitrail.ops.image_quality import ssim

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

    def test_all_patches_visible(self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor) -> None:
        labels = PatchRemoval(*autoencoder, RemovalConfig(region="all"))(images, torch.arange(12).expand(2, -1))
        assert labels.shape == (2, 12)
        assert labels.min() > 0

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


@torch.no_grad()
def pairs(
    backbone: TimmViT, decoder: MaskedDecoder, images: Tensor, b: int, gone: int, removal: str
) -> tuple[Tensor, Tensor]:
    """Predictions `[N, P]` of one image, with all visible patches and without one; token lists made by hand."""
    ids = VISIBLE[b].tolist()
    tokens = backbone(images[b : b + 1], keep=VISIBLE[b : b + 1])
    anchor = decoder(tokens.cls, tokens.patches, VISIBLE[b : b + 1], GRID)[0]
    seen = {patch: decoder.embed(tokens.patches[0, place]) for place, patch in enumerate(ids)}
    cls = decoder.embed(tokens.cls)[0]
    if removal == "reencode":
        rest = [patch for patch in ids if patch != gone]
        tokens = backbone(images[b : b + 1], keep=torch.tensor([rest]))
        seen = {patch: decoder.embed(tokens.patches[0, place]) for place, patch in enumerate(rest)}
        cls = decoder.embed(tokens.cls)[0]
    seen.pop(gone, None)
    places = [patch for patch in range(12) if patch != gone or removal == "mask_token"]
    listed = [seen.get(patch, decoder.mask_token[0, 0]) + decoder.positions[patch] for patch in places]
    x = torch.stack([cls, *listed])[None]
    for block in decoder.blocks:
        x = block(x)
    changed = anchor.clone()  # where there is no token, there is no change
    changed[places] = decoder.predict(decoder.norm(x))[0, 1:]
    return anchor, changed


def drawn(images: Tensor, b: int, predictions: Tensor, region: str, normalized: bool, backbone: TimmViT) -> Tensor:
    """A picture `[1, 3, 12, 16]` of predictions `[N, P]`, patch by patch, in pixels of a file."""
    picture = images[b].clone()
    for patch, values in enumerate(predictions):
        y, x = patch // 4 * 4, patch % 4 * 4
        true = images[b, :, y : y + 4, x : x + 4]
        if normalized:
            values = values * (true.var() + 1e-6).sqrt() + true.mean()
        if region == "all" or patch not in VISIBLE[b].tolist():
            picture[:, y : y + 4, x : x + 4] = values.view(3, 4, 4)
    mean, std = (torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in (backbone.mean, backbone.std))
    return (picture * std + mean)[None]


@pytest.mark.parametrize("removal", ["delete", "mask_token", "reencode"])
@pytest.mark.parametrize("region", ["masked", "all"])
class TestOptions:
    def test_l1(self, removal: str, region: str, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor) -> None:
        config = RemovalConfig.parse({"removal": removal, "region": region, "chunk": 3})
        labels = PatchRemoval(*autoencoder, config)(images, VISIBLE)
        for b, ids in enumerate(VISIBLE.tolist()):
            for i, gone in enumerate(ids):
                anchor, changed = pairs(*autoencoder, images, b, gone, removal)
                looked = [n for n in range(12) if n not in ids or region == "all"]
                if removal != "mask_token" and region == "all":
                    looked.remove(gone)
                expected = (anchor - changed)[looked].abs().mean()
                assert labels[b, i].item() == pytest.approx(expected.item(), abs=1e-12)

    @pytest.mark.parametrize("normalized", [True, False])
    @pytest.mark.parametrize("metric", ["ssim", "psnr", "perceptual"])
    def test_pictures(
        self,
        metric: str,
        normalized: bool,
        removal: str,
        region: str,
        autoencoder: tuple[TimmViT, MaskedDecoder],
        images: Tensor,
    ) -> None:
        backbone = autoencoder[0]
        torch.manual_seed(3)
        network = create(BackboneConfig(image_size=(12, 16), patch_size=2, embed_dim=12, depth=1, heads=1)).double()
        network.mean, network.std = (0.4, 0.5, 0.6), (0.3, 0.2, 0.1)
        network.eval()
        config = RemovalConfig.parse({"removal": removal, "region": region, "metric": metric, "chunk": 3})
        found = PatchRemoval(*autoencoder, config, perceptual=network, normalized_targets=normalized)(images, VISIBLE)
        assert found.min() > 0
        for b, i in ((0, 0), (1, 3)):
            both = pairs(*autoencoder, images, b, int(VISIBLE[b, i]), removal)
            first, second = (drawn(images, b, each, region, normalized, backbone) for each in both)
            if metric == "ssim":
                expected = 1 - ssim(first, second)
            elif metric == "psnr":
                expected = 120 + 10 * (first - second).square().mean().log10()
            else:
                mean = torch.tensor(network.mean, dtype=torch.float64).view(3, 1, 1)
                std = torch.tensor(network.std, dtype=torch.float64).view(3, 1, 1)
                with torch.no_grad():
                    a, c = (nn.functional.normalize(network((x - mean) / std).patches, dim=-1) for x in (first, second))
                expected = 1 - (a * c).sum(-1).mean()
            assert found[b, i].item() == pytest.approx(expected.item(), abs=1e-9)


class TestPictures:
    @pytest.mark.parametrize("metric", ["l1", "ssim", "psnr", "perceptual"])
    def test_no_change_is_zero(self, metric: str, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor) -> None:
        backbone, decoder = autoencoder
        with torch.no_grad():
            decoder.predict.weight.zero_()
        removal = PatchRemoval(backbone, decoder, RemovalConfig.parse({"metric": metric}), perceptual=backbone)
        torch.testing.assert_close(removal(images, VISIBLE), torch.zeros(2, 4, dtype=torch.float64), atol=1e-14, rtol=0)

    def test_a_network_is_needed(self, autoencoder: tuple[TimmViT, MaskedDecoder]) -> None:
        with pytest.raises(ValueError, match="perceptual needs a network"):
            PatchRemoval(*autoencoder, RemovalConfig(metric="perceptual"))


class TestApproximate:
    @staticmethod
    def labels(parts: tuple[TimmViT, MaskedDecoder], images: Tensor, visible: Tensor = VISIBLE, **how: Any) -> Tensor:
        return PatchRemoval(*parts, RemovalConfig(mode="approximate", **how))(images, visible)

    @torch.no_grad()
    def test_as_many_groups_as_hidden_patches_decode_all_of_them(
        self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor
    ) -> None:
        """All hidden patches and the class token run anew; with a single visible patch nothing else is left."""
        single = VISIBLE[:, 1:2]
        exact = PatchRemoval(*autoencoder)(images, single)
        for groups in (11, 12, 100):
            torch.testing.assert_close(
                self.labels(autoencoder, images, single, groups=groups), exact, atol=1e-12, rtol=0
            )

    @pytest.mark.parametrize(("groups", "chunk"), [(1, 3), (2, None), (3, 1), (5, 3), (8, 2)])
    @torch.no_grad()
    def test_other_patches_stay_as_they_were(
        self, groups: int, chunk: int | None, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor
    ) -> None:
        """Against whole sequences in which these tokens are put back before each block."""
        backbone, decoder = autoencoder
        found = self.labels(autoencoder, images, groups=groups, chunk=chunk)
        tokens = backbone(images, keep=VISIBLE)
        sequence = decoder.sequence(tokens.cls, tokens.patches, VISIBLE, GRID)
        influence = first_influence(whole_pass(decoder, sequence, blocks=1)[1][0], VISIBLE + 1)
        ends = {1: [8], 2: [2, 8], 3: [1, 4, 8], 5: [1, 2, 3, 5, 8], 8: list(range(1, 9))}[groups]
        for b, ids in enumerate(VISIBLE.tolist()):
            for i, gone in enumerate(ids):
                hidden = [patch for patch in range(12) if patch not in ids]
                hidden.sort(key=lambda patch: -float(influence[b, i, 1 + patch]))
                parts = [hidden[start:end] for start, end in zip([0, *ends], ends)]
                middle = [part[(len(part) - 1) // 2] for part in parts]
                still = [1 + patch for patch in range(12) if patch not in (*middle, gone)]
                anchor = changed = sequence[b]
                for block in decoder.blocks:
                    changed = changed.clone()
                    changed[still] = anchor[still]
                    anchor, changed = block(anchor[None])[0], masked_attention(block, changed, 1 + gone)
                first, second = (decoder.predict(decoder.norm(x))[1:] for x in (anchor, changed))
                change = (first - second).abs().mean(1)
                expected = sum(len(part) * change[each] for part, each in zip(parts, middle)) / 8
                assert found[b, i].item() == pytest.approx(float(expected), abs=1e-12)

    def test_groups_grow(self) -> None:
        assert group_ends(177, 16) == [1, 3, 6, 11, 17, 25, 34, 44, 56, 69, 84, 100, 117, 136, 156, 177]
        for patches in range(1, 30):
            for groups in range(1, 35):
                ends = group_ends(patches, groups)
                assert len(ends) == min(groups, patches)
                assert ends[-1] == patches
                assert all(a < b for a, b in zip([0, *ends], ends))

    @pytest.mark.parametrize("rows", [1, 2])
    def test_images_a_few_at_a_time(
        self, rows: int, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = self.labels(autoencoder, images, groups=3)
        monkeypatch.setattr("vitrail.nn.approximate_removal.images_of", lambda decoder, sequence: rows)
        torch.testing.assert_close(self.labels(autoencoder, images, groups=3), whole, atol=1e-12, rtol=0)

    def test_it_follows_the_exact_labels(self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor) -> None:
        exact = PatchRemoval(*autoencoder)(images, VISIBLE)
        found = self.labels(autoencoder, images, groups=5)
        assert torch.corrcoef(torch.stack((exact.flatten(), found.flatten())))[0, 1] > 0.8

    def test_other_order_other_place_here_too(self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor) -> None:
        order = torch.tensor([2, 0, 3, 1])
        labels = self.labels(autoencoder, images, groups=3)
        permuted = self.labels(autoencoder, images, VISIBLE[:, order], groups=3)
        torch.testing.assert_close(permuted, labels[:, order], atol=1e-12, rtol=0)

    @pytest.mark.parametrize("other", [{"removal": "mask_token"}, {"region": "all"}, {"metric": "ssim"}])
    def test_what_it_is_for(self, other: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match=f"not for .*{next(iter(other))}={next(iter(other.values()))}"):
            RemovalConfig.parse({"mode": "approximate", **other})

    def test_a_decoder_of_another_kind(self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor) -> None:
        autoencoder[1].blocks[1] = nn.Identity()
        with pytest.raises(ValueError, match="some of its tokens: a block of type Identity"):
            self.labels(autoencoder, images)


class TestManners:
    def test_no_gradient_float32_evaluation_mode(
        self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor
    ) -> None:
        removal = PatchRemoval(*(part.float() for part in autoencoder)).train()
        assert not any(part.training for part in removal.modules())
        labels = removal(images.float(), VISIBLE)
        assert labels.dtype == torch.float32
        assert not labels.requires_grad

    def test_half_precision_stays_within_five_percent(
        self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor
    ) -> None:
        removal = PatchRemoval(*(part.float() for part in autoencoder))
        exact, wanted = removal(images.float(), VISIBLE), self.approximate(removal)(images.float(), VISIBLE)
        with torch.autocast("cpu", torch.bfloat16):
            labels = removal(images.float(), VISIBLE)
            rough = self.approximate(removal)(images.float(), VISIBLE)
        assert labels.dtype == rough.dtype == torch.float32
        torch.testing.assert_close(labels, exact, rtol=0.05, atol=0)
        torch.testing.assert_close(rough, wanted, rtol=0.05, atol=0)

    def test_labels_of_full_precision_in_a_training_of_half(
        self, autoencoder: tuple[TimmViT, MaskedDecoder], images: Tensor
    ) -> None:
        parts = tuple(part.float() for part in autoencoder)
        exact = PatchRemoval(*parts)(images.float(), VISIBLE)
        with torch.autocast("cpu", torch.bfloat16):
            assert not torch.equal(PatchRemoval(*parts)(images.float(), VISIBLE), exact)
            assert torch.equal(PatchRemoval(*parts, RemovalConfig(precision="fp32"))(images.float(), VISIBLE), exact)

    @staticmethod
    def approximate(removal: PatchRemoval) -> PatchRemoval:
        return PatchRemoval(removal.backbone, removal.decoder, RemovalConfig(mode="approximate", groups=3))

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
        removal = PatchRemoval(*(part.float() for part in autoencoder))
        with (
            torch.autocast("cpu", torch.bfloat16),
            pytest.raises(ValueError, match=r"or set method\.removal\.precision=fp32"),
        ):
            removal(images.float(), VISIBLE)
