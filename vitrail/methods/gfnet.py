"""GFNet: a network that glances at an image and learns where to look then, in three stages of one run.

    1  both CNNs and the classifier learn, at windows drawn uniformly     L = mean over looks of cross entropy
    2  the policy learns where windows help, by PPO                       r_t = p_t(label) - p_(t-1)(label)
    3  CNNs and classifier learn on, at the policy's windows              L as in 1

    PPO: - mean min(ratio A, clip(ratio, 1 - c, 1 + c) A) + v (V - R)^2,   R_t = r_t + g R_(t+1),   A = R - V

Actions are drawn from a normal distribution around the policy's, of fixed spread, by a copy of the policy that follows
it every few steps; `ratio` is the chance of an action under the policy over that under the copy.

Source: Wang et al., "Glance and Focus: a Dynamic Approach to Reducing Spatial Redundancy in Image Classification",
2020. The network is `vitrail.rankers.gfnet`.

Deviations from the paper
- The stages are shares of one run with one optimizer and one schedule; each part rests in the stages of others. The
  paper trains them apart, the CNNs by SGD and the policy by Adam. `shares` with a 0 leave a stage out.
- PPO takes one step on the windows of a batch, by a copy that lags, instead of several on the same windows.
- All images get all looks: there is no early exit, and no budget for a batch.
- Glance and windows have CNNs of the same kind with weights of their own, as published for ResNets; what small CNNs
  have instead of the recurrent classifier is not here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail import __version__
from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.methods.answer import Answer
from vitrail.methods.labels import LabelConfig, Labels
from vitrail.nn.groups import parameter_groups
from vitrail.rankers.gfnet import GfNet, GfNetConfig


class GfnetConfig(Config):
    """The network, its stages, and PPO."""

    network: GfNetConfig = GfNetConfig()
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Of training, for the three stages; they add up to 1."""
    spread: float = Field(0.25, gt=0)
    """Standard deviation of actions while the policy learns, in units of the space that a window can move in."""
    discount: float = Field(0.7, ge=0, le=1)
    """g: of what later looks earn."""
    clip: float = Field(0.2, gt=0, lt=1)
    """c: how far a ratio counts from 1."""
    value_weight: float = Field(0.5, ge=0)
    """v: of the critic's squared error."""
    refresh: int = Field(4, ge=1)
    """Optimizer steps after which the copy that draws actions becomes the policy again."""
    policy_rate: float = Field(4.0, gt=0)
    """The policy's learning rate, as a factor on the schedule, which has fallen far when the second stage begins; with
    1, the policy of a short training on scenes hardly left the middle of the image."""
    labels: LabelConfig = LabelConfig(smoothing=0, mixup=0, cutmix=0)
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's decay, on matrices and kernels only."""

    @field_validator("shares")
    @classmethod
    def _whole(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"the shares of the stages are {list(shares)}; give three that add up to 1")
        return shares


