"""How many patches an image has, and how many of them are to be hidden."""

from __future__ import annotations

from operator import index

import torch
from torch import Tensor


def patch_size(images: Tensor, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a patch, pixels, of images `[B, C, H, W]` cut into a grid `(Y, X)`.

    Raises:
        ValueError: images of another shape, or a side that the grid does not divide.
    """
    if images.ndim != 4:
        raise ValueError(f"images have the shape {tuple(images.shape)}; masks need [B, C, H, W]")
    sides = []
    for name, size, count in zip(("height", "width"), images.shape[2:], grid, strict=True):
        if count < 1 or size < count or size % count:
            raise ValueError(
                f"image {name} {size} does not divide into the {count} patches of a {grid[0]}x{grid[1]} grid; "
                f"give the grid of these images, {name} / patch size"
            )
        sides.append(size // count)
    return sides[0], sides[1]


def number_of(hidden: float, patches: int) -> int:
    """How many patches are hidden where all images hide alike.

    Args:
        hidden: a share inside (0, 1) of which MAE's rule makes a number, `patches - int(patches * (1 - hidden))`,
            or an int, the number itself.
        patches: of an image.

    Raises:
        ValueError: a share that is not inside (0, 1), a negative number, or one that leaves no patch visible.
    """
    if isinstance(hidden, bool):
        raise ValueError(f"hidden is {hidden}; give a share inside (0, 1), a number, or int64 [B]")
    if isinstance(hidden, float):
        if not 0 < hidden < 1:
            raise ValueError(f"hidden is {hidden}; a share lies inside (0, 1), a number of patches is an int")
        number = patches - int(patches * (1 - hidden))
    else:
        number = index(hidden)
    _check_range(number, number, patches, f"hidden {hidden}" if isinstance(hidden, float) else "hidden")
    return number


def numbers(hidden: float | Tensor, batch: int, patches: int, device: torch.device) -> Tensor:
    """How many patches each image hides: int64 `[B]` on `device`.

    Args:
        hidden: a share or a number, as in `number_of`, or int64 `[B]`, 0 to patches - 1 each.
        batch: B.
        patches: of an image.
        device: of the images.

    Raises:
        ValueError: what `number_of` refuses, a tensor that is not int64 `[B]`, and, where it lies on the CPU (looking
            would wait for a GPU), one that holds a number out of range.
    """
    if not isinstance(hidden, Tensor):
        return torch.full((batch,), number_of(hidden, patches), device=device)
    if hidden.shape != (batch,) or hidden.dtype != torch.int64:
        raise ValueError(
            f"hidden is {list(hidden.shape)} of {hidden.dtype}; numbers for each image are int64 [{batch}]"
        )
    if hidden.device.type == "cpu" and batch:
        _check_range(int(hidden.min()), int(hidden.max()), patches, "hidden")
    return hidden.to(device, non_blocking=True)


def most_visible(hidden: float | Tensor, patches: int) -> int:
    """The largest number of patches that an image keeps of those that hide any.

    Numbers that lie on a GPU are not looked at: then this is `patches`.
    """
    if not isinstance(hidden, Tensor):
        return patches - number_of(hidden, patches)
    if hidden.device.type != "cpu":
        return patches
    masked = hidden[hidden > 0]
    return patches - int(masked.min()) if len(masked) else 1


def _check_range(low: int, high: int, patches: int, name: str) -> None:
    if low < 0:
        raise ValueError(f"{name} is {low} patches; it must be 0 or more")
    if high >= patches:
        raise ValueError(
            f"{name} is {high} patches of {patches}: a mask that hides everything leaves nothing to see; "
            f"hide at most {patches - 1}"
        )
