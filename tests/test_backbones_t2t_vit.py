"""T2T-ViT: equal to its definition written in loops, of the published size and cost, and an ordinary backbone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitrail.backbones import BackboneConfig, TimmViT, create, load, load_classifier, save_exported
from vitrail.backbones.t2t_vit import FAMILY, fold_scale, is_t2t_vit
from vitrail.config import ConfigError
from vitrail.contracts import Batch, Step
from vitrail.methods.dino import Dino, DinoConfig
from vitrail.methods.mae import Mae, MaeConfig
from vitrail.nn.prototype_head import HeadConfig
from vitrail.recipes.run import Verbs, run
from vitrail.recipes.supervised import scenes_sar

TINY: dict[str, Any] = {"embed_dim": 24, "depth": 2, "heads": 3, "image_size": 32, "options": {"token_dim": 8}}
KINDS = ("t2t_vit_7", "t2t_vit_t_14")  # performer and transformer


def tiny(name: str = "t2t_vit_7", seed: int = 0, **changes: Any) -> TimmViT:
    """In evaluation mode, with weights that are large enough to tell tokens apart; 2 x 2 patches."""
    torch.manual_seed(seed)
    backbone = create(BackboneConfig(name=name, **TINY | changes))
    with torch.no_grad():
        for value in backbone.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.2)
    return backbone.eval()


def pictures(height: int = 32, width: int = 32, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(3))


# The definition, in numpy and float64: a window, a token and a pair of tokens at a time.


def windows(maps: np.ndarray, size: int, step: int, border: int) -> np.ndarray:
    """`[C, Y, X]` to tokens `[Y / step * X / step, C * size * size]`: channel, row and column, zeros outside."""
    channels, rows, columns = maps.shape
    tokens = np.zeros((rows // step * (columns // step), channels * size * size))
    for number, (y, x) in enumerate(itertools.product(range(0, rows, step), range(0, columns, step))):
        for place, (c, i, j) in enumerate(itertools.product(range(channels), range(size), range(size))):
            row, column = y + i - border, x + j - border
            if 0 <= row < rows and 0 <= column < columns:
                tokens[number, place] = maps[c, row, column]
    return tokens


def normed(token: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    centered = token - token.mean()
    return centered / math.sqrt((centered**2).mean() + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(token: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    return state[f"{name}.weight"] @ token + state.get(f"{name}.bias", 0)


def gelu(token: np.ndarray) -> np.ndarray:
    return np.array([x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in token])


def token_attention(tokens: np.ndarray, state: dict[str, np.ndarray], name: str, kind: str) -> np.ndarray:
    """Pair by pair; in the performer's linear layer keys come first, in the other one queries."""
    performer = kind == "performer"
    layer = "kqv" if performer else "attn.qkv"
    parts = [np.split(linear(normed(token, state, f"{name}.norm1"), state, f"{name}.{layer}"), 3) for token in tokens]
    made = []
    for own in parts:
        mixed, total = np.zeros_like(own[2]), 1e-8 if performer else 0.0
        for other in parts:
            if performer:
                (_, query, _), (key, _, value) = own, other
                w = state[f"{name}.w"]
                weight = float(np.exp(w @ (query + key) - (query @ query + key @ key) / 2).mean())
            else:
                (query, _, _), (_, key, value) = own, other
                weight = math.exp(query @ key / math.sqrt(tokens.shape[1]))
            mixed, total = mixed + weight * value, total + weight
        x = own[2] + linear(mixed / total, state, f"{name}.proj" if performer else f"{name}.attn.proj")
        first, second = ("mlp.0", "mlp.2") if performer else ("mlp.fc1", "mlp.fc2")
        inner = gelu(linear(normed(x, state, f"{name}.norm2"), state, f"{name}.{first}"))
        made.append(x + linear(inner, state, f"{name}.{second}"))
    return np.array(made)


