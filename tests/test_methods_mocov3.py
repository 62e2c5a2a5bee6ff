"""MoCo-v3: the loss as a double loop, what moves and what is held, regularizers, first weights, and published heads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vitrail.backbones import BackboneConfig, ConvNetConfig, create, create_convnet, load, load_part
from vitrail.config import ConfigError
from vitrail.contracts import Batch, Method, Step
from vitrail.methods.mocov3 import MocoV3, MocoV3Config
from vitrail.nn.positions import sine_cosine
from vitrail.nn.projection_head import ProjectionConfig, ProjectionHead
from vitrail.nn.prototype_head import HeadConfig, PrototypeHead
from vitrail.ops.spatial_entropy import spatial_entropy

TINY = BackboneConfig(image_size=24, patch_size=4, embed_dim=24, depth=2, heads=2)
PLAIN = MocoV3Config(
    head=ProjectionConfig(layers=3, hidden_dim=16, out_dim=8, last_norm=True, whole_batch=True), predictor_dim=12
)
START = Step(0, 10)
ENTROPY = "{kind: spatial_entropy, weight: {peak: 0.5}}"


def method(config: MocoV3Config = PLAIN, backbone: BackboneConfig = TINY) -> MocoV3:
    """A base encoder that has moved away from its average, so that the two give different numbers."""
    torch.manual_seed(0)
    module = MocoV3(config, create(backbone))
    with torch.no_grad():
        for value in module.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.05)
    return module


def batch(size: int = 5, seed: int = 1) -> Batch:
    views = torch.randn(2, size, 3, 24, 24, generator=torch.Generator().manual_seed(seed))
    return Batch(views[0], None, torch.arange(size), (views[1],))


def stepped(module: MocoV3, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(module.parameter_groups(), lr=1e-2)
    for number in range(steps):
        optimizer.zero_grad()
        module.training_step(batch(seed=number), Step(number, steps)).total.backward()
        optimizer.step()
        module.after_step(Step(number, steps))


class TestLoss:
    def test_it_is_the_double_loop(self) -> None:
        """Query by query, key by key, direction by direction, of views that go through one at a time."""
        module, given = method(PLAIN.override(["temperature=0.3"])).double(), batch()
        views = (given.images.double(), given.views[0].double())
        queries = [module.predictor(module.head(module.backbone(view).cls)).detach() for view in views]
        keys = [module.key_head(module.key_backbone(view).cls) for view in views]
        total = 0.0
        for query, key in ((queries[0], keys[1]), (queries[1], keys[0])):
            for i in range(5):
                likeness = [math.exp(functional.cosine_similarity(query[i], key[j], dim=0) / 0.3) for j in range(5)]
                total -= 2 * 0.3 * math.log(likeness[i] / sum(likeness)) / 5
        losses = module.training_step(given._replace(images=views[0], views=(views[1],)), START)
        assert losses.total.item() == pytest.approx(total, rel=1e-12)
        assert set(losses.parts) == {"contrast", "spread"}
        assert torch.equal(losses.parts["contrast"], losses.total)

    def test_where_all_images_are_alike(self) -> None:
        module = method(PLAIN.override(["head.norm=false", "head.last_norm=false"]))
        alike = torch.randn(1, 3, 24, 24).expand(6, -1, -1, -1)
        losses = module.training_step(Batch(alike, None, torch.arange(6), (alike,)), START)
        assert losses.total.item() == pytest.approx(4 * 0.2 * math.log(6), rel=1e-5)
        assert losses.parts["spread"].item() == pytest.approx(0, abs=1e-3)

    def test_other_numbers_of_views(self) -> None:
        with pytest.raises(ValueError, match="holds 1 view of each image, and two are compared"):
            method().training_step(batch()._replace(views=()), START)
        with pytest.raises(ValueError, match="1 image in the batch"):
            method(PLAIN.override(["head.norm=false", "head.last_norm=false"])).training_step(batch(1), START)

    def test_bf16(self) -> None:
        module, given = method(), batch(16)
        wide = module.training_step(given, START).total
        with torch.autocast("cpu", torch.bfloat16):
            narrow = module.training_step(given, START).total
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow, wide, rtol=0.05, atol=0)


class TestWhatMoves:
    def test_the_averages_follow_and_get_no_gradient(self) -> None:
        module = method()
        averages = [value for part in (module.key_backbone, module.key_head) for value in part.parameters()]
        module.training_step(batch(), START).total.backward()
        assert all(value.grad is None and not value.requires_grad for value in averages)
        for step, momentum in ((Step(0, 10), 0.99), (Step(5, 10), 0.995)):
            before = module.key_head.mlp[0].weight.clone()
            module.after_step(step)
            wanted = momentum * before + (1 - momentum) * module.head.mlp[0].weight
            torch.testing.assert_close(module.key_head.mlp[0].weight, wanted)
        before = module.key_backbone.vit.blocks[0].attn.qkv.weight.clone()
        module.after_step(Step(10, 10))  # the momentum is 1
        assert torch.equal(module.key_backbone.vit.blocks[0].attn.qkv.weight, before)

    def test_held_weights_stay_and_the_others_learn(self) -> None:
        module = method()
        state = {name: value.clone() for name, value in module.backbone.vit.state_dict().items()}
        stepped(module)
        for name, value in module.backbone.vit.state_dict().items():
            held = name.startswith("patch_embed.") or name == "pos_embed"
            assert torch.equal(value, state[name]) == held, name
        for name in ("patch_embed.proj.weight", "pos_embed"):
            assert torch.equal(module.key_backbone.vit.state_dict()[name], state[name])

    def test_they_learn_where_they_are_not_held(self) -> None:
        module = method(PLAIN.override(["freeze_patch_embed=false", "positions=learned"]))
        before = module.backbone.vit.patch_embed.proj.weight.clone(), module.backbone.vit.pos_embed.clone()
        stepped(module, 1)
        assert not torch.equal(module.backbone.vit.patch_embed.proj.weight, before[0])
        assert not torch.equal(module.backbone.vit.pos_embed, before[1])

    def test_groups_hold_every_trained_weight_once(self) -> None:
        module = method(PLAIN.override(["regularizers=[{kind: drloc, hidden: 8}]"]))
        grouped = [id(each) for group in module.parameter_groups() for each in group["params"]]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {id(each) for each in module.parameters() if each.requires_grad}
        assert {group["weight_decay"] for group in module.parameter_groups()} == {0, 0.1}
        module.training_step(batch(), START).total.backward()
        silent = [name for name, each in module.named_parameters() if each.requires_grad and each.grad is None]
        assert silent == []

    def test_everything_survives_a_restart(self) -> None:
        module, other = method(), method()
        stepped(module)
        other.load_state_dict(module.state_dict())
        for each in (module, other):
            stepped(each)
        for name, value in module.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


class TestRegularizers:
    def test_value(self) -> None:
        """The mean over both views of the base encoder's entropy."""
        module, given = method(PLAIN.override([f"regularizers=[{ENTROPY}]"])), batch()
        raw = torch.stack(
            [
                spatial_entropy(module.backbone(view, scores=(-1,)).scores[-1]).mean()
                for view in (given.images, given.views[0])
            ]
        )
        assert (raw[0] - raw[1]).abs() > 1e-4
        losses = module.training_step(given, START)
        torch.testing.assert_close(losses.total - losses.parts["contrast"], 0.5 * raw.mean())
        torch.testing.assert_close(losses.parts["spatial_entropy"], raw.mean().detach())
        torch.testing.assert_close(losses.parts["spatial_entropy_weight"], torch.tensor(0.5))

    def test_the_averages_are_not_asked(self) -> None:
        module = method(PLAIN.override([f"regularizers=[{ENTROPY}]"]))
        asked: dict[str, list[Any]] = {"base": [], "key": []}
        for name, part in (("base", module.backbone), ("key", module.key_backbone)):
            part.register_forward_pre_hook(
                lambda _, given, named, name=name: asked[name].append(named.get("scores", ())), with_kwargs=True
            )
        module.training_step(batch(), START).total.backward()
        assert asked == {"base": [(-1,), (-1,)], "key": [(), ()]}
        assert all(value.grad is None for value in module.key_backbone.parameters())

    def test_its_gradient_changes_the_base_encoder_alone(self) -> None:
        with_entropy, without = method(PLAIN.override([f"regularizers=[{ENTROPY}]"])), method()
        for each in (with_entropy, without):
            each.training_step(batch(), START).total.backward()
        last = [each.backbone.vit.blocks[-1].attn.qkv.weight.grad for each in (with_entropy, without)]
        assert not torch.allclose(*last)  # type: ignore[arg-type]
        torch.testing.assert_close(with_entropy.predictor.mlp[0].weight.grad, without.predictor.mlp[0].weight.grad)

    def test_the_entropy_falls_by_it(self) -> None:
        """From one start on the same views, with and without; surgery as in SAR."""
        surgery = TINY.model_copy(update={"surgery": "F"})
        after = {}
        for weight in (0.0, 1.0):
            module = method(PLAIN.override([f"regularizers=[{{weight: {{peak: {weight}}}}}]"]), surgery)
            stepped(module, 40)
            with torch.no_grad():
                entropy = spatial_entropy(module.backbone(batch(40, 99).images, scores=(-1,)).scores[-1])
            after[weight] = entropy.mean().item()
        print(after)
        assert after[1.0] < 0.7 * after[0.0]


