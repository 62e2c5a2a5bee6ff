"""What a mask leaves of an image's meaning, and how much two masks of one image differ.

Definition: every image is resized to 256 px on its short side (bicubic) and cropped to the central 224. Its CLS token
after the final norm is taken once from all patches, and once for each of 5 independent masks from the visible patches
alone (the hidden ones are dropped). Over the 5 trials of an image,

    alignment = mean |masked - full|                   small: the masked image still means the same
    diversity = mean |masked - masked'|, 10 pairs      large: the masks show unlike things

with the Euclidean length, then the mean over images. Measured for DPPMask at several tau, where tau = 1 is random
masking, and for any further mask that is named. Beside them stands the mean number of visible patches that the greedy
search chose before it stopped (the first one, which is drawn, included; the others are drawn uniformly), and
`floor_other_image`: |full - full of the image before|, what a mask that leaves nothing of the meaning would earn.

Source: DPPMask, supplement, Section E and Figure 7. Its curves: alignment and diversity both rise with tau.
Expected: the figure's values cannot be read, and the network is not named; compare masks on the same weights. The unit
is that of the embedding, so numbers of two networks do not compare; `normalized=true` makes them lie in [0, 2].

Deviations: which images, how many, which share is hidden and which tau the figure shows is not stated. Here up to
1,000 evenly spaced images, 75 % hidden and six tau. Readings of tau and of the kernel as in `vitrail.masks.dpp`.
Trials draw from generators that are seeded by `seed` and the image's position alone, on the CPU: the masks of an image
do not depend on the batch size, the device or the other images, and all masks meet the same chance.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from vitrail.config import Config, Listed
from vitrail.contracts import Backbone, Batch, ImageSet, Mask
from vitrail.data.loader import ordered_batches, sample_seed
from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.features import NO_INFLUENCE, Precision, autocast, eval_transform, frozen, weights_digest
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.evaluation.some import Some
from vitrail.masks import MaskConfig, build, visible
from vitrail.nn.cls_attention import cls_attention
from vitrail.ops.patches import grid_of

SOURCE = "DPPMask, supplement, Section E and Figure 7"
Further = Literal["random", "block", "inverse_block", "attmask", "amt"]


class AlignmentConfig(Config):
    """Which masks are compared, on how many images."""

    taus: Annotated[tuple[float, ...], Listed] = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    """Of DPPMask, each in [0, 1]; 1 is random masking."""
    masks: Annotated[tuple[Further, ...], Listed] = ()
    """Further masks at their defaults: random, block, inverse_block, attmask, amt; the last two follow the backbone's
    own CLS attention."""
    hidden: float = Field(default=0.75, gt=0, lt=1)
    """Share of the patches that is hidden."""
    trials: int = Field(default=5, ge=2)
    """Independent masks of each image."""
    kernel: Literal["gaussian", "cosine"] = "gaussian"
    """How alike patches are, for DPPMask."""
    bandwidth: float | Literal["median"] = "median"
    """Of the Gaussian, squared normalized pixels."""
    randomness: Literal["stop", "mix"] = "stop"
    """What tau does: end the search, or mix each choice."""
    first: Literal["random", "argmax"] = "random"
    """First visible patch of DPPMask; argmax: no chance in it."""
    normalized: bool = False
    """Divide embeddings by their Euclidean length."""
    images: int | None = Field(default=1000, ge=1)
    """At most so many images, evenly spaced; null takes all."""
    seed: int = 0
    """Of the masks."""
    transform: EvalTransformConfig = EvalTransformConfig()
    batch_size: int = Field(default=64, ge=1)
    """Images per forward pass; no influence on the result."""
    workers: int = Field(default=0, ge=0)
    """Loading processes."""
    precision: Precision = "fp32"
    """Of the backbone: fp32 or bf16 autocast."""

    @field_validator("taus")
    @classmethod
    def _ascending(cls, taus: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= tau <= 1 for tau in taus):
            raise ValueError(f"every tau lies in [0, 1]: 0 searches, 1 masks at random; got {list(taus)}")
        return tuple(sorted(set(taus)))

    @model_validator(mode="after")
    def _something(self) -> AlignmentConfig:
        if not self.taus and not self.masks:
            raise ValueError("taus and masks are both empty; name at least one mask to measure")
        self.strategies()  # the masks' own words for what does not go together
        return self

    def strategies(self) -> dict[str, Mask]:
        """The masks by the names that numbers carry: `tau0.5`, `block`."""
        shape = {name: getattr(self, name) for name in ("kernel", "bandwidth", "randomness", "first")}
        dpp = {f"tau{tau:g}": build(MaskConfig(kind="dpp", tau=tau, **shape)) for tau in self.taus}
        return dpp | {kind: build(MaskConfig(kind=kind)) for kind in self.masks}


class Distances(NamedTuple):
    """Of each image, in units of the embedding."""

    alignment: Tensor  # [B]
    diversity: Tensor  # [B]


def distances(full: Tensor, masked: Tensor) -> Distances:
    """Mean distance of masked embeddings to the full one, and to one another.

    Args:
        full: `[B, D]`, of the whole images.
        masked: `[B, T, D]`, of T >= 2 trials.

    Raises:
        ValueError: other shapes, or fewer than two trials.
    """
    if masked.ndim != 3 or masked.shape[1] < 2 or full.shape != (len(masked), masked.shape[2]):
        raise ValueError(
            f"full is {list(full.shape)} and masked {list(masked.shape)}; give [B, D] and [B, T, D] with T at least 2"
        )
    full, masked = full.double(), masked.double()
    one, other = torch.triu_indices(masked.shape[1], masked.shape[1], 1)
    alignment = (masked - full[:, None]).norm(dim=2).mean(1)
    return Distances(alignment, (masked[:, one] - masked[:, other]).norm(dim=2).mean(1))


def evaluate(
    backbone: Backbone,
    data: ImageSet,
    config: AlignmentConfig | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Alignment and diversity of masks on `data`, as the backbone sees them.

    Args:
        cache: taken so that all protocols are called alike; nothing is kept.

    Returns:
        A report with `alignment_NAME` and `diversity_NAME` in units of the embedding, NAME being `tau0.5` or a mask's;
        `greedy_length_tau0.5` in patches; `floor_other_image` where there are two images or more. Details: under
        `strategies`, the same with the standard errors of the means over images.

    Raises:
        ValueError: empty data, none that can be read, a size that the patch size does not divide, or embeddings that
            are not finite.
    """
    config = config or AlignmentConfig()
    if not len(data):
        raise ValueError("alignment and diversity: the data set is empty; an evaluation needs at least one image")
    strategies, some = config.strategies(), Some(data, config.images)
    transform = eval_transform(config.transform, backbone)
    found, skipped = _Tally(strategies), dict[int, tuple[str, str]]()
    batches = ordered_batches(some, transform, config.batch_size, config.workers, skipped=skipped)
    with frozen(backbone, device) as place, progress("alignment and diversity", len(some)) as advance:
        for batch in batches:
            _look(backbone, batch, [some.positions[i] for i in batch.indices.tolist()], config, found, place)
            advance(len(batch.images))
    if not found.full:
        raise ValueError(f"none of the {len(some)} images could be read; run `vitrail doctor` on the folder")
    notes = [f"{len(skipped)} of {len(some)} images could not be read and were left out"] if skipped else []
    if len(some) < len(data):
        notes.append(f"{len(some)} of {len(data)} images, evenly spaced; images=null takes all")
    card = make_card(
        protocol="alignment_diversity",
        source=SOURCE,
        data={"val": some},
        transform=transform.config,
        layer="last block, after the final norm",
        token="CLS, of all patches and of the visible ones alone" + ", divided by its length" * config.normalized,
        averaging="Euclidean distances: mean over trials or their pairs, then over images; units of the embedding",
        weights=weights_digest(backbone),
        config=config.plain(),
        backbone=backbone,
        deviations=changes(AlignmentConfig().plain(), config.plain(), (*NO_INFLUENCE, "seed", "images")),
        seed=config.seed,
        precision=config.precision,
    )
    return Report("alignment_diversity", found.numbers(), card, found.details() | {"notes": notes})


