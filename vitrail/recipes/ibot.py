"""iBOT: on scenes, on a folder, by Table 8 of DPPMask's supplement; the mask is one setting.

vitrail train folder_ibot data.root=photos --out runs/photos-ibot
vitrail train folder_ibot data.root=photos method.mask.kind=dpp method.mask.tau=0.5 --out runs/photos-ibot-dpp
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from vitrail.backbones import BackboneConfig, need_vit
from vitrail.config import Config
from vitrail.data import MultiCrop, MultiCropConfig
from vitrail.masks import MaskConfig, RatioConfig
from vitrail.methods.ibot import Ibot, IbotConfig
from vitrail.nn.prototype_head import HeadConfig
from vitrail.nn.soft_targets import TargetConfig
from vitrail.recipes.attention_numbers import AttentionConfig, knn_and_entropy
from vitrail.recipes.dino import LONGER, SCENES
from vitrail.recipes.heads import one_head, take_over, take_over_centers
from vitrail.recipes.probe import ProbeConfig
from vitrail.recipes.run import Parts
from vitrail.recipes.sources import DataConfig, open_mixed, open_splits
from vitrail.recipes.start import (
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
)
from vitrail.train import Ranks, TrainConfig

DPP = MaskConfig(kind="dpp", tau=0.5)
"""DPPMask: diverse patches stay visible until the largest gain falls to 0.5, others are drawn at random."""


class Recipe(Config):
    """Everything that decides a run of iBOT."""

    kind: Literal["ibot"] = "ibot"
    data: DataConfig = DataConfig()
    scene_data: DataConfig | None = None
    """Scene-centric images, mixed with those of `data` one to one; null for those alone."""
    backbone: BackboneConfig = BackboneConfig()
    init_from: str | None = None
    """Weights to go on from: a backbone, with its heads and centers where the file has them. null for fresh ones.
    The mask token always starts at 0."""
    views: MultiCropConfig = MultiCropConfig()
    method: IbotConfig = IbotConfig()
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


def scenes_ibot() -> Recipe:
    """Generated scenes, tiny ViT, iBOT with random masks. Objects are small: few patches are hidden, and count little.

    Command: vitrail train scenes_ibot. Time and numbers: see benchmarks/results/pretraining-*.json.
    """
    targets = TargetConfig(kind="sinkhorn", temperature=0.02, warmup_epochs=0)
    return Recipe(
        backbone=BackboneConfig(patch_size=8, embed_dim=96, depth=4, heads=3),
        views=SCENES,
        method=IbotConfig(
            head=HeadConfig(prototypes=16, hidden_dim=256),
            targets=targets,
            patch_targets=targets,
            momentum=0.9,
            weight_decay_end=0.04,
            mask=MaskConfig(kind="random"),
            ratio=RatioConfig(mean=0.3, spread=0.05),
            patch_weight=0.1,
        ),
        train=TrainConfig(
            epochs=5,
            global_batch_size=64,
            learning_rate=3e-3,
            warmup_epochs=1,
            clip_norm=3.0,
            log_every=20,
        ),
        workers=0,
    )


def scenes_ibot_dpp() -> Recipe:
    """Generated scenes, tiny ViT, iBOT with DPPMask, whose search would never stop on so few patches at a smaller tau.

    Command: vitrail train scenes_ibot_dpp. Time and numbers: as `scenes_ibot`.
    """
    return _masked(scenes_ibot(), DPP.model_copy(update={"tau": 0.9}))


def folder_ibot() -> Recipe:
    """Your own folder of small images: iBOT from scratch with block-wise masks, ViT-Ti, patches of 8 at 64 pixels.

    Command: vitrail train folder_ibot data.root=photos. Expect: not yet measured.
    """
    targets = TargetConfig(warmup_epochs=10)
    return Recipe(
        backbone=BackboneConfig(name="vit_tiny_patch16_224", patch_size=8, drop_path=0.1),
        views=MultiCropConfig(
            global_size=64, local_size=32, locals=6, global_scale=(0.3, 1.0), local_scale=(0.08, 0.3), sigma=(0.1, 0.6)
        ),
        method=IbotConfig(head=HeadConfig(prototypes=4096), targets=targets, patch_targets=targets),
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


def ibot_small() -> Recipe:
    """iBOT ViT-S/16 at 224 pixels, 100 epochs, random masks: the values of Table 8.

    What the table does not say is iBOT's own; its learning rate is read as one for 256 images. Command: torchrun
    --nproc-per-node=8 -m vitrail train ibot_small data.root=imagenet100. Expect: no number is known to us; not run
    here.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_small_patch16_224", drop_path=0.1),
        views=MultiCropConfig(locals=10, global_scale=(0.25, 1.0), local_scale=(0.05, 0.25)),
        method=IbotConfig(
            head=HeadConfig(prototypes=8192, fixed_norm=False),
            targets=TargetConfig(temperature=0.07, warmup_epochs=30),
            patch_targets=TargetConfig(temperature=0.07, warmup_epochs=30),
            momentum=0.996,
            mask=MaskConfig(kind="random"),
            ratio=RatioConfig(mean=0.7, spread=0.05, probability=0.5),
        ),
        train=TrainConfig(
            epochs=100,
            global_batch_size=1024,
            learning_rate=5e-4 * 1024 / 256,
            warmup_epochs=10,
            warmup_learning_rate=0,
            clip_norm=3.0,
            precision="bf16",
            evaluate_every=10,
        ),
    )


