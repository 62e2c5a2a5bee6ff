"""The last features that a teacher saw, kept so that a small batch can be balanced over prototypes together with them.

Rows are noted in a step and join the queue after it, so that a loss changes no state. All processes hold the same
queue; each takes its share of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitrail.nn.across import gathered, rank, world_size


class FeatureQueue(nn.Module):
    """First in, first out; a buffer, so it survives a restart."""

    def __init__(self, size: int, width: int) -> None:
        """Raises `ValueError` for a size below 1."""
        super().__init__()
        if size < 1:
            raise ValueError(f"a queue of {size} features; give at least 1")
        self.register_buffer("rows", torch.zeros(size, width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.rows: Tensor
        self.filled: Tensor
        self._noted: list[Tensor] = []

    def share(self) -> Tensor:
        """This process's part `[n, width]` of what the queue holds; the parts of all processes are the whole."""
        return self.rows[: int(self.filled)][rank() :: world_size()]

    @torch.no_grad()
    def note(self, rows: Tensor, most: int) -> None:
        """Remember at most `most` of the rows `[n, width]`, evenly spaced, for `push`."""
        stride = max(-(-len(rows) // most), 1)
        self._noted.append(rows[::stride].detach().to(self.rows.dtype))

    @torch.no_grad()
    def push(self) -> None:
        """Put what all processes noted before what is there; the oldest falls out. All of them call it together."""
        if not self._noted:
            return
        new = gathered(torch.cat(self._noted))[: len(self.rows)]
        self.rows.copy_(torch.cat((new, self.rows))[: len(self.rows)])
        self.filled.copy_((self.filled + len(new)).clamp(max=len(self.rows)))
        self._noted.clear()
