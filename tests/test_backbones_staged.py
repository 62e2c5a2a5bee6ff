"""PVT and CvT behind the contract: tokens, scores, surgery, sizes, files, and what is refused."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_staged import LAST, NAMES, SIZES, config, images, staged_file, tiny_staged
from torch import Tensor
from torch.nn import functional

from vitrail.backbones import (
    BackboneConfig,
    StagedBackbone,
    create,
    digest,
    load,
    load_classifier,
    need_vit,
    save_exported,
)
from vitrail.backbones.cvt import CVTS, Cvt, CvtConfig
from vitrail.backbones.pvt import PVTS, Pvt, PvtConfig
from vitrail.backbones.staged_files import infer_staged
from vitrail.config import ConfigError
from vitrail.contracts import Backbone, Exported
from vitrail.evaluation.selection_accuracy import flops_of
from vitrail.nn.cls_attention import cls_attention
from vitrail.nn.groups import parameter_groups
from vitrail.nn.surgery import PRESETS
from vitrail.nn.teacher import follow, teacher_of
from vitrail.regularizers import RegularizerConfig, Regularizers

GRIDS = {"pvt_small": ((2, 2), (2, 2)), "cvt_13": ((4, 4), (2, 2))}
"""Of tokens and keys of the last stage at 64 pixels."""


def of_name(name: str) -> Pvt | Cvt:
    """A network of the name's own sizes without any storage."""
    with torch.device("meta"):
        return Pvt(PVTS[name], (224, 224)) if name in PVTS else Cvt(CVTS[name], (224, 224))


class TestNumbers:
    @pytest.mark.parametrize(
        ("name", "millions"),
        [
            ("pvt_tiny", 13.2),
            ("pvt_small", 24.5),
            ("pvt_medium", 44.2),
            ("pvt_large", 61.4),
            ("cvt_13", 20.0),
            ("cvt_21", 31.6),
        ],
    )
    def test_weights(self, name: str, millions: float) -> None:
        """With a classifier of 1000 classes, as both papers count."""
        net = of_name(name)
        width = net.config.embed_dims[-1]
        count = sum(value.numel() for value in net.parameters()) + 1000 * width + 1000
        assert round(count / 1e6, 1) == millions

    @pytest.mark.parametrize(("name", "billions"), [("pvt_small", 3.8), ("cvt_13", 4.5)])
    def test_multiply_adds(self, name: str, billions: float) -> None:
        """SAR's Table 2. All products, those of attention among them: half of what torch's counter says."""
        with torch.device("meta"):
            backbone = StagedBackbone(of_name(name).eval(), BackboneConfig(name=name))
            pixels = torch.empty(1, 3, 224, 224)
        count = flops_of(lambda: backbone(pixels)) / 2e9
        assert count == pytest.approx(billions, abs=0.1)

    @pytest.mark.parametrize(("name", "grid", "keys"), [("pvt_small", (7, 7), (7, 7)), ("cvt_13", (14, 14), (7, 7))])
    def test_grids_at_224(self, name: str, grid: tuple[int, int], keys: tuple[int, int]) -> None:
        with torch.device("meta"):
            net = of_name(name).eval()
            tokens = StagedBackbone(net, BackboneConfig(name=name))(torch.empty(1, 3, 224, 224))
        assert tokens.grid == grid
        assert net.keys_grid(tokens.grid) == keys