def ibot_small_dpp() -> Recipe:
    """iBOT ViT-S/16 with DPPMask: Table 8 with another mask.

    Command: as `ibot_small`. Expect: no number is known to us; not run here.
    """
    return _masked(ibot_small(), DPP)


def ibot_small_longer() -> Recipe:
    """iBOT ViT-S/16 trained on for 100,000 steps of 256: the control of CoTAP's Sec. 5.5.

    Command: as `dino_small_longer`, with iBOT's checkpoint. Expect: little change (published as Fig. 7); not run here.
    """
    return ibot_small().override([*LONGER, "method.patch_targets.warmup_epochs=0"])


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: data folder, sizes."""
    check_mixed(recipe.data, recipe.scene_data)
    check_data(recipe.data, recipe.views.global_size, "views.global_size")


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader, k-NN and pictures, for one of `world` processes; `own` as in `vitrail.recipes.start`."""
    check(recipe)
    views, splits = recipe.views, open_splits(recipe.data)
    images = splits.train if recipe.scene_data is None else open_mixed(recipe.data, recipe.scene_data).train
    begun = start(recipe.backbone, views.global_size, views.mean, views.std, recipe.init_from, own)
    backbone = need_vit(begun, "iBOT")
    check_crops(backbone.patch_size, views)
    check_entropy(recipe.method.regularizers, backbone, *regularized_sizes(views, recipe.method.regularize))
    # Normalization belongs to the weights: those that training goes on from bring their own.
    views = views.model_copy(update={"mean": backbone.mean, "std": backbone.std})
    regularizers = timed(recipe.method.regularizers, recipe.train.epochs)
    known = {"epochs": recipe.train.epochs, "regularizers": regularizers}
    method = Ibot(recipe.method.model_copy(update=known), backbone)
    if recipe.init_from is not None and own is None:
        _take_over_heads(recipe.init_from, method)
    workers = capped(recipe.workers)
    loader = loading(images, MultiCrop(views), recipe.train, workers, rank, world)
    ranks = Ranks(rank, world, torch.device("cpu"))
    seen = seen_by(backbone, views.global_size)
    watch = knn_and_entropy(method.teacher, splits, seen, recipe.probe, recipe.attention, workers, ranks)
    return Parts(method, loader, watch, drawing(splits))


def _take_over_heads(weights: str, method: Ibot) -> None:
    """Heads and centers of student and teacher. A center belongs to a head: one that starts fresh takes none."""
    own = method.patch_head
    taken = take_over(weights, {"projector": method.head} | ({} if own is None else {"patch_projector": own}))
    method.teacher_head.load_state_dict(method.head.state_dict())
    if own is not None and method.teacher_patch_head is not None:
        method.teacher_patch_head.load_state_dict(own.state_dict())
    centers = {"center": method.targets} if "projector" in taken else {}
    if "patch_projector" in taken or (own is None and "projector" in taken and one_head(weights)):
        centers["center2"] = method.patch_targets
    take_over_centers(weights, centers)


def _masked(recipe: Recipe, mask: MaskConfig) -> Recipe:
    return recipe.model_copy(update={"method": recipe.method.model_copy(update={"mask": mask})})
