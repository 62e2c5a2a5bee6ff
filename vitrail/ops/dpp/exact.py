"""Exact draws of sets of k patches, and their probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from vitrail.ops.dpp.greedy import check_values


def kdpp_sample(kernel: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw k patches of each image with probability det L_Y / sum over all sets of k.

    Args:
        kernel: `[B, N, N]`, symmetric, positive semi-definite.
        k: how many, 1 to the rank.
        generator: source of all chance.

    Returns:
        int64 `[B, k]`, unique, ascending.

    Raises:
        ValueError: for a kernel that is not square, finite, symmetric and positive semi-definite, or whose rank is
            below k: no set of k has a positive probability.

    An eigendecomposition in float64: O(N^3 + N k^2) an image; `greedy_map` is the fast way.
    """
    values, vectors = _eigen(kernel.detach(), k)
    batch, count = values.shape
    place = generator.device if generator is not None else kernel.device
    coins = torch.rand(batch, count, generator=generator, device=place).to(kernel.device).double()
    draws = torch.rand(batch, k, generator=generator, device=place).to(kernel.device).double()
    log_values = values.log()
    if kernel.device.type == "cpu":
        from vitrail.ops.dpp import exact_cpu

        ids = exact_cpu.project(vectors, exact_cpu.choose_vectors(log_values, k, coins), draws)
    else:
        ids = project(vectors, choose_vectors(log_values, k, coins), draws)
    return ids.sort(1).values


def log_prob(kernel: Tensor, ids: Tensor) -> Tensor:
    """Log probability of the sets `ids [B, k]` among all sets of k: log det L_Y - log e_k, `[B]` float64.

    -inf for a set whose determinant is 0. Differentiable by a kernel of full rank. Raises `ValueError` as `kdpp_sample`
    does, and where there are not as many sets as kernels.
    """
    if ids.ndim != 2 or len(ids) != len(kernel):
        raise ValueError(
            f"ids are {list(ids.shape)} and the kernel is {list(kernel.shape)}; give ids [B, k], one set each"
        )
    batch, k = ids.shape
    values, _ = _eigen(kernel, k)
    wide = kernel.double()
    image = torch.arange(batch, device=kernel.device)[:, None, None]
    sign, logdet = torch.linalg.slogdet(wide[image, ids[:, :, None], ids[:, None, :]])
    table = log_polynomials(values.log(), k)
    return torch.where(sign > 0, logdet, -torch.inf) - table[:, -1, k]


def marginal_kernel(kernel: Tensor, k: int | None = None) -> Tensor:
    """`[B, N, N]` float64, whose diagonal holds each patch's probability to be drawn.

    Without k: of the process over sets of any size, L (L + I)^-1, whose minors are all its inclusion
    probabilities. With k: V diag(p) V', p the probabilities that the eigenvectors V are chosen; sets of k are no
    determinantal process, and the diagonal alone is exact. Raises `ValueError` as `kdpp_sample` does.
    """
    if k is None:
        values, vectors = _eigen(kernel, None)
        weights = values / (1 + values)
    else:
        values, vectors = _eigen(kernel, k)
        weights = _vector_probabilities(values.log(), k)
    return (vectors * weights[:, None, :]) @ vectors.mT


def log_polynomials(log_values: Tensor, k: int) -> Tensor:
    """Logs of the elementary symmetric polynomials of the first m values: `[B, N] -> [B, N + 1, k + 1]`.

    e_0 = 1 and e_l of m values = e_l of m - 1 + value m times e_{l-1} of m - 1. Those that are 0 have a log of -1e300
    or less: minus infinity has no gradient.
    """
    batch, count = log_values.shape
    current = log_values.new_full((batch, k + 1), -1e300)
    current[:, 0] = 0
    table = [current]
    for number in range(count):
        taken = current[:, :-1] + log_values[:, number, None]
        current = torch.cat([current[:, :1], torch.logaddexp(current[:, 1:], taken)], 1)
        table.append(current)
    return torch.stack(table, 1)


