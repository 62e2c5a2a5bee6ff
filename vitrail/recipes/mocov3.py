"""MoCo-v3: on scenes, on a folder, by its published recipe and as in SAR's supplement; with or without SAR.

vitrail train folder_mocov3 data.root=photos --out runs/photos-mocov3
vitrail evaluate linear preset=mocov3 --weights runs/photos-mocov3 --data photos
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from vitrail.backbones import BackboneConfig
from vitrail.config import Config
from vitrail.data import MultiCrop, MultiCropConfig
from vitrail.methods.mocov3 import MocoV3, MocoV3Config
from vitrail.nn.projection_head import ProjectionConfig
from vitrail.recipes.attention_numbers import AttentionConfig, knn_and_entropy
from vitrail.recipes.heads import take_over
from vitrail.recipes.probe import ProbeConfig
from vitrail.recipes.run import Parts
from vitrail.recipes.sources import DataConfig, open_splits
from vitrail.recipes.start import (
    HALF,
    capped,
    check_crops,
    check_data,
    check_entropy,
    check_views,
    check_weights,
    drawing,
    loading,
    seen_by,
    start,
    timed,
    with_sar,
)
from vitrail.train import Ranks, TrainConfig

VIEWS = MultiCropConfig(
    locals=0,
    global_scale=(0.08, 1.0),
    interpolation="bilinear",
    color_jitter=(0.4, 0.4, 0.2, 0.1),
    blur=(1.0, 0.1, 0.0),
    solarize=(0.0, 0.2, 0.0),
)
"""MoCo-v3's two views: the first is always blurred, the second at times, and at times solarized."""
SCENES = VIEWS.model_copy(
    update={
        "global_size": 48,
        "global_scale": (0.6, 1.0),
        "blur": (0.0, 0.0, 0.0),
        "interpolation": "bicubic",
        "mean": HALF,
        "std": HALF,
    }
)
"""Views of generated scenes: most hold the object, which is small; a blur would take away what little detail it has."""


class Recipe(Config):
    """Everything that decides a run of MoCo-v3."""

    kind: Literal["mocov3"] = "mocov3"
    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    init_from: str | None = None
    """Weights to go on from: a backbone, with its heads where the file has them. null for fresh ones."""
    views: MultiCropConfig = VIEWS
    method: MocoV3Config = MocoV3Config()
    train: TrainConfig = TrainConfig()
    probe: ProbeConfig = ProbeConfig()
    attention: AttentionConfig = AttentionConfig()
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images, at most one a core; 0 does it in the training process."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.views.locals:
            raise ValueError(
                f"views.locals is {self.views.locals}, and MoCo-v3 compares two large views alone; set views.locals=0"
            )
        check_views(self.backbone, self.views, None, self.train.epochs)
        check_weights(self.method.regularizers, self.train.epochs)
        return self


def scenes_mocov3() -> Recipe:
    """Generated scenes, tiny ViT, MoCo-v3.

    Command: vitrail train scenes_mocov3. Time and numbers: docs/mocov3.md.
    """
    return Recipe(
        backbone=BackboneConfig(patch_size=8, embed_dim=96, depth=4, heads=3),
        views=SCENES,
        method=MocoV3Config(head=_narrow(256, 64), predictor_dim=256, momentum=0.9, weight_decay=0.04),
        train=TrainConfig(
            epochs=5,
            global_batch_size=64,
            learning_rate=2e-3,
            warmup_epochs=1,
            clip_norm=3.0,
            log_every=20,
        ),
        workers=0,
    )


def scenes_mocov3_sar() -> Recipe:
    """Generated scenes, tiny ViT, MoCo-v3 with SAR's surgery and spatial entropy on both views.

    Command: vitrail train scenes_mocov3_sar. Time and numbers: as `scenes_mocov3`.
    """
    return with_sar(scenes_mocov3())


