"""Classifiers that see the patches a ranker keeps: on scenes, and fine-tuning with one or several labels an image.

vitrail train scenes_kept --out runs/kept
vitrail train scenes_kept ranker=ltrp=runs/scenes_ltrp --out runs/kept-ltrp
vitrail train finetune_kept data.root=flowers --init-from mae_pretrain_vit_base.pth \
    ranker=dino=dino_deitsmall16_pretrain.pth method.keep=0.5 --out runs/flowers-kept
vitrail train finetune_kept_multi_label data.root=streets --init-from mae_pretrain_vit_base.pth ... --out runs/streets
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from vitrail import catalog
from vitrail.backbones import AnyBackbone, BackboneConfig, need_vit
from vitrail.config import Config, ConfigError, Listed
from vitrail.contracts import ImageSet
from vitrail.data import (
    EvalTransformConfig,
    TrainTransformConfig,
    build_eval_transform,
    build_train_transform,
    is_multi_label,
    ordered_batches,
)
from vitrail.methods.kept_patches import KeptPatches, KeptPatchesConfig
from vitrail.methods.labels import LabelConfig
from vitrail.metrics.classification import topk_accuracy
from vitrail.metrics.multi_label import mean_average_precision
from vitrail.ops.selection import number_kept
from vitrail.rankers import open_ranker
from vitrail.recipes.look import different, keep_sheet
from vitrail.recipes.rank import rank
from vitrail.recipes.rankers import parse_ranker
from vitrail.recipes.run import Parts
from vitrail.recipes.sources import DataConfig, Splits, open_several, open_splits
from vitrail.recipes.start import HALF, capped, check_data, check_size, drawing, loading, start, tell_unreadable
from vitrail.recipes.weights import find_weights
from vitrail.train import Ranks, TrainConfig
from vitrail.viz.patches import rankers_gallery


class RankerConfig(Config):
    """What chooses the patches; it is not trained. `ranker=NAME[:VARIANT][=WEIGHTS]` says name, variant and weights."""

    name: str = "center"
    """`vitrail list rankers` names them."""
    weights: str | None = None
    """A file or a run folder, for all but `random` and `center`."""
    variant: str | None = None
    """Where a paper's text and its released code differ; null for the text."""
    model: str | None = None
    """timm's name of the ranker's network, where its file does not tell."""
    key: str = "auto"
    """Which network of a file that holds several."""

    @model_validator(mode="before")
    @classmethod
    def _words(cls, values: object) -> object:
        """`ltrp=runs/ltrp` and `dino:mass_vote=dino.pth`, as `--ranker` takes them."""
        return parse_ranker(values)._asdict() if isinstance(values, str) else values

    @field_validator("name")
    @classmethod
    def _is_known(cls, value: str) -> str:
        return catalog.find(catalog.rankers(), value, "ranker").name

    def open(self, patch_size: tuple[int, int]) -> Any:
        """The ranker; `patch_size` is for those whose network has no patches of its own."""
        height, width = patch_size
        return open_ranker(
            self.name,
            self.weights,
            model=self.model,
            key=self.key,
            variant=self.variant,
            patch_size=height if height == width else None,
        )


class Recipe(Config):
    """Everything that decides a run on kept patches. The share that is kept is `method.keep`."""

    kind: Literal["kept_patches"] = "kept_patches"
    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    init_from: str | None = None
    """Weights to start from; the architecture follows them, `backbone` adds drop path alone. "" asks for some."""
    ranker: RankerConfig = RankerConfig()
    augment: TrainTransformConfig = TrainTransformConfig()
    method: KeptPatchesConfig = KeptPatchesConfig()
    train: TrainConfig = TrainConfig()
    keeps: Annotated[tuple[float, ...], Listed] = ()
    """Further shares of the patches to validate with, beside `method.keep`: val/top1_keep_0.25 and so on."""
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images, at most one a core; 0 does it in the training process."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_size(self.backbone, self.augment.image_size)
        for keep in self.keeps:
            number_kept(keep, 1)
        return self


