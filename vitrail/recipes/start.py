"""What every recipe starts from: a backbone with fresh weights or with someone's, and processes that read images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from vitrail.backbones import (
    AnyBackbone,
    BackboneConfig,
    StagedBackbone,
    TimmConvNet,
    add_object_filter,
    create,
    load,
    need_vit,
)
from vitrail.config import Config, ConfigError
from vitrail.contracts import ImageSet
from vitrail.data import EvalTransformConfig, Loader, MultiCropConfig, TooManyUnreadable
from vitrail.data.loader import TOLERATED, Transform
from vitrail.nn.surgery import surgery
from vitrail.ops.patches import sides_of
from vitrail.recipes.files import existing
from vitrail.recipes.look import attention_sheet, keep_sheet
from vitrail.recipes.sources import DataConfig, Splits, fetched
from vitrail.regularizers import RegularizerConfig, WeightConfig
from vitrail.regularizers.spatial_entropy import check_maps
from vitrail.train import TrainConfig

log = logging.getLogger("vitrail")
HALF = (0.5, 0.5, 0.5)
SAR = RegularizerConfig(kind="spatial_entropy")
"""Spatial entropy of the last block, weight 0.01 (Eq. 9 of SAR's paper)."""
R = TypeVar("R", bound=Config)
"""A recipe's class, with `backbone` and `method`."""


def with_sar(recipe: R, entropy: RegularizerConfig = SAR) -> R:
    """A recipe with SAR: the last block cut (row F of Table 1b), and the loss."""
    given: Any = recipe
    backbone = given.backbone.model_copy(update={"surgery": "F"})
    return with_entropy(recipe.model_copy(update={"backbone": backbone}), entropy)


def with_entropy(recipe: R, entropy: RegularizerConfig = SAR) -> R:
    """A recipe with SAR's loss alone; the network stays as it is."""
    given: Any = recipe
    method = given.method.model_copy(update={"regularizers": (entropy,)})
    return recipe.model_copy(update={"method": method})


def check_mixed(data: DataConfig, scene_data: DataConfig | None) -> None:
    """Raise where the folders of images are not there, or only one of them is generated."""
    for each in (data, scene_data):
        if each is not None and each.root is not None:
            existing(each.root)
    if scene_data is not None and (data.root is None) != (scene_data.root is None):
        known, name = (data.root, "scene_data.root") if data.root else (scene_data.root, "data.root")
        raise ConfigError(
            f"{known} is to be mixed with generated scenes; give {name}=FOLDER, too, or leave scene-centric images out "
            "with scene_data=null"
        )


def check_data(data: DataConfig, image_size: int | tuple[int, int], name: str = "augment.image_size") -> None:
    """Raise where the images are not there, or generated scenes are not of the size that `name` asks for."""
    if data.root is not None:
        fetched(data.root, data.download)
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


def check_views(
    backbone: BackboneConfig, views: MultiCropConfig, spoken_of: int | None, epochs: int, name: str = "method.epochs"
) -> None:
    """Raise `ValueError` where crops do not suit the backbone, or a method counts other epochs than the trainer."""
    check_size(backbone, views.global_size, "views.global_size")
    if spoken_of not in (None, epochs):
        raise ValueError(f"{name} is {spoken_of} and train.epochs is {epochs}; set the first to null")
    if backbone.patch_size is not None:
        check_crops(backbone.patch_size, views)


def check_crops(patch_size: int | tuple[int, int], views: MultiCropConfig) -> None:
    """Raise `ValueError` where a crop does not hold whole patches."""
    sides = sides_of(patch_size)
    sizes = {"global_size": views.global_size} | ({"local_size": views.local_size} if views.locals else {})
    for what, size in sizes.items():
        for side in sides:
            if size % side:
                raise ValueError(
                    f"views.{what} {size} is not a multiple of the patch size {side}, so a crop does not hold whole "
                    f"patches; set it to {max(size // side, 1) * side}, or change the backbone's patch_size"
                )


def check_weights(regularizers: Sequence[RegularizerConfig], epochs: int) -> None:
    """Raise `ValueError` where a regularizer's weight is planned for other epochs than the trainer's."""
    for regularizer in regularizers:
        weight = regularizer.weight
        if weight.kind == "warmup_cosine" and weight.epochs not in (None, epochs):
            raise ValueError(
                f"a regularizer's warmup_cosine weight is planned for {weight.epochs} epochs and "
                f"train.epochs is {epochs}; set the first to null"
            )


def check_entropy(
    regularizers: Sequence[RegularizerConfig], backbone: AnyBackbone, *sizes: int | tuple[int, int]
) -> None:
    """Raise `ValueError` where the spatial entropy is wanted, and images of one of these sizes have too few keys."""
    if all(each.kind != "spatial_entropy" for each in regularizers):
        return
    for size in sizes:
        height, width = sides_of(size)
        grid = (height // backbone.patch_size[0], width // backbone.patch_size[1])
        check_maps(*(backbone.net.keys_grid(grid) if isinstance(backbone, StagedBackbone) else grid))


def regularized_sizes(views: MultiCropConfig, regularize: Literal["global", "all"]) -> tuple[int, ...]:
    """Sizes of the crops that regularizers see."""
    local = (views.local_size,) if regularize == "all" and views.locals else ()
    return (views.global_size, *local)


def timed(regularizers: Sequence[RegularizerConfig], epochs: int) -> tuple[RegularizerConfig, ...]:
    """The same regularizers, with weights over time that know how long the training is."""
    known = []
    for each in regularizers:
        weight = each.weight.model_dump()
        if weight["kind"] == "warmup_cosine":
            weight["epochs"] = epochs
        known.append(each.model_copy(update={"weight": WeightConfig.parse(weight, source="method.regularizers")}))
    return tuple(known)


def seen_by(backbone: AnyBackbone | TimmConvNet, image_size: int | tuple[int, int]) -> EvalTransformConfig:
    """How held-out images are brought to the size that a backbone is trained at."""
    return EvalTransformConfig(image_size=image_size, mean=backbone.mean, std=backbone.std)


def drawing(splits: Splits) -> Callable[[Path, str, AnyBackbone], None]:
    """A function that draws the last block's attention on held-out images into a run's folder of pictures."""

    def draw(folder: Path, when: str, drawn: AnyBackbone) -> None:
        if drawn.closed:
            log.warning("no attention is drawn: %s", next(iter(drawn.closed.values())))
            return
        title = f"Attention of the last block, {when} training"
        caption = (
            f"{title}: image, each head, mean over heads. Each map is drawn from its lowest to its highest weight, "
            "which is told as max; uniform is what each patch would have if all had the same."
        )
        keep_sheet(folder, f"attention_{when}.png", attention_sheet(drawn, splits.val, title=title), caption)

    return draw


def start(
    wanted: BackboneConfig,
    image_size: int | tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    init_from: str | None = None,
    own: str | None = None,
) -> AnyBackbone:
    """The backbone that training starts with.

    Args:
        wanted: the architecture; that of weights goes before it, and takes drop path and checkpointing from it, and a
            fresh object-aware filter where it has none.
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
    if own is None and backbone.report is not None:
        log.info("%s: %s", weights, backbone.report.words())
    found = backbone.config.surgery if backbone.config else None
    if wanted.surgery is not None and not surgery(wanted.surgery).same_block(surgery(found)):
        raise ConfigError(
            f"backbone.surgery = {wanted.surgery!r}, and {weights} was trained with surgery {found!r}; the "
            "architecture follows the weights: set backbone.surgery to null, or take finetune or finetune_sar"
        )
    _give_filter(backbone, wanted, weights)
    return backbone


def _give_filter(backbone: AnyBackbone, wanted: BackboneConfig, weights: str) -> None:
    """Put in the object-aware filter that is wanted; weights with another one are refused."""
    found = backbone.config.object_filter if backbone.config else None
    if wanted.object_filter is None or found == wanted.object_filter:
        return
    if found is not None:
        raise ConfigError(
            f"backbone.object_filter = {wanted.object_filter}, and {weights} was trained with {found}; the "
            "architecture follows the weights: set backbone.object_filter to null"
        )
    add_object_filter(need_vit(backbone, "an object-aware filter"), wanted.object_filter)
    log.info("%s: a fresh object-aware filter was put into the last block", weights)


def loading(data: ImageSet, transform: Transform, train: TrainConfig, workers: int, rank: int, world: int) -> Loader:
    """The loader of one of `world` processes, for batches as the trainer wants them."""
    return Loader(
        data,
        transform,
        global_batch_size=train.global_batch_size,
        seed=train.seed,
        rank=rank,
        world=world,
        accumulate=train.accumulate,
        workers=workers,
    )


def capped(workers: int) -> int:
    """At most one process a core: more get in each other's way. How many there are changes no image."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if workers > most:
        log.info("workers: %d instead of %d, for as many cores there are", most, workers)
    return min(workers, most)


def tell_unreadable(
    skipped: Mapping[int, tuple[str, str]], total: int, told: set[int], what: str = "validation image"
) -> None:
    """Log images that cannot be read, each once; raise `TooManyUnreadable` above 1 %."""
    for index, (path, reason) in sorted(skipped.items()):
        if index not in told:
            told.add(index)
            log.warning("%s %s cannot be read and is left out: %s", what, path, reason)
    if len(skipped) > TOLERATED * total:
        raise TooManyUnreadable(skipped, total)
