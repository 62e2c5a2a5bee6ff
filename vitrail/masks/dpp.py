"""Masks drawn by a determinantal point process: the visible patches are unlike one another.

Source: DPPMask and its supplement (equations 10 and 13 to 15): the visible set is a greedy MAP estimate under a kernel
of patch similarities, and tau in (0, 1] says how much chance is in it, tau = 1 being random masking.

The supplement states neither the kernel nor what tau is compared with. Readings taken here:
- The kernel compares the pixels of the input's own patches, and its diagonal is 1: `exp(-|x_i - x_j|^2 / bandwidth)`,
  or the cosine.
- "stop": the search ends where the largest gain d^2 is no more than tau; patches drawn uniformly fill up.
- "mix", the other reading: each patch is drawn uniformly with probability tau.
- The first patch is drawn uniformly, since all tie.

Deviation: in the cosine kernel a patch of zeros, which has no direction, counts as one of ones. So patches of zeros
are like one another, and an image of one color falls back to random masking under either kernel.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vitrail.masks.counts import most_visible, numbers, patch_size
from vitrail.ops.dpp import Greedy, greedy_map, patch_kernel
from vitrail.ops.patches import patchify


class Dpp:
    """Keeps patches that are unlike one another. A `vitrail.contracts.Mask`.

    Where images hide different numbers, the greedy search runs once, for the most patches that one of them keeps, and
    each image keeps a prefix of its order. That is exact: a choice depends on those before it alone, so a search for
    fewer would have chosen the same ones; and of patches drawn uniformly, the first ones are uniform too. An image
    that hides none keeps all and asks nothing of the search.

    Give numbers for each image on the CPU: on a GPU they are not looked at, and the search goes through all patches.
    """

    needs_attention = False

    def __init__(
        self,
        tau: float = 0.5,
        kind: Literal["gaussian", "cosine"] = "gaussian",
        bandwidth: float | Literal["median"] = "median",
        randomness: Literal["stop", "mix"] = "stop",
        first: Literal["random", "argmax"] = "random",
    ) -> None:
        """Say how alike patches are, and how much is left to chance.

        Args:
            tau: in [0, 1]; 0 is the plain search, 1 random masking. How early "stop" stops depends on images and
                kernel, so look at `logged`.
            kind: of the kernel.
            bandwidth: of the Gaussian, squared units of normalized pixels; "median" takes each image's median of
                |x_i - x_j|^2.
            randomness: what tau does, "stop" or "mix".
            first: the first patch, drawn uniformly, or "argmax": the largest diagonal entry, which with a diagonal of
                1 is patch 0. With it and tau = 0 there is no chance left where patches differ.

        Raises:
            ValueError: for a value out of range or a word outside of what is offered.
        """
        if not 0 <= tau <= 1:
            raise ValueError(f"tau is {tau}; it lies in [0, 1]: 0 searches, 1 masks at random")
        if kind not in ("gaussian", "cosine"):
            raise ValueError(f'kind is "gaussian" or "cosine", not {kind!r}')
        if bandwidth != "median" and (isinstance(bandwidth, str) or not 0 < bandwidth < float("inf")):
            raise ValueError(f'bandwidth is {bandwidth!r}; it is "median" or a positive number')
        if randomness not in ("stop", "mix"):
            raise ValueError(f'randomness is "stop" or "mix", not {randomness!r}')
        if first not in ("random", "argmax"):
            raise ValueError(f'first is "random" or "argmax", not {first!r}')
        self.tau, self.kind, self.bandwidth = tau, kind, bandwidth
        self.randomness, self.first = randomness, first
        self._logged: dict[str, Tensor] = {}

    def __call__(
        self,
        images: Tensor,
        grid: tuple[int, int],
        hidden: float | Tensor,
        *,
        attention: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Bool `[B, N]`, True is hidden; `attention` is not looked at."""
        count = grid[0] * grid[1]
        patch_size(images, grid)
        wanted = numbers(hidden, len(images), count, images.device)
        most = most_visible(hidden, count)
        found = self.chosen(images, grid, most, generator)
        kept = torch.where(wanted > 0, count - wanted, 0)
        self._logged = {"greedy_length": self._mean_length(found.length, kept, most)}
        prefix = torch.arange(most, device=images.device) < kept[:, None]
        shown = torch.zeros(len(images), count, dtype=torch.bool, device=images.device).scatter(1, found.ids, prefix)
        return ~shown & (wanted > 0)[:, None]

    def chosen(
        self, images: Tensor, grid: tuple[int, int], visible: int, generator: torch.Generator | None = None
    ) -> Greedy:
        """The order of choice, its gains, and how many were chosen by the search and not by chance.

        Args:
            images: `[B, 3, H, W]`, normalized.
            grid: (Y, X).
            visible: patches to choose, 1 to N.
            generator: source of all chance.

        Raises:
            ValueError: images that do not fit the grid or, on the CPU, hold NaN or infinite values. Elsewhere such
                values count as 0: looking would wait for the device, and a loss tells of them too.
        """
        size = patch_size(images, grid)
        if images.device.type == "cpu":
            _check_finite(images)
        else:
            images = images.nan_to_num(0.0, 0.0, 0.0)
        patches = patchify(images.detach(), size)
        if self.kind == "cosine":
            patches = torch.where(patches.any(2, keepdim=True), patches, 1)
        # Half precision would take the smaller gains for rounding.
        with torch.autocast(images.device.type, enabled=False):
            kernel = patch_kernel(patches, kind=self.kind, bandwidth=self.bandwidth)
            return greedy_map(
                kernel, visible, self.tau, first=self.first, randomness=self.randomness, generator=generator
            )

    def logged(self) -> dict[str, Tensor]:
        """Of the last call, to log: `greedy_length` `[]`, the patches that the search itself chose.

        The mean over the images that hide any, on their device: reading it is what waits for a GPU, so a training
        loop may put it among the parts of its losses each step. Empty before the first call.
        """
        return dict(self._logged)

    def _mean_length(self, length: Tensor, kept: Tensor, most: int) -> Tensor:
        # In "mix" the coins that fell inside a prefix are not known, their expected share is.
        inside = length * kept / most if self.randomness == "mix" else torch.minimum(length, kept)
        return inside.sum() / (kept > 0).sum().clamp(min=1)


def _check_finite(images: Tensor) -> None:
    broken = (~images.flatten(1).isfinite()).any(1).nonzero()[:, 0].tolist()
    if broken:
        raise ValueError(
            f"images {broken[:8]} of the batch hold NaN or infinite values, so their patches cannot be compared; "
            "look at their files and at the augmentation"
        )
