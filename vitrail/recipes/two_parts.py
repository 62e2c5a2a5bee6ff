"""What recipes of LocLoc and PPD share: where masks come from, the generator's own training, numbers and pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from vitrail.backbones import BackboneConfig, TimmViT, load, need_vit
from vitrail.config import Config, ConfigError, merged
from vitrail.contracts import ImageSet
from vitrail.data import EvalTransformConfig, Loader
from vitrail.data.mask_views import MaskViews, MaskViewsConfig
from vitrail.data.mask_writer import remove_other_masks
from vitrail.data.object_masks import ObjectMasks, ObjectMasksConfig, WithObjectMasks, is_finished
from vitrail.recipes import dino, supervised
from vitrail.recipes.following import followed
from vitrail.recipes.localization_probe import LocalizationProbeConfig, drawing_located, localization_probe
from vitrail.recipes.object_masks import (
    about_masks,
    await_object_masks,
    check_settings,
    make_object_masks,
    tell_coverage,
)
from vitrail.recipes.probe import spread
from vitrail.recipes.run import Parts, Verbs, family_of, look_ahead, train_before
from vitrail.recipes.sources import DataConfig, Splits, open_splits
from vitrail.recipes.start import capped, check_data, check_size, loading
from vitrail.recipes.weights import find_weights
from vitrail.train import TrainConfig, join

log = logging.getLogger("vitrail")
MASKS = ObjectMasksConfig(size=48, high=0.2, low=0.05, threshold=0.2)
"""Of generated scenes: a short training's attention is less sharp than that of the published weights."""


