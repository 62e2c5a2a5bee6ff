"""Which share of an object's patches does a ranker keep?

Definition: the image is squashed to the size that the ranker was made for, so that no object is cut off; boxes or masks
move along. A patch is positive for a class of the image where a box or the mask of the class touches it. The ranker
scores the patches, the k best of N are kept (k = int(keep N), ties by index), and

    recall = |kept and positive| / |positive|

for each image and class in it. The number at a keep ratio is the mean over the images of a class, then over classes, in
percent (`average=micro` pools all positive patches instead). `recall_learned` and `recall_unseen` are the same over the
classes that ImageNet-1k has, and that it has not, as the paper lists them for COCO and VOC; `recall_things` and
`recall_stuff` where the data tell them apart.

Beside them stand `random`, the expectation k / N of a uniform selection, and `center`, which keeps the middle of every
image and must be beaten. A drawn random selection with its standard error is in `details` and in a note.

Source: LTRP, Figures 5, 9 and 12, supplement, Appendix B.
Expected: no table, only curves; LTRP is best on boxes and on things, behind the leaders on masks of learned classes and
on stuff. At keep = 1 recall is 100, by definition.

Deviations: no code is released, and the paper states none of these: when a patch is positive (`positive_rule`: any
overlap, `fraction:t` of the patch's area, or its `center`), the average, the transform, and what is done with crowds
and difficult objects, which are left out here (`hard=true` counts them). With boxes, a patch is compared with one box
at a time: `fraction:t` asks for one box that covers so much. Images without a labeled object are left out and counted,
and so are a class's objects in an image that are too small for the rule to give them a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from vitrail.config import Config, Listed
from vitrail.contracts import ImageSet, Ranker, Sample
from vitrail.data.images import UnreadableImage
from vitrail.data.loader import sample_seed
from vitrail.data.transforms import EvalTransform, EvalTransformConfig
from vitrail.evaluation.attention import Pixels
from vitrail.evaluation.class_splits import check_named, named, unseen_of
from vitrail.evaluation.features import NO_INFLUENCE, Precision, autocast, eval_transform, frozen, weights_digest
from vitrail.evaluation.pointing import BOX_FILE
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.metrics.patch_recall import (
    average,
    pair_weights,
    parse_rule,
    positive_of_mask,
    positive_patches,
    random_error,
    recall,
)
from vitrail.ops.patches import grid_of, sides_of
from vitrail.ops.selection import mask_of, number_kept, select
from vitrail.rankers.center import Center

SOURCE = "LTRP, Figures 5, 9 and 12, supplement, Appendix B; positive rule and average chosen here"
KEEPS = (0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BACKGROUND = 0


class PatchRecallConfig(Config):
    """What is positive, how recall is averaged, and how the image is shown."""

    keeps: Annotated[tuple[float, ...], Listed] = KEEPS
    """Shares of the patches that are kept, each in (0, 1]."""
    labels: Literal["auto", "boxes", "masks"] = "auto"
    """What marks objects; auto: boxes where the data have them, else masks."""
    positive_rule: str = "any"
    """When a patch is positive: any, fraction:t with t in (0, 1], or center."""
    average: Literal["macro", "micro"] = "macro"
    """Over images of a class, then over classes; or over all positive patches."""
    only: Annotated[tuple[str, ...], Listed] = ()
    """Classes to look at, by name or by one of its words between commas; empty for all."""
    unseen: Annotated[tuple[str, ...] | None, Listed] = None
    """Classes that count as unseen; null: the paper's, where the data have COCO's or VOC's classes."""
    hard: bool = False
    """Count difficult objects (VOC) and crowds (COCO), too."""
    image_size: Pixels | tuple[Pixels, Pixels] | None = None
    """Pixels, a side or (height, width); null: the ranker's own."""
    mode: Literal["squash", "crop"] = "squash"
    """squash: the whole image, its aspect ratio changes; crop: the middle of it."""
    seed: int = 0
    """Of the random selection."""
    batch_size: int = Field(default=64, ge=1)
    """Images per forward pass; no influence on the result."""
    precision: Precision = "fp32"
    """Of the ranker: fp32 or bf16 autocast."""

    @field_validator("keeps")
    @classmethod
    def _shares(cls, keeps: tuple[float, ...]) -> tuple[float, ...]:
        if not keeps or any(not 0 < keep <= 1 for keep in keeps):
            raise ValueError(f"keeps are shares in (0, 1], at least one; got {list(keeps)}")
        return tuple(sorted(set(keeps)))

    @field_validator("positive_rule")
    @classmethod
    def _rule(cls, rule: str) -> str:
        parse_rule(rule)
        return rule


