"""Supervised training: on generated scenes, on a folder, by DeiT's recipe, and fine-tuning; each with or without SAR.

    vitrail train scenes_sar --out runs/scenes-sar
    vitrail train folder_sar data.root=photos --out runs/photos-sar
    vitrail train finetune_sar data.root=flowers --init-from runs/photos-sar --out runs/flowers

Table 4 of the SAR paper has four fine-tuning configurations: `finetune` and `finetune_sar`, each started from a
checkpoint with and from one without SAR. The architecture always follows the checkpoint.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import nn

from vitrail.backbones import BackboneConfig, TimmViT, create, load
from vitrail.config import Config
from vitrail.contracts import Tokens
from vitrail.data import EvalTransformConfig, Loader, TrainTransformConfig, build_train_transform
from vitrail.methods.supervised import Supervised, SupervisedConfig
from vitrail.recipes.run import Parts
from vitrail.recipes.sources import DataConfig, ScenesConfig, open_splits
from vitrail.regularizers import RegularizerConfig
from vitrail.train import TrainConfig

SAR = RegularizerConfig(kind="spatial_entropy")
"""Spatial entropy of the last block, weight 0.01 (Eq. 9)."""


class Recipe(Config):
    """Everything that decides a supervised run."""

    kind: Literal["supervised"] = "supervised"
    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    init_from: str | None = None
    """Weights to start from; the architecture follows them."""
    augment: TrainTransformConfig = TrainTransformConfig()
    method: SupervisedConfig = SupervisedConfig()
    train: TrainConfig = TrainConfig()
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images; 0 does it in the training process."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.backbone.image_size not in (None, self.augment.image_size):
            raise ValueError(
                f"backbone.image_size {self.backbone.image_size} and augment.image_size {self.augment.image_size} "
                "differ; set both to the same, or backbone.image_size to null"
            )
        return self


def build(recipe: Recipe, rank: int, world: int) -> Parts:
    """Data, backbone, method and loader of a recipe, for one of `world` processes."""
    splits = open_splits(recipe.data)
    if splits.train.classes is None:
        raise ValueError(
            f"{recipe.data.root} has no class folders, and a supervised recipe needs labels; "
            "put the images into one folder per class"
        )
    backbone = _backbone(recipe)
    method = Supervised(recipe.method, backbone, splits.train.classes)
    loader = Loader(
        splits.train,
        build_train_transform(recipe.augment),
        global_batch_size=recipe.train.global_batch_size,
        seed=recipe.train.seed,
        rank=rank,
        world=world,
        accumulate=recipe.train.accumulate,
        workers=recipe.workers,
    )
    size = recipe.augment.image_size
    return Parts(method, loader, splits, EvalTransformConfig(image_size=size, mean=recipe.augment.mean, std=recipe.augment.std))


def _backbone(recipe: Recipe) -> TimmViT:
    config = recipe.backbone.model_copy(update={"image_size": recipe.augment.image_size})
    if recipe.init_from is None:
        return create(config)
    return load(None, recipe.init_from, image_size=recipe.augment.image_size)
