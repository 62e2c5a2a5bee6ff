"""A few steps of a classifier that skips patches, or that learns where to look, on generated scenes held in memory."""

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
TINY = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=4, heads=2)
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


def tiny_batch(size: int = 3) -> Batch:
    """For backbones of `TINY`."""
    return batch(size, 24)


def train(method: Any, steps: int, rate: float = 2e-3, rows: int = 64) -> list[dict[str, float]]:
    """Optimizer steps of `rows` scenes, at rates as the groups say, which rest as they say; returns what each said."""
    images, labels, _, _ = scenes()
    groups = [{**group, "lr": rate * group.get("lr_scale", 1.0)} for group in method.parameter_groups()]
    optimizer = torch.optim.AdamW(groups)
    generator = torch.Generator().manual_seed(0)
    method.train()
    told = []
    for index in range(steps):
        chosen = torch.randint(len(images), (rows,), generator=generator)
        torch.manual_seed(index)
        step = Step(index, steps)
        optimizer.zero_grad()
        losses = method.training_step(Batch(images[chosen], labels[chosen], chosen), step)
        losses.total.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0) * min(1, (index + 1) / 10)
            if any(start <= step.progress + 1e-9 < stop for start, stop in group.get("frozen", ())):
                for value in group["params"]:
                    value.grad = None
        optimizer.step()
        method.after_step(step)
        told.append({name: float(value) for name, value in losses.parts.items()})
    method.eval()
    return told


@torch.no_grad()
def accuracy(method: Any) -> tuple[float, dict[str, float]]:
    """Top-1 of held-out scenes in percent, and the mean shares that were used."""
    _, _, images, labels = scenes()
    answer = method.eval().answer(images)
    used = {name: value.mean().item() for name, value in answer.used.items()}
    return 100 * (answer.logits.argmax(1) == labels).float().mean().item(), used


def assert_gradients(method: Any, given: Batch, step: Step) -> None:
    """Every weight that is trained gets a finite gradient; DDP wants them all in each step."""
    method.train()
    losses = method.training_step(given, step)
    losses.total.backward()
    assert losses.total.isfinite()
    for name, value in method.named_parameters():
        if value.requires_grad:
            assert value.grad is not None, name
            assert value.grad.isfinite().all(), name
