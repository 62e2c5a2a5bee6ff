"""Images to patches and back, and the grid that an image size gives. Patches stand in raster order."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def grid_of(height: int, width: int, patch: int | tuple[int, int], pad: bool = False) -> tuple[int, int]:
    """The grid `(Y, X)` of patches in an image.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        patch: side of a patch, or (height, width), pixels.
        pad: count the patches that are only partly covered, as if the image were padded at the bottom and
            right.

    Raises:
        ValueError: where a side is not a multiple of the patch's and `pad` is False, or where a size is not
            positive.
    """
    grid = []
    for name, size, step in zip(("height", "width"), (height, width), sides_of(patch), strict=True):
        if size <= 0 or step <= 0:
            raise ValueError(f"image {name} {size} and patch size {step} must both be positive")
        if size % step and not pad:
            raise ValueError(
                f"image {name} {size} is not a multiple of the patch size {step};"
                f" resize, to {(size // step + 1) * step} for instance, or pass pad=True"
            )
        grid.append(-(-size // step))
    return grid[0], grid[1]


def patchify(images: Tensor, patch: int | tuple[int, int], pad: bool = False) -> Tensor:
    """Cut images into patches.

    Args:
        images: `[B, C, H, W]`.
        patch: side of a patch, or (height, width), pixels.
        pad: pad with zeros at the bottom and right up to whole patches.

    Returns:
        `[B, N, C * patch_height * patch_width]`; within a patch: channel, row, column, as a patch embedding's
        kernel.

    Raises:
        ValueError: as `grid_of`, and for images that do not have four axes.
    """
    if images.ndim != 4:
        raise ValueError(f"images have the shape {tuple(images.shape)}; patchify needs [B, C, H, W]")
    batch, channels, height, width = images.shape
    tall, wide = sides_of(patch)
    rows, columns = grid_of(height, width, patch, pad)
    images = functional.pad(images, (0, columns * wide - width, 0, rows * tall - height))
    cut = images.reshape(batch, channels, rows, tall, columns, wide)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * tall * wide)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch: int | tuple[int, int]) -> Tensor:
    """Put patches back together: the inverse of `patchify`.

    Args:
        patches: `[B, N, C * patch_height * patch_width]` with N = Y * X.
        grid: `(Y, X)`.
        patch: side of a patch, or (height, width), pixels.

    Returns:
        `[B, C, Y * patch_height, X * patch_width]`.

    Raises:
        ValueError: where N is not Y * X, or a patch does not hold whole channels.
    """
    tall, wide = sides_of(patch)
    rows, columns = grid
    if patches.ndim != 3 or patches.shape[1] != rows * columns:
        raise ValueError(
            f"patches have the shape {tuple(patches.shape)}, but a {rows}x{columns} grid has {rows * columns}"
        )
    if patches.shape[2] % (tall * wide):
        raise ValueError(
            f"patches hold {patches.shape[2]} values, not a multiple of {tall}x{wide} pixels; check `patch`"
        )
    batch, channels = patches.shape[0], patches.shape[2] // (tall * wide)
    laid = patches.reshape(batch, rows, columns, channels, tall, wide).permute(0, 3, 1, 4, 2, 5)
    return laid.reshape(batch, channels, rows * tall, columns * wide)


def sides_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image or a patch; one number is both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
