"""EViT as a method: the loss, the annealing, the exported file, and that it learns with tokens dropped."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sparse_training import CLASSES, PLAIN, accuracy, batch, fresh, train
from torch.nn import functional as F

from vitrail.backbones import load_classifier, save_exported
from vitrail.contracts import Method, Step
from vitrail.methods.evit import Evit, EvitConfig
from vitrail.methods.labels import LabelConfig
from vitrail.rankers import open_ranker
from vitrail.rankers.evit import thin


def method(**changes: Any) -> Evit:
    values: dict[str, Any] = {"anneal_from": 0, "anneal_until": 0, "labels": PLAIN} | changes
    return Evit(EvitConfig(**values), fresh(), CLASSES)


def test_the_loss_is_the_cross_entropy_of_what_is_left() -> None:
    module, given = method(keep=0.6), batch()
    assert isinstance(module, Method)
    losses = module.training_step(given, Step(0, 10))
    logits = module.head(thin(module.backbone, given.images, 0.6).cls)
    torch.testing.assert_close(losses.total, F.cross_entropy(logits, given.labels))
    assert set(losses.parts) == {"cross_entropy", "keep", "top1"}
    losses.total.backward()
    for name, value in module.named_parameters():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name


def test_the_share_falls_along_half_a_cosine() -> None:
    module = method(keep=0.5, anneal_from=10, anneal_until=50, epochs=100)
    shares = [module.keep_at(epoch / 100) for epoch in (0, 9.9, 10, 20, 30, 50, 99)]
    expected = 0.5 + 0.25 * (1 + math.cos(math.pi / 4))
    assert shares == pytest.approx([1, 1, 1, expected, 0.75, 0.5, 0.5])
    assert module.training_step(batch(), Step(30, 100)).parts["keep"].item() == pytest.approx(0.75)


def test_annealing_that_cannot_be(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="from epoch 10 until epoch 5"):
        method(anneal_from=10, anneal_until=5, epochs=20)
    with pytest.raises(ValueError, match="nobody says how many epochs"):
        method(anneal_until=5)
    with caplog.at_level(logging.WARNING, logger="vitrail"):
        method(anneal_until=5, epochs=3)
    assert "until epoch 5, and training ends after 3" in caplog.text


def test_with_everything_kept_the_logits_are_the_plain_network_s() -> None:
    module, given = method(keep=1.0).eval(), batch()
    torch.testing.assert_close(module(given.images), module.head(module.backbone(given.images).cls), rtol=0, atol=1e-6)
    assert module.answer(given.images).used["tokens"].eq(1).all()


def test_mixing_pairs_images() -> None:
    module = method(labels=LabelConfig())
    assert module.training_step(batch(), Step(0, 1)).total.isfinite()
    with pytest.raises(ValueError, match=r"batch of 5 is odd.*method\.labels\.mixup=0"):
        module.training_step(batch(5), Step(0, 1))
    with pytest.raises(ValueError, match="one folder per class"):
        module.training_step(batch()._replace(labels=None), Step(0, 1))
    with pytest.raises(ValueError, match="at least 2 classes"):
        Evit(EvitConfig(anneal_from=0, anneal_until=0), fresh(), ("only",))


def test_the_exported_file_is_a_classifier_and_a_ranker(tmp_path: Path) -> None:
    module = method(keep=0.6, blocks=(0, 2), fuse=False).eval()
    save_exported(module.export(), tmp_path / "w.safetensors")
    found = load_classifier(tmp_path / "w.safetensors")
    assert (found.classes, found.pool) == (CLASSES, "cls")
    given = batch().images
    torch.testing.assert_close(found.head(found.backbone.eval()(given).cls), module.head(module.backbone(given).cls))
    ranker: Any = open_ranker("evit", str(tmp_path / "w.safetensors"), variant="staged")
    assert (ranker.blocks, ranker.fuse) == ((0, 2), False)
    assert not any(value.requires_grad for value in ranker.parameters())


def test_it_learns_within_its_budget() -> None:
    module = method(keep=0.6, anneal_until=2, epochs=4)
    untrained, _ = accuracy(module.eval())
    train(module, 120)
    learned, used = accuracy(module)
    assert learned > max(untrained, 25) + 20, (learned, untrained)
    # Of 16 tokens stay 10 and the fused one, then 7 and one, then 5 and one; a stage's MLP sees those that stay.
    assert used["tokens"] == pytest.approx((16 + (16 + 11) / 2 + (11 + 8) / 2 + (8 + 6) / 2) / 4 / 16)
