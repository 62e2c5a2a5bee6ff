"""Leopart: the loss as loops over pairs of crops, the queue, the teacher, the optimizer's groups, the export."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from vitrail.backbones import BackboneConfig, create
from vitrail.contracts import Batch, Method, Step
from vitrail.data.overlapping import OverlappingConfig, OverlappingCrops
from vitrail.methods.leopart import Leopart, LeopartConfig, as_map
from vitrail.nn.feature_queue import FeatureQueue
from vitrail.nn.prototype_head import HeadConfig
from vitrail.ops.overlap import overlap, within
from vitrail.ops.roi import roi_align
from vitrail.ops.sinkhorn import sinkhorn

TINY = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2)
HEAD = HeadConfig(prototypes=10, hidden_dim=16, bottleneck_dim=8)
PLAIN = LeopartConfig(head=HEAD, queue=0, cells=3, momentum=0.9)
START = Step(0, 10)


def method(config: LeopartConfig = PLAIN) -> Leopart:
    torch.manual_seed(0)
    module = Leopart(config, create(TINY))
    with torch.no_grad():
        for value in (*module.backbone.parameters(), *module.head.parameters()):
            value.add_(torch.randn_like(value) * 0.05)
    return module


def batch(size: int = 3, sides: tuple[int, ...] = (24, 24, 12, 12), seed: int = 1) -> Batch:
    """Views of images of 60 x 40 pixels; their boxes all hold the middle."""
    generator = torch.Generator().manual_seed(seed)
    views = [torch.randn(size, 3, side, side, generator=generator) for side in sides]
    start = torch.rand(size, len(sides), 2, generator=generator, dtype=torch.float64) * torch.tensor([25, 15])
    stop = torch.tensor([60, 40]) - torch.rand(size, len(sides), 2, generator=generator, dtype=torch.float64) * 15
    boxes = torch.cat((start, stop), -1)
    boxes[0, -1] = boxes[0, -1][[2, 1, 0, 3]]  # a flipped one
    return Batch(views[0], None, torch.arange(size), tuple(views[1:]), boxes)


def by_loops(module: Leopart, given: Batch) -> float:
    """Pair by pair, image by image, cell by cell."""
    config, views, boxes = module.config, (given.images, *given.views), given.boxes
    assert boxes is not None
    terms = []
    for t in range(2):
        tokens = module.teacher(views[t])
        rows = module.teacher_head(tokens.patches).flatten(0, 1)
        target = sinkhorn(rows, config.epsilon, config.sinkhorn_iterations).unflatten(0, (len(given.images), -1))
        for v in range(len(views)):
            if v == t:
                continue
            seen = module.backbone(views[v])
            scores = module.head(seen.patches)
            for b in range(len(given.images)):
                box = overlap(boxes[b : b + 1, t], boxes[b : b + 1, v])
                q = roi_align(
                    target[b].T.unflatten(1, tokens.grid)[None], within(box, boxes[b : b + 1, t], tokens.grid), 3
                )
                s = roi_align(scores[b].T.unflatten(1, seen.grid)[None], within(box, boxes[b : b + 1, v], seen.grid), 3)
                for row in range(3):
                    for column in range(3):
                        logs = (s[0, :, row, column] / config.student_temperature).log_softmax(0)
                        terms.append(-(q[0, :, row, column].detach() * logs).sum())
    assert len(terms) == 2 * (len(views) - 1) * len(given.images) * 9
    return torch.stack(terms).mean().item()


def test_fulfills_the_contract() -> None:
    assert isinstance(method(), Method)


@pytest.mark.parametrize("sides", [(24, 24), (24, 24, 12, 12), (24, 24, 12, 18, 12)])
def test_the_loss_is_the_loops(sides: tuple[int, ...]) -> None:
    module, given = method().double(), batch(3, sides)
    given = given._replace(images=given.images.double(), views=tuple(view.double() for view in given.views))
    losses = module.training_step(given, START)
    assert losses.total.item() == pytest.approx(by_loops(module, given), rel=1e-6)  # Sinkhorn works in float32
    assert 0.1 < losses.parts["confidence"] <= 1


def test_batches_without_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="OverlappingCrops"):
        method().training_step(batch()._replace(boxes=None), START)


class TestQueue:
    def test_the_newest_come_first_and_the_oldest_fall_out(self) -> None:
        queue = FeatureQueue(5, 1)
        assert queue.share().shape == (0, 1)
        for start in (0, 10, 20):
            queue.note(torch.arange(start, start + 4.0)[:, None], most=2)
            queue.push()
        assert queue.share()[:, 0].tolist() == [20, 22, 10, 12, 0]
        queue.push()  # nothing was noted
        assert queue.share()[:, 0].tolist() == [20, 22, 10, 12, 0]

    def test_a_step_changes_it_only_afterwards(self) -> None:
        module = method(PLAIN.override(["queue=40"]))
        assert module.queue is not None
        first = module.training_step(batch(), START).total
        assert torch.equal(module.training_step(batch(), START).total, first)
        assert int(module.queue.filled) == 0
        module.after_step(START)
        assert int(module.queue.filled) == 20  # a quarter from each of two micro-batches

    def test_what_it_holds_is_balanced_with_the_batch(self) -> None:
        module, plain = method(PLAIN.override(["queue=40"])), method()
        module.training_step(batch(seed=5), START)
        module.after_step(Step(10, 10))  # the teacher stays where it is
        queued: Tensor = module.queue.share()  # type: ignore[union-attr]
        tokens = module.teacher(batch().images)
        scores = module.teacher_head(tokens.patches).flatten(0, 1)
        both = torch.cat((scores, module.teacher_head.compare(queued)))
        expected = sinkhorn(both, 0.05, 3)[: len(scores)]
        found = module._targets((batch().images, batch().views[0]))[0]
        torch.testing.assert_close(found.flatten(2).transpose(1, 2).flatten(0, 1), expected)
        assert not torch.allclose(found, plain._targets((batch().images, batch().views[0]))[0])

    def test_survives_a_restart(self) -> None:
        module, again = method(PLAIN.override(["queue=40"])), method(PLAIN.override(["queue=40"]))
        module.training_step(batch(), START)
        module.after_step(START)
        again.load_state_dict(module.state_dict())
        other = batch(seed=3)
        assert torch.equal(module.training_step(other, START).total, again.training_step(other, START).total)

    def test_an_empty_one_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a queue of 0"):
            FeatureQueue(0, 4)


def test_the_teacher_follows_and_gets_no_gradient() -> None:
    module = method()
    before = module.teacher.vit.blocks[0].attn.qkv.weight.clone()
    module.training_step(batch(), START).total.backward()
    assert all(value.grad is None for value in (*module.teacher.parameters(), *module.teacher_head.parameters()))
    assert module.backbone.vit.blocks[0].attn.qkv.weight.grad is not None
    module.after_step(START)
    expected = 0.9 * before + 0.1 * module.backbone.vit.blocks[0].attn.qkv.weight
    torch.testing.assert_close(module.teacher.vit.blocks[0].attn.qkv.weight, expected)


def test_the_backbone_learns_slower_than_the_head() -> None:
    module = method()
    scales = {id(value): group["lr_scale"] for group in module.parameter_groups() for value in group["params"]}
    assert scales[id(module.backbone.vit.blocks[0].attn.qkv.weight)] == 0.1
    assert scales[id(module.head.prototypes)] == 1.0
    assert len(scales) == sum(1 for value in module.parameters() if value.requires_grad)


def test_exports_the_teacher_with_its_head() -> None:
    exported = method().export()
    assert exported.metadata["network"] == "teacher"
    assert torch.equal(exported.state["patch_embed.proj.weight"], method().teacher.vit.patch_embed.proj.weight)
    assert "projector.prototypes" in exported.state


def test_a_head_without_prototypes_gives_its_bottleneck() -> None:
    module = method(PLAIN.override(["head.prototypes=0", "queue=8"]))
    losses = module.training_step(batch(), START)
    losses.total.backward()
    assert losses.total.isfinite()
    assert module.head(torch.randn(2, 24)).shape == (2, 8)
    with pytest.raises(ValueError, match="leave 1 output"):
        HeadConfig(prototypes=0, bottleneck_dim=1)


def crops_of_pictures(count: int, seed: int) -> Batch:
    """Crops of smooth colored noise, as the loader makes them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    levels = (torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear") * 255).byte()
    random.seed(seed)
    crops = OverlappingCrops(OverlappingConfig.tiny(24).override(["mean=[0.5,0.5,0.5]", "std=[0.5,0.5,0.5]"]))
    made = [crops(picture.permute(1, 2, 0).numpy()) for picture in levels]
    views = [torch.stack(slot) for slot in zip(*(each.views for each in made))]
    return Batch(views[0], None, torch.arange(count), tuple(views[1:]), torch.stack([each.boxes for each in made]))


@torch.no_grad()
def agreement(module: Leopart, given: Batch) -> float:
    """By how much likelier a place is to have the same prototype in two crops than two places of other images."""
    assert given.boxes is not None
    box = overlap(given.boxes[:, 0], given.boxes[:, 1])
    seen = []
    for number, view in enumerate((given.images, given.views[0])):
        tokens = module.backbone(view)
        maps = as_map(module.head(tokens.patches), tokens.grid)
        seen.append(roi_align(maps, within(box, given.boxes[:, number], tokens.grid), 4).softmax(1).argmax(1))
    return float((seen[0] == seen[1]).float().mean() - (seen[0] == seen[1].roll(1, 0)).float().mean())


def learned(config: LeopartConfig, boxes_of_others: bool = False) -> Leopart:
    torch.manual_seed(0)
    module = Leopart(config, create(TINY))
    optimizer = torch.optim.AdamW(module.parameter_groups(), lr=3e-3)
    for number in range(30):
        given = crops_of_pictures(16, number)
        if boxes_of_others:
            assert given.boxes is not None
            given = given._replace(boxes=given.boxes.roll(1, 0))
        step = Step(number, 30)
        module.training_step(given, step).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        module.after_step(step)
    return module


def test_it_learns_places_and_boxes_of_other_images_teach_less() -> None:
    config = PLAIN.override(["backbone_rate=1.0", "momentum=0.95", "head.prototypes=24"])
    held_out = crops_of_pictures(64, 1000)
    torch.manual_seed(0)
    untrained = agreement(Leopart(config, create(TINY)), held_out)
    trained, control = (agreement(learned(config, others), held_out) for others in (False, True))
    assert trained > untrained + 0.015
    assert trained > control + 0.05
