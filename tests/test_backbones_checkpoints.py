"""Everyone's checkpoint files: recognized, loaded to the same outputs, or refused in words."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vitrail.backbones as rooms
from vitrail.backbones import BackboneConfig, TimmViT, create, digest, load, load_classifier, save_exported
from vitrail.config import ConfigError
from vitrail.contracts import Exported

SIZES: dict[str, Any] = {"image_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2}
CONFIG = BackboneConfig(**SIZES, heads=1)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def random_backbone(config: BackboneConfig = CONFIG, seed: int = 0) -> TimmViT:
    torch.manual_seed(seed)
    backbone = create(config)
    with torch.no_grad():
        for value in backbone.parameters():
            value.add_(torch.randn_like(value) * 0.2)
    return backbone.eval()


@pytest.fixture
def source() -> TimmViT:
    return random_backbone()


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def junk(*names: str) -> dict[str, Tensor]:
    return {name: torch.zeros(3) for name in names}


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that transformers gives to the same weights."""
    names = {
        "cls_token": "embeddings.cls_token",
        "dist_token": "embeddings.distillation_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    renamed = {}
    for name, value in state.items():
        new = "layernorm" + name[4:] if name.startswith("norm.") else name.replace("blocks.", "encoder.layer.")
        if ".attn.qkv." in name:
            for part, piece in zip(("query", "key", "value"), value.chunk(3)):
                renamed[new.replace("attn.qkv", f"attention.attention.{part}")] = piece.clone()
            continue
        for ours, theirs in names.items():
            new = new.replace(ours, theirs)
        renamed[new] = value
    return renamed


def dino(state: dict[str, Tensor]) -> dict[str, Any]:
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    return {
        "student": prefixed(prefixed(other, "backbone."), "module.") | junk("module.head.mlp.0.weight"),
        "teacher": prefixed(state, "backbone.") | junk("head.mlp.0.weight", "head.last_layer.weight_g"),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small", patch_size=8),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


def ibot(state: dict[str, Tensor]) -> dict[str, Any]:
    content = dino(state)
    content["student"] |= junk("module.backbone.masked_embed")
    return content


def mugs(state: dict[str, Tensor]) -> dict[str, Any]:
    """Heads for classes, neighbors and groups, and blocks that look at neighbors: beside the blocks, or outside."""
    heads = junk(
        "instance_head.projector.0.weight",
        "local_group_head.predictor.0.weight",
        "group_head.projector.0.bias",
        "group_head.last_layer.weight_g",
    )
    network = prefixed(state | junk("relation_blocks.0.norm1.weight"), "backbone.") | heads
    return {
        "student": prefixed({name: torch.zeros_like(value) for name, value in network.items()}, "module."),
        "teacher": network,
        "student_mem": {"block.queue_q": torch.zeros(4, 64)},
        "teacher_mem": None,
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small"),
        "group-sup.": {"center": torch.zeros(1, 4)},
    }


def leopart(state: dict[str, Tensor]) -> dict[str, Any]:
    """The student, whose numbers were published, and a teacher of other weights."""
    network = state | junk("projection_head.0.weight", "projection_head.4.bias", "prototypes.weight")
    other = {name: torch.zeros_like(value) for name, value in network.items()}
    return prefixed(other, "teacher.") | prefixed(network, "model.")


def mae(state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "model": state | junk("mask_token", "decoder_embed.weight", "decoder_pos_embed", "decoder_blocks.0.norm1.bias")
    }


def moco(state: dict[str, Tensor]) -> dict[str, Any]:
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    return {
        "epoch": 300,
        "arch": "vit_small",
        "best_acc": np.float64(76.5),
        "state_dict": prefixed(state, "module.base_encoder.")
        | prefixed(other, "module.momentum_encoder.")
        | junk("module.base_encoder.head.0.weight", "module.predictor.0.weight"),
    }


def deit(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"model": state | {"head.weight": torch.ones(5, 64), "head.bias": torch.zeros(5)}}


LAYOUTS: dict[str, tuple[str, Callable[[dict[str, Tensor]], dict[str, Any]], tuple[str, ...]]] = {
    "timm, flat": ("timm", dict, ()),
    "timm, with a head": ("timm", lambda state: state | {"head.weight": torch.ones(5, 64)}, ("head.weight",)),
    "timm, training": ("timm", lambda state: {"epoch": 1, "arch": "nothing", "state_dict": state}, ()),
    "timm, data parallel": ("timm", lambda state: {"state_dict": prefixed(state, "module.")}, ()),
    "DINO": ("DINO", dino, ("head.mlp.0.weight", "head.last_layer.weight_g")),
    "iBOT": ("iBOT", ibot, ("head.mlp.0.weight", "head.last_layer.weight_g")),
    "Mugs": (
        "Mugs",
        mugs,
        ("relation_blocks.0.norm1.weight", "instance_head.projector.0.weight", "group_head.last_layer.weight_g"),
    ),
    "Mugs, backbone": (
        "Mugs",
        lambda state: {"state_dict": state | junk("relation_blocks.0.norm1.weight")},
        ("relation_blocks.0.norm1.weight",),
    ),
    "Leopart": ("Leopart", leopart, ("projection_head.4.bias", "prototypes.weight", "teacher.prototypes.weight")),
    "Leopart, student": (
        "Leopart",
        lambda state: {name: value for name, value in leopart(state).items() if name.startswith("model.")},
        ("projection_head.0.weight", "prototypes.weight"),
    ),
    "Leopart, Lightning": (
        "Leopart",
        lambda state: {"epoch": 49, "state_dict": leopart(state)},
        ("prototypes.weight",),
    ),
    "MAE": (
        "MAE",
        mae,
        ("mask_token", "decoder_embed.weight", "decoder_pos_embed", "decoder_blocks.0.norm1.bias"),
    ),
    "MAE, encoder": ("MAE", lambda state: {"model": state}, ()),
    "MoCo-v3": ("MoCo-v3", moco, ("head.0.weight", "module.predictor.0.weight")),
    "DeiT": ("DeiT", deit, ("head.weight", "head.bias")),
    "Hugging Face": (
        "Hugging Face ViT",
        lambda state: (
            prefixed(to_hugging_face(state), "vit.")
            | junk("vit.pooler.dense.bias")
            | {"classifier.weight": torch.ones(5, 64)}
        ),
        ("pooler.dense.bias", "classifier.weight"),
    ),
    "Hugging Face, bare": ("Hugging Face ViT", to_hugging_face, ()),
    "Lightning": ("timm", lambda state: {"state_dict": prefixed(state, "model.backbone.")}, ()),
}


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("named", [True, False])
def test_layouts_give_the_same_outputs(kind: str, named: bool, source: TimmViT, tmp_path: Path) -> None:
    layout, disguise, ignored = LAYOUTS[kind]
    path = tmp_path / "checkpoint.pth"
    torch.save(disguise(source.export().state), path)
    torch.manual_seed(9)
    loaded = load(CONFIG if named else None, path).eval()
    with torch.no_grad():
        expected, found = source(IMAGES, scores=(-1,)), loaded(IMAGES, scores=(-1,))
    assert torch.equal(found.cls, expected.cls)
    assert torch.equal(found.patches, expected.patches)
    assert torch.equal(found.scores[-1], expected.scores[-1])
    report = loaded.report
    assert report.layout == layout
    assert set(report.matched) == set(source.vit.state_dict())
    assert (report.missing, report.unexpected) == ((), ())
    assert set(ignored) <= set(report.ignored)
    assert f"{layout} layout: {len(report.matched)} tensors matched" in report.words()
    assert ("no name was given; by its shapes" in report.words()) is not named


def test_which_network(source: TimmViT, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(dino(source.export().state), path)
    zero = load(CONFIG, path, checkpoint_key="student")
    assert not zero.vit.cls_token.any()
    assert load(CONFIG, path, checkpoint_key="teacher").vit.cls_token.any()
    assert "also holds student" in load(CONFIG, path).report.words()
    with pytest.raises(ValueError, match=r"checkpoint_key 'model_ema' is not in this file; it has .*student, teacher"):
        load(CONFIG, path, checkpoint_key="model_ema")
    torch.save(leopart(source.export().state), path)
    assert not load(CONFIG, path, checkpoint_key="teacher").vit.cls_token.any()
    assert "also holds teacher" in load(CONFIG, path).report.words()
    torch.save(moco(source.export().state), path)
    assert not load(CONFIG, path, checkpoint_key="momentum_encoder").vit.cls_token.any()
    assert "also holds module.momentum_encoder" in load(CONFIG, path).report.words()


def test_distilled_deit(tmp_path: Path) -> None:
    config = BackboneConfig(name="deit_tiny_distilled_patch16_224", **SIZES, heads=1)
    source = random_backbone(config)
    state = source.export().state
    heads = {
        "head.weight": torch.ones(5, 64),
        "head.bias": torch.zeros(5),
        "head_dist.weight": torch.ones(5, 64),
    }
    torch.save({"model": state | heads}, tmp_path / "deit.pth")
    save_file(prefixed(to_hugging_face(state), "deit."), tmp_path / "hf.safetensors")
    for file in ("deit.pth", "hf.safetensors"):
        loaded = load(weights=tmp_path / file).eval()
        assert loaded.prefix_tokens == 2
        assert torch.equal(loaded(IMAGES).patches, source(IMAGES).patches)
    with pytest.raises(ValueError, match="two classifiers"):
        load_classifier(tmp_path / "deit.pth")


def test_dinov2_with_registers(tmp_path: Path) -> None:
    options = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}
    source = random_backbone(BackboneConfig(**SIZES, heads=1, options=options))
    state = source.export().state
    offset = torch.randn(1, 1, 64)
    theirs = {name: value for name, value in state.items() if name not in ("reg_token", "pos_embed", "cls_token")}
    theirs |= {
        "register_tokens": state["reg_token"],
        "cls_token": state["cls_token"] - offset,
        "pos_embed": torch.cat([offset, state["pos_embed"]], dim=1),
        "mask_token": torch.zeros(1, 64),
    }
    torch.save(theirs, tmp_path / "dinov2.pth")
    loaded = load(weights=tmp_path / "dinov2.pth").eval()
    assert loaded.report.layout == "DINOv2"
    torch.testing.assert_close(loaded(IMAGES).patches, source(IMAGES).patches, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"init_values": 1e-5},
        {"qk_norm": True},
        {"qkv_bias": False},
        {"mlp_ratio": 2.0},
        {"reg_tokens": 2},
        {"reg_tokens": 4, "no_embed_class": True},
        {"global_pool": "avg"},
        {"scale_attn_norm": True},
    ],
)
def test_the_architecture_is_read_from_the_shapes(options: dict[str, Any], tmp_path: Path) -> None:
    source = random_backbone(BackboneConfig(**SIZES, heads=1, options=options))
    torch.save(source.export().state, tmp_path / "x.pth")
    loaded = load(weights=tmp_path / "x.pth").eval()
    assert torch.equal(loaded(IMAGES).patches, source(IMAGES).patches)


