"""MoCo: what its step computes, and that it learns."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from two_view_training import Pictures, TinyEncoder, make, train

from vitrail.contracts import Method, Step
from vitrail.methods.moco import Moco, MocoConfig
from vitrail.nn.projection_head import ProjectionConfig
from vitrail.ops.contrast import queue_contrast


def test_it_learns_what_two_views_have_in_common() -> None:
    """k-NN beats the untrained encoder, and one that was trained on views of different pictures."""
    found, control = train("moco"), train("moco", shuffled=True)
    words = f"k-NN {found.before:.1f} -> {found.after:.1f}, control {control.after:.1f}"
    assert found.after > found.before + 20, words
    assert found.after > control.after + 20, words
    assert found.losses[-1] < control.losses[-1], words


def test_it_fulfills_the_contract_and_leaves_backbone_and_head() -> None:
    method = make("moco", TinyEncoder())
    assert isinstance(method, Method)
    exported = method.export()
    assert torch.equal(exported.state["1.weight"], method.backbone.net[1].weight)
    assert any(name.startswith("projector.") for name in exported.state)
    assert "projector" in exported.metadata["parts"]
    decayed = {id(value): group["weight_decay"] for group in method.parameter_groups() for value in group["params"]}
    assert decayed[id(method.backbone.net[1].weight)] == method.config.weight_decay > 0
    assert decayed[id(method.backbone.net[1].bias)] == 0


def test_the_queue_holds_the_newest_keys_in_their_order() -> None:
    method = make("moco", TinyEncoder(norm=False))
    start, data = method.queue.clone(), Pictures(100, 0)
    keys = []
    for number in range(5):  # 5 batches of 64 go round the queue of 256
        batch = data.batch(64)
        with torch.no_grad():
            keys.append(functional.normalize(method.key_head(method.key_backbone(batch.views[0]).cls), dim=1))
        method.training_step(batch, Step(number, 5))
        assert torch.equal(method.queue[-64:], start[-64:] if not number else keys[-2])  # a step changes no state
        method.after_step(Step(number, 5))
    torch.testing.assert_close(method.queue, torch.cat(keys)[-256:])
    assert len(method.queue) == 256
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(256))


def test_micro_batches_and_both_directions_go_into_the_queue() -> None:
    config = MocoConfig(head=ProjectionConfig(hidden_dim=8, out_dim=4, norm=False), queue=50, symmetric=True)
    method = Moco(config, TinyEncoder(norm=False))  # type: ignore[arg-type]
    data, start = Pictures(100, 0), method.queue.clone()
    for _ in range(2):
        method.training_step(data.batch(6), Step(0, 1))
    method.after_step(Step(0, 1))
    assert torch.equal(method.queue[:26], start[24:])
    assert not torch.isin(method.queue[26:], start).any()


def test_the_loss_is_that_of_queries_keys_and_queue() -> None:
    config = MocoConfig(head=ProjectionConfig(hidden_dim=8, out_dim=4, norm=False), queue=30, temperature=0.3)
    method = Moco(config, TinyEncoder(norm=False))  # type: ignore[arg-type]
    for value in method.key_backbone.parameters():
        value.mul_(1.3)
    one, two = (batch := Pictures(40, 0).batch(8)).images, batch.views[0]

    def loss(query: Tensor, key: Tensor) -> Tensor:
        queries, keys = method.head(method.backbone(query).cls), method.key_head(method.key_backbone(key).cls)
        return queue_contrast(queries, keys, method.queue, 0.3)

    torch.testing.assert_close(method.training_step(batch, Step(0, 1)).total, loss(one, two))
    both = Moco(config.model_copy(update={"symmetric": True}), method.backbone)
    both.load_state_dict(method.state_dict())
    torch.testing.assert_close(both.training_step(batch, Step(0, 1)).total, (loss(one, two) + loss(two, one)) / 2)


def test_the_key_encoder_follows_and_gets_no_gradient() -> None:
    method = make("moco", TinyEncoder())
    frozen = [value for part in (method.key_backbone, method.key_head) for value in part.parameters()]
    assert not any(value.requires_grad for value in frozen)
    trained = {id(value) for group in method.parameter_groups() for value in group["params"]}
    assert not trained & {id(value) for value in frozen}
    before = method.key_head.mlp[0].weight.clone()
    with torch.no_grad():
        method.head.mlp[0].weight.add_(1)
    method.training_step(Pictures(40, 0).batch(8), Step(0, 1))
    method.after_step(Step(0, 1))
    torch.testing.assert_close(method.key_head.mlp[0].weight, before + 0.1)  # momentum 0.9


def test_the_queue_survives_a_restart() -> None:
    method = make("moco", TinyEncoder())
    method.training_step(Pictures(40, 0).batch(8), Step(0, 1))
    method.after_step(Step(0, 1))
    other = make("moco", TinyEncoder())
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.queue, method.queue)
    assert "queue" in method.state_dict()


def test_the_query_encoder_is_exported() -> None:
    method = make("moco", TinyEncoder())
    with torch.no_grad():
        method.backbone.net[1].weight.add_(1)
    assert torch.equal(method.export().state["1.weight"], method.backbone.net[1].weight)
