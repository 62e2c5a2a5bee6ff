"""What a classifier still knows, and how fast it is, when it sees only the patches that a ranker keeps.

Definition: resize to 256 px (bicubic), center crop 224, as for plain accuracy. A ranker scores the patches of each
image; the k best of N are kept (k = int(keep N), ties by index), and the classifier runs on them alone: positions are
added first, the others are dropped before the first block. For each ranker and keep ratio:

    top1                           percent of the images
    gflops, gflops_ranker          of one image: classifier on the kept patches with its head, and ranker
    images_per_second              of the classifier alone, its patches already chosen
    images_per_second_with_ranker  of ranker, selection and classifier

Beside them stand the same for the full image, which keep = 1 meets exactly in top-1, and a random selection.

Operations are counted by torch.utils.flop_counter: matrix products, convolutions and attention, a multiplication and an
addition each as one (papers that call a multiply-add one operation report half). They are what is computed here: the
rankers `ada_vit`, `ia_red2` and `dge` compute what their decisions leave out, and mask it, so of these it is an upper
bound of what their methods need. Speeds are medians over rounds on one
batch that lies in memory; in a round each of what is compared runs once, and the full image right before each of them.

Source: LTRP, whose selected patches are given to a fine-tuned classifier; DynamicViT, EViT and others measure likewise.
Expected: no number; a classifier that was trained on whole images loses more than one that was trained on selections.

Deviations: the classifier is taken as it is, without fine-tuning on selected patches. Rankers see the pixels that the
classifier sees, in their own normalization.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vitrail.config import Config, Listed
from vitrail.contracts import Backbone, Batch, ImageSet, Ranker
from vitrail.data.loader import ordered_batches
from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.accuracy import match_classes
from vitrail.evaluation.class_match import output_names
from vitrail.evaluation.features import NO_INFLUENCE, Precision, autocast, eval_transform, frozen, weights_digest
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.evaluation.selecting import (
    Pool,
    SelectingClassifier,
    answers,
    outputs_of,
    renormalized,
    shares,
    token_of,
)
from vitrail.metrics.classification import topk_correct
from vitrail.ops.patches import grid_of
from vitrail.ops.selection import number_kept, select

SOURCE = "LTRP; operations by torch.utils.flop_counter, 2 a multiply-add"
WHOLE = ("", 0.0)  # a key of speeds: all patches, no `keep`


class SelectionAccuracyConfig(Config):
    """Which shares are kept, and how long speed is measured."""

    keeps: Annotated[tuple[float, ...], Listed] = (0.1, 0.25, 0.5, 0.75, 1.0)
    """Shares of the patches that are kept, each in (0, 1]."""
    transform: EvalTransformConfig = EvalTransformConfig()
    seed: int = 0
    """Of the random selection."""
    rounds: int = Field(default=5, ge=0)
    """Of timing, whose median counts; 0 measures no speed."""
    batch_size: int = Field(default=64, ge=1)
    """Images per forward pass; no influence on accuracy, but on speed."""
    workers: int = Field(default=0, ge=0)
    """Loading processes."""
    precision: Precision = "fp32"
    """Of classifier and rankers: fp32 or bf16 autocast."""

    @field_validator("keeps")
    @classmethod
    def _shares(cls, keeps: tuple[float, ...]) -> tuple[float, ...]:
        return shares(keeps)


def flops_of(run: Callable[[], object]) -> int:
    """Floating point operations of a call, 2 a multiply-add, as torch.utils.flop_counter counts them.

    Attention runs as plain products meanwhile, which every version of torch and every device counts alike. Backward
    passes of the call count, too.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH), _Operations() as counter:
        run()
    return counter.total