class Pairs(NamedTuple):
    """Every image with every class in it."""

    images: Tensor  # int64 [P], row in what was selected
    classes: Tensor  # int64 [P], class ids 1, 2, ...
    positive: Tensor  # bool [P, N]


def evaluate(
    ranker: Ranker,
    data: ImageSet,
    config: PatchRecallConfig | None = None,
    *,
    name: str = "ranker",
    device: str = "auto",
) -> Report:
    """Patch recall of a ranker on `data`, whose samples hold boxes with classes, or masks.

    Args:
        name: of the ranker, for the report.

    Returns:
        A report in percent: at each keep ratio `recall_0.25`, `center_0.25`, `random_0.25`, and where the classes are
        known to be so `recall_learned_0.25`, `recall_unseen_0.25`, `recall_things_0.25`, `recall_stuff_0.25`. Details:
        the same as `curves`, and `per_class`.

    Raises:
        ValueError: empty data, no labeled object, boxes without classes, `only` or `unseen` with a class that the data
            do not have, a size that the patch size does not divide, or a ranker whose scores do not fit.
    """
    config = config or PatchRecallConfig()
    if not len(data):
        raise ValueError("patch recall: the data set is empty; an evaluation needs at least one image")
    labels = _labels(data, config)
    if data.classes is not None:
        check_named(config.only, data.classes, "only")
        check_named(config.unseen or (), data.classes, "unseen")
    size = sides_of(config.image_size or ranker.image_size)
    grid = grid_of(*size, ranker.patch_size)
    transform = eval_transform(EvalTransformConfig(image_size=size, mode=config.mode), ranker)
    patches = grid[0] * grid[1]
    kept = [number_kept(keep, patches) for keep in config.keeps]
    marks = _Marks(data, config, labels, size, grid)
    selected = _look(ranker, data, transform, config, kept, marks, device)
    if not marks.rows:
        raise ValueError(_nothing(len(data), labels, config))
    pairs = marks.pairs()
    middle = Center(size, ranker.patch_size)(torch.zeros(1, 3, *size))
    chosen = {
        "recall": torch.stack(selected),
        "center": torch.stack([_flat(middle, number, grid)[0] for number in kept]).expand(len(selected), -1, -1),
        "random_drawn": _random(marks.rows, config.seed, kept, grid),
    }
    recalls = {key: _recalls(value, pairs) for key, value in chosen.items()}
    table = _curves(recalls, pairs, marks, config, kept)
    card = make_card(
        protocol="patch_recall",
        source=SOURCE,
        data={"val": data},
        transform=transform.config,
        layer=f"ranker {name}, patches of {ranker.patch_size[0]} x {ranker.patch_size[1]} px",
        token=f"the k best of {patches} patches, ties by index",
        averaging=_AVERAGES[config.average],
        weights=weights_digest(ranker),
        config=config.plain() | {"labels": labels, "image_size": list(size), "ranker": name},
        backbone=ranker,
        deviations=changes(PatchRecallConfig().plain(), config.plain(), (*NO_INFLUENCE, "keeps", "seed")),
        seed=config.seed,
        precision=config.precision,
    )
    details = {
        "ranker": name,
        "labels": labels,
        "images": len(marks.rows),
        "patches": patches,
        "curves": table,
        "per_class": _per_class(recalls["recall"], pairs, marks),
        "without_objects": marks.without,
        "notes": [*getattr(data, "notes", ()), *marks.notes(len(data)), _drawn(table)],
    }
    return Report("patch_recall", _numbers(table), card, details)


_AVERAGES = {
    "macro": "share of an image's positive patches: mean over the images of a class, then over classes; percent",
    "micro": "share of all positive patches of all images and classes; percent",
}
_GIVE = f"give COCO, VOC or ADE20K data, or scenes; {BOX_FILE}"


