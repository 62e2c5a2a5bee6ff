"""SimCLR: what its step computes, and that it learns."""

from __future__ import annotations

import torch
from two_view_training import Pictures, TinyEncoder, make, train

from vitrail.contracts import Method, Step
from vitrail.ops.contrast import nt_xent, spread


def test_it_learns_what_two_views_have_in_common() -> None:
    """k-NN beats the untrained encoder, and one that was trained on views of different pictures."""
    found, control = train("simclr"), train("simclr", shuffled=True)
    words = f"k-NN {found.before:.1f} -> {found.after:.1f}, control {control.after:.1f}"
    assert found.after > found.before + 20, words
    assert found.after > control.after + 20, words
    assert found.losses[-1] < control.losses[-1], words


def test_it_fulfills_the_contract_and_leaves_backbone_and_head() -> None:
    method = make("simclr", TinyEncoder())
    assert isinstance(method, Method)
    exported = method.export()
    assert torch.equal(exported.state["1.weight"], method.backbone.net[1].weight)
    assert any(name.startswith("projector.") for name in exported.state)
    assert "projector" in exported.metadata["parts"]
    decayed = {id(value): group["weight_decay"] for group in method.parameter_groups() for value in group["params"]}
    assert decayed[id(method.backbone.net[1].weight)] == method.config.weight_decay > 0
    assert decayed[id(method.backbone.net[1].bias)] == 0


def test_the_loss_is_nt_xent_of_the_embeddings() -> None:
    method = make("simclr", TinyEncoder(norm=False))
    batch = Pictures(40, 0).batch(8)
    found = method.training_step(batch, Step(0, 1))
    embeddings = method.head(method.backbone(torch.cat((batch.images, *batch.views))).cls)
    torch.testing.assert_close(found.total, nt_xent(embeddings[:8], embeddings[8:], 0.5))
    torch.testing.assert_close(found.parts["spread"], spread(embeddings))


def test_nothing_moves_after_a_step() -> None:
    method = make("simclr", TinyEncoder())
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.after_step(Step(0, 1))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