@pytest.mark.parametrize(
    ("name", "layout", "heads"),
    [
        ("vit_tiny_patch16_224", "timm", 3),
        ("vit_small_patch8_224", "DINO", 6),
        ("vit_small_patch16_224", "MoCo-v3", 12),
        ("vit_base_patch16_224", "MAE", 12),
        ("vit_base_patch8_224", "Leopart", 12),
        ("vit_large_patch16_384", "timm", 16),
        ("vit_huge_patch14_224", "MAE", 16),
        ("deit_small_distilled_patch16_224", "DeiT", 6),
    ],
)
def test_published_sizes(name: str, layout: str, heads: int) -> None:
    from vitrail.backbones.infer import infer

    with torch.device("meta"):
        vit = timm.create_model(name, num_classes=0)
    config, notes = infer(vit.state_dict(), layout)
    with torch.device("meta"):
        rebuilt = create(config)
    assert {key: value.shape for key, value in rebuilt.vit.state_dict().items()} == {
        key: value.shape for key, value in vit.state_dict().items()
    }
    assert rebuilt.heads == heads
    assert f"{heads} heads" in notes[0]


def test_shapes_that_do_not_tell(tmp_path: Path) -> None:
    source = random_backbone(BackboneConfig(**{**SIZES, "embed_dim": 48}, heads=3))
    torch.save(source.export().state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"width 48 is no multiple of 64.*name=BackboneConfig"):
        load(weights=tmp_path / "x.pth")
    assert load(BackboneConfig(**{**SIZES, "embed_dim": 48}, heads=3), tmp_path / "x.pth").heads == 3