class _Marks:
    """The positive patches of images, as they come, and what was left out."""

    def __init__(
        self, data: ImageSet, config: PatchRecallConfig, labels: str, size: tuple[int, int], grid: tuple[int, int]
    ) -> None:
        self.names = data.classes
        stuff = getattr(data, "stuff", None)
        self.stuff: frozenset[str] | None = frozenset() if labels == "boxes" else stuff
        self.unseen = config.unseen if config.unseen is not None else unseen_of(data.classes or ())
        self.config, self.labels, self.size, self.grid = config, labels, size, grid
        self.rows: list[int] = []  # positions in the data set of images that count
        self.without: list[int] = []
        self.unreadable = self.hard = self.cut = self.small = self.bare = 0
        self.images: list[int] = []
        self.classes: list[int] = []
        self.positive: list[Tensor] = []

    def add(self, index: int, sample: Sample, mask: Tensor | None, boxes: Tensor | None) -> bool:
        """Take an image in. Returns whether it has a labeled object."""
        found = self._boxes(sample, boxes) if self.labels == "boxes" else self._mask(mask)
        asked = {number: part for number, part in found.items() if self._asked(number)}
        found = {number: part for number, part in asked.items() if bool(part.any())}
        self.small += len(asked) - len(found)
        if not asked:
            self.without.append(index)
        if not found:
            self.bare += bool(asked)
            return False
        for number, part in sorted(found.items()):
            self.images.append(len(self.rows))
            self.classes.append(number)
            self.positive.append(part.flatten())
        self.rows.append(index)
        return True

    def pairs(self) -> Pairs:
        return Pairs(torch.tensor(self.images), torch.tensor(self.classes), torch.stack(self.positive))

    def name(self, number: int) -> str:
        """Of a class id."""
        if self.names is None:
            return "object"
        return self.names[number - 1] if number <= len(self.names) else f"class {number}"

    def notes(self, count: int) -> list[str]:
        said = {
            f"{self.unreadable} of {count} images could not be read and were left out": self.unreadable,
            f"{len(self.without)} of {count} images have no labeled object and were left out": len(self.without),
            f"{self.small} classes of images are too small for a positive patch and were left out": self.small,
            f"{self.bare} of {count} images have only such classes and were left out": self.bare,
            f"{self.hard} difficult objects or crowds were left out": self.hard,
            f"{self.cut} boxes lie outside of the crop and were left out": self.cut,
        }
        return [words for words, number in said.items() if number]

    def _asked(self, number: int) -> bool:
        return not self.config.only or named(self.name(number), self.config.only)

    def _boxes(self, sample: Sample, boxes: Tensor | None) -> dict[int, Tensor]:
        if boxes is None or not len(boxes):
            return {}
        numbers = sample.box_labels
        if numbers is None and self.names is not None:
            raise ValueError(
                f"{sample.path}: its boxes have no classes; give data with box_labels, or use labels=masks"
            )
        numbers = np.ones(len(boxes), np.int64) if numbers is None else numbers
        wanted = torch.ones(len(boxes), dtype=torch.bool)
        if sample.box_hard is not None and not self.config.hard:
            wanted &= ~torch.from_numpy(np.asarray(sample.box_hard, bool))
            self.hard += int((~wanted).sum())
        whole = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        self.cut += int((wanted & ~whole).sum())
        parts = positive_patches(boxes, self.size, self.grid, self.config.positive_rule)
        found: dict[int, Tensor] = {}
        for place in (wanted & whole).nonzero()[:, 0].tolist():
            number = int(numbers[place])
            found[number] = found[number] | parts[place] if number in found else parts[place]
        return found

    def _mask(self, mask: Tensor | None) -> dict[int, Tensor]:
        if mask is None:
            return {}
        void = 65535 if mask.dtype == torch.int32 else 255
        ids = [number for number in mask.unique().tolist() if number not in (BACKGROUND, void)]
        ids = [number for number in ids if self._asked(number)]
        return dict(zip(ids, positive_of_mask(mask, ids, self.grid, self.config.positive_rule))) if ids else {}


def _labels(data: ImageSet, config: PatchRecallConfig) -> Literal["boxes", "masks"]:
    has = {"boxes": bool(getattr(data, "has_boxes", True)), "masks": bool(getattr(data, "has_masks", True))}
    if not any(has.values()):
        raise ValueError(f"these data have neither boxes nor masks; {_GIVE}")
    chosen: Literal["boxes", "masks"] = "boxes" if has["boxes"] else "masks"
    if config.labels == "auto":
        return chosen
    if not has[config.labels]:
        raise ValueError(f"these data have no {config.labels}; use labels={chosen}, or give other data: {_GIVE}")
    return config.labels


def _nothing(count: int, labels: str, config: PatchRecallConfig) -> str:
    if config.only:
        return f"none of {count} images has an object of the classes {', '.join(config.only)}"
    return f"none of {count} images has a labeled object with labels={labels}; {_GIVE}"


def _look(
    ranker: Ranker,
    data: ImageSet,
    transform: EvalTransform,
    config: PatchRecallConfig,
    kept: Sequence[int],
    marks: _Marks,
    device: str,
) -> list[Tensor]:
    """What the ranker selects, bool `[K, N]` for each image that has an object."""
    selected: list[Tensor] = []
    with frozen(ranker, device) as place, progress("patch recall", len(data)) as advance:
        for indices in torch.arange(len(data)).split(config.batch_size):
            images = []
            for index in indices.tolist():
                try:
                    sample = data[index]
                except UnreadableImage:
                    marks.unreadable += 1
                    continue
                image, mask, boxes = transform.with_targets(sample)
                if marks.add(index, sample, mask, boxes):
                    images.append(image)
            if images:
                with autocast(place, config.precision):
                    selected += _choose(ranker, torch.stack(images).to(place), kept, marks.grid).unbind()
            advance(len(indices))
    return selected