class TestFirstWeights:
    def test_those_of_a_vit(self) -> None:
        torch.manual_seed(0)
        backbone = MocoV3(PLAIN, create(BackboneConfig(image_size=32, patch_size=8, embed_dim=96, depth=1))).backbone
        vit: Any = backbone.vit
        bounds = {
            vit.blocks[0].attn.qkv: (6 / (96 + 96)) ** 0.5,  # of queries, keys and values, each for itself
            vit.blocks[0].attn.proj: (6 / (96 + 96)) ** 0.5,
            vit.blocks[0].mlp.fc1: (6 / (96 + 384)) ** 0.5,
            vit.patch_embed.proj: (6 / (3 * 64 + 96)) ** 0.5,
        }
        for part, bound in bounds.items():
            assert 0.98 * bound < part.weight.abs().max() <= bound
            assert part.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
            assert not part.bias.any()
        assert 0 < vit.cls_token.abs().max() < 1e-5
        assert torch.equal(vit.pos_embed[0, 1:], sine_cosine((4, 4), 96))
        assert not vit.pos_embed[0, 0].any()

    def test_weights_that_training_goes_on_from_stay(self) -> None:
        backbone = create(TINY)
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        module = MocoV3(PLAIN, backbone, fresh=False)
        assert all(torch.equal(value, before[name]) for name, value in module.backbone.state_dict().items())
        assert not module.backbone.vit.pos_embed.requires_grad


