"""What stands beside a backbone: decoders that predict as MAE's own, heads as they stand, parts of our own files."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from vitrail.backbones import (
    BackboneConfig,
    Part,
    TimmViT,
    create,
    load,
    load_classifier,
    load_part,
    need_part,
    save_exported,
    with_part,
)
from vitrail.backbones.layouts import recognize
from vitrail.backbones.mae_decoder import read_decoder
from vitrail.contracts import Exported
from vitrail.nn.masked_autoencoder import DecoderConfig, MaskedDecoder
from vitrail.nn.prototype_head import HeadConfig, PrototypeHead
from vitrail.ops.patches import unpatchify

WIDTH, WIDE, DEPTH, HEADS = 24, 64, 2, 2
SIZES: dict[str, Any] = {"image_size": 32, "embed_dim": WIDTH, "depth": 2, "heads": 2}
CONFIG = BackboneConfig(**SIZES, patch_size=8)
ONE = torch.ones(6, WIDTH)


class PlainBlock(nn.Module):
    """A pre-norm transformer block with the names that MAE's files have."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(wide, eps=1e-6), nn.LayerNorm(wide, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(wide, 3 * wide), "proj": nn.Linear(wide, wide)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(wide, 4 * wide), "fc2": nn.Linear(4 * wide, wide)})

    def forward(self, x: Tensor) -> Tensor:
        batch, count, wide = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).reshape(batch, count, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
        x = x + self.attn["proj"]((weights @ v).transpose(1, 2).reshape(batch, count, wide))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class PlainDecoder(nn.Module):
    """MAE's decoder as the paper tells it: append mask tokens, unshuffle, add positions, run, drop the class token.

    Its names are those of the released files, and a patch it predicts holds row, column, channel.
    """

    def __init__(self, grid: tuple[int, int], patch: tuple[int, int]) -> None:
        super().__init__()
        self.decoder_embed = nn.Linear(WIDTH, WIDE)
        self.mask_token = nn.Parameter(torch.randn(1, 1, WIDE))
        self.decoder_pos_embed = nn.Parameter(positions(grid), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(PlainBlock(WIDE) for _ in range(DEPTH))
        self.decoder_norm = nn.LayerNorm(WIDE, eps=1e-6)
        self.decoder_pred = nn.Linear(WIDE, patch[0] * patch[1] * 3)

    def forward(self, latent: Tensor, restore: Tensor) -> Tensor:
        """Class and visible tokens `[B, 1 + K, D]`; `restore[b, n]` is where patch n stands in the shuffled row."""
        x = self.decoder_embed(latent)
        masks = self.mask_token.repeat(len(x), restore.shape[1] + 1 - x.shape[1], 1)
        row = torch.cat([x[:, 1:], masks], dim=1)
        row = torch.stack([tokens[order] for tokens, order in zip(row, restore)])
        x = torch.cat([x[:, :1], row], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]


def positions(grid: tuple[int, int]) -> Tensor:
    """`[1, 1 + N, WIDE]`: zeros for the class token; column, then row; each its sines, then its cosines."""
    across, down = np.meshgrid(np.arange(grid[1], dtype=np.float64), np.arange(grid[0], dtype=np.float64))
    rates = 1 / 10000 ** (np.arange(WIDE // 4) / (WIDE / 4))
    halves = [np.outer(axis.reshape(-1), rates) for axis in (across, down)]
    table = np.concatenate([each for half in halves for each in (np.sin(half), np.cos(half))], axis=1)
    return torch.from_numpy(np.concatenate([np.zeros((1, WIDE)), table])).float()[None]


def random(module: nn.Module, seed: int = 0) -> Any:
    """The module with every parameter moved from its start, positions excepted."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.2)
    return module.eval()


def backbone_state(patch: int | tuple[int, int] = 8, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return random(create(BackboneConfig(**SIZES, patch_size=patch)), seed).export().state


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.fixture
def reference() -> PlainDecoder:
    return random(PlainDecoder((4, 4), (8, 8)))


@pytest.fixture
def mae_file(reference: PlainDecoder, tmp_path: Path) -> Path:
    path = tmp_path / "mae.pth"
    torch.save({"model": backbone_state() | reference.state_dict(), "epoch": 3}, path)
    return path


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names for a decoder's weights."""
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense"}
    names |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense", "decoder_blocks": "decoder_layers"}
    renamed = {}
    for name, value in state.items():
        for theirs, other in names.items():
            name = name.replace(theirs, other)
        if "attn.qkv" in name:
            for part, piece in zip(("query", "key", "value"), value.chunk(3)):
                renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = piece.clone()
        else:
            renamed[name] = value
    return prefixed(renamed, "decoder.")


def hugging_face_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    names |= {"patch_embed.proj": "embeddings.patch_embeddings.projection"}
    renamed = to_hugging_face({name.replace("blocks.", "encoder.layer."): value for name, value in state.items()})
    plain = {name.removeprefix("decoder."): value for name, value in renamed.items()}
    plain = {("layernorm" + name[4:] if name.startswith("norm.") else name): value for name, value in plain.items()}
    for ours, theirs in names.items():
        plain = {name.replace(ours, theirs): value for name, value in plain.items()}
    return prefixed(plain, "vit.")


def loaded(part: Part | None, patch: tuple[int, int] = (8, 8)) -> MaskedDecoder:
    assert part is not None
    decoder = MaskedDecoder(DecoderConfig.parse(part.config), WIDTH, patch)
    part.fill(decoder)
    return decoder.eval()


@torch.no_grad()
def compare(decoder: MaskedDecoder, reference: PlainDecoder, grid: tuple[int, int], patch: tuple[int, int]) -> None:
    """Ours and the reference predict the same pictures from the same tokens."""
    count, kept = grid[0] * grid[1], 5
    generator = torch.Generator().manual_seed(2)
    shuffled = torch.stack([torch.randperm(count, generator=generator) for _ in range(2)])
    latent = torch.randn(2, 1 + kept, WIDTH, generator=generator)
    theirs = reference(latent, shuffled.argsort(dim=1))
    found = decoder(latent[:, 0], latent[:, 1:], shuffled[:, :kept], grid)
    by_channel = theirs.reshape(2, count, *patch, 3).permute(0, 1, 4, 2, 3).flatten(2)
    torch.testing.assert_close(found, by_channel, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, theirs, atol=0.1)  # the order matters
    picture = theirs.reshape(2, *grid, *patch, 3).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
    torch.testing.assert_close(unpatchify(found, grid, patch), picture, atol=1e-5, rtol=1e-5)


class TestMaeDecoder:
    def test_predicts_as_the_reference(self, reference: PlainDecoder, mae_file: Path) -> None:
        part = load_part(mae_file, "decoder")
        assert part is not None
        assert part.config == {"embed_dim": WIDE, "depth": DEPTH, "heads": HEADS}
        compare(loaded(part), reference, (4, 4), (8, 8))

    def test_patches_and_grids_that_are_not_square(self, tmp_path: Path) -> None:
        reference = random(PlainDecoder((4, 8), (8, 4)))
        torch.save({"model": backbone_state((8, 4)) | reference.state_dict()}, tmp_path / "x.pth")
        compare(loaded(load_part(tmp_path / "x.pth", "decoder"), (8, 4)), reference, (4, 8), (8, 4))

    @pytest.mark.parametrize("kind", ["flat", "safetensors", "data parallel", "Lightning", "Hugging Face", "student"])
    def test_however_it_is_wrapped(self, kind: str, reference: PlainDecoder, tmp_path: Path) -> None:
        encoder, decoder = backbone_state(), reference.state_dict()
        path = tmp_path / ("x.safetensors" if kind in ("safetensors", "Hugging Face") else "x.pth")
        whole = encoder | decoder
        if kind == "Hugging Face":
            save_file(hugging_face_encoder(encoder) | to_hugging_face(decoder), path)
        elif kind == "safetensors":
            save_file(whole, path)
        else:
            wrapped = {
                "flat": whole,
                "data parallel": {"state_dict": prefixed(whole, "module.")},
                "Lightning": {"state_dict": prefixed(whole, "model.backbone.")},
                "student": {"student": whole},
            }
            torch.save(wrapped[kind], path)
        compare(loaded(load_part(path, "decoder")), reference, (4, 4), (8, 8))
        report = load(CONFIG, path).report
        assert (report.missing, report.unexpected) == ((), ())
        assert sum("decoder" in name or "mask_token" in name for name in report.ignored) >= len(decoder)

    def test_the_backbone_of_the_same_file(self, reference: PlainDecoder, mae_file: Path) -> None:
        backbone = load(CONFIG, mae_file)
        assert backbone.report.layout == "MAE"
        assert set(backbone.report.matched) == set(backbone_state())
        assert set(backbone.report.ignored) == set(reference.state_dict())
        assert f"beside the backbone, not part of it ({len(reference.state_dict())})" in backbone.report.words()
        assert all(torch.equal(value, backbone_state()[name]) for name, value in backbone.vit.state_dict().items())

    def test_what_is_guessed_is_said(self, mae_file: Path) -> None:
        part = load_part(mae_file, "decoder")
        assert part is not None
        words = "; ".join(part.notes)
        assert "2 attention heads in the decoder are a guess (32 channels each" in words
        assert "does not say what it predicts" in words
        told = load_part(mae_file, "decoder", heads=4)
        assert told is not None
        assert told.config["heads"] == 4
        assert "guess" not in "; ".join(told.notes)
        with pytest.raises(ValueError, match=r"mae\.pth: its decoder: embed_dim 64 is not a multiple of heads 3"):
            load_part(mae_file, "decoder", heads=3)

    @pytest.mark.parametrize(("flag", "words"), [(True, "normalized within each patch"), (False, "plain pixels")])
    def test_what_it_predicts_is_read_from_its_arguments(
        self, flag: bool, words: str, reference: PlainDecoder, tmp_path: Path
    ) -> None:
        content = {
            "model": backbone_state() | reference.state_dict(),
            "args": argparse.Namespace(norm_pix_loss=flag),
        }
        torch.save(content, tmp_path / "x.pth")
        part = load_part(tmp_path / "x.pth", "decoder")
        assert part is not None
        assert part.notes[-1] == f"it predicts {'pixels ' if flag else ''}{words}, as its args say"

    def test_half_precision(self, reference: PlainDecoder, tmp_path: Path) -> None:
        whole = backbone_state() | reference.state_dict()
        torch.save({"model": {name: value.half() for name, value in whole.items()}}, tmp_path / "x.pth")
        decoder = loaded(load_part(tmp_path / "x.pth", "decoder"))
        assert decoder.predict.weight.dtype == torch.float32

    def test_an_encoder_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "mae_pretrain_vit_base.pth"
        torch.save({"model": backbone_state()}, path)
        assert load_part(path, "decoder") is None
        with pytest.raises(
            ValueError, match=r"mae_pretrain_vit_base\.pth holds a backbone without its decoder"
        ) as caught:
            need_part(path, "decoder")
        assert "mae_visualize_* and *_full" in str(caught.value)
        assert "run folders" in str(caught.value)

    def test_published_sizes(self) -> None:
        with torch.device("meta"):
            encoder = create(BackboneConfig(name="vit_base_patch16_224")).vit.state_dict()
            ours = MaskedDecoder(DecoderConfig(), 768, (16, 16)).state_dict()
        names = {"embed.": "decoder_embed.", "blocks.": "decoder_blocks.", "norm.": "decoder_norm."}
        names |= {"predict.": "decoder_pred.", "mask_token": "mask_token"}
        theirs = {
            old + name[len(new) :]: value
            for name, value in ours.items()
            for new, old in names.items()
            if name.startswith(new)
        }
        found = read_decoder(recognize({"model": encoder | theirs}))
        assert found is not None
        assert found[1] == DecoderConfig(embed_dim=512, depth=8, heads=16)
        assert "as MAE's published decoders have" in found[2][0]


class TestRefusedDecoders:
    @pytest.mark.parametrize(
        ("gone", "words"),
        [
            ("decoder_pred.bias", r"it lacks predict\.bias"),
            ("decoder_blocks.0.mlp.fc1.weight", r"it lacks blocks\.0\.mlp\.fc1\.weight"),
            ("mask_token", "only a part of MAE's decoder"),
            ("decoder_blocks.", "only a part of MAE's decoder"),
        ],
    )
    def test_half_a_decoder(self, gone: str, words: str, reference: PlainDecoder, tmp_path: Path) -> None:
        whole = backbone_state() | reference.state_dict()
        kept = {name: value for name, value in whole.items() if not name.startswith(gone)}
        torch.save({"model": kept}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=rf"x\.pth: .*{words}"):
            load_part(tmp_path / "x.pth", "decoder")
        assert load(CONFIG, tmp_path / "x.pth").report.missing == ()

    @pytest.mark.parametrize(
        ("name", "shape", "words"),
        [
            ("decoder_pred.weight", (48, WIDE), r"predict\.weight is \[48, 64\] in the file and \[192, 64\]"),
            ("decoder_embed.weight", (WIDE, 32), r"embed\.weight is \[64, 32\] in the file and \[64, 24\]"),
            (
                "mask_token",
                (1, 1, 96),
                r"embed\.weight is \[64, 24\] in the file and \[96, 24\].*; and \d+ more",
            ),
            ("mask_token", (1, 1, 48), r"48 wide, no multiple of 32.*heads=\.\.\."),
            ("decoder_blocks.0.extra", (3,), r"it has besides blocks\.0\.extra"),
        ],
    )
    def test_shapes(
        self, name: str, shape: tuple[int, ...], words: str, reference: PlainDecoder, tmp_path: Path
    ) -> None:
        torch.save(
            {"model": backbone_state() | reference.state_dict() | {name: torch.zeros(shape)}}, tmp_path / "x.pth"
        )
        with pytest.raises(ValueError, match=words):
            load_part(tmp_path / "x.pth", "decoder")

    def test_positions_that_were_learned(self, reference: PlainDecoder, tmp_path: Path) -> None:
        state = reference.state_dict()
        state["decoder_pos_embed"] = state["decoder_pos_embed"] + 0.05
        torch.save({"model": backbone_state() | state}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"decoder_pos_embed \[1, 17, 64\] are not MAE's fixed sines"):
            load_part(tmp_path / "x.pth", "decoder")

    def test_unreadable_files(self, mae_file: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no file of weights at"):
            load_part(tmp_path / "absent.pth", "decoder")
        content = mae_file.read_bytes()
        mae_file.write_bytes(content[: len(content) // 2])
        for read in (load_part, need_part):
            with pytest.raises(ValueError, match="truncated, or no checkpoint"):
                read(mae_file, "decoder")
        torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"x\.pth: there is no Vision Transformer"):
            load_part(tmp_path / "x.pth", "decoder")
        torch.save({"model": backbone_state(), "extra": nn.Linear(1, 1)}, tmp_path / "y.pth")
        with pytest.raises(ValueError, match="can run any code"):
            load_part(tmp_path / "y.pth", "decoder")


def head(value: float, *, patches: int | None = None) -> dict[str, Tensor]:
    """A projection head under DINO's names; `patches` adds iBOT's second last layer."""
    sizes = {"mlp.0": (12, WIDTH), "mlp.2": (12, 12), "mlp.4": (6, 12)}
    state = {f"{name}.weight": torch.full(shape, value) for name, shape in sizes.items()}
    state |= {f"{name}.bias": torch.full(shape[:1], value) for name, shape in sizes.items()}
    lasts = {"last_layer": 10} | ({} if patches is None else {"last_layer2": patches})
    for name, outputs in lasts.items():
        state[f"{name}.weight_g"] = torch.ones(outputs, 1)
        state[f"{name}.weight_v"] = torch.full((outputs, 6), value)
    return state


def self_distilled(kind: str, patches: int | None = None) -> dict[str, Any]:
    backbone, other = backbone_state(), backbone_state(seed=1)
    student = prefixed(other, "module.backbone.") | prefixed(head(2.0, patches=patches), "module.head.")
    centers = {"center": torch.ones(1, 10)}
    if kind == "ibot":
        student["module.backbone.masked_embed"] = torch.zeros(1, WIDTH)
        centers["center2"] = torch.full((1, 1, patches or 10), 2.0)
    return {
        "student": student,
        "teacher": prefixed(backbone, "backbone.") | prefixed(head(1.0, patches=patches), "head."),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small"),
        f"{kind}_loss": centers,
    }


class TestHeads:
    @pytest.mark.parametrize(("kind", "patches"), [("dino", None), ("ibot", None), ("ibot", 7), ("ibot", 10)])
    def test_of_student_and_teacher(self, kind: str, patches: int | None, tmp_path: Path) -> None:
        path = tmp_path / "checkpoint.pth"
        torch.save(self_distilled(kind, patches), path)
        for key, value in (("auto", 1.0), ("teacher", 1.0), ("student", 2.0)):
            part = load_part(path, "projector", checkpoint_key=key)
            assert part is not None
            assert part.config == {}
            expected = head(value, patches=patches)
            assert part.state.keys() == expected.keys()
            assert all(torch.equal(part.state[name], expected[name]) for name in expected)
            report = load(CONFIG, path, checkpoint_key=key).report
            assert report.layout == {"dino": "DINO", "ibot": "iBOT"}[kind]
            assert (report.missing, report.unexpected) == ((), ())
            assert sum("head." in name for name in report.ignored) == len(expected)
            assert f"beside the backbone, not part of it ({len(report.ignored)})" in report.words()

    def test_centers(self, tmp_path: Path) -> None:
        torch.save(self_distilled("ibot", 7), tmp_path / "ibot.pth")
        torch.save(self_distilled("dino"), tmp_path / "dino.pth")
        both, one = load_part(tmp_path / "ibot.pth", "centers"), load_part(tmp_path / "dino.pth", "centers")
        assert both is not None
        assert one is not None
        assert {name: tuple(value.shape) for name, value in both.state.items()} == {
            "center": (1, 10),
            "center2": (1, 1, 7),
        }
        assert list(one.state) == ["center"]

    def test_an_own_head_that_it_fills(self, tmp_path: Path) -> None:
        torch.save(self_distilled("dino"), tmp_path / "x.pth")
        part = need_part(tmp_path / "x.pth", "projector")
        module = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, 12))})
        with pytest.raises(ValueError, match=r"x\.pth does not fit this ModuleDict: it has besides mlp\.4\.weight"):
            part.fill(module)
        assert not (module["mlp"][0].weight == 1).any()

    def test_backbones_alone(self, tmp_path: Path) -> None:
        """Published backbones, and classifiers that share the word head."""
        state = backbone_state()
        classifier = {"head.weight": torch.ones(5, WIDTH), "head.bias": torch.zeros(5)}
        files: dict[str, dict[str, Any]] = {
            "flat": state,
            "teacher": {"teacher": prefixed(state, "backbone.")},
            "linear": {"teacher": prefixed(state, "backbone.") | classifier},
            "deit": {"model": state | classifier},
        }
        for name, content in files.items():
            torch.save(content, tmp_path / f"{name}.pth")
            for part in ("projector", "decoder", "predictor", "centers", "nothing"):
                assert load_part(tmp_path / f"{name}.pth", part) is None, (name, part)
        with pytest.raises(ValueError, match=r"flat\.pth holds no projector beside the backbone; full checkpoints"):
            need_part(tmp_path / "flat.pth", "projector")

    def test_moco(self, tmp_path: Path) -> None:
        mlp = {"0.weight": torch.ones(12, WIDTH), "1.running_mean": torch.zeros(12), "3.weight": torch.ones(6, 12)}
        predictor = {"0.weight": torch.full((12, 6), 3.0)}
        state = {
            **prefixed(backbone_state(), "module.base_encoder."),
            **prefixed(mlp, "module.base_encoder.head."),
            **prefixed(backbone_state(seed=1), "module.momentum_encoder."),
            **prefixed({name: 2 * value for name, value in mlp.items()}, "module.momentum_encoder.head."),
            **prefixed(predictor, "module.predictor."),
        }
        torch.save({"epoch": 300, "arch": "vit_small", "state_dict": state}, tmp_path / "x.pth")
        base = need_part(tmp_path / "x.pth", "projector").state
        momentum = need_part(tmp_path / "x.pth", "projector", checkpoint_key="momentum_encoder").state
        assert base.keys() == momentum.keys() == mlp.keys()
        assert base["0.weight"].max() == 1
        assert momentum["0.weight"].max() == 2
        assert torch.equal(need_part(tmp_path / "x.pth", "predictor").state["0.weight"], predictor["0.weight"])
        report = load(CONFIG, tmp_path / "x.pth").report
        assert (report.missing, report.unexpected) == ((), ())
        assert {"head.0.weight", "module.predictor.0.weight"} <= set(report.ignored)

    def test_mugs(self, tmp_path: Path) -> None:
        """The head for groups is DINO's; those for instances and neighbors, and the blocks for them, stay out."""
        given = {name: torch.randn(value.shape) for name, value in head(1.0).items()} | {
            "last_layer.weight_g": torch.ones(10, 1)
        }
        groups = {name.replace("mlp.", "projector."): value for name, value in given.items()}
        network = prefixed(backbone_state(), "backbone.") | prefixed(groups, "group_head.")
        network |= {"backbone.relation_blocks.0.norm1.bias": torch.ones(WIDTH), "instance_head.projector.0.weight": ONE}
        student = prefixed({name: value + 1 for name, value in network.items()}, "module.")
        torch.save({"student": student, "teacher": network}, tmp_path / "x.pth")
        part = need_part(tmp_path / "x.pth", "projector")
        assert part.state.keys() == given.keys()
        assert all(torch.equal(part.state[name], given[name]) for name in given)
        other = need_part(tmp_path / "x.pth", "projector", checkpoint_key="student").state
        assert torch.equal(other["mlp.0.bias"], given["mlp.0.bias"] + 1)
        self.check_logits(part, given, given["last_layer.weight_v"])
        report = load(CONFIG, tmp_path / "x.pth").report
        assert (report.layout, report.missing, report.unexpected) == ("Mugs", (), ())

    @pytest.mark.parametrize("layers", [1, 3])
    def test_leopart(self, layers: int, tmp_path: Path) -> None:
        """Its head is one for patches; there is none for the class token."""
        given = {name: torch.randn(value.shape) for name, value in head(1.0).items() if name.startswith("mlp.")}
        if layers == 1:
            given = {"mlp.0.weight": torch.randn(6, WIDTH), "mlp.0.bias": torch.randn(6)}
        prototypes = torch.randn(10, 6)
        theirs = {name.replace("mlp." if layers > 1 else "mlp.0.", "projection_head."): given[name] for name in given}
        network = backbone_state() | theirs | {"prototypes.weight": prototypes}
        torch.save({"state_dict": prefixed(network, "model.")}, tmp_path / "x.ckpt")
        part = need_part(tmp_path / "x.ckpt", "patch_projector")
        assert part.state.keys() == {*given, "prototypes"}
        self.check_logits(part, given, prototypes)
        assert load_part(tmp_path / "x.ckpt", "projector") is None
        report = load(CONFIG, tmp_path / "x.ckpt").report
        assert (report.layout, report.missing, report.unexpected) == ("Leopart", (), ())

    def check_logits(self, part: Part, mlp: dict[str, Tensor], prototypes: Tensor) -> None:
        """A head of ours, filled by the part, against the same layers one after the other."""
        layers = sum(name.startswith("mlp.") and name.endswith("weight") for name in mlp)
        sizes = HeadConfig(prototypes=10, hidden_dim=12, bottleneck_dim=6, layers=layers)
        ours = PrototypeHead(sizes, WIDTH)
        part._replace(state=ours.translated(part.state)).fill(ours)
        tokens = torch.randn(4, WIDTH)
        found = tokens
        for number in range(0, 2 * layers, 2):
            found = functional.linear(found, mlp[f"mlp.{number}.weight"], mlp[f"mlp.{number}.bias"])
            found = functional.gelu(found) if number < 2 * layers - 2 else found
        expected = functional.normalize(found, dim=-1) @ functional.normalize(prototypes, dim=-1).T
        torch.testing.assert_close(ours(tokens), expected, atol=1e-6, rtol=1e-5)


class TestOurs:
    @pytest.fixture
    def backbone(self) -> TimmViT:
        return random(create(CONFIG))

    @pytest.fixture
    def decoder(self) -> MaskedDecoder:
        return random(MaskedDecoder(DecoderConfig(embed_dim=WIDE, depth=1, heads=4), WIDTH, (8, 8), (4, 4)), seed=3)

    def test_round_trip(self, backbone: TimmViT, decoder: MaskedDecoder, tmp_path: Path) -> None:
        exported = with_part(backbone.export(), "decoder", decoder, decoder.config)
        exported = with_part(exported, "ranker", nn.Linear(WIDTH, 1), {"kind": "linear"})
        path = tmp_path / "run" / "exported" / "backbone.safetensors"
        save_exported(exported, path)
        for where in (path, tmp_path / "run"):
            part = load_part(where, "decoder")
            assert part is not None
            assert DecoderConfig.parse(part.config) == decoder.config
            again = MaskedDecoder(DecoderConfig.parse(part.config), WIDTH, (8, 8))
            part.fill(again)
            for name, value in decoder.state_dict().items():
                assert torch.equal(again.state_dict()[name], value)
            assert need_part(where, "ranker").config == {"kind": "linear"}
            assert load_part(where, "projector") is None
        with pytest.raises(ValueError, match="holds no projector"):
            need_part(path, "projector")

    def test_load_passes_them_by_and_says_so(self, backbone: TimmViT, decoder: MaskedDecoder, tmp_path: Path) -> None:
        exported = with_part(backbone.export(), "decoder", decoder, decoder.config)
        # A whole second ViT, under a name that the search for a backbone prefers.
        exported = with_part(exported, "teacher", random(create(CONFIG), seed=5).vit, CONFIG)
        exported = with_part(exported, "ranker", nn.Linear(WIDTH, 1), {})
        save_exported(exported, tmp_path / "x.safetensors")
        found = load(weights=tmp_path / "x.safetensors")
        assert torch.equal(found.vit.cls_token, backbone.vit.cls_token)
        report = found.report
        assert (report.layout, report.missing, report.unexpected) == ("vitrail", (), ())
        assert set(report.matched) == set(backbone.vit.state_dict())
        assert set(report.ignored) == set(exported.state) - set(backbone.vit.state_dict())
        assert "also there: decoder, teacher, ranker; vitrail.backbones.load_part reads it" in report.words()
        assert set(found.export().state) == set(backbone.export().state)

    def test_a_classifier_beside_parts(self, backbone: TimmViT, decoder: MaskedDecoder, tmp_path: Path) -> None:
        classifier, plain = nn.Linear(WIDTH, 3), backbone.export()
        state = plain.state | {f"head.{name}": value for name, value in classifier.state_dict().items()}
        labeled = Exported(state, plain.metadata | {"classes": ["ant", "bee", "cat"]})
        save_exported(with_part(labeled, "decoder", decoder, decoder.config), tmp_path / "x.safetensors")
        _, head, classes, _ = load_classifier(tmp_path / "x.safetensors")
        assert torch.equal(head.weight, classifier.weight)
        assert classes == ("ant", "bee", "cat")

    def test_files_without_parts_read_as_before(self, backbone: TimmViT, tmp_path: Path) -> None:
        save_exported(backbone.export(), tmp_path / "x.safetensors")
        assert load_part(tmp_path / "x.safetensors", "decoder") is None
        report = load(weights=tmp_path / "x.safetensors").report
        assert report.ignored == ()
        assert "also there" not in report.words()

    def test_another_size_is_refused_whole(self, backbone: TimmViT, decoder: MaskedDecoder, tmp_path: Path) -> None:
        save_exported(with_part(backbone.export(), "decoder", decoder, decoder.config), tmp_path / "x.safetensors")
        other = MaskedDecoder(decoder.config, WIDTH, (16, 16))
        before = other.embed.weight.clone()
        with pytest.raises(
            ValueError,
            match=r"x\.safetensors does not fit this MaskedDecoder: predict\.weight is \[192, 64\] in the file and "
            r"\[768, 64\] in the model; and 1 more; set the same sizes",
        ):
            need_part(tmp_path / "x.safetensors", "decoder").fill(other)
        assert torch.equal(other.embed.weight, before)

    def test_names(self, backbone: TimmViT, tmp_path: Path) -> None:
        plain = backbone.export()
        for name in ("", "a.b", "blocks", "cls_token"):
            with pytest.raises(ValueError, match=f"'{name}' cannot name a part"):
                with_part(plain, name, nn.Linear(1, 1), {})
        once = with_part(plain, "ranker", nn.Linear(1, 1), {})
        with pytest.raises(ValueError, match="in the export already"):
            with_part(once, "ranker", nn.Linear(1, 1), {})
        assert "parts" not in plain.metadata
        hollow = Exported(plain.state, plain.metadata | {"parts": {"decoder": {}}})
        save_exported(hollow, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=r"x\.safetensors: the header names a part 'decoder', and"):
            load_part(tmp_path / "x.safetensors", "decoder")