def scenes_kept() -> Recipe:
    """Generated scenes, tiny ViT that sees half of the patches, those in the middle.

    Command: vitrail train scenes_kept. Time: about that of `scenes`. Expect: see docs/kept_patches.md.
    """
    return Recipe(
        backbone=BackboneConfig(patch_size=6, embed_dim=96, depth=4, heads=3),
        augment=TrainTransformConfig(image_size=48, scale=None, mean=HALF, std=HALF),
        method=KeptPatchesConfig(keep=0.5, labels=LabelConfig(smoothing=0, mixup=0, cutmix=0)),
        train=TrainConfig(epochs=4, global_batch_size=64, learning_rate=1.5e-3, warmup_epochs=0.8, log_every=20),
        keeps=(0.25, 1.0),
        workers=0,
    )


def finetune_kept() -> Recipe:
    """Fine-tuning on half of the patches with MAE's recipe, 50 epochs at 224 pixels, one label an image.

    Command: torchrun --nproc-per-node=8 -m vitrail train finetune_kept data.root=imagenet100 --init-from
    mae_pretrain_vit_base.pth ranker=dino=FILE method.keep=0.5. Expect: no number is known to us;
    not run here.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_base_patch16_224", drop_path=0.1),
        init_from="",
        augment=TrainTransformConfig.deit(224),
        method=KeptPatchesConfig(keep=0.5, weight_decay=0.05, layer_decay=0.75),
        train=TrainConfig(
            epochs=50,
            global_batch_size=1024,
            learning_rate=1e-3 * 1024 / 256,
            min_learning_rate=1e-6,
            warmup_epochs=5,
            warmup_learning_rate=0,
            precision="bf16",
        ),
    )


def finetune_kept_multi_label() -> Recipe:
    """Fine-tuning on 147 of 196 patches with any number of labels an image: ML-Decoder and the asymmetric loss.

    Command: torchrun --nproc-per-node=4 -m vitrail train finetune_kept_multi_label data.root=coco --init-from
    mae_pretrain_vit_base.pth ranker=NAME=FILE. Expect: LTRP's authors state a mAP of 82.8 on COCO,
    as a mean over batches, which is another number than this one; not run here.
    """
    single = finetune_kept()
    method = single.method.model_copy(
        update={"keep": 0.75, "head": "ml_decoder", "loss": "asymmetric", "layer_decay": 0.65}
    )
    train = single.train.model_copy(update={"epochs": 100, "learning_rate": 5e-4 * 1024 / 256})
    augment = single.augment.model_copy(update={"erase": 0.0})
    return single.model_copy(update={"method": method, "train": train, "augment": augment})


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: weights, data folder, sizes."""
    if recipe.init_from == "":
        raise ConfigError("fine-tuning starts from weights; give --init-from RUN_OR_FILE")
    if recipe.ranker.weights is not None:
        find_weights(recipe.ranker.weights)
    check_data(recipe.data, recipe.augment.image_size)


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader, validation and pictures, for one of `world` processes; `own` as in `recipes.start`."""
    check(recipe)
    splits = open_several(recipe.data) if recipe.method.loss == "asymmetric" else open_splits(recipe.data)
    classes = _classes(recipe, splits)
    augment = recipe.augment
    begun = start(recipe.backbone, augment.image_size, augment.mean, augment.std, recipe.init_from, own)
    backbone = need_vit(begun, "training on kept patches")
    # Normalization belongs to the weights: those that are fine-tuned bring their own.
    augment = augment.model_copy(update={"mean": backbone.mean, "std": backbone.std})
    chooses = min(recipe.method.keep, *recipe.keeps) < 1 if recipe.keeps else recipe.method.keep < 1
    ranker = recipe.ranker.open(backbone.patch_size) if chooses else None
    method = KeptPatches(recipe.method, backbone, ranker, classes, recipe.ranker.plain() if chooses else None)
    workers = capped(recipe.workers)
    loader = loading(splits.train, build_train_transform(augment), recipe.train, workers, rank, world)
    method.check_batch(recipe.train.global_batch_size // world // recipe.train.accumulate)
    seen = EvalTransformConfig(image_size=augment.image_size, mean=augment.mean, std=augment.std)
    ranks = Ranks(rank, world, torch.device("cpu"))
    measure = validation(method, splits.val, seen, workers, ranks, recipe.keeps)
    return Parts(method, loader, measure, _drawing(recipe, method, splits))


def validation(
    method: KeptPatches,
    data: ImageSet,
    config: EvalTransformConfig,
    workers: int,
    ranks: Ranks,
    keeps: tuple[float, ...] = (),
) -> Callable[[], Mapping[str, float]]:
    """A function that gives `top1`, or `mean_average_precision` for several labels an image, in percent.

    Both are of the whole set. With `keeps` also `top1_keep_0.25` and so on: the same weights, other shares of the
    patches. Each rank takes its part of the images; unreadable ones are left out and logged, and raise
    `TooManyUnreadable` above 1 %. Classes that no image of the set has are in no mean.
    """
    transform = build_eval_transform(config)
    told: set[int] = set()
    shares = {"": None} | {f"_keep_{keep:g}": keep for keep in keeps}

    @torch.no_grad()
    def evaluate() -> Mapping[str, float]:
        device = next(method.head.parameters()).device
        skipped: dict[int, tuple[str, str]] = {}
        place = {"workers": min(workers, 2), "rank": ranks.rank, "world": ranks.world, "skipped": skipped}
        found: list[list[Tensor]] = []  # of each batch: labels, then logits by share
        for batch in ordered_batches(data, transform, batch_size=128, **place):  # type: ignore[arg-type]
            assert batch.labels is not None
            images = batch.images.to(device)
            found.append([batch.labels, *(method(images, keep).float().cpu() for keep in shares.values())])
        unreadable = {index: why for part in ranks.gather(skipped) for index, why in part.items()}
        tell_unreadable(unreadable, len(data), told)
        whole = [batch for part in ranks.gather(found) for batch in part]
        labels, *logits = (torch.cat(column) for column in zip(*whole, strict=True))
        return {f"{name}{end}": value for end, each in zip(shares, logits) for name, value in score(each, labels)}

    return evaluate


def score(logits: Tensor, labels: Tensor) -> list[tuple[str, float]]:
    """The number that tells how good logits `[N, C]` are, by its name: for labels `[N]`, or `[N, C]`."""
    if labels.ndim == 1:
        return [("top1", topk_accuracy(logits, labels, (1,))[1])]
    return [("mean_average_precision", mean_average_precision(logits, labels).mean)]


def _classes(recipe: Recipe, splits: Splits) -> tuple[str, ...]:
    """Names of the labels. Raises `ValueError` where the images' labels are not what the loss wants."""
    several, classes = recipe.method.loss == "asymmetric", splits.train.classes
    where = recipe.data.root or "the scenes"
    if classes is None:
        raise ValueError(
            f"{where} has no class folders and no labels.csv, and a classifier needs labels; put the images into one "
            "folder per class, or write labels.csv beside them"
        )
    if several and not is_multi_label(splits.train):
        raise ValueError(
            f"method.loss=asymmetric is for any number of labels an image, and the images of {where} have one each; "
            "set method.loss=cross_entropy, or write labels.csv beside the images"
        )
    if not several and is_multi_label(splits.train):
        raise ValueError(
            f"the images of {where} have any number of labels each, and method.loss=cross_entropy wants one; set "
            "method.loss=asymmetric, or take finetune_kept_multi_label"
        )
    return classes


def _drawing(recipe: Recipe, method: KeptPatches, splits: Splits) -> Callable[[Path, str, AnyBackbone], None]:
    """Attention before and after training, and once what the ranker keeps, which training does not change."""
    attention = drawing(splits)

    def draw(folder: Path, when: str, drawn: AnyBackbone) -> None:
        attention(folder, when, drawn)
        if when != "before" or method.ranker is None:
            return
        images = [splits.val[index].image for index in different(splits.val, 4)]
        views = [rank(method.ranker, image, recipe.method.keep, min(drawn.image_size)) for image in images]
        gallery = rankers_gallery([image for image, _ in views], {recipe.ranker.name: [seen for _, seen in views]})
        share = f"{100 * recipe.method.keep:g} % of the patches of held-out images"
        caption = f"The {share} that {recipe.ranker.name} keeps, and its scores."
        keep_sheet(folder, "kept_patches.png", gallery, caption)

    return draw
