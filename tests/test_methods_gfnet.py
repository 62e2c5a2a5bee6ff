"""GFNet's method: PPO's pieces in closed form, who rests when, and that both looking and answering are learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sparse_training import CLASSES, accuracy, assert_gradients, train

from vitrail.config import ConfigError
from vitrail.contracts import Batch, Method, Step
from vitrail.methods.gfnet import Gfnet, GfnetConfig, clipped, log_chance, returns
from vitrail.rankers.gfnet import GfNet, GfNetConfig, Policy

TINY = GfNetConfig(
    cnn="resnet10t",
    cnn_options={"channels": [8, 16, 32, 32], "stem_width": 8, "output_stride": 8},
    image_size=32,
    window=16,
    looks=3,
    hidden=32,
    encoder="conv",
    patch_size=8,
)


def method(**config: Any) -> Gfnet:
    torch.manual_seed(0)
    return Gfnet(GfnetConfig(network=TINY, **config), GfNet(TINY, 4), CLASSES)


def batch(size: int = 6) -> Batch:
    images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.arange(size) % 4, torch.arange(size))


def test_returns_in_closed_form() -> None:
    rewards = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 8.0]])
    assert returns(rewards, 0.5).tolist() == [[3.0, 2.0], [4.0, 4.0], [4.0, 8.0]]


def test_chances_are_those_of_a_normal_distribution() -> None:
    torch.manual_seed(0)
    actions, means, others = torch.randn(3, 5, 2), torch.rand(3, 5, 2), torch.rand(3, 5, 2)
    normal = [torch.distributions.Normal(each, 0.25).log_prob(actions).sum(-1) for each in (means, others)]
    found = log_chance(actions, means, 0.25) - log_chance(actions, others, 0.25)
    torch.testing.assert_close(found, normal[0] - normal[1])


def test_clipped_in_closed_form() -> None:
    """Gains end at 1.2 and losses at 0.8; there the gradient ends, too."""
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5], requires_grad=True)
    loss = clipped(ratio, torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2)
    assert loss.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4)
    loss.backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [0, -0.25, 0.25, 0]


def test_stages() -> None:
    module = method(shares=(0.5, 0.25, 0.25))
    assert [module.stage_at(share / 8) for share in range(9)] == [1, 1, 1, 1, 2, 2, 3, 3, 3]
    assert [method(shares=(0, 1, 0)).stage_at(share) for share in (0, 0.5, 0.99)] == [2, 2, 2]
    with pytest.raises(ConfigError, match="give three that add up to 1"):
        GfnetConfig.parse({"shares": (0.5, 0.5, 0.5)})


def test_parts_rest_in_the_stages_of_others() -> None:
    module = method(shares=(0.5, 0.25, 0.25))
    groups = module.parameter_groups()
    weights = {"sight": module.network.focus.conv1[0].weight, "policy": module.network.policy.gru.weight_hh_l0}
    for share in range(8):
        learning = {
            name
            for name, weight in weights.items()
            for group in groups
            if any(weight is each for each in group["params"])
            and not any(start <= share / 8 + 1e-9 < stop for start, stop in group["frozen"])
        }
        assert learning == ({"policy"} if module.stage_at(share / 8) == 2 else {"sight"})
    held = [id(value) for group in groups for value in group["params"]]
    assert sorted(held) == sorted(id(value) for value in module.parameters() if value.requires_grad)


@pytest.mark.parametrize("progress", [0, 2, 3])
def test_every_weight_gets_a_gradient_and_norms_rest_with_the_policy_s_stage(progress: int) -> None:
    module = method(shares=(0.5, 0.25, 0.25))
    before = module.network.glance.bn1.running_mean.clone()
    assert_gradients(module, batch(), Step(progress, 4))
    assert torch.equal(before, module.network.glance.bn1.running_mean) == (progress == 2)
    assert all(part.training for part in module.modules())
    sight = module.network.classifier.fc.weight.grad.abs().sum()
    policy = module.network.policy.actor[0].weight.grad.abs().sum()
    assert (sight > 0, policy > 0) == (progress != 2, progress == 2)


def test_the_copy_follows_the_policy_every_few_steps() -> None:
    module = method(shares=(0.25, 0.5, 0.25), refresh=2)
    for value in module.network.policy.parameters():
        value.data += 1
    same = []
    for number in range(8):
        module.after_step(Step(number, 8))
        same.append(torch.equal(module.actor.actor[0].bias, module.network.policy.actor[0].bias))
    assert same == [False, False, False, True, True, True, True, True]


def test_ppo_finds_where_the_reward_is() -> None:
    """Maps without content, a reward for actions near (0.8, 0.2): the policy goes there."""
    torch.manual_seed(0)
    policy = Policy(4, 2, 16, "conv")
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
    maps, goal = [torch.ones(64, 4, 2, 2)] * 2, torch.tensor([0.8, 0.2])
    for _ in range(80):
        with torch.no_grad():
            old, _ = policy.over(maps)
            actions = old + 0.25 * torch.randn_like(old)
            earned = returns(-(actions - goal).norm(dim=-1), 0.0)
        for _ in range(2):
            means, values = policy.over(maps)
            ratio = (log_chance(actions, means, 0.25) - log_chance(actions, old, 0.25)).exp()
            loss = clipped(ratio, earned - values.detach(), 0.2) + 0.5 * (values - earned).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = policy.over(maps)[0].mean((0, 1))
    assert (found - goal).abs().max() < 0.15, found


def test_classes_must_be_the_network_s() -> None:
    with pytest.raises(ValueError, match="answers with 4 classes, the data has 3"):
        Gfnet(GfnetConfig(network=TINY), GfNet(TINY, 4), ("a", "b", "c"))


def test_it_learns() -> None:
    """More right answers than chance gives (25 %) and than without training; all three stages run."""
    module = method()
    assert isinstance(module, Method)
    before, _ = accuracy(module)
    told = train(module, 60, 3e-3, rows=32)
    assert {each["stage"] for each in told} == {1, 2, 3}
    after, _ = accuracy(module)
    print(before, after)
    assert after > max(before, 25) + 10
    images = batch().images
    assert torch.equal(module(images), module(images))
