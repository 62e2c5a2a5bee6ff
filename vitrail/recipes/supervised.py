"""Supervised training: on scenes, on a folder, by DeiT's recipe, and fine-tuning; each with or without SAR.

    vitrail train scenes_sar --out runs/scenes-sar
    vitrail train folder_sar data.root=photos --out runs/photos-sar
    vitrail train finetune_sar data.root=flowers --init-from runs/photos-sar --out runs/flowers
    vitrail train finetune_mae data.root=flowers --init-from runs/photos-mae --out runs/flowers-mae

Table 4 of the SAR paper has four fine-tuning configurations: `finetune` and `finetune_sar`, each started from
a checkpoint with and from one without SAR. The architecture always follows the checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vitrail.backbones import BackboneConfig
from vitrail.config import Config, ConfigError
from vitrail.contracts import ImageSet
from vitrail.data import (
    EvalTransformConfig,
    TrainTransformConfig,
    build_eval_transform,
    build_train_transform,
    ordered_batches,
)
from vitrail.methods.supervised import Supervised, SupervisedConfig
from vitrail.nn.surgery import PRESETS
from vitrail.recipes.attention_numbers import attention_numbers, sums_by_head
from vitrail.recipes.run import Parts
from vitrail.recipes.sources import DataConfig, open_splits
from vitrail.recipes.start import (
    HALF,
    SAR,
    capped,
    check_data,
    check_entropy,
    check_size,
    check_weights,
    drawing,
    loading,
    start,
    tell_unreadable,
    timed,
    with_entropy,
    with_sar,
)
from vitrail.regularizers import WeightConfig
from vitrail.train import Ranks, TrainConfig

log = logging.getLogger("vitrail")


class Recipe(Config):
    """Everything that decides a supervised run."""

    kind: Literal["supervised"] = "supervised"
    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    init_from: str | None = None
    """Weights to start from; the architecture follows them, `backbone` adds drop path alone. "" asks for some."""
    augment: TrainTransformConfig = TrainTransformConfig()
    method: SupervisedConfig = SupervisedConfig()
    train: TrainConfig = TrainConfig()
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images, at most one a core; 0 does it in the training process."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_size(self.backbone, self.augment.image_size)
        check_weights(self.method.regularizers, self.train.epochs)
        self._check_row()
        return self

    def _check_row(self) -> None:
        """The letters of Table 1(b) say block and loss: a run must be what its letter says."""
        row = self.backbone.surgery
        entropy = any(each.kind == "spatial_entropy" for each in self.method.regularizers)
        if row is None or PRESETS[row].entropy == entropy:
            return
        if entropy and row not in ("A", "C"):
            return  # B and D with the loss have no letter
        other = {"A": "E", "C": "F", "E": "A", "F": "C"}[row]
        loss = "has" if entropy else "has no"
        raise ValueError(
            f"backbone.surgery is {row} and method.regularizers {loss} spatial_entropy, which is row {other} of "
            f"Table 1(b); set backbone.surgery={other}, or "
            + ("method.regularizers=[]" if entropy else "method.regularizers=[{kind: spatial_entropy}]")
        )


def scenes() -> Recipe:
    """Generated scenes, tiny ViT: the demo's baseline.

    Command: vitrail train scenes. Time: one to three minutes on 2 CPU cores. Expect: see
    benchmarks/results/scenes-*.json.
    """
    return Recipe(
        backbone=BackboneConfig(patch_size=6, embed_dim=96, depth=4, heads=3),
        augment=TrainTransformConfig(image_size=48, scale=None, mean=HALF, std=HALF),
        method=SupervisedConfig(label_smoothing=0, mixup=0, cutmix=0),
        train=TrainConfig(
            epochs=4,
            global_batch_size=64,
            learning_rate=1.5e-3,
            warmup_epochs=0.8,
            log_every=20,
        ),
        workers=0,
    )


def scenes_sar() -> Recipe:
    """Generated scenes, tiny ViT with SAR: surgery of the last block and spatial entropy.

    Its weight is 0.005, what the released schedule averages to. Command: vitrail train scenes_sar. Time and numbers:
    as `scenes`.
    """
    gentle = SAR.model_copy(update={"weight": WeightConfig(peak=0.005)})
    return with_sar(scenes(), gentle)


def folder() -> Recipe:
    """Your own folder of small images, from scratch: ViT-Ti with patches of 8 at 64 pixels.

    Command: vitrail train folder data.root=photos. Time: 12,500 images take about 4 minutes an epoch on 2 CPU
    cores. Expect: see benchmarks/results/real_images-*.json.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_tiny_patch16_224", patch_size=8, drop_path=0.1),
        augment=TrainTransformConfig(image_size=64, scale=(0.35, 1.0), color_jitter=(0.3, 0.3, 0.3, 0.0)),
        method=SupervisedConfig(),
        train=TrainConfig(epochs=100, global_batch_size=256, learning_rate=5e-4, warmup_epochs=5, clip_norm=1.0),
        workers=4,
    )