class _Operations(TorchDispatchMode):
    """Counts by torch's table. Its `FlopCounterMode` also follows modules, and fails where one calls autograd.grad."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        out = func(*args, **kwargs)
        if count is not None:
            self.total += int(count(*args, **kwargs, out_val=out))
        return out


def evaluate(
    backbone: Backbone,
    head: nn.Module,
    val: ImageSet,
    rankers: Mapping[str, Ranker],
    config: SelectionAccuracyConfig | None = None,
    *,
    classes: Sequence[str] | None = None,
    pool: Pool = "cls",
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Accuracy, operations and speed of a classifier on the patches that rankers keep.

    Args:
        head: `[B, D]` -> logits `[B, C]`.
        rankers: by name; `random` is added, drawn from the seed and the image's position.
        classes: names of the head's C outputs; None as for `accuracy`: ImageNet's 1,000 by WordNet ids, or as many as
            the data has classes, in their order.
        pool: what the head reads: the class token, the mean of the kept patches, or all tokens.
        cache: taken so that all protocols are called alike; nothing is kept.

    Returns:
        A report with `full_top1`, `full_gflops`, and for each ranker and keep ratio `center_0.25_top1` and
        `center_0.25_gflops` (with the ranker's). Details: `rows`, one for each ranker and keep ratio, and `full`.

    Raises:
        ValueError: empty or unlabeled data, classes that the head does not know, or a ranker with another grid.
    """
    config = config or SelectionAccuracyConfig()
    if not len(val):
        raise ValueError("selection accuracy: the data set is empty; an evaluation needs at least one image")
    transform = eval_transform(config.transform, backbone)
    model, skipped = SelectingClassifier(backbone, head, pool), dict[int, tuple[str, str]]()
    with ExitStack() as stack:
        place = stack.enter_context(frozen(backbone, device))
        for part in (head, *rankers.values()):
            stack.enter_context(frozen(part, str(place)))
        if classes is None and val.classes is not None:
            classes = output_names(outputs_of(model, transform.config.image_size, place), val.classes)
        batches = ordered_batches(val, transform, config.batch_size, config.workers, skipped=skipped)
        tally = _Tally(model, rankers, config, lambda labels: match_classes(labels, val.classes, classes))
        with progress("selection accuracy", len(val)) as advance:
            for batch in batches:
                with autocast(place, config.precision):
                    tally.add(batch, place)
                advance(len(batch.images))
        if tally.images is None:
            raise ValueError(f"none of the {len(val)} images could be read; run `vitrail doctor` on the folder")
        with autocast(place, config.precision):
            costs = _Costs(model, rankers, config, tally)
            full, rows = costs.full(), costs.rows()
    notes = [f"{len(skipped)} of {len(val)} images could not be read and were left out"] if skipped else []
    card = make_card(
        protocol="selection_accuracy",
        source=SOURCE,
        data={"val": val},
        transform=transform.config,
        layer="last block, after the final norm, of the kept patches",
        token=token_of(pool),
        averaging="share of images, in percent",
        weights=weights_digest(backbone),
        config=config.plain() | {"rankers": {name: weights_digest(ranker) for name, ranker in rankers.items()}},
        backbone=backbone,
        deviations=changes(
            SelectionAccuracyConfig().plain(), config.plain(), (*NO_INFLUENCE, "keeps", "seed", "rounds")
        ),
        seed=config.seed,
        precision=config.precision,
    )
    details = {"full": full, "rows": rows, "images": tally.seen, "patches": tally.patches, "notes": notes}
    return Report("selection_accuracy", _numbers(full, rows), card, details)


class _Tally:
    """Right answers, batch by batch."""

    def __init__(
        self,
        model: SelectingClassifier,
        rankers: Mapping[str, Ranker],
        config: SelectionAccuracyConfig,
        matched: Callable[[Tensor], Tensor],
    ) -> None:
        self.model, self.rankers, self.config, self.matched = model, rankers, config, matched
        self.right: dict[tuple[str, float], int] = {}
        self.full = self.seen = self.patches = 0
        self.images: Tensor | None = None  # the first batch, where it was computed, to measure costs with

    def add(self, batch: Batch, place: torch.device) -> None:
        if batch.labels is None:
            raise ValueError("the images have no labels; give class folders")
        labels = self.matched(batch.labels)
        images = batch.images.to(place, non_blocking=True)
        rows, columns = grid_of(images.shape[-2], images.shape[-1], self.model.backbone.patch_size)
        self.patches = rows * columns
        logits = self.model(images)
        if int(labels.max()) >= logits.shape[1]:
            raise ValueError(f"val has class {int(labels.max())}, but the head has {logits.shape[1]} outputs")
        self.full += _right(logits, labels)
        for key, logits in answers(self.model, self.rankers, images, batch.indices, self.config):
            self.right[key] = self.right.get(key, 0) + _right(logits, labels)
        self.seen += len(labels)
        self.images = images if self.images is None else self.images


