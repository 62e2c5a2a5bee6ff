"""SAR's surgery: presets against the equations written out, keys, drop path, the released code's numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitrail.backbones import BackboneConfig, TimmViT, create
from vitrail.config import ConfigError
from vitrail.nn.surgery import PRESETS, SurgeryConfig, operate, surgery
from vitrail.ops.spatial_entropy import spatial_entropy

SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "heads": 3}


def tiny_vit(**options: object) -> VisionTransformer:
    torch.manual_seed(0)
    vit = VisionTransformer(
        **{
            "img_size": 32,
            "patch_size": 8,
            "embed_dim": 24,
            "depth": 2,
            "num_heads": 3,
            "num_classes": 0,
            **options,
        }
    )
    with torch.no_grad():
        for value in vit.parameters():
            value.add_(torch.randn_like(value) * 0.2)
    return vit.eval()


def written_out(preset: str, block: nn.Module, z: Tensor) -> Tensor:
    """The last block of a row of Table 1(b), from a plain block's modules."""
    attended = block.attn(block.norm1(z))
    if preset in "AE":
        middle = attended + z
        return block.mlp(block.norm2(middle)) + middle
    if preset == "B":
        return block.mlp(block.norm2(attended)) + attended
    return block.mlp(attended) + (0 if preset == "D" else attended)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_the_rows_of_the_table(preset: str) -> None:
    vit = tiny_vit()
    z = torch.randn(2, 17, 24)
    with torch.no_grad():
        expected = written_out(preset, copy.deepcopy(vit.blocks[-1]), z)
        operate(vit, preset)
        torch.testing.assert_close(vit.blocks[-1](z), expected, atol=1e-6, rtol=1e-6)


def test_only_e_and_f_use_the_entropy() -> None:
    assert [letter for letter, switches in PRESETS.items() if switches.entropy] == ["E", "F"]
    assert PRESETS["F"].same_block(PRESETS["C"])
    assert PRESETS["E"].same_block(PRESETS["A"])
    assert not PRESETS["B"].same_block(PRESETS["C"])


@pytest.mark.parametrize("preset", ["A", "B", "C", "D", "E", "F", None])
def test_keys_stay_timms(preset: str | None) -> None:
    vit = tiny_vit()
    before = vit.state_dict()
    operate(vit, preset)
    gone = {"blocks.1.norm2.weight", "blocks.1.norm2.bias"} if preset in ("C", "D", "F") else set()
    assert set(vit.state_dict()) == set(before) - gone
    for name, value in vit.state_dict().items():
        assert torch.equal(value, before[name])


def test_parameters_change_by_twice_the_width() -> None:
    plain, operated = create(BackboneConfig(**SIZES)), create(BackboneConfig(**SIZES, surgery="F"))
    counts = [sum(value.numel() for value in each.parameters()) for each in (plain, operated)]
    assert counts[1] - counts[0] == -2 * 24


@pytest.mark.parametrize("preset", PRESETS)
def test_drop_path_leaves_the_branches_without_a_skip(preset: str) -> None:
    backbone = create(BackboneConfig(**SIZES, surgery=preset, drop_path=0.5))
    last = backbone.vit.blocks[-1]
    rates = tuple(getattr(each, "drop_prob", 0.0) for each in (last.drop_path1, last.drop_path2))
    switches = PRESETS[preset]
    assert rates == (0.5 if switches.msa_skip else 0.0, 0.5 if switches.mlp_skip else 0.0)


def test_no_token_is_ever_zeroed() -> None:
    backbone = create(BackboneConfig(**SIZES, surgery="D", drop_path=0.9)).train()
    tokens = backbone(torch.randn(64, 3, 32, 32), layers=(-1,))
    assert (tokens.layers[-1].abs().sum(-1) > 0).all()


def test_patch_tokens_lose_the_path_around_the_attention() -> None:
    """The CLS output no longer depends on the CLS token except through queries and keys: with equal values of
    all patch tokens' v it is a constant."""
    vit = tiny_vit()
    with torch.no_grad():
        vit.blocks[-1].attn.qkv.weight[48:] = 0  # values are their bias, whatever the token
        operate(vit, "F")
        out = vit.blocks[-1](torch.randn(1, 17, 24))
    torch.testing.assert_close(out[0], out[0, :1].expand(17, -1), atol=1e-6, rtol=1e-6)


def test_scores_of_an_operated_block() -> None:
    vit = tiny_vit()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        plain = TimmViT(copy.deepcopy(vit))(images, scores=(-1,)).scores[-1]
        operate(vit, "F")
        operated = TimmViT(vit)(images, scores=(-1,)).scores[-1]
    assert torch.equal(plain, operated)


def test_surgery_after_wrapping_and_mode() -> None:
    backbone = TimmViT(tiny_vit())
    operate(backbone.vit, "F")
    assert backbone.vit.blocks[-1].operated
    assert not backbone.vit.blocks[-1].training


def test_custom_switches() -> None:
    vit = tiny_vit()
    operate(vit, SurgeryConfig(norm2=False))
    assert "blocks.1.norm2.weight" not in vit.state_dict()
    assert vit.blocks[-1].msa_skip


