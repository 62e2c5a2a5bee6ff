"""AdaViT as a method: the loss by hand, who gets gradients, the exported file, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sparse_training import CLASSES, PLAIN, accuracy, batch, fresh, train
from torch.nn import functional as F

from vitrail.backbones import load_classifier, save_exported
from vitrail.contracts import Method, Step
from vitrail.methods.ada_vit import AdaVit, AdaVitConfig, shares
from vitrail.methods.evit import Evit, EvitConfig
from vitrail.rankers import open_ranker
from vitrail.rankers.ada_vit import adapt

START = Step(0, 10)


def method(**changes: Any) -> AdaVit:
    return AdaVit(AdaVitConfig(**({"labels": PLAIN} | changes)), fresh(), CLASSES)


def test_the_loss_is_cross_entropy_and_what_budgets_are_missed_by() -> None:
    module, given = method(tokens=0.5, heads=0.6, layers=0.9, usage_weight=3), batch()
    assert isinstance(module, Method)
    torch.manual_seed(5)
    losses = module.training_step(given, START)
    torch.manual_seed(5)
    adapted = adapt(module.backbone, module.decisions, given.images, noisy=True)
    means = [torch.cat([getattr(each, name) for each in adapted.used], 1).mean() for name in ("tokens", "heads")]
    means.append(torch.cat([each.layers for each in adapted.used], 1).mean())
    usage = sum((mean - budget) ** 2 for mean, budget in zip(means, (0.5, 0.6, 0.9), strict=True))
    torch.testing.assert_close(losses.parts["usage"], usage.detach())
    torch.testing.assert_close(
        losses.total, F.cross_entropy(module.head(adapted.cls), given.labels) + 3 * usage, rtol=1e-5, atol=1e-6
    )
    assert {"used_tokens", "used_heads", "used_layers", "top1"} <= set(losses.parts)


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_gradients_reach_every_decision(weight: float) -> None:
    """Also those of the cross entropy alone."""
    module = method(usage_weight=weight)
    module.training_step(batch(), START).total.backward()
    for name, value in module.decisions.named_parameters():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name
        assert float(value.grad.abs().sum()) > 0, name
    grouped = [value for group in module.parameter_groups() for value in group["params"]]
    assert {id(value) for value in grouped} == {id(each) for each in module.parameters()}


def test_shares_are_means_over_the_blocks_that_decide() -> None:
    module = method(first=2)
    adapted = adapt(module.backbone, module.decisions, batch().images, noisy=True)
    assert len(adapted.used) == 2
    by_hand = (adapted.used[0].heads.sum(1) + adapted.used[1].heads.sum(1)) / 6
    torch.testing.assert_close(shares(adapted)["heads"], by_hand)


def test_the_exported_file_is_a_classifier_and_a_ranker(tmp_path: Path) -> None:
    module, given = method(threshold=0.4, partial_heads=True).eval(), batch().images
    save_exported(module.export(), tmp_path / "w.safetensors")
    found = load_classifier(tmp_path / "w.safetensors")
    torch.testing.assert_close(found.head(found.backbone.eval()(given).cls), module.head(module.backbone(given).cls))
    ranker: Any = open_ranker("ada_vit", str(tmp_path / "w.safetensors"))
    assert (ranker.threshold, ranker.partial_heads) == (0.4, True)
    for name, value in module.decisions.state_dict().items():
        assert torch.equal(ranker.decisions.state_dict()[name], value)


def test_budgets_of_the_decisions_after_training() -> None:
    """The paper's loss holds the noisy shares to the budgets; ours may hold those without noise."""
    given = batch()
    noisy, clean = (method(usage=word) for word in ("drawn", "decided"))
    torch.manual_seed(0)
    parts = clean.training_step(given, START).parts
    assert (parts["used_tokens"], parts["used_heads"], parts["used_layers"]) == (1, 1, 1)
    assert parts["usage"].item() == pytest.approx(3 * 0.25)
    assert noisy.training_step(given, START).parts["used_tokens"] < 0.97


def test_a_trained_classifier_learns_to_do_with_fewer_patches() -> None:
    """It keeps its accuracy, with the share of patches that the budget says."""
    plain = Evit(EvitConfig(keep=1, anneal_from=0, anneal_until=0, labels=PLAIN), fresh(), CLASSES)
    untrained, _ = accuracy(plain.eval())
    train(plain, 100)
    start, _ = accuracy(plain)
    torch.manual_seed(0)
    budget: dict[str, Any] = {"tokens": 0.6, "heads": 1, "layers": 1, "usage": "decided", "usage_weight": 100}
    module = AdaVit(AdaVitConfig(labels=PLAIN, decision_rate=40, **budget), plain.backbone, CLASSES, plain.head)
    _, before = accuracy(module.eval())
    assert before == {"tokens": 1, "heads": 1, "layers": 1}
    train(module, 80, rate=5e-4)
    learned, used = accuracy(module)
    assert learned > max(untrained, 25) + 20, (learned, untrained)
    assert learned > start - 10, (learned, start)
    assert used["tokens"] == pytest.approx(0.6, abs=0.12)
    assert min(used["heads"], used["layers"]) > 0.85
