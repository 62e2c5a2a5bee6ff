"""What the pixels of a mask mean: from class ids as files have them to the rows of a classifier.

A set says by its attribute `background` what the id 0 is: a class of its own (VOC, generated scenes), or no label at
all (ADE20K, COCO-Stuff), which is ignored. The id k is `classes[k - 1]`; 255 is always ignored (65535 in masks of
16 bits).

    with background      classifier's class 0 is the background, class k is `classes[k - 1]`
    without              classifier's class k is `classes[k]`
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vitrail.contracts import ImageSet

IGNORED = -1
"""Target of pixels that count for nothing."""

VOID, WIDE_VOID = 255, 65535


class SemanticLabels(NamedTuple):
    """The classes that a segmenter tells apart."""

    names: tuple[str, ...]  # [C], "background" first where it is one
    background: bool

    @property
    def classes(self) -> int:
        """C."""
        return len(self.names)

    def targets(self, mask: Tensor, path: str = "mask") -> Tensor:
        """Classes in 0..C-1, or `IGNORED`, int64.

        Args:
            mask: ids of any shape as `Sample.mask` has them; int32 says that the void is 65535, as
                `EvalTransform.with_targets` returns masks of 16 bits.
            path: named where an id is unknown.

        Raises:
            ValueError: an id beyond the classes.
        """
        void = WIDE_VOID if mask.dtype in (torch.int32, torch.uint16) else VOID
        ids = mask.long()
        found = torch.where(ids == void, IGNORED, ids if self.background else ids - 1)
        if found.numel() and int(found.max()) >= self.classes:
            most = int(ids[ids != void].max())
            known = len(self.names) - self.background
            raise ValueError(f"{path} holds the class id {most}, and there are {known} classes, ids 1 to {known}")
        return found

    def shares(self, targets: Tensor, grid: tuple[int, int]) -> Tensor:
        """Of each patch, the share of its pixels that each class has; what is missing to 1 is ignored.

        Args:
            targets: `[H, W]` as `targets` returns them, multiples of Y and X.
            grid: (Y, X).

        Returns:
            float32 `[Y * X, C]`.

        Raises:
            ValueError: a size that the grid does not divide.
        """
        (height, width), (rows, columns) = targets.shape, grid
        if height % rows or width % columns:
            raise ValueError(
                f"a mask of {height} x {width} px does not divide into a grid of {rows} x {columns} patches"
            )
        tall, wide = height // rows, width // columns
        cells = targets.reshape(rows, tall, columns, wide).transpose(1, 2).reshape(rows * columns, tall * wide)
        # One more column for the ignored, which is cut off again.
        counts = torch.zeros(rows * columns, self.classes + 1, device=targets.device)
        counts.scatter_add_(1, cells + 1, torch.ones_like(cells, dtype=torch.float32))
        return counts[:, 1:] / (tall * wide)


def semantic_labels(*sets: ImageSet) -> SemanticLabels:
    """The classes that all sets share.

    Raises:
        ValueError: a set that is empty or has no classes or no masks, or lists that differ.
    """
    found = []
    for role, data in zip(("train", "val"), sets):
        if not len(data):
            raise ValueError(f"{role} is empty; segmentation needs at least one image")
        if not data.classes or not getattr(data, "has_masks", True):
            raise ValueError(
                f"{role} has no masks of class ids; give a tree of VOC, ADE20K, COCO with semantic maps, COCO-Stuff or "
                "Cityscapes, or scenes"
            )
        found.append(_labels_of(data))
    if any(other != found[0] for other in found):
        one, other = (f"{each.classes} classes, {', '.join(each.names[:3])}, ..." for each in (found[0], found[-1]))
        raise ValueError(
            f"train has {one} and val {other}: the same id would mean another class; give both the same classes"
        )
    return found[0]


def resized(targets: Tensor, size: tuple[int, int]) -> Tensor:
    """Targets `[B, H, W]` at another size `[B, h, w]`; each pixel is the one under its center."""
    if targets.shape[-2:] == size:
        return targets
    # The ids of a class are whole numbers far below 2^24, which float32 holds exactly.
    return functional.interpolate(targets[:, None].float(), size, mode="nearest-exact")[:, 0].long()


def _labels_of(data: ImageSet) -> SemanticLabels:
    background = bool(getattr(data, "background", False))
    names = tuple(data.classes or ())
    return SemanticLabels(("background", *names) if background else names, background)
