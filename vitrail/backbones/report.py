"""What was found in a file of weights, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class LoadReport(NamedTuple):
    """How a file of weights met a model. Names are timm's; counts are of tensors."""

    matched: tuple[str, ...]  # in both
    missing: tuple[str, ...]  # the model has it, the file does not: left as initialized
    unexpected: tuple[str, ...]  # the file has it, the model does not, and it is no known head or decoder
    layout: str  # whose names and nesting the file has: timm, DINO, MAE, ...
    ignored: tuple[str, ...] = ()  # heads, decoders, other networks in the file; who asks may read them
    interpolated: str | None = None  # positions brought to another grid: "14x14 to 8x8"
    notes: tuple[str, ...] = ()  # what was chosen or guessed

    def words(self) -> str:
        """A few lines for people."""
        lines = [f"{self.layout} layout: {len(self.matched)} tensors matched"]
        lines += [f"  note: {note}" for note in self.notes]
        if self.interpolated:
            lines.append(f"  positions interpolated from {self.interpolated}")
        lines += _lines("missing, left as initialized", self.missing)
        lines += _lines("unexpected, not used", self.unexpected)
        lines += _lines("beside the backbone, not part of it", self.ignored)
        return "\n".join(lines)


def _lines(title: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:6]) + (f", and {len(names) - 6} more" if len(names) > 6 else "")
    return [f"  {title} ({len(names)}): {shown}"]
