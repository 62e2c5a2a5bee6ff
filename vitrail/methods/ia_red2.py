"""IA-RED2: groups of blocks learn which patches to drop, by being rewarded for right answers from few of them.

    R_g = 1 - (share of the patches that group g keeps)^2    where the answer is right, -penalty where it is wrong
    L   = cross entropy(what is left by I > 0.5)
          - sum_g (R_g(sampled) - R_g(I > 0.5)) mean over patches of log P(sampled | I_g)

I_g is the interest of the group's interpreter (`vitrail.rankers.ia_red2`), the chance that a patch is kept when it is
sampled; the decisions without chance are the baseline (self-critical REINFORCE). Groups learn one after another, the
lowest first; those above take what is left meanwhile.

Source: Pan et al., "IA-RED^2: Interpretability-Aware Redundancy Reduction for Vision Transformers", 2021.

Deviations from the paper
- The backbone is fine-tuned by the cross entropy in every step, on what the decisions without chance leave; the paper
  alternates between interpreters and the groups' blocks.
- log P is averaged over the patches that could be dropped, not summed, so that its size does not depend on the image's.
- An interpreter's gradient ends at its own weights: the tokens that it looks at are the backbone's matter.
- `order="jointly"` lets all groups learn at once, and `warmup` begins with the cross entropy alone, for backbones that
  are not trained yet; the paper starts from a trained classifier.
- The penalty of 1 is our choice, and so is that interpreters begin by keeping everything (interest 0.73): the text does
  not say. From an interest of one half, a threshold that is a coin's toss, accuracy falls into a hole first.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.backbones.parts import with_part
from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.methods.answer import Answer
from vitrail.methods.labels import LabelConfig, Labels, fresh_head, with_classifier
from vitrail.nn.groups import parameter_groups
from vitrail.rankers.ia_red2 import PART, IaRed2Vit, InterpretersConfig, Pruned, over_half


class IaRed2Config(Config):
    """How dropping is rewarded, and which group learns when."""

    kind: Literal["ia_red2"] = "ia_red2"
    interpreters: InterpretersConfig = InterpretersConfig()
    order: Literal["groups", "jointly"] = "groups"
    """groups: one after another, each for an equal share of training, and then left alone. jointly: all at once."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of training in which nothing is dropped and no interpreter learns."""
    penalty: float = Field(1.0, ge=0)
    """What a wrong answer costs; a right one earns between 0 and 1."""
    policy_rate: float = Field(1.0, gt=0)
    """The interpreters' learning rate, as a factor on the schedule."""
    epochs: int | None = Field(None, ge=1)
    """Of the whole training; nothing here counts in epochs, a recipe fills it in."""
    labels: LabelConfig = LabelConfig(mixup=0, cutmix=0)
    """Of mixed images, the answer with the larger share is the right one."""
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's decay, on matrices only."""


