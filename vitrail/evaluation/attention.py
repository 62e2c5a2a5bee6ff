"""CLS attention of every image of a data set, beside the image's mask and boxes in the same frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vitrail.contracts import Backbone, ImageSet, Tokens
from vitrail.data.images import UnreadableImage
from vitrail.data.transforms import EvalTransform
from vitrail.evaluation.features import Precision, autocast, frozen
from vitrail.evaluation.progress import progress

Pixels = Annotated[int, Field(ge=1)]


class Seen(NamedTuple):
    """One image as the backbone saw it."""

    number: int  # position in the data set
    path: str
    scores: Tensor  # [H, Y, X] float32, CLS query . patch keys / sqrt(d), before the softmax
    mask: Tensor | None  # [h, w] uint8 class ids, moved by the transform
    boxes: Tensor | None  # [n, 4] float32 half-open x0 y0 x1 y1, pixels of the transformed image
    size: tuple[int, int]  # h, w of the transformed image


def attend(
    backbone: Backbone,
    data: ImageSet,
    transform: EvalTransform,
    visit: Callable[[Seen], None],
    *,
    block: int = -1,
    batch_size: int = 16,
    precision: Precision = "fp32",
    device: str = "auto",
    title: str = "attention",
) -> list[str]:
    """Show every image to the backbone, in order, and hand what was seen to `visit`.

    Returns:
        Notes: how many images could not be read.

    Raises:
        ValueError: an empty data set, keys that are no equal parts of the image, or scores that are not finite (the
            message names the image).
    """
    if not len(data):
        raise ValueError(f"{title}: the data set is empty; an evaluation needs at least one image")
    unreadable = 0
    # A callback and no generator: one that is left half-way would keep gradients off for its caller.
    with frozen(backbone, device) as place, progress(title, len(data)) as advance:
        for indices in torch.arange(len(data)).split(batch_size):
            waiting = [entry for index in indices.tolist() if (entry := _look(data, index, transform))]
            unreadable += len(indices) - len(waiting)
            if waiting:
                images = torch.stack([image for image, _ in waiting]).to(place)
                with autocast(place, precision):
                    scores = _over_image(backbone(images, scores=(block,)), block, title).float().cpu()
                for own, (_, seen) in zip(scores, waiting, strict=True):
                    visit(_with_scores(seen, own))
            advance(len(indices))
    if not unreadable:
        return []
    return [f"{title}: {unreadable} of {len(data)} images could not be read and were left out"]


def _over_image(tokens: Tokens, block: int, title: str) -> Tensor:
    """The scores `[B, H, Y, X]`, whose cells are equal parts of the image; `ValueError` where they are not."""
    scores = tokens.scores[block]
    keys = (scores.shape[-2], scores.shape[-1])
    if any(count % own for count, own in zip(tokens.grid, keys)):
        raise ValueError(
            f"{title}: {keys[0]} x {keys[1]} keys stand for {tokens.grid[0]} x {tokens.grid[1]} patches, which are not "
            "equally many for each; choose an image size that is twice as many whole patches (480 for patches of 16)"
        )
    return scores


def _look(data: ImageSet, index: int, transform: EvalTransform) -> tuple[Tensor, Seen] | None:
    try:
        sample = data[index]
    except UnreadableImage:
        return None
    image, mask, boxes = transform.with_targets(sample)
    return image, Seen(index, sample.path, torch.empty(0), mask, boxes, (image.shape[-2], image.shape[-1]))


def _with_scores(seen: Seen, scores: Tensor) -> Seen:
    if not scores.isfinite().all():
        where = f"image {seen.number} {seen.path}"
        raise ValueError(f"attention of {where} is not finite; check the weights, or use precision fp32")
    return seen._replace(scores=scores)
