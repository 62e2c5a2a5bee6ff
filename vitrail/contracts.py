"""The words that every room shares: what a backbone returns, what a method promises, what a data set holds.

These are structural types: a class of your own fits when it has the named attributes, nothing has to be
inherited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


class Tokens(NamedTuple):
    """What a backbone says about a batch of images.

    Block numbers are 0-based; a negative number counts from the last block. `layers` and `scores` are keyed
    by the number that was asked for, so `backbone(x, scores=(-1,)).scores[-1]` works on any depth.

    Scores are those of the patches' keys, times the network's own scale, so that the softmax over all keys, that of the
    class token among them, is its attention: 1/sqrt(d), d a head's width, in ViTs and PVT, 1/sqrt(D) in CvT. Y and X
    are the grid of the keys. It equals `grid` in plain ViTs and in PVT; CvT has half as many keys a side, rounded up:
    (7, 7) for (14, 14).
    """

    cls: Tensor  # [B, D] after the final norm
    patches: Tensor  # [B, N, D] after the final norm, raster order
    grid: tuple[int, int]  # (Y, X); Y * X == N unless a subset was kept
    layers: Mapping[int, Tensor] = {}  # asked-for blocks, [B, 1 + N, D], CLS first, before the final norm
    scores: Mapping[int, Tensor] = {}  # asked-for blocks, CLS query . keys * scale, no softmax, [B, H, Y, X]


@runtime_checkable
class Backbone(Protocol):
    """A module that turns images into tokens. `vitrail.backbones.load` returns one for any timm ViT, PVT and CvT.

    Of networks in stages, whose class token exists in the last stage alone, all of this is the last stage's: `depth`,
    blocks and heads, patches and the pixels between them.
    """

    embed_dim: int
    depth: int
    heads: int
    patch_size: tuple[int, int]

    def __call__(
        self,
        images: Tensor,
        *,
        layers: Sequence[int] = (),
        scores: Sequence[int] = (),
        keep: Tensor | None = None,
        hidden: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tokens:
        """Images `[B, 3, H, W]`, normalized; `keep` holds patch ids `[B, K]` to process, None for all of them.

        Patches that are `hidden` (bool `[B, N]`) enter as `mask_token` (`[D]`) instead of their pixels.
        """
        ...


@runtime_checkable
class Mask(Protocol):
    """A way to hide patches. The same for a method that drops what is hidden and for one that puts a token there."""

    needs_attention: bool
    """Whether a call needs `attention`."""

    def __call__(
        self,
        images: Tensor,
        grid: tuple[int, int],
        hidden: float | Tensor,
        *,
        attention: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Bool `[B, N]`, True is hidden, N = Y * X in raster order.

        `hidden` says how many of the patches: a share inside (0, 1), of which `N - int(N * (1 - share))` follow, one
        number, or int64 `[B]`, a number for each image. `attention [B, N]` is a teacher's, from the class token to the
        patches. All chance comes from `generator`, torch's global one by default.
        """
        ...