def patches_by_hand(image: np.ndarray, state: dict[str, np.ndarray], kind: str) -> np.ndarray:
    rows, columns = image.shape[1:]
    maps = image
    for name, (size, step, border) in (("attention1", (7, 4, 2)), ("attention2", (3, 2, 1))):
        tokens = token_attention(windows(maps, size, step, border), state, f"patch_embed.{name}", kind)
        rows, columns = rows // step, columns // step
        maps = tokens.T.reshape(-1, rows, columns)
    return np.array([linear(token, state, "patch_embed.proj") for token in windows(maps, 3, 2, 1)])


def blocks_by_hand(x: np.ndarray, state: dict[str, np.ndarray], heads: int, scale: float) -> np.ndarray:
    """All blocks and the final norm on `[T, D]`, with a scale of the attention of one's own."""
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for name in (f"blocks.{number}" for number in range(depth)):
        qkv = np.array([linear(normed(token, state, f"{name}.norm1"), state, f"{name}.attn.qkv") for token in x])
        query, key, value = (np.split(part, heads, axis=1) for part in np.split(qkv, 3, axis=1))
        mixed = []
        for q, k, v in zip(query, key, value, strict=True):
            weights = np.exp(scale * q @ k.T)
            mixed.append(weights / weights.sum(1, keepdims=True) @ v)
        attended = np.concatenate(mixed, axis=1)
        x = x + np.array([linear(token, state, f"{name}.attn.proj") for token in attended])
        inner = [gelu(linear(normed(token, state, f"{name}.norm2"), state, f"{name}.mlp.fc1")) for token in x]
        x = x + np.array([linear(token, state, f"{name}.mlp.fc2") for token in inner])
    return np.array([normed(token, state, "norm") for token in x])


def by_hand(backbone: TimmViT, image: Tensor, kind: str, scale: float) -> np.ndarray:
    state = {name: value.numpy() for name, value in backbone.export().state.items()}
    tokens = np.concatenate((state["cls_token"][0], patches_by_hand(image.numpy(), state, kind)))
    return blocks_by_hand(tokens + state["pos_embed"][0], state, backbone.heads, scale)


@pytest.mark.parametrize("name", KINDS)
def test_is_the_definition(name: str) -> None:
    backbone = tiny(name, image_size=(32, 48)).double()
    images = pictures(32, 48, batch=1).double()
    with torch.no_grad():
        tokens = backbone(images)
    found = torch.cat((tokens.cls[:, None], tokens.patches), dim=1)[0]
    expected = by_hand(backbone, images[0], FAMILY[name].kind, scale=8**-0.5)
    assert tokens.grid == (2, 3)
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", KINDS)
def test_sizes_and_costs_are_the_published_ones(name: str) -> None:
    """T2T-ViT-14, the paper's Table 2 and the authors' page: 21.5 M; 4.8 G multiply-adds, 6.1 G by the other kind."""
    full = name.replace("_7", "_14")
    with torch.device("meta"):
        backbone = create(BackboneConfig(name=full)).eval()
    backbone.to_empty(device="cpu")  # any values will do
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tokens = backbone(torch.zeros(1, 3, 224, 224), scores=(-1,))
    head = 384 * 1000 + 1000
    assert sum(value.numel() for value in backbone.parameters()) + head == pytest.approx(21.5e6, abs=0.05e6)
    assert tokens.grid == (14, 14)
    assert tokens.scores[-1].shape == (1, 6, 14, 14)
    published = {"performer": 4.8e9, "transformer": 6.1e9}[FAMILY[full].kind]
    assert counter.get_total_flops() / 2 == pytest.approx(published, abs=0.05e9)  # two operations a multiply-add


@pytest.mark.parametrize(("name", "millions"), [("t2t_vit_7", 4.3), ("t2t_vit_19", 39.2), ("t2t_vit_t_24", 64.1)])
def test_the_family(name: str, millions: float) -> None:
    with torch.device("meta"):
        backbone = create(BackboneConfig(name=name))
    count = sum(value.numel() for value in backbone.parameters()) + 1000 * backbone.embed_dim + 1000
    assert count == pytest.approx(millions * 1e6, rel=0.01)
    assert (backbone.embed_dim, backbone.depth, backbone.heads) == FAMILY[name][1:4]
    assert backbone.embed_dim == 64 * backbone.heads


