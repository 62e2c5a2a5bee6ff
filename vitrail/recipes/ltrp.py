"""LTRP: on scenes, on a folder, by the published values; a masked autoencoder comes first.

vitrail train folder_mae data.root=photos method.normalized_targets=false --out runs/mae
vitrail train folder_ltrp data.root=photos mae=runs/mae --out runs/ltrp
vitrail rank photos --ranker ltrp --weights runs/ltrp --keep 0.25
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vitrail.backbones import BackboneConfig, create, load, need_vit, weights_file
from vitrail.backbones.reading import read_file
from vitrail.config import Config, ConfigError
from vitrail.contracts import ImageSet, Ranker
from vitrail.data import EvalTransformConfig, TrainTransformConfig, build_eval_transform, build_train_transform
from vitrail.methods.ltrp import Ltrp, LtrpConfig
from vitrail.methods.mae import Mae, MaeConfig
from vitrail.metrics.patch_recall import positive_of_mask
from vitrail.nn.masked_autoencoder import DecoderConfig
from vitrail.ops.patches import grid_of
from vitrail.ops.selection import mask_of, number_kept, select
from vitrail.rankers.center import Center
from vitrail.rankers.ltrp import PART, LtrpRanker, from_source, ranking_network
from vitrail.rankers.source import Source
from vitrail.recipes import mae as autoencoders
from vitrail.recipes.labels import Wanted, check_fixed, open_labeler, open_labels, removal_by
from vitrail.recipes.look import different, keep_sheet
from vitrail.recipes.probe import ProbeConfig, spread
from vitrail.recipes.rank import rank
from vitrail.recipes.reconstructions import Autoencoder
from vitrail.recipes.run import Parts, Verbs, look_ahead, train_before
from vitrail.recipes.sources import DataConfig, Splits, open_splits
from vitrail.recipes.start import HALF, capped, check_data, check_size, loading
from vitrail.train import TrainConfig
from vitrail.viz.patches import rankers_gallery

log = logging.getLogger("vitrail")


class AutoencoderConfig(Config):
    """A masked autoencoder that is trained first, on the same images, where none is given."""

    backbone: BackboneConfig = BackboneConfig()
    method: MaeConfig = MaeConfig(normalized_targets=False)
    train: TrainConfig = TrainConfig()
    """Seed, device and precision follow those of the ranking model's training."""


class Recipe(Config):
    """Everything that decides a run of LTRP."""

    kind: Literal["ltrp"] = "ltrp"
    data: DataConfig = DataConfig()
    mae: str | None = None
    """The masked autoencoder behind the labels: a run folder of MAE, or a file that has its decoder."""
    decoder_heads: int | None = Field(None, ge=1)
    """Attention heads of its decoder, for files that do not say."""
    perceptual: str | None = None
    """For method.removal.metric=perceptual: weights of the network whose patch features are compared."""
    autoencoder: AutoencoderConfig | None = None
    """Trained first, into OUT/mae, where `mae` is null; null where one has to be given."""
    backbone: BackboneConfig = BackboneConfig()
    """The ranking model: a vit_* or deit_* of timm, or a convolutional network such as resnet18."""
    init_from: str | None = None
    """Weights to go on from: a ranking model, or a backbone whose head starts fresh. null for fresh ones."""
    augment: TrainTransformConfig = TrainTransformConfig(scale=(0.2, 1.0))
    method: LtrpConfig = LtrpConfig()
    train: TrainConfig = TrainConfig()
    keep: float = Field(0.25, gt=0, le=1)
    """Share of the patches that pictures show, and of the recall between epochs where images have masks."""
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images, at most one a core; 0 does it in the training process."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_size(self.backbone, self.augment.image_size)
        if self.method.labels is not None:
            check_fixed(self.augment)
        return self


def scenes_ltrp() -> Recipe:
    """Generated scenes, tiny ViT, LTRP; a tiny MAE with plain pixels is trained first.

    Command: vitrail train scenes_ltrp. Time and numbers: see benchmarks/results/ltrp_scenes-*.json.
    """
    tiny = BackboneConfig(patch_size=6, embed_dim=64, depth=3, heads=2)
    common: dict[str, Any] = {"min_learning_rate": 0, "betas": (0.9, 0.95), "log_every": 20}
    return Recipe(
        autoencoder=AutoencoderConfig(
            backbone=tiny,
            method=MaeConfig(normalized_targets=False, decoder=DecoderConfig(embed_dim=48, depth=1, heads=4)),
            train=TrainConfig(
                epochs=8, global_batch_size=32, learning_rate=3e-3, warmup_epochs=0.5, evaluate_every=None, **common
            ),
        ),
        backbone=tiny,
        augment=TrainTransformConfig(image_size=48, scale=None, mean=HALF, std=HALF),
        method=LtrpConfig(hidden=0.75),
        train=TrainConfig(epochs=2, global_batch_size=32, learning_rate=2e-3, warmup_epochs=0.2, **common),
        workers=0,
    )