class TestPositions:
    def test_interpolated_and_said(self, source: TimmViT, tmp_path: Path) -> None:
        torch.save(source.export().state, tmp_path / "x.pth")
        loaded = load(None, tmp_path / "x.pth", image_size=(48, 64)).eval()
        assert loaded.image_size == (48, 64)
        assert "positions interpolated from 4x4 to 6x8" in loaded.report.words()
        images = torch.randn(1, 3, 48, 64)
        torch.testing.assert_close(loaded(images).patches, source(images).patches, atol=1e-5, rtol=1e-5)

    def test_ours_remember_a_grid_that_is_not_square(self, tmp_path: Path) -> None:
        source = random_backbone(BackboneConfig(**{**SIZES, "image_size": (16, 64)}, heads=1))
        save_exported(source.export(), tmp_path / "x.safetensors")
        images = torch.randn(1, 3, 32, 32)  # as many patches: 4x4 instead of 2x8
        loaded = load(weights=tmp_path / "x.safetensors", image_size=32).eval()
        assert loaded.report.interpolated == "2x8 to 4x4"
        torch.testing.assert_close(loaded(images).patches, source(images).patches, atol=1e-5, rtol=1e-5)

    def test_others_say_what_is_unclear(self, tmp_path: Path) -> None:
        source = random_backbone(BackboneConfig(**{**SIZES, "image_size": (16, 24)}, heads=1))
        torch.save(source.export().state, tmp_path / "x.pth")
        with pytest.raises(ValueError, match="7 positions are no square grid plus 1 tokens"):
            load(weights=tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"7 positions.*image_size=\(height, width\)"):
            load(CONFIG, tmp_path / "x.pth")
        same = BackboneConfig(**{**SIZES, "image_size": (16, 24)}, heads=1)
        assert load(same, tmp_path / "x.pth").image_size == (16, 24)