class IaRed2(nn.Module):
    """A backbone with interpreters and a classifier on its class token. Fulfills `vitrail.contracts.Method`."""

    dropping: Tensor

    def __init__(
        self, config: IaRed2Config, backbone: TimmViT, classes: tuple[str, ...], head: nn.Linear | None = None
    ) -> None:
        """Args: classes: names of the labels 0, 1, ...; head: a trained classifier of these, None for a fresh one.

        Raises `ValueError` for fewer than two classes, and for groups that are not the backbone's blocks.
        """
        super().__init__()
        self.config, self.classes = config, classes
        self.labels = Labels(config.labels, len(classes))
        self.network = IaRed2Vit(backbone, config.interpreters)
        self.head = head or fresh_head(backbone.embed_dim, len(classes))
        # How many groups drop patches by now.
        self.register_buffer("dropping", torch.zeros((), dtype=torch.int64))

    @property
    def backbone(self) -> TimmViT:
        """The network's."""
        return self.network.backbone

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """Cross entropy and REINFORCE; parts: both, `reward` of the decisions without chance, `kept`, `top1`."""
        images, targets = self.labels.mix(batch)
        number = self.dropping_at(step.progress)
        plain = self.network(images, dropping=number)
        logits = self.head(plain.cls)
        loss = self.labels.loss(logits, targets)
        parts = {"cross_entropy": loss.detach(), **self.labels.top1(logits, targets)}
        total = loss + 0 * sum(each.sum() for each in plain.interest)  # DDP wants all weights in every step
        if number:
            truth = targets if targets.ndim == 1 else targets.argmax(1)
            policy, reward = self._reinforce(images, truth, plain, logits.argmax(1) == truth, number)
            total = total + policy
            kept = plain.kept[-1].float().mean()
            parts |= {"policy": policy.detach(), "reward": reward, "kept": kept}
        return Losses(total, parts)

    def _reinforce(
        self, images: Tensor, truth: Tensor, plain: Pruned, right: Tensor, number: int
    ) -> tuple[Tensor, Tensor]:
        """The policy's loss, and the mean reward of the last dropping group without chance."""
        learning = range(number) if self.config.order == "jointly" else (number - 1,)

        def choose(group: int, found: Tensor) -> Tensor:
            return torch.bernoulli(found).bool() if group in learning else over_half(group, found)

        sampled = self.network(images, choose, dropping=number, resting=True)
        with torch.no_grad():
            hit = self.head(sampled.cls).argmax(1) == truth
        total = images.new_zeros(())
        for group in learning:
            before = sampled.kept[group - 1] if group else torch.ones_like(sampled.kept[0])
            chance = log_chance(sampled.interest[group], sampled.kept[group], before)
            penalty = self.config.penalty
            gain = rewards(sampled.kept[group], hit, penalty) - rewards(plain.kept[group], right, penalty)
            total = total - (gain * chance).mean()
        return total, rewards(plain.kept[number - 1], right, self.config.penalty).mean()

    def dropping_at(self, progress: float) -> int:
        """How many groups drop patches when `progress` (in [0, 1]) of training lies behind; the last of them learns."""
        count = len(self.network.interpreters)
        if progress < self.config.warmup:
            return 0
        if self.config.order == "jointly":
            return count
        share = (progress - self.config.warmup) / (1 - self.config.warmup)
        return min(int(share * count + 1e-9), count - 1) + 1

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, classes]` of normalized images `[B, 3, H, W]`, by the groups that drop by now."""
        return self.answer(images).logits

    def answer(self, images: Tensor) -> Answer:
        """Logits, and the share of `tokens` (patches) that blocks saw, mean over blocks."""
        found = self.network(images, dropping=int(self.dropping))
        sizes = self.network.config.groups
        used = torch.stack([kept.float().mean(1) * size for kept, size in zip(found.kept, sizes, strict=True)])
        return Answer(self.head(found.cls), {"tokens": used.sum(0) / sum(sizes)})

    def parts(self) -> dict[str, nn.Module]:
        """The interpreters."""
        return {PART: self.network.interpreters}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone and head at one rate; each interpreter rests while another one learns."""
        decay, config = self.config.weight_decay, self.config
        groups = parameter_groups(self.backbone, weight_decay=decay) + parameter_groups(self.head, weight_decay=decay)
        count = len(self.network.interpreters)
        for number, interpreter in enumerate(self.network.interpreters):
            edges = [config.warmup + (1 - config.warmup) * place / count for place in (number, number + 1)]
            start, stop = edges if config.order == "groups" else (config.warmup, 1.0)
            frozen = ((0.0, start), *([(stop, 1.0)] if number + 1 < count and config.order == "groups" else []))
            for group in parameter_groups(interpreter, weight_decay=decay):
                groups.append(group | {"lr_scale": group["lr_scale"] * config.policy_rate, "frozen": frozen})
        return groups

    def after_step(self, step: Step) -> None:
        """Says how many groups drop patches by now."""
        self.dropping.fill_(self.dropping_at(step.progress))

    def export(self) -> Exported:
        """Backbone and classifier under timm's names, and the interpreters under `interpreters.`."""
        exported = with_classifier(self.backbone.export(), self.head, self.classes)
        return with_part(exported, PART, self.network.interpreters, self.network.config)


def rewards(kept: Tensor, right: Tensor, penalty: float) -> Tensor:
    """`[B]`: 1 - share^2 of the kept patches (bool `[B, N]`) where the answer is right (bool `[B]`), else -penalty."""
    return torch.where(right, 1 - kept.float().mean(1).square(), -penalty)


def log_chance(found: Tensor, kept: Tensor, before: Tensor) -> Tensor:
    """log P of decisions, mean over the patches that could be decided about: `[B]`.

    Args:
        found: chance of each patch to be kept, `[B, N]` in (0, 1).
        kept: bool `[B, N]`, what was decided.
        before: bool `[B, N]`, the patches that were still there; where none was, 0.
    """
    found = found.clamp(1e-6, 1 - 1e-6)
    each = torch.where(kept, found, 1 - found).log() * before
    return each.sum(1) / before.sum(1).clamp(min=1)