def folder_ltrp() -> Recipe:
    """Your own folder of small images: LTRP, ViT-Ti with patches of 8 at 64 pixels; needs mae=, a run of folder_mae.

    Command: vitrail train folder_ltrp data.root=photos mae=runs/mae. Expect: not yet measured.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_tiny_patch16_224", patch_size=8),
        augment=TrainTransformConfig(image_size=64, scale=(0.2, 1.0)),
        method=LtrpConfig(hidden=0.75),
        train=TrainConfig(
            epochs=100,
            global_batch_size=256,
            learning_rate=1e-3,
            min_learning_rate=0,
            warmup_epochs=5,
            betas=(0.9, 0.95),
            evaluate_every=10,
        ),
        workers=4,
    )


def ltrp_small() -> Recipe:
    """LTRP ViT-S/16 at 224 pixels, 400 epochs, labels of MAE's ViT-B with plain pixels.

    Command: torchrun --nproc-per-node=8 -m vitrail train ltrp_small data.root=imagenet mae=mae_visualize_vit_base.pth.
    Expect: no number of the supplement is for the ranking model alone; not run here.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_small_patch16_224"),
        augment=TrainTransformConfig(image_size=224, scale=(0.2, 1.0)),
        method=LtrpConfig(),
        train=TrainConfig(
            epochs=400,
            global_batch_size=4096,
            learning_rate=1.5e-4 * 4096 / 256,
            min_learning_rate=0,
            warmup_epochs=40,
            warmup_learning_rate=0,
            betas=(0.9, 0.95),
            precision="fp16",
            evaluate_every=20,
        ),
    )


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: data folder, sizes, the autoencoder."""
    check_data(recipe.data, recipe.augment.image_size)
    if recipe.mae is not None:
        weights_file(recipe.mae)
    elif recipe.autoencoder is None and recipe.method.labels is None:
        raise ConfigError(
            "LTRP learns from a masked autoencoder, and none is given; set mae=RUN, a run of folder_mae with "
            "method.normalized_targets=false, or a file that has a decoder, such as mae_visualize_vit_base.pth"
        )


def first(recipe: Recipe, verbs: Verbs, out: Path) -> Config:
    """Train the autoencoder into OUT/mae where none is given, or what is left of that; the recipe then names it."""
    if recipe.mae is not None or recipe.method.labels is not None:
        return recipe
    look_ahead(recipe, verbs)
    place = train_before(_autoencoder(recipe), verbs, out, "mae", "a masked autoencoder")
    return recipe.model_copy(update={"mae": str(place)})


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader, recall and pictures, for one of `world` processes; `own` as in `vitrail.recipes.start`."""
    check(recipe)
    splits = open_splits(recipe.data)
    ranker, fresh = _start(recipe, own)
    # Normalization belongs to the weights: those that training goes on from bring their own.
    augment = recipe.augment.model_copy(update={"mean": tuple(ranker.mean), "std": tuple(ranker.std)})
    wanted = Wanted(splits.train, augment, recipe.method, perceptual=recipe.perceptual)
    given = open_labeler(recipe.mae, recipe.decoder_heads) if recipe.mae is not None else None
    if recipe.method.labels is not None:
        method = Ltrp(recipe.method, ranker, None, open_labels(wanted, given), fresh=fresh)
    else:
        labeler = removal_by(given or _untrained(recipe), recipe.method.removal, recipe.perceptual)
        method = Ltrp(recipe.method, ranker, labeler, fresh=fresh)
    workers = capped(recipe.workers)
    loader = loading(splits.train, build_train_transform(augment), recipe.train, workers, rank, world)

    def draw(folder: Path, when: str, drawn: Any) -> None:
        shown = ranker if when == "before" else drawn
        words = f"What the ranking model keeps {when} training, {100 * recipe.keep:g} % of the patches, and its scores."
        keep_sheet(folder, f"ranking_{when}.png", ranking_sheet(shown, splits.val, recipe.keep), words)

    return Parts(method, loader, recall_probe(ranker, splits, recipe), draw, _opened)


def recall_probe(ranker: LtrpRanker, splits: Splits, recipe: Recipe) -> Callable[[], Mapping[str, float]] | None:
    """A function that gives the recall of up to 500 held-out images, with its floors; None where these have no masks.

    Its numbers name the share that is kept: `recall_0.25`, and of a random selection and of the center prior, which
    must be beaten, `floor_random_0.25` and `floor_center_0.25`.
    """
    data, keep = spread(splits.val, 500), recipe.keep
    if data[0].mask is None:
        return None
    size = recipe.augment.image_size
    height, width = (size, size) if isinstance(size, int) else size
    patch = (ranker.patch_size[0], ranker.patch_size[1])
    rows, columns = grid_of(height, width, patch)
    chance = 100 * number_kept(keep, rows * columns) / (rows * columns)
    center = functools.cache(lambda: recall(Center((height, width), patch), data, size, keep))
    return lambda: {
        f"recall_{keep:g}": recall(ranker, data, size, keep),
        f"floor_random_{keep:g}": chance,
        f"floor_center_{keep:g}": center(),
    }


