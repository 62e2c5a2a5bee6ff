"""Greedy search for a likely set of patches, with as much chance in it as is asked for."""

from __future__ import annotations

from math import isfinite
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Greedy(NamedTuple):
    """What `greedy_map` finds in each image."""

    ids: Tensor  # int64 [B, k], unique, in the order of choice
    gains: Tensor  # [B, k], d^2 of each choice; 0 for those that fill up after the search has stopped
    length: Tensor  # int64 [B], how many were chosen before the search stopped, or not by a coin in "mix"


def greedy_map(
    kernel: Tensor,
    k: int,
    tau: float = 0.0,
    *,
    first: Literal["random", "argmax"] = "random",
    randomness: Literal["stop", "mix"] = "stop",
    generator: torch.Generator | None = None,
) -> Greedy:
    """Choose k patches of each image, each with the largest gain after those before it.

    Args:
        kernel: `[B, N, N]`, symmetric, positive semi-definite, on any device; see `patch_kernel`.
        k: how many, 1 to N.
        tau: how much chance, in [0, 1], for kernels with a diagonal of 1. "stop": the search ends where the
            largest gain is no more than tau, and patches drawn uniformly fill up; "mix": each choice is drawn
            uniformly with probability tau. Either way 0 is the plain search and 1 a uniform draw.
        first: the first patch, drawn uniformly or that of the largest diagonal entry.
        generator: source of all chance; the same state gives the same sets. On its own device.

    Returns:
        `Greedy`. Of equal gains the lowest id is taken. Where the kernel's rank is exhausted, patches drawn
        uniformly fill up, so there are always k. In "stop" mode the sum of log gains over the first `length`
        choices is log det of the kernel restricted to them; in "mix" mode over all k.

    Raises:
        ValueError: for kernels that are not square, or, on the CPU, not symmetric or not finite (looking would
            wait for a GPU); k, tau or a word outside of what is offered.

    Gains are summed in float64 on the CPU, and in the kernel's own type (float32 at least) elsewhere.
    """
    _check(kernel, k, tau, first, randomness)
    batch, count, _ = kernel.shape
    place = generator.device if generator is not None else kernel.device
    keys = torch.rand(batch, count, generator=generator, device=place).to(kernel.device)
    coins = torch.rand(batch, k, generator=generator, device=place).to(kernel.device) < tau
    if randomness == "stop":
        coins, limit = torch.zeros_like(coins), tau
    else:
        limit = 0.0
    if first == "random":
        coins[:, 0] = True
    if kernel.device.type == "cpu" and batch:
        from vitrail.ops.dpp import cpu

        found = cpu.greedy(kernel, k, limit, keys, coins)
    else:
        found = batched(kernel, k, limit, keys, coins)
    return found._replace(length=k - coins[:, 1:].sum(1)) if randomness == "mix" else found


def batched(kernel: Tensor, k: int, limit: float, keys: Tensor, coins: Tensor) -> Greedy:
    """`greedy_map` in plain torch, one step for all images at once and no host sync.

    Args:
        limit: gains up to this end the search.
        keys: `[B, N]`; a uniform draw is the patch with the smallest key among those that are left.
        coins: bool `[B, k]`; True draws uniformly.
    """
    kernel = kernel.detach().to(torch.promote_types(kernel.dtype, torch.float32))
    batch, count, _ = kernel.shape
    gains = kernel.diagonal(dim1=1, dim2=2).clone()
    least = zero_gain(kernel)
    rows, image = kernel.new_zeros(batch, k, count), torch.arange(batch, device=kernel.device)
    keys, stopped = keys.clone(), torch.zeros(batch, dtype=torch.bool, device=kernel.device)
    length = torch.zeros(batch, dtype=torch.int64, device=kernel.device)
    ids, chosen_gains = [], []
    for step in range(k):
        best = gains.argmax(1)
        stopped = stopped | (~coins[:, step] & (gains[image, best] <= least.clamp(min=limit)))
        chosen = torch.where(stopped | coins[:, step], keys.argmin(1), best)
        gain = gains[image, chosen]
        useful = ~stopped & (gain > least)
        before = rows[image, :step, chosen]
        row = kernel[image, chosen] - (before[:, None] @ rows[:, :step])[:, 0]
        row = torch.where(useful[:, None], row / gain.clamp(min=torch.finfo(gain.dtype).tiny).sqrt()[:, None], 0)
        rows[:, step] = row
        gains = gains - row.square()
        gains[image, chosen] = -torch.inf
        keys[image, chosen] = torch.inf
        ids.append(chosen)
        chosen_gains.append(torch.where(useful, gain, 0))
        length += ~stopped
    return Greedy(torch.stack(ids, 1), torch.stack(chosen_gains, 1), length)


def zero_gain(kernel: Tensor) -> Tensor:
    """Gains up to this are rounding, `[B]`: the rank is exhausted."""
    largest = kernel.diagonal(dim1=1, dim2=2).amax(1)
    return largest.clamp(min=0) * kernel.shape[1] * torch.finfo(kernel.dtype).eps


def _check(kernel: Tensor, k: int, tau: float, first: str, randomness: str) -> None:
    if kernel.ndim != 3 or kernel.shape[1] != kernel.shape[2] or not kernel.is_floating_point():
        raise ValueError(f"the kernel is {kernel.dtype} {tuple(kernel.shape)}; it must be floating point [B, N, N]")
    if not 1 <= k <= kernel.shape[1]:
        raise ValueError(f"k is {k} of {kernel.shape[1]} patches; give 1 to {kernel.shape[1]}")
    if not 0 <= tau <= 1:
        raise ValueError(f"tau is {tau}; it lies in [0, 1]: 0 searches, 1 draws uniformly")
    if first not in ("random", "argmax"):
        raise ValueError(f'first is "random" or "argmax", not {first!r}')
    if randomness not in ("stop", "mix"):
        raise ValueError(f'randomness is "stop" or "mix", not {randomness!r}')
    if kernel.device.type == "cpu":
        check_values(kernel)


def check_values(kernel: Tensor) -> None:
    """Raise `ValueError` for a kernel that is not finite or not symmetric."""
    if not kernel.numel():
        return
    if kernel.device.type == "cpu":
        from vitrail.ops.dpp import cpu

        largest, unlike = cpu.extents(kernel)
    else:
        largest, unlike = kernel.abs().amax().item(), (kernel - kernel.mT).abs().amax().item()
    if not isfinite(unlike):
        raise ValueError("the kernel holds NaN or infinite values; look at the images it was made of")
    if unlike > 1e-4 * max(largest, 1e-30):
        raise ValueError(f"the kernel is not symmetric: entries differ by {unlike:.3g}; use (kernel + kernel.mT) / 2")
