"""Some patches of a data set, drawn evenly from all of them, with what their pixels are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vitrail.config import Config
from vitrail.contracts import Backbone, ImageSet
from vitrail.data.dense_batches import DenseBatch, as_evaluated, dense_batches, in_order, left_out
from vitrail.data.semantic import SemanticLabels
from vitrail.data.transforms import EvalTransform, EvalTransformConfig
from vitrail.evaluation.attention import Pixels
from vitrail.evaluation.dense_training import maps_of
from vitrail.evaluation.features import Precision, eval_transform, frozen
from vitrail.evaluation.progress import progress
from vitrail.ops.patches import grid_of, sides_of


class PatchConfig(Config):
    """How patches are read and where pixels are counted."""

    image_size: Pixels | tuple[Pixels, Pixels] = 448
    """Pixels, a side or (height, width), that images are squashed to."""
    truth: Literal["image", "input"] = "image"
    """Where pixels are counted: at the size of each mask as it is in its file, or of what the backbone sees."""
    pictures: int = Field(default=6, ge=0)
    """Validation images whose label maps are kept to look at."""
    forward_batch_size: int = Field(default=16, ge=1)
    """Images per forward pass of the backbone; no influence."""
    workers: int = Field(default=0, ge=0)
    """Loading processes."""
    precision: Precision = "fp32"
    """Of the backbone: fp32 or bf16 autocast."""
    seed: int = 0
    """Of the patches that are drawn."""


class PatchSample(NamedTuple):
    """Patches and their pixels."""

    patches: Tensor  # [M, D] float32, after the final norm
    shares: Tensor  # [M, C] float32, of each class; what lacks to 1 is ignored
    total: int  # how many patches the set has


class PatchReader:
    """A backbone that reads the patches of images with masks."""

    def __init__(self, backbone: Backbone, labels: SemanticLabels, config: PatchConfig, place: torch.device) -> None:
        """Args: place: the device that the backbone is on."""
        self.backbone, self.labels, self.config, self.place = backbone, labels, config, place
        self.grid = grid_of(*sides_of(config.image_size), backbone.patch_size)
        self.transform = squashing(backbone, config)
        self.notes: list[str] = []

    def batches(self, data: ImageSet, role: str) -> Iterator[tuple[DenseBatch, Tensor]]:
        """All images in order, with their features `[B, D, Y, X]` on the device; `notes` learns of unreadable ones."""
        config, skipped = self.config, dict[int, str]()
        requests = in_order(len(data), config.forward_batch_size)
        cut = as_evaluated(self.transform)
        batches = dense_batches(data, self.labels, cut, requests, workers=config.workers, skipped=skipped)
        with progress(f"patches, {role}", len(data)) as advance:
            for batch in batches:
                yield batch, maps_of(self.backbone, batch.images.to(self.place), config.precision)
                advance(len(batch.indices))
        if skipped:
            self.notes.append(left_out(role, skipped, len(data)))

    def sample(self, data: ImageSet, role: str, most: int) -> PatchSample:
        """`most` patches of a set, or all where there are no more, every patch alike likely.

        Which ones depends on the seed alone. Patches without a labeled pixel are among them.
        """
        each = self.grid[0] * self.grid[1]
        total = len(data) * each
        generator = torch.Generator().manual_seed(self.config.seed)
        drawn = (
            torch.arange(total) if most >= total else torch.randperm(total, generator=generator)[:most].sort().values
        )
        patches, shares = [], []
        for batch, features in self.batches(data, role):
            flat = features.flatten(2).transpose(1, 2).cpu()
            for row, index in enumerate(batch.indices):
                first, last = torch.searchsorted(drawn, torch.tensor([index * each, (index + 1) * each])).tolist()
                own = drawn[first:last] - index * each
                patches.append(flat[row, own])
                shares.append(self.labels.shares(batch.targets[row], self.grid)[own])
        return PatchSample(torch.cat(patches), torch.cat(shares), total)


def squashing(backbone: Backbone, config: PatchConfig) -> EvalTransform:
    """The transform that squashes images and masks to the configured size."""
    return eval_transform(EvalTransformConfig(image_size=config.image_size, mode="squash"), backbone)


@contextmanager
def patch_reader(backbone: Backbone, labels: SemanticLabels, config: PatchConfig, device: str) -> Iterator[PatchReader]:
    """A reader while the backbone is frozen on the device. `ValueError` for a size that patches do not divide."""
    with frozen(backbone, device) as place:
        yield PatchReader(backbone, labels, config, place)
