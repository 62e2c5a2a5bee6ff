"""SimSiam: what its step computes, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from two_view_training import Pictures, TinyEncoder, make, train

from vitrail.contracts import Method, Step
from vitrail.methods.simsiam import Simsiam, SimsiamConfig
from vitrail.nn.projection_head import ProjectionConfig
from vitrail.ops.contrast import negative_cosine


def test_it_learns_what_two_views_have_in_common() -> None:
    """k-NN beats the untrained encoder, and one that was trained on views of different pictures."""
    found, control = train("simsiam"), train("simsiam", shuffled=True)
    words = f"k-NN {found.before:.1f} -> {found.after:.1f}, control {control.after:.1f}"
    assert found.after > found.before + 20, words
    assert found.after > control.after + 20, words
    assert found.losses[-1] < control.losses[-1], words


def test_it_fulfills_the_contract_and_leaves_backbone_and_head() -> None:
    method = make("simsiam", TinyEncoder())
    assert isinstance(method, Method)
    exported = method.export()
    assert torch.equal(exported.state["1.weight"], method.backbone.net[1].weight)
    assert any(name.startswith("projector.") for name in exported.state)
    assert "projector" in exported.metadata["parts"]
    decayed = {id(value): group["weight_decay"] for group in method.parameter_groups() for value in group["params"]}
    assert decayed[id(method.backbone.net[1].weight)] == method.config.weight_decay > 0
    assert decayed[id(method.backbone.net[1].bias)] == 0


def test_both_directions_count_and_targets_learn_nothing() -> None:
    method = make("simsiam", TinyEncoder(norm=False))
    method.head.eval()  # so that a second pass gives the same
    method.predictor.eval()
    batch = Pictures(40, 0).batch(8)
    one, two = (method.head(method.backbone(view).cls) for view in (batch.images, *batch.views))
    wanted = (negative_cosine(method.predictor(one), two) + negative_cosine(method.predictor(two), one)) / 2
    torch.testing.assert_close(method.training_step(batch, Step(0, 1)).total, wanted)


def test_without_the_stopped_gradient_it_collapses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's Fig. 2: the loss falls to its least value and the embeddings become one and the same."""

    def leaking(predictions: Tensor, targets: Tensor) -> Tensor:
        return -functional.cosine_similarity(predictions, targets).mean()

    def last_spread() -> tuple[float, float]:
        torch.manual_seed(0)
        backbone, data = TinyEncoder(), Pictures(300, 0)
        method = Simsiam(SimsiamConfig(head=ProjectionConfig(hidden_dim=32, out_dim=16), predictor_dim=8), backbone)  # type: ignore[arg-type]
        optimizer = torch.optim.SGD(method.parameters(), 0.1, momentum=0.9)
        for number in range(80):
            optimizer.zero_grad()
            found = method.training_step(data.batch(48), Step(number, 80))
            found.total.backward()
            optimizer.step()
        return found.total.item(), found.parts["spread"].item()

    loss, kept = last_spread()
    monkeypatch.setattr("vitrail.methods.simsiam.negative_cosine", leaking)
    leaked_loss, gone = last_spread()
    assert leaked_loss < -0.97 < loss
    assert gone < 0.3 * kept


def test_the_predictor_is_exported_too() -> None:
    exported = make("simsiam", TinyEncoder()).export()
    assert exported.metadata["parts"]["predictor"] == {
        "layers": 2,
        "hidden_dim": 12,
        "out_dim": 24,
        "norm": True,
        "last_norm": False,
        "whole_batch": False,
    }
