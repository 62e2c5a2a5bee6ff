"""Masks guided by a teacher's attention from the class token to the patches.

Sources:
- AttMask: Kakogeorgiou et al., "What to hide from your students: attention-guided masked image modeling" (2022),
  arXiv 2203.12719. The most attended patches are hidden (AttMask-High), or all but some of them (AttMask-Hint), or
  the least attended (AttMask-Low). Its authors train with probability 0.5 and ratios uniform in [0.1, 0.5]:
  `RatioConfig(mean=0.3, spread=0.2)`.
- AMT: Liu et al., "Good helper is around you: attention-driven masked image modeling" (2023), arXiv 2211.15362.
  Patches are drawn without replacement, one after another, with probability by their attention. The first ones are
  masked, the next ones are thrown away, which means neither shown to the encoder nor predicted, and the rest is kept.

Deviations:
- AttMask-Hint: the authors show a random part of the 10 % most attended patches of the image and hide that many fewer.
  Here a share `hints` of those that would be hidden is drawn from them and shown, and the next most attended are
  hidden in their place, so that the number stays what was asked for.
- AMT's throwing is up to the method that uses the mask. Two calls from equal states of the generator, the first for
  the masked patches alone and the second for the masked and thrown ones, give two nested masks: what the second
  leaves is kept, and what only the second hides is thrown.
- AMT keeps one map of attention for each image of the data set and computes it anew every so many epochs; here the
  caller hands in the attention.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vitrail.masks.counts import numbers, patch_size
from vitrail.masks.ranking import hide_lowest, uniform


class AttMask:
    """Hides the most attended patches, or the least. A `vitrail.contracts.Mask`. Ties are broken at random."""

    needs_attention = True

    def __init__(self, hints: float = 0.0, order: Literal["high", "low"] = "high") -> None:
        """Say which patches to hide.

        Args:
            hints: share of the patches that would be hidden that is shown instead, drawn uniformly, in [0, 1);
                `int(hints * hidden)` of them, and no more than there are patches to take their place.
            order: "high" hides the most attended patches, "low" the least.

        Raises:
            ValueError: for a share out of range, hints together with "low", or another word.
        """
        if not 0 <= hints < 1:
            raise ValueError(f"hints is {hints}; the share of hidden patches that are shown lies in [0, 1)")
        if order not in ("high", "low"):
            raise ValueError(f'order is "high" or "low", not {order!r}')
        if hints and order == "low":
            raise ValueError(f'hints is {hints} with order "low", which shows the most attended anyway; give hints=0')
        self.hints, self.order = hints, order

    def __call__(
        self,
        images: Tensor,
        grid: tuple[int, int],
        hidden: float | Tensor,
        *,
        attention: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Bool `[B, N]`, True is hidden. `attention` is `[B, N]`, not negative; only its order counts."""
        patch_size(images, grid)
        count = grid[0] * grid[1]
        attention = _checked(attention, len(images), count, images.device)
        wanted = numbers(hidden, len(images), count, images.device)
        place = _places(attention, self.order, generator)
        if not self.hints:
            return place < wanted[:, None]
        shown = torch.minimum((self.hints * wanted.double()).long(), count - wanted)
        draw = uniform((len(images), count), images.device, generator)
        hints = hide_lowest(torch.where(place < wanted[:, None], draw, torch.inf), shown)
        return (place < (wanted + shown)[:, None]) & ~hints


class Amt:
    """Hides patches drawn with probability by their attention. A `vitrail.contracts.Mask`.

    Patch i goes first with probability a_i / sum a, then the next of those left likewise. One uniform number u_i for
    each patch does it for all: the draw is the order of -log(u_i) / a_i. Patches without attention come last.
    """

    needs_attention = True

    def __call__(
        self,
        images: Tensor,
        grid: tuple[int, int],
        hidden: float | Tensor,
        *,
        attention: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Bool `[B, N]`, True is hidden. `attention` is `[B, N]`, not negative; its scale does not count."""
        patch_size(images, grid)
        count = grid[0] * grid[1]
        attention = _checked(attention, len(images), count, images.device)
        wanted = numbers(hidden, len(images), count, images.device)
        draw = uniform((len(images), count), images.device, generator)
        wait = -(1 - draw).clamp(max=1 - 2**-24).log()  # exponential, above 0; 1 - draw is above 0
        tiny = torch.finfo(attention.dtype).tiny
        weight = (attention / attention.amax(1, keepdim=True).clamp(min=tiny)).clamp(min=tiny)
        return hide_lowest(wait.log() - weight.log(), wanted)


def _places(attention: Tensor, order: str, generator: torch.Generator | None) -> Tensor:
    """Each patch's place in the order of attention, int64 `[B, N]`."""
    # A stable sort of shuffled patches: without the shuffle, ties would favor one corner of the image.
    shuffled = uniform(attention.shape, attention.device, generator).argsort(dim=1)
    ranked = attention.gather(1, shuffled).argsort(dim=1, descending=order == "high", stable=True)
    return shuffled.gather(1, ranked).argsort(dim=1)


def _checked(attention: Tensor | None, batch: int, count: int, device: torch.device) -> Tensor:
    if attention is None:
        raise ValueError(
            "this mask needs attention: pass attention=[B, N], a teacher's from the class token to the patches, as the "
            "softmax of its scores, mean over heads"
        )
    if attention.shape != (batch, count) or not attention.is_floating_point():
        raise ValueError(
            f"attention is {list(attention.shape)} of {attention.dtype}; it is floating point [{batch}, {count}], "
            "one row for each image, without the class token"
        )
    attention = attention.detach().to(device, torch.promote_types(attention.dtype, torch.float32))
    if attention.device.type == "cpu" and attention.numel():  # looking waits for a GPU
        low = float(attention.amin())
        if not attention.isfinite().all():
            broken = (~attention.isfinite()).any(1).nonzero()[:, 0].tolist()
            raise ValueError(f"attention of images {broken[:8]} holds NaN or infinite values; look at the teacher")
        if low < 0:
            raise ValueError(f"attention goes down to {low:.3g}; give weights after the softmax, not scores")
    return attention