class TestRefused:
    def test_missing_weights(self, source: TimmViT, tmp_path: Path) -> None:
        state = source.export().state
        del state["blocks.1.mlp.fc1.weight"], state["norm.bias"]
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(
            ValueError, match=r"only in part(.|\n)*missing.*\(2\): blocks\.1\.mlp\.fc1\.weight, norm\.bias"
        ):
            load(CONFIG, tmp_path / "x.pth")
        with pytest.warns(UserWarning, match="missing, left as initialized"):
            loaded = load(CONFIG, tmp_path / "x.pth", allow_partial=True)
        assert loaded.report.missing == ("blocks.1.mlp.fc1.weight", "norm.bias")

    @pytest.mark.parametrize("layout", [mugs, leopart])
    def test_half_of_other_layouts(self, layout: Any, source: TimmViT, tmp_path: Path) -> None:
        state = source.export().state | junk("blocks.0.adapter.weight")
        del state["blocks.1.mlp.fc1.weight"]
        torch.save(layout(state), tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"missing.*mlp\.fc1(.|\n)*unexpected.*blocks\.0\.adapter\.weight"):
            load(CONFIG, tmp_path / "x.pth")

    def test_unexpected_weights(self, source: TimmViT, tmp_path: Path) -> None:
        torch.save(source.export().state | junk("adapter.weight"), tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"unexpected, not used \(1\): adapter\.weight"):
            load(CONFIG, tmp_path / "x.pth")
        with pytest.warns(UserWarning, match="adapter"):
            load(CONFIG, tmp_path / "x.pth", allow_partial=True)

    def test_more_blocks_than_the_model_has(self, source: TimmViT, tmp_path: Path) -> None:
        torch.save(source.export().state, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"unexpected.*blocks\.1\."):
            load(BackboneConfig(**{**SIZES, "depth": 1}, heads=1), tmp_path / "x.pth")

    @pytest.mark.parametrize("partial", [False, True])
    def test_another_architecture_names_both_shapes(self, partial: bool, source: TimmViT, tmp_path: Path) -> None:
        torch.save(source.export().state, tmp_path / "x.pth")
        with pytest.raises(
            ValueError,
            match=r"another architecture than vit_tiny_patch16_224 \(width 192, 12 blocks\): cls_token is "
            r"\[1, 1, 64\] in the file and \[1, 1, 192\] in the model.*By its shapes it is .*width 64, 2 "
            r"blocks",
        ):
            load("vit_tiny_patch16_224", tmp_path / "x.pth", allow_partial=partial)

    def test_another_patch_size(self, source: TimmViT, tmp_path: Path) -> None:
        torch.save(source.export().state, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"proj.weight is \[64, 3, 8, 8\] in the file and \[64, 3, 16, 16\]"):
            load(BackboneConfig(**{**SIZES, "patch_size": 16}, heads=1), tmp_path / "x.pth")

    def test_no_vit(self, tmp_path: Path) -> None:
        torch.save({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"no Vision Transformer in this file.*'conv1.weight'"):
            load(CONFIG, tmp_path / "x.pth")
        torch.save([torch.zeros(3)], tmp_path / "y.pth")
        with pytest.raises(ValueError, match="holds a list, not a dictionary of weights"):
            load(CONFIG, tmp_path / "y.pth")

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    def test_truncated(self, suffix: str, share: float, source: TimmViT, tmp_path: Path) -> None:
        path = tmp_path / f"x{suffix}"
        if suffix == ".pth":
            torch.save(source.export().state, path)
        else:
            save_exported(source.export(), path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ValueError, match=r"empty \(0 bytes\)" if not share else "truncated, or no checkpoint"):
            load(CONFIG, path)

    def test_truncated_old_format(self, source: TimmViT, tmp_path: Path) -> None:
        path = tmp_path / "x.pth"
        torch.save(source.export().state, path, _use_new_zipfile_serialization=False)
        assert load(CONFIG, path).report.layout == "timm"
        content = path.read_bytes()
        for share in (0.01, 0.5):
            path.write_bytes(content[: int(len(content) * share)])
            with pytest.raises(ValueError, match="truncated, or no checkpoint"):
                load(CONFIG, path)

    def test_not_a_checkpoint_at_all(self, tmp_path: Path) -> None:
        for name in ("x.pth", "x.safetensors"):
            (tmp_path / name).write_text("hello, this is a text file\n" * 10)
            with pytest.raises(ValueError, match="truncated, or no checkpoint"):
                load(CONFIG, tmp_path / name)

    @pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WebP"])
    def test_an_image(self, form: str, tmp_path: Path) -> None:
        path = tmp_path / "photo.jpg"
        Image.new("RGB", (9, 7), (200, 10, 10)).save(path, form)
        with pytest.raises(ValueError, match=rf"photo\.jpg is an image \({form}\), not weights; give a checkpoint"):
            load(CONFIG, path)

    def test_a_pickle_that_runs_code(self, source: TimmViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "x.pth"
        torch.save({"model": source.export().state, "extra": nn.Linear(1, 1)}, path)
        with pytest.raises(ValueError, match=r"can run any code(.|\n)*convert it once") as caught:
            load(CONFIG, path)
        command = str(caught.value).split("python -c ", 1)[1].strip().strip('"')
        monkeypatch.chdir(tmp_path)
        exec(command, {})
        assert torch.equal(load(CONFIG, tmp_path / "weights.pth").vit.cls_token, source.vit.cls_token)

    def test_flax_and_absent_files(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", a=np.zeros(2))
        with pytest.raises(ValueError, match="Flax"):
            load(CONFIG, tmp_path / "x.npz")
        with pytest.raises(ValueError, match="no file of weights at"):
            load(CONFIG, tmp_path / "absent.pth")

    def test_no_weights_named(self) -> None:
        with pytest.raises(ValueError, match="load needs weights: 'pretrained', or the path"):
            load("vit_tiny_patch16_224")


class TestSurgery:
    """Fine-tuning keeps the architecture of pre-training: the four configurations of Table 4."""

    @pytest.mark.parametrize("preset", ["C", "D", "F"])
    def test_ours_remember_it(self, preset: str, tmp_path: Path) -> None:
        source = random_backbone(CONFIG.model_copy(update={"surgery": preset}))
        save_exported(source.export(), tmp_path / "x.safetensors")
        loaded = load(weights=tmp_path / "x.safetensors").eval()
        assert loaded.config.surgery == preset
        assert torch.equal(loaded(IMAGES).cls, source(IMAGES).cls)

    @pytest.mark.parametrize("named", [True, False])
    def test_inferred_from_the_missing_norm(self, named: bool, tmp_path: Path) -> None:
        source = random_backbone(CONFIG.model_copy(update={"surgery": "F"}))
        torch.save({"model": source.export().state}, tmp_path / "sar.pth")
        loaded = load(CONFIG if named else None, tmp_path / "sar.pth").eval()
        assert loaded.vit.blocks[-1].operated
        assert "blocks.1.norm2 is not there: trained with SAR's surgery" in loaded.report.words()
        assert torch.equal(loaded(IMAGES).cls, source(IMAGES).cls)

    def test_one_more_missing_tensor_is_no_surgery(self, tmp_path: Path) -> None:
        state = random_backbone().export().state
        del state["blocks.0.norm2.weight"], state["blocks.0.norm2.bias"]
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"missing.*blocks\.0\.norm2"):
            load(CONFIG, tmp_path / "x.pth")

    def test_table_4(self, tmp_path: Path) -> None:
        save_exported(random_backbone().export(), tmp_path / "plain.safetensors")
        save_exported(
            random_backbone(CONFIG.model_copy(update={"surgery": "F"})).export(), tmp_path / "sar.safetensors"
        )
        for pre in ("plain", "sar"):
            path = tmp_path / f"{pre}.safetensors"
            without = load(weights=path)  # fine-tuning without SAR
            assert without.vit.blocks[-1].operated is (pre == "sar")
            asked = CONFIG.model_copy(update={"surgery": "E" if pre == "plain" else "F"})
            assert load(asked, path).vit.blocks[-1].operated is (pre == "sar")
        with pytest.raises(ValueError, match="does not change between pre-training and fine-tuning"):
            load(CONFIG.model_copy(update={"surgery": "F"}), tmp_path / "plain.safetensors")
        with pytest.raises(ValueError, match="trained with surgery F"):
            load(CONFIG, tmp_path / "sar.safetensors")

    def test_others_plain_weights_into_a_surgery_model(self, tmp_path: Path) -> None:
        torch.save(random_backbone().export().state, tmp_path / "x.pth")
        operated = CONFIG.model_copy(update={"surgery": "C"})
        with pytest.raises(ValueError, match="trained with a plain last block"):
            load(operated, tmp_path / "x.pth")
        with pytest.warns(UserWarning, match=r"unexpected.*blocks\.1\.norm2"):
            assert load(operated, tmp_path / "x.pth", allow_partial=True).vit.blocks[-1].operated


class TestExported:
    def test_round_trip_without_a_name(self, source: TimmViT, tmp_path: Path) -> None:
        source.mean, source.std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
        save_exported(source.export(), tmp_path / "deep" / "x.safetensors")
        loaded = load(weights=tmp_path / "deep" / "x.safetensors", drop_path=0.3, gradient_checkpointing=True)
        assert loaded.config == CONFIG.model_copy(
            update={"image_size": (32, 32), "drop_path": 0.3, "gradient_checkpointing": True}
        )
        assert (loaded.mean, loaded.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        assert torch.equal(loaded.eval()(IMAGES).cls, source(IMAGES).cls)
        assert loaded.report.layout == "vitrail"

    def test_a_run_folder_and_a_path_alone(self, source: TimmViT, tmp_path: Path) -> None:
        save_exported(source.export(), tmp_path / "run" / "exported" / "backbone.safetensors")
        for loaded in (load(weights=tmp_path / "run"), load(str(tmp_path / "run")), load(tmp_path / "run")):
            assert torch.equal(loaded.eval()(IMAGES).cls, source(IMAGES).cls)
        with pytest.raises(ValueError, match=r"no file of weights at .*typo"):
            load(str(tmp_path / "typo"))
        with pytest.raises(ValueError, match="two places of weights"):
            load(tmp_path / "run", tmp_path / "typo")
        (tmp_path / "started").mkdir()
        with pytest.raises(ValueError, match=r"holds no exported/backbone.safetensors"):
            load(str(tmp_path / "started"))

    def test_timm_loads_it_strictly(self, tmp_path: Path) -> None:
        source = random_backbone(BackboneConfig(image_size=64, patch_size=16))
        save_exported(source.export(), tmp_path / "x.safetensors")
        vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0)
        vit.load_state_dict(load_file(tmp_path / "x.safetensors"), strict=True)
        images = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(
            vit.eval().forward_features(images)[:, 1:], source(images).patches, atol=1e-5, rtol=1e-5
        )
        again = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=64,
            num_classes=0,
            checkpoint_path=str(tmp_path / "x.safetensors"),
        )
        assert torch.equal(again.cls_token, source.vit.cls_token)

    def test_another_name_than_the_files(self, source: TimmViT, tmp_path: Path) -> None:
        save_exported(source.export(), tmp_path / "x.safetensors")
        assert load("vit_tiny_patch16_224", tmp_path / "x.safetensors").embed_dim == 64
        with pytest.raises(ValueError, match="holds a vit_tiny_patch16_224, not a vit_small_patch16_224"):
            load("vit_small_patch16_224", tmp_path / "x.safetensors")

    def test_a_failed_save_leaves_the_old_file(
        self, source: TimmViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "x.safetensors"
        save_exported(source.export(), path)
        before = path.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_exported(random_backbone(seed=1).export(), path)
        assert path.read_bytes() == before
        assert [each.name for each in tmp_path.iterdir()] == ["x.safetensors"]

    def test_shared_and_strided_tensors(self, tmp_path: Path) -> None:
        value = torch.arange(6.0).reshape(2, 3)
        save_exported(Exported({"a": value.t(), "b": value.t()}, {}), tmp_path / "x.safetensors")
        assert torch.equal(load_file(tmp_path / "x.safetensors")["b"], value.t())

    def test_half_precision_weights(self, source: TimmViT, tmp_path: Path) -> None:
        torch.save({name: value.half() for name, value in source.export().state.items()}, tmp_path / "x.pth")
        loaded = load(CONFIG, tmp_path / "x.pth", image_size=48)
        assert {value.dtype for value in loaded.parameters()} == {torch.float32}


class TestClassifier:
    def test_ours(self, source: TimmViT, tmp_path: Path) -> None:
        head = nn.Linear(64, 3)
        exported = source.export()
        state = exported.state | {f"head.{name}": value for name, value in head.state_dict().items()}
        metadata = exported.metadata | {"classes": ["ant", "bee", "cat"]}
        save_exported(Exported(state, metadata), tmp_path / "x.safetensors")
        backbone, loaded, classes, pool = load_classifier(tmp_path / "x.safetensors")
        assert (classes, pool) == (("ant", "bee", "cat"), "cls")
        assert torch.equal(loaded(backbone.eval()(IMAGES).cls), head(source(IMAGES).cls))
        assert load(weights=tmp_path / "x.safetensors").report.ignored == ("head.bias", "head.weight")
        vit = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=32,
            patch_size=8,
            embed_dim=64,
            depth=2,
            num_heads=1,
            num_classes=3,
        )
        vit.load_state_dict(load_file(tmp_path / "x.safetensors"), strict=True)
        torch.testing.assert_close(vit.eval()(IMAGES), head(source(IMAGES).cls), atol=1e-5, rtol=1e-5)

    def test_the_mean_of_the_patches(self, source: TimmViT, tmp_path: Path) -> None:
        """The file says what its head reads; timm does the same with global_pool="avg" and without fc_norm."""
        head, exported = nn.Linear(64, 3), source.export()
        state = exported.state | {f"head.{name}": value for name, value in head.state_dict().items()}
        metadata = exported.metadata | {"classes": ["ant", "bee", "cat"]}
        save_exported(Exported(state, metadata | {"pool": "mean"}), tmp_path / "x.safetensors")
        backbone, loaded, _, pool = load_classifier(tmp_path / "x.safetensors")
        assert pool == "mean"
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 3}
        vit = timm.create_model("vit_tiny_patch16_224", **sizes, global_pool="avg", fc_norm=False)
        vit.load_state_dict(load_file(tmp_path / "x.safetensors"), strict=True)
        found = loaded(backbone.eval()(IMAGES).patches.mean(1))
        torch.testing.assert_close(vit.eval()(IMAGES), found, atol=1e-5, rtol=1e-5)
        save_exported(Exported(state, metadata | {"pool": "most"}), tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=r"x\.safetensors says that its classifier reads 'most'.*'cls' and 'mean'"):
            load_classifier(tmp_path / "x.safetensors")

    @pytest.mark.parametrize("kind", ["DeiT", "Hugging Face", "timm, with a head"])
    def test_others(self, kind: str, source: TimmViT, tmp_path: Path) -> None:
        torch.save(LAYOUTS[kind][1](source.export().state), tmp_path / "x.pth")
        _, head, classes, _ = load_classifier(tmp_path / "x.pth")
        assert head.out_features == 5
        assert classes is None
        assert head.weight.min() == 1
        assert not head.bias.any()

    def test_files_without_one(self, source: TimmViT, tmp_path: Path) -> None:
        torch.save(dino(source.export().state), tmp_path / "x.pth")
        with pytest.raises(ValueError, match="holds no classifier"):
            load_classifier(tmp_path / "x.pth")

    def test_average_pooling_is_refused(self, tmp_path: Path) -> None:
        source = random_backbone(BackboneConfig(**SIZES, heads=1, options={"global_pool": "avg"}))
        torch.save(source.export().state | {"head.weight": torch.ones(5, 64)}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match="average of the patches"):
            load_classifier(tmp_path / "x.pth")


