"""Masked autoencoders: on scenes, on a folder, by MAE's recipe; the mask is one setting.

vitrail train folder_mae data.root=photos --out runs/photos-mae
vitrail train folder_mae data.root=photos method.mask.kind=dpp method.mask.tau=0.5 --out runs/photos-dpp
vitrail train finetune_mae data.root=flowers --init-from runs/photos-mae --out runs/flowers
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from vitrail.backbones import BackboneConfig, TimmViT, need_vit
from vitrail.config import Config
from vitrail.data import EvalTransformConfig, TrainTransformConfig, build_train_transform
from vitrail.evaluation.features import FeatureConfig
from vitrail.masks import MaskConfig
from vitrail.methods.mae import Mae, MaeConfig
from vitrail.nn.masked_autoencoder import DecoderConfig
from vitrail.recipes.heads import take_over
from vitrail.recipes.look import keep_sheet
from vitrail.recipes.probe import ProbeConfig, knn_probe
from vitrail.recipes.reconstructions import Autoencoder, open_autoencoder, reconstruction_sheet
from vitrail.recipes.run import Parts
from vitrail.recipes.sources import DataConfig, open_splits
from vitrail.recipes.start import HALF, capped, check_data, check_size, loading, start
from vitrail.train import Ranks, TrainConfig

DPP = MaskConfig(kind="dpp", tau=0.5)
"""DPPMask: diverse patches stay visible until the largest gain falls to 0.5, others are drawn at random."""
PATCHES = FeatureConfig(cls_blocks=0, mean_patch=True)
"""What the k-NN between epochs compares: the loss says nothing about the class token."""


class Recipe(Config):
    """Everything that decides a run of MAE."""

    kind: Literal["mae"] = "mae"
    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    init_from: str | None = None
    """Weights to go on from: a backbone, with its decoder where the file has one. null for fresh ones."""
    augment: TrainTransformConfig = TrainTransformConfig(scale=(0.2, 1.0))
    method: MaeConfig = MaeConfig()
    train: TrainConfig = TrainConfig()
    probe: ProbeConfig = ProbeConfig(features=PATCHES)
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images, at most one a core; 0 does it in the training process."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_size(self.backbone, self.augment.image_size)
        return self


def scenes_mae() -> Recipe:
    """Generated scenes, tiny ViT, MAE with random masks.

    Command: vitrail train scenes_mae. Time and numbers: see benchmarks/results/pretraining-*.json.
    """
    return Recipe(
        backbone=BackboneConfig(patch_size=6, embed_dim=96, depth=4, heads=3),
        augment=TrainTransformConfig(image_size=48, scale=None, mean=HALF, std=HALF),
        method=MaeConfig(decoder=DecoderConfig(embed_dim=64, depth=2, heads=4)),
        train=TrainConfig(
            epochs=10,
            global_batch_size=64,
            learning_rate=2e-3,
            min_learning_rate=0,
            warmup_epochs=1,
            betas=(0.9, 0.95),
            log_every=20,
        ),
        workers=0,
    )


def scenes_mae_dpp() -> Recipe:
    """Generated scenes, tiny ViT, MAE with DPPMask, whose search would never stop on so few patches at a smaller tau.

    Command: vitrail train scenes_mae_dpp. Time and numbers: as `scenes_mae`.
    """
    return _masked(scenes_mae(), DPP.model_copy(update={"tau": 0.9}))


def folder_mae() -> Recipe:
    """Your own folder of small images: MAE from scratch, ViT-Ti with patches of 8 at 64 pixels.

    Command: vitrail train folder_mae data.root=photos. Time: see benchmarks/results/mae_step-*.json. Expect: not yet
    measured.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_tiny_patch16_224", patch_size=8),
        augment=TrainTransformConfig(image_size=64, scale=(0.2, 1.0)),
        method=MaeConfig(decoder=DecoderConfig(embed_dim=128, depth=4, heads=4)),
        train=TrainConfig(
            epochs=200,
            global_batch_size=256,
            learning_rate=1e-3,
            min_learning_rate=0,
            warmup_epochs=10,
            betas=(0.9, 0.95),
            evaluate_every=10,
        ),
        workers=4,
    )