def _choose(ranker: Ranker, images: Tensor, kept: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Bool `[B, K, N]` on the CPU. Scores are asked for once, or for each number where the ranker needs it."""
    scores: Tensor | None = None
    found = []
    for number in kept:
        if scores is None or ranker.needs_number:
            scores = ranker(images, number=number)
            if scores.shape != (len(images), *grid):
                raise ValueError(f"the ranker gives scores {list(scores.shape)}, not {[len(images), *grid]}")
        found.append(_flat(scores, number, grid))
    return torch.stack(found, 1)


def _flat(scores: Tensor, number: int, grid: tuple[int, int]) -> Tensor:
    return mask_of(select(scores, number), grid).flatten(1).cpu()


def _random(rows: Sequence[int], seed: int, kept: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """A uniform selection of each image, bool `[I, K, N]`; it depends on the seed and the image's position alone."""
    draws = [torch.rand(grid, generator=torch.Generator().manual_seed(sample_seed(seed, 0, row))) for row in rows]
    return torch.stack([_flat(torch.stack(draws), number, grid) for number in kept], 1)


def _recalls(selected: Tensor, pairs: Pairs) -> Tensor:
    """float64 `[K, P]` in [0, 1] of what was selected, `[I, K, N]`."""
    return torch.stack([recall(part[pairs.images], pairs.positive) for part in selected.unbind(1)])


def _curves(
    recalls: dict[str, Tensor], pairs: Pairs, marks: _Marks, config: PatchRecallConfig, kept: Sequence[int]
) -> dict[str, list[float]]:
    """Percent at each keep ratio, by name; splits where both of their sides have a class."""

    def mean(values: Tensor, some: Tensor) -> list[float]:
        counts = pairs.positive[some].sum(1)
        return (100 * average(values[:, some], pairs.classes[some], counts, config.average)).tolist()

    patches = pairs.positive.shape[1]
    everything = torch.ones(len(pairs.classes), dtype=torch.bool)
    table = {"keep": list(config.keeps), "kept": list(map(float, kept)), "recall": mean(recalls["recall"], everything)}
    for name, some in _splits(pairs, marks).items():
        table[f"recall_{name}"] = mean(recalls["recall"], some)
    table["center"] = mean(recalls["center"], everything)
    table["random"] = [100 * number / patches for number in kept]
    table["random_drawn"] = mean(recalls["random_drawn"], everything)
    weights = pair_weights(pairs.classes, pairs.positive.sum(1), config.average)
    errors = [random_error(pairs.positive, pairs.images, weights, number) for number in kept]
    return table | {"random_drawn_error": [100 * error for error in errors]}


def _splits(pairs: Pairs, marks: _Marks) -> dict[str, Tensor]:
    """Bool `[P]` by name: learned and unseen, things and stuff; a split is left out where one side is empty."""
    names = [marks.name(number) for number in pairs.classes.tolist()]
    found: dict[str, Tensor] = {}
    for first, second, known in (("unseen", "learned", marks.unseen), ("stuff", "things", marks.stuff)):
        inside = torch.tensor([named(name, known or ()) for name in names])
        if bool(inside.any()) and not bool(inside.all()):
            found |= {second: ~inside, first: inside}
    return found


def _per_class(recalls: Tensor, pairs: Pairs, marks: _Marks) -> list[dict[str, Any]]:
    """Of each class: images, positive patches, what it is, and recall in percent at each keep ratio."""
    rows = []
    for number in pairs.classes.unique().tolist():
        own, name = pairs.classes == number, marks.name(number)
        positives = pairs.positive[own].sum(1)
        values = average(recalls[:, own], pairs.classes[own], positives, marks.config.average)
        rows.append(
            {
                "class": name,
                "images": int(own.sum()),
                "positive": int(positives.sum()),
                "unseen": None if marks.unseen is None else named(name, marks.unseen),
                "stuff": None if marks.stuff is None else named(name, marks.stuff),
                "recall": (100 * values).tolist(),
            }
        )
    return rows


def _numbers(table: dict[str, list[float]]) -> dict[str, float]:
    silent = {"keep", "kept", "random_drawn", "random_drawn_error"}
    return {
        f"{name}_{keep:g}": value
        for name, values in table.items()
        if name not in silent
        for keep, value in zip(table["keep"], values, strict=True)
    }


def _drawn(table: dict[str, list[float]]) -> str:
    rows = zip(table["keep"], table["random_drawn"], table["random_drawn_error"], strict=True)
    shown = ", ".join(f"{value:.1f} +- {error:.1f} at {keep:g}" for keep, value, error in rows if keep < 1)
    return f"a random selection drawn once, with its standard error: {shown or '100 at 1'}"
