"""CoTAP with the object-aware filter: on scenes, on a folder, by the published values; it goes on from other weights.

vitrail train folder_cotap data.root=photos --init-from dino_deitsmall16_pretrain.pth --out runs/photos-cotap
vitrail train folder_cotap data.root=objects scene_data.root=streets ablation=6 --init-from runs/dino --out runs/row6
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from vitrail.backbones import BackboneConfig, TimmViT, load, need_vit
from vitrail.backbones.architecture import add_object_filter
from vitrail.config import Config, ConfigError
from vitrail.contracts import ImageSet
from vitrail.data import Loader
from vitrail.data.mixed import Mixed
from vitrail.data.neighbors import NeighborTable, WithNeighbors
from vitrail.data.overlapping import OverlappingConfig, OverlappingCrops
from vitrail.evaluation.features import weights_digest
from vitrail.methods.cotap import Cotap, CotapConfig
from vitrail.nn.across import rank
from vitrail.nn.object_filter import ObjectFilterConfig
from vitrail.nn.prototype_head import HeadConfig
from vitrail.recipes import dino
from vitrail.recipes.heads import take_over_fitting
from vitrail.recipes.leopart import OBJECTS, SCENES, SEVERAL
from vitrail.recipes.neighbors import await_neighbors, make_neighbors
from vitrail.recipes.probe import ProbeConfig, knn_probe
from vitrail.recipes.run import Parts, Verbs, look_ahead, resolve, train_before
from vitrail.recipes.side_by_side import drawing_change
from vitrail.recipes.sources import DataConfig, open_splits
from vitrail.recipes.start import capped, check_crops, check_mixed, check_size, loading, seen_by, start
from vitrail.recipes.weights import find_weights
from vitrail.train import Ranks, TrainConfig

TERMS = ("image_alignment", "dense_alignment", "concentration", "correspondence", "prototype_entropy")
ROWS: dict[int, tuple[str, ...]] = {
    1: ("image_alignment",),
    2: ("dense_alignment",),
    3: ("image_alignment", "dense_alignment"),
    4: ("image_alignment", "concentration"),
    5: ("dense_alignment", "correspondence"),
    6: ("image_alignment", "dense_alignment", "concentration", "correspondence"),
    7: TERMS,
}
"""Rows of Table VII: the terms of the loss; row 7 has the filter, too."""


class Recipe(Config):
    """Everything that decides a run of CoTAP."""

    kind: Literal["cotap"] = "cotap"
    data: DataConfig = DataConfig()
    """Object-centric images: what the terms of whole images and the prototypes learn from."""
    scene_data: DataConfig | None = None
    """Scene-centric images, mixed with those of `data` one to one; null trains on those alone, in all terms."""
    backbone: BackboneConfig = BackboneConfig()
    object_filter: ObjectFilterConfig | None = ObjectFilterConfig()
    """Put into the last block; null for none. Weights that have one keep theirs."""
    init_from: str | None = None
    """Weights to go on from; null trains `stage1` first."""
    stage1: dino.Recipe | None = None
    """A training of DINO that comes first, into OUT/stage1, where `init_from` is null."""
    neighbors: str | None = None
    """A table by `vitrail neighbors`; null makes one, OUT/neighbors.safetensors, before training."""
    neighbor_count: int = Field(20, ge=1)
    """How many neighbors an image has in a table that is made; the paper does not say."""
    neighbors_of: Literal["same", "any"] = "same"
    """Whether a given table has to be of the weights that training starts from."""
    ablation: int | None = Field(None, ge=1, le=7)
    """A row of Table VII: sets the weights of the terms to 0 and 1, and puts the filter in or leaves it out."""
    views: OverlappingConfig = OverlappingConfig()
    method: CotapConfig = CotapConfig()
    train: TrainConfig = TrainConfig()
    probe: ProbeConfig = ProbeConfig()
    workers: int = Field(8, ge=0)
    """Processes that decode and augment images, at most one a core; 0 does it in the training process."""

    @model_validator(mode="before")
    @classmethod
    def _row(cls, values: Any) -> Any:
        row = values.get("ablation") if isinstance(values, dict) else None
        if row not in ROWS:
            return values
        method = values.get("method", {})
        plain = method if isinstance(method, dict) else method.plain()
        for name in TERMS:
            if plain.get(name, 1) not in (0, 1):
                raise ValueError(
                    f"ablation={row} sets method.{name} to {float(name in ROWS[row]):g}, and {plain[name]} is asked "
                    "for; leave one of them out"
                )
        filter_ = (values.get("object_filter") or ObjectFilterConfig()) if row == 7 else None
        terms = {name: float(name in ROWS[row]) for name in TERMS}
        return values | {"method": plain | terms, "object_filter": filter_}

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_size(self.backbone, self.views.global_size, "views.global_size")
        if self.backbone.patch_size is not None:
            check_crops(self.backbone.patch_size, self.views)
        if not any(getattr(self.method, name) for name in TERMS):
            raise ValueError(f"all weights are 0 (method.{', method.'.join(TERMS)}); nothing would be learned")
        return self


def scenes_cotap() -> Recipe:
    """Generated scenes, tiny ViT, CoTAP with the object-aware filter after a short DINO.

    Command: vitrail train scenes_cotap. Expect: mIoU 36 by linear_seg on scenes of several objects, from 35
    (benchmarks/results/cotap_scenes-*.json), after 5 and 2 minutes on one core.
    """
    stage1 = dino.scenes_dino()
    return Recipe(
        stage1=stage1,
        data=OBJECTS,
        scene_data=SEVERAL,
        backbone=stage1.backbone,
        object_filter=ObjectFilterConfig(prototypes=16),
        views=SCENES,
        method=CotapConfig(
            head=HeadConfig(prototypes=64, hidden_dim=256, bottleneck_dim=64), cells=4, momentum=0.99, new_rate=3.0
        ),
        train=TrainConfig(
            epochs=3, global_batch_size=32, learning_rate=1e-3, warmup_epochs=0.2, clip_norm=3.0, log_every=20
        ),
        workers=0,
    )


def folder_cotap() -> Recipe:
    """Your own folder: CoTAP with the filter on weights that you name, at 224 pixels.

    Command: vitrail train folder_cotap data.root=photos --init-from WEIGHTS. Expect: not yet measured.
    """
    return Recipe(
        backbone=BackboneConfig(name="vit_small_patch16_224"),
        method=CotapConfig(momentum=0.999, new_rate=10.0),
        train=TrainConfig(
            epochs=20,
            global_batch_size=64,
            learning_rate=3e-5,
            min_learning_rate=1e-6,
            warmup_epochs=0,
            clip_norm=3.0,
            evaluate_every=5,
        ),
        workers=4,
    )


def cotap_small() -> Recipe:
    """CoTAP ViT-S/16, batch 256, 100,000 steps on ImageNet-1k and COCO, one to one.

    Command: torchrun --nproc-per-node=8 -m vitrail train cotap_small data.root=imagenet scene_data.root=coco/train2017
    --init-from dino_deitsmall16_pretrain.pth. Expect: 50.5 mIoU by linear_seg on COCOStuff-27, 78.0 by knn on
    ImageNet-1k (published); not run here. `ablation=1` to `ablation=7` are the rows of Table VII.
    """
    # 2 x 1,281,167 images an epoch, so 10 epochs are 100,000 steps of 256.
    return Recipe(
        backbone=BackboneConfig(name="vit_small_patch16_224"),
        train=TrainConfig(
            epochs=10,
            global_batch_size=256,
            learning_rate=3e-5,
            min_learning_rate=1e-6,
            warmup_epochs=0,
            clip_norm=3.0,
            precision="bf16",
        ),
    )


def cotap_base() -> Recipe:
    """CoTAP ViT-B/16, as ViT-S/16.

    Command: as `cotap_small`, --init-from dino_vitbase16_pretrain.pth. Expect: 52.2 mIoU (published); not run here.
    """
    return cotap_small().override(["backbone.name=vit_base_patch16_224"])


def cotap_base8() -> Recipe:
    """CoTAP ViT-B/8, as ViT-S/16.

    Command: as `cotap_small`, --init-from dino_vitbase8_pretrain.pth. Expect: 54.7 mIoU (published); not run here.
    """
    return cotap_small().override(["backbone.name=vit_base_patch8_224"])


def check(recipe: Recipe) -> None:
    """Raise for what can be seen wrong before any process is started: folders of images, weights, the table."""
    check_mixed(recipe.data, recipe.scene_data)
    if recipe.init_from is None and recipe.stage1 is None:
        raise ConfigError(
            "CoTAP goes on from weights that were trained before; name them with --init-from WEIGHTS (a run of DINO or "
            "iBOT, or a published checkpoint)"
        )
    if recipe.neighbors is not None and not Path(recipe.neighbors).is_file():
        raise ConfigError(
            f"neighbors={recipe.neighbors} is not there; make it with `vitrail neighbors`, or leave it out"
        )


def first(recipe: Recipe, verbs: Verbs, out: Path) -> Recipe:
    """Train stage 1 where no weights are named, and search neighbors where they are needed and not given."""
    stage1, search = recipe.init_from is None, recipe.method.concentration > 0 and recipe.neighbors is None
    if stage1 or search:
        look_ahead(recipe, verbs)
    if stage1 and recipe.stage1 is not None:
        place = train_before(recipe.stage1, verbs, out, "stage1", "a backbone by DINO")
        recipe = recipe.model_copy(update={"init_from": str(place)})
    if not search:
        return recipe
    path = out / "neighbors.safetensors"
    main = rank() == 0
    going_on = verbs.resume or verbs.extend is not None
    if main and not (going_on and path.is_file()):
        neighbors_for(recipe, path, recipe.neighbor_count)
    await_neighbors(path, main)
    return recipe.model_copy(update={"neighbors": str(path)})


def neighbors_for(recipe: Recipe, path: Path, k: int, device: str = "auto") -> NeighborTable:
    """Make the table of a recipe's object-centric images, as the weights see them that it starts from."""
    assert recipe.init_from is not None  # `check` and `first` have looked
    return make_neighbors(
        _before(recipe), open_splits(recipe.data).train, k, path, workers=capped(recipe.workers), device=device
    )