@pytest.mark.parametrize("name", NAMES)
class TestTokens:
    def test_attributes(self, name: str) -> None:
        backbone = tiny_staged(name)
        assert isinstance(backbone, Backbone)
        sizes = SIZES[name]
        assert (backbone.embed_dim, backbone.depth, backbone.heads) == tuple(
            sizes[key][-1] for key in ("embed_dims", "depths", "heads")
        )
        assert backbone.patch_size == ((32, 32) if name == "pvt_small" else (16, 16))
        assert (backbone.image_size, backbone.prefix_tokens, backbone.closed) == ((64, 64), 1, {})
        assert backbone.mean == pytest.approx((0.485, 0.456, 0.406))

    def test_shapes_and_layers(self, name: str) -> None:
        backbone = tiny_staged(name)
        tokens = backbone(images(), layers=(0, 1, -1), scores=(0, -1))
        grid, keys = GRIDS[name]
        assert tokens.grid == grid
        assert tokens.patches.shape == (3, grid[0] * grid[1], backbone.embed_dim)
        assert tokens.scores[0].shape == (3, backbone.heads, *keys)
        assert not torch.equal(tokens.layers[0], tokens.layers[-1])
        last = backbone.depth - 1
        assert torch.equal(backbone(images(), layers=(last,)).layers[last], tokens.layers[-1])
        last = backbone.norm(tokens.layers[-1])
        assert torch.equal(last[:, 0], tokens.cls)
        assert torch.equal(last[:, 1:], tokens.patches)

    def test_asking_changes_nothing(self, name: str) -> None:
        backbone = tiny_staged(name)
        assert torch.equal(backbone(images()).cls, backbone(images(), layers=(0,), scores=(0, 1)).cls)

    def test_images_do_not_meet(self, name: str) -> None:
        backbone = tiny_staged(name)
        torch.testing.assert_close(backbone(images()).cls[1:2], backbone(images()[1:2]).cls)

    @pytest.mark.parametrize("row", [None, "F"])
    def test_scores_by_hand(self, name: str, row: Any) -> None:
        backbone = tiny_staged(name, surgery=row)
        seen: list[Tensor] = []
        block: Any = backbone.net.blocks[-1]
        block.norm1.register_forward_hook(lambda *each: seen.append(each[2]))
        scores = backbone(images(), scores=(-1,)).scores[-1]
        query, key = by_hand(block.attn, seen[0], GRIDS[name][0], name)
        width = backbone.embed_dim // backbone.heads
        for head in range(backbone.heads):
            own = slice(head * width, (head + 1) * width)
            scaled = width if name == "pvt_small" else backbone.embed_dim
            expected = (key[:, :, own] @ query[:, own, None])[..., 0] / scaled**0.5
            torch.testing.assert_close(scores[:, head].flatten(1), expected)

    def test_their_softmax_is_the_networks_attention(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Values that are unit vectors make the fused attention hand out its weights."""
        fused, weights = functional.scaled_dot_product_attention, list[Tensor]()

        def watched(query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
            weights.append(fused(query, key, torch.eye(key.shape[2]).expand(*key.shape[:2], -1, -1), **how))
            return fused(query, key, value, **how)

        monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
        scores = tiny_staged(name)(images(), scores=(-1,)).scores[-1]
        patches = weights[-1][:, :, 0, 1:]
        torch.testing.assert_close(scores.flatten(2).softmax(-1), patches / patches.sum(-1, keepdim=True))

    def test_gradients_of_scores(self, name: str) -> None:
        backbone = tiny_staged(name).double()
        pixels = images().double().requires_grad_()
        scores = backbone(pixels, scores=(-1,)).scores[-1]
        assert scores.dtype == torch.float64
        scores.square().sum().backward()
        assert pixels.grad is not None
        assert pixels.grad.abs().max() > 0

    def test_scores_are_wide_under_autocast(self, name: str) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            tokens = tiny_staged(name)(images(), scores=(-1,))
        assert tokens.scores[-1].dtype == torch.float32
        assert tokens.cls.isfinite().all()

    @pytest.mark.parametrize("size", [(96, 64), (32, 128)])
    def test_other_sizes(self, name: str, size: tuple[int, int]) -> None:
        backbone = tiny_staged(name)
        tokens = backbone(images(2, *size), scores=(-1,))
        assert tokens.grid == (size[0] // backbone.patch_size[0], size[1] // backbone.patch_size[1])
        rows, columns = tokens.grid
        expected = tokens.grid if name == "pvt_small" else ((rows + 1) // 2, (columns + 1) // 2)
        assert tokens.scores[-1].shape[2:] == expected
        before = tokens.cls
        backbone.resize(size)
        assert backbone.image_size == size
        assert torch.equal(backbone(images(2, *size)).cls, before)

    def test_fused_attention_stays_on(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = Counter[str]()
        fused = functional.scaled_dot_product_attention
        monkeypatch.setattr(
            functional, "scaled_dot_product_attention", lambda *a, **k: (calls.update(["fused"]), fused(*a, **k))[1]
        )
        tiny_staged(name)(images(), scores=(0, 1))
        assert calls["fused"] == sum(SIZES[name]["depths"])

    def test_a_map_of_one_key(self, name: str) -> None:
        """At 32 pixels one key is left: variation is 0, and so are its gradients; the entropy is refused."""
        backbone = tiny_staged(name)
        entropy = next(iter(Regularizers([RegularizerConfig(kind="spatial_entropy")], backbone)))
        pixels = images(2, 32, 32).requires_grad_()
        tokens = backbone(pixels, scores=(-1,))
        assert tokens.scores[-1].shape[2:] == (1, 1)
        with pytest.raises(ValueError, match="maps of 1 x 1 keys"):
            entropy.regularizer(tokens)  # type: ignore[operator,union-attr]
        for kind in ("total_variation", "drloc"):
            regularizers = Regularizers([RegularizerConfig(kind=kind)], backbone)  # type: ignore[arg-type]
            loss = next(iter(regularizers)).regularizer(tokens)  # type: ignore[attr-defined]
            assert loss.isfinite()
            if kind != "drloc":
                assert loss == 0
                (slope,) = torch.autograd.grad(loss, pixels, retain_graph=True)
                assert not slope.any()


def by_hand(attn: Any, normed: Tensor, grid: tuple[int, int], name: str) -> tuple[Tensor, Tensor]:
    """The class token's query `[B, D]` and the keys of patches `[B, S, D]`, from weights alone."""
    if name == "pvt_small":
        return attn.q(normed[:, 0]), attn.kv(normed[:, 1:])[..., : normed.shape[2]]
    laid = normed[:, 1:].transpose(1, 2).reshape(len(normed), -1, *grid)
    own = attn.conv_proj_k
    laid = functional.conv2d(laid, own.conv.weight, stride=2, padding=1, groups=laid.shape[1])
    laid = functional.batch_norm(laid, own.bn.running_mean, own.bn.running_var, own.bn.weight, own.bn.bias)
    return attn.proj_q(normed[:, 0]), attn.proj_k(laid.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("name", NAMES)
class TestSurgery:
    @pytest.mark.parametrize("row", list(PRESETS))
    def test_the_last_block(self, name: str, row: Any) -> None:
        backbone = tiny_staged(name, surgery=row)
        switches = PRESETS[row]
        block: Any = backbone.net.blocks[-1]
        x = torch.randn(2, 1 + GRIDS[name][0][0] * GRIDS[name][0][1], backbone.embed_dim)
        attended = block.attn(block.norm1(x), GRIDS[name][0])[0]
        between = attended + x if switches.msa_skip else attended
        changed = block.mlp(block.norm2(between) if switches.norm2 else between)
        assert torch.equal(block(x, GRIDS[name][0]), between + changed if switches.mlp_skip else changed)
        assert block.operated == switches.changes_block

    @pytest.mark.parametrize("row", list(PRESETS))
    def test_weights_that_are_gone(self, name: str, row: Any) -> None:
        plain, cut = create(config(name)), create(config(name, surgery=row))
        gone = plain.state_dict().keys() - cut.state_dict().keys()
        expected = set() if PRESETS[row].norm2 else {f"net.{LAST[name]}.norm2.{kind}" for kind in ("weight", "bias")}
        assert gone == expected
        counts = [sum(value.numel() for value in each.parameters()) for each in (plain, cut)]
        assert counts[1] - counts[0] == (0 if PRESETS[row].norm2 else -2 * plain.embed_dim)

    def test_the_same_seed_gives_the_same_start(self, name: str) -> None:
        torch.manual_seed(0)
        plain = create(config(name)).state_dict()
        torch.manual_seed(0)
        cut = create(config(name, surgery="F")).state_dict()
        assert all(torch.equal(value, plain[key]) for key, value in cut.items())

    def test_drop_path_grows_over_blocks_and_leaves_bare_branches_alone(self, name: str) -> None:
        backbone = create(config(name, drop_path=0.4))
        blocks = [part for part in backbone.modules() if hasattr(part, "drop_path1")]
        rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
        if name == "pvt_small":
            assert rates == pytest.approx([0.4 * n / (len(blocks) - 1) for n in range(len(blocks))])
        else:  # as released: only the last of three stages has any
            assert rates == pytest.approx([0, 0, 0, 0, 0.2, 0.4])
        assert [getattr(block.drop_path2, "drop_prob", 0.0) for block in blocks] == rates
        for row, kept in (("F", (False, True)), ("D", (False, False))):
            last: Any = create(config(name, drop_path=0.4, surgery=row)).net.blocks[-1]  # type: ignore[union-attr]
            assert tuple(hasattr(each, "drop_prob") for each in (last.drop_path1, last.drop_path2)) == kept

    @pytest.mark.parametrize("row", [None, "F"])
    def test_every_weight_learns(self, name: str, row: Any) -> None:
        """But the last block's queries of patches in CvT, where the class token alone is read: nobody asks them."""
        backbone = tiny_staged(name, surgery=row).requires_grad_().train()
        tokens = backbone(images())
        direction = torch.randn(tokens.cls.shape, generator=torch.Generator().manual_seed(2))
        (tokens.cls * direction).sum().backward(retain_graph=True)
        idle = {key for key, value in backbone.net.named_parameters() if value.grad is None or not value.grad.any()}
        queries = {f"{LAST[name]}.attn.conv_proj_q.{each}" for each in ("conv.weight", "bn.weight", "bn.bias")}
        assert idle == (queries if name == "cvt_13" else set())
        (tokens.patches * direction[:, None]).sum().backward()
        assert all(value.grad.any() for value in backbone.parameters())


@pytest.mark.parametrize("name", NAMES)
class TestTraining:
    def test_positions_tokens_and_vectors_are_not_decayed(self, name: str) -> None:
        backbone = create(config(name))
        groups = parameter_groups(backbone, weight_decay=0.1)
        spared = {id(value) for group in groups if not group["weight_decay"] for value in group["params"]}
        names = dict(backbone.named_parameters())
        assert {id(value) for value in names.values() if value.ndim == 1} < spared
        more = {key for key, value in names.items() if value.ndim > 1 and id(value) in spared}
        if name == "pvt_small":
            assert more == {"net.cls_token", *(f"net.pos_embed{stage}" for stage in (1, 2, 3, 4))}
        else:
            assert more == {"net.stage2.cls_token"}

    def test_a_teacher_keeps_the_running_values_that_it_gathers(self, name: str) -> None:
        student = tiny_staged(name, drop_path=0.3).train()
        teacher = teacher_of(student)
        assert all(part.drop_prob == 0 for part in teacher.modules() if hasattr(part, "drop_prob"))
        student(images())
        teacher(images(seed=1))
        before = {key: value.clone() for key, value in teacher.named_buffers()}
        follow(teacher, student, 0.9)
        assert all(torch.equal(value, before[key]) for key, value in teacher.named_buffers())
        follow(teacher.eval(), student, 0.9)
        kept = dict(teacher.named_buffers())
        assert all(torch.equal(value, kept[key]) for key, value in student.named_buffers())

    def test_checkpointing(self, name: str) -> None:
        if name == "cvt_13":
            with pytest.raises(ConfigError, match=r"gradient_checkpointing runs each block twice.*batch norms"):
                create(config(name, gradient_checkpointing=True))
            return
        slopes = []
        for wanted in (False, True):
            backbone = tiny_staged(name, gradient_checkpointing=wanted).requires_grad_().train()
            tokens = backbone(images(), scores=(-1,))
            (tokens.cls.square().sum() + tokens.scores[-1].sum()).backward()
            slopes.append([value.grad for value in backbone.parameters()])
        for one, other in zip(*slopes):
            assert torch.equal(one, other)

    def test_one_value_for_batch_norm(self, name: str) -> None:
        backbone = tiny_staged(name).train()
        if name == "cvt_13":
            with pytest.raises(ValueError, match=r"one image of 32 x 32 pixels leaves a single key"):
                backbone(images(1, 32, 32))
        assert backbone(images(2, 32, 32)).cls.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
class TestFiles:
    @pytest.mark.parametrize("row", [None, "B", "F"])
    def test_saved_and_loaded_it_is_the_same(self, name: str, row: Any, tmp_path: Path) -> None:
        backbone = tiny_staged(name, surgery=row)
        backbone.mean = (0.1, 0.2, 0.3)
        save_exported(backbone.export(), tmp_path / "w.safetensors")
        found = load(tmp_path / "w.safetensors").eval()
        assert isinstance(found, StagedBackbone)
        one, other = backbone(images(), scores=(-1,)), found(images(), scores=(-1,))
        assert torch.equal(one.cls, other.cls)
        assert torch.equal(one.scores[-1], other.scores[-1])
        assert (found.mean, found.config) == (
            backbone.mean,
            backbone.config.model_copy(update={"image_size": (64, 64)}),
        )
        assert digest(found) == digest(backbone)
        assert found.report.layout == "vitrail"
        assert load(name, tmp_path / "w.safetensors").config == found.config

    def test_at_another_size(self, name: str, tmp_path: Path) -> None:
        path = staged_file(tmp_path, name)
        found = load(path, image_size=(96, 64), drop_path=0.3).eval()
        assert found.image_size == (96, 64)
        assert torch.equal(found(images(2, 96, 64)).cls, tiny_staged(name)(images(2, 96, 64)).cls)
        assert (found.report.interpolated is not None) == (name == "pvt_small")
        save_exported(found.export(), tmp_path / "again.safetensors")
        again = load(tmp_path / "again.safetensors").eval()
        assert again.image_size == (96, 64)
        assert torch.equal(again(images(2, 96, 64)).cls, found(images(2, 96, 64)).cls)

    def test_the_authors_layout(self, name: str, tmp_path: Path) -> None:
        """Their names, as trained in parallel, with a classifier beside."""
        backbone = tiny_staged(name)
        state = {f"module.{key}": value for key, value in backbone.net.state_dict().items()}
        head = torch.nn.Linear(backbone.embed_dim, 5)
        state |= {f"module.head.{key}": value for key, value in head.state_dict().items()}
        torch.save({"model": state, "epoch": 3}, tmp_path / "theirs.pth")
        found = load(config(name), tmp_path / "theirs.pth").eval()
        assert torch.equal(found(images()).cls, backbone(images()).cls)
        assert found.report.layout == name[:3].replace("pvt", "PVT").replace("cvt", "CvT")
        assert set(found.report.ignored) == {"head.weight", "head.bias"}
        classifier = load_classifier(tmp_path / "theirs.pth", config(name))
        assert torch.equal(classifier.head.weight, head.weight)
        again = {key.removeprefix("net."): value for key, value in found.state_dict().items()}
        assert again.keys() == {key.removeprefix("module.") for key in state if ".head." not in key}

    def test_surgery_follows_the_weights(self, name: str, tmp_path: Path) -> None:
        torch.save(tiny_staged(name, surgery="F").net.state_dict(), tmp_path / "cut.pth")
        found = load(config(name), tmp_path / "cut.pth")
        assert found.config is not None
        assert found.config.surgery == "C"
        assert "norm2 is not there" in found.report.words()
        torch.save(tiny_staged(name).net.state_dict(), tmp_path / "plain.pth")
        with pytest.raises(ValueError, match="was trained with a plain last block"):
            load(config(name, surgery="F"), tmp_path / "plain.pth")

    def test_half_a_checkpoint_is_refused(self, name: str, tmp_path: Path) -> None:
        state = tiny_staged(name).net.state_dict()
        del state["norm.weight"]
        torch.save(state, tmp_path / "half.pth")
        with pytest.raises(ValueError, match=r"fits .* only in part(.|\n)*norm.weight"):
            load(config(name), tmp_path / "half.pth")

    def test_another_architecture(self, name: str, tmp_path: Path) -> None:
        torch.save(tiny_staged(name).net.state_dict(), tmp_path / "tiny.pth")
        with pytest.raises(ValueError, match=rf"another architecture than {name}"):
            load(name, tmp_path / "tiny.pth")
        with pytest.raises(ValueError, match=r"number of heads cannot be read.*widths are \[8, .*options"):
            load(tmp_path / "tiny.pth")


def test_onnx(tmp_path: Path) -> None:
    """At another size, whose positions are baked in."""
    pytest.importorskip("onnxruntime")
    from vitrail.backbones.onnx import export_onnx

    difference = export_onnx(tiny_staged("pvt_small"), tmp_path / "w.onnx", image_size=96)
    assert difference is not None
    assert difference < 1e-4


@pytest.mark.parametrize("name", [*PVTS, *CVTS])
def test_shapes_tell_the_name(name: str) -> None:
    found, notes = infer_staged(of_name(name).state_dict(), "")
    assert (found.name, found.options, found.image_size) == (name, {}, 224)
    assert f"by its shapes this is {name}" in notes[0]


def test_shapes_tell_what_has_no_name() -> None:
    """CvT-W24 of the paper's Table 2, in Hugging Face's layout, and a PVT of another reduction at another size."""
    wide = CvtConfig(embed_dims=(192, 768, 1024), heads=(3, 12, 16), depths=(2, 2, 20))
    with torch.device("meta"):
        found, _ = infer_staged(Cvt(wide, (384, 384)).state_dict(), "Hugging Face CvT")
        assert CvtConfig.parse(found.options) == wide.model_copy(update={"activation": "gelu"})
        other = PvtConfig(reductions=(4, 2, 1, 1), mlp_ratios=(4, 4, 4, 4))
        found, _ = infer_staged(Pvt(other, (96, 96)).state_dict(), "PVT")
        assert PvtConfig.parse(found.options) == other
        assert found.image_size == 96
        with pytest.raises(ValueError, match=r"384 positions of the first stage are no square grid.*image_size"):
            infer_staged(Pvt(other, (64, 96)).state_dict(), "PVT")


@pytest.mark.parametrize("name", NAMES)
class TestRefusals:
    @pytest.mark.parametrize("given", ["keep", "hidden", "mask_token"])
    def test_subsets(self, name: str, given: str) -> None:
        value = {"keep": torch.zeros(3, 2).long(), "hidden": torch.zeros(3, 4).bool(), "mask_token": torch.zeros(4)}
        with pytest.raises(ValueError, match=rf"{given} was given to {name}, whose convolutions.*plain ViT"):
            tiny_staged(name)(images(), **{given: value[given]})

    def test_blocks_of_other_stages(self, name: str) -> None:
        for asked in ({"scores": (3,)}, {"layers": (-4,)}):
            with pytest.raises(ValueError, match=rf"no block -?\d among the \d of {name}'s last stage.*-\d to \d"):
                tiny_staged(name)(images(), **asked)

    def test_sizes(self, name: str) -> None:
        patch = 32 if name == "pvt_small" else 16
        with pytest.raises(ValueError, match=rf"width 72 is not a multiple of {patch} pixels.*resize to 64 or"):
            tiny_staged(name)(images(2, 64, 72))
        with pytest.raises(ValueError, match=r"images are \[3, 1, 64, 64\]; the backbone takes \[B, 3, H, W\]"):
            tiny_staged(name)(images()[:, :1])
        with pytest.raises(
            ConfigError, match=rf"{name}: image height 72 is not a multiple of {patch}.*image_size to 64"
        ):
            create(config(name, image_size=72))

    @pytest.mark.parametrize(
        ("field", "option"), [("embed_dim", "embed_dims"), ("depth", "depths"), ("heads", "heads")]
    )
    def test_fields_of_plain_vits(self, name: str, field: str, option: str) -> None:
        with pytest.raises(
            ConfigError, match=rf"{field} = 8 is for plain ViTs.*options.{option} is \[.*number for each.*null"
        ):
            create(config(name, **{field: 8}))

    def test_patches_and_filter(self, name: str) -> None:
        with pytest.raises(ConfigError, match=rf"patch_size = 8 is for plain ViTs.*{name} always has (32|16) pixels"):
            create(config(name, patch_size=8))
        with pytest.raises(ConfigError, match=r"object_filter is for plain ViTs \(vit_\*, deit_\*\)"):
            create(config(name, object_filter={}))
        with pytest.raises(
            ConfigError, match=r"patch_size = 8, depth = 4 are .*: set backbone.patch_size=null backbone.depth=null$"
        ):
            create(config(name, patch_size=8, depth=4))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"embed_dimz": [8, 8, 8, 8]}, "did you mean 'embed_dims'"),
            ({"depths": [1]}, "depths"),
            ({"embed_dims": [9, 15, 22, 32], "heads": [2, 3, 2, 2]}, "is not a multiple of heads 2"),
        ],
    )
    def test_options(self, name: str, options: dict[str, Any], words: str) -> None:
        if name == "cvt_13":
            options = {key: value[:3] for key, value in options.items()}
        with pytest.raises(ConfigError, match=rf"options of {name}(.|\n)*{re.escape(words)}"):
            create(config(name, options=options))

    def test_what_looks_into_a_plain_vit(self, name: str, tmp_path: Path) -> None:
        from vitrail.localizers import open_localizer
        from vitrail.rankers import open_ranker
        from vitrail.rankers.ltrp import ranking_network

        with pytest.raises(ValueError, match=rf"LTRP needs a plain Vision Transformer.*is a {name}.*t2t_vit_\*"):
            need_vit(tiny_staged(name), "LTRP")
        with pytest.raises(ValueError, match=rf"LTRP needs a plain Vision Transformer.*is a {name}"):
            ranking_network(config(name))
        path = staged_file(tmp_path, name)
        for ranker in ("dino", "tome", "evit"):
            with pytest.raises(ValueError, match=rf"the ranker {ranker} needs a plain Vision Transformer"):
                open_ranker(ranker, path)
        for localizer in ("attention", "lost", "token_cut"):
            with pytest.raises(ValueError, match=rf"the localizer {localizer} needs a plain Vision Transformer"):
                open_localizer(localizer, path)

    def test_weights_that_timm_does_not_offer(self, name: str) -> None:
        with pytest.raises(ValueError, match=rf"timm offers no weights of {name}.*github.com/whai362/PVT.*load\("):
            load(name, "pretrained")
        with pytest.raises(ConfigError, match=rf"{name} has no tags, such as 'in1k'"):
            create(BackboneConfig(name=f"{name}.in1k"))


