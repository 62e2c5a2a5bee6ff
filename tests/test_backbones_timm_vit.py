"""Any timm ViT behind the contract: equal to timm's forward, any size, subsets, scores, compile,
checkpointing."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import timm
import torch
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor

from vitrail.backbones import BackboneConfig, TimmViT, create
from vitrail.config import ConfigError
from vitrail.contracts import Backbone
from vitrail.nn.open_block import attend

TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3}
MODELS = {
    "plain": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8}),
    "odd patch": ("vit_small_patch14_dinov2", {"img_size": 42}),
    "non-square": ("vit_tiny_patch16_224", {"img_size": (32, 48)}),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 32, "patch_size": 8}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 42}),
    "registers with positions": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "reg_tokens": 2}),
    "layer scale": ("deit3_small_patch16_224", {"img_size": 32, "patch_size": 8}),
    "qk norm": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "qk_norm": True}),
    "scale norm": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "scale_attn_norm": True}),
    "average pooled": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "global_pool": "avg"}),
    "pre-norm": ("vit_base_patch32_clip_224", {"img_size": 64}),
    "no qkv bias": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "qkv_bias": False}),
}


def small(name: str = "vit_tiny_patch16_224", **options: object) -> VisionTransformer:
    """A tiny timm model in evaluation mode, with weights that are large enough to tell tokens apart."""
    torch.manual_seed(0)
    vit = timm.create_model(name, num_classes=0, **{**TINY, **options})
    with torch.no_grad():
        for value in vit.parameters():
            value.add_(torch.randn_like(value) * 0.2)
    return vit.eval()


def images_for(vit: VisionTransformer, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, *vit.patch_embed.img_size, generator=generator)


def brute_force_scores(vit: VisionTransformer, images: Tensor, block: int) -> Tensor:
    """CLS query against patch keys, from timm's own modules with a hook on the block's input."""
    seen = []
    norm = vit.blocks[block].norm1
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    vit.forward_features(images)
    handle.remove()
    attn = vit.blocks[block].attn
    batch, count, _ = seen[0].shape
    query, key, _ = attn.qkv(seen[0]).reshape(batch, count, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key = attn.q_norm(query), attn.k_norm(key)
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    return scores[:, :, 0, vit.num_prefix_tokens :]


@pytest.mark.parametrize("kind", MODELS)
def test_equals_timm(kind: str) -> None:
    name, options = MODELS[kind]
    vit = small(name, **options)
    images = images_for(vit)
    with torch.no_grad():
        expected = vit.fc_norm(vit.forward_features(images))  # an identity where the norm comes before pooling
        raw = vit.forward_intermediates(images, indices=[0, 2], output_fmt="NLC", intermediates_only=True)
        raw_cls = [
            prefix[:, :1]
            for _, prefix in vit.forward_intermediates(
                images, indices=[0, 2], output_fmt="NLC", intermediates_only=True, return_prefix_tokens=True
            )
        ]
        first, last = brute_force_scores(vit, images, 0), brute_force_scores(vit, images, 2)
        backbone = TimmViT(vit)
        tokens = backbone(images, layers=(0, -1), scores=(0, -1))
        plain = backbone(images)
    prefix = backbone.prefix_tokens
    torch.testing.assert_close(tokens.cls, expected[:, 0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(tokens.patches, expected[:, prefix:], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(plain.patches, expected[:, prefix:], atol=1e-6, rtol=1e-6)
    for block, patches, cls in zip((0, -1), raw, raw_cls):
        torch.testing.assert_close(tokens.layers[block], torch.cat([cls, patches], 1), atol=1e-6, rtol=1e-6)
    height, width = tokens.grid
    assert height * width == tokens.patches.shape[1]
    for block, scores in ((0, first), (-1, last)):
        assert tokens.scores[block].shape == (2, 3, height, width)
        torch.testing.assert_close(tokens.scores[block].flatten(2), scores, atol=1e-6, rtol=1e-5)
    assert isinstance(backbone, Backbone)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("block", [-1, 1])
def test_keys_equal_timms(kind: str, block: int) -> None:
    name, options = MODELS[kind]
    vit = small(name, **options)
    images, seen = images_for(vit), []
    attn = vit.blocks[block].attn
    handle = attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    vit.forward_features(images)
    handle.remove()
    own = seen[0].chunk(3, dim=2)[1].unflatten(2, (attn.num_heads, -1))
    expected = attn.k_norm(own).flatten(2)[:, vit.num_prefix_tokens :]
    backbone = TimmViT(vit)
    late: list[int] = []
    vit.blocks[2].norm2.register_forward_hook(lambda *_: late.append(1))
    keys, grid = backbone.keys(images, block)
    torch.testing.assert_close(keys, expected, atol=1e-6, rtol=1e-5)
    assert keys.shape[1] == grid[0] * grid[1]
    assert not late  # neither later blocks nor the rest of the last one


@pytest.mark.parametrize("options", [{}, {"gated": True, "qkv_bias": True}, {"attn_head_dim": 4}])
def test_attention_alone(options: dict[str, object]) -> None:
    if not set(options) <= set(inspect.signature(Attention.__init__).parameters):
        pytest.skip(f"TIMM IS TOO OLD: its attention knows no {options}, which was not compared")
    torch.manual_seed(0)
    attn = Attention(24, num_heads=3, **options).eval()
    x = torch.randn(2, 5, 24)
    out, scores = attend(attn, x)
    torch.testing.assert_close(out, attn(x), atol=1e-6, rtol=1e-6)
    assert scores.shape == (2, 3, 5)


def test_attributes() -> None:
    backbone = create(BackboneConfig(image_size=(32, 48), patch_size=8, embed_dim=24, depth=3, heads=3))
    assert backbone.embed_dim == 24
    assert (backbone.depth, backbone.heads) == (3, 3)
    assert backbone.patch_size == (8, 8)
    assert backbone.image_size == (32, 48)
    assert backbone.prefix_tokens == 1
    assert backbone.mean == (0.5, 0.5, 0.5)
    assert isinstance(backbone.norm, torch.nn.LayerNorm)
    assert all(not name.startswith("vit.head") for name in backbone.state_dict())


def test_scores_do_not_change_the_tokens_nor_compute_qkv_twice() -> None:
    backbone = TimmViT(small(img_size=32, patch_size=8))
    images = images_for(backbone.vit)
    calls = []
    for block in backbone.vit.blocks:
        block.attn.qkv.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        plain = backbone(images)
        count = len(calls)
        asked = backbone(images, scores=(0, 1, 2))
    assert count == len(calls) - count == 3
    torch.testing.assert_close(plain.patches, asked.patches, atol=1e-6, rtol=1e-6)


def test_fused_attention_stays_on(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = TimmViT(small(img_size=32, patch_size=8))
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k)
    )
    backbone(images_for(backbone.vit), scores=(-1,))
    assert len(calls) == 3


def test_gradient_flows_into_scores_and_equals_the_unfused_one() -> None:
    vit = small(img_size=32, patch_size=8).double()
    images = images_for(vit).double().requires_grad_()
    expected = torch.autograd.grad(brute_force_scores(vit, images, 2).square().sum(), [images, vit.cls_token])
    scores = TimmViT(vit)(images, scores=(-1,)).scores[-1]
    assert scores.dtype == torch.float64
    found = torch.autograd.grad(scores.square().sum(), [images, vit.cls_token])
    for one, other in zip(found, expected):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_same_block_asked_by_two_names() -> None:
    backbone = TimmViT(small(img_size=32, patch_size=8))
    tokens = backbone(images_for(backbone.vit), layers=(2, -1), scores=(2, -1))
    assert torch.equal(tokens.scores[2], tokens.scores[-1])
    assert torch.equal(tokens.layers[2], tokens.layers[-1])


@pytest.mark.parametrize("kind", ["plain", "distilled", "registers", "non-square"])
def test_a_kept_subset_equals_dropping_the_others_by_hand(kind: str) -> None:
    name, options = MODELS[kind]
    vit = small(name, **options)
    images = images_for(vit, batch=3)
    patches = vit.patch_embed.num_patches
    keep = torch.stack([torch.randperm(patches)[:4] for _ in range(3)])
    rows = []
    with torch.no_grad():
        embedded = vit._pos_embed(vit.patch_embed(images))
        for one, ids in zip(embedded, keep):
            chosen = torch.cat([one[: vit.num_prefix_tokens], one[vit.num_prefix_tokens :][ids]])
            rows.append(vit.norm(vit.blocks(vit.norm_pre(chosen[None]))))
        expected = torch.cat(rows)
        backbone = TimmViT(vit)
        tokens = backbone(images, keep=keep, layers=(0,))
        everything = backbone(images, keep=torch.arange(patches).expand(3, -1))
        whole = backbone(images)
    torch.testing.assert_close(tokens.cls, expected[:, 0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(tokens.patches, expected[:, vit.num_prefix_tokens :], atol=1e-6, rtol=1e-6)
    assert tokens.grid == whole.grid
    assert tokens.layers[0].shape == (3, 5, 24)
    torch.testing.assert_close(everything.patches, whole.patches, atol=1e-6, rtol=1e-6)


def test_keeping_no_patch_leaves_the_class_token() -> None:
    backbone = TimmViT(small(img_size=32, patch_size=8))
    tokens = backbone(images_for(backbone.vit), keep=torch.zeros(2, 0, dtype=torch.int64))
    assert tokens.patches.shape == (2, 0, 24)
    assert tokens.cls.isfinite().all()


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (torch.zeros(3, 2, dtype=torch.int64), r"\[3, 2\].*B = 2"),
        (torch.zeros(2, 2), "float32"),
        (torch.full((2, 2), 16), "16"),
        (torch.full((2, 2), -1), "-1"),
    ],
)
def test_wrong_subsets(keep: Tensor, words: str) -> None:
    backbone = TimmViT(small(img_size=32, patch_size=8))
    with pytest.raises(ValueError, match=words):
        backbone(images_for(backbone.vit), keep=keep)


def test_scores_of_a_subset_are_refused() -> None:
    backbone = TimmViT(small(img_size=32, patch_size=8))
    with pytest.raises(ValueError, match="without keep"):
        backbone(images_for(backbone.vit), scores=(-1,), keep=torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("kind", ["plain", "distilled", "registers", "layer scale"])
def test_other_sizes_equal_timm_with_dynamic_sizes(kind: str) -> None:
    name, options = MODELS[kind]
    vit = small(name, **options)
    dynamic = timm.create_model(name, num_classes=0, dynamic_img_size=True, **{**TINY, **options}).eval()
    dynamic.load_state_dict(vit.state_dict())
    patch = vit.patch_embed.patch_size[0]
    images = torch.randn(2, 3, 5 * patch, 7 * patch)
    with torch.no_grad():
        tokens = TimmViT(vit)(images, scores=(-1,))
        expected = dynamic.forward_features(images)
    assert tokens.grid == (5, 7)
    assert tokens.scores[-1].shape[-2:] == (5, 7)
    torch.testing.assert_close(tokens.patches, expected[:, vit.num_prefix_tokens :], atol=1e-6, rtol=1e-6)


def test_positions_keep_their_orientation() -> None:
    """A wide image gives a wide grid: the same count of patches in a tall one is another map."""
    backbone = create(BackboneConfig(image_size=(16, 64), patch_size=8, embed_dim=24, depth=1, heads=3)).eval()
    with torch.no_grad():
        wide, tall = backbone(torch.zeros(1, 3, 16, 64)), backbone(torch.zeros(1, 3, 64, 16))
    assert (wide.grid, tall.grid) == ((2, 8), (8, 2))
    assert not torch.allclose(wide.patches, tall.patches)


@pytest.mark.parametrize("shape", [(2, 3, 32, 33), (2, 3, 30, 32), (2, 3, 4, 32)])
def test_sizes_that_are_no_whole_patches(shape: tuple[int, ...]) -> None:
    backbone = TimmViT(small(img_size=32, patch_size=8))
    with pytest.raises(ValueError, match=r"not a multiple of the patch size 8; resize to .* or pad to"):
        backbone(torch.zeros(shape))


def test_images_of_another_kind() -> None:
    backbone = TimmViT(small(img_size=32, patch_size=8))
    for shape in ((3, 32, 32), (2, 1, 32, 32)):
        with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
            backbone(torch.zeros(shape))


@pytest.mark.parametrize("asked", [3, -4])
def test_blocks_that_are_not_there(asked: int) -> None:
    backbone = TimmViT(small(img_size=32, patch_size=8))
    for what in ("layers", "scores"):
        with pytest.raises(ValueError, match=f"{what}: there is no block {asked} among 3"):
            backbone(images_for(backbone.vit), **{what: (asked,)})
    with pytest.raises(ValueError, match=f"keys: there is no block {asked} among 3"):
        backbone.keys(images_for(backbone.vit), asked)


def test_a_batch_equals_a_loop() -> None:
    backbone = TimmViT(small(img_size=32, patch_size=8))
    images = images_for(backbone.vit, batch=3)
    with torch.no_grad():
        batch = backbone(images, scores=(-1,))
        loop = [backbone(image[None], scores=(-1,)) for image in images]
    torch.testing.assert_close(batch.cls, torch.cat([each.cls for each in loop]), atol=1e-5, rtol=1e-5)
    joined = torch.cat([each.scores[-1] for each in loop])
    torch.testing.assert_close(batch.scores[-1], joined, atol=1e-5, rtol=1e-5)


def test_autocast_keeps_scores_wide() -> None:
    backbone = TimmViT(small(img_size=32, patch_size=8))
    images = images_for(backbone.vit)
    exact = backbone(images, scores=(-1,)).scores[-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = backbone(images, scores=(-1,))
    assert tokens.scores[-1].dtype == torch.float32
    torch.testing.assert_close(tokens.scores[-1], exact, atol=0.3, rtol=0.1)
    tokens.scores[-1].sum().backward()


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    grads = []
    for saving in (False, True):
        torch.manual_seed(0)
        config = BackboneConfig(
            image_size=32,
            patch_size=8,
            embed_dim=24,
            depth=3,
            heads=3,
            surgery="F",
            gradient_checkpointing=saving,
        )
        backbone = create(config).train()
        tokens = backbone(torch.ones(2, 3, 32, 32), scores=(-1, 0))
        (tokens.cls.sum() + tokens.scores[-1].square().sum() + tokens.scores[0].sum()).backward()
        grads.append([value.grad for value in backbone.parameters()])
    for one, other in zip(*grads):
        torch.testing.assert_close(one, other)


def test_compiles_to_one_graph() -> None:
    backbone = TimmViT(small(img_size=32, patch_size=8))
    images = images_for(backbone.vit)
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    keep = torch.zeros(2, 3, dtype=torch.int64)
    with torch.no_grad():
        for asked in ({}, {"layers": (0,), "scores": (-1,)}, {"keep": keep}):
            expected, found = backbone(images, **asked), compiled(images, **asked)
            torch.testing.assert_close(found.patches, expected.patches, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(dict(found.scores), dict(expected.scores), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["vit_base_patch16_gap_224", "vit_betwixt_patch16_reg1_gap_256"])
def test_models_without_a_class_token(name: str) -> None:
    with torch.device("meta"):
        vit = timm.create_model(name, depth=1)
    with pytest.raises(ValueError, match=r"no class token.*choose a model that has: vit_\*_patch16_224"):
        TimmViT(vit)


def test_attention_pooling_and_random_patch_drop_are_refused() -> None:
    with pytest.raises(ValueError, match="global_pool='token'"):
        TimmViT(small(img_size=32, patch_size=8, global_pool="map"))
    with pytest.raises(ValueError, match="patch_drop_rate=0"):
        TimmViT(small(img_size=32, patch_size=8, patch_drop_rate=0.5))


def test_blocks_of_another_kind_run_but_show_no_scores() -> None:
    vit = small("vit_base_patch16_18x2_224", img_size=32, patch_size=8)
    images = images_for(vit)
    with torch.no_grad():
        expected = vit.forward_features(images)
        backbone = TimmViT(vit)
        torch.testing.assert_close(backbone(images).patches, expected[:, 1:], atol=1e-6, rtol=1e-6)
    assert backbone.heads == 3
    with pytest.raises(ValueError, match="scores of block -1: a block of type ParallelThingsBlock"):
        backbone(images, scores=(-1,))
    with pytest.raises(ValueError, match="keys of block 1: a block of type ParallelThingsBlock"):
        backbone.keys(images, 1)


def test_a_new_part_in_timms_attention_is_noticed() -> None:
    vit = small(img_size=32, patch_size=8)
    vit.blocks[1].attn.novelty = torch.nn.Linear(2, 2)
    backbone = TimmViT(vit)
    backbone(images_for(vit), scores=(0, 2))
    with pytest.raises(ValueError, match=r"attn\.novelty"):
        backbone(images_for(vit), scores=(1,))


def test_a_hybrid_stem() -> None:
    vit = small("vit_tiny_r_s16_p8_224", img_size=64)
    backbone = TimmViT(vit)
    tokens = backbone(torch.randn(1, 3, 64, 128), scores=(-1,))
    assert backbone.patch_size == (32, 32)
    assert tokens.grid == (2, 4)


def test_copies_and_pickles() -> None:
    backbone = create(BackboneConfig(image_size=32, patch_size=8, embed_dim=24, depth=2, heads=3, surgery="F")).eval()
    images = torch.randn(1, 3, 32, 32)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(other(images).cls, backbone(images).cls)


def test_state_keys_are_timms() -> None:
    backbone = create(BackboneConfig(image_size=32, patch_size=8, embed_dim=24, depth=2, heads=3))
    vit = small(img_size=32, patch_size=8, depth=2)
    assert set(backbone.export().state) == set(vit.state_dict())
    vit.load_state_dict(backbone.export().state, strict=True)


def test_export_of_a_module_of_ones_own_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"config=BackboneConfig"):
        TimmViT(small(img_size=32, patch_size=8)).export()


class TestCreate:
    def test_same_seed_same_weights(self) -> None:
        config = BackboneConfig(image_size=32, patch_size=8, embed_dim=24, depth=2, heads=3)
        made = []
        for _ in range(2):
            torch.manual_seed(3)
            made.append(create(config).state_dict())
        assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])

    def test_options_reach_timm(self) -> None:
        config = BackboneConfig(
            image_size=32,
            patch_size=8,
            embed_dim=24,
            depth=2,
            heads=3,
            options={"reg_tokens": 2, "mlp_ratio": 2.0},
        )
        backbone = create(config)
        assert backbone.prefix_tokens == 3
        assert backbone.vit.blocks[0].mlp.fc1.out_features == 48

    def test_drop_path_grows(self) -> None:
        backbone = create(BackboneConfig(image_size=32, patch_size=8, embed_dim=24, depth=3, heads=3, drop_path=0.2))
        rates = [getattr(block.drop_path2, "drop_prob", 0.0) for block in backbone.vit.blocks]
        assert rates == pytest.approx([0.0, 0.1, 0.2])

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"name": "vit_tinny_patch16_224"}, "did you mean vit_tiny_patch16_224"),
            ({"name": "resnet18"}, "resnet18"),
            (
                {"image_size": 225},
                "image height 225 is not a multiple of the patch size 16; set image_size to 224",
            ),
            ({"options": {"reg_tokenz": 2}}, "reg_tokenz"),
        ],
    )
    def test_errors(self, values: dict[str, object], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            create(BackboneConfig(**values))

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"embed_dim": 25, "heads": 3}, "embed_dim 25 is not a multiple of heads 3"),
            ({"options": {"depth": 2}}, r"options\.depth has a field of its own: set depth"),
            ({"image_size": 0}, "image_size 0 is not positive"),
            ({"image_sise": 32}, "did you mean 'image_size'"),
            ({"surgery": "G"}, "surgery"),
        ],
    )
    def test_config_errors(self, values: dict[str, object], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            BackboneConfig.parse(values)

    def test_config_survives_yaml(self) -> None:
        config = BackboneConfig(image_size=(32, 48), options={"qk_norm": True, "init_values": 1e-5})
        assert BackboneConfig.parse(config.plain()) == config


def test_hidden_patches_enter_as_the_token() -> None:
    vit = small(img_size=32, patch_size=8)
    backbone = TimmViT(vit)
    images, token = images_for(vit), torch.full((24,), 0.3)
    hidden = torch.rand(2, backbone(images).patches.shape[1], generator=torch.Generator().manual_seed(2)) < 0.5
    changed = images.clone()
    side, columns = 8, changed.shape[-1] // 8
    for image, patch in hidden.nonzero().tolist():
        y, x = divmod(patch, columns)
        changed[image, :, side * y : side * (y + 1), side * x : side * (x + 1)] += 7.0
    with torch.no_grad():
        seen = backbone(images, hidden=hidden, mask_token=token).patches
        torch.testing.assert_close(seen, backbone(changed, hidden=hidden, mask_token=token).patches)
        nothing = torch.zeros_like(hidden)
        torch.testing.assert_close(backbone(images).cls, backbone(images, hidden=nothing, mask_token=token).cls)
        embedded = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
        embedded = torch.where(hidden[..., None], token, embedded)
        expected = torch.cat([vit.cls_token.expand(2, -1, -1), embedded], 1) + vit.pos_embed
        torch.testing.assert_close(seen, vit.norm(vit.blocks(expected))[:, 1:])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hidden": torch.zeros(2, 16, dtype=torch.bool)}, "belong together"),
        ({"mask_token": torch.zeros(24)}, "belong together"),
        ({"hidden": torch.zeros(2, 9, dtype=torch.bool), "mask_token": torch.zeros(24)}, r"\[2, 9\].*\[2, 16\]"),
        ({"hidden": torch.zeros(2, 16), "mask_token": torch.zeros(24)}, "torch.float32"),
        ({"hidden": torch.zeros(2, 16, dtype=torch.bool), "mask_token": torch.zeros(20)}, r"\[20\].*\[24\] wide"),
    ],
)
def test_hidden_patches_are_checked(given: dict[str, Tensor], words: str) -> None:
    vit = small(img_size=32, patch_size=8)
    with pytest.raises(ValueError, match=words):
        TimmViT(vit)(images_for(vit), **given)
