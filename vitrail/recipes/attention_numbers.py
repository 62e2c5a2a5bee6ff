"""What the last block's attention is like while a model learns, head by head: spatial entropy and number of blobs.

SAR wants few and large regions in every head's similarities, and heads that differ. A mean over heads hides both; these
numbers are logged at each evaluation, for a run with or without SAR's loss, so that curves can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor

from vitrail.backbones import AnyBackbone, TimmConvNet
from vitrail.config import Config
from vitrail.contracts import ImageSet
from vitrail.data import EvalTransformConfig, build_eval_transform, ordered_batches
from vitrail.metrics.by_head import named_by_head
from vitrail.ops.components import components_above_mean
from vitrail.ops.spatial_entropy import spatial_entropy
from vitrail.recipes.probe import ProbeConfig, knn_probe, spread
from vitrail.recipes.run import together
from vitrail.recipes.sources import Splits
from vitrail.recipes.start import tell_unreadable
from vitrail.train import Ranks


class AttentionConfig(Config):
    """How much is looked at between epochs."""

    images: int = Field(256, ge=0)
    """Held-out images whose attention is measured head by head, at most, evenly spaced; 0 for none."""


def entropy_by_head(
    backbone: AnyBackbone | TimmConvNet,
    data: ImageSet,
    transform: EvalTransformConfig,
    config: AttentionConfig,
    workers: int,
    ranks: Ranks,
) -> Callable[[], Mapping[str, float]] | None:
    """A function that gives `attention_numbers` of the last block, the same for any number of ranks.

    None where the scores of the last block cannot be read, or no image is to be looked at.
    """
    last = backbone.depth - 1
    if last in backbone.closed or not config.images or not len(data):
        return None
    seen = spread(data, config.images)
    told: set[int] = set()

    @torch.no_grad()
    def evaluate() -> Mapping[str, float]:
        device = next(backbone.parameters()).device
        skipped: dict[int, tuple[str, str]] = {}
        place = {"workers": min(workers, 2), "rank": ranks.rank, "world": ranks.world, "skipped": skipped}
        mine, count = None, 0
        for batch in ordered_batches(seen, build_eval_transform(transform), batch_size=64, **place):  # type: ignore[arg-type]
            sums = sums_by_head(backbone(batch.images.to(device), scores=(last,)).scores[last])
            mine, count = sums if mine is None else mine + sums, count + len(batch.images)
        tell_unreadable({i: why for part in ranks.gather(skipped) for i, why in part.items()}, len(seen), told)
        return attention_numbers(mine, count, ranks)

    return evaluate


def knn_and_entropy(
    backbone: AnyBackbone | TimmConvNet,
    splits: Splits,
    transform: EvalTransformConfig,
    probe: ProbeConfig,
    attention: AttentionConfig,
    workers: int,
    ranks: Ranks,
) -> Callable[[], Mapping[str, float]] | None:
    """`knn_probe` and `entropy_by_head` as one function, for `Parts.evaluate`; None where neither has a number."""
    return together(
        knn_probe(backbone, splits, transform, probe, workers, ranks),
        entropy_by_head(backbone, splits.val, transform, attention, workers, ranks),
    )


def sums_by_head(scores: Tensor) -> Tensor:
    """Spatial entropy in nats and number of blobs of each head, summed over images.

    Args:
        scores: of one block, the class token's with the keys before the softmax, `[B, H, Y, X]`; any grid.

    Returns:
        `[2, H]` float64 on the CPU.
    """
    values = scores.detach().float()
    blobs = components_above_mean(values).amax((-2, -1))
    return torch.stack([spatial_entropy(values).double().sum(0), blobs.double().sum(0)]).cpu()


def attention_numbers(mine: Tensor | None, count: int, ranks: Ranks) -> dict[str, float]:
    """Means over the images of all ranks: `spatial_entropy` (nats) and `blobs`, of all heads and of each one.

    Args:
        mine: this rank's `sums_by_head` over all its images, None where it has none.
        count: of how many images.
        ranks: of which each has a part of the images.

    Returns:
        `spatial_entropy`, `blobs`, and `spatial_entropy_head_0`, `blobs_head_0` and so on; empty without images.
    """
    found = [(sums, images) for sums, images in ranks.gather((mine, count)) if sums is not None]
    if not found:
        return {}
    total = torch.stack([sums for sums, _ in found]).sum(0)
    entropy, blobs = (total / sum(images for _, images in found)).tolist()
    every = {"spatial_entropy": entropy, "blobs": blobs}
    return {name: sum(values) / len(values) for name, values in every.items()} | named_by_head(every)