def choose_vectors(log_values: Tensor, k: int, coins: Tensor) -> Tensor:
    """Which eigenvectors span the draw: int64 `[B, k]`, ascending, from logs of the eigenvalues `[B, N]`.

    `coins [B, N]`, uniform in [0, 1), are the chance in it.
    """
    table = log_polynomials(log_values, k)
    batch, count = log_values.shape
    image = torch.arange(batch, device=log_values.device)
    wanted = torch.full_like(image, k)
    taken = torch.zeros(batch, count, dtype=torch.bool, device=log_values.device)
    for number in range(count - 1, -1, -1):
        less = table[image, number, (wanted - 1).clamp(min=0)] + log_values[:, number]
        chance = (less - table[image, number + 1, wanted]).exp()
        # With as many values left as are wanted, the chance is 1 but for rounding.
        taken[:, number] = (wanted > 0) & ((coins[:, number] < chance) | (wanted > number))
        wanted = wanted - taken[:, number].long()
    return taken.int().argsort(dim=1, descending=True, stable=True)[:, :k]


def project(vectors: Tensor, chosen: Tensor, draws: Tensor) -> Tensor:
    """A draw from the projection process of orthonormal columns, one item after another: int64 `[B, k]`.

    The columns are those of `vectors [B, N, N]` that `chosen [B, k]` says; `draws [B, k]`, uniform in [0, 1), are
    the chance in it.
    """
    batch, count, k = len(vectors), vectors.shape[1], chosen.shape[1]
    basis = vectors.gather(2, chosen[:, None, :].expand(-1, count, -1))
    image = torch.arange(batch, device=basis.device)
    left = basis.square().sum(2)  # squared length of each row outside of the span of those drawn
    rows = basis.new_empty(batch, k, count)
    ids: list[Tensor] = []
    for step in range(k):
        share = left.clamp(min=0).cumsum(1)
        chosen = torch.searchsorted(share, (draws[:, step] * share[:, -1])[:, None], right=True)[:, 0]
        chosen = chosen.clamp(max=count - 1)
        row = (basis @ basis[image, chosen][:, :, None])[:, :, 0]
        before = rows[:, :step]
        row = row - (before[image, :, chosen][:, None] @ before)[:, 0]
        row = row / left[image, chosen].clamp(min=torch.finfo(row.dtype).tiny).sqrt()[:, None]
        rows[:, step] = row
        ids.append(chosen)
        left = (left - row.square()).clamp(min=0).scatter(1, torch.stack(ids, 1), 0)  # never twice, not by rounding
    return torch.stack(ids, 1)


def _vector_probabilities(log_values: Tensor, k: int) -> Tensor:
    """The probability of each eigenvector to be chosen: value m times e_{k-1} of the others, over e_k."""
    count = log_values.shape[1]
    below = log_polynomials(log_values, k)
    above = log_polynomials(log_values.flip(1), k).flip(1)  # of the values from m on
    chances = []
    for number in range(count):
        others = torch.logsumexp(below[:, number, :k] + above[:, number + 1, :k].flip(1), 1)
        chances.append(log_values[:, number] + others - below[:, -1, k])
    return torch.stack(chances, 1).exp()


def _eigen(kernel: Tensor, k: int | None) -> tuple[Tensor, Tensor]:
    """Eigenvalues, those of rounding as 0, and eigenvectors of kernels whose rank is at least k."""
    _check_square(kernel, 1 if k is None else k)
    check_values(kernel)
    if kernel.device.type == "cpu" and not kernel.requires_grad:
        from vitrail.ops.dpp import exact_cpu

        values, vectors = exact_cpu.eigh(kernel.double())
    else:
        values, vectors = torch.linalg.eigh(kernel.double())
    floor = values.amax(1, keepdim=True) * values.shape[1] * torch.finfo(torch.float64).eps
    if values.numel() and bool((values[:, 0] < -1e-4 * values[:, -1].abs()).any()):
        lowest = values[:, 0].amin().item()
        raise ValueError(
            f"the kernel is not positive semi-definite: its lowest eigenvalue is {lowest:.3g}, its largest "
            f"{values[:, -1].amax().item():.3g}; use a product of features with themselves, as patch_kernel does"
        )
    rank = (values > floor).sum(1)
    if k is not None and len(rank) and int(rank.min()) < k:
        raise ValueError(
            f"k is {k}, and a kernel has rank {int(rank.min())}: no set of {k} has a positive probability; "
            "lower k, or use greedy_map, which fills up at random"
        )
    return torch.where(values > floor, values, 0), vectors


def _check_square(kernel: Tensor, k: int) -> None:
    if kernel.ndim != 3 or kernel.shape[1] != kernel.shape[2] or not kernel.is_floating_point():
        raise ValueError(f"the kernel is {kernel.dtype} {tuple(kernel.shape)}; it must be floating point [B, N, N]")
    if not 1 <= k <= kernel.shape[1]:
        raise ValueError(f"k is {k} of {kernel.shape[1]} patches; give 1 to {kernel.shape[1]}")