class TestPixels:
    @pytest.mark.parametrize(
        ("kind", "name", "mean"),
        [
            ("DINO", CONFIG, 0.485),
            ("MAE", CONFIG, 0.485),
            ("MoCo-v3", None, 0.485),
            ("timm, flat", CONFIG, 0.5),
            ("timm, flat", None, 0.485),
            ("Hugging Face", None, 0.5),
        ],
    )
    def test_follow_the_layout(
        self, kind: str, name: BackboneConfig | None, mean: float, source: TimmViT, tmp_path: Path
    ) -> None:
        torch.save(LAYOUTS[kind][1](source.export().state), tmp_path / "x.pth")
        loaded = load(name, tmp_path / "x.pth")
        assert loaded.mean[0] == mean
        assert f"normalized by mean {mean}" in loaded.report.words()

    def test_a_bare_file_under_a_bare_name_is_a_paper_s(self, tmp_path: Path) -> None:
        """DINO's files for download have timm's keys and nothing else; timm's own weights of this name want 0.5."""
        for name, mean in (("vit_tiny_patch16_224", 0.485), ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 0.5)):
            torch.save(timm.create_model(name, pretrained=False).state_dict(), tmp_path / "x.pth")
            loaded = load(name, tmp_path / "x.pth")
            assert loaded.mean[0] == mean
            assert ("give the name with its tag" in loaded.report.words()) == (mean == 0.485)


