"""A backbone with an object-aware filter: the same until it is trained, and never lost on the way."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import vitrail
from vitrail.backbones import (
    BackboneConfig,
    TimmViT,
    add_object_filter,
    create,
    digest,
    load,
    load_classifier,
    save_exported,
)
from vitrail.config import ConfigError
from vitrail.contracts import Exported
from vitrail.evaluation.features import frozen
from vitrail.nn.groups import parameter_groups
from vitrail.nn.object_filter import ObjectFilterConfig
from vitrail.nn.surgery import operate
from vitrail.nn.teacher import follow, teacher_of
from vitrail.ops.prototype_entropy import pool_3x3, prototype_entropy
from vitrail.recipes.ship import ship
from vitrail.recipes.start import start

SIZES: dict[str, Any] = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "heads": 3}
SMALL = ObjectFilterConfig(prototypes=5)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def stirred(backbone: TimmViT) -> TimmViT:
    """With numbers that matter everywhere."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in backbone.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.3)
    return backbone.eval()


def plain(**changes: Any) -> TimmViT:
    torch.manual_seed(0)
    return stirred(create(BackboneConfig(**SIZES | changes)))


def filtering(config: ObjectFilterConfig = SMALL, **changes: Any) -> TimmViT:
    return plain(object_filter=config, **changes)


def patches(backbone: TimmViT, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return backbone(images).patches


def test_a_fresh_one_changes_no_bit() -> None:
    backbone = plain()
    with torch.no_grad():
        before = backbone(IMAGES, layers=(0, -1), scores=(-1,))
        added = add_object_filter(backbone, SMALL)
        after = backbone(IMAGES, layers=(0, -1), scores=(-1,))
    assert added is backbone
    assert backbone.object_filter is not None
    assert not backbone.object_filter.training
    for then, now in zip((before.cls, before.patches), (after.cls, after.patches)):
        assert torch.equal(then, now)
    assert all(torch.equal(before.layers[each], after.layers[each]) for each in (0, -1))
    assert torch.equal(before.scores[-1], after.scores[-1])
    assert backbone.config == BackboneConfig(**SIZES, object_filter=SMALL)


@pytest.mark.parametrize("class_token", [False, True])
def test_what_a_trained_one_changes(class_token: bool) -> None:
    backbone = filtering(ObjectFilterConfig(prototypes=5, class_token=class_token))
    with torch.no_grad():
        found = backbone(IMAGES, scores=(-1,))
        assert backbone.object_filter is not None
        for value in backbone.object_filter.join.parameters():
            value.zero_()
        without = backbone(IMAGES, scores=(-1,))
    assert not torch.allclose(found.patches, without.patches)
    assert torch.equal(found.cls, without.cls) is not class_token
    assert torch.equal(found.scores[-1], without.scores[-1])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"options": {"reg_tokens": 2}},
        {"options": {"init_values": 0.5}},
        {"options": {"qk_norm": True}},
        {"surgery": "F"},
        {"depth": 1},
        {"name": "deit_tiny_distilled_patch16_224"},
    ],
)
@pytest.mark.parametrize("reads", ["input", "attention"])
def test_kept_by_export_and_load(changes: dict[str, Any], reads: Any, tmp_path: Path) -> None:
    source = filtering(ObjectFilterConfig(prototypes=5, heads=2, reads=reads), **changes)
    save_exported(source.export(), tmp_path / "x.safetensors")
    loaded = vitrail.load(str(tmp_path / "x.safetensors")).eval()
    assert loaded.config == source.config.model_copy(update={"image_size": (32, 32)})
    assert torch.equal(patches(loaded), patches(source))
    assert (loaded.report.missing, loaded.report.unexpected, loaded.report.ignored) == ((), (), ())
    last = f"blocks.{source.depth - 1}.object_filter."
    assert f"{last}prototypes" in source.vit.state_dict()
    with torch.no_grad():
        attention = loaded.prototype_attention(IMAGES)
    assert attention.shape == (2, 2, 5, 4, 4)
    torch.testing.assert_close(attention.sum(2), torch.ones(2, 2, 4, 4))


