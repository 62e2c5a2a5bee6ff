"""IA-RED2's method: rewards and chances in closed form, whose turn it is, what gets gradients, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sparse_training import CLASSES, SMALL, TINY, accuracy, assert_gradients, fresh, tiny_batch, train

from vitrail.backbones import load_classifier, save_exported
from vitrail.contracts import Method, Step
from vitrail.methods.evit import Evit, EvitConfig
from vitrail.methods.ia_red2 import IaRed2, IaRed2Config, log_chance, rewards
from vitrail.methods.labels import LabelConfig
from vitrail.rankers import open_ranker
from vitrail.rankers.ia_red2 import IaRed2 as Ranker

PLAIN = LabelConfig(smoothing=0, mixup=0, cutmix=0)


def method(**config: Any) -> IaRed2:
    return IaRed2(IaRed2Config(**{"labels": PLAIN, **config}), fresh(TINY), CLASSES)


def test_rewards_in_closed_form() -> None:
    kept = torch.tensor([[True, True, False, False], [False] * 4, [True] * 4, [True, False, False, False]])
    right = torch.tensor([True, True, True, False])
    assert rewards(kept, right, 2.5).tolist() == [0.75, 1.0, 0.0, -2.5]


def test_chances_in_closed_form() -> None:
    """Kept at 1/4, dropped at 1/2, and one that was gone before; then nothing to decide about."""
    found = torch.tensor([[0.25, 0.5, 0.9], [0.5, 0.5, 0.5]])
    kept = torch.tensor([[True, False, False], [False, False, False]])
    before = torch.tensor([[True, True, False], [False, False, False]])
    wanted = torch.tensor([torch.tensor(0.125).log() / 2, 0.0])
    torch.testing.assert_close(log_chance(found, kept, before), wanted)
    assert log_chance(torch.zeros(1, 2), torch.ones(1, 2) > 0, torch.ones(1, 2) > 0).isfinite().all()


def test_whose_turn_it_is() -> None:
    shares = (0, 0.19, 0.2, 0.46, 0.47, 0.73, 0.74, 0.99, 1.0)
    assert [method(warmup=0.2).dropping_at(share) for share in shares] == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert [method(warmup=0.2, order="jointly").dropping_at(share) for share in (0.1, 0.2, 0.9)] == [0, 3, 3]
    assert method().dropping_at(0) == 1


@pytest.mark.parametrize(("order", "turns"), [("groups", [0, 0, 1, 1, 2, 2, 3, 3]), ("jointly", [0, 0, *[3] * 6])])
def test_interpreters_rest_outside_their_turn(order: str, turns: list[int]) -> None:
    module = method(order=order, warmup=0.25)
    groups = module.parameter_groups()
    weights = [interpreter.qk.weight for interpreter in module.network.interpreters]
    for number, turn in enumerate(turns):
        now = number / 8
        learning = [
            not any(start <= now + 1e-9 < stop for start, stop in group["frozen"])
            for weight in weights
            for group in groups
            if any(weight is each for each in group["params"])
        ]
        expected = [place == turn - 1 if order == "groups" else turn > 0 for place in range(3)]
        assert learning == expected
    held = [id(value) for group in groups for value in group["params"]]
    assert sorted(held) == sorted(id(value) for value in module.parameters())


@pytest.mark.parametrize("progress", [0, 1, 3])
@pytest.mark.parametrize("order", ["groups", "jointly"])
def test_every_weight_gets_a_gradient(order: str, progress: int) -> None:
    module = method(order=order, warmup=0.25)
    torch.manual_seed(3)
    assert_gradients(module, tiny_batch(8), Step(progress, 4))
    reached = [bool(each.qk.weight.grad.abs().sum() > 0) for each in module.network.interpreters]
    assert reached == ([False] * 3 if not progress else [order == "jointly" or progress == 1, *reached[1:]])


def test_the_policy_follows_what_is_rewarded() -> None:
    """By the score function: with a right answer whatever is kept, keeping less is better, so interest falls."""
    module = method(order="jointly")
    module.head.weight.data.zero_()
    module.head.bias.data = torch.tensor([9.0, 0, 0, 0])
    given = tiny_batch(16)._replace(labels=torch.zeros(16, dtype=torch.int64))
    before = [each.mean().item() for each in module.network(given.images).interest]
    optimizer = torch.optim.Adam([value for part in module.parts().values() for value in part.parameters()], lr=5e-3)
    for number in range(20):
        torch.manual_seed(number)
        optimizer.zero_grad()
        module.training_step(given, Step(number, 20)).total.backward()
        optimizer.step()
    after = [each.mean().item() for each in module.network(given.images).interest]
    assert all(new < old - 0.05 for new, old in zip(after, before)), (before, after)


def test_the_stage_survives_a_restart_and_evaluation_has_no_chance() -> None:
    module = method(warmup=0.5)
    module.after_step(Step(1, 4))
    images = tiny_batch().images
    module.eval()
    torch.testing.assert_close(module(images), module.head(module.backbone(images).cls), atol=1e-6, rtol=0)
    module.after_step(Step(3, 4))
    assert int(module.dropping) == 2
    other = method(warmup=0.5)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.eval()(images), module(images))
    assert torch.equal(module(images), module(images))


def test_what_is_exported_is_a_ranker_and_a_classifier(tmp_path: Path) -> None:
    module = method().eval()
    assert isinstance(module, Method)
    save_exported(module.export(), tmp_path / "x.safetensors")
    images = tiny_batch().images
    ranker = open_ranker("ia_red2", str(tmp_path / "x.safetensors"))
    assert torch.equal(ranker(images), Ranker(module.network)(images))
    found = load_classifier(tmp_path / "x.safetensors")
    assert found.classes == CLASSES
    assert torch.equal(found.head.weight, module.head.weight)


def test_a_trained_classifier_learns_to_do_with_fewer_patches() -> None:
    """It keeps its accuracy; fresh interpreters leave it all patches."""
    shallow = SMALL.model_copy(update={"depth": 2})
    plain = Evit(EvitConfig(keep=1, blocks=(1,), anneal_from=0, anneal_until=0, labels=PLAIN), fresh(shallow), CLASSES)
    train(plain, 150, 4e-3, rows=32)
    start, _ = accuracy(plain)
    assert start > 45
    module = IaRed2(IaRed2Config(labels=PLAIN, order="jointly"), plain.backbone, CLASSES, plain.head)
    module.dropping.fill_(2)
    assert accuracy(module) == (start, {"tokens": 1.0})
    train(module, 60, 1e-3, rows=32)
    learned, used = accuracy(module)
    assert learned > start - 10, (learned, start)
    assert used["tokens"] < 0.8
