"""Maps that give the wanted box, whichever evaluator makes it.

Evaluators stretch a map to [0, 1], cut it at a threshold in (0, 1] and put a box around a connected part. A mask of the
image's own pixels, 0 and 1, gives the mask's box at every threshold. A mask of everything would be constant, and what
becomes of a constant map differs: in wsolevaluation and LocLoc a box of a pixel or none. So it gets a hole of one pixel
in its middle, which leaves the box that of the whole image.
"""

from __future__ import annotations

from torch import Tensor


def box_map(mask: Tensor) -> Tensor:
    """`[B, H, W]` float32 0 and 1 of a mask of pixels, bool `[B, H, W]`; of one that is all True, with a hole.

    There is no room for a hole where a side is one pixel; the map is constant then.
    """
    maps = mask.float()
    rows, columns = mask.shape[1:]
    if rows > 1 and columns > 1:
        maps[:, rows // 2, columns // 2] *= 1 - mask.flatten(1).all(1).float()
    return maps


def of_patches(mask: Tensor, patch: tuple[int, int]) -> Tensor:
    """A mask of patches, `[B, Y, X]`, as one of pixels, `[B, Y * height, X * width]`."""
    return mask.repeat_interleave(patch[0], 1).repeat_interleave(patch[1], 2)
