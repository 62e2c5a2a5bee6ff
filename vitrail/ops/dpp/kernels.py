"""How alike the patches of an image are."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vitrail.ops.patches import patchify

Kind = Literal["gaussian", "cosine"]

_AT_A_TIME = 16  # images


def patch_kernel(
    values: Tensor,
    patch: int | tuple[int, int] | None = None,
    *,
    kind: Kind = "gaussian",
    bandwidth: float | Literal["median"] = "median",
    quality: Tensor | None = None,
) -> Tensor:
    """Similarity of all pairs of patches: symmetric, positive semi-definite, with a diagonal of 1.

    Args:
        values: images `[B, C, H, W]`, whose pixels are compared, or features `[B, N, D]`.
        patch: side of a patch, or (height, width), pixels; for images alone.
        kind: "gaussian", `exp(-|x_i - x_j|^2 / bandwidth)`, or "cosine".
        bandwidth: of the Gaussian, in squared units of the values; "median" takes each image's median of
            |x_i - x_j|^2 over its pairs.
        quality: `[B, N]`, not negative: the kernel becomes `q_i L_ij q_j`, with a diagonal of q^2.

    Returns:
        `[B, N, N]`, float64 for float64 values and float32 otherwise. Patches that are equal have similarity 1;
        a patch of zeros is like no other in "cosine".

    Raises:
        ValueError: for another shape, an image without `patch`, an unknown kind, a bandwidth that is not
            positive, or a quality of another shape.
    """
    if values.ndim == 4 and patch is None:
        raise ValueError(f"values are images {tuple(values.shape)}; say the size of a patch, as in patch=16")
    if values.ndim not in (3, 4):
        raise ValueError(f"values have shape {tuple(values.shape)}; give images [B, C, H, W] or features [B, N, D]")
    if kind not in ("gaussian", "cosine"):
        raise ValueError(f'kind is "gaussian" or "cosine", not {kind!r}')
    if isinstance(bandwidth, str) and bandwidth != "median":
        raise ValueError(f'bandwidth is a number or "median", not {bandwidth!r}')
    width = None if isinstance(bandwidth, str) else bandwidth
    if width is not None and not width > 0:
        raise ValueError(f"bandwidth {bandwidth} is not positive")
    # On the CPU few images at a time, whose patches and kernels stay in the cache.
    parts = values.detach().split(_AT_A_TIME) if values.device.type == "cpu" else (values.detach(),)
    kernel = torch.cat([_similarity(part, patch, kind, width) for part in parts])
    if quality is None:
        return kernel
    if quality.shape != kernel.shape[:2]:
        raise ValueError(f"quality has shape {tuple(quality.shape)} for {tuple(kernel.shape[:2])} images and patches")
    return kernel * quality[:, :, None] * quality[:, None, :]


def _similarity(values: Tensor, patch: int | tuple[int, int] | None, kind: Kind, bandwidth: float | None) -> Tensor:
    if values.ndim == 4:
        assert patch is not None
        values = patchify(values, patch)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    if kind == "gaussian":
        return _gaussian(values, bandwidth)
    rows = functional.normalize(values, dim=2)
    kernel = rows @ rows.mT
    size = kernel.diagonal(dim1=1, dim2=2).sqrt()  # 1 but for rounding, which equal patches share
    kernel = kernel / (size[:, :, None] * size[:, None, :]).clamp(min=torch.finfo(kernel.dtype).tiny)
    return _symmetric(kernel)


def _gaussian(values: Tensor, bandwidth: float | None) -> Tensor:
    eps, size = torch.finfo(values.dtype).eps, values.square().sum(2).amax(1)
    values = values - values.mean(1, keepdim=True)  # leaves distances as they are, and more digits for them
    gram = values @ values.mT
    squares = gram.diagonal(dim1=1, dim2=2)
    # Where most patches are equal, the median is 0 or rounding, and only equal patches are alike.
    rounding = eps * squares.amax(1) + (16 * eps) ** 2 * size
    smallest = rounding.clamp(min=torch.finfo(values.dtype).tiny)
    if values.device.type == "cpu" and gram.numel():
        from vitrail.ops.dpp import kernels_cpu

        return kernels_cpu.exponents(gram, smallest, bandwidth).exp_()
    return _symmetric(exponents(gram, smallest, bandwidth).exp())


def exponents(gram: Tensor, smallest: Tensor, bandwidth: float | None) -> Tensor:
    """As `vitrail.ops.dpp.kernels_cpu.exponents`, in plain torch and without a host sync; `gram` stays as it is."""
    squares, count = gram.diagonal(dim1=1, dim2=2), gram.shape[1]
    distance = (squares[:, :, None] + squares[:, None, :] - 2 * gram).clamp(min=0)
    least = smallest[:, None, None]
    if bandwidth is not None:
        width = distance.new_full((), bandwidth)
    elif count > 1:
        one, other = torch.triu_indices(count, count, 1, device=gram.device)
        width = distance[:, one, other].median(1).values[:, None, None]
    else:
        width = least
    return -distance.where(distance > least, 0) / torch.maximum(width, least)


def _symmetric(kernel: Tensor) -> Tensor:
    """Free of what rounding leaves of the difference between two halves, and of that of the diagonal to 1."""
    kernel = (kernel + kernel.mT) / 2
    kernel.diagonal(dim1=1, dim2=2).fill_(1)
    return kernel
