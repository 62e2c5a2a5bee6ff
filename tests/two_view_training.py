"""Small pictures of which light and color tell nothing, a tiny encoder, and short trainings of methods on two views.

A picture is its class's pattern and one of its own, under much stronger patterns of light that are drawn anew for each
view. An untrained encoder sees the light; one that has learned what two views have in common does not.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitrail.contracts import Batch, Exported, Step, Tokens
from vitrail.evaluation.knn import classify
from vitrail.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from vitrail.methods.moco import Moco, MocoConfig
from vitrail.methods.simclr import Simclr, SimclrConfig
from vitrail.methods.simsiam import Simsiam, SimsiamConfig
from vitrail.nn.projection_head import ProjectionConfig

SIDE, CLASSES, LIGHTS, LIGHT = 6, 5, 12, 1.0
RATES = {"simclr": 0.1, "barlow_twins": 0.01, "moco": 0.03, "simsiam": 0.1}


class TinyEncoder(nn.Module):
    """Two layers on all pixels, with what the methods ask of a backbone."""

    patch_size = (SIDE, SIDE)
    image_size = (SIDE, SIDE)
    depth = 1
    heads = 0

    def __init__(self, embed_dim: int = 32, norm: bool = True) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        middle = nn.BatchNorm1d(64) if norm else nn.Identity()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 64), middle, nn.ReLU(), nn.Linear(64, embed_dim))

    def forward(self, images: Tensor, **asked: Any) -> Tokens:
        found = self.net(images)
        return Tokens(found, found[:, None], (1, 1))

    def export(self) -> Exported:
        return Exported({name: value.clone() for name, value in self.net.state_dict().items()}, {"tiny": {}})


class Pictures:
    """Images `[count, 3, SIDE, SIDE]` under light that is drawn for each view."""

    def __init__(self, count: int, seed: int) -> None:
        world = torch.Generator().manual_seed(0)
        self.chance = torch.Generator().manual_seed(seed)
        patterns = torch.randn(CLASSES, 3, SIDE, SIDE, generator=world)
        self.lights = torch.randn(LIGHTS, 3 * SIDE**2, generator=world)
        self.labels = torch.arange(count) % CLASSES
        own = torch.randn(count, 3, SIDE, SIDE, generator=self.chance)
        self.images = patterns[self.labels] + 0.5 * own

    def view(self, rows: Tensor) -> Tensor:
        """Images of some rows in a light of their own."""
        strength = LIGHT * torch.randn(len(rows), LIGHTS, generator=self.chance)
        return self.images[rows] + (strength @ self.lights).view(-1, 3, SIDE, SIDE)

    def batch(self, size: int, shuffled: bool = False) -> Batch:
        """Two views; shuffled, the second ones are of other images."""
        rows = torch.randperm(len(self.images), generator=self.chance)[:size]
        return Batch(self.view(rows), None, rows, (self.view(rows.roll(1) if shuffled else rows),))


class Outcome(NamedTuple):
    """k-NN in percent before and after."""

    before: float
    after: float
    losses: list[float]


def make(name: str, backbone: Any) -> Any:
    """A small one of each method."""
    head = {"hidden_dim": 48, "out_dim": 24}
    if name == "simclr":
        return Simclr(SimclrConfig(head=ProjectionConfig(**head)), backbone)
    if name == "barlow_twins":
        return BarlowTwins(BarlowTwinsConfig(head=ProjectionConfig(layers=2, hidden_dim=48, out_dim=48)), backbone)
    if name == "moco":
        config = MocoConfig(head=ProjectionConfig(**head, norm=False), queue=256, momentum=0.9, temperature=0.2)
        return Moco(config, backbone)
    return Simsiam(SimsiamConfig(head=ProjectionConfig(**head, last_norm=True), predictor_dim=12), backbone)


def train(name: str, *, shuffled: bool = False, steps: int = 150, batch: int = 64, seed: int = 0) -> Outcome:
    """Train on two views of one picture or, shuffled, of two."""
    data, held = Pictures(500, seed + 1), Pictures(250, seed + 2)
    torch.manual_seed(seed)
    backbone = TinyEncoder()
    method = make(name, backbone)
    before, losses = knn(backbone, data, held), []
    groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in method.parameter_groups()]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    for number in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATES[name] * min(1, 10 * (number + 1) / steps) * (1 + math.cos(math.pi * number / steps)) / 2
        optimizer.zero_grad()
        found = method.training_step(data.batch(batch, shuffled), Step(number, steps))
        found.total.backward()
        optimizer.step()
        method.after_step(Step(number, steps))
        losses.append(found.total.item())
    return Outcome(before, knn(backbone, data, held), losses)


@torch.no_grad()
def knn(backbone: nn.Module, data: Pictures, held: Pictures) -> float:
    """Top-1 in percent, 20 neighbors, each picture in a light of its own that is the same in every call."""
    backbone.eval()
    bank, queries = (backbone(lit(each)).cls for each in (data, held))
    backbone.train()
    return classify(queries, held.labels, bank, data.labels, ks=(20,), classes=CLASSES)[20][1]


def lit(data: Pictures) -> Tensor:
    fixed = torch.Generator().manual_seed(len(data.images))
    strength = LIGHT * torch.randn(len(data.images), LIGHTS, generator=fixed)
    return data.images + (strength @ data.lights).view(-1, 3, SIDE, SIDE)