def test_positions_are_fixed_and_start_with_the_class_token() -> None:
    backbone = tiny(embed_dim=6, heads=1, image_size=(16, 48))
    positions = backbone.vit.pos_embed
    assert positions is not None
    assert not positions.requires_grad
    assert positions.shape == (1, 4, 6)
    for n in range(4):
        one, two = n / 10000 ** (2 / 6), n / 10000 ** (4 / 6)
        expected = [math.sin(n), math.cos(n), math.sin(one), math.cos(one), math.sin(two), math.cos(two)]
        torch.testing.assert_close(positions[0, n], torch.tensor(expected))


@pytest.mark.parametrize("name", KINDS)
def test_scores_are_the_products_of_the_last_block(name: str) -> None:
    backbone = tiny(name, surgery="F", image_size=48)
    images, seen = pictures(48, 48), []
    block = backbone.vit.blocks[-1]
    block.norm1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        tokens = backbone(images, scores=(-1,))
        query, key, _ = (seen[0] @ block.attn.qkv.weight.T).chunk(3, dim=2)
    for head in range(3):
        part = slice(8 * head, 8 * head + 8)
        expected = (query[:, :1, part] * key[:, 1:, part]).sum(2) / math.sqrt(8)
        torch.testing.assert_close(tokens.scores[-1][:, head].flatten(1), expected, atol=1e-5, rtol=1e-5)


def test_surgery_takes_the_skip_connection_away() -> None:
    whole, cut = tiny(), tiny(surgery="F")
    cut.vit.load_state_dict(whole.vit.state_dict(), strict=False)
    assert "blocks.1.norm2.weight" not in cut.export().state
    images = pictures()
    with torch.no_grad():
        before = cut(images, layers=(0,)).layers[0]
        block = cut.vit.blocks[-1]
        attended = block.attn(block.norm1(before))
        expected = cut.norm(attended + block.mlp(attended))
        torch.testing.assert_close(cut(images).cls, expected[:, 0])
        assert not torch.allclose(cut(images).cls, whole(images).cls, atol=0.1)


def test_layers_keep_and_hidden() -> None:
    backbone, images = tiny(image_size=48), pictures(48, 48)
    keep = torch.tensor([[8, 0, 3], [1, 2, 5]])
    hidden = torch.zeros(2, 9, dtype=torch.bool)
    hidden[:, 4] = True
    with torch.no_grad():
        embedded, grid = backbone.embed(images)
        assert grid == (3, 3)
        some = torch.stack([one[[0, *(number + 1 for number in ids)]] for one, ids in zip(embedded, keep.tolist())])
        tokens = backbone(images, keep=keep, layers=(0,))
        torch.testing.assert_close(tokens.layers[0], backbone.vit.blocks[0](some))
        assert tokens.grid == (3, 3)
        token = torch.randn(24)
        covered = backbone(images, hidden=hidden, mask_token=token, layers=(0,)).layers[0]
        embedded[:, 5] = token + backbone.vit.pos_embed[:, 5]
        torch.testing.assert_close(covered, backbone.vit.blocks[0](embedded))


