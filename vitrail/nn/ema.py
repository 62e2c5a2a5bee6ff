"""An exponential moving average of a module's trained parameters (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """`average <- decay * average + (1 - decay) * parameter`, starting at the parameters.

    Only parameters that require a gradient are averaged. Buffers and frozen parameters (teachers, queues,
    centers) have their own rules and stay the module's. Raises `ValueError` for a decay outside (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"EMA decay {decay} is not inside (0, 1); 0.9999 suits long runs, 0.99 short ones")
        self.decay = decay
        self.average = {name: value.detach().clone() for name, value in _trained(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average toward the module's parameters; call once after each optimizer step."""
        values = _trained(module)
        torch._foreach_lerp_(list(self.average.values()), [values[name] for name in self.average], 1 - self.decay)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Inside, the module holds the average; afterwards its own parameters again, bit for bit."""
        self._swap(module)
        try:
            yield
        finally:
            self._swap(module)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages under the parameters' names (the decay belongs to the configuration)."""
        return dict(self.average)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over averages; `ValueError` where the names differ."""
        if state.keys() != self.average.keys():
            odd = sorted(state.keys() ^ self.average.keys())
            raise ValueError(f"EMA of another module: {len(odd)} names differ, such as {odd[0]!r}")
        for name, value in self.average.items():
            value.copy_(state[name])

    @torch.no_grad()
    def _swap(self, module: nn.Module) -> None:
        # Values move, not tensors: optimizers and wrappers keep their references.
        values = _trained(module)
        for name, average in self.average.items():
            kept = values[name].detach().clone()
            values[name].copy_(average)
            average.copy_(kept)


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in module.named_parameters() if value.requires_grad}
