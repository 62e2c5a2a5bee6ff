"""Segmenters on frozen patch features: what the linear and the convolutional probe share.

One head for each learning rate, all of them trained at once on the same features by Adam. Adam works number by number,
so that every head equals what training alone would have made of it; one that diverges harms no other.

The loss is cross-entropy, mean over the labeled pixels of a batch. Where a head's logits stand for whole patches, and
the truth for the share that each class has of a patch, this is the loss of its pixels with the patch's logits repeated
over them; otherwise logits are enlarged bilinearly to the size of the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail.contracts import Backbone
from vitrail.data.dense_batches import DenseBatch
from vitrail.data.semantic import SemanticLabels, resized
from vitrail.evaluation.features import Precision, autocast


class Examples(NamedTuple):
    """Features of images and what is to be learned of them."""

    features: Tensor  # [B, D, Y, X]
    truth: Tensor  # ids [B, h, w] int64, negative is ignored; or shares [B, Y, X, C] float, what lacks to 1 is ignored


class Fitted(NamedTuple):
    """What training leaves."""

    losses: Tensor  # [steps, L] float32, on the CPU, nats; NaN where a head has diverged
    pixels: Tensor  # [C] float64, on the CPU, how much of each class was seen; its unit is a pixel or a patch


class Memory(NamedTuple):
    """Features of a whole training set."""

    features: Tensor  # [n, D, Y, X] float32
    truth: Tensor  # as in `Examples`


def maps_of(backbone: Backbone, images: Tensor, precision: Precision = "fp32") -> Tensor:
    """Patch features after the final norm as a map, float32 `[B, D, Y, X]`.

    Raises:
        ValueError: for features that are not finite.
    """
    with torch.no_grad(), autocast(images.device, precision):
        tokens = backbone(images)
    rows, columns = tokens.grid
    patches = tokens.patches.float()
    if not bool(patches.isfinite().all()):
        raise ValueError("patch features hold NaN or infinite values; check the weights, or use precision=fp32")
    return patches.transpose(1, 2).reshape(len(images), -1, rows, columns)


def remember(
    backbone: Backbone,
    batches: Iterable[DenseBatch],
    labels: SemanticLabels,
    enlarged: int,
    place: torch.device,
    precision: Precision,
) -> Memory:
    """Run the backbone once over all images; see `room_for` for the memory that takes.

    Args:
        batches: at least one.
        enlarged: how many times as large as the grid a head's map is; for 1, the truth is kept as shares of patches,
            otherwise as ids at the size of the head's map.
    """
    features, truths = [], []
    for batch in batches:
        found = maps_of(backbone, batch.images.to(place), precision).cpu()
        grid = (found.shape[2], found.shape[3])
        features.append(found)
        if enlarged == 1:
            shares = torch.stack([labels.shares(each, grid) for each in batch.targets])
            truths.append(shares.unflatten(1, grid))
        else:
            truths.append(resized(batch.targets, (grid[0] * enlarged, grid[1] * enlarged)).to(torch.int16))
    return Memory(torch.cat(features), torch.cat(truths))


def room_for(images: int, grid: tuple[int, int], width: int, classes: int, most: float) -> None:
    """Raise `ValueError` where features and shares of so many images take more than `most` GB."""
    needed = images * grid[0] * grid[1] * (width + classes) * 4 / 1e9
    if needed > most:
        fitting = int(images * most / needed)
        raise ValueError(
            f"patch features of {images:,} training images take {needed:.1f} GB, and memory is {most:g}: take "
            f"images={fitting}, more memory=, or a preset that trains on crops and keeps no features"
        )


def from_memory(
    memory: Memory, batch_size: int, steps: int, seed: int, place: torch.device
) -> Iterator[list[Examples]]:
    """Batches for `fit`, each epoch in an order of its own; the last of an epoch may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while done < steps:
        for chosen in torch.randperm(len(memory.features), generator=generator).split(batch_size):
            truth = memory.truth[chosen].to(place)
            yield [Examples(memory.features[chosen].to(place), truth if truth.is_floating_point() else truth.long())]
            done += 1
            if done == steps:
                return


def from_crops(
    backbone: Backbone, batches: Iterable[DenseBatch], chunk: int, place: torch.device, precision: Precision
) -> Iterator[list[Examples]]:
    """Batches for `fit` of crops that the backbone sees once; `chunk` images at a time."""
    for batch in batches:
        parts = zip(batch.images.split(chunk), batch.targets.split(chunk))
        yield [Examples(maps_of(backbone, images.to(place), precision), ids.to(place)) for images, ids in parts]


def fit(
    heads: nn.ModuleList,
    steps: Iterable[Sequence[Examples]],
    rates: Sequence[float],
    total: int,
    classes: int,
    final_rate: float | None = None,
) -> Fitted:
    """Train all heads.

    Args:
        heads: L of them, `[B, D, Y, X]` -> logits `[B, C, y, x]`, on the device of the features.
        steps: for each step the parts of its batch; the loss is that of the whole batch.
        rates: L learning rates of Adam.
        total: how many steps the schedule is for; there may come fewer.
        classes: C.
        final_rate: along half a cosine, rates go down to it (one that is smaller stays); None leaves them constant.

    Raises:
        ValueError: where there was no step, or no labeled pixel in any.
    """
    optimizer = torch.optim.Adam([{"params": list(head.parameters()), "lr": rate} for head, rate in zip(heads, rates)])
    losses, pixels = [], torch.zeros(classes, dtype=torch.float64)
    heads.train()
    for number, parts in enumerate(steps):
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = scheduled(rate, final_rate, number / total)
        counts = sum((_counts(part.truth, classes) for part in parts), torch.zeros_like(pixels))
        pixels += counts
        if float(counts.sum()):
            losses.append(_step(heads, optimizer, parts, float(counts.sum())))
    heads.eval()
    if not losses:
        raise ValueError("no labeled pixel was seen in training; the masks hold nothing but pixels to be ignored")
    return Fitted(torch.stack(losses), pixels)


def scheduled(rate: float, final_rate: float | None, progress: float) -> float:
    """The learning rate at a share of the training: half a cosine from `rate` to the smaller `final_rate`."""
    if final_rate is None:
        return rate
    least = min(rate, final_rate)
    return least + 0.5 * (rate - least) * (1 + math.cos(math.pi * progress))


def summed_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy, summed over what is labeled, nats.

    Args:
        logits: `[B, C, y, x]`.
        truth: ids `[B, h, w]` or shares `[B, y, x, C]`, see `Examples`.
    """
    if truth.is_floating_point():
        return -(truth * logits.permute(0, 2, 3, 1).log_softmax(-1)).sum()
    return functional.cross_entropy(enlarged(logits, truth.shape[-2:]), truth, ignore_index=-1, reduction="sum")


def enlarged(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits `[B, C, y, x]` at another size, bilinearly, corners as pixels are (`align_corners=False`)."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return functional.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def _step(heads: nn.ModuleList, optimizer: torch.optim.Adam, parts: Sequence[Examples], count: float) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    losses = torch.zeros(len(heads))
    for part in parts:
        for place, head in enumerate(heads):
            with torch.enable_grad():
                loss = summed_loss(head(part.features), part.truth) / count
                loss.backward()
            losses[place] += loss.detach().cpu()
    optimizer.step()
    return losses


def _counts(truth: Tensor, classes: int) -> Tensor:
    """How much of each class there is, float64 `[C]` on the CPU."""
    if truth.is_floating_point():
        return truth.flatten(0, -2).sum(0).double().cpu()
    return torch.bincount(truth[truth >= 0], minlength=classes).double().cpu()
