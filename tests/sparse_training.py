"""A few steps of a classifier that skips patches, on generated scenes held in memory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vitrail.backbones import BackboneConfig, TimmViT, create
from vitrail.contracts import Batch, Step
from vitrail.data import SyntheticScenes
from vitrail.methods.labels import LabelConfig

PLAIN = LabelConfig(smoothing=0, mixup=0, cutmix=0)
SMALL = BackboneConfig(image_size=32, patch_size=8, embed_dim=48, depth=4, heads=3)
CLASSES = ("a", "b", "c", "d")


@lru_cache(maxsize=1)
def scenes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, and held-out ones."""
    parts = []
    for split, count in (("train", 768), ("val", 256)):
        data = SyntheticScenes(count, image_size=32, classes=4, seed=3, split=split)  # type: ignore[arg-type]
        images, labels, _ = data.arrays(0, count)
        parts += [torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.from_numpy(labels)]
    return tuple(parts)  # type: ignore[return-value]


def fresh(config: BackboneConfig = SMALL) -> TimmViT:
    torch.manual_seed(0)
    return create(config)


def batch(size: int = 6, side: int = 32) -> Batch:
    images = torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.arange(size) % len(CLASSES), torch.arange(size))


def train(method: Any, steps: int, rate: float = 2e-3) -> None:
    """Optimizer steps of 64 scenes, at rates as the groups say."""
    images, labels, _, _ = scenes()
    groups = [{**group, "lr": rate * group.get("lr_scale", 1.0)} for group in method.parameter_groups()]
    optimizer = torch.optim.AdamW(groups)
    generator = torch.Generator().manual_seed(0)
    method.train()
    for index in range(steps):
        rows = torch.randint(len(images), (64,), generator=generator)
        optimizer.zero_grad()
        method.training_step(Batch(images[rows], labels[rows], rows), Step(index, steps)).total.backward()
        optimizer.step()
    method.eval()


@torch.no_grad()
def accuracy(method: Any) -> tuple[float, dict[str, float]]:
    """Top-1 of held-out scenes in percent, and the mean shares that were used."""
    _, _, images, labels = scenes()
    answer = method.answer(images)
    used = {name: value.mean().item() for name, value in answer.used.items()}
    return 100 * (answer.logits.argmax(1) == labels).float().mean().item(), used
