"""Does attention see objects? Jaccard index between thresholded CLS attention and object masks.

Definition: image and mask are squashed to a square (480 px, the mask by nearest neighbor). Per head of the
last block, the softmax of the CLS token's scores over the patches is cut to the smallest set of patches that
holds at least 60 % of its mass, and each patch becomes a square of patch-size pixels. For each class in the
mask (neither background 0 nor void 255) the IoU of each head's region with the class's region is taken, and
the best head counts. The image's value is the mean over its classes, the data set's the mean over images, in
percent.

Softmax over the patches alone is not what a ViT computes (its softmax includes the CLS key), but the share of
the patches' mass is the same for both: each patch's weight is scaled by one and the same factor, which
renormalizing takes out again. A test asserts it.

A trap: 100 is not what perfect attention earns. Attention spread evenly over exactly the object keeps 60 % of
it and scores 60; for more, the other 40 % of the mass must lie thinly outside of the object.

Presets:
    default     the definition above. Void pixels count in neither intersection nor union.
    sar, dino   as released with both papers: void pixels do count in the union (the script's handling of them
                does nothing). On the golden example of the tests, where 4 % of the pixels are void, this
                gives 5.63 where the default gives 5.70; on the four pixels in the docstring of
                `image_jaccard`, 67 and 100.
    intriguing  512 px, 90 % of the mass, void counted.

Source: Naseer et al. 2021, "Intriguing properties of vision transformers" (arXiv 2105.10497); Caron et al.
2021 (arXiv 2104.14294); Peruzzo et al. 2022, SAR (arXiv 2206.04636).
Expected on VOC 2012 val (1,449 images): SAR reports 19.18 for the ViT-S/16 baseline and 31.19 with SAR, 27.40
and 33.10 for MoCo-v3, 35.06 and 35.28 for DINO.

Deviations: images without a labeled object are left out and counted (the released script divides by zero
there). The best head per class is an oracle: it looks at the answer. Beside it stand `jaccard_fixed_head`
(one head for all images, chosen on this data), `jaccard_head_mean` (a head at random), and two floors:
`floor_whole_image` (attention everywhere) and `floor_other_image` (the attention of the image before this
one, best head as well: what a taste for the image's center earns).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vitrail.config import Config
from vitrail.contracts import Backbone, ImageSet
from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.attention import Pixels, Seen, attend
from vitrail.evaluation.features import Precision, eval_transform, weights_digest
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.metrics.segmentation import iou
from vitrail.ops.attention_mass import mass_mask
from vitrail.ops.patches import grid_of, sides_of

SOURCES = {
    "default": "definition of Naseer et al. 2021, arXiv 2105.10497, void pixels excluded",
    "sar": "SAR, Peruzzo et al. 2022, arXiv 2206.04636",
    "dino": "DINO, Caron et al. 2021, arXiv 2104.14294",
    "intriguing": "Intriguing properties of vision transformers, Naseer et al. 2021, arXiv 2105.10497",
}
BACKGROUND, VOID, WIDE_VOID = 0, 255, 65535
Void = Literal["excluded", "counted"]


class Settings(NamedTuple):
    """What a preset decides."""

    image_size: int | tuple[int, int]  # pixels, a side or (height, width)
    mass: float  # share of the attention that a region holds
    void: Void  # whether void pixels count in the union


PRESETS = {
    "default": Settings(480, 0.6, "excluded"),
    "sar": Settings(480, 0.6, "counted"),
    "dino": Settings(480, 0.6, "counted"),
    "intriguing": Settings(512, 0.9, "counted"),
}


class JaccardConfig(Config):
    """A preset, and what differs from it (null: as the preset says)."""

    preset: Literal["default", "sar", "dino", "intriguing"] = "default"
    image_size: Pixels | tuple[Pixels, Pixels] | None = None
    """Pixels, a side or (height, width); image and mask are squashed to it."""
    mass: float | None = Field(default=None, gt=0, le=1)
    """Share of the attention that a region holds."""
    void: Void | None = None
    """Whether void pixels (255) count in the union."""
    block: int = -1
    """Whose attention; negative counts from the last."""
    batch_size: int = Field(default=16, ge=1)
    """Images per forward pass; no influence on the result."""
    precision: Precision = "fp32"
    """Of the backbone: fp32 or bf16 autocast."""

    def settings(self) -> Settings:
        """The preset with the fields that were given."""
        given = {name: getattr(self, name) for name in Settings._fields}
        return PRESETS[self.preset]._replace(**{name: value for name, value in given.items() if value is not None})


def attention_regions(scores: Tensor, mass: float) -> Tensor:
    """The smallest set of patches per map that holds more than a share of the attention.

    Args:
        scores: CLS scores before the softmax, `[..., Y, X]`.
        mass: share in (0, 1].

    Returns:
        Bool `[..., Y, X]`.

    Raises:
        ValueError: scores that are not finite.
    """
    if not scores.isfinite().all():
        raise ValueError("attention scores hold NaN or infinite values; check the weights, or use fp32")
    weights = scores.double().flatten(-2).softmax(-1)
    return mass_mask(weights, mass).reshape(scores.shape)


def image_jaccard(regions: Tensor, mask: Tensor, void: Void = "excluded") -> Tensor:
    """IoU of every head's region with every class of one image.

    Args:
        regions: Bool `[H, Y, X]` on the patch grid; each cell becomes a block of pixels.
        mask: class ids `[h, w]`, multiples of Y and X; 0 is background, 255 void (65535 in an int32 mask, which is how
            sets of more than 254 classes come).
        void: "excluded" leaves void pixels out of the union, "counted" does not.

    Returns:
        float64 `[classes in the image, H]` in [0, 1], classes in ascending order; `[0, H]` without any.

    Raises:
        ValueError: a mask whose size is no multiple of the grid's.

    >>> region = torch.tensor([[[True, True, True, False]]])
    >>> mask = torch.tensor([[3, 3, 255, 0]])
    >>> [image_jaccard(region, mask, void).item() for void in ("excluded", "counted")]
    [1.0, 0.6666666666666666]
    """
    heads, rows, columns = regions.shape
    height, width = mask.shape
    if height % rows or width % columns:
        raise ValueError(f"a mask of {height} x {width} px does not divide into a grid of {rows} x {columns} patches")
    large = regions.repeat_interleave(height // rows, 1).repeat_interleave(width // columns, 2)
    nothing = WIDE_VOID if mask.dtype == torch.int32 else VOID
    present = [value for value in mask.unique().tolist() if value not in (BACKGROUND, nothing)]
    if not present:
        return torch.zeros(0, heads, dtype=torch.float64)
    objects = torch.stack([mask == value for value in present])[:, None]
    return iou(large, objects, ignore=mask == nothing if void == "excluded" else None)


def evaluate(
    backbone: Backbone,
    data: ImageSet,
    config: JaccardConfig | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Jaccard index of CLS attention and the objects of `data`, whose samples hold masks.

    Args:
        cache: taken so that all protocols are called alike; attention is computed anew each time.

    Returns:
        A report in percent: `jaccard` (the protocol's number), `jaccard_fixed_head`, `jaccard_head_mean`,
        `floor_whole_image`, `floor_other_image`. Details: per head, per image, images without objects.

    Raises:
        ValueError: empty data, no image with a labeled object, or a size the patch size does not divide.
    """
    config = config or JaccardConfig()
    settings = config.settings()
    grid_of(*sides_of(settings.image_size), backbone.patch_size)
    transform_config = EvalTransformConfig(image_size=settings.image_size, mode="squash")
    found = _Tally(settings.mass, settings.void)
    notes = attend(
        backbone,
        data,
        eval_transform(transform_config, backbone),
        found.add,
        block=config.block,
        batch_size=config.batch_size,
        precision=config.precision,
        device=device,
        title="attention Jaccard",
    )
    if not found.images:
        raise ValueError(f"none of {len(data)} images has a mask with a labeled object; give data with masks")
    numbers, per_head = _numbers(found)
    if found.without:
        notes.append(f"{len(found.without)} of {len(data)} images have no labeled object and were left out")
    card = make_card(
        protocol="attention_jaccard",
        source=SOURCES[config.preset],
        data={"val": data},
        transform=eval_transform(transform_config, backbone).config,
        layer="last block" if config.block == -1 else f"block {config.block}",
        token="CLS query on patch keys, softmax",
        averaging="best head per class; mean over an image's classes, then over images; percent",
        weights=weights_digest(backbone),
        config={**config.plain(), **settings._asdict()},
        backbone=backbone,
        preset=config.preset,
        deviations=changes(PRESETS[config.preset]._asdict(), settings._asdict()),
        precision=config.precision,
    )
    details = {
        "per_head": per_head,
        "per_image": found.images,
        "without_objects": found.without,
        "notes": notes,
    }
    return Report("attention_jaccard", numbers, card, details)