def folder_sar() -> Recipe:
    """Your own folder of small images, from scratch, with SAR.

    Command: vitrail train folder_sar data.root=photos. Time and numbers: as `folder`.
    """
    return with_sar(folder())


def deit_tiny() -> Recipe:
    """DeiT-Ti/16 at 224 pixels from scratch, 300 epochs of ImageNet.

    Command: torchrun --nproc-per-node=8 -m vitrail train deit_tiny data.root=imagenet. Expect: 72.2 top-1
    (published); not run here.
    """
    return deit("vit_tiny_patch16_224")


def deit_tiny_sar() -> Recipe:
    """DeiT-Ti/16 with SAR, 300 epochs of ImageNet.

    Command: as `deit_tiny`. Expect: 72.4 top-1 (the paper's Table 2); not run here.
    """
    return with_sar(deit_tiny())


def deit_small() -> Recipe:
    """DeiT-S/16 at 224 pixels from scratch, 300 epochs of ImageNet.

    Command: torchrun --nproc-per-node=8 -m vitrail train deit_small data.root=imagenet. Expect: 79.8 top-1
    (published); not run here.
    """
    return deit("vit_small_patch16_224")


def deit_small_sar() -> Recipe:
    """DeiT-S/16 with SAR, 300 epochs of ImageNet.

    Command: as `deit_small`. Expect: 80.7 top-1 (the paper's Table 2); not run here.
    """
    return with_sar(deit_small())


def finetune() -> Recipe:
    """Fine-tuning from weights, 100 epochs at 224 pixels; the architecture follows the weights.

    Command: vitrail train finetune data.root=flowers --init-from runs/pretrained. Expect: the paper's Table 4
    (98.59 on CIFAR-10 for the baseline); not run here.
    """
    train = TrainConfig(
        epochs=100,
        global_batch_size=512,
        learning_rate=5e-4,
        min_learning_rate=1e-5,
        warmup_epochs=3,
        precision="bf16",
    )
    return deit("vit_small_patch16_224").model_copy(update={"train": train, "init_from": ""})


def finetune_sar() -> Recipe:
    """Fine-tuning from weights with the spatial entropy loss; the architecture follows the weights.

    Command: vitrail train finetune_sar data.root=flowers --init-from runs/pretrained. Expect: Table 4; not
    run here.
    """
    return with_entropy(finetune())