def folder_mocov3() -> Recipe:
    """Your own folder of small images: MoCo-v3 from scratch, ViT-Ti with patches of 8 at 64 pixels.

    Command: vitrail train folder_mocov3 data.root=photos. Expect: not yet measured.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_tiny_patch16_224", patch_size=8),
        views=VIEWS.model_copy(update={"global_size": 64, "global_scale": (0.2, 1.0), "sigma": (0.1, 0.6)}),
        method=MocoV3Config(head=_narrow(1024, 256), predictor_dim=1024),
        train=TrainConfig(
            epochs=100,
            global_batch_size=256,
            learning_rate=5e-4,
            min_learning_rate=0,
            warmup_epochs=10,
            warmup_learning_rate=0,
            evaluate_every=5,
        ),
        workers=4,
    )


def mocov3_small() -> Recipe:
    """MoCo-v3 ViT-S/16 with 12 heads at 224 pixels, 300 epochs, batch 4096.

    Command: torchrun --nproc-per-node=8 -m vitrail train mocov3_small data.root=imagenet; then vitrail evaluate linear
    preset=mocov3. Expect: 73.2 top-1 by a linear probe (published, ImageNet-1k); not run here. For ViT-B/16, 76.7:
    backbone.name=vit_base_patch16_224.
    """
    return _published(batch=4096, heads=12)


def mocov3_small_in100() -> Recipe:
    """MoCo-v3 ViT-S/16 with 6 heads, batch 1024, for ImageNet-100: the baseline of SAR's Table 8.

    Command: torchrun --nproc-per-node=8 -m vitrail train mocov3_small_in100 data.root=imagenet-100; then vitrail
    evaluate linear preset=sar, and attention_jaccard preset=sar. Expect: 77.60 top-1 by a linear probe, 27.40 Jaccard
    on VOC (published); not run here. Six heads are those of its Fig. 6 and of the other ViT-S/16 there; the released
    MoCo-v3 has 12, for which give backbone.heads=12.
    """
    return _published(batch=1024, heads=6)


def mocov3_small_sar() -> Recipe:
    """MoCo-v3 ViT-S/16 with SAR's surgery and spatial entropy on both views, for ImageNet-100.

    Command: as `mocov3_small_in100`. Expect: 78.88 top-1 by a linear probe, 33.10 Jaccard on VOC (published in SAR's
    Table 8); not run here.
    """
    return with_sar(mocov3_small_in100())


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: data folder, sizes."""
    check_data(recipe.data, recipe.views.global_size, "views.global_size")


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader, k-NN and pictures, for one of `world` processes; `own` as in `vitrail.recipes.start`."""
    check(recipe)
    views, splits = recipe.views, open_splits(recipe.data)
    backbone = start(recipe.backbone, views.global_size, views.mean, views.std, recipe.init_from, own)
    check_crops(backbone.patch_size, views)
    check_entropy(recipe.method.regularizers, backbone, views.global_size)
    # Normalization belongs to the weights: those that training goes on from bring their own.
    views = views.model_copy(update={"mean": backbone.mean, "std": backbone.std})
    regularizers = timed(recipe.method.regularizers, recipe.train.epochs)
    config = recipe.method.model_copy(update={"regularizers": regularizers})
    method = MocoV3(config, backbone, fresh=recipe.init_from is None)
    if recipe.init_from is not None and own is None:
        take_over(recipe.init_from, {"projector": method.head, "predictor": method.predictor})
        method.key_head.load_state_dict(method.head.state_dict())
    workers = capped(recipe.workers)
    loader = loading(splits.train, MultiCrop(views), recipe.train, workers, rank, world)
    ranks = Ranks(rank, world, torch.device("cpu"))
    seen = seen_by(backbone, views.global_size)
    watch = knn_and_entropy(backbone, splits, seen, recipe.probe, recipe.attention, workers, ranks)
    return Parts(method, loader, watch, drawing(splits))


def _narrow(hidden: int, out: int) -> ProjectionConfig:
    """MoCo-v3's projector, of other widths."""
    return MocoV3Config().head.model_copy(update={"hidden_dim": hidden, "out_dim": out})


def _published(batch: int, heads: int) -> Recipe:
    """MoCo-v3's values; its base rate 1.5e-4 is for 256 images a step."""
    return Recipe(
        backbone=BackboneConfig(name="vit_small_patch16_224", heads=heads),
        train=TrainConfig(
            epochs=300,
            global_batch_size=batch,
            learning_rate=1.5e-4 * batch / 256,
            min_learning_rate=0,
            warmup_epochs=40,
            warmup_learning_rate=0,
            precision="bf16",
            evaluate_every=10,
        ),
    )