def test_reductions_of_the_stage_with_a_class_token() -> None:
    with pytest.raises(ConfigError, match="reductions ends with 2; the stage of the class token reduces by 1"):
        create(config("pvt_small", options={"reductions": [8, 4, 2, 2]}))


def test_attention_that_is_no_number_for_each_patch() -> None:
    with pytest.raises(ValueError, match=r"attends to 2 x 2 keys, and there are 4 x 4 patches.*plain ViT, or a PVT"):
        cls_attention(tiny_staged("cvt_13"), images())
    weights = cls_attention(tiny_staged("pvt_small"), images())
    assert weights.shape == (3, 4)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))


@pytest.mark.parametrize("name", ["pvt_v2_b0", "swin_tiny_patch4_window7_224", "resnet18"])
def test_models_without_a_class_token_name_those_that_have_one(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"choose .*vit_\*, deit_\*, t2t_vit_\*, pvt_tiny to pvt_large.*cvt_13 or cvt_21"
    ):
        create(BackboneConfig(name=name))


def test_a_name_that_is_nearly_right() -> None:
    with pytest.raises(ConfigError, match=r"no model 'pvt_smal'; did you mean pvt_small"):
        create(BackboneConfig(name="pvt_smal"))


def test_a_header_of_options_survives(tmp_path: Path) -> None:
    """What a plain name leaves open is read from the file, also its activation."""
    backbone = tiny_staged("cvt_13", options={**SIZES["cvt_13"], "activation": "gelu"})
    exported = backbone.export()
    save_exported(Exported(exported.state, exported.metadata), tmp_path / "w.safetensors")
    found = load(BackboneConfig(name="cvt_13", drop_path=0.2), tmp_path / "w.safetensors").eval()
    assert torch.equal(found(images()).cls, backbone(images()).cls)
