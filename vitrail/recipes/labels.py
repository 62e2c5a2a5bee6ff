"""Labels of patches, made once and kept: for `vitrail label`, and for the recipes of LTRP that read them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitrail.backbones import digest, load, need_part
from vitrail.config import ConfigError
from vitrail.contracts import ImageSet
from vitrail.data import TrainTransformConfig, build_train_transform, ordered_batches
from vitrail.data.loader import Transform, sample_seed
from vitrail.data.patch_labels import (
    PatchLabels,
    Share,
    begin,
    differing,
    members,
    missing,
    shard_file,
    shards,
    unlabeled,
    write_shard,
)
from vitrail.evaluation.progress import progress
from vitrail.masks.counts import number_of
from vitrail.methods.ltrp import LtrpConfig
from vitrail.nn.patch_removal import PatchRemoval, RemovalConfig
from vitrail.ops.patches import grid_of, sides_of
from vitrail.recipes.reconstructions import Autoencoder, open_autoencoder
from vitrail.recipes.run import resolve
from vitrail.recipes.sources import Part, open_splits
from vitrail.recipes.start import capped, tell_unreadable
from vitrail.recipes.weights import find_weights, pick_device
from vitrail.train import Ranks, join, launched

log = logging.getLogger("vitrail")
FIXED = {"scale": None, "flip": 0.0, "rand_augment": None, "color_jitter": (0.0, 0.0, 0.0, 0.0), "erase": 0.0}
"""Settings of `augment` under which an image always becomes the same pixels."""


class Wanted(NamedTuple):
    """What labels are to be of."""

    data: ImageSet
    augment: TrainTransformConfig
    method: LtrpConfig
    precision: str = "fp32"  # of autocast, as in `TrainConfig`
    seed: int = 0
    workers: int = 0
    perceptual: str | None = None  # weights of the network whose features the metric of this name compares


def label_by(
    name: str, settings: Sequence[str], out: Path, draws: int, *, device: str = "auto", share: Share | None = None
) -> tuple[Path, str]:
    """Label the training images of a recipe of LTRP; returns the folder, and how to go on, in words.

    Called by several processes of one launcher, each takes its part of the share.

    Args:
        name, settings: of the recipe.
        out: folder of the labels.
        draws: of visible patches, an image.
        device: to compute on; of several processes, each has a GPU of its own.
        share: which shards to label; all by default.

    Raises:
        ValueError: for another recipe, one without an autoencoder, and whatever `make_labels` raises.
    """
    recipe: Any = resolve(name).override(settings)
    if getattr(recipe, "kind", None) != "ltrp":
        raise ConfigError(f"{name} is no recipe of LTRP; take folder_ltrp, scenes_ltrp or ltrp_small")
    if recipe.mae is None:
        raise ConfigError("labels are made by a masked autoencoder; set mae=RUN, a run of folder_mae, or a file of MAE")
    train, workers = recipe.train, capped(recipe.workers)
    data = open_splits(recipe.data).train
    wanted = Wanted(data, recipe.augment, recipe.method, train.precision, train.seed, workers, recipe.perceptual)
    ranks = join(device) if launched() else None
    make_labels(
        open_labeler(recipe.mae, recipe.decoder_heads), wanted, out, draws, device=device, share=share, ranks=ranks
    )
    left, count = missing(out, len(data)), shards(len(data))
    if left:
        return out, f"{len(left)} of {count} shards are not there yet; they are those of other parts"
    return out, "train with: " + " ".join([f"method.labels={out}", *_fixing(recipe.augment)])


def make_labels(
    found: Autoencoder,
    wanted: Wanted,
    out: Path,
    draws: int,
    *,
    device: str = "auto",
    share: Share | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Label each image under some draws of visible patches; goes on where it was stopped. Returns the folder.

    The draws of an image depend on the seed and its position alone, so shards are the same whoever makes them.

    Args:
        found: the masked autoencoder.
        wanted: images, size, and what is removed; the images are not augmented, whatever `augment` says.
        out: folder of the labels.
        draws: D, from 1 on.
        device: to compute on; that of `ranks` where these are given.
        share: which shards to label; all by default.
        ranks: this process among others that do the share together; all of them call this.

    Raises:
        ValueError: less than one draw, a share without any shard, sizes that do not fit, other labels in that folder,
            or more than 1 % of the images of the share that cannot be read.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; each image is labeled at least once")
    _check_size(wanted, found)
    share, count = share or Share(), len(wanted.data)
    share.check(count)
    own = share if ranks is None else share.split(ranks.rank, ranks.world)
    place = pick_device(device) if ranks is None else str(ranks.device)
    labeler = removal_by(found, wanted.method.removal, wanted.perceptual).to(place)
    about = {**about_labels(wanted, found), "draws": draws, "seed": wanted.seed, "images": count}
    augment = wanted.augment.model_copy(update={**FIXED, "mean": found.backbone.mean, "std": found.backbone.std})
    transform, skipped = build_train_transform(augment), dict[int, tuple[str, str]]()
    todo = [number for number in begin(out, about) if own.takes(number)]
    for number in range(shards(count)):
        if own.takes(number) and number not in todo:
            file = shard_file(out, number)
            why = f"it could not be read when {file.name} was made; mend it and remove that file to label it anew"
            skipped |= {index: (f"image {index}", why) for index in unlabeled(out, number, count)}
    total = _images(own, count)
    with progress("labels", total) as advance:
        advance(total - sum(len(members(number, count)) for number in todo), ready=True)
        for number in todo:
            part = _Shard(labeler, wanted, members(number, count), draws)
            ids, labels = part.labeled(transform, place, skipped, advance)
            write_shard(out, number, ids, labels)
    found_by = [skipped] if ranks is None else ranks.gather(skipped)
    tell_unreadable(
        {index: why for part in found_by for index, why in part.items()}, _images(share, count), set(), "image"
    )
    return out


def _check_size(wanted: Wanted, found: Autoencoder) -> None:
    size, patch = wanted.augment.image_size, found.backbone.patch_size
    sides = sides_of(size)
    if sides[0] % patch[0] or sides[1] % patch[1]:
        fits = found.backbone.image_size
        raise ValueError(
            f"images of {sides[0]} x {sides[1]} pixels are no whole patches of the autoencoder, which are {patch[0]} x "
            f"{patch[1]}; set augment.image_size={fits[0] if fits[0] == fits[1] else list(fits)}, as it has been "
            f"trained, and for the ranking model backbone.patch_size={patch[0]}"
        )


def _images(share: Share, count: int) -> int:
    return sum(len(members(number, count)) for number in range(shards(count)) if share.takes(number))


def about_labels(wanted: Wanted, found: Autoencoder | None) -> dict[str, Any]:
    """What decides labels, as JSON values; without an autoencoder, all but its digest and the grid."""
    augment, method = wanted.augment, wanted.method
    size = augment.image_size
    sides = sides_of(size)
    about = {
        "data": wanted.data.digest(),
        "image_size": list(sides),
        "interpolation": augment.interpolation,
        "hidden": method.hidden,
        "removal": _of_removal(method.removal),
    }
    if wanted.perceptual is not None:
        about["perceptual"] = digest(load(None, find_weights(wanted.perceptual)))
    if found is not None:
        about["autoencoder"] = digest_of(found)
        about["grid"] = list(grid_of(*sides, found.backbone.patch_size))
        about["precision"] = wanted.precision
    return about


def open_labels(wanted: Wanted, found: Autoencoder | None) -> PatchLabels:
    """The labels that `wanted.method.labels` names, checked: of these images, of this size, of this autoencoder.

    Raises:
        ValueError: for labels that are not finished, or of something else; and for images that are augmented.
    """
    assert wanted.method.labels is not None
    check_fixed(wanted.augment)
    labels = PatchLabels(wanted.method.labels)
    asked = {key: value for key, value in about_labels(wanted, found).items() if key != "precision"}
    reason = differing(labels.about, asked)
    if reason:
        raise ValueError(
            f"the labels in {labels.folder} are of something else: {reason}; make labels anew, or change the settings "
            "back"
        )
    return labels


def check_fixed(augment: TrainTransformConfig) -> None:
    """Raise `ConfigError`, with what to set, where an image may become other pixels than those that were labeled."""
    changes = [name for name, value in FIXED.items() if getattr(augment, name) != value]
    if changes:
        words = " ".join(_fixing(augment))
        now = ", ".join(f"{name} {getattr(augment, name)}" for name in changes)
        raise ConfigError(
            f"method.labels are of images that are not augmented, and here they are ({now}); set {words}, or leave "
            "method.labels out"
        )


def open_labeler(weights: str, heads: int | None = None, device: str = "cpu") -> Autoencoder:
    """A masked autoencoder that predicts plain pixels, if its file does not say otherwise, which is told.

    Args:
        weights: a run folder of MAE, or a file with a decoder, such as mae_visualize_vit_base.pth.
        heads: attention heads of the decoder, for files that do not say.
        device: where to.
    """
    where = find_weights(weights)
    said = need_part(where, "decoder", heads=heads).normalized_targets
    if said:
        log.warning(
            "%s predicts pixels normalized within each patch; LTRP's labels are of plain pixels, as MAE learns with "
            "method.normalized_targets=false",
            weights,
        )
    return open_autoencoder(where, heads=heads, normalized=bool(said), device=device)


def removal_by(found: Autoencoder, config: RemovalConfig, perceptual: str | None = None) -> PatchRemoval:
    """What labels patches by this autoencoder.

    Args:
        found: the autoencoder.
        config: what is removed, and how the change is measured.
        perceptual: for the metric of this name, weights of the network whose features are compared.

    Raises:
        ConfigError: that metric without weights, or weights that another metric would pass over.
    """
    if (config.metric == "perceptual") != (perceptual is not None):
        raise ConfigError(
            f"method.removal.metric is {config.metric} and perceptual is {perceptual}; the metric perceptual compares "
            "features of a network: set perceptual=WEIGHTS for it, and leave it out for the others"
        )
    network = None if perceptual is None else load(None, find_weights(perceptual))
    decoder: Any = found.decoder
    return PatchRemoval(found.backbone, decoder, config, network, normalized_targets=found.normalized)


def digest_of(found: Autoencoder) -> str:
    """16 hex digits over encoder, decoder and the normalization of pixels."""
    total = hashlib.sha256(digest(found.backbone).encode())
    total.update(json.dumps([list(found.backbone.mean), list(found.backbone.std)]).encode())
    total.update(json.dumps(getattr(found.decoder, "config").plain()).encode())  # noqa: B009
    for name, value in sorted(found.decoder.state_dict().items()):
        total.update(f"{name} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


class _Shard(NamedTuple):
    """Some images and what labels them."""

    labeler: PatchRemoval
    wanted: Wanted
    members: range  # positions in the whole set
    draws: int

    def labeled(
        self, transform: Transform, place: str, skipped: dict[int, tuple[str, str]], advance: Any
    ) -> tuple[Tensor, Tensor]:
        """Ids and labels, `[n, D, V]`; unreadable images are added to `skipped`."""
        shape = (len(self.members), self.draws, self._visible())
        ids, labels = torch.full(shape, -1), torch.zeros(shape)
        lost: dict[int, tuple[str, str]] = {}
        data = Part(self.wanted.data, self.members)
        for batch in ordered_batches(data, transform, 64, self.wanted.workers, skipped=lost):
            images, rows = batch.images.to(place), batch.indices
            for draw in range(self.draws):
                seen = torch.stack([self._drawn(self.members[row], draw) for row in rows.tolist()])
                with _autocast(self.wanted.precision, place):
                    ids[rows, draw], labels[rows, draw] = seen, self.labeler(images, seen.to(place)).float().cpu()
            advance(len(rows))
        skipped |= {self.members[index]: why for index, why in lost.items()}
        advance(len(lost))
        return ids, labels

    def _drawn(self, index: int, draw: int) -> Tensor:
        """Ids of visible patches, ascending: a function of seed, image and number of the draw."""
        generator = torch.Generator().manual_seed(sample_seed(self.wanted.seed, draw, index))
        return torch.rand(self._patches(), generator=generator).argsort()[: self._visible()].sort().values

    def _patches(self) -> int:
        size = self.wanted.augment.image_size
        sides = sides_of(size)
        rows, columns = grid_of(*sides, self.labeler.backbone.patch_size)
        return rows * columns

    def _visible(self) -> int:
        return self._patches() - number_of(self.wanted.method.hidden, self._patches())


def _of_removal(config: RemovalConfig) -> Mapping[str, Any]:
    idle = {"chunk"} if config.mode == "approximate" else {"chunk", "groups"}  # how fast, or for approximate labels
    return {name: value for name, value in config.plain().items() if name not in idle}


def _autocast(precision: str, place: str) -> Any:
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return nullcontext() if kind is None else torch.autocast(place.partition(":")[0], kind)


def _fixing(augment: TrainTransformConfig) -> list[str]:
    """The settings that switch augmentation off."""
    return [f"augment.{name}={_said(value)}" for name, value in FIXED.items() if getattr(augment, name) != value]


def _said(value: Any) -> str:
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value).replace(" ", "")