class _Tally:
    """Collects what the report needs, batch by batch."""

    def __init__(self, strategies: dict[str, Mask]) -> None:
        self.masks = strategies
        self.full: list[Tensor] = []  # [B, D] each
        self.found: dict[str, list[Distances]] = {name: [] for name in strategies}
        self.lengths: dict[str, list[float]] = {name: [] for name in strategies}  # per image
        self.patches = self.visible = 0

    def strategies(self) -> dict[str, dict[str, float | None]]:
        """Of each mask: means, standard errors of the means (None for one image), tau where it has one."""
        table = {}
        for name, found in self.found.items():
            row: dict[str, float | None] = {"tau": getattr(self.masks[name], "tau", None)}
            for part, values in zip(Distances._fields, map(torch.cat, zip(*found))):
                row[part] = values.mean().item()
                row[f"{part}_error"] = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
            if self.lengths[name]:
                row["greedy_length"] = math.fsum(self.lengths[name]) / len(self.lengths[name])
            table[name] = row
        return table

    def numbers(self) -> dict[str, float]:
        numbers = {
            f"{part}_{name}": value
            for name, row in self.strategies().items()
            for part in (*Distances._fields, "greedy_length")
            if (value := row.get(part)) is not None
        }
        full = torch.cat(self.full).double()
        if len(full) > 1:
            numbers["floor_other_image"] = full.diff(dim=0).norm(dim=1).mean().item()
        return numbers

    def details(self) -> dict[str, Any]:
        full = torch.cat(self.full).double()
        return {
            "strategies": self.strategies(),
            "images": len(full),
            "patches": self.patches,
            "visible": self.visible,
            "length_of_full": full.norm(dim=1).mean().item(),
        }