class TwoParts(Config):
    """A generator and a classifier on a frozen backbone."""

    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    init_from: str | None = None
    """Weights of the backbone, which rests, and of parts that were trained before; null trains `stage1` first."""
    stage1: Annotated[dino.Recipe | supervised.Recipe, Field(discriminator="kind")] | None = None
    """A training of the backbone that comes first, into OUT/stage1, where `init_from` is null: by DINO, or with labels,
    which weak supervision has. Its data and its network follow `data` and `backbone` unless they are given."""
    object_masks: str | None = None
    """Folder of masks by `vitrail object-masks`, of these weights, whose settings it brings; null makes them before
    training, OUT/object_masks."""
    masks_from: str | None = None
    """Weights whose attention makes the masks; null for those that training starts from."""
    mask_settings: ObjectMasksConfig = ObjectMasksConfig()
    """How masks are made."""
    which: Literal["enhanced", "plain"] = "enhanced"
    """What is learned from: GrabCut's mask, or attention over a threshold."""
    views: MaskViewsConfig = MaskViewsConfig()
    """Its sizes follow `views.image_size` unless they are given."""
    generator_train: TrainConfig | None = None
    """The generator's own training, which comes first, into OUT/generator; `train` is then the classifier's. null
    trains both parts together."""
    train: TrainConfig = TrainConfig()
    probe: LocalizationProbeConfig = LocalizationProbeConfig()
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images, at most one a core; 0 does it in the training process."""

    def override(self, overrides: Iterable[str]) -> Self:
        """As any configuration; what follows other settings comes along, see `vitrail.recipes.following`."""
        texts, before = list(overrides), self.plain()
        return type(self).parse(followed(before, merged(before, texts), texts), source="overrides")


def check_two_parts(recipe: Any) -> None:
    """Raise for what can be seen wrong before any process is started: data folder, weights, masks, sizes."""
    check_data(recipe.data, recipe.views.image_size, "views.image_size")
    check_size(recipe.backbone, recipe.views.image_size, "views.image_size")
    if recipe.init_from is None and recipe.stage1 is None:
        raise ConfigError(
            "the backbone rests, so it has to be trained before; name its weights with --init-from WEIGHTS (a run of "
            "DINO, or dino_deitsmall16_pretrain.pth)"
        )
    if recipe.init_from is None:
        try:
            family_of(recipe.stage1).check(recipe.stage1)
        except ValueError as error:
            raise ConfigError(f"stage1: {error}") from None
    if recipe.object_masks is not None and not Path(recipe.object_masks).expanduser().is_dir():
        raise ConfigError(
            f"object_masks={recipe.object_masks} is not there; make it with `vitrail object-masks`, or leave it out"
        )
    if recipe.masks_from is not None:
        find_weights(recipe.masks_from)


def first_of_two(recipe: Any, verbs: Verbs, out: Path) -> Any:
    """Train stage 1 where no weights are named, make masks where none are, and train the generator where it is first.

    Returns the recipe of what is left to train.
    """
    stage1 = recipe.init_from is None and recipe.stage1 is not None
    masks = recipe.object_masks is None and needs_masks(recipe)
    generator = recipe.generator_train is not None and recipe.method.parts == "both"
    if stage1 or masks or generator:
        _look_ahead(recipe, verbs, masks, generator)
    if stage1:
        place = train_before(recipe.stage1, verbs, out, "stage1", "the backbone")
        recipe = recipe.model_copy(update={"init_from": str(place)})
    if masks:
        recipe = recipe.model_copy(update={"object_masks": str(_made_masks(recipe, verbs, out / "object_masks"))})
    if recipe.object_masks is not None:  # of these weights, also where the second part starts from the first one's
        recipe = recipe.model_copy(update={"masks_from": recipe.masks_from or recipe.init_from})
    if not generator:
        return recipe
    place = train_before(_of_part(recipe, "generator"), verbs, out, "generator", "the generator")
    return _of_part(recipe, "classifier").model_copy(update={"init_from": str(place)})


def _look_ahead(recipe: Any, verbs: Verbs, masks: bool, generator: bool) -> None:
    """Raise for what training would refuse after hours of what comes first: batches, classes, patches, heads.

    Args:
        masks: whether they are made.
        generator: whether it is trained on its own.
    """
    if generator:
        try:
            look_ahead(_of_part(recipe, "generator"), verbs)
        except ValueError as error:
            raise ConfigError(f"generator_train: {error}") from None
    parts = look_ahead(_of_part(recipe, "classifier") if generator else recipe, verbs)
    if parts is not None and masks:
        backbone = parts.method.backbone
        check_settings(_attending(recipe, recipe.masks_from) if recipe.masks_from else backbone, recipe.mask_settings)


def needs_masks(recipe: Any) -> bool:
    """Whether what is trained learns from masks."""
    return recipe.method.parts != "classifier" or recipe.views.masked


def fits(name: str, trained: bool, same: bool, weights: str) -> bool:
    """Whether a part that the weights bring is taken over: one that is trained on has to be of the wanted make."""
    if not trained or same:
        return True
    log.info("%s brings a %s of another make, and a fresh one is trained", weights, name)
    return False


def check_patches(backbone: TimmViT, views: MaskViewsConfig) -> None:
    """Raise `ConfigError` where a view does not hold whole patches."""
    size = views.augment.image_size
    sides = (size, size) if isinstance(size, int) else size
    for name, side in (("views.image_size", views.image_size), *(("views.augment.image_size", each) for each in sides)):
        for patch in backbone.patch_size:
            if side % patch:
                raise ConfigError(
                    f"{name} {side} is not a multiple of the patch size {patch}; set it to "
                    f"{max(side // patch, 1) * patch}"
                )


def assembled(
    recipe: Any, method: Any, splits: Splits, opened: Callable[[str], Any], rank: int, world: int, own: str | None
) -> Parts:
    """Loader, numbers and pictures of a method with a `localizer`, for one of `world` processes."""
    backbone, parts = method.backbone, recipe.method.parts
    method.check_batch(recipe.train.global_batch_size // world // recipe.train.accumulate)
    images: ImageSet = splits.train
    if recipe.object_masks is not None and needs_masks(recipe):
        masks = ObjectMasks.open(recipe.object_masks)
        # The weights of a run that goes on need not be there any more; they were compared when it began.
        if own is None:
            _check_masks(recipe, masks, images)
            if rank == 0 and parts != "classifier":  # whose masks were told of when its generator was trained
                tell_coverage(masks, recipe.which)
        images = WithObjectMasks(images, masks, recipe.which)
    # Normalization belongs to the weights.
    views = MaskViews(recipe.views.normalized(tuple(backbone.mean), tuple(backbone.std)), parts)
    loader: Loader = loading(images, views, recipe.train, capped(recipe.workers), rank, world)
    seen = EvalTransformConfig(
        image_size=recipe.views.image_size,
        mode="squash" if recipe.views.squash else "crop",
        mean=backbone.mean,
        std=backbone.std,
    )
    held_out = spread(splits.val, recipe.probe.images)
    numbers = localization_probe(method.localizer, held_out, seen, recipe.probe.threshold)
    draw = drawing_located(method.localizer, held_out, seen, recipe.probe.threshold)
    return Parts(method, loader, numbers, draw, opened)


def _made_masks(recipe: Any, verbs: Verbs, path: Path) -> Path:
    """Make the masks of the images to train on, by the first process, or what is left of that."""
    ranks = join(recipe.train.device)
    going_on = verbs.resume or verbs.extend is not None
    if ranks.main and not (going_on and is_finished(path)):
        weights = recipe.masks_from or recipe.init_from
        assert weights is not None  # `check` and `first_of_two` have looked
        backbone, images = _attending(recipe, weights), open_splits(recipe.data).train
        if verbs.overwrite:
            remove_other_masks(path, about_masks(backbone, images, recipe.mask_settings))
        ranks.agree(None)
        make_object_masks(backbone, images, path, recipe.mask_settings, workers=capped(recipe.workers))
    else:
        ranks.agree(None)  # from here on, finished masks are not about to be removed
    await_object_masks(path, ranks.main)
    return path


def _check_masks(recipe: Any, masks: ObjectMasks, images: ImageSet) -> None:
    """Raise `ValueError` for masks of other images, weights or settings than the recipe names."""
    masks.check(images)
    weights = recipe.masks_from or recipe.init_from
    if weights is None:  # stage 1 is not trained yet
        return
    wanted = about_masks(_attending(recipe, weights), images, recipe.mask_settings)
    if masks.about["weights"] != wanted["weights"]:
        named = f"masks_from={weights}" if recipe.masks_from else f"init_from={weights}"
        raise ValueError(
            f"the masks in {masks.folder} are of weights with the digest {masks.about['weights']}, and {named} has "
            f"{wanted['weights']}; name the masks' weights as masks_from=WEIGHTS, or leave object_masks out to make new"
        )
    names = [name for name in ObjectMasksConfig.model_fields if masks.about.get(name) != wanted[name]]
    if names:
        made, said = (", ".join(f"{each}={of.get(each)}" for each in names) for of in (masks.about, wanted))
        raise ValueError(
            f"the masks in {masks.folder} were made with {made}, and mask_settings says {said}; set mask_settings as "
            "they were made, leave them out of a command that names object_masks, which brings them, or leave "
            "object_masks out to make new"
        )


def _attending(recipe: Any, weights: str) -> TimmViT:
    """The network whose attention makes the masks, at its own image size."""
    return need_vit(load(recipe.backbone.name if weights == "pretrained" else None, weights), "making object masks")


def _of_part(recipe: Any, part: str) -> Any:
    """The recipe that trains this part alone."""
    shared = {name: getattr(recipe.train, name) for name in ("seed", "device", "deterministic")}
    train = recipe.generator_train.model_copy(update=shared) if part == "generator" else recipe.train
    method = recipe.method.model_copy(update={"parts": part, "generator_rate": 1.0})
    return recipe.model_copy(update={"method": method, "train": train, "generator_train": None})
