"""PPD, LocLoc's baseline: on scenes, on a folder, by the published values; a backbone and masks come first.

vitrail train folder_ppd data.root=birds --init-from dino_deitsmall16_pretrain.pth --out runs/birds-ppd
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from vitrail.backbones import BackboneConfig, TimmViT, load_part, need_vit
from vitrail.backbones.reading import weights_file
from vitrail.data import TrainTransformConfig
from vitrail.data.mask_views import MaskViewsConfig
from vitrail.data.object_masks import ObjectMasksConfig
from vitrail.localizers.ppd import PART, from_source, open_classifier
from vitrail.localizers.trained import without
from vitrail.methods.ppd import PpdConfig, PpdMethod
from vitrail.nn.deconvolution import PpdGenerator, PpdGeneratorConfig
from vitrail.nn.token_classifier import ClassTokenProbe
from vitrail.rankers.source import Source
from vitrail.recipes import supervised
from vitrail.recipes.run import Parts, Verbs
from vitrail.recipes.sources import open_splits
from vitrail.recipes.start import HALF, start
from vitrail.recipes.two_parts import MASKS, TwoParts, assembled, check_patches, check_two_parts, first_of_two, fits
from vitrail.train import TrainConfig

VIEWS = MaskViewsConfig(
    image_size=256, resize=None, squash=True, flip=0, masked=False, augment=TrainTransformConfig(image_size=224)
)
"""The whole image, squashed, for the generator; a random crop for the classifier, as in DINO's linear evaluation."""


class Recipe(TwoParts):
    """Everything that decides a run of PPD."""

    kind: Literal["ppd"] = "ppd"
    which: Literal["enhanced", "plain"] = "plain"
    """What is learned from: attention over a threshold, or GrabCut's mask."""
    mask_settings: ObjectMasksConfig = ObjectMasksConfig(image_size=256)
    """How masks are made."""
    views: MaskViewsConfig = VIEWS
    method: PpdConfig = PpdConfig()


def scenes_ppd() -> Recipe:
    """Generated scenes, tiny ViT, PPD after a short SAR; as `scenes_locloc` but for the method.

    Command: vitrail train scenes_ppd. Expect: 57.8 GT-known and 46.7 Top-1 Loc on 3 seeds, after minutes on one core
    (benchmarks/results/locloc_scenes-*.json).
    """
    stage1, flips = supervised.scenes_sar(), TrainTransformConfig.flips(48)
    return Recipe(
        stage1=stage1,
        backbone=stage1.backbone,
        mask_settings=MASKS,
        views=VIEWS.model_copy(update={"image_size": 48, "flip": 0.5, "augment": flips, "mean": HALF, "std": HALF}),
        method=PpdConfig(generator=PpdGeneratorConfig(hidden=128, width=32), crop=1.0, generator_rate=2.0),
        train=TrainConfig(epochs=3, global_batch_size=64, learning_rate=1e-3, warmup_epochs=0.3, log_every=20),
        workers=0,
    )


def folder_ppd() -> Recipe:
    """Your own folder, one folder per class: PPD on weights that you name, both parts together, at 256 pixels.

    Command: vitrail train folder_ppd data.root=photos --init-from WEIGHTS. Expect: not yet measured.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_small_patch16_224"),
        train=TrainConfig(
            epochs=30,
            global_batch_size=64,
            learning_rate=1e-3,
            warmup_epochs=0,
            evaluate_every=5,
        ),
        workers=4,
    )


def ppd_cub() -> Recipe:
    """PPD ViT-S/16 on CUB-200-2011: the generator for 300 epochs, then the linear classifier for 100.

    Command: vitrail train ppd_cub data.root=cub --init-from dino_deitsmall16_pretrain.pth. Expect: Top-1 Cls 81.1 (the
    released head), Top-1 Loc 79.2 (of LocLoc's abstract, where it is not named); not run here. The classifier's rate is
    that of DINO's linear evaluation; PPD's is not known.
    """
    return _published(generator_epochs=300)


def ppd_imagenet() -> Recipe:
    """PPD ViT-S/16 on ImageNet-1k: CUB's values, but the generator for LocLoc's 20 epochs; PPD's are not known.

    Command: torchrun --nproc-per-node=4 -m vitrail train ppd_imagenet data.root=imagenet --init-from
    dino_deitsmall16_pretrain.pth. Expect: not run here.
    """
    return _published(generator_epochs=20)


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: data folder, weights, masks, sizes."""
    check_two_parts(recipe)


def first(recipe: Recipe, verbs: Verbs, out: Path) -> Recipe:
    """Train stage 1, make masks and train the generator, where these come first; returns what is left to train."""
    left: Recipe = first_of_two(recipe, verbs, out)
    return left


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader, numbers and pictures, for one of `world` processes; `own` as in `vitrail.recipes.start`."""
    check(recipe)
    views, splits = recipe.views, open_splits(recipe.data)
    backbone = start(recipe.backbone, views.image_size, views.mean, views.std, recipe.init_from, own)
    backbone = need_vit(backbone, "PPD")
    check_patches(backbone, views)
    generator, classifier, classes = _earlier(recipe, own or recipe.init_from, backbone, splits.train.classes)
    method = PpdMethod(recipe.method, backbone, classes, generator=generator, classifier=classifier)
    return assembled(recipe, method, splits, lambda weights: from_source(Source(weights)).eval(), rank, world, own)


def _earlier(
    recipe: Recipe, weights: str | None, backbone: TimmViT, classes: tuple[str, ...] | None
) -> tuple[PpdGenerator | None, ClassTokenProbe | None, tuple[str, ...] | None]:
    """Parts that the weights bring, as far as they are wanted, and the classes of the classifier."""
    parts = recipe.method.parts
    if weights is None or weights == "pretrained":
        return None, None, classes
    path = str(weights_file(weights))
    generator, classifier = None, None
    part = load_part(path, PART)
    if part is not None:
        config = PpdGeneratorConfig.parse(without(part, "features", "crop"), source=part.source)
        if fits("generator", parts != "classifier", config == recipe.method.generator, path):
            generator = PpdGenerator(config, backbone.embed_dim)
            part.fill(generator)
    found, known = open_classifier(path, backbone)
    if found is not None and fits("classifier", parts != "generator", known == classes, path):
        classifier, classes = found, known
    return generator, classifier, classes


def _published(*, generator_epochs: int) -> Recipe:
    common: dict[str, Any] = {"global_batch_size": 256, "learning_rate": 1e-3, "warmup_epochs": 0}
    return Recipe(
        backbone=BackboneConfig(name="vit_small_patch16_224"),
        generator_train=TrainConfig(epochs=generator_epochs, min_learning_rate=1e-3, evaluate_every=10, **common),
        train=TrainConfig(
            epochs=100, optimizer="sgd", nesterov=False, min_learning_rate=0, warmup_learning_rate=0, **common
        ),
    )