def _look(
    backbone: Backbone,
    batch: Batch,
    positions: list[int],
    config: AlignmentConfig,
    found: _Tally,
    place: torch.device,
) -> None:
    """Add one batch's distances. Masks are drawn on the CPU, image by image."""
    grid = grid_of(batch.images.shape[-2], batch.images.shape[-1], backbone.patch_size)
    images = batch.images.to(place, non_blocking=True)
    guided = any(mask.needs_attention for mask in found.masks.values())
    with autocast(place, config.precision):
        full = _embedding(backbone(images).cls, config, positions)
        attention = cls_attention(backbone, images).cpu() if guided else None
    found.full.append(full)
    for name, mask in found.masks.items():
        draws = []
        for number, position in enumerate(positions):
            row = None if attention is None else attention[number]
            draws.append(_trials(mask, batch.images[number], row, grid, config, position))
            if name.startswith("tau"):
                found.lengths[name].append(float(mask.logged()["greedy_length"]))  # type: ignore[attr-defined]
        ids = visible(torch.cat(draws)).unflatten(0, (len(positions), config.trials))
        found.patches, found.visible = grid[0] * grid[1], ids.shape[2]
        with autocast(place, config.precision):
            each = [backbone(images, keep=ids[:, trial].to(place)).cls for trial in range(config.trials)]
        masked = torch.stack([_embedding(cls, config, positions) for cls in each], 1)
        found.found[name].append(distances(full, masked))


def _trials(
    mask: Mask, image: Tensor, attention: Tensor | None, grid: tuple[int, int], config: AlignmentConfig, position: int
) -> Tensor:
    """Bool `[T, N]`, independent masks of one image; they depend on the seed and the image's position alone."""
    generator = torch.Generator().manual_seed(sample_seed(config.seed, 0, position))
    rows = None if attention is None else attention.expand(config.trials, -1)
    images = image.expand(config.trials, -1, -1, -1)
    return mask(images, grid, config.hidden, attention=rows, generator=generator)


def _embedding(cls: Tensor, config: AlignmentConfig, positions: list[int]) -> Tensor:
    """Class tokens `[B, D]` as float32 on the CPU."""
    cls = cls.float().cpu()
    if not cls.isfinite().all():
        broken = [positions[number] for number in (~cls.isfinite().all(1)).nonzero()[:, 0].tolist()]
        raise ValueError(f"embeddings of images {broken[:8]} are not finite; check the weights, or use fp32")
    return torch.nn.functional.normalize(cls, dim=1) if config.normalized else cls
