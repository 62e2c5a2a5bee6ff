"""GFNet: glance, focus and a policy, on scenes, on a folder, and as published.

    vitrail train scenes_gfnet --out runs/scenes-gfnet
    vitrail train folder_gfnet data.root=photos --out runs/photos-gfnet
    vitrail train folder_gfnet data.root=photos method.shares=[0,0.5,0.5] --init-from runs/photos-gfnet --out runs/more

What a run leaves behind is no backbone: `vitrail.rankers.open_ranker("gfnet", "runs/photos-gfnet")` opens it.
"""

from __future__ import annotations

import logging
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from vitrail.config import Config
from vitrail.data import EvalTransformConfig, TrainTransformConfig, build_train_transform
from vitrail.methods.gfnet import Gfnet, GfnetConfig
from vitrail.rankers.gfnet import GfNet, GfNetConfig, open_network
from vitrail.recipes.run import Parts
from vitrail.recipes.sources import DataConfig, open_splits
from vitrail.recipes.sparse import validation
from vitrail.recipes.start import HALF, capped, check_data, loading
from vitrail.recipes.weights import find_weights
from vitrail.train import Ranks, TrainConfig

log = logging.getLogger("vitrail")


class Recipe(Config):
    """Everything that decides a run of GFNet."""

    kind: Literal["gfnet"] = "gfnet"
    data: DataConfig = DataConfig()
    init_from: str | None = None
    """A GFNet to go on from, whose sizes are taken; "pretrained": timm's weights of the CNNs; null for fresh ones."""
    augment: TrainTransformConfig = TrainTransformConfig()
    method: GfnetConfig = GfnetConfig()
    train: TrainConfig = TrainConfig()
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images, at most one a core; 0 does it in the training process."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        side, other = self.method.network.image_size, self.augment.image_size
        if other not in (side, (side, side)):
            raise ValueError(f"method.network.image_size {side} and augment.image_size {other} differ; set both alike")
        return self


def scenes_gfnet() -> Recipe:
    """Generated scenes, a tiny CNN with GFNet: a glance and two windows of half the side.

    Command: vitrail train scenes_gfnet. Time and numbers: see benchmarks/results/scenes_rankers-*.json.
    """
    small = {"channels": [16, 32, 64, 64], "stem_width": 16, "output_stride": 8}
    network = GfNetConfig(
        cnn="resnet10t",
        cnn_options=small,
        image_size=48,
        window=24,
        looks=3,
        hidden=64,
        encoder="conv",
        patch_size=6,
    )
    return Recipe(
        augment=TrainTransformConfig(image_size=48, scale=None, mean=HALF, std=HALF),
        method=GfnetConfig(network=network, shares=(0.5, 0.3, 0.2)),
        train=TrainConfig(epochs=6, global_batch_size=64, learning_rate=2e-3, warmup_epochs=0.5, log_every=20),
        workers=0,
    )


def folder_gfnet() -> Recipe:
    """Your own folder of small images with GFNet: ResNet-18 at 64 pixels, a glance and three windows of 40.

    Command: vitrail train folder_gfnet data.root=photos. Expect: not yet measured.
    """
    network = GfNetConfig(
        cnn="resnet18",
        cnn_options={"output_stride": 8},
        image_size=64,
        window=40,
        looks=4,
        hidden=256,
        encoder="conv",
        patch_size=8,
    )
    return Recipe(
        augment=TrainTransformConfig(image_size=64, scale=(0.35, 1.0), color_jitter=(0.3, 0.3, 0.3, 0.0)),
        method=GfnetConfig(network=network),
        train=TrainConfig(epochs=100, global_batch_size=256, learning_rate=5e-4, warmup_epochs=5, clip_norm=1.0),
        workers=4,
    )


def gfnet_resnet50() -> Recipe:
    """GFNet with ResNet-50 at 224 pixels, a glance and four windows of 128.

    The sizes are those of a released model (5 looks at 128 pixels in its README), the schedule is ours. Command:
    torchrun --nproc-per-node=8 -m vitrail train gfnet_resnet50 data.root=imagenet --init-from pretrained. Expect: no
    number is known to us; not run here.
    """
    return Recipe(
        augment=TrainTransformConfig(image_size=224),
        method=GfnetConfig(network=GfNetConfig()),
        train=TrainConfig(
            epochs=90,
            global_batch_size=1024,
            learning_rate=5e-4,
            warmup_epochs=5,
            clip_norm=1.0,
            precision="bf16",
        ),
    )


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: data folder, sizes."""
    check_data(recipe.data, recipe.augment.image_size)


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader and evaluation, for one of `world` processes; `own` as in `recipes.start`. No pictures."""
    check(recipe)
    splits = open_splits(recipe.data)
    if splits.train.classes is None:
        raise ValueError(
            f"{recipe.data.root} has no class folders, and a classifier needs labels; put the images into one folder "
            "per class"
        )
    network = _network(recipe, splits.train.classes, own)
    # Normalization belongs to the weights: those that training goes on from bring their own.
    augment = recipe.augment.model_copy(update={"mean": network.mean, "std": network.std})
    method = Gfnet(recipe.method, network, splits.train.classes)
    workers = capped(recipe.workers)
    loader = loading(splits.train, build_train_transform(augment), recipe.train, workers, rank, world)
    method.labels.check_batch(recipe.train.global_batch_size // world // recipe.train.accumulate)
    seen = EvalTransformConfig(image_size=augment.image_size, mean=augment.mean, std=augment.std)
    ranks = Ranks(rank, world, torch.device("cpu"))
    tested: Any = method
    return Parts(method, loader, validation(tested, splits.val, seen, workers, ranks))


def _network(recipe: Recipe, classes: tuple[str, ...], own: str | None) -> GfNet:
    """Fresh, with timm's CNNs, or somebody's; then the last layer starts fresh where it knows other classes."""
    config, weights = recipe.method.network, None
    if recipe.init_from is not None:
        weights = find_weights(own or recipe.init_from)
    if weights in (None, "pretrained"):
        bought = weights is not None
        return GfNet(config, len(classes), mean=recipe.augment.mean, std=recipe.augment.std, pretrained=bought)
    assert weights is not None
    network = open_network(weights, image_size=config.image_size)
    if network.config.image_size != config.image_size:
        raise ValueError(
            f"{weights} looks at images of {network.config.image_size} pixels, and method.network.image_size is "
            f"{config.image_size}; set it and augment.image_size to {network.config.image_size}"
        )
    known = network.classifier.fc.out_features
    if known != len(classes):
        log.warning("%s knows %d classes, the data has %d: its last layer starts fresh", weights, known, len(classes))
        network.classifier.fc = nn.Linear(network.config.hidden, len(classes))
    return network
