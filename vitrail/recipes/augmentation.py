"""SimCLR, Barlow Twins, MoCo and SimSiam on two views whose changes are switches: on scenes, and as published on CIFAR.

vitrail train cifar_simclr data.root=data/cifar-10-batches-py --out runs/simclr
vitrail train cifar_simclr data.root=data/cifar-10-batches-py views.crop=none --out runs/simclr-no-crop
vitrail evaluate knn preset=moco_cifar --weights runs/simclr --data data/cifar-10-batches-py

All rows of the published tables at once: vitrail study augmentation (vitrail/recipes/augmentation_study.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator

from vitrail.backbones import AnyBackbone, BackboneConfig, ConvNetConfig, TimmConvNet, create_convnet
from vitrail.config import Config
from vitrail.contracts import Method
from vitrail.data import TwoViews, TwoViewsConfig
from vitrail.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from vitrail.methods.moco import Moco, MocoConfig
from vitrail.methods.simclr import Simclr, SimclrConfig
from vitrail.methods.simsiam import Simsiam, SimsiamConfig
from vitrail.nn.projection_head import ProjectionConfig
from vitrail.recipes.files import existing
from vitrail.recipes.probe import ProbeConfig, knn_probe
from vitrail.recipes.run import Parts
from vitrail.recipes.sources import DataConfig, ScenesConfig, open_splits
from vitrail.recipes.start import HALF, capped, check_size, loading, seen_by, start
from vitrail.train import Ranks, TrainConfig

MethodConfig = Annotated[
    SimclrConfig | BarlowTwinsConfig | MocoConfig | SimsiamConfig,
    Field(discriminator="kind"),
]


class Recipe(Config):
    """Everything that decides a run."""

    kind: Literal["augmentation"] = "augmentation"
    data: DataConfig = DataConfig()
    backbone: ConvNetConfig = ConvNetConfig()
    vit: BackboneConfig | None = None
    """A Vision Transformer in place of the convolutional network; null for none."""
    views: TwoViewsConfig = TwoViewsConfig()
    method: MethodConfig = SimclrConfig()
    train: TrainConfig = TrainConfig()
    probe: ProbeConfig = ProbeConfig()
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images, at most one a core; 0 does it in the training process."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.vit is not None:
            check_size(self.vit, self.views.size, "views.size")
        if not self.views.differ():
            raise ValueError(
                f"views.crop is {self.views.crop!r} and flip, jitter, grayscale and blur are all 0, so both views of "
                "an image are one and the same; leave something on"
            )
        return self


def cifar_simclr() -> Recipe:
    """CIFAR-10 or CIFAR-100, SimCLR with ResNet-18, 800 epochs.

    Command: vitrail train cifar_simclr data.root=cifar-10-batches-py. Expect: k-NN 89.8 on CIFAR-10 and 57.7 on
    CIFAR-100 (published); not run here.
    """
    return _cifar(SimclrConfig(), 0.06)


def cifar_barlow_twins() -> Recipe:
    """CIFAR-10 or CIFAR-100, Barlow Twins with ResNet-18, 800 epochs.

    Command: vitrail train cifar_barlow_twins data.root=cifar-10-batches-py. Expect: k-NN 86.9 on CIFAR-10 and 58.0 on
    CIFAR-100 (published); not run here.
    """
    return _cifar(BarlowTwinsConfig(head=ProjectionConfig(layers=3, hidden_dim=2048, out_dim=2048)), 0.11)


def cifar_moco() -> Recipe:
    """CIFAR-10 or CIFAR-100, MoCo v2 with ResNet-18, 800 epochs.

    Command: vitrail train cifar_moco data.root=cifar-10-batches-py. Expect: k-NN 90.1 on CIFAR-10 and 64.2 on
    CIFAR-100 (published); not run here.
    """
    method = MocoConfig(
        head=ProjectionConfig(norm=False), temperature=0.1, queue=4096, momentum=0.99, symmetric=True, weight_decay=5e-4
    )
    return _cifar(method, 0.08)


def cifar_simsiam() -> Recipe:
    """CIFAR-10 or CIFAR-100, SimSiam with ResNet-18, 800 epochs.

    Command: vitrail train cifar_simsiam data.root=cifar-10-batches-py. Expect: k-NN 90.6 on CIFAR-10 and 63.5 on
    CIFAR-100 (published); not run here.
    """
    head = ProjectionConfig(layers=2, hidden_dim=2048, out_dim=2048, last_norm=True)
    return _cifar(SimsiamConfig(head=head), 0.05)


def scenes_simclr() -> Recipe:
    """Generated scenes, narrow ResNet-10, SimCLR.

    Command: vitrail train scenes_simclr. Expect: a minute or two on one core; numbers not yet measured.
    """
    return _scenes(SimclrConfig(head=ProjectionConfig(hidden_dim=128, out_dim=64)), 0.1)


def scenes_barlow_twins() -> Recipe:
    """Generated scenes, narrow ResNet-10, Barlow Twins.

    Command: vitrail train scenes_barlow_twins. Expect: a minute or two on one core; numbers not yet measured.
    """
    return _scenes(BarlowTwinsConfig(head=ProjectionConfig(layers=2, hidden_dim=256, out_dim=256)), 0.05)


def scenes_moco() -> Recipe:
    """Generated scenes, narrow ResNet-10, MoCo v2.

    Command: vitrail train scenes_moco. Expect: a minute or two on one core; numbers not yet measured.
    """
    head = ProjectionConfig(hidden_dim=128, out_dim=64, norm=False)
    return _scenes(MocoConfig(head=head, temperature=0.2, queue=1024, momentum=0.99, weight_decay=5e-4), 0.1)


def scenes_simsiam() -> Recipe:
    """Generated scenes, narrow ResNet-10, SimSiam.

    Command: vitrail train scenes_simsiam. Expect: a minute or two on one core; numbers not yet measured.
    """
    head = ProjectionConfig(layers=2, hidden_dim=256, out_dim=256, last_norm=True)
    return _scenes(SimsiamConfig(head=head, predictor_dim=64), 0.1)


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: the data folder."""
    if recipe.data.root is not None:
        existing(recipe.data.root)


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader and k-NN, for one of `world` processes; weights always start fresh, so `own` is not read."""
    check(recipe)
    views, splits = recipe.views, open_splits(recipe.data)
    backbone = _backbone(recipe)
    method = _method(recipe.method, backbone)
    workers = capped(recipe.workers)
    loader = loading(splits.train, TwoViews(views), recipe.train, workers, rank, world)
    ranks = Ranks(rank, world, torch.device("cpu"))
    probe = knn_probe(backbone, splits, seen_by(backbone, views.size), recipe.probe, workers, ranks)
    return Parts(method, loader, probe)


def _backbone(recipe: Recipe) -> AnyBackbone | TimmConvNet:
    mean, std, size = recipe.views.mean, recipe.views.std, recipe.views.size
    if recipe.vit is not None:
        return start(recipe.vit, size, mean, std)
    backbone = create_convnet(recipe.backbone.model_copy(update={"image_size": size}))
    backbone.mean, backbone.std = mean, std
    return backbone


def _method(config: MethodConfig, backbone: AnyBackbone | TimmConvNet) -> Method:
    if isinstance(config, SimclrConfig):
        return Simclr(config, backbone)
    if isinstance(config, BarlowTwinsConfig):
        return BarlowTwins(config, backbone)
    if isinstance(config, MocoConfig):
        return Moco(config, backbone)
    return Simsiam(config, backbone)


def _cifar(method: Any, learning_rate: float) -> Recipe:
    """Appendix B.1: 800 epochs of SGD, batches of 512, a cosine to 0, the learning rate of the method."""
    return Recipe(
        method=method,
        train=TrainConfig(
            epochs=800,
            global_batch_size=512,
            optimizer="sgd",
            nesterov=False,
            learning_rate=learning_rate,
            min_learning_rate=0,
            warmup_epochs=0,
            warmup_learning_rate=0,
            evaluate_every=20,
        ),
    )


def _scenes(method: Any, learning_rate: float) -> Recipe:
    """Crops hold most of the object, which is small, and colors change less, since they tell the class."""
    return Recipe(
        data=DataConfig(scenes=ScenesConfig(count=2000, val_count=500, image_size=32, classes=4)),
        backbone=ConvNetConfig(width=8, blocks=(1, 1, 1, 1)),
        views=TwoViewsConfig(
            scale=(0.5, 1.0), color_jitter=(0.4, 0.4, 0.2, 0.05), sigma=(0.3, 0.8), mean=HALF, std=HALF
        ),
        method=method,
        train=TrainConfig(
            epochs=8,
            global_batch_size=100,
            optimizer="sgd",
            nesterov=False,
            learning_rate=learning_rate,
            min_learning_rate=0,
            warmup_epochs=1,
            warmup_learning_rate=0,
            log_every=20,
        ),
        workers=0,
    )