def test_an_image_does_not_depend_on_the_others_and_other_sizes_work() -> None:
    backbone = tiny()
    images = pictures(64, 96, batch=3)
    with torch.no_grad():
        tokens = backbone(images, scores=(-1,))
        alone = backbone(images[1:2])
        small = backbone(pictures(16, 16))
    assert (tokens.grid, small.grid) == ((4, 6), (1, 1))
    assert tokens.scores[-1].shape == (3, 3, 4, 6)
    torch.testing.assert_close(tokens.patches[1:2], alone.patches, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_all_that_is_trained(name: str, checkpointing: bool) -> None:
    backbone = tiny(name, surgery="F", gradient_checkpointing=checkpointing).train()
    tokens = backbone(pictures(), scores=(-1,))
    (tokens.cls.square().sum() + tokens.patches.square().sum() + tokens.scores[-1].square().sum()).backward()
    grads = {name: value.grad for name, value in backbone.named_parameters()}
    assert {name for name, grad in grads.items() if grad is None} == {"vit.pos_embed"}
    assert [name for name, grad in grads.items() if grad is not None and not grad.abs().max() > 0] == []


def test_checkpointing_changes_no_gradient() -> None:
    grads = []
    for saving in (False, True):
        backbone = tiny("t2t_vit_t_14", gradient_checkpointing=saving).train()
        backbone(pictures()).cls.square().sum().backward()
        grads.append([value.grad for value in backbone.parameters() if value.grad is not None])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("surgery", [None, "F"])
def test_our_files_bring_it_back_bit_for_bit(name: str, surgery: str | None, tmp_path: Path) -> None:
    backbone = tiny(name, surgery=surgery, image_size=(32, 48))
    save_exported(backbone.export(), tmp_path / "w.safetensors")
    found = load(tmp_path / "w.safetensors").eval()
    images = pictures(32, 48)
    with torch.no_grad():
        assert torch.equal(found(images).patches, backbone(images).patches)
    assert found.config == backbone.config
    assert not found.vit.pos_embed.requires_grad
    assert found.report.interpolated is None
    assert load(name, tmp_path / "w.safetensors").config == backbone.config
    larger = load(tmp_path / "w.safetensors", image_size=64)
    assert larger.image_size == (64, 64)
    assert larger.report.interpolated == "2x3 to 4x4"


def official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that the authors' code gives to the same weights, and a classifier."""
    renamed = {
        name.replace("patch_embed.proj.", "tokens_to_token.project.").replace("patch_embed.", "tokens_to_token."): value
        for name, value in state.items()
    }
    return renamed | {"head.weight": torch.ones(5, state["cls_token"].shape[-1]), "head.bias": torch.zeros(5)}


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": value for name, value in state.items()}


FILES: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "flat": dict,
    "training": lambda state: {"arch": "t2t_vit", "state_dict": prefixed(state), "epoch": 3},
    "averaged": lambda state: {
        "state_dict": prefixed({name: torch.zeros_like(value) for name, value in state.items()}),
        "state_dict_ema": state,
        "metric": 81.5,
    },
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", FILES)
def test_the_authors_files_are_read_without_a_name(name: str, kind: str, tmp_path: Path) -> None:
    # 64 channels a head, as in all published ones
    sizes = {"embed_dim": 128, "heads": 2, "image_size": 48, "options": {"token_dim": 8, "mlp_ratio": 2.0}}
    backbone = tiny(name, **sizes)
    torch.save(FILES[kind](official(backbone.export().state)), tmp_path / "81.5_T2T.pth.tar")
    found = load(tmp_path / "81.5_T2T.pth.tar").eval()
    with torch.no_grad():
        assert torch.equal(found(pictures(48, 48)).patches, backbone(pictures(48, 48)).patches)
    report = found.report
    assert report.layout == "T2T-ViT"
    assert not report.missing
    assert not report.unexpected
    assert any("scaled by the width of a head" in note for note in report.notes)
    assert FAMILY[found.config.name].kind == FAMILY[name].kind
    assert found.image_size == (48, 48)
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert load_classifier(tmp_path / "81.5_T2T.pth.tar").head.out_features == 5


def test_a_published_name_is_found_by_its_shapes(tmp_path: Path) -> None:
    backbone = create(BackboneConfig(name="t2t_vit_10", image_size=32))
    torch.save(official(backbone.export().state), tmp_path / "w.pth")
    found = load(tmp_path / "w.pth")
    assert found.config == BackboneConfig(name="t2t_vit_10", image_size=32, patch_size=16, options={})
    save_exported(found.export(), tmp_path / "w.safetensors")
    assert load(tmp_path / "w.safetensors").report.layout == "vitrail"
    with pytest.raises(ValueError, match=r"another architecture than t2t_vit_14.*it is a t2t_vit_10 with patch 16"):
        load("t2t_vit_14", tmp_path / "w.pth")


def test_another_scale_is_folded_into_the_queries() -> None:
    backbone = tiny().double()
    images = pictures(batch=1).double()
    expected = by_hand(backbone, images[0], "performer", scale=24**-0.5)
    fold_scale(backbone.vit, 24**-0.5)
    with torch.no_grad():
        found = backbone(images).patches[0]
    torch.testing.assert_close(found, torch.from_numpy(expected)[1:], atol=1e-10, rtol=1e-10)
    with pytest.raises(ValueError, match="scale 0 is not positive"):
        fold_scale(backbone.vit, 0)
    with pytest.raises(ValueError, match="queries are normalized"):
        fold_scale(tiny(options={"token_dim": 8, "qk_norm": True}).vit, 0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "t2t_vit_15"}, "no T2T-ViT 't2t_vit_15'; did you mean t2t_vit_1[49] or t2t_vit_1"),
        ({"name": "t2t_large"}, "there are t2t_vit_7, t2t_vit_10"),
        ({"patch_size": 8}, "patch_size 8 was asked of t2t_vit_7.*patches of 16 pixels.*set patch_size to null"),
        ({"patch_size": (16, 32)}, r"patch_size \(16, 32\)"),
        ({"image_size": (32, 40)}, "image width 40 is not a multiple of its patches of 16.*set image_size to 32 or 48"),
        ({"heads": 5}, "cannot be built"),
        ({"options": {"nothing": 1}}, "nothing"),
        ({"options": {"token_dim": 1}}, "token_dim 1"),
        ({"options": {"dynamic_img_pad": True}}, "dynamic_img_pad"),
    ],
)
def test_what_cannot_be_built(changes: dict[str, Any], words: str) -> None:
    config = BackboneConfig(name="t2t_vit_7", **TINY).model_copy(update=changes)  # unchecked, as from Python
    with pytest.raises(ConfigError, match=words):
        create(config)


