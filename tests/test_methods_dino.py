"""DINO: the loss as a double loop, golden numbers, the center, the teacher, schedules, crops and regularizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitrail.backbones import BackboneConfig, create
from vitrail.config import ConfigError
from vitrail.contracts import Batch, Method, Step, Tokens
from vitrail.methods.dino import Dino, DinoConfig, by_size, epoch_of, views_of
from vitrail.nn.prototype_head import HeadConfig
from vitrail.nn.soft_targets import TargetConfig
from vitrail.ops.sinkhorn import sinkhorn
from vitrail.ops.spatial_entropy import spatial_entropy

TINY = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2)
HEAD = HeadConfig(prototypes=10, hidden_dim=16, bottleneck_dim=8)
PLAIN = DinoConfig(head=HEAD, targets=TargetConfig(warmup_epochs=0), frozen_epochs=0, momentum=0.9)
START = Step(0, 10)
ENTROPY = "{kind: spatial_entropy, weight: {peak: 0.5}}"


def method(config: DinoConfig = PLAIN, backbone: BackboneConfig = TINY) -> Dino:
    """A student that has moved away from its teacher, so that the two give different numbers."""
    torch.manual_seed(0)
    module = Dino(config, create(backbone))
    with torch.no_grad():
        for value in (*module.backbone.parameters(), *module.head.parameters()):
            value.add_(torch.randn_like(value) * 0.05)
        module.targets.center.copy_(torch.randn(config.head.prototypes) * 0.02)
    return module


def batch(size: int = 3, sides: tuple[int, ...] = (24, 24, 12, 12, 12), seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    views = [torch.randn(size, 3, side, side, generator=generator) for side in sides]
    return Batch(views[0], None, torch.arange(size), tuple(views[1:]))


def doubled(given: Batch) -> Batch:
    return given._replace(images=given.images.double(), views=tuple(view.double() for view in given.views))


def double_loop(module: Dino, given: Batch, temperature: float, globals_: int = 2) -> float:
    """View by view, image by image, pair by pair."""
    views, terms = (given.images, *given.views), []
    for t in range(globals_):
        for s in range(len(views)):
            for b in range(len(given.images)):
                if s != t:
                    teacher = module.teacher_head(module.teacher(views[t][b : b + 1]).cls)[0]
                    target = ((teacher - module.targets.center) / temperature).softmax(0)
                    student = module.head(module.backbone(views[s][b : b + 1]).cls)[0]
                    terms.append(-(target * (student / 0.1).log_softmax(0)).sum())
    assert len(terms) == globals_ * (len(views) - 1) * len(given.images)
    return torch.stack(terms).mean().item()


def test_fulfills_the_contract() -> None:
    assert isinstance(method(), Method)


@pytest.mark.parametrize("sides", [(24, 24), (24, 24, 12, 12, 12), (24, 24, 12, 18, 12), (24, 24, 24)])
def test_the_loss_is_the_double_loop(sides: tuple[int, ...]) -> None:
    """Local crops of several sizes, in any order, and of the global ones' size."""
    module, given = method().double(), doubled(batch(2, sides))
    losses = module.training_step(given, START)
    assert losses.total.dtype == torch.float64
    assert losses.total.item() == pytest.approx(double_loop(module, given, 0.07), rel=1e-12)
    assert set(losses.parts) == {"views", "teacher_entropy"}
    assert torch.equal(losses.parts["views"], losses.total)
    assert 0 <= losses.parts["teacher_entropy"] <= math.log(10)


@pytest.mark.parametrize("globals_", [1, 3])
def test_other_numbers_of_global_views(globals_: int) -> None:
    module, given = method(PLAIN.override([f"global_views={globals_}"])).double(), doubled(batch(2, (24, 24, 24, 12)))
    expected = double_loop(module, given, 0.07, globals_)
    assert module.training_step(given, START).total.item() == pytest.approx(expected, rel=1e-12)


class Table(nn.Module):
    """A backbone that knows the answer: pixel (0, 0) of an image is the number of its row."""

    depth, heads, embed_dim, patch_size = 1, 1, 64, (1, 1)

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, images: Tensor, layers: Any = (), scores: Any = ()) -> Tokens:
        return Tokens(self.rows[images[:, 0, 0, 0].long()], images.flatten(2), (1, 1))


class Through(nn.Module):
    def forward(self, tokens: Tensor, frozen: bool = False) -> Tensor:
        return tokens


