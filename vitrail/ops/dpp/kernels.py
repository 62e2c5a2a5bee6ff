"""How alike the patches of an image are."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vitrail.ops.patches import patchify

Kind = Literal["gaussian", "cosine"]


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
    if values.ndim == 4:
        if patch is None:
            raise ValueError(f"values are images {tuple(values.shape)}; say the size of a patch, as in patch=16")
        values = patchify(values, patch)
    if values.ndim != 3:
        raise ValueError(f"values have shape {tuple(values.shape)}; give images [B, C, H, W] or features [B, N, D]")
    values = values.detach().to(torch.promote_types(values.dtype, torch.float32))
    if kind == "gaussian":
        kernel = _gaussian(values, bandwidth)
    elif kind == "cosine":
        rows = functional.normalize(values, dim=2)
        kernel = rows @ rows.mT
        size = kernel.diagonal(dim1=1, dim2=2).sqrt()  # 1 but for rounding, which equal patches share
        kernel = kernel / (size[:, :, None] * size[:, None, :]).clamp(min=torch.finfo(kernel.dtype).tiny)
    else:
        raise ValueError(f'kind is "gaussian" or "cosine", not {kind!r}')
    kernel = (kernel + kernel.mT) / 2
    kernel.diagonal(dim1=1, dim2=2).fill_(1)
    if quality is None:
        return kernel
    if quality.shape != values.shape[:2]:
        raise ValueError(f"quality has shape {tuple(quality.shape)} for {tuple(values.shape[:2])} images and patches")
    return kernel * quality[:, :, None] * quality[:, None, :]


def _gaussian(values: Tensor, bandwidth: float | str) -> Tensor:
    if isinstance(bandwidth, str) and bandwidth != "median":
        raise ValueError(f'bandwidth is a number or "median", not {bandwidth!r}')
    if not isinstance(bandwidth, str) and not bandwidth > 0:
        raise ValueError(f"bandwidth {bandwidth} is not positive")
    eps, size = torch.finfo(values.dtype).eps, values.square().sum(2).amax(1)
    values = values - values.mean(1, keepdim=True)  # leaves distances as they are, and more digits for them
    squares = values.square().sum(2)
    distance = torch.baddbmm(squares[:, :, None] + squares[:, None, :], values, values.mT, alpha=-2).clamp_(min=0)
    if isinstance(bandwidth, str):
        count = values.shape[1]
        one, other = torch.triu_indices(count, count, 1, device=values.device)
        pairs = distance[:, one, other]
        width = pairs.median(1).values[:, None, None] if count > 1 else distance.new_ones(len(distance), 1, 1)
    else:
        width = distance.new_tensor(bandwidth)
    # Where most patches are equal, the median is 0 or rounding, and only equal patches are alike.
    rounding = eps * squares.amax(1) + (16 * eps) ** 2 * size
    smallest = rounding.clamp(min=torch.finfo(values.dtype).tiny)[:, None, None]
    return (-distance.where(distance > smallest, 0) / torch.maximum(width, smallest)).exp()