@torch.no_grad()
def recall(ranker: Ranker, data: ImageSet, image_size: int | tuple[int, int], keep: float) -> float:
    """Percent of the patches that touch an object which are kept: mean over the images that have an object.

    Args:
        ranker: in evaluation mode.
        data: images with masks.
        image_size: pixels, a side or (height, width); the middle is cut out.
        keep: share of the patches that is kept.
    """
    config = EvalTransformConfig(image_size=image_size, mean=_three(ranker.mean), std=_three(ranker.std))
    transform, found = build_eval_transform(config), []
    place = next(ranker.parameters(), torch.empty(0)).device if isinstance(ranker, nn.Module) else torch.device("cpu")
    for start in range(0, len(data), 64):
        samples = [transform.with_targets(data[index]) for index in range(start, min(start + 64, len(data)))]
        scores = ranker(torch.stack([image for image, _, _ in samples]).to(place)).cpu()
        kept = mask_of(select(scores, number_kept(keep, scores[0].numel())), (scores.shape[1], scores.shape[2]))
        for chosen, (_, mask, _) in zip(kept, samples):
            assert mask is not None  # asked for
            touched = touching(mask, (ranker.patch_size[0], ranker.patch_size[1]))
            if touched.any():
                found.append(float((chosen & touched).sum() / touched.sum()))
    return 100 * float(np.mean(found))


def touching(mask: Tensor, patch: tuple[int, int]) -> Tensor:
    """Patches that touch an object, bool `[Y, X]`, of a mask `[H, W]` of class ids, where 0 and 255 are none."""
    inside = ((mask > 0) & (mask != 255)).long()
    return positive_of_mask(inside, [1], grid_of(mask.shape[0], mask.shape[1], patch))[0]


def ranking_sheet(ranker: LtrpRanker, data: ImageSet, keep: float, count: int = 4) -> Any:
    """What is kept of the first images of different classes, and the scores; leaves the ranker in its mode."""
    was_training = ranker.training
    ranker.eval()
    images = [data[index].image for index in different(data, count)]
    with torch.no_grad():
        found = [rank(ranker, image, keep) for image in images]
    ranker.train(was_training)
    return rankers_gallery([image for image, _ in found], {"LTRP": [ranked for _, ranked in found]})


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _opened(weights: str) -> LtrpRanker:
    return from_source(Source(weights)).eval()


def _start(recipe: Recipe, own: str | None) -> tuple[LtrpRanker, bool]:
    """The ranking model that training starts with, and whether its network's weights are to be drawn."""
    wanted = recipe.backbone.model_copy(update={"image_size": recipe.augment.image_size})
    if recipe.init_from is None:
        network = ranking_network(wanted)
        network.mean, network.std = recipe.augment.mean, recipe.augment.std
        return LtrpRanker(network, recipe.method.head), True
    weights, size = own or recipe.init_from, recipe.augment.image_size
    if weights == "pretrained":
        return LtrpRanker(need_vit(load(wanted.name, weights, image_size=size), "LTRP"), recipe.method.head), False
    found = read_file(weights_file(weights))[1]
    if found is not None and PART not in found.get("parts", {}):
        log.warning("%s brings no head of a ranking model: it starts fresh", weights)
        return LtrpRanker(need_vit(load(weights, image_size=size), "LTRP"), recipe.method.head), False
    ranker = from_source(Source(weights, image_size=size))
    if ranker.kind != recipe.method.head:
        raise ConfigError(
            f"{weights} has the head {ranker.kind!r}, and method.head is {recipe.method.head!r}; set both"
        )
    return ranker, False


def _autoencoder(recipe: Recipe) -> autoencoders.Recipe:
    """The recipe of the autoencoder that comes first."""
    assert recipe.autoencoder is not None  # `check` has looked
    config, train = recipe.autoencoder, recipe.train
    shared = {"seed": train.seed, "device": train.device, "deterministic": train.deterministic}
    return autoencoders.Recipe(
        data=recipe.data,
        backbone=config.backbone,
        augment=recipe.augment,
        method=config.method,
        train=config.train.model_copy(update={**shared, "precision": train.precision}),
        probe=ProbeConfig(train=500, val=200, features=autoencoders.PATCHES),
        workers=recipe.workers,
    )


def _untrained(recipe: Recipe) -> Autoencoder:
    """The autoencoder that would be trained first: for a look at what a run would be."""
    made = _autoencoder(recipe)
    backbone = need_vit(create(made.backbone.model_copy(update={"image_size": made.augment.image_size})), "MAE")
    backbone.mean, backbone.std = made.augment.mean, made.augment.std
    return Autoencoder(backbone, Mae(made.method, backbone).decoder, made.method.normalized_targets)
