"""DGE's method: the budget's loss, what gets gradients, and that it learns within its budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sparse_training import CLASSES, SMALL, TINY, accuracy, assert_gradients, fresh, tiny_batch, train
from torch.nn import functional as F

from vitrail.backbones import load_classifier, save_exported
from vitrail.contracts import Method, Step
from vitrail.methods.dge import Dge, DgeConfig
from vitrail.methods.labels import LabelConfig
from vitrail.rankers import open_ranker
from vitrail.rankers.dge import Dge as Ranker
from vitrail.rankers.dge import GatesConfig

PLAIN = LabelConfig(smoothing=0, mixup=0, cutmix=0)


def method(**config: Any) -> Dge:
    return Dge(DgeConfig(**{"labels": PLAIN, **config}), fresh(TINY), CLASSES)


def test_the_loss_by_hand() -> None:
    """Gates that surely choose cells of 2: four queries of 16 in each block."""
    module, given = method(budget=0.4, budget_weight=3), tiny_batch()
    for gate in module.network.gates:
        gate.bias.data = torch.tensor([0.0, 99.0, 0.0])  # type: ignore[assignment]
    losses = module.training_step(given, Step(0, 1))
    answer = module.answer(given.images)
    cost = answer.used["multiplications"].mean()
    wanted = F.cross_entropy(answer.logits, given.labels) + 3 * (cost - 0.4) ** 2
    torch.testing.assert_close(losses.total, wanted)
    torch.testing.assert_close(losses.parts["cost"], cost)
    assert torch.equal(answer.used["tokens"], torch.full((3,), 0.25))


def test_every_weight_gets_a_gradient() -> None:
    module = method()
    assert_gradients(module, tiny_batch(8), Step(0, 1))
    assert all(gate.weight.grad.abs().sum() > 0 for gate in module.network.gates)  # type: ignore[union-attr, operator]
    held = [id(value) for group in module.parameter_groups() for value in group["params"]]
    assert sorted(held) == sorted(id(value) for value in module.parameters())


def test_chance_in_training_alone() -> None:
    module, images = method(), tiny_batch(30)
    for gate in module.network.gates:
        torch.nn.init.zeros_(gate.bias)  # type: ignore[arg-type]
    costs = [module.training_step(images, Step(0, 1)).parts["cost"].item() for _ in range(2)]
    assert costs[0] != costs[1]
    module.eval()
    assert torch.equal(module(images.images), module(images.images))


def test_what_is_exported_is_a_ranker_and_a_classifier(tmp_path: Path) -> None:
    module = method(gates=GatesConfig(granularities=(2, 1))).eval()
    assert isinstance(module, Method)
    save_exported(module.export(), tmp_path / "x.safetensors")
    images = tiny_batch().images
    ranker: Any = open_ranker("dge", str(tmp_path / "x.safetensors"))
    assert ranker.network.config.granularities == (2, 1)
    assert torch.equal(ranker(images), Ranker(module.network)(images))
    assert load_classifier(tmp_path / "x.safetensors").classes == CLASSES


def test_it_learns() -> None:
    """More right answers than chance gives (25 %) and than without training, for fewer multiplications."""
    config = DgeConfig(labels=PLAIN, gates=GatesConfig(granularities=(1, 2)))
    module = Dge(config, fresh(SMALL.model_copy(update={"depth": 2})), CLASSES)
    before, all_of_it = accuracy(module)
    train(module, 90, 4e-3, rows=32)
    after, used = accuracy(module)
    print(before, after, used)
    assert after > max(before, 25) + 10
    assert used["multiplications"] < 0.75 < all_of_it["multiplications"]