def neighbors_by(name: str, settings: Sequence[str], out: Path, k: int, *, init_from: str, device: str) -> Path:
    """Make a table for a recipe of this family by its name, for `vitrail neighbors`; returns the file."""
    recipe = resolve(name).override([*settings, f"init_from={find_weights(init_from)}"])
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"{name} learns from no neighbors; recipes of CoTAP do, such as folder_cotap")
    check(recipe.override(["neighbors=null"]))
    neighbors_for(recipe, out, k, device)
    return out


def build(recipe: Recipe, rank: int, world: int, own: str | None = None) -> Parts:
    """Data, method, loader, k-NN and pictures, for one of `world` processes; `own` as in `vitrail.recipes.start`."""
    check(recipe)
    views, splits = recipe.views, open_splits(recipe.data)
    begun = start(recipe.backbone, views.global_size, views.mean, views.std, recipe.init_from, own)
    backbone = need_vit(begun, "CoTAP")
    check_crops(backbone.patch_size, views)
    if recipe.ablation not in (None, 7) and backbone.object_filter is not None:
        raise ConfigError(
            f"{recipe.init_from} has an object-aware filter, and row {recipe.ablation} of the table is without one; "
            "take weights without a filter, or ablation=7"
        )
    if recipe.object_filter is not None and backbone.object_filter is None:
        add_object_filter(backbone, recipe.object_filter)
    # Normalization belongs to the weights: those that training goes on from bring their own.
    views = views.model_copy(update={"mean": backbone.mean, "std": backbone.std})
    method = Cotap(recipe.method, backbone)
    size = recipe.train.global_batch_size // world // recipe.train.accumulate
    method.check_batch(size)
    if recipe.scene_data is not None and size % 2:
        raise ConfigError(
            f"{size} images a device and micro-batch cannot be one object-centric to one scene-centric; take an even "
            "number (train.global_batch_size / devices / train.accumulate)"
        )
    if recipe.init_from is not None and own is None and take_over_fitting(recipe.init_from, method.head):
        method.teacher_head.load_state_dict(method.head.state_dict())
    workers = capped(recipe.workers)
    crops = OverlappingCrops(views, companion=recipe.method.concentration > 0)
    loader: Loader = loading(_images(recipe, splits.train, own), crops, recipe.train, workers, rank, world)
    ranks, seen = Ranks(rank, world, torch.device("cpu")), seen_by(backbone, views.global_size)
    return Parts(
        method, loader, knn_probe(backbone, splits, seen, recipe.probe, workers, ranks), drawing_change(splits)
    )


def _images(recipe: Recipe, objects: ImageSet, own: str | None) -> ImageSet:
    """What is trained on: object-centric images, with neighbors where wanted, in turn with scene-centric ones."""
    if recipe.method.concentration and recipe.neighbors is not None:
        table = NeighborTable.load(recipe.neighbors)
        # The weights of a run that goes on need not be there any more; they were compared when it began.
        same = recipe.neighbors_of == "same" and own is None
        table.check(objects, weights_digest(_before(recipe)) if same else None, recipe.neighbors)
        objects = WithNeighbors(objects, table)
    if recipe.scene_data is None:
        return objects
    return Mixed(objects, open_splits(recipe.scene_data).train)


def _before(recipe: Recipe) -> TimmViT:
    """The network that training starts from, at its own image size."""
    weights = recipe.init_from
    assert weights is not None
    return need_vit(load(recipe.backbone.name if weights == "pretrained" else None, weights), "CoTAP")
