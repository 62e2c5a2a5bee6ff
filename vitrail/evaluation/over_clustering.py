"""Do clusters of patches agree with classes? k-means on patch features, clusters named by the truth afterwards.

Definition: patch tokens of the last block after the final norm, clustered by cosine (`vitrail.ops.kmeans`), into as
many clusters as there are classes, and into more (over-clustering). Every patch of a validation image joins the cluster
of nearest center; its pixels, those next to its center, are of that cluster. Clusters become classes by their pixels:

    as many as classes or fewer   one to one, so that most pixels are right (Hungarian method)
    more than classes             each cluster to the class that has most of its pixels, many to one (precision)

mIoU is that of the data set, as of `linear_seg`.

Source: after Ziegler and Asano 2022, "Leopart" (arXiv 2204.13101), which clusters into 21 and 500 on VOC; the
one-to-one matching is that of PiCIE (arXiv 2103.17070) and STEGO (arXiv 2203.08414).
Expected: no number is cited, for published ones hang on how many patches are clustered, at what resolution, and whether
the background counts.

Deviations: clusters are fitted on 50,000 patches, drawn evenly from those of the training images (`fit_on=val`: of the
validation images). They are named by the truth of the validation images, as published, which lets more clusters look
better: K names are read off the answer. `match_on=train` names them by the training images, a measurement without
looking at the answer. One run of k-means. Where one class has nearly all pixels, as the background of generated scenes
has, precision gives it every cluster that is not purely something else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from vitrail.config import Listed
from vitrail.contracts import Backbone, ImageSet
from vitrail.data.dense_batches import DenseBatch
from vitrail.data.semantic import SemanticLabels, resized, semantic_labels
from vitrail.evaluation.dense_scoring import evenly, example, per_class
from vitrail.evaluation.features import NO_INFLUENCE, weights_digest
from vitrail.evaluation.patch_sample import PatchConfig, PatchReader, patch_reader, squashing
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.metrics.confusion import Confusion
from vitrail.ops.assignment import best_assignment
from vitrail.ops.kmeans import Means, cosine_kmeans, nearest_center

SOURCE = "after Leopart, Ziegler and Asano 2022, arXiv 2204.13101"
SEGMENTS = True
"""This protocol's images have masks of class ids: of COCO, its semantic maps."""


class OverClusteringConfig(PatchConfig):
    """How many clusters, fitted and named where."""

    clusters: Annotated[tuple[int, ...], Listed] = (0, 500)
    """Numbers of clusters; 0 for as many as there are classes."""
    fit_on: Literal["train", "val"] = "train"
    """Whose patches are clustered."""
    match_on: Literal["val", "train"] = "val"
    """Whose truth names the clusters."""
    patches: int = Field(default=50_000, ge=1)
    """Patches that are clustered; all where there are no more."""
    iterations: int = Field(default=50, ge=1)
    """Of k-means, at most."""

    @field_validator("clusters")
    @classmethod
    def _some(cls, clusters: tuple[int, ...]) -> tuple[int, ...]:
        if not clusters or min(clusters) < 0:
            raise ValueError("give one or more numbers of clusters, 0 for as many as classes")
        return clusters


