"""Classifiers that skip patches or parts of themselves: on scenes, on a folder, by their papers' recipes.

    vitrail train scenes_evit --out runs/scenes-evit
    vitrail train folder_evit data.root=photos --init-from runs/photos --out runs/photos-evit
    vitrail train folder_evit data.root=photos method.keep=0.5 method.anneal_until=60 --out runs/photos-evit

Which method is one word, `method.kind`. A further method is a class in `METHODS`, its settings, with a `kind` and
`epochs` of their own, in the union `Method`, and functions that return recipes; what such a class has to have says
`Sparse`. A classifier of the same classes in the weights that training starts from is taken over, and so are the
method's own parts. Recipes for scenes train a plain classifier first, into OUT/classifier, and go on from it, as the
papers do from a DeiT; `--init-from runs/scenes` takes one that is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vitrail.backbones import BackboneConfig, TimmViT, load_classifier, need_vit
from vitrail.config import Config, ConfigError
from vitrail.contracts import ImageSet
from vitrail.data import (
    EvalTransformConfig,
    TrainTransformConfig,
    build_eval_transform,
    build_train_transform,
    ordered_batches,
)
from vitrail.methods.ada_vit import AdaVit, AdaVitConfig
from vitrail.methods.answer import Answer
from vitrail.methods.dge import Dge, DgeConfig
from vitrail.methods.dynamic_vit import DynamicVit, DynamicVitConfig
from vitrail.methods.evit import Evit, EvitConfig
from vitrail.methods.ia_red2 import IaRed2, IaRed2Config
from vitrail.methods.labels import LabelConfig, Labels
from vitrail.methods.supervised import SupervisedConfig
from vitrail.recipes import supervised
from vitrail.recipes.heads import take_over
from vitrail.recipes.run import Parts, Verbs, look_ahead, train_before
from vitrail.recipes.sources import DataConfig, open_splits
from vitrail.recipes.start import (
    capped,
    check_data,
    check_size,
    drawing,
    loading,
    seen_by,
    start,
    tell_unreadable,
)
from vitrail.recipes.weights import find_weights
from vitrail.train import Ranks, TrainConfig

log = logging.getLogger("vitrail")
PLAIN = LabelConfig(smoothing=0, mixup=0, cutmix=0)
"""For a few epochs on scenes: no mixing, no smoothing."""
METHODS: dict[str, Callable[..., Sparse]] = {
    "evit": Evit,
    "dynamic_vit": DynamicVit,
    "ada_vit": AdaVit,
    "ia_red2": IaRed2,
    "dge": Dge,
}
"""By `method.kind`: called with (config, backbone, classes, head), head None where it is to start fresh."""

Method = EvitConfig | DynamicVitConfig | AdaVitConfig | IaRed2Config | DgeConfig
"""Settings of a method, told apart by their `kind`."""


class Sparse(Protocol):
    """What a method of this family has beside what `vitrail.contracts.Method` wants."""

    head: nn.Linear
    labels: Labels

    @property
    def backbone(self) -> TimmViT:
        """What is trained, exported and drawn."""
        ...

    def answer(self, images: Tensor) -> Answer:
        """Logits as after training, and the shares that were used; validation averages both."""
        ...

    def parts(self) -> dict[str, nn.Module]:
        """Modules that stand beside backbone and head in the exported file, by the names they have there."""
        ...


class Recipe(Config):
    """Everything that decides a run of a classifier that skips patches."""

    kind: Literal["sparse"] = "sparse"
    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    init_from: str | None = None
    """Weights to start from; the architecture follows them, `backbone` adds drop path alone. "" asks for some."""
    classifier: TrainConfig | None = None
    """Training of a plain classifier that comes first, into OUT/classifier, where `init_from` is null; null for none.
    Seed, device and precision follow those of `train`."""
    augment: TrainTransformConfig = TrainTransformConfig()
    method: Method = Field(EvitConfig(), discriminator="kind")
    train: TrainConfig = TrainConfig()
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images, at most one a core; 0 does it in the training process."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_size(self.backbone, self.augment.image_size)
        if self.method.epochs not in (None, self.train.epochs):
            raise ValueError(
                f"method.epochs is {self.method.epochs} and train.epochs is {self.train.epochs}; set the first to null"
            )
        return self


def scenes_evit() -> Recipe:
    """Generated scenes, tiny ViT with EViT: 70 % of the tokens stay at each of three stages.

    Command: vitrail train scenes_evit. Time and numbers: see benchmarks/results/scenes_rankers-*.json.
    """
    return _scenes(EvitConfig(anneal_from=0, anneal_until=1, labels=PLAIN))


def folder_evit() -> Recipe:
    """Your own folder of small images with EViT: ViT-Ti with patches of 8 at 64 pixels.

    From scratch, or from a trained classifier by --init-from. Command: vitrail train folder_evit data.root=photos.
    Expect: not yet measured.
    """
    return _folder(EvitConfig())


def evit_small() -> Recipe:
    """EViT-DeiT-S at 224 pixels, fine-tuned from DeiT-S for 30 epochs; 70 % of the tokens stay at a stage.

    Rates, epochs and batch are those of the authors' finetune.sh. Command: torchrun --nproc-per-node=8 -m vitrail train
    evit_small data.root=imagenet --init-from deit_small_patch16_224.pth. Expect: no number of a fine-tuned model is
    known to us; the authors' models of 300 epochs from scratch have 79.5 top-1, and 78.5 with method.keep=0.5 (their
    README); not run here.
    """
    return _published("vit_small_patch16_224", EvitConfig(anneal_from=0, anneal_until=0, weight_decay=1e-6))


def scenes_dynamic_vit() -> Recipe:
    """Generated scenes, tiny ViT with DynamicViT: 70 %, 49 % and 34 % of the patches are left after three stages.

    The classifier that comes first is the teacher. Command: vitrail train scenes_dynamic_vit. Time and numbers: see
    benchmarks/results/scenes_rankers-*.json.
    """
    return _scenes(DynamicVitConfig(backbone_rate=0.1, frozen_epochs=0, labels=PLAIN), rate=4e-3)


def folder_dynamic_vit() -> Recipe:
    """Your own folder of small images with DynamicViT: ViT-Ti with patches of 8 at 64 pixels.

    From scratch, or from a trained classifier by --init-from, which then is the teacher. Command: vitrail train
    folder_dynamic_vit data.root=photos --init-from runs/photos. Expect: not yet measured.
    """
    return _folder(DynamicVitConfig(backbone_rate=1, frozen_epochs=0))


def dynamic_vit_small() -> Recipe:
    """DynamicViT-DeiT-S at 224 pixels, from DeiT-S for 30 epochs; 34 % of the patches are left in the end.

    Rate, epochs, warm-up and batch are those of the authors' README; where the rate ends is not verified. Command:
    torchrun --nproc-per-node=8 -m vitrail train dynamic_vit_small data.root=imagenet --init-from
    deit_small_patch16_224.pth. Expect: 79.32 top-1 at 2.9 G multiply-adds (their README); not run here.
    """
    train = {"learning_rate": 1e-3, "min_learning_rate": 1e-6, "warmup_epochs": 5}
    return _published("vit_small_patch16_224", DynamicVitConfig(), train)


def scenes_ada_vit() -> Recipe:
    """Generated scenes, tiny ViT with AdaViT: blocks are to use 60 % of the patches, and all heads and layers.

    In so few steps hard decisions on whole layers cost more than they save; the budget is that of the decisions after
    training. Command: vitrail train scenes_ada_vit. Time and numbers: see benchmarks/results/scenes_rankers-*.json.
    """
    return _scenes(AdaVitConfig(tokens=0.6, heads=1, layers=1, usage="decided", usage_weight=10, labels=PLAIN))


def folder_ada_vit() -> Recipe:
    """Your own folder of small images with AdaViT: ViT-Ti with patches of 8 at 64 pixels.

    From scratch, or from a trained classifier by --init-from. Command: vitrail train folder_ada_vit data.root=photos.
    Expect: not yet measured.
    """
    return _folder(AdaVitConfig(tokens=0.7, heads=0.8, layers=0.8, usage="decided"))


def ada_vit_small() -> Recipe:
    """AdaViT on DeiT-S at 224 pixels, from DeiT-S for 150 epochs, budgets of one half.

    Length, rates and the weight of usage are not verified: the authors released no training. Command: torchrun
    --nproc-per-node=8 -m vitrail train ada_vit_small data.root=imagenet --init-from deit_small_patch16_224.pth. Expect:
    the authors' Ada-DeiT-S has 77.3 top-1 at 2.3 G multiply-adds (their README), by a loss with more terms; not run
    here.
    """
    train = {"epochs": 150, "learning_rate": 5e-4, "min_learning_rate": 1e-5, "warmup_epochs": 5}
    return _published("vit_small_patch16_224", AdaVitConfig(usage_weight=2), train)


def scenes_ia_red2() -> Recipe:
    """Generated scenes, tiny ViT with IA-RED2: three interpreters learn one after another which patches to drop.

    Command: vitrail train scenes_ia_red2. Time and numbers: see benchmarks/results/scenes_rankers-*.json.
    """
    return _scenes(IaRed2Config(policy_rate=4, labels=PLAIN), epochs=3)


def folder_ia_red2() -> Recipe:
    """Your own folder of small images with IA-RED2: ViT-Ti with patches of 8 at 64 pixels.

    From a trained classifier by --init-from, and then method.warmup=0; or from scratch. Command: vitrail train
    folder_ia_red2 data.root=photos. Expect: not yet measured.
    """
    return _folder(IaRed2Config(warmup=0.5))


def ia_red2_small() -> Recipe:
    """IA-RED2 on DeiT-S at 224 pixels, from a trained DeiT-S, its three groups one after another.

    The number of epochs and the rates are EViT's, the paper's are not verified. Command: torchrun --nproc-per-node=8 -m
    vitrail train ia_red2_small data.root=imagenet --init-from deit_small_patch16_224.pth. Expect: the paper's summary
    says less than 0.7 points below the dense network at up to 1.4 times its speed; not run here.
    """
    return _published("vit_small_patch16_224", IaRed2Config())


def scenes_dge() -> Recipe:
    """Generated scenes, tiny ViT with DGE: half of the multiplications.

    Command: vitrail train scenes_dge. Time and numbers: see benchmarks/results/scenes_rankers-*.json.
    """
    return _scenes(DgeConfig(labels=PLAIN))


def folder_dge() -> Recipe:
    """Your own folder of small images with DGE: ViT-Ti with patches of 8 at 64 pixels.

    From scratch, or from a trained classifier by --init-from. Command: vitrail train folder_dge data.root=photos.
    Expect: not yet measured.
    """
    return _folder(DgeConfig())


def dge_small() -> Recipe:
    """DGE on DeiT-S at 256 pixels from scratch, 300 epochs of DeiT's recipe with 20 of warm-up.

    Size, budget of 0.5 and warm-up are those of the authors' script; length and rates are DeiT's, not verified for it.
    Command: torchrun --nproc-per-node=8 -m vitrail train dge_small data.root=imagenet. Expect: 80.1 top-1 at 3.5 G
    multiply-adds, where DeiT-S at 256 pixels has 80.6 at 6.1 G (their README); not run here.
    """
    recipe = _published("vit_small_patch16_224", DgeConfig())
    rates = {"learning_rate": 1e-3, "min_learning_rate": 1e-5, "warmup_epochs": 20, "warmup_learning_rate": 1e-6}
    train = recipe.train.model_copy(update={"epochs": 300, **rates})
    return recipe.model_copy(update={"init_from": None, "augment": TrainTransformConfig.deit(256), "train": train})


def first(recipe: Recipe, verbs: Verbs, out: Path) -> Config:
    """Train a plain classifier into OUT/classifier where one is to come first; the recipe then starts from it."""
    if recipe.init_from is not None or recipe.classifier is None:
        return recipe
    look_ahead(recipe, verbs)
    place = train_before(plain_classifier(recipe), verbs, out, "classifier", "a plain classifier")
    return recipe.model_copy(update={"init_from": str(place)})


def plain_classifier(recipe: Recipe) -> supervised.Recipe:
    """The recipe of the classifier that comes first."""
    train, labels = recipe.train, recipe.method.labels
    shared = {"seed": train.seed, "device": train.device, "precision": train.precision}
    assert recipe.classifier is not None  # callers have looked
    return supervised.Recipe(
        data=recipe.data,
        backbone=recipe.backbone,
        augment=recipe.augment,
        method=SupervisedConfig(label_smoothing=labels.smoothing, mixup=labels.mixup, cutmix=labels.cutmix),
        train=recipe.classifier.model_copy(update={**shared, "deterministic": train.deterministic}),
        workers=recipe.workers,
    )


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader, evaluation and pictures, for one of `world` processes; `own` as in `recipes.start`."""
    check(recipe)
    augment, splits = recipe.augment, open_splits(recipe.data)
    if splits.train.classes is None:
        raise ValueError(
            f"{recipe.data.root} has no class folders, and a classifier needs labels; put the images into one folder "
            "per class"
        )
    begun = start(recipe.backbone, augment.image_size, augment.mean, augment.std, recipe.init_from, own)
    backbone = need_vit(begun, recipe.method.kind)
    # Normalization belongs to the weights: those that training goes on from bring their own.
    augment = augment.model_copy(update={"mean": backbone.mean, "std": backbone.std})
    source = own or recipe.init_from
    head = None if source is None else classifier_of(source, splits.train.classes)
    config = recipe.method.model_copy(update={"epochs": recipe.train.epochs})
    method: Any = METHODS[config.kind](config, backbone, splits.train.classes, head)
    if recipe.init_from is not None and own is None and method.parts():
        take_over(recipe.init_from, method.parts())
    workers = capped(recipe.workers)
    loader = loading(splits.train, build_train_transform(augment), recipe.train, workers, rank, world)
    method.labels.check_batch(recipe.train.global_batch_size // world // recipe.train.accumulate)
    seen = seen_by(backbone, augment.image_size)
    ranks = Ranks(rank, world, torch.device("cpu"))
    return Parts(method, loader, validation(method, splits.val, seen, workers, ranks), drawing(splits))


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: weights, data folder, sizes."""
    if recipe.init_from == "":
        raise ConfigError("fine-tuning starts from weights; give --init-from RUN_OR_FILE")
    check_data(recipe.data, recipe.augment.image_size)


def classifier_of(weights: str, classes: tuple[str, ...]) -> nn.Linear | None:
    """The linear classifier of a file, where it reads the class token and knows these classes; else None, and said."""
    found = find_weights(weights)
    if found == "pretrained":
        log.warning("pretrained weights come without a classifier here: it starts fresh")
        return None
    try:
        classifier = load_classifier(found)
    except ValueError as error:  # the backbone was read before: this is about the classifier
        log.warning("the classifier starts fresh: %s", error)
        return None
    known, count = classifier.classes, classifier.head.out_features
    if classifier.pool != "cls" or count != len(classes) or known not in (None, tuple(classes)):
        log.warning(
            "the classifier starts fresh: that of %s reads %s and knows %d classes%s, the data has %d (%s)",
            weights,
            "the class token" if classifier.pool == "cls" else "the mean of the patches",
            count,
            "" if known is None else f" ({_some(known)})",
            len(classes),
            _some(classes),
        )
        return None
    return classifier.head


def validation(
    method: Sparse, data: ImageSet, config: EvalTransformConfig, workers: int, ranks: Ranks
) -> Callable[[], Mapping[str, float]]:
    """A function that gives top-1 in percent, and the mean shares that were used, as `used_tokens` and so on.

    Each rank takes its part of the images; unreadable ones are left out and logged, and raise `TooManyUnreadable`
    above 1 %.
    """
    transform = build_eval_transform(config)
    told: set[int] = set()

    @torch.no_grad()
    def evaluate() -> Mapping[str, float]:
        device = method.head.weight.device
        sums: dict[str, Tensor] = {}
        skipped: dict[int, tuple[str, str]] = {}
        place = {"workers": min(workers, 2), "rank": ranks.rank, "world": ranks.world, "skipped": skipped}
        for batch in ordered_batches(data, transform, batch_size=128, **place):  # type: ignore[arg-type]
            answer = method.answer(batch.images.to(device))
            assert batch.labels is not None
            right = (answer.logits.argmax(1).cpu() == batch.labels).double()
            values = {"images": torch.ones_like(right), "top1": right * 100}
            values |= {f"used_{name}": share.double().cpu() for name, share in answer.used.items()}
            for name, value in values.items():
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value.sum()
        unreadable = {index: why for part in ranks.gather(skipped) for index, why in part.items()}
        tell_unreadable(unreadable, len(data), told)
        names = sorted({name for part in ranks.gather(list(sums)) for name in part})
        zero = torch.zeros((), dtype=torch.float64)
        means = ranks.mean(torch.stack([sums.get(name, zero) for name in names]))
        found = dict(zip(names, means.tolist(), strict=True))
        images = found.pop("images")
        return {name: value / images for name, value in found.items()}

    return evaluate


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def _scenes(method: Method, epochs: int = 2, rate: float = 5e-4) -> Recipe:
    """The classifier of `scenes`, and a few epochs from there."""
    plain = supervised.scenes()
    return Recipe(
        classifier=plain.train,
        backbone=plain.backbone,
        augment=plain.augment,
        method=method,
        train=TrainConfig(
            epochs=epochs,
            global_batch_size=64,
            learning_rate=rate,
            warmup_epochs=0.2,
            clip_norm=1.0,
            log_every=20,
        ),
        workers=0,
    )


def _folder(method: Method) -> Recipe:
    return Recipe(
        backbone=BackboneConfig(name="vit_tiny_patch16_224", patch_size=8, drop_path=0.1),
        augment=TrainTransformConfig(image_size=64, scale=(0.35, 1.0), color_jitter=(0.3, 0.3, 0.3, 0.0)),
        method=method,
        train=TrainConfig(epochs=100, global_batch_size=256, learning_rate=5e-4, warmup_epochs=5, clip_norm=1.0),
        workers=4,
    )


def _published(name: str, method: Method, train: Mapping[str, Any] | None = None) -> Recipe:
    """30 epochs from a trained classifier, with DeiT's augmentation; rates, unless given, are EViT's."""
    values = {"epochs": 30, "learning_rate": 2e-5, "min_learning_rate": 2e-6, "warmup_epochs": 0} | dict(train or {})
    return Recipe(
        backbone=BackboneConfig(name=name, drop_path=0.1),
        init_from="",
        augment=TrainTransformConfig.deit(224),
        method=method,
        train=TrainConfig(global_batch_size=1024, precision="bf16", **values),
    )