class TestPretrained:
    def test_offline_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: object, **kwargs: object) -> None:
            raise ConnectionError("Network is unreachable")

        monkeypatch.setattr(timm, "create_model", fail)
        with pytest.raises(ValueError, match="Network is unreachable") as caught:
            load("vit_small_patch16_224.dino", "pretrained")
        words = str(caught.value)
        assert "https://huggingface.co/timm/vit_small_patch16_224.dino" in words
        assert "model.safetensors" in words
        assert "HF_HOME" in words

    def test_as_timm_offers_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = timm.create_model

        def offline(name: str, pretrained: bool, **options: Any) -> nn.Module:
            assert pretrained
            return original(name, pretrained=False, depth=1, **options)

        monkeypatch.setattr(timm, "create_model", offline)
        backbone = load("vit_tiny_patch16_224", "pretrained", image_size=64)
        assert backbone.image_size == (64, 64)
        assert backbone.report.layout == "timm pretrained"

    def test_names(self) -> None:
        with pytest.raises(ConfigError, match="did you mean vit_small"):
            load("vit_smal_patch16_224", "pretrained")
        with pytest.raises(ValueError, match="need a name"):
            load(None, "pretrained")
        with pytest.raises(ValueError, match=r"it offers vit_small_patch8_224.*dino"):
            load("vit_small_patch8_224.nothing", "pretrained")
        with pytest.raises(ValueError, match="no weights under the name vit_giant_patch14_224"):
            load("vit_giant_patch14_224", "pretrained")
        with pytest.raises(ValueError, match="surgery F changes the last block"):
            load(BackboneConfig(surgery="F"), "pretrained")


def test_digest_sees_weights_and_switches() -> None:
    source = random_backbone()
    assert digest(source) == digest(random_backbone())
    assert digest(random_backbone(CONFIG.model_copy(update={"drop_path": 0.1}))) == digest(source)
    assert digest(random_backbone(CONFIG.model_copy(update={"surgery": "B"}))) != digest(source)
    with torch.no_grad():
        source.vit.cls_token[0, 0, 0] += 1e-6
    assert digest(source) != digest(random_backbone())


def test_imports_are_lazy_and_complete() -> None:
    code = "import sys, vitrail.backbones; print({'timm', 'torch'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"
    for name in rooms.__all__:
        assert callable(getattr(rooms, name)) or name == "AnyBackbone", name
    with pytest.raises(AttributeError, match="nothing"):
        _ = rooms.nothing