def test_golden_numbers(oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    """The whole step on given outputs of student and teacher: loss, gradient, and the center after it."""
    golden = oracle("dino_loss")
    config = PLAIN.override([f"targets.temperature={golden['teacher_temp']}", "head.prototypes=64"])
    config = config.override([f"student_temperature={golden['student_temp']}"])
    module: Any = Dino(config, Table(torch.from_numpy(golden["student"])))  # type: ignore[arg-type]
    module.teacher = Table(torch.from_numpy(golden["teacher"])).requires_grad_(False)
    module.head, module.teacher_head = Through(), Through()
    module.targets.center.copy_(torch.from_numpy(golden["center0"]).reshape(-1))
    rows = torch.arange(24.0).view(6, 4, 1, 1, 1).expand(6, 4, 3, 1, 1)
    total = module.training_step(Batch(rows[0], None, torch.arange(4), tuple(rows[1:])), START).total
    total.backward()
    assert total.item() == pytest.approx(float(golden["loss"]), rel=1e-6)
    torch.testing.assert_close(module.backbone.rows.grad, torch.from_numpy(golden["grad"]), rtol=1e-5, atol=5e-7)
    module.targets.move()
    expected = torch.from_numpy(golden["center1"]).reshape(-1).to(torch.float32)
    torch.testing.assert_close(module.targets.center, expected)


class TestCenter:
    def test_moves_by_the_formula_and_only_after_a_step(self) -> None:
        module, given = method(), batch()
        before = module.targets.center.clone()
        logits = torch.cat([module.teacher_head(module.teacher(view).cls) for view in (given.images, given.views[0])])
        first = module.training_step(given, START).total
        assert torch.equal(module.targets.center, before)
        assert torch.equal(module.training_step(given, START).total, first)
        module.after_step(START)
        torch.testing.assert_close(module.targets.center, 0.9 * before + 0.1 * logits.mean(0))
        assert not module.targets.seen.any()
        assert module.targets.count == 0

    def test_micro_batches_move_it_as_the_whole_batch(self) -> None:
        whole, parts, given = method(), method(), batch(4)
        whole.training_step(given, START)
        for rows in (slice(0, 3), slice(3, 4)):
            parts.training_step(
                Batch(given.images[rows], None, given.indices[rows], tuple(view[rows] for view in given.views)), START
            )
        whole.after_step(START)
        parts.after_step(START)
        torch.testing.assert_close(parts.targets.center, whole.targets.center)

    def test_stays_where_nothing_was_seen(self) -> None:
        module = method()
        before = module.targets.center.clone()
        module.after_step(START)
        assert torch.equal(module.targets.center, before)

    def test_is_in_the_state_and_pending_sums_are_not(self) -> None:
        module = method()
        module.training_step(batch(), START)
        names = {name for name in module.state_dict() if name.startswith("targets.")}
        assert names == {"targets.center"}

    def test_sinkhorn_takes_its_place(self) -> None:
        module = method(PLAIN.override(["targets.kind=sinkhorn", "targets.sinkhorn_iterations=2"]))
        given = batch(4, (24, 24))
        views = (given.images, given.views[0])
        with torch.no_grad():
            logits = torch.cat([module.teacher_head(module.teacher(view).cls) for view in views])
            target = sinkhorn(logits, 0.07, 2).view(2, 4, -1)
            logs = [(module.head(module.backbone(view).cls) / 0.1).log_softmax(-1) for view in views]
        expected = -((target[0] * logs[1]).sum(-1).mean() + (target[1] * logs[0]).sum(-1).mean()) / 2
        torch.testing.assert_close(module.training_step(given, START).total, expected)
        before = module.targets.center.clone()
        module.after_step(START)
        assert torch.equal(module.targets.center, before)


class TestTeacher:
    def test_gets_no_gradient_and_follows(self) -> None:
        module, given = method(), batch()
        module.training_step(given, START).total.backward()
        for part in (module.teacher, module.teacher_head):
            assert all(value.grad is None and not value.requires_grad for value in part.parameters())
        for name, value in module.named_parameters():
            if value.requires_grad:
                assert value.grad is not None, name
                assert value.grad.isfinite().all(), name
        before = {name: value.clone() for name, value in module.named_parameters()}
        module.after_step(Step(5, 10))
        m = 1 - 0.1 * (1 + math.cos(math.pi / 2)) / 2  # halfway from 0.9 to 1
        for mine, theirs in (("teacher.", "backbone."), ("teacher_head.", "head.")):
            for name, value in module.named_parameters():
                if name.startswith(mine):
                    expected = m * before[name] + (1 - m) * before[theirs + name[len(mine) :]]
                    torch.testing.assert_close(value, expected)

    @pytest.mark.parametrize(("index", "momentum"), [(0, 0.9), (10, 0.95), (20, 1.0)])
    def test_momentum_goes_to_one(self, index: int, momentum: float) -> None:
        module = method()
        teacher, student = module.teacher_head.prototypes.clone(), module.head.prototypes.clone()
        module.after_step(Step(index, 20))
        torch.testing.assert_close(module.teacher_head.prototypes, momentum * teacher + (1 - momentum) * student)

    def test_drop_path_is_the_student_s_alone(self) -> None:
        module, given = method(backbone=TINY.model_copy(update={"drop_path": 0.5})).train(), batch(8)
        entropies = [module.training_step(given, START).parts["teacher_entropy"] for _ in range(2)]
        totals = [module.training_step(given, START).total for _ in range(2)]
        assert torch.equal(*entropies)
        assert not torch.equal(*totals)

    def test_what_is_exported(self) -> None:
        module = method()
        exported = module.export()
        assert torch.equal(exported.state["cls_token"], module.teacher.vit.cls_token)
        assert not torch.equal(exported.state["cls_token"], module.backbone.vit.cls_token)
        assert torch.equal(exported.state["projector.prototypes"], module.teacher_head.prototypes)
        assert torch.equal(exported.state["centers.center"], module.targets.center)
        assert exported.metadata["network"] == "teacher"
        assert exported.metadata["parts"] == {"projector": HEAD.plain(), "centers": {}}


class TestSchedules:
    CONFIG = PLAIN.override(["targets.warmup_epochs=4", "frozen_epochs=2", "epochs=8"])

    @pytest.mark.parametrize(("index", "temperature"), [(0, 0.04), (7, 0.05), (15, 0.07), (39, 0.07)])
    def test_the_temperature_rises_by_the_epoch(self, index: int, temperature: float) -> None:
        """8 epochs of 5 steps, the first 4 of which warm up: 0.04, 0.05, 0.06, 0.07."""
        module, given = method(self.CONFIG).double(), doubled(batch(2))
        total = module.training_step(given, Step(index, 40)).total.item()
        assert total == pytest.approx(double_loop(module, given, temperature), rel=1e-12)

    @pytest.mark.parametrize("fixed_norm", [True, False])
    def test_prototypes_are_frozen_at_first(self, fixed_norm: bool) -> None:
        module = method(self.CONFIG.override([f"head.fixed_norm={fixed_norm}"]))
        resting = [group for group in module.parameter_groups() if "frozen_until" in group]
        assert {group["frozen_until"] for group in resting} == {2 / 8}
        values = [value for value in (module.head.prototypes, module.head.norms) if value is not None]
        assert {id(value) for group in resting for value in group["params"]} == {id(value) for value in values}

    @pytest.mark.parametrize("steps", [1, 3, 7, 49, 1251])
    def test_every_first_step_of_an_epoch_is_in_it(self, steps: int) -> None:
        for epochs in (3, 10, 300):
            for epoch in range(epochs):
                assert epoch_of(Step(epoch * steps, epochs * steps), epochs) == epoch
                assert epoch_of(Step(epoch * steps + steps - 1, epochs * steps), epochs) == epoch
        assert epoch_of(Step(steps - 1, steps), None) == 0

    def test_epochs_that_nobody_counts(self) -> None:
        with pytest.raises(ConfigError, match=r"method\.epochs is null and 30 and 1 epochs"):
            method(DinoConfig(head=HEAD))
        with pytest.raises(ConfigError, match="0 and 1 epochs"):
            method(PLAIN.override(["frozen_epochs=1"]))
        with pytest.raises(ConfigError, match=r"frozen_epochs = 0\.5"):
            PLAIN.override(["frozen_epochs=0.5"])


class TestViews:
    def test_too_few(self) -> None:
        with pytest.raises(ValueError, match="holds 1 view of each image and 2 global ones"):
            method().training_step(batch(2, (24,)), START)
        with pytest.raises(ValueError, match="holds 1 view of each image and 1 global ones"):
            views_of(batch(2, (24,)), 1)
        with pytest.raises(ValueError, match="holds 2 views of each image and 3 global ones"):
            views_of(batch(2, (24, 24)), 3)
        assert len(views_of(batch(2, (24, 24, 24)), 3)) == 3
        assert len(views_of(batch(2, (24, 12)), 1)) == 2

    def test_global_ones_of_unlike_size(self) -> None:
        with pytest.raises(ValueError, match=r"\(12, 12\), \(24, 24\)"):
            method().training_step(batch(2, (24, 12)), START)

    def test_neighbors_of_one_size_are_one_pass(self) -> None:
        views = views_of(batch(1, (24, 24, 24, 12, 12, 18, 12)), 2)
        groups = by_size(views, 2)
        assert [[view.shape[-1] for view in group] for group in groups] == [[24, 24], [24], [12, 12], [18], [12]]
        assert all(mine is theirs for mine, theirs in zip([view for group in groups for view in group], views))


class TestRegularizers:
    @pytest.mark.parametrize("which", ["global", "all"])
    def test_value(self, which: str) -> None:
        config, given = (
            PLAIN.override([f"regularizers=[{ENTROPY}]", f"regularize={which}"]),
            batch(sides=(24, 24, 18, 18, 18)),
        )
        module, views = method(config), (given.images, *given.views)
        seen = views[:2] if which == "global" else views
        raw = torch.stack([spatial_entropy(module.backbone(view, scores=(-1,)).scores[-1]).mean() for view in seen])
        losses = module.training_step(given, START)
        torch.testing.assert_close(losses.total - losses.parts["views"], 0.5 * raw.mean())
        torch.testing.assert_close(losses.parts["spatial_entropy"], raw.mean().detach())
        torch.testing.assert_close(losses.parts["spatial_entropy_weight"], torch.tensor(0.5))

    def test_its_gradient_reaches_the_student_alone(self) -> None:
        module, plain, given = method(PLAIN.override([f"regularizers=[{ENTROPY}]"])), method(), batch()
        for each in (module, plain):
            each.training_step(given, START).total.backward()
        assert all(value.grad is None for part in (module.teacher, module.teacher_head) for value in part.parameters())
        with_entropy, without = (each.backbone.vit.blocks[-1].attn.qkv.weight.grad for each in (module, plain))
        assert not torch.allclose(with_entropy, without)
        torch.testing.assert_close(module.head.prototypes.grad, plain.head.prototypes.grad)

    def test_its_weights_learn_too(self) -> None:
        module = method(PLAIN.override(["regularizers=[{kind: drloc, hidden: 8}]"]))
        module.training_step(batch(), START).total.backward()
        held = {id(each) for group in module.parameter_groups() for each in group["params"]}
        assert list(module.regularizers.parameters())
        for value in module.regularizers.parameters():
            assert id(value) in held
            assert value.grad is not None


def test_groups_hold_every_trained_weight_once_and_decay_rises() -> None:
    module = method(PLAIN.override(["head.fixed_norm=false"]))
    groups = module.parameter_groups()
    grouped = [id(each) for group in groups for each in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(each) for each in module.parameters() if each.requires_grad}
    for group in groups:
        decayed = group["weight_decay"] > 0
        assert group.get("weight_decay_end") == (0.4 if decayed else None)
        assert any(each is module.head.prototypes for each in group["params"]) <= decayed
        assert any(each is module.head.norms for each in group["params"]) <= (not decayed)


def test_bf16() -> None:
    module, given = method(), batch()
    wide = module.training_step(given, START).total
    with torch.autocast("cpu", torch.bfloat16):
        narrow = module.training_step(given, START).total
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide, rtol=0.02, atol=0)
    narrow.backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in module.parameters())


def test_training_that_is_too_short_is_said(caplog: pytest.LogCaptureFixture) -> None:
    def words(epochs: int | None, frozen: int, warmup: int) -> str:
        caplog.clear()
        targets = TargetConfig(warmup_epochs=warmup, temperature=0.07)
        method(PLAIN.model_copy(update={"epochs": epochs, "frozen_epochs": frozen, "targets": targets}))
        return caplog.text

    with caplog.at_level("WARNING", logger="vitrail"):
        assert "prototypes never learn: they rest for 2 epochs of 2" in words(2, 2, 0)
        ends = words(12, 1, 30)
        assert "ends at 0.0514, not at 0.07: it rises for 30 epochs, and there are 12" in ends
        assert "method.targets.warmup_epochs" in ends
        assert words(30, 1, 30) == ""
        assert words(None, 0, 0) == ""