def folder_mae_dpp() -> Recipe:
    """Your own folder of small images: MAE with DPPMask.

    Command: vitrail train folder_mae_dpp data.root=photos. Time and numbers: as `folder_mae`.
    """
    return _masked(folder_mae(), DPP)


def mae_small() -> Recipe:
    """MAE ViT-S/16 at 224 pixels, 800 epochs.

    Command: torchrun --nproc-per-node=8 -m vitrail train mae_small data.root=imagenet. Expect: nothing published for
    this size; not run here.
    """
    return _published("vit_small_patch16_224")


def mae_base() -> Recipe:
    """MAE ViT-B/16 at 224 pixels, 800 epochs.

    Command: torchrun --nproc-per-node=8 -m vitrail train mae_base data.root=imagenet. Expect: 83.3 top-1 after
    fine-tuning (published, 800 epochs of ImageNet-1k); not run here.
    """
    return _published("vit_base_patch16_224")


def mae_base_dpp() -> Recipe:
    """MAE ViT-B/16 with DPPMask.

    Command: as `mae_base`. Expect: no number is known to us; not run here.
    """
    return _masked(mae_base(), DPP)


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: data folder, sizes."""
    check_data(recipe.data, recipe.augment.image_size)


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader, k-NN and pictures, for one of `world` processes; `own` as in `vitrail.recipes.start`."""
    check(recipe)
    augment, splits = recipe.augment, open_splits(recipe.data)
    begun = start(recipe.backbone, augment.image_size, augment.mean, augment.std, recipe.init_from, own)
    backbone = need_vit(begun, "MAE")
    # Normalization belongs to the weights: those that training goes on from bring their own.
    augment = augment.model_copy(update={"mean": backbone.mean, "std": backbone.std})
    method = Mae(recipe.method, backbone, fresh=recipe.init_from is None)
    taken: tuple[str, ...] = ()
    if recipe.init_from is not None and own is None:
        normalized = recipe.method.normalized_targets
        taken = take_over(recipe.init_from, {"decoder": method.decoder}, normalized_targets=normalized)
    workers = capped(recipe.workers)
    loader = loading(splits.train, build_train_transform(augment), recipe.train, workers, rank, world)
    seen = EvalTransformConfig(image_size=augment.image_size, mean=augment.mean, std=augment.std)

    def draw(folder: Path, when: str, drawn: TimmViT) -> None:
        if when == "before":
            found = Autoencoder(drawn, method.decoder, recipe.method.normalized_targets)
        else:
            found = open_autoencoder(str(folder.parent / "exported" / "backbone.safetensors"), device="cpu")
        untrained = when == "before" and "decoder" not in taken
        sheet = reconstruction_sheet(
            found, splits.val, _drawn(recipe.method.mask), hidden=recipe.method.hidden, untrained=untrained
        )
        caption = f"Reconstructions {when} training: image, then what a mask leaves of it and what is made of that."
        keep_sheet(folder, f"reconstruction_{when}.png", sheet, caption)

    ranks = Ranks(rank, world, torch.device("cpu"))
    return Parts(method, loader, knn_probe(backbone, splits, seen, recipe.probe, workers, ranks), draw)


def _drawn(mask: MaskConfig) -> dict[str, MaskConfig]:
    """The masks in a run's pictures: random ones, and beside them the run's own, or DPPMask's."""
    shown = DPP if mask.kind == "random" else mask
    name = f"DPPMask, tau\u00a0{shown.tau:g}" if shown.kind == "dpp" else shown.kind.replace("_", " ")
    return {"random": MaskConfig(), name: shown}


def _masked(recipe: Recipe, mask: MaskConfig) -> Recipe:
    return recipe.model_copy(update={"method": recipe.method.model_copy(update={"mask": mask})})


def _published(name: str) -> Recipe:
    """MAE's values; its base rate 1.5e-4 is for 256 images a step."""
    return Recipe(
        backbone=BackboneConfig(name=name),
        augment=TrainTransformConfig(image_size=224, scale=(0.2, 1.0)),
        train=TrainConfig(
            epochs=800,
            global_batch_size=4096,
            learning_rate=1.5e-4 * 4096 / 256,
            min_learning_rate=0,
            warmup_epochs=40,
            warmup_learning_rate=0,
            betas=(0.9, 0.95),
            precision="bf16",
            evaluate_every=20,
        ),
    )