def evaluate(
    backbone: Backbone,
    train: ImageSet,
    val: ImageSet,
    config: OverClusteringConfig | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Cluster patches and measure the clusters as label maps of `val`; samples have masks.

    Args:
        cache: taken so that all protocols are called alike; patch features are computed anew each time.

    Returns:
        A report with `clusters{K}_miou` and `clusters{K}_accuracy` for each number of clusters, percent, `hungarian_`
        before those that are matched one to one, `floor_majority_miou` and `floor_majority_accuracy`. Details: `runs`
        (of each number how it was matched, the class of each cluster, the mean cosine to the centers), `per_class`.

    Raises:
        ValueError: data without masks, different class lists, a size that the patch size does not divide, or more
            clusters than patches.
    """
    config, labels = config or OverClusteringConfig(), semantic_labels(train, val)
    sets = {"train": train, "val": val}
    numbers_of = sorted({number or labels.classes for number in config.clusters})
    with patch_reader(backbone, labels, config, device) as reader:
        sample = reader.sample(sets[config.fit_on], config.fit_on, config.patches)
        points = sample.patches.to(reader.place)
        found = [cosine_kmeans(points, number, iterations=config.iterations, seed=config.seed) for number in numbers_of]
        tally = _Tally(found, labels, config, evenly(len(val), config.pictures))
        tally.read(reader, val, "val")
        naming = tally
        if config.match_on == "train":
            naming = _Tally(found, labels, config, ())
            naming.read(reader, train, "train")
    runs = [_run(means, named, counts) for means, named, counts in zip(found, naming.counts, tally.counts, strict=True)]
    numbers = {f"{run['name']}_{key}": run.pop(key) for run in runs for key in ("miou", "accuracy")}
    last = runs[-1]
    confusion = Confusion(labels.classes, last.pop("confusion"))
    for run in runs[:-1]:
        run.pop("confusion")
    floor = confusion.constant(int(confusion.counts.sum(1).argmax())).scores()
    details = {
        "images": tally.images,
        "patches": {"clustered": len(points), "of": sample.total},
        "runs": runs,
        "per_class": per_class(labels, confusion, confusion.scores()),
        "classes": list(labels.names),
        "examples": tally.named(len(found) - 1, last["class_of_cluster"]),
        "examples_of": f"{last['name']}_miou",
        "notes": reader.notes,
    }
    numbers |= {"floor_majority_miou": floor.miou, "floor_majority_accuracy": floor.accuracy}
    return Report("over_clustering", numbers, _card(backbone, sets, config), details)


def matched(counts: Tensor) -> Tensor:
    """The class of each cluster, int64 `[K]`; -1 for one that gets none.

    Args:
        counts: int64 `[K, C]`, pixels that cluster and class share.

    One to one and with most pixels right where K <= C; else the class that has most of a cluster's pixels, of equal
    ones the first, and none for a cluster without a labeled pixel.
    """
    clusters, classes = counts.shape
    if clusters <= classes:
        return torch.from_numpy(best_assignment(counts.double().numpy()))
    return torch.where(counts.sum(1) > 0, counts.argmax(1), -1)


def confused(counts: Tensor, classes_of: Tensor) -> Tensor:
    """Counts `[C, C]`, row the true class, of counts `[K, C]` and the class of each cluster, `[K]`.

    Pixels of a cluster without a class are called class 0; there are none where it has no pixel.
    """
    found = torch.zeros(counts.shape[1], counts.shape[1], dtype=torch.int64)
    return found.index_add_(0, classes_of.clamp(min=0), counts).T.contiguous()


class _Tally:
    """Pixels that clusters and classes share, and cluster maps to look at."""

    def __init__(
        self, found: list[Means], labels: SemanticLabels, config: OverClusteringConfig, shown: list[int] | tuple[()]
    ) -> None:
        self.found, self.labels, self.own_size, self.shown = found, labels, config.truth == "image", set(shown)
        self.counts = [torch.zeros(len(means.centers), labels.classes, dtype=torch.int64) for means in found]
        self.maps: list[list[tuple[int, str, Tensor]]] = [[] for _ in found]
        self.images = 0

    def read(self, reader: PatchReader, data: ImageSet, role: str) -> None:
        """Add all images of a set."""
        for batch, features in reader.batches(data, role):
            points = features.permute(0, 2, 3, 1)
            for place, means in enumerate(self.found):
                clusters = nearest_center(points.flatten(0, 2), means.centers)[1].reshape(points.shape[:3]).cpu()
                self._add(place, batch, clusters)
            self.images += len(batch.indices)

    def _add(self, place: int, batch: DenseBatch, clusters: Tensor) -> None:
        counts = self.counts[place]
        for row, index in enumerate(batch.indices):
            truth = batch.truths[row] if self.own_size else batch.targets[row]
            called = resized(clusters[row : row + 1], (truth.shape[0], truth.shape[1]))[0]
            known = truth >= 0
            pairs = called[known] * self.labels.classes + truth[known]
            counts += torch.bincount(pairs, minlength=counts.numel()).reshape(counts.shape)
            if index in self.shown:
                self.maps[place].append((index, batch.paths[row], called))

    def named(self, place: int, classes_of: list[int]) -> list[dict[str, Any]]:
        """The kept maps with classes for clusters."""
        table = torch.tensor(classes_of).clamp(min=0)
        return [example(index, path, table[called]) for index, path, called in self.maps[place]]


def _run(means: Means, naming: Tensor, counts: Tensor) -> dict[str, Any]:
    clusters, classes = counts.shape
    classes_of = matched(naming)
    confusion = Confusion(classes, confused(counts, classes_of))
    scores = confusion.scores()
    one_to_one = clusters <= classes
    return {
        "name": f"{'hungarian_' if one_to_one else ''}clusters{clusters}",
        "clusters": clusters,
        "matching": "one to one" if one_to_one else "many to one",
        "class_of_cluster": classes_of.tolist(),
        "mean_cosine": means.likeness,
        "iterations": means.iterations,
        "miou": scores.miou,
        "accuracy": scores.accuracy,
        "confusion": confusion.counts,
    }


def _card(backbone: Backbone, sets: dict[str, ImageSet], config: OverClusteringConfig) -> dict[str, Any]:
    size = "each mask's own size" if config.truth == "image" else "the size of what the backbone sees"
    usual = OverClusteringConfig().plain()
    return make_card(
        protocol="over_clustering",
        source=SOURCE,
        data=sets,
        transform=squashing(backbone, config).config,
        layer="last block, after the final norm",
        token=f"patches, by direction; fitted on {config.fit_on}, named by the truth of {config.match_on}",
        averaging=f"IoU of pixels counted over the whole validation set at {size}, mean over classes; percent",
        weights=weights_digest(backbone),
        config=config.plain(),
        backbone=backbone,
        deviations=changes(usual, config.plain(), (*NO_INFLUENCE, "pictures", "seed")),
        seed=config.seed,
        precision=config.precision,
    )
