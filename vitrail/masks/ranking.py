"""From a ranking of the patches to a mask that hides exactly as many as it should."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def hide_lowest(keys: Tensor, numbers: Tensor) -> Tensor:
    """Bool `[B, N]`: True for the `numbers[b]` patches of image b with the lowest keys `[B, N]`.

    Exact also where keys are equal: of those the lower id goes first.
    """
    order = keys.argsort(dim=1, stable=True)
    places = torch.arange(keys.shape[1], device=keys.device)
    return torch.zeros_like(keys, dtype=torch.bool).scatter(1, order, places < numbers[:, None])


def uniform(size: Sequence[int], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Numbers uniform in [0, 1), float32, drawn where the generator lies and moved to `device`."""
    place = generator.device if generator is not None else device
    return torch.rand(size, generator=generator, device=place).to(device, non_blocking=True)