class TestOtherBackbones:
    def test_a_convolutional_network(self) -> None:
        torch.manual_seed(0)
        backbone = create_convnet(ConvNetConfig(width=4, blocks=(1, 1, 1, 1), image_size=24))
        for setting, words in (
            ("freeze_patch_embed=true", "freeze_patch_embed is true, and TimmConvNet has no linear patch embedding"),
            ("freeze_patch_embed=false", "positions is 'fixed', and TimmConvNet has no positions of its own"),
        ):
            with pytest.raises(ConfigError, match=words):
                MocoV3(PLAIN.override([setting]), backbone)
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        module = MocoV3(PLAIN.override(["freeze_patch_embed=false", "positions=learned"]), backbone)
        assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
        stepped(module, 1)
        assert not torch.equal(next(iter(backbone.parameters())), next(iter(before.values())))


class TestFiles:
    def test_what_is_exported(self) -> None:
        module = method()
        assert isinstance(module, Method)
        exported = module.export()
        assert torch.equal(exported.state["cls_token"], module.backbone.vit.cls_token)
        assert not torch.equal(exported.state["cls_token"], module.key_backbone.vit.cls_token)
        assert torch.equal(exported.state["predictor.mlp.0.weight"], module.predictor.mlp[0].weight)
        parts = exported.metadata["parts"]
        assert parts["projector"] == PLAIN.head.plain()
        again = ProjectionHead(ProjectionConfig.parse(parts["predictor"]), 8)
        again.load_state_dict({name: exported.state[f"predictor.{name}"] for name in again.state_dict()})

    def test_published_heads_give_what_they_gave(self, tmp_path: Path) -> None:
        """A file of the released layout: a ViT-S by its width, with 12 heads, and the MLPs as they stand."""
        small = BackboneConfig(image_size=32, patch_size=16, embed_dim=384, depth=1, heads=12)
        theirs = method(backbone=small)
        state: dict[str, Tensor] = {}
        for name, network, head in (
            ("base_encoder", theirs.backbone, theirs.head),
            ("momentum_encoder", theirs.key_backbone, theirs.key_head),
        ):
            state |= {f"module.{name}.{key}": value for key, value in network.export().state.items()}
            state |= {f"module.{name}.head.{key[4:]}": value for key, value in head.state_dict().items()}
        state |= {f"module.predictor.{key[4:]}": value for key, value in theirs.predictor.state_dict().items()}
        assert "module.base_encoder.head.7.running_mean" in state
        torch.save({"epoch": 300, "arch": "vit_small", "state_dict": state}, path := tmp_path / "vit-s-300ep.pth.tar")
        backbone = load(weights=path)
        assert backbone.heads == 12
        ours = MocoV3(PLAIN, backbone, fresh=False)
        for name, module in (("projector", ours.head), ("predictor", ours.predictor)):
            part = load_part(path, name)
            assert part is not None
            part._replace(state=module.translated(part.state)).fill(module)
        images = torch.randn(3, 3, 32, 32)
        queries = [each.eval().predictor(each.head(each.backbone(images).cls)) for each in (ours, theirs)]
        torch.testing.assert_close(*queries)

    def test_heads_with_prototypes_are_another_thing(self) -> None:
        other = PrototypeHead(HeadConfig(prototypes=7, hidden_dim=16, bottleneck_dim=8), 24)
        with pytest.raises(ValueError, match=r"compares with prototypes.*vitrail export"):
            ProjectionHead(PLAIN.head, 24).translated(other.state_dict())
