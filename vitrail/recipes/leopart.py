"""Leopart: on scenes, on a folder, by the published values; it goes on from weights of whole-image learning.

vitrail train folder_leopart data.root=photos --init-from dino_deitsmall16_pretrain.pth --out runs/photos-leopart
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from vitrail.backbones import BackboneConfig
from vitrail.config import Config, ConfigError
from vitrail.data.overlapping import OverlappingConfig, OverlappingCrops
from vitrail.methods.leopart import Leopart, LeopartConfig
from vitrail.nn.prototype_head import HeadConfig
from vitrail.recipes import dino
from vitrail.recipes.heads import take_over_fitting
from vitrail.recipes.probe import ProbeConfig, knn_probe
from vitrail.recipes.run import Parts, Verbs, look_ahead, train_before
from vitrail.recipes.side_by_side import drawing_change
from vitrail.recipes.sources import DataConfig, ScenesConfig, open_mixed, open_splits
from vitrail.recipes.start import (
    HALF,
    capped,
    check_crops,
    check_mixed,
    check_size,
    loading,
    seen_by,
    start,
)
from vitrail.train import Ranks, TrainConfig

SCENES = OverlappingConfig.tiny().model_copy(update={"mean": HALF, "std": HALF})
"""Crops of generated scenes."""
OBJECTS = DataConfig(scenes=ScenesConfig(count=2000, val_count=500))
"""Object-centric generated images."""
SEVERAL = DataConfig(scenes=ScenesConfig(image_size=96, objects=4, count=2000, val_count=500))
"""Scene-centric generated images: two to four objects each."""


class Recipe(Config):
    """Everything that decides a run of Leopart."""

    kind: Literal["leopart"] = "leopart"
    data: DataConfig = DataConfig()
    scene_data: DataConfig | None = None
    """Scene-centric images, mixed with those of `data` one to one; null for those alone."""
    backbone: BackboneConfig = BackboneConfig()
    init_from: str | None = None
    """Weights to go on from; null trains `stage1` first, or starts with fresh ones where there is none."""
    stage1: dino.Recipe | None = None
    """A training of DINO that comes first, into OUT/stage1, where `init_from` is null."""
    views: OverlappingConfig = OverlappingConfig()
    method: LeopartConfig = LeopartConfig()
    train: TrainConfig = TrainConfig()
    probe: ProbeConfig = ProbeConfig()
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images, at most one a core; 0 does it in the training process."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_size(self.backbone, self.views.global_size, "views.global_size")
        if self.backbone.patch_size is not None:
            check_crops(self.backbone.patch_size, self.views)
        return self


def scenes_leopart() -> Recipe:
    """Generated scenes, tiny ViT, Leopart after a short DINO.

    Command: vitrail train scenes_leopart. Expect: not yet measured; without its queue, row 2 of
    benchmarks/results/cotap_scenes-*.json.
    """
    stage1 = dino.scenes_dino()
    return Recipe(
        stage1=stage1,
        data=OBJECTS,
        scene_data=SEVERAL,
        backbone=stage1.backbone,
        views=SCENES,
        method=LeopartConfig(
            head=HeadConfig(prototypes=64, hidden_dim=256, bottleneck_dim=64),
            queue=1024,
            cells=4,
            momentum=0.99,
            backbone_rate=1.0,
        ),
        train=TrainConfig(
            epochs=3, global_batch_size=32, learning_rate=1e-3, warmup_epochs=0.2, clip_norm=3.0, log_every=20
        ),
        workers=0,
    )


def folder_leopart() -> Recipe:
    """Your own folder: Leopart on weights that you name, at 224 pixels.

    Command: vitrail train folder_leopart data.root=photos --init-from WEIGHTS. Expect: not yet measured.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_small_patch16_224"),
        train=TrainConfig(epochs=25, global_batch_size=32, learning_rate=1e-4, warmup_epochs=0, evaluate_every=5),
        workers=4,
    )


def leopart_small() -> Recipe:
    """Leopart ViT-S/16 at 224 pixels: 50 epochs of COCO from DINO's weights.

    Command: vitrail train leopart_small data.root=coco/train2017 --init-from dino_deitsmall16_pretrain.pth. Expect:
    47.2 mIoU by linear_seg on COCOStuff-27 (as the CoTAP paper measures the released weights); not run here.
    """
    return folder_leopart().override(["train.epochs=50", "train.precision=bf16", "workers=8"])


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: folders of images, weights."""
    check_mixed(recipe.data, recipe.scene_data)
    if recipe.init_from is None and recipe.stage1 is None:
        raise ConfigError(
            "Leopart goes on from weights that have learned from whole images; name them with --init-from WEIGHTS (a "
            "run of DINO or iBOT, or a published checkpoint)"
        )


def first(recipe: Recipe, verbs: Verbs, out: Path) -> Recipe:
    """Train stage 1 where no weights are named, and go on from it."""
    if recipe.init_from is not None or recipe.stage1 is None:
        return recipe
    look_ahead(recipe, verbs)
    place = train_before(recipe.stage1, verbs, out, "stage1", "a backbone by DINO")
    return recipe.model_copy(update={"init_from": str(place)})


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader, k-NN and pictures, for one of `world` processes; `own` as in `vitrail.recipes.start`."""
    check(recipe)
    views, splits = recipe.views, open_mixed(recipe.data, recipe.scene_data)
    backbone = start(recipe.backbone, views.global_size, views.mean, views.std, recipe.init_from, own)
    check_crops(backbone.patch_size, views)
    # Normalization belongs to the weights: those that training goes on from bring their own.
    views = views.model_copy(update={"mean": backbone.mean, "std": backbone.std})
    method = Leopart(recipe.method, backbone)
    if recipe.init_from is not None and own is None and take_over_fitting(recipe.init_from, method.head):
        method.teacher_head.load_state_dict(method.head.state_dict())
    workers = capped(recipe.workers)
    loader = loading(splits.train, OverlappingCrops(views), recipe.train, workers, rank, world)
    ranks, seen = Ranks(rank, world, torch.device("cpu")), seen_by(backbone, views.global_size)
    labeled = open_splits(recipe.data)
    return Parts(
        method, loader, knn_probe(method.teacher, labeled, seen, recipe.probe, workers, ranks), drawing_change(labeled)
    )