class Gfnet(nn.Module):
    """`network` and a copy of its policy that draws actions. Fulfills `vitrail.contracts.Method`."""

    def __init__(self, config: GfnetConfig, network: GfNet, classes: tuple[str, ...]) -> None:
        """`classes` are the names of the labels 0, 1, ...; at least two, as many as the network's.

        Raises `ValueError` otherwise.
        """
        super().__init__()
        self.config, self.classes = config, classes
        self.labels = Labels(config.labels, len(classes))
        if network.classifier.fc.out_features != len(classes):
            raise ValueError(
                f"the network answers with {network.classifier.fc.out_features} classes, the data has {len(classes)}"
            )
        self.network = network
        self.actor = copy.deepcopy(network.policy).requires_grad_(False)

    @property
    def backbone(self) -> GfNet:
        """The network: what a run asks for sizes."""
        return self.network

    @property
    def head(self) -> nn.Linear:
        """The classifier's last layer."""
        return self.network.classifier.fc

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The loss of the stage that is on; parts: `stage`, and its losses and `top1` or `reward`."""
        images, targets = self.labels.mix(batch)
        stage = self.stage_at(step.progress)
        found = self._ppo(images, targets) if stage == 2 else self._classify(images, targets, stage)
        resting = self._sight() if stage == 2 else (self.network.policy,)
        # DDP wants all weights in every step, also of parts that rest.
        touched = sum(value.sum() for part in resting for value in part.parameters())
        return Losses(found.total + 0 * touched, {**found.parts, "stage": images.new_tensor(float(stage))})

    def _classify(self, images: Tensor, targets: Tensor, stage: int) -> Losses:
        def draw(step: int, mean: Tensor) -> Tensor:
            return torch.rand_like(mean) if stage == 1 else mean

        looks = self.network(images, draw)
        loss = torch.stack([self.labels.loss(logits, targets) for logits in looks.logits]).mean()
        return Losses(loss, {"cross_entropy": loss.detach(), **self.labels.top1(looks.logits[-1], targets)})

    def _ppo(self, images: Tensor, targets: Tensor) -> Losses:
        def draw(step: int, mean: Tensor) -> Tensor:
            return mean + self.config.spread * torch.randn_like(mean)

        truth = targets if targets.ndim == 1 else targets.argmax(1)
        with torch.no_grad(), _evaluating(*self._sight()):
            looks = self.network(images, draw, policy=self.actor)
        chances = looks.logits.float().softmax(-1).gather(2, truth[None, :, None].expand(len(looks.logits), -1, 1))
        earned = returns(chances[1:, :, 0] - chances[:-1, :, 0], self.config.discount)
        means, values = self.network.policy.over(looks.maps)
        ratio = (log_chance(looks.actions, means, self.config.spread) - self._before(looks.actions, looks.means)).exp()
        policy = clipped(ratio, earned - values.detach(), self.config.clip)
        value = F.mse_loss(values.float(), earned)
        reward = (chances[-1] - chances[0]).mean()
        parts = {"policy": policy.detach(), "value": value.detach(), "reward": reward}
        return Losses(policy + self.config.value_weight * value, parts)

    def _before(self, actions: Tensor, means: Tensor) -> Tensor:
        return log_chance(actions, means, self.config.spread)

    def _sight(self) -> tuple[nn.Module, ...]:
        return self.network.glance, self.network.focus, self.network.classifier

    def stage_at(self, progress: float) -> int:
        """1, 2 or 3 when `progress` (in [0, 1]) of training lies behind."""
        first, second, _ = self.config.shares
        now = progress + 1e-9  # as the trainer sees it, where shares were added up
        return 1 if now < first else 2 if now < first + second else 3

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, classes]` of normalized images `[B, 3, H, W]`, after the last look."""
        return self.answer(images).logits

    def answer(self, images: Tensor) -> Answer:
        """Logits after the last look, at the policy's windows."""
        return Answer(self.network(images).logits[-1])

    def parts(self) -> dict[str, nn.Module]:
        """None: what is exported is the network."""
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """CNNs and classifier, which rest in the second stage, and the policy, which learns in it alone."""
        decay, (first, second, _) = self.config.weight_decay, self.config.shares
        groups = []
        for part in self._sight():
            groups += [g | {"frozen": ((first, first + second),)} for g in parameter_groups(part, weight_decay=decay)]
        for group in parameter_groups(self.network.policy, weight_decay=decay):
            rate = group["lr_scale"] * self.config.policy_rate
            groups.append(group | {"lr_scale": rate, "frozen": ((0.0, first), (first + second, 2.0))})
        return groups

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """The copy that draws actions becomes the policy every `refresh` steps of the second stage."""
        if self.stage_at(step.progress) == 2 and (step.index + 1) % self.config.refresh == 0:
            for mine, other in zip(self.actor.parameters(), self.network.policy.parameters(), strict=True):
                mine.copy_(other)

    def export(self) -> Exported:
        """The network under its own names, for `vitrail.rankers.open_ranker("gfnet", ...)`."""
        network = self.network
        state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        about = {"name": "gfnet", "config": network.config.plain(), "classes": len(self.classes)}
        pixels = {"mean": list(network.mean), "std": list(network.std)}
        return Exported(state, {"ranker": about, "classes": list(self.classes), **pixels, "version": __version__})


def returns(rewards: Tensor, discount: float) -> Tensor:
    """R_t = r_t + g R_(t+1) of rewards `[T, B]`."""
    found = torch.zeros_like(rewards)
    after = torch.zeros_like(rewards[0])
    for step in reversed(range(len(rewards))):
        after = rewards[step] + discount * after
        found[step] = after
    return found


def log_chance(actions: Tensor, means: Tensor, spread: float) -> Tensor:
    """log density of actions `[T, B, 2]` under normal distributions around `means`, without the constant: `[T, B]`."""
    return -((actions.float() - means.float()) / spread).square().sum(-1) / 2


def clipped(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's loss of ratios and advantages of one shape: a ratio beyond 1 -+ clip earns no more."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


@contextmanager
def _evaluating(*parts: nn.Module) -> Iterator[None]:
    """Inside, the parts are in evaluation mode: their norms use running means and leave them alone."""
    modes = [(module, module.training) for part in parts for module in part.modules()]
    for part in parts:
        part.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
