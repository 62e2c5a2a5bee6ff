"""DINO: on scenes, on a folder, by DINO's recipe; with or without SAR's regularizer.

vitrail train folder_dino data.root=photos --out runs/photos-dino
vitrail train dino_small data.root=photos --init-from dino_deitsmall16_pretrain.pth --out runs/continued
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from vitrail.backbones import BackboneConfig
from vitrail.config import Config
from vitrail.data import MultiCrop, MultiCropConfig
from vitrail.methods.dino import Dino, DinoConfig
from vitrail.nn.prototype_head import HeadConfig
from vitrail.nn.soft_targets import TargetConfig
from vitrail.recipes.attention_numbers import AttentionConfig, knn_and_entropy
from vitrail.recipes.heads import take_over, take_over_centers
from vitrail.recipes.probe import ProbeConfig
from vitrail.recipes.run import Parts
from vitrail.recipes.sources import DataConfig, open_mixed, open_splits
from vitrail.recipes.start import (
    HALF,
    capped,
    check_crops,
    check_data,
    check_entropy,
    check_mixed,
    check_views,
    check_weights,
    drawing,
    loading,
    regularized_sizes,
    seen_by,
    start,
    timed,
    with_sar,
)
from vitrail.train import Ranks, TrainConfig

SCENES = MultiCropConfig.tiny().model_copy(
    update={"mean": HALF, "std": HALF, "locals": 2, "global_scale": (0.6, 1.0), "local_scale": (0.25, 0.6)}
)
"""Crops of generated scenes: most hold the object, which is small."""
LONGER = (
    "train.epochs=10",
    "train.global_batch_size=256",
    "train.learning_rate=3e-5",
    "train.min_learning_rate=1e-6",
    "train.warmup_epochs=0",
    "method.momentum=0.9997",
    "method.weight_decay=0.024",
    "method.weight_decay_end=0.24",
    "method.frozen_epochs=0",
    "method.targets.warmup_epochs=0",
)
"""Settings of a training that goes on for 100,000 steps of 256, the control of CoTAP's Sec. 5.5."""


class Recipe(Config):
    """Everything that decides a run of DINO."""

    kind: Literal["dino"] = "dino"
    data: DataConfig = DataConfig()
    scene_data: DataConfig | None = None
    """Scene-centric images, mixed with those of `data` one to one; null for those alone."""
    backbone: BackboneConfig = BackboneConfig()
    init_from: str | None = None
    """Weights to go on from: a backbone, with its head and center where the file has them. null for fresh ones."""
    views: MultiCropConfig = MultiCropConfig()
    method: DinoConfig = DinoConfig()
    train: TrainConfig = TrainConfig()
    probe: ProbeConfig = ProbeConfig()
    attention: AttentionConfig = AttentionConfig()
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images, at most one a core; 0 does it in the training process."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_views(self.backbone, self.views, self.method.epochs, self.train.epochs)
        check_weights(self.method.regularizers, self.train.epochs)
        return self


def scenes_dino() -> Recipe:
    """Generated scenes, tiny ViT, DINO with two global and two local crops.

    Command: vitrail train scenes_dino. Time and numbers: see benchmarks/results/pretraining-*.json.
    """
    return Recipe(
        backbone=BackboneConfig(patch_size=8, embed_dim=96, depth=4, heads=3),
        views=SCENES,
        method=DinoConfig(
            head=HeadConfig(prototypes=16, hidden_dim=256),
            targets=TargetConfig(kind="sinkhorn", temperature=0.02, warmup_epochs=0),
            momentum=0.9,
            weight_decay_end=0.04,
        ),
        train=TrainConfig(
            epochs=5,
            global_batch_size=64,
            learning_rate=4e-3,
            warmup_epochs=1,
            clip_norm=3.0,
            log_every=20,
        ),
        workers=0,
    )


def scenes_dino_sar() -> Recipe:
    """Generated scenes, tiny ViT, DINO with SAR's spatial entropy on the student.

    Command: vitrail train scenes_dino_sar. Time and numbers: as `scenes_dino`.
    """
    return with_sar(scenes_dino())


