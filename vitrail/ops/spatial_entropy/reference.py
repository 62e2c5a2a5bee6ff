"""Spatial entropy in plain torch and autograd: the yardstick, and for devices without a kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from vitrail.ops.components.reference import connected_components


def spatial_entropy(scores: Tensor, floor: float) -> Tensor:
    """As `vitrail.ops.spatial_entropy.spatial_entropy`, on any device; waits for it while labeling."""
    cells = scores.shape[-2] * scores.shape[-1]
    result = torch.promote_types(scores.dtype, torch.float32)
    wide = scores.to(result if scores.device.type == "mps" else torch.float64)  # mps has no float64
    mean = wide.mean((-2, -1), keepdim=True)
    above = (wide - mean).relu()
    height = above.detach().sum((-2, -1))
    usable = ((height > floor) & (height < torch.inf)).unsqueeze(-1)
    # Constant and broken maps get no component at all, so that nothing below divides by their total.
    labels = connected_components((above.detach() > 0) & usable.unsqueeze(-1)).flatten(-2)
    mass = above.new_zeros((*labels.shape[:-1], cells + 1))
    mass = mass.scatter_add(-1, labels, above.flatten(-2) * (labels > 0))[..., 1:]
    # Summed from the masses: a single component then has share 1 exactly, however low the contrast.
    share = mass / torch.where(usable, mass.sum(-1, keepdim=True), 1.0)
    present = share > 0
    entropy = -(share * torch.where(present, share, 1.0).log()).sum(-1)
    broken = torch.where(mean.detach().isfinite(), 0.0, torch.nan)
    return (entropy + (broken * mean).squeeze(-1).squeeze(-1)).to(result)
