"""What every recipe starts from: a backbone with fresh weights or with someone's, and processes that read images."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from vitrail.backbones import BackboneConfig, TimmViT, create, load
from vitrail.config import ConfigError
from vitrail.data import TooManyUnreadable
from vitrail.data.loader import TOLERATED
from vitrail.nn.surgery import surgery
from vitrail.recipes.sources import DataConfig, existing

log = logging.getLogger("vitrail")
HALF = (0.5, 0.5, 0.5)


def check_data(data: DataConfig, image_size: int | tuple[int, int], name: str = "augment.image_size") -> None:
    """Raise where the images are not there, or generated scenes are not of the size that `name` asks for."""
    if data.root is not None:
        existing(data.root)
    elif image_size != data.scenes.image_size:
        raise ConfigError(
            f"data.root is not given, and generated scenes of {data.scenes.image_size} pixels are not what {name} "
            f"{image_size} asks for; give data.root=FOLDER, or make both sizes equal for scenes"
        )


def check_size(backbone: BackboneConfig, image_size: int | tuple[int, int], name: str = "augment.image_size") -> None:
    """Raise `ValueError` where the backbone is to be made for another size than the images have."""
    if backbone.image_size not in (None, image_size):
        raise ValueError(
            f"backbone.image_size {backbone.image_size} and {name} {image_size} differ; set both to the same, or "
            "backbone.image_size to null"
        )


def start(
    wanted: BackboneConfig,
    image_size: int | tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    init_from: str | None = None,
    own: str | None = None,
) -> TimmViT:
    """The backbone that training starts with.

    Args:
        wanted: the architecture; that of weights goes before it, and takes drop path and checkpointing from it.
        image_size: of the images to train on.
        mean, std: of the pixels, for fresh weights; others bring their own.
        init_from: weights to start from; None for fresh ones.
        own: the exported weights of a run that goes on: the network is theirs, so that what it once started from may
            be gone.
    """
    if init_from is None:
        backbone = create(wanted.model_copy(update={"image_size": image_size}))
        backbone.mean, backbone.std = mean, std
        return backbone
    weights = own or init_from
    backbone = load(
        wanted.name if weights == "pretrained" else None,
        weights,
        image_size=image_size,
        drop_path=wanted.drop_path,
        gradient_checkpointing=wanted.gradient_checkpointing,
    )
    found = backbone.config.surgery if backbone.config else None
    if wanted.surgery is not None and not surgery(wanted.surgery).same_block(surgery(found)):
        raise ConfigError(
            f"backbone.surgery = {wanted.surgery!r}, and {weights} was trained with surgery {found!r}; the "
            "architecture follows the weights: set backbone.surgery to null, or take finetune or finetune_sar"
        )
    return backbone


def capped(workers: int) -> int:
    """At most one process a core: more get in each other's way. How many there are changes no image."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if workers > most:
        log.info("workers: %d instead of %d, for as many cores there are", most, workers)
    return min(workers, most)


def tell_unreadable(skipped: Mapping[int, tuple[str, str]], total: int, told: set[int]) -> None:
    """Log validation images that cannot be read, each once; raise `TooManyUnreadable` above 1 %."""
    for index, (path, reason) in sorted(skipped.items()):
        if index not in told:
            told.add(index)
            log.warning("validation image %s cannot be read and is left out: %s", path, reason)
    if len(skipped) > TOLERATED * total:
        raise TooManyUnreadable(skipped, total)