class TestNeverLost:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        save_exported(filtering().export(), tmp_path / "x.safetensors")
        return tmp_path / "x.safetensors"

    def test_a_configuration_without_one(self, file: Path) -> None:
        loaded = load(BackboneConfig(**SIZES), file).eval()
        assert "has an object-aware filter" in loaded.report.words()
        assert torch.equal(patches(loaded), patches(filtering()))

    def test_a_configuration_with_another(self, file: Path) -> None:
        other = BackboneConfig(**SIZES, object_filter=ObjectFilterConfig(prototypes=6))
        with pytest.raises(ValueError, match=r"object_filter prototypes=5 .*, and prototypes=6 .* leave it out"):
            load(other, file)

    def test_a_file_without_one(self, tmp_path: Path) -> None:
        save_exported(plain().export(), tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=r"object_filter null, and prototypes=5 .*add_object_filter"):
            load(BackboneConfig(**SIZES, object_filter=SMALL), tmp_path / "x.safetensors")

    def test_a_file_without_our_header(self, file: Path, tmp_path: Path) -> None:
        save_file(load_file(file), tmp_path / "bare.safetensors")
        with pytest.raises(ValueError, match=r"only in part(.|\n)*unexpected.*object_filter\.prototypes"):
            load(BackboneConfig(**SIZES), tmp_path / "bare.safetensors")
        whole = load(BackboneConfig(**SIZES, object_filter=SMALL), tmp_path / "bare.safetensors").eval()
        assert torch.equal(patches(whole), patches(filtering()))

    def test_half_a_filter(self, file: Path, tmp_path: Path) -> None:
        exported = filtering().export()
        del exported.state["blocks.2.object_filter.key.bias"]
        save_exported(exported, tmp_path / "half.safetensors")
        with pytest.raises(ValueError, match=r"missing.*object_filter\.key\.bias"):
            load(weights=tmp_path / "half.safetensors")

    def test_timm_refuses_it(self, file: Path) -> None:
        vit = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=0
        )
        with pytest.raises(RuntimeError, match="object_filter"):
            vit.load_state_dict(load_file(file))

    def test_a_classifier(self, tmp_path: Path) -> None:
        exported = filtering().export()
        state = exported.state | {"head.weight": torch.ones(2, 24), "head.bias": torch.zeros(2)}
        save_exported(Exported(state, exported.metadata | {"classes": ["a", "b"]}), tmp_path / "x.safetensors")
        found = load_classifier(tmp_path / "x.safetensors")
        assert torch.equal(patches(found.backbone.eval()), patches(filtering()))

    def test_surgery_afterwards(self) -> None:
        backbone = filtering()
        kept = backbone.object_filter
        operate(backbone.vit, "F")
        assert backbone.object_filter is kept
        assert backbone(IMAGES).patches.shape == (2, 16, 24)

    def test_ways_that_drop_or_merge_tokens(self) -> None:
        from vitrail.rankers.evit import _thin_block

        backbone = filtering()
        with pytest.raises(ValueError, match="passes by its object-aware filter"):
            _thin_block(backbone.vit.blocks[-1], torch.zeros(2, 17, 24), 0.5, 1, True)

    def test_words_of_an_export(self, file: Path, tmp_path: Path) -> None:
        said = ship(str(file), tmp_path / "out.safetensors", model=None, key="auto", size=None, batch="1")
        assert "timm alone has no object-aware filter" in said


class TestStart:
    """What recipes start from."""

    def test_a_fresh_one_for_weights_without(self, tmp_path: Path) -> None:
        source = plain()
        save_exported(source.export(), tmp_path / "x.safetensors")
        given = str(tmp_path / "x.safetensors")
        wanted = BackboneConfig(**SIZES, object_filter=SMALL)
        backbone = start(wanted, 32, (0.5,) * 3, (0.5,) * 3, given).eval()
        assert backbone.object_filter is not None
        assert torch.equal(patches(backbone), patches(source))
        save_exported(stirred(backbone).export(), tmp_path / "own.safetensors")
        resumed = start(wanted, 32, (0.5,) * 3, (0.5,) * 3, given, str(tmp_path / "own.safetensors")).eval()
        assert torch.equal(patches(resumed), patches(backbone))

    def test_that_of_the_weights_stays(self, tmp_path: Path) -> None:
        save_exported(filtering().export(), tmp_path / "x.safetensors")
        given = str(tmp_path / "x.safetensors")
        kept = start(BackboneConfig(**SIZES), 32, (0.5,) * 3, (0.5,) * 3, given).eval()
        assert torch.equal(patches(kept), patches(filtering()))
        other = BackboneConfig(**SIZES, object_filter=ObjectFilterConfig(prototypes=6))
        with pytest.raises(ConfigError, match=r"object_filter = prototypes=6 .* was trained with prototypes=5"):
            start(other, 32, (0.5,) * 3, (0.5,) * 3, given)