@pytest.mark.parametrize("first", ["B", "C", "D"])
def test_twice_is_refused(first: str) -> None:
    vit = tiny_vit()
    operate(vit, first)
    with pytest.raises(ValueError, match="operated on before"):
        operate(vit, "C")


def test_layer_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="layer scale"):
        operate(tiny_vit(init_values=1e-5), "F")


def test_blocks_of_another_kind_are_refused() -> None:
    vit = timm.create_model(
        "vit_base_patch16_18x2_224",
        img_size=32,
        patch_size=8,
        embed_dim=24,
        depth=2,
        num_heads=3,
        num_classes=0,
    )
    with pytest.raises(ValueError, match="ParallelThingsBlock"):
        operate(vit, "F")


def test_unknown_letters() -> None:
    with pytest.raises(ConfigError, match="'G' is no row"):
        surgery("G")
    assert surgery(None) == PRESETS["A"]


def brute_force_entropy(scores: np.ndarray) -> float:
    """Eq. 5 to 8 for one map, by flood fill in plain Python."""
    above = scores.astype(np.float64) - scores.astype(np.float64).mean()
    left = {tuple(cell) for cell in np.argwhere(above > 0)}
    total = sum(above[cell] for cell in left)
    entropy = 0.0
    while left:
        front, mass = [left.pop()], 0.0
        while front:
            y, x = front.pop()
            mass += above[y, x]
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front += near
        entropy -= mass / total * np.log(mass / total)
    return entropy


class TestGolden:
    """`sar_vit_nosn1`: a 3-block ViT with the surgery, through the released code."""

    @pytest.fixture
    def golden(self, oracle: Callable[[str], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return oracle("sar_vit_nosn1")

    @pytest.fixture
    def model(self, golden: dict[str, np.ndarray]) -> tuple[TimmViT, nn.Linear]:
        weights = {name[2:]: torch.from_numpy(value) for name, value in golden.items() if name.startswith("w:")}
        config = BackboneConfig(image_size=64, patch_size=8, embed_dim=48, depth=3, heads=3, surgery="F")
        backbone, head = create(config).eval(), nn.Linear(48, 10)
        head.load_state_dict({"weight": weights.pop("head.weight"), "bias": weights.pop("head.bias")})
        backbone.vit.load_state_dict(weights, strict=True)
        return backbone, head

    def test_logits_and_scores(self, golden: dict[str, np.ndarray], model: tuple[TimmViT, nn.Linear]) -> None:
        backbone, head = model
        with torch.no_grad():
            tokens = backbone(torch.from_numpy(golden["x"]), scores=(-1,))
            logits = head(tokens.cls)
        np.testing.assert_allclose(logits, golden["logits"], atol=1e-5)
        row = golden["dot_qk"][:, :, 0, 1:].reshape(4, 3, 8, 8)
        np.testing.assert_allclose(tokens.scores[-1], row, atol=1e-5)

    def test_entropy_and_loss(self, golden: dict[str, np.ndarray], model: tuple[TimmViT, nn.Linear]) -> None:
        backbone, head = model
        with torch.no_grad():
            tokens = backbone(torch.from_numpy(golden["x"]), scores=(-1,))
            entropy = spatial_entropy(tokens.scores[-1])
            loss = nn.functional.cross_entropy(head(tokens.cls), torch.from_numpy(golden["y"]))
        assert float(entropy.mean()) == pytest.approx(float(golden["blob"]), abs=1e-6)
        assert float(loss) == pytest.approx(float(golden["ce"]), abs=1e-5)
        assert float(loss + 0.01 * entropy.mean()) == pytest.approx(float(golden["total"]), abs=1e-5)
        second = [brute_force_entropy(each) for each in tokens.scores[-1].flatten(0, 1).numpy()]
        np.testing.assert_allclose(entropy.flatten(), second, atol=1e-6)

    def test_gradients(self, golden: dict[str, np.ndarray], model: tuple[TimmViT, nn.Linear]) -> None:
        backbone, head = model
        tokens = backbone(torch.from_numpy(golden["x"]), scores=(-1,))
        entropy = spatial_entropy(tokens.scores[-1]).mean()
        loss = nn.functional.cross_entropy(head(tokens.cls), torch.from_numpy(golden["y"]))
        vit = backbone.vit
        wanted = {
            "qkv": vit.blocks[-1].attn.qkv.weight,
            "cls": vit.cls_token,
            "patch": vit.patch_embed.proj.weight,
        }
        total = torch.autograd.grad(loss + 0.01 * entropy, list(wanted.values()), retain_graph=True)
        alone = torch.autograd.grad(entropy, [wanted["qkv"], wanted["cls"]])
        for name, found in zip(("g_qkv", "g_cls", "g_patch", "gb_qkv", "gb_cls"), (*total, *alone)):
            error = np.abs(found.numpy() - golden[name]).max() / np.abs(golden[name]).max()
            assert error < 1e-5, (name, error)
