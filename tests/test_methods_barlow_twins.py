"""Barlow Twins: what its step computes, and that it learns."""

from __future__ import annotations

import torch
from two_view_training import Pictures, TinyEncoder, make, train

from vitrail.contracts import Method, Step
from vitrail.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from vitrail.nn.projection_head import ProjectionConfig
from vitrail.ops.contrast import barlow_twins


def test_it_learns_what_two_views_have_in_common() -> None:
    """k-NN beats the untrained encoder, and one that was trained on views of different pictures."""
    found, control = train("barlow_twins"), train("barlow_twins", shuffled=True)
    words = f"k-NN {found.before:.1f} -> {found.after:.1f}, control {control.after:.1f}"
    assert found.after > found.before + 20, words
    assert found.after > control.after + 20, words
    assert found.losses[-1] < control.losses[-1], words


def test_it_fulfills_the_contract_and_leaves_backbone_and_head() -> None:
    method = make("barlow_twins", TinyEncoder())
    assert isinstance(method, Method)
    exported = method.export()
    assert torch.equal(exported.state["1.weight"], method.backbone.net[1].weight)
    assert any(name.startswith("projector.") for name in exported.state)
    assert "projector" in exported.metadata["parts"]
    decayed = {id(value): group["weight_decay"] for group in method.parameter_groups() for value in group["params"]}
    assert decayed[id(method.backbone.net[1].weight)] == method.config.weight_decay > 0
    assert decayed[id(method.backbone.net[1].bias)] == 0


def test_the_loss_is_that_of_the_embeddings_times_its_scale() -> None:
    backbone = TinyEncoder(norm=False)
    config = BarlowTwinsConfig(head=ProjectionConfig(norm=False, out_dim=16), redundancy=0.1, scale=0.5)
    method = BarlowTwins(config, backbone)  # type: ignore[arg-type]
    batch = Pictures(40, 0).batch(8)
    one, two = (method.head(backbone(view).cls) for view in (batch.images, *batch.views))
    torch.testing.assert_close(method.training_step(batch, Step(0, 1)).total, barlow_twins(one, two, 0.1) / 2)