class _Tally:
    """Collects what the report needs, image by image."""

    def __init__(self, mass: float, void: Void) -> None:
        self.mass, self.void = mass, void
        self.best: list[float] = []  # per image, best head per class
        self.heads: list[Tensor] = []  # per image [H], mean over classes
        self.whole: list[float] = []
        self.other: list[float] = []
        self.images: list[dict[str, Any]] = []
        self.without: list[int] = []
        self.before: Tensor | None = None

    def add(self, seen: Seen) -> None:
        regions = attention_regions(seen.scores, self.mass)
        if seen.mask is None or not len(overlap := image_jaccard(regions, seen.mask, self.void)):
            self.without.append(seen.number)
            return
        heads, best = overlap.mean(0), overlap.amax(1).mean().item()
        self.best.append(best)
        self.heads.append(heads)
        self.whole.append(image_jaccard(torch.ones_like(regions[:1]), seen.mask, self.void).mean().item())
        if self.before is not None:
            self.other.append(image_jaccard(self.before, seen.mask, self.void).amax(1).mean().item())
        self.before = regions
        per_head = [round(100 * value, 4) for value in heads.tolist()]
        self.images.append({"index": seen.number, "path": seen.path, "jaccard": 100 * best, "heads": per_head})


def _numbers(found: _Tally) -> tuple[dict[str, float], list[float]]:
    heads = 100 * torch.stack(found.heads).mean(0)
    numbers = {
        "jaccard": 100 * _mean(found.best),
        "jaccard_fixed_head": heads.max().item(),
        "jaccard_head_mean": heads.mean().item(),
        "floor_whole_image": 100 * _mean(found.whole),
    }
    if found.other:
        numbers["floor_other_image"] = 100 * _mean(found.other)
    return numbers, heads.tolist()


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
