"""Where images come from: generated scenes, a folder, with or without splits, CIFAR, a tree of VOC, COCO or ADE20K."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from vitrail.config import Config
from vitrail.contracts import ImageSet, Sample
from vitrail.data import (
    SPLITS,
    Ade20k,
    Cifar,
    CocoInstances,
    ImageFolder,
    MultiLabelFolder,
    ObjectLabels,
    SyntheticScenes,
    VocSegmentation,
    is_multi_label,
)
from vitrail.data.ade20k import is_ade20k
from vitrail.data.cifar import is_cifar
from vitrail.data.coco import Missing, is_coco
from vitrail.data.multi_label import has_table
from vitrail.data.voc import is_voc
from vitrail.recipes.files import existing

log = logging.getLogger("vitrail")


class ScenesConfig(Config):
    """Generated scenes: textured objects on textured backgrounds."""

    count: int = Field(6500, ge=1)
    """Scenes to train on."""
    val_count: int = Field(1000, ge=1)
    """Scenes held out."""
    image_size: int = Field(48, ge=16)
    """Pixels a side."""
    classes: int = Field(8, ge=2)
    """Classes of objects."""
    seed: int = 0
    """Seed of the scenes; other seeds give other scenes of the same classes."""


class DataConfig(Config):
    """Images to learn from. Without a root, scenes are generated."""

    root: str | None = None
    """Folder with `train/` and `val/`, or with one folder per class; with a table labels.csv beside its images; or of
    CIFAR, as published or as an npz."""
    held_out: float = Field(0.1, gt=0, lt=1)
    """Share of the images kept for validation where the folder has no validation split."""
    missing: Missing = "refuse"
    """Images that a COCO file lists and that are not there: "refuse", or "leave_out", counted and said."""
    scenes: ScenesConfig = ScenesConfig()
    """Used where `root` is null."""


class Part:
    """Some images of a set, by their positions. Fulfills `vitrail.contracts.ImageSet`."""

    def __init__(self, data: ImageSet, positions: Sequence[int], split: str | None = None) -> None:
        """Args: split: what the chosen images are, for protocol cards; by default what the whole set says."""
        self.data, self.positions, self.classes = data, tuple(positions), data.classes
        self.root = getattr(data, "root", None)
        self.split = split or getattr(data, "split", None)
        self.has_boxes, self.has_masks = getattr(data, "has_boxes", True), getattr(data, "has_masks", True)
        self.multi_label = is_multi_label(data)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Sample:
        return self.data[self.positions[index]]

    def digest(self) -> str:
        """Digest of the whole set and of the chosen positions."""
        return hashlib.sha256(f"{self.data.digest()}{self.positions}".encode()).hexdigest()[:16]


class Later:
    """A set that is opened when something of it is asked for; COCO's training split alone takes minutes to read.

    Fulfills `vitrail.contracts.ImageSet`, and has what the set itself has.
    """

    def __init__(self, opening: Callable[[], ImageSet]) -> None:
        self._opened = functools.cache(opening)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """As the set says."""
        return self._opened().classes

    def __len__(self) -> int:
        return len(self._opened())

    def __getitem__(self, index: int) -> Sample:
        return self._opened()[index]

    def digest(self) -> str:
        """As the set says."""
        return self._opened().digest()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also while it is unpickled, when there is no set yet
            raise AttributeError(name)
        return getattr(self._opened(), name)


class Splits(NamedTuple):
    """A data set to train on and one to measure with."""

    train: ImageSet
    val: ImageSet


def open_splits(config: DataConfig) -> Splits:
    """Train and validation images. Raises `ValueError` for a missing or empty folder, in words."""
    if config.root is None:
        return scenes(config.scenes)
    root = existing(config.root)
    kind = tree_of(root)
    if kind is not None:
        raise ValueError(
            f"{config.root} is a {kind} tree, whose images have several objects and no class each; train on one folder "
            "per class, without labels on the folder of images in the tree, or with several labels by "
            "finetune_kept_multi_label, and use the tree with `vitrail evaluate`"
        )
    if is_cifar(root):
        return Splits(Cifar(root, "train"), Cifar(root, "val"))
    if has_table(root):
        return _tables(root, config.held_out)
    names = {part: _split_name(root, options) for part, options in SPLITS.items()}
    if names["train"] is None:
        everything = ImageFolder(root)
        return hold_out(everything, config.held_out)
    train = ImageFolder(root, names["train"])
    if names["val"] is None:
        return hold_out(train, config.held_out)
    return Splits(train, ImageFolder(root, names["val"], classes=train.classes, boxes=_boxes(root, names["val"])))


def open_several(config: DataConfig) -> Splits:
    """Training and validation images with any number of labels each: by tables, or by the objects of VOC or COCO.

    Every object counts, difficult ones and crowds as well. A folder of another kind is opened as `open_splits` does.
    Raises `ValueError` as that, and for VOC without XML files.
    """
    root = None if config.root is None else existing(config.root)
    kind = None if root is None else tree_of(root)
    if root is None or kind not in ("VOC", "COCO"):
        return open_splits(config)
    if kind == "COCO":
        both = [CocoInstances(root, split, missing=config.missing, crowds=True) for split in ("train", "val")]
        found = Splits(*both)
    else:
        voc = [VocSegmentation(root, split) for split in ("train", "val")]
        if not all(each.has_boxes for each in voc):
            raise ValueError(f"{config.root} has no folder Annotations, so nothing says which objects its images show")
        found = Splits(*voc)
    if found.train.classes != found.val.classes:
        raise ValueError(
            f"train and val of {config.root} list other categories, so that their labels differ in meaning"
        )
    return Splits(ObjectLabels(found.train), ObjectLabels(found.val))


def _tables(root: Path, held_out: float) -> Splits:
    """Images with several labels each, by their tables."""
    names = {part: _split_name(root, options) for part, options in SPLITS.items()}
    if names["train"] is None:
        return hold_out(MultiLabelFolder(root), held_out)
    train = MultiLabelFolder(root, names["train"])
    if names["val"] is None:
        return hold_out(train, held_out)
    return Splits(train, MultiLabelFolder(root, names["val"], classes=train.classes))


@functools.lru_cache(maxsize=2)
def scenes(config: ScenesConfig) -> Splits:
    """Generated scenes, kept in memory after their first use; asked again, the same ones."""
    size, classes, seed = config.image_size, config.classes, config.seed
    return Splits(
        SyntheticScenes(config.count, image_size=size, classes=classes, seed=seed, split="train", cache=True),
        SyntheticScenes(config.val_count, image_size=size, classes=classes, seed=seed, split="val", cache=True),
    )


def open_data(where: str, trained: DataConfig | None = None, settings: Sequence[str] = ()) -> Splits:
    """What `--data` names: `scenes`, a tree of VOC, COCO or ADE20K, or an image folder.

    Args:
        where: one of these.
        trained: what the weights were trained on. Where that are the same images, they are split in the same way, so
            that nothing that was trained on is measured with.
        settings: of `DataConfig`, such as `missing=leave_out`.
    """
    _check_root(settings)
    if where == "scenes":
        return scenes((trained or DataConfig()).override(settings).scenes)
    root, config = existing(where), _asked(where, trained, settings)
    kind = tree_of(root)
    if kind == "VOC":
        return Splits(VocSegmentation(root, "train"), VocSegmentation(root, "val"))
    if kind == "COCO":
        train, val = (
            functools.partial(CocoInstances, root, split, missing=config.missing) for split in ("train", "val")
        )
        return Splits(Later(train), val())
    if kind == "ADE20K":
        return Splits(Later(lambda: Ade20k(root, "train")), Ade20k(root, "val"))
    return open_splits(config)


def open_labeled(where: str, trained: DataConfig | None = None, settings: Sequence[str] = ()) -> Splits:
    """As `open_data`, for images with any number of labels each: those of VOC and COCO are labeled by their objects,
    difficult ones and crowds included, as `open_several` does. Raises `ValueError` for VOC without XML files."""
    _check_root(settings)
    kind = None if where == "scenes" else tree_of(existing(where))
    if kind not in ("VOC", "COCO"):
        return open_data(where, trained, settings)
    root, config = existing(where), _asked(where, trained, settings)
    if kind == "VOC":
        return open_several(config)
    train, val = (
        functools.partial(CocoInstances, root, split, missing=config.missing, crowds=True) for split in ("train", "val")
    )
    return Splits(Later(lambda: ObjectLabels(train())), ObjectLabels(val()))


def _check_root(settings: Sequence[str]) -> None:
    if any(setting.startswith("root=") for setting in settings):
        raise ValueError("--data names the images that are measured on; leave data.root out")


def _asked(where: str, trained: DataConfig | None, settings: Sequence[str]) -> DataConfig:
    """How a folder is opened: as the weights' own images, where it holds these, and as the settings say."""
    root = existing(where)
    same = trained and trained.root and Path(trained.root).expanduser().resolve() == root.resolve()
    return (trained if trained and same else DataConfig(root=where)).override(settings)


def hold_out(data: ImageSet, share: float) -> Splits:
    """Keep a share for validation, evenly spaced, so that each class of an ordered folder gives its part."""
    train: list[int] = []
    val: list[int] = []
    for index in range(len(data)):
        due = int((index + 1) * share + 0.5) > int(index * share + 0.5)
        (val if due else train).append(index)
    if not (train and val):
        raise ValueError(
            f"{len(data)} images are too few to hold out a share of {share} for validation; "
            "add a val/ folder or change data.held_out"
        )
    log.info("there is no val/: %d of %d images are held out", len(val), len(data))
    return Splits(Part(data, train, f"all but {share:g} held out"), Part(data, val, f"{share:g} held out"))


def tree_of(root: Path) -> str | None:
    """VOC, COCO or ADE20K, by the folders that they have; None for any other folder."""
    trees = {"VOC": is_voc, "COCO": is_coco, "ADE20K": is_ade20k}
    return next((name for name, fits in trees.items() if fits(root)), None)


def _split_name(root: Path, options: Sequence[str]) -> str | None:
    return next((name for name in options if (root / name).is_dir()), None)


def _boxes(root: Path, split: str) -> Path | None:
    path = root / f"{split}_boxes.txt"
    return path if path.is_file() else None