class _Costs:
    """Operations on one image and speed on one batch."""

    def __init__(
        self,
        model: SelectingClassifier,
        rankers: Mapping[str, Ranker],
        config: SelectionAccuracyConfig,
        tally: _Tally,
    ) -> None:
        assert tally.images is not None
        self.model, self.rankers, self.config, self.tally = model, rankers, config, tally
        self.images = tally.images
        self.one = self.images[:1]
        self.generator = torch.Generator().manual_seed(config.seed)
        self.speeds = self._speeds() if config.rounds else {}

    def full(self) -> dict[str, Any]:
        """The whole image."""
        return {
            "top1": 100 * self.tally.full / self.tally.seen,
            "gflops": flops_of(lambda: self.model(self.one)) / 1e9,
            "images_per_second": self.speeds.get(WHOLE),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One for each ranker and keep ratio."""
        rows = []
        for (name, keep), right in self.tally.right.items():
            number = number_kept(keep, self.tally.patches)
            rows.append(
                {
                    "ranker": name,
                    "keep": keep,
                    "kept": number,
                    "top1": 100 * right / self.tally.seen,
                    "gflops": self._classifier_flops(number) / 1e9,
                    "gflops_ranker": self._ranker_flops(name, number) / 1e9,
                    "images_per_second": self.speeds.get(("", keep)),
                    "images_per_second_with_ranker": self.speeds.get((name, keep)),
                }
            )
        return rows

    def _classifier_flops(self, number: int) -> int:
        some = torch.arange(number, device=self.images.device)[None]
        return flops_of(lambda: self.model(self.one, some))

    def _ranker_flops(self, name: str, number: int) -> int:
        return 0 if name not in self.rankers else flops_of(lambda: self._scores(name, self.one, number))

    def _scores(self, name: str, images: Tensor, number: int) -> Tensor:
        if name not in self.rankers:
            drawn = torch.rand(len(images), self.tally.patches, generator=self.generator)
            return drawn.to(images.device)
        ranker = self.rankers[name]
        return ranker(renormalized(images, self.model.backbone, ranker), number=number)

    def _speeds(self) -> dict[tuple[str, float], float]:
        """Images a second by ranker and keep; ("", keep) is the classifier alone, `WHOLE` the full image."""
        runs: dict[tuple[str, float], Callable[[], object]] = {}
        for name, keep in self.tally.right:
            number = number_kept(keep, self.tally.patches)
            fixed = select(self._scores("", self.images, number), number)
            runs["", keep] = partial(self.model, self.images, fixed)
            runs[name, keep] = partial(self._ranked, name, number)
        whole: Callable[[], object] = partial(self.model, self.images)
        seconds: dict[tuple[str, float], list[float]] = {}
        for run in [whole, *runs.values()]:
            run()  # allocates memory and chooses kernels
        for _ in range(self.config.rounds):
            for key, run in runs.items():
                seconds.setdefault(WHOLE, []).append(_seconds(whole, self.images.device))
                seconds.setdefault(key, []).append(_seconds(run, self.images.device))
        return {key: len(self.images) / statistics.median(times) for key, times in seconds.items()}

    def _ranked(self, name: str, number: int) -> Tensor:
        return self.model(self.images, select(self._scores(name, self.images, number), number))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _right(logits: Tensor, labels: Tensor) -> int:
    return int(topk_correct(logits.float().cpu(), labels, 1).sum())


def _numbers(full: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, float]:
    numbers = {"full_top1": full["top1"], "full_gflops": full["gflops"]}
    for row in rows:
        name = f"{row['ranker']}_{row['keep']:g}"
        numbers |= {f"{name}_top1": row["top1"], f"{name}_gflops": row["gflops"] + row["gflops_ranker"]}
    return numbers
