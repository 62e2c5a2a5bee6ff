"""DynamicViT as a method: each loss by hand, who gets gradients, the exported file, and that it learns."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from sparse_training import CLASSES, PLAIN, accuracy, batch, fresh, train
from torch import nn
from torch.nn import functional as F

from vitrail.backbones import load_classifier, save_exported
from vitrail.contracts import Method, Step
from vitrail.methods.dynamic_vit import DynamicVit, DynamicVitConfig, ratio_loss, token_loss
from vitrail.rankers import open_ranker
from vitrail.rankers.dynamic_vit import mask

START = Step(0, 10)


def method(head: nn.Linear | None = None, **changes: Any) -> DynamicVit:
    values: dict[str, Any] = {"teacher": "none", "backbone_rate": 1, "frozen_epochs": 0, "labels": PLAIN} | changes
    return DynamicVit(DynamicVitConfig(**values), fresh(), CLASSES, head)


def test_the_shares_miss_the_powers_of_the_ratio() -> None:
    decisions = (torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0]]), torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0]]))
    misses = [(0.7 - 0.5) ** 2, (0.7 - 0.75) ** 2, (0.49 - 0.25) ** 2, (0.49 - 0.5) ** 2]
    assert ratio_loss(decisions, 0.7).item() == pytest.approx(sum(misses) / 4)


def test_tokens_are_compared_where_they_are_kept() -> None:
    tokens, wanted = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    kept = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    each = [((tokens[b, n] - wanted[b, n]) ** 2).mean() for b, n in ((0, 0), (0, 2), (1, 2))]
    torch.testing.assert_close(token_loss(tokens, wanted, kept), sum(each) / 3)
    assert token_loss(tokens, wanted, torch.zeros(2, 3)).item() == 0


def test_the_loss_is_the_weighted_sum_of_four() -> None:
    module, given = method(nn.Linear(48, 4), teacher="start", ratio_weight=3, kl_weight=0.7, token_weight=0.2), batch()
    assert isinstance(module, Method)
    with torch.no_grad():  # away from its teacher
        module.backbone.vit.blocks[0].mlp.fc2.weight.add_(0.3)
    torch.manual_seed(5)
    losses = module.training_step(given, START)
    torch.manual_seed(5)
    seen = mask(module.backbone, module.score_predictor, given.images)
    logits = module.head(seen.cls)
    assert module.teacher is not None
    assert module.teacher_head is not None
    tokens = module.teacher(given.images)
    wanted = module.teacher_head(tokens.cls).softmax(-1)
    divergence = (wanted * (wanted.log() - logits.log_softmax(-1))).sum(-1).mean()
    parts = {
        "cross_entropy": F.cross_entropy(logits, given.labels),
        "ratio": ratio_loss(seen.decisions, 0.7),
        "kl": divergence,
        "tokens": token_loss(seen.patches, tokens.patches, seen.decisions[-1]),
    }
    for name, value in parts.items():
        torch.testing.assert_close(losses.parts[name], value.detach(), rtol=1e-4, atol=1e-6)
        assert value > 0
    weights = {"cross_entropy": 1, "ratio": 3, "kl": 0.7, "tokens": 0.2}
    torch.testing.assert_close(losses.total, sum(weights[name] * value for name, value in parts.items()))


def test_gradients_reach_the_predictors_and_not_the_teacher() -> None:
    """Also those of the cross entropy alone, by way of the attention."""
    for ratio in (2.0, 0.0):
        module = method(nn.Linear(48, 4), teacher="start", ratio_weight=ratio, kl_weight=0, token_weight=0)
        module.training_step(batch(), START).total.backward()
        for name, value in module.score_predictor.named_parameters():
            assert value.grad is not None, name
            assert float(value.grad.abs().sum()) > 0, name
        assert module.teacher is not None
        assert all(value.grad is None for value in module.teacher.parameters())
    grouped = [value for group in module.parameter_groups() for value in group["params"]]
    assert {id(value) for value in grouped} == {id(each) for each in module.parameters() if each.requires_grad}


def test_a_teacher_is_a_trained_start(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vitrail"):
        module = method(teacher="start")
    assert module.teacher is None
    assert "fresh classifier, which teaches nothing" in caplog.text
    assert "kl" not in module.training_step(batch(), START).parts


def test_the_backbone_learns_later_and_less() -> None:
    module = method(backbone_rate=0.01, frozen_epochs=5, epochs=30)
    own = {id(value) for value in module.score_predictor.parameters()}
    for group in module.parameter_groups():
        predicts = id(group["params"][0]) in own
        assert group["lr_scale"] == (1 if predicts else 0.01)
        assert group.get("frozen_until", 0) == (0 if predicts else pytest.approx(5 / 30))
    with pytest.raises(ValueError, match="frozen for 5 epochs, and nobody says"):
        method(frozen_epochs=5)


def test_the_exported_file_is_a_classifier_and_a_ranker(tmp_path: Path) -> None:
    module, given = method(blocks=(1, 3)).eval(), batch().images
    save_exported(module.export(), tmp_path / "w.safetensors")
    found = load_classifier(tmp_path / "w.safetensors")
    torch.testing.assert_close(found.head(found.backbone.eval()(given).cls), module.head(module.backbone(given).cls))
    ranker: Any = open_ranker("dynamic_vit", str(tmp_path / "w.safetensors"))
    assert ranker.blocks == (1, 3)
    for name, value in module.score_predictor.state_dict().items():
        assert torch.equal(ranker.predictors.state_dict()[name], value)


def test_it_learns_within_its_budget() -> None:
    module = method(keep=0.7)
    untrained, _ = accuracy(module.eval())
    train(module, 120)
    learned, used = accuracy(module)
    assert learned > max(untrained, 25) + 20, (learned, untrained)
    assert used["tokens"] == pytest.approx((16 + 11 + 7 + 5) / 4 / 16)
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = module.training_step(batch(64), START).parts["kept"].item()
    assert drawn == pytest.approx(0.7**3, abs=0.12)  # what it draws in training, too
