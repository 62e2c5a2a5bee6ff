"""The pointing game: does the patch that CLS attends to most lie on an object?

Definition: the image is squashed to 224 x 224 px, so that no object is cut off; the softmax attention of the
CLS token of the last block over the patches is averaged over heads; the center of the patch where it is
largest is a hit when it lies in a ground-truth box of the image (moved by the same squash). The number is the
share of images with a hit, in percent.

Source: Zhang et al. 2016, "Top-down neural attention by excitation backprop" (arXiv 1608.00507), which points
with a class's map and grants 15 px of tolerance.
Expected: no published number for this setting; the floors stand beside it.

Deviations: attention of the CLS token belongs to no class, so a box of any class counts; no tolerance by
default. `pointing_best_head` is an oracle: the head is chosen on this data. Floors: `floor_center` (always
point at the image's center) and `floor_anywhere` (point at a patch at random). Of equal maxima the first
patch in reading order is taken. Images without a box are left out and counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vitrail.config import Config
from vitrail.contracts import Backbone, ImageSet
from vitrail.data.box_file import LINE
from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.attention import Pixels, Seen, attend, sides
from vitrail.evaluation.features import NO_INFLUENCE, Precision, eval_transform, weights_digest
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.metrics.localization import clip_boxes, points_in_boxes
from vitrail.ops.patches import grid_of

SOURCE = "Zhang et al. 2016, arXiv 1608.00507, with CLS attention in place of a class's map"
BOX_FILE = f"for a folder with train/ and val/, write val_boxes.txt beside them, a line for each box: {LINE}"
"""Where boxes of a folder of images stand."""


class PointingConfig(Config):
    """How the image is shown and what counts as a hit."""

    image_size: Pixels | tuple[Pixels, Pixels] = 224
    """Pixels, a side or (height, width); the image is squashed to it."""
    tolerance: float = Field(default=0.0, ge=0)
    """Pixels by which boxes are widened; the source grants 15."""
    block: int = -1
    """Whose attention; negative counts from the last."""
    batch_size: int = Field(default=16, ge=1)
    """Images per forward pass; no influence on the result."""
    precision: Precision = "fp32"
    """Of the backbone: fp32 or bf16 autocast."""


class Hits(NamedTuple):
    """One image's outcome."""

    mean: bool  # the head-averaged attention points at an object
    heads: Tensor  # Bool [H]
    center: bool  # the image's center does
    anywhere: float  # share of patches that do
    point: tuple[float, float]  # x, y of the head-averaged attention's peak, pixels


def point_at(scores: Tensor, boxes: Tensor, size: tuple[int, int], tolerance: float = 0.0) -> Hits:
    """Play the pointing game on one image.

    Args:
        scores: CLS scores before the softmax, `[H, Y, X]`.
        boxes: `[n, 4]` half-open x0 y0 x1 y1, pixels of an image of `size`.
        size: height and width, pixels.
        tolerance: pixels by which boxes are widened.
    """
    heads, rows, columns = scores.shape
    cell_height, cell_width = size[0] / rows, size[1] / columns
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    centers = torch.stack([x * cell_width, y * cell_height], dim=-1).reshape(-1, 2)
    inside = points_in_boxes(centers, boxes, tolerance)
    attention = scores.double().reshape(heads, -1).softmax(-1)
    peak = int(attention.mean(0).argmax())
    middle = torch.tensor([size[1] / 2, size[0] / 2])
    return Hits(
        bool(inside[peak]),
        inside[attention.argmax(-1)],
        bool(points_in_boxes(middle, boxes, tolerance)),
        inside.double().mean().item(),
        (centers[peak, 0].item(), centers[peak, 1].item()),
    )


def evaluate(
    backbone: Backbone,
    data: ImageSet,
    config: PointingConfig | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Pointing accuracy of CLS attention on `data`, whose samples hold boxes.

    Args:
        cache: taken so that all protocols are called alike; attention is computed anew each time.

    Returns:
        A report in percent: `pointing`, `pointing_best_head`, `pointing_head_mean`, `floor_center`,
        `floor_anywhere`. Details: per head, per image, images without boxes.

    Raises:
        ValueError: empty data, no image with a box, or a size the patch size does not divide.
    """
    config = config or PointingConfig()
    if not getattr(data, "has_boxes", True):
        raise ValueError(_no_boxes(len(data)))
    grid_of(*sides(config.image_size), backbone.patch_size)
    transform_config = EvalTransformConfig(image_size=config.image_size, mode="squash")
    games: list[Hits] = []
    images: list[dict[str, Any]] = []
    without: list[int] = []

    def play(seen: Seen) -> None:
        boxes = None if seen.boxes is None else clip_boxes(seen.boxes, *seen.size)
        if boxes is None or not len(boxes):
            without.append(seen.number)
            return
        games.append(hit := point_at(seen.scores, boxes, seen.size, config.tolerance))
        images.append({"index": seen.number, "path": seen.path, "hit": hit.mean, "point": list(hit.point)})

    notes = attend(
        backbone,
        data,
        eval_transform(transform_config, backbone),
        play,
        block=config.block,
        batch_size=config.batch_size,
        precision=config.precision,
        device=device,
        title="pointing game",
    )
    if not games:
        raise ValueError(_no_boxes(len(data)))
    if without:
        notes.append(f"{len(without)} of {len(data)} images have no box and were left out")
    per_head = 100 * torch.stack([game.heads for game in games]).double().mean(0)
    card = make_card(
        protocol="pointing",
        source=SOURCE,
        data={"val": data},
        transform=eval_transform(transform_config, backbone).config,
        layer="last block" if config.block == -1 else f"block {config.block}",
        token="CLS query on patch keys, softmax, mean over heads",
        averaging="share of images with a hit, in percent",
        weights=weights_digest(backbone),
        config=config.plain(),
        backbone=backbone,
        deviations=changes(PointingConfig().plain(), config.plain(), NO_INFLUENCE),
        precision=config.precision,
    )
    details = {"per_head": per_head.tolist(), "per_image": images, "without_boxes": without, "notes": notes}
    return Report("pointing", _numbers(games, per_head), card, details)


def _no_boxes(count: int) -> str:
    return f"none of {count} images has a box; {BOX_FILE}"


def _numbers(games: list[Hits], per_head: Tensor) -> dict[str, float]:
    count = len(games)
    return {
        "pointing": 100 * sum(game.mean for game in games) / count,
        "pointing_best_head": per_head.max().item(),
        "pointing_head_mean": per_head.mean().item(),
        "floor_center": 100 * sum(game.center for game in games) / count,
        "floor_anywhere": 100 * sum(game.anywhere for game in games) / count,
    }