@runtime_checkable
class Ranker(Protocol):
    """A way to say which patches of an image matter. `vitrail.ops.selection` turns its scores into patch ids."""

    mean: Sequence[float]
    std: Sequence[float]
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    needs_number: bool
    """Whether scores depend on how many patches are to be kept, as those of networks that prune to a number do."""

    def __call__(
        self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Scores `[B, Y, X]`, float32 and finite, larger is kept first; Y = H / patch height, X = W / patch width.

        Args:
            images: `[B, 3, H, W]`, normalized by `mean` and `std`; `image_size` is (height, width) that the weights
                were made for, other sizes of whole patches are taken, too.
            number: how many patches will be kept, 1 to Y * X, for rankers that need it; the others pass over it.
            generator: where chance is wanted in rankers that have a random variant. The same images give the same
                scores without it, whatever else is in the batch.
        """
        ...


class Located(NamedTuple):
    """What a localizer says about a batch of images."""

    maps: Tensor  # [B, h, w] float and finite, larger is more of the object; h and w may be smaller than the image's
    logits: Tensor | None = None  # [B, K] scores of the classes; None where it does not classify


@runtime_checkable
class Localizer(Protocol):
    """A way to say where the object of an image is. `vitrail.evaluation.localization` makes boxes of its maps.

    One whose maps are masks, 0 and 1, says so by `any_threshold = True`: its box is the same at every threshold.
    """

    mean: Sequence[float]
    std: Sequence[float]
    image_size: tuple[int, int]
    classes: tuple[str, ...] | None
    """Names in the order of the logits, None where it does not classify or does not know them. One that does not know
    them may say how many there are, as `outputs`."""

    def __call__(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        """Maps of images `[B, 3, H, W]`, normalized by `mean` and `std`; `image_size` is (height, width).

        Where maps belong to a class, as those of Grad-CAM do, they are those of `labels [B]` int64, and without labels
        those of the predicted class; the others pass over them. An image's map does not depend on the others.
        """
        ...


class Batch(NamedTuple):
    """What a loader hands to a method. Every tensor has the batch as its first axis."""

    images: Tensor  # [B, 3, H, W] float, normalized
    labels: Tensor | None  # [B] int64; [B, C] float, 0 or 1, where images have several labels; None for unlabeled ones
    indices: Tensor  # [B] int64, positions in the data set, to name the images when something breaks
    views: tuple[Tensor, ...] = ()  # further views of the same images, for methods that compare views
    boxes: Tensor | None = None  # [B, V, 4] float64, where each view was cut out of its image; see `Crops`
    sources: Tensor | None = None  # [B] int64, which of a mixed set's kinds each image is of

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; copies overlap with computation where memory is pinned.

        Indices, boxes and sources stay where they are: what is decided by them is decided on the host.
        """
        return Batch(
            self.images.to(device, non_blocking=True),
            None if self.labels is None else self.labels.to(device, non_blocking=True),
            self.indices,
            tuple(view.to(device, non_blocking=True) for view in self.views),
            self.boxes,
            self.sources,
        )


@dataclass(frozen=True)
class Crops:
    """Views of one image and where they were cut out, for transforms of methods that align patches."""

    views: tuple[Tensor, ...]  # [3, H, W] float each, normalized
    boxes: Tensor  # [V, 4] float64: left, top, right, bottom in pixels of the image; left > right where it was flipped


@dataclass(frozen=True)
class Step:
    """Where training is: optimizer step `index` of `total`. All that a method knows of time."""

    index: int
    total: int

    @property
    def progress(self) -> float:
        """Share of training that lies behind, in [0, 1)."""
        return self.index / max(self.total, 1)


class Losses(NamedTuple):
    """What a training step returns."""

    total: Tensor  # [] what is differentiated
    parts: Mapping[str, Tensor] = {}  # [] each, logged only


class Exported(NamedTuple):
    """What a method leaves behind to use: weights under timm's names, and the words needed to rebuild the model."""

    state: dict[str, Tensor]
    metadata: dict[str, Any]  # JSON values: the backbone's config, class names, mean and std of the pixels


@runtime_checkable
class Method(Protocol):
    """A `torch.nn.Module` with these four. State that must survive a restart is a buffer of the module."""

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The loss of one (micro-)batch. Changes no state."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups: `params`, and where wanted `weight_decay` and `lr_scale` (a factor on the schedule).

        With `weight_decay_end` the decay goes there from `weight_decay`, along half a cosine. With `frozen_until` a
        group is left alone while `step.progress` is below it: no update, no decay, no moments, no part in the norm that
        gradients are clipped to. With `frozen`, pairs (from, to) of such shares, it is left alone from one up to the
        other.
        """
        ...

    def after_step(self, step: Step) -> None:
        """Runs after each optimizer step: EMA teachers, centers and queues move here, never inside a loss."""
        ...

    def export(self) -> Exported:
        """The weights to use, as they are now."""
        ...


class Regularizer(Protocol):
    """A loss on tokens that composes with any method. It names the blocks that it wants to see."""

    layers: tuple[int, ...]
    scores: tuple[int, ...]

    def __call__(self, tokens: Tokens) -> Tensor:
        """A scalar."""
        ...


class Sample(NamedTuple):
    """One decoded image and what is known about it."""

    image: Image.Image  # RGB
    label: int | None = None
    mask: np.ndarray | None = None  # [H, W] uint8 class ids, 0 background, 255 ignored; uint16, 65535 if 255 is a class
    boxes: np.ndarray | None = None  # [n, 4] float, x0 y0 x1 y1 in pixels, half-open
    path: str = ""
    box_labels: np.ndarray | None = None  # [n] int64 class ids as in masks: k is the set's classes[k - 1]
    box_hard: np.ndarray | None = None  # [n] bool, difficult objects (VOC) and crowds (COCO), where that is known
    labels: tuple[int, ...] | None = None  # class ids of an image with any number of labels; then `label` is None
    source: int | None = None  # which kind of a mixed set the image is of, from 0
    companion: Image.Image | None = None  # another image that goes with this one, such as a neighbor; RGB


@runtime_checkable
class ImageSet(Protocol):
    """A data set with random access. Indexing an unreadable file raises `vitrail.data.UnreadableImage`."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of the labels; None where images have no labels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def digest(self) -> str:
        """A short hex digest of what is in the set; two sets with the same digest give the same samples."""
        ...


@runtime_checkable
class Video(Protocol):
    """One sequence of frames of one size, and which pixels belong to which object."""

    name: str
    objects: tuple[int, ...]
    """Ids of the objects in the first frame, ascending; those that appear later are none."""

    def __len__(self) -> int: ...

    def frame(self, index: int) -> Image.Image:
        """A frame as RGB. An unreadable file raises `vitrail.data.UnreadableImage`."""
        ...

    def mask(self, index: int) -> np.ndarray:
        """Object ids `[H, W]` uint8; 0 is no object."""
        ...


@runtime_checkable
class VideoSet(Protocol):
    """Sequences with random access."""

    unit: str
    """What is counted: "sequences"."""
    classes: tuple[str, ...] | None
    """None: objects have no class."""
    lengths: Sequence[int]
    """Frames of each sequence."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Video: ...

    def digest(self) -> str:
        """As of an `ImageSet`."""
        ...