@pytest.mark.parametrize("size", [(32, 32), (24, 48), (8, 8)])
def test_several_sizes(size: tuple[int, int]) -> None:
    backbone = filtering()
    images = torch.randn(3, 3, *size)
    grid = (size[0] // 8, size[1] // 8)
    with torch.no_grad():
        x, found = backbone.embed(images)
        for block in backbone.vit.blocks[:-1]:
            x = block(x)
        expected = backbone.norm(backbone.vit.blocks[-1](x, grid=grid))[:, 1:]
        assert backbone.prototype_attention(images).shape == (3, 3, 5, *grid)
    assert found == grid
    assert torch.equal(patches(backbone, images), expected)


def test_registers_stand_outside_of_the_grid() -> None:
    """The filter sees the same patches, whatever stands before them."""
    backbone = filtering(options={"reg_tokens": 3})
    seen: list[tuple[Tensor, tuple[int, int]]] = []
    assert backbone.object_filter is not None
    backbone.object_filter.register_forward_pre_hook(lambda _, given: seen.append((given[0], given[2])))
    patches(backbone)
    assert seen[0][0].shape == (2, 1 + 3 + 16, 24)
    assert seen[0][1] == (4, 4)


def test_hidden_patches_and_a_subset() -> None:
    backbone = filtering()
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[:, :5] = True
    with torch.no_grad():
        assert backbone(IMAGES, hidden=hidden, mask_token=torch.zeros(24)).patches.shape == (2, 16, 24)
    with pytest.raises(ValueError, match=r"keep was given .* object-aware filter.*leave keep out"):
        backbone(IMAGES, keep=torch.zeros(2, 4, dtype=torch.int64))


def gradients(backbone: TimmViT) -> dict[str, Tensor]:
    backbone.zero_grad()
    torch.manual_seed(3)
    backbone(IMAGES).patches.square().mean().backward()
    return {name: value.grad for name, value in backbone.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_gradient_checkpointing(drop_path: float) -> None:
    one, two = (filtering(drop_path=drop_path, gradient_checkpointing=each).train() for each in (False, True))
    expected, found = gradients(one), gradients(two)
    assert expected.keys() == found.keys()
    assert "vit.blocks.2.object_filter.prototypes" in found
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_drop_path_takes_the_filter_with_the_branch() -> None:
    backbone = filtering(drop_path=0.5).train()
    backbone.vit.blocks[-1].drop_path1.drop_prob = 1.0
    found = gradients(backbone)
    assert not found["vit.blocks.2.object_filter.prototypes"].any()
    assert found["vit.blocks.2.mlp.fc1.weight"].any()


def test_autocast() -> None:
    backbone = filtering()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = patches(backbone).float()
    expected = patches(backbone)
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_a_teacher_follows_with_its_prototypes() -> None:
    student = filtering()
    teacher = teacher_of(student)
    start_there = patches(teacher)
    torch.testing.assert_close(start_there, patches(student))
    assert student.object_filter is not None
    assert teacher.object_filter is not None
    old = teacher.object_filter.prototypes.clone()
    with torch.no_grad():
        student.object_filter.prototypes.add_(1)
    assert torch.equal(teacher.object_filter.prototypes, old)
    follow(teacher, student, 0.75)
    torch.testing.assert_close(teacher.object_filter.prototypes, old + 0.25)
    assert not any(value.requires_grad for value in teacher.parameters())
    assert not torch.equal(patches(teacher), start_there)
    follow(teacher, student, 0.0)
    torch.testing.assert_close(patches(teacher), patches(student))


def test_copies_and_digests() -> None:
    backbone = filtering()
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(patches(twin), patches(backbone))
        assert digest(twin) == digest(backbone)
        with torch.no_grad():
            twin.object_filter.prototypes.add_(1)
        assert digest(twin) != digest(backbone)
    asked = [filtering(ObjectFilterConfig(prototypes=5, reads=each)) for each in ("input", "attention")]
    assert digest(asked[0]) != digest(asked[1])


def test_a_plain_backbones_digest_is_what_it_was() -> None:
    torch.manual_seed(0)
    backbone = create(BackboneConfig(**SIZES))
    for value in backbone.parameters():
        value.data.fill_(0.25)
    assert digest(backbone) == "a45d21c754fd0bc8"  # of all weights 0.25, before there were filters


def test_prototypes_for_their_loss() -> None:
    backbone = filtering()
    assert backbone.object_filter is not None
    own = backbone.object_filter.prototypes
    found = backbone.object_prototypes()
    assert torch.equal(found, own)
    pooled = pool_3x3(patches(backbone), (4, 4))
    (expected,) = torch.autograd.grad(prototype_entropy(own, pooled), own)
    (gradient,) = torch.autograd.grad(prototype_entropy(found, pooled), own)
    assert torch.equal(gradient, expected)
    assert gradient.any()


def test_layer_decay_reaches_it() -> None:
    backbone = filtering()
    groups = parameter_groups(backbone, weight_decay=0.1, layer_decay=0.5)
    scales = {id(value): group["lr_scale"] for group in groups for value in group["params"]}
    assert backbone.object_filter is not None
    assert {scales[id(value)] for value in backbone.object_filter.parameters()} == {0.5}
    assert scales[id(backbone.vit.blocks[-1].attn.proj.weight)] == 0.5


class TestRefused:
    def test_twice(self) -> None:
        with pytest.raises(ValueError, match="has an object-aware filter already"):
            add_object_filter(filtering())

    def test_heads(self) -> None:
        backbone = plain()
        with pytest.raises(ValueError, match="heads 5 does not divide the width 24"):
            add_object_filter(backbone, ObjectFilterConfig(heads=5))
        assert backbone.object_filter is None
        assert backbone.config == BackboneConfig(**SIZES)

    def test_closed_blocks(self) -> None:
        vit = timm.create_model(
            "vit_small_patch16_18x2_224",
            img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0,
        )  # fmt: skip
        with pytest.raises(ValueError, match="ParallelThingsBlock"):
            add_object_filter(TimmViT(vit))

    def test_attention_of_none(self) -> None:
        for ask in (lambda: plain().prototype_attention(IMAGES), lambda: plain().object_prototypes()):
            with pytest.raises(ValueError, match=r"no object-aware filter, and so no prototypes.*add_object_filter"):
                ask()
        with pytest.raises(ValueError, match="this block has no object-aware filter"):
            plain().vit.blocks[-1].prototype_attention(torch.zeros(2, 17, 24), (4, 4))


def test_on_the_weights_device_and_in_their_precision() -> None:
    backbone = add_object_filter(plain().double(), SMALL)
    assert backbone.object_filter is not None
    assert backbone.object_filter.prototypes.dtype == torch.float64
    assert backbone(IMAGES.double()).patches.dtype == torch.float64


def test_of_a_module_of_your_own() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3)
    backbone = add_object_filter(TimmViT(vit))
    assert backbone.config is None
    assert backbone.object_filter is not None
    assert len(backbone.object_filter.prototypes) == 64


def test_prototypes_are_constants_while_a_protocol_measures() -> None:
    backbone, asked = filtering(), []
    filter_ = backbone.object_filter
    assert filter_ is not None
    expected = patches(backbone)
    hook = filter_.key.register_forward_hook(lambda *_: asked.append(1))
    patches(backbone)
    assert len(asked) == 1
    with frozen(backbone):
        asked.clear()
        assert torch.equal(patches(backbone), expected)
        assert torch.equal(patches(backbone), expected)
        assert not asked
    hook.remove()
    with torch.no_grad():
        filter_.prototypes.add_(1.0)
    assert not torch.equal(patches(backbone), expected)
