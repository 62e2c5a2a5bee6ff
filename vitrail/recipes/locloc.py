"""LocLoc: on scenes, on a folder, by the published values; a backbone without labels and masks by GrabCut come first.

vitrail train folder_locloc data.root=birds --init-from dino_deitsmall16_pretrain.pth --out runs/birds
vitrail train folder_locloc data.root=photos method.parts=generator --init-from runs/dino --out runs/generator
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vitrail.backbones import BackboneConfig, TimmViT, load_part, need_vit
from vitrail.backbones.reading import weights_file
from vitrail.data import TrainTransformConfig
from vitrail.data.mask_views import MaskViewsConfig
from vitrail.localizers.locloc import PART, from_source, open_classifier
from vitrail.localizers.trained import without
from vitrail.methods.locloc import Locloc, LoclocConfig
from vitrail.nn.deconvolution import Geg, GegConfig
from vitrail.nn.token_classifier import Lfdm
from vitrail.rankers.source import Source
from vitrail.recipes import supervised
from vitrail.recipes.run import Parts, Verbs
from vitrail.recipes.sources import open_splits
from vitrail.recipes.start import HALF, start
from vitrail.recipes.two_parts import MASKS, TwoParts, assembled, check_patches, check_two_parts, first_of_two, fits
from vitrail.train import TrainConfig


class Recipe(TwoParts):
    """Everything that decides a run of LocLoc."""

    kind: Literal["locloc"] = "locloc"
    method: LoclocConfig = LoclocConfig()


def scenes_locloc() -> Recipe:
    """Generated scenes, tiny ViT, LocLoc after a short training with labels and SAR.

    Command: vitrail train scenes_locloc. Expect: 70.7 GT-known and 55.8 Top-1 Loc on 3 seeds, after minutes on one core
    (benchmarks/results/locloc_scenes-*.json).
    """
    stage1 = supervised.scenes_sar()
    return Recipe(
        stage1=stage1,
        backbone=stage1.backbone,
        mask_settings=MASKS,
        views=MaskViewsConfig(image_size=48, resize=None, augment=TrainTransformConfig.flips(48), mean=HALF, std=HALF),
        method=LoclocConfig(generator=GegConfig(channels=16, width=32), generator_rate=2.0),
        train=TrainConfig(epochs=3, global_batch_size=64, learning_rate=1e-3, warmup_epochs=0.3, log_every=20),
        workers=0,
    )


def folder_locloc() -> Recipe:
    """Your own folder, one folder per class: LocLoc on weights that you name, both parts together, at 224 pixels.

    Command: vitrail train folder_locloc data.root=photos --init-from WEIGHTS. Expect: not yet measured.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_small_patch16_224"),
        method=LoclocConfig(generator_rate=5.0),
        train=TrainConfig(
            epochs=30,
            global_batch_size=64,
            learning_rate=1e-4,
            warmup_epochs=2,
            evaluate_every=5,
        ),
        workers=4,
    )


def locloc_cub() -> Recipe:
    """LocLoc ViT-S/16 on CUB-200-2011: the generator for 20 epochs, then the classifier for 100.

    Command: torchrun --nproc-per-node=2 -m vitrail train locloc_cub data.root=cub --init-from
    dino_deitsmall16_pretrain.pth. Expect: Top-1 Loc 84.4, Top-1 Cls 85.8 (published); not run here. The released
    scripts start from DeiT-S, trained with labels, and take DINO for the masks alone: --init-from
    deit_small_patch16_224.pth masks_from=dino_deitsmall16_pretrain.pth.
    """
    return _published(batch=256, generator_rate=5e-4, rate=7.5e-5, epochs=100)


def locloc_imagenet() -> Recipe:
    """LocLoc ViT-S/16 on ImageNet-1k: the generator for 20 epochs, then the classifier for 50.

    Command: torchrun --nproc-per-node=4 -m vitrail train locloc_imagenet data.root=imagenet --init-from
    dino_deitsmall16_pretrain.pth. Expect: Top-1 Loc 57.6, Top-1 Cls 78.6 (published); not run here.
    """
    return _published(batch=512, generator_rate=1e-3, rate=1.5e-4, epochs=50)


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
    backbone = need_vit(backbone, "LocLoc")
    check_patches(backbone, views)
    generator, classifier, classes = _earlier(recipe, own or recipe.init_from, backbone, splits.train.classes)
    method = Locloc(recipe.method, backbone, classes, generator=generator, classifier=classifier)
    return assembled(recipe, method, splits, lambda weights: from_source(Source(weights)).eval(), rank, world, own)


def _earlier(
    recipe: Recipe, weights: str | None, backbone: TimmViT, classes: tuple[str, ...] | None
) -> tuple[Geg | None, Lfdm | None, tuple[str, ...] | None]:
    """Parts that the weights bring, as far as they are wanted, and the classes of the classifier."""
    parts = recipe.method.parts
    if weights is None or weights == "pretrained":
        return None, None, classes
    path = str(weights_file(weights))
    generator, classifier = None, None
    part = load_part(path, PART)
    if part is not None:
        config = GegConfig.parse(without(part, "features"), source=part.source)
        if fits("generator", parts != "classifier", config == recipe.method.generator, path):
            generator = Geg(config, backbone.embed_dim)
            part.fill(generator)
    found, known = open_classifier(path, backbone)
    if found is not None and fits("classifier", parts != "generator", known == classes, path):
        classifier, classes = found, known
    return generator, classifier, classes


def _published(*, batch: int, generator_rate: float, rate: float, epochs: int) -> Recipe:
    return Recipe(
        backbone=BackboneConfig(name="vit_small_patch16_224", drop_path=0.1),  # of the classifier's copies: it rests
        generator_train=TrainConfig(
            epochs=20,
            global_batch_size=batch,
            learning_rate=generator_rate,
            min_learning_rate=generator_rate,
            warmup_epochs=0,
            evaluate_every=5,
        ),
        train=TrainConfig(
            epochs=epochs,
            global_batch_size=batch,
            learning_rate=rate,
            min_learning_rate=1e-5,
            warmup_epochs=5,
            precision="bf16",
            evaluate_every=5,
        ),
    )