def finetune_mae() -> Recipe:
    """Fine-tuning of a masked autoencoder at 224 pixels, 100 epochs: the values of Table 7 of DPPMask's supplement.

    The table's rate of 5e-4 is for 256 images a step. What it does not say is MAE's own: random erasing 0.25, and the
    mean of the patches is classified. Command: torchrun --nproc-per-node=8 -m vitrail train finetune_mae
    data.root=imagenet100 --init-from runs/mae. Expect: no number is known to us; not run here.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_base_patch16_224", drop_path=0.1),
        init_from="",
        augment=TrainTransformConfig.deit(224),
        method=SupervisedConfig(
            pool="mean", label_smoothing=0.1, mixup=0.8, cutmix=1.0, weight_decay=0.05, layer_decay=0.65
        ),
        train=TrainConfig(
            epochs=100,
            global_batch_size=1024,
            learning_rate=5e-4 * 1024 / 256,
            warmup_epochs=5,
            warmup_learning_rate=0,
            betas=(0.9, 0.999),
            precision="bf16",
        ),
    )


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader, evaluation and pictures of a recipe, for one of `world` processes.

    `own` are the exported weights of a run that goes on: the network is theirs, so that what the run once started
    from may be gone.
    """
    check(recipe)
    splits = open_splits(recipe.data)
    if splits.train.classes is None:
        raise ValueError(
            f"{recipe.data.root} has no class folders, or one alone, and a supervised recipe needs labels; "
            "put the images into one folder per class, two classes at least"
        )
    backbone = start(
        recipe.backbone, recipe.augment.image_size, recipe.augment.mean, recipe.augment.std, recipe.init_from, own
    )
    check_entropy(recipe.method.regularizers, backbone, recipe.augment.image_size)
    # Normalization belongs to the weights: those that are fine-tuned bring their own.
    augment = recipe.augment.model_copy(update={"mean": backbone.mean, "std": backbone.std})
    regularizers = timed(recipe.method.regularizers, recipe.train.epochs)
    config = recipe.method.model_copy(update={"regularizers": regularizers})
    method = Supervised(config, backbone, splits.train.classes)
    workers = capped(recipe.workers)
    loader = loading(splits.train, build_train_transform(augment), recipe.train, workers, rank, world)
    method.check_batch(recipe.train.global_batch_size // world // recipe.train.accumulate)
    seen = EvalTransformConfig(image_size=augment.image_size, mean=augment.mean, std=augment.std)

    ranks = Ranks(rank, world, torch.device("cpu"))
    return Parts(method, loader, validation(method, splits.val, seen, workers, ranks), drawing(splits))


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: weights, data folder, sizes."""
    if recipe.init_from == "":
        raise ConfigError("fine-tuning starts from weights; give --init-from RUN_OR_FILE")
    check_data(recipe.data, recipe.augment.image_size)


def validation(
    method: Supervised, data: ImageSet, config: EvalTransformConfig, workers: int, ranks: Ranks
) -> Callable[[], Mapping[str, float]]:
    """A function that gives top-1 in percent and, over the same images, the last block's `attention_numbers`.

    These are measured for every model whose scores can be read, also for one that is not trained with SAR: curves can
    be compared. Each rank takes its part of the images; unreadable ones are left out and logged, and raise
    `TooManyUnreadable` above 1 %.
    """
    transform = build_eval_transform(config)
    last = method.backbone.depth - 1
    asked = () if last in method.backbone.closed else (last,)
    told: set[int] = set()

    @torch.no_grad()
    def evaluate() -> Mapping[str, float]:
        device = method.head.weight.device
        sums = torch.zeros(2, dtype=torch.float64)  # images, hits
        heads: Tensor | None = None
        skipped: dict[int, tuple[str, str]] = {}
        place = {"workers": min(workers, 2), "rank": ranks.rank, "world": ranks.world, "skipped": skipped}
        for batch in ordered_batches(data, transform, batch_size=128, **place):  # type: ignore[arg-type]
            tokens = method.backbone(batch.images.to(device), scores=asked)
            assert batch.labels is not None
            hits = (method.classify(tokens).argmax(1).cpu() == batch.labels).sum()
            sums += torch.stack([torch.tensor(len(batch.labels)), hits]).double()
            if asked:
                found = sums_by_head(tokens.scores[last])
                heads = found if heads is None else heads + found
        unreadable = {index: why for part in ranks.gather(skipped) for index, why in part.items()}
        tell_unreadable(unreadable, len(data), told)
        count, hits = (ranks.mean(sums) * ranks.world).tolist()
        numbers = {"top1": 100 * hits / max(count, 1)}
        return numbers | attention_numbers(heads, int(sums[0]), ranks)

    return evaluate


def deit(name: str) -> Recipe:
    """DeiT's recipe for a network of that name: 300 epochs of 1,024 images a step, 1e-3, decay 0.05, drop path 0.1."""
    return Recipe(
        backbone=BackboneConfig(name=name, drop_path=0.1),
        augment=TrainTransformConfig.deit(224),
        method=SupervisedConfig(),
        train=TrainConfig(
            epochs=300,
            global_batch_size=1024,
            learning_rate=1e-3,
            min_learning_rate=1e-5,
            warmup_epochs=5,
            warmup_learning_rate=1e-6,
            precision="bf16",
        ),
    )