def test_what_is_refused_later() -> None:
    with pytest.raises(ValueError, match=r"image height 40 is not a multiple of the patch size 16; resize to 32 or 48"):
        tiny()(torch.zeros(1, 3, 40, 32))
    with pytest.raises(ValueError, match=r"no weights of t2t_vit_14.*81.5_T2T_ViT_14"):
        load("t2t_vit_14", "pretrained")
    with pytest.raises(ValueError, match="load needs weights"):
        load("t2t_vit_14")
    with pytest.raises(ConfigError, match=r"nothing is hidden.*choose a vit_"):
        Mae(MaeConfig(), tiny())
    assert is_t2t_vit("t2t_vit_14")
    assert not is_t2t_vit("vit_tiny_patch16_224")


def test_dino_trains_it() -> None:
    method = Dino(
        DinoConfig(head=HeadConfig(prototypes=16, hidden_dim=8, bottleneck_dim=8), frozen_epochs=0, epochs=2), tiny()
    )
    batch = Batch(pictures(), None, torch.arange(2), (pictures(), pictures(16, 16)))
    method.training_step(batch, Step(0, 2)).total.backward()
    method.after_step(Step(0, 2))
    assert torch.equal(method.teacher.vit.patch_embed.attention1.w, method.backbone.vit.patch_embed.attention1.w)
    assert not any(part.p for part in method.teacher.modules() if isinstance(part, torch.nn.Dropout))


def test_half_precision() -> None:
    backbone, images = tiny(), pictures()
    with torch.no_grad():
        exact = backbone(images).patches
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(backbone(images).patches, exact, atol=0.1, rtol=0.1)
        assert backbone.bfloat16()(images.bfloat16()).patches.dtype == torch.bfloat16


def test_a_recipe_trains_it(tmp_path: Path) -> None:
    settings = [
        "backbone.name=t2t_vit_7",
        "backbone.patch_size=16",
        "backbone.embed_dim=24",
        "backbone.depth=2",
        "backbone.heads=3",
        "backbone.options={token_dim: 8}",
        "data.scenes.count=32",
        "data.scenes.val_count=8",
        "train.epochs=1",
        "train.warmup_epochs=0",
        "train.global_batch_size=16",
        "train.device=cpu",
    ]
    outcome = run(scenes_sar().override(settings), Verbs(), tmp_path / "run")
    assert np.isfinite(outcome.losses["train/spatial_entropy"])
    found = load(tmp_path / "run")
    assert found.config is not None
    assert (found.config.name, found.config.surgery) == ("t2t_vit_7", "F")
    with torch.no_grad():
        assert found(torch.zeros(1, 3, 48, 48), scores=(-1,)).scores[-1].shape == (1, 3, 3, 3)