def folder_dino() -> Recipe:
    """Your own folder of small images: DINO from scratch, ViT-Ti with patches of 8 at 64 pixels.

    Command: vitrail train folder_dino data.root=photos. Expect: not yet measured.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_tiny_patch16_224", patch_size=8, drop_path=0.1),
        views=MultiCropConfig(
            global_size=64, local_size=32, locals=6, global_scale=(0.3, 1.0), local_scale=(0.08, 0.3), sigma=(0.1, 0.6)
        ),
        method=DinoConfig(head=HeadConfig(prototypes=4096), targets=TargetConfig(warmup_epochs=10)),
        train=TrainConfig(
            epochs=100,
            global_batch_size=128,
            learning_rate=5e-4,
            warmup_epochs=10,
            clip_norm=3.0,
            evaluate_every=5,
        ),
        workers=4,
    )


def dino_small() -> Recipe:
    """DINO ViT-S/16 at 224 pixels, 300 epochs, 10 local crops.

    Command: torchrun --nproc-per-node=8 -m vitrail train dino_small data.root=imagenet. Expect: 72.8 k-NN top-1
    (published for 300 epochs of ImageNet-1k); not run here.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_small_patch16_224", drop_path=0.1),
        views=MultiCropConfig(locals=10, global_scale=(0.25, 1.0), local_scale=(0.05, 0.25)),
        method=DinoConfig(head=HeadConfig(fixed_norm=False)),
        train=TrainConfig(
            epochs=300,
            global_batch_size=1024,
            learning_rate=5e-4 * 1024 / 256,
            min_learning_rate=1e-5,
            warmup_epochs=10,
            warmup_learning_rate=0,
            precision="bf16",
            evaluate_every=10,
        ),
    )


def dino_small_in100() -> Recipe:
    """DINO ViT-S/16 for ImageNet-100, batch 512: the baseline of SAR's Table 8.

    Command: torchrun --nproc-per-node=8 -m vitrail train dino_small_in100 data.root=imagenet-100; then vitrail evaluate
    linear preset=dino, and attention_jaccard preset=sar. Expect: 77.42 top-1 by a linear probe, 35.06 Jaccard on VOC
    (published); not run here. The text has 300 epochs, 2 x 224 and 10 x 96 pixels, and DINO's own values for the rest:
    here those published with 10 local crops.
    """
    return dino_small().override(["train.global_batch_size=512", f"train.learning_rate={5e-4 * 512 / 256}"])


def dino_small_sar() -> Recipe:
    """DINO ViT-S/16 with SAR's surgery and spatial entropy on the student's global crops, for ImageNet-100.

    Command: as `dino_small_in100`. Expect: 79.90 top-1 by a linear probe, 35.28 Jaccard on VOC (published in SAR's
    Table 8); not run here. The text does not say which crops carry the entropy: method.regularize=all adds the local
    ones. For ImageNet-1k give train.global_batch_size=1024 train.learning_rate=2e-3.
    """
    return with_sar(dino_small_in100())


def dino_small_longer() -> Recipe:
    """DINO ViT-S/16 trained on for 100,000 steps of 256: the control of CoTAP's Sec. 5.5.

    Command: torchrun --nproc-per-node=8 -m vitrail train dino_small_longer data.root=imagenet
    scene_data.root=coco/train2017 --init-from dino_deitsmall16_pretrain_full_checkpoint.pth; (a) without scene_data,
    (b) with data.root=coco/train2017 alone, (c) with both; equal steps by train.epochs. Expect: little change
    (published as Fig. 7); not run here. Rates and the teacher's momentum are those of CoTAP's second stage; the paper
    does not say.
    """
    return dino_small().override(LONGER)


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: data folder, sizes."""
    check_mixed(recipe.data, recipe.scene_data)
    check_data(recipe.data, recipe.views.global_size, "views.global_size")


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader, k-NN and pictures, for one of `world` processes; `own` as in `vitrail.recipes.start`."""
    check(recipe)
    views, splits = recipe.views, open_splits(recipe.data)
    images = splits.train if recipe.scene_data is None else open_mixed(recipe.data, recipe.scene_data).train
    backbone = start(recipe.backbone, views.global_size, views.mean, views.std, recipe.init_from, own)
    check_crops(backbone.patch_size, views)
    check_entropy(recipe.method.regularizers, backbone, *regularized_sizes(views, recipe.method.regularize))
    # Normalization belongs to the weights: those that training goes on from bring their own.
    views = views.model_copy(update={"mean": backbone.mean, "std": backbone.std})
    regularizers = timed(recipe.method.regularizers, recipe.train.epochs)
    known = {"epochs": recipe.train.epochs, "regularizers": regularizers}
    method = Dino(recipe.method.model_copy(update=known), backbone)
    if recipe.init_from is not None and own is None:
        if take_over(recipe.init_from, {"projector": method.head}):
            take_over_centers(recipe.init_from, {"center": method.targets})
        method.teacher_head.load_state_dict(method.head.state_dict())
    workers = capped(recipe.workers)
    loader = loading(images, MultiCrop(views), recipe.train, workers, rank, world)
    ranks = Ranks(rank, world, torch.device("cpu"))
    seen = seen_by(backbone, views.global_size)
    watch = knn_and_entropy(method.teacher, splits, seen, recipe.probe, recipe.attention, workers, ranks)
    return Parts(method, loader, watch, drawing(splits))
