"""Where images come from: generated scenes, a folder with or without splits, CIFAR, Flowers-102, Pets, Cars, a domain
of DomainNet, CUB, metadata of wsolevaluation, or a tree of VOC, COCO, COCO-Stuff, ADE20K or Cityscapes; and where
videos do: scenes that move, or a tree of DAVIS."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from vitrail.config import Config
from vitrail.contracts import ImageSet, Sample, VideoSet
from vitrail.data import (
    SPLITS,
    Ade20k,
    Cifar,
    Cityscapes,
    CocoInstances,
    CocoSemantic,
    CocoStuff,
    Cub,
    ImageFolder,
    MultiLabelFolder,
    ObjectLabels,
    SyntheticScenes,
    VocSegmentation,
    Wsol,
    is_multi_label,
)
from vitrail.data.ade20k import is_ade20k
from vitrail.data.box_file import box_file
from vitrail.data.cifar import is_cifar
from vitrail.data.cityscapes import is_cityscapes
from vitrail.data.coco import Missing, is_coco
from vitrail.data.coco_semantic import has_semantic
from vitrail.data.cocostuff import is_cocostuff
from vitrail.data.cub import is_cub
from vitrail.data.davis import Davis, is_davis
from vitrail.data.imagenet_c import ImageNetC, corruption_folders, is_imagenet_c
from vitrail.data.imagenet_names import are_wnids
from vitrail.data.mixed import Mixed
from vitrail.data.multi_label import has_table
from vitrail.data.published_sets import download, listed_layout
from vitrail.data.scene_videos import SceneVideos
from vitrail.data.voc import is_voc
from vitrail.data.wsol import is_wsol, wsol_splits
from vitrail.recipes.files import existing

log = logging.getLogger("vitrail")
OPENED: dict[str, Callable[[Path, str], ImageSet]] = {"ADE20K": Ade20k, "Cityscapes": Cityscapes}
"""Trees that are opened by root and split alone."""


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
    objects: int = Field(1, ge=1, le=4)
    """1, or 2 to so many objects in each scene."""


class DataConfig(Config):
    """Images to learn from. Without a root, scenes are generated."""

    root: str | None = None
    """Folder with `train/` and `val/`, or with one folder per class; with a table labels.csv beside its images; of
    CIFAR, as published or as an npz; of Flowers-102, Oxford-IIIT Pets or Stanford Cars as torchvision lays them out; a
    domain of DomainNet with its lists; of CUB; or with metadata of wsolevaluation."""
    download: bool = False
    """Fetch what the root's name asks for where it is not there: flowers-102, oxford-iiit-pet, cifar-10-batches-py or
    cifar-100-python, by torchvision."""
    held_out: float = Field(0.1, gt=0, lt=1)
    """Share of the images kept for validation where the folder has no validation split."""
    missing: Missing = "refuse"
    """Images that a COCO file lists and that are not there: "refuse", or "leave_out", counted and said."""
    coarse: bool = True
    """Of COCO-Stuff, the 27 coarse classes; otherwise all 171."""
    scenes: ScenesConfig = ScenesConfig()
    """Used where `root` is null."""


class VideosConfig(Config):
    """Sequences to measure with."""

    split: str = "val"
    """Of DAVIS: the name of a list of sequences."""
    resolution: str | None = None
    """Of DAVIS: the folder of frames; null: 480p, or the only one."""
    count: int = Field(30, ge=1)
    """Of generated sequences: how many."""
    frames: int = Field(12, ge=3)
    """Of generated sequences: frames of each."""
    image_size: int = Field(48, ge=16)
    """Of generated sequences: pixels a side."""
    classes: int = Field(8, ge=2)
    """Of generated sequences: classes of objects."""
    seed: int = 0
    """Of generated sequences."""


class Part:
    """Some images of a set, by their positions. Fulfills `vitrail.contracts.ImageSet`."""

    def __init__(self, data: ImageSet, positions: Sequence[int], split: str | None = None) -> None:
        """Args: split: what the chosen images are, for protocol cards; by default what the whole set says."""
        self.data, self.positions, self.classes = data, tuple(positions), data.classes
        self.root = getattr(data, "root", None)
        self.split = split or getattr(data, "split", None)
        self.has_boxes, self.has_masks = getattr(data, "has_boxes", True), getattr(data, "has_masks", True)
        self.multi_label, self.background = is_multi_label(data), getattr(data, "background", False)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Sample:
        return self.data[self.positions[index]]

    def relative_path(self, index: int) -> str:
        """As the whole set says. Raises `AttributeError` where it says none."""
        path: str = self.data.relative_path(self.positions[index])  # type: ignore[attr-defined]
        return path

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
    root = fetched(config.root, config.download)
    kind = tree_of(root)
    if kind == "ImageNet-C":
        raise ValueError(
            f"{config.root} is a tree of ImageNet-C, CORRUPTION/SEVERITY/CLASS; measure with `vitrail evaluate "
            f"robustness`, or name one of its folders, such as {_a_severity(root)}"
        )
    if kind is not None:
        raise ValueError(
            f"{config.root} is a {kind} tree, whose images have several objects and no class each; train on one folder "
            "per class, without labels on the folder of images in the tree, or with several labels by "
            "finetune_kept_multi_label, and use the tree with `vitrail evaluate`"
        )
    if is_cifar(root):
        return Splits(Cifar(root, "train"), Cifar(root, "val"))
    listed = listed_layout(root)
    if listed is not None:
        return Splits(listed.opening(root, "train"), listed.opening(root, "val"))
    if is_wsol(root):  # before CUB: its lists and boxes lie in the tree because they are wanted
        return _wsol(root, config.held_out)
    if is_cub(root):
        return Splits(Cub(root, "train"), Cub(root, "test"))
    if has_table(root):
        return _tables(root, config.held_out)
    names = {part: _split_name(root, options) for part, options in SPLITS.items()}
    if names["train"] is None:
        everything = ImageFolder(root)
        return hold_out(everything, config.held_out)
    train = ImageFolder(root, names["train"])
    if names["val"] is None:
        return hold_out(train, config.held_out)
    return Splits(
        train, ImageFolder(root, names["val"], classes=train.classes, boxes=box_file(root, names["val"], "val"))
    )


def fetched(root: str, wanted: bool) -> Path:
    """The folder of images, downloaded first where that is wanted. Raises `ValueError` where there is none."""
    if wanted:
        download(root)
    return existing(root)


def open_mixed(data: DataConfig, scene_data: DataConfig | None) -> Splits:
    """Object-centric and scene-centric images in turn to train on; those to measure with are object-centric.

    Without `scene_data` the images of `data` alone, as `open_splits` opens them.
    """
    splits = open_splits(data)
    if scene_data is None:
        return splits
    return Splits(Mixed(splits.train, open_splits(scene_data).train), splits.val)


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


def _wsol(root: Path, held_out: float) -> Splits:
    """Images by metadata of wsolevaluation; where it has no train split, those of a folder train/ with its classes."""
    splits, folder = wsol_splits(root), _split_name(root, SPLITS["train"])
    measured = next((name for name in ("test", "val") if name in splits), None)
    if "train" not in splits and folder is None:
        assert measured is not None, splits
        return Splits(Later(lambda: Wsol(root, "train")), Wsol(root, measured))
    train = Wsol(root, "train") if "train" in splits else ImageFolder(root, folder, labels="folders")
    if measured is None:
        return hold_out(train, held_out)
    return Splits(train, Wsol(root, measured, classes=train.classes))


def open_held_out(
    where: str, trained: DataConfig | None = None, settings: Sequence[str] = (), most: int | None = 1000
) -> ImageSet | None:
    """Images with boxes to choose a threshold with, none of which `open_data` measures with; None where there are none.

    Of metadata of wsolevaluation with val and test, those of val; else images of the training split, evenly spaced,
    where it has boxes: those of a folder stand in train_boxes.txt.

    Args:
        where, trained, settings: as of `open_data`.
        most: images at most; None for all.
    """
    splits = open_data(where, trained, settings)
    train = splits.train
    if isinstance(splits.val, Wsol) and splits.val.split == "test" and "val" in wsol_splits(splits.val.root):
        train = Wsol(splits.val.root, "val", classes=splits.val.classes)
    elif isinstance(splits.val, Wsol) and isinstance(train, Later):  # there is no other split
        return None
    elif isinstance(train, ImageFolder) and train.split and not train.has_boxes:
        boxes = box_file(train.root, train.folder.name, "train")
        train = ImageFolder(train.root, train.split, classes=train.classes, boxes=boxes) if boxes else train
    if not getattr(train, "has_boxes", True):
        return None
    count = min(len(train), most or len(train))
    return Part(train, [number * len(train) // count for number in range(count)], getattr(train, "split", None))


def _tables(root: Path, held_out: float) -> Splits:
    """Images with several labels each, by their tables."""
    names = {part: _split_name(root, options) for part, options in SPLITS.items()}
    if names["train"] is None:
        return hold_out(MultiLabelFolder(root), held_out)
    train = MultiLabelFolder(root, names["train"])
    if names["val"] is None:
        return hold_out(train, held_out)
    return Splits(train, MultiLabelFolder(root, names["val"], classes=train.classes))


@functools.lru_cache(maxsize=4)
def scenes(config: ScenesConfig) -> Splits:
    """Generated scenes, kept in memory after their first use; asked again, the same ones."""
    size, classes, seed = config.image_size, config.classes, config.seed
    alike: dict[str, Any] = {
        "image_size": size,
        "classes": classes,
        "seed": seed,
        "objects": config.objects,
        "cache": True,
    }
    return Splits(
        SyntheticScenes(config.count, split="train", **alike), SyntheticScenes(config.val_count, split="val", **alike)
    )


def open_data(where: str, trained: DataConfig | None = None, settings: Sequence[str] = ()) -> Splits:
    """What `--data` names: `scenes`, a tree of VOC, COCO, COCO-Stuff, ADE20K or Cityscapes, or an image folder.

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
    if kind in OPENED:
        opening = functools.partial(OPENED[kind], root)
        return Splits(Later(lambda: opening("train")), opening("val"))
    if kind == "COCO-Stuff":
        return _stuff(root, config.coarse)
    if kind == "DAVIS":
        raise ValueError(
            f"{where} is a tree of videos; measure with `vitrail evaluate video`, or name its folder JPEGImages to "
            "measure on single frames"
        )
    return open_splits(config)


def open_segmented(where: str, trained: DataConfig | None = None, settings: Sequence[str] = ()) -> Splits:
    """As `open_data`, for images with masks of class ids: a tree of COCO gives those of COCO-Stuff, else semantic maps.

    Raises:
        ValueError: for COCO that has neither, and for a folder of images without masks.
    """
    _check_root(settings)
    if where == "scenes":
        return open_data(where, trained, settings)
    root, config = existing(where), _asked(where, trained, settings)
    if is_cocostuff(root):
        return _stuff(root, config.coarse)
    if has_semantic(root):
        return Splits(Later(lambda: CocoSemantic(root, "train")), CocoSemantic(root, "val"))
    kind = tree_of(root)
    if kind is None or kind == "COCO":
        raise ValueError(
            f"{where} has no masks of class ids: put COCO-Stuff's stuffthingmaps/val2017/*.png or COCO's semantic maps "
            "annotations/semantic_val2017/*.png into a tree of COCO, or give VOC, ADE20K, Cityscapes or scenes"
        )
    return open_data(where, trained, settings)


def open_videos(where: str, trained: DataConfig | None = None, settings: Sequence[str] = ()) -> VideoSet:
    """Sequences that `--data` names: `scenes`, whose scenes move, or a tree of DAVIS.

    Args:
        where: one of these.
        trained: what the weights were trained on; generated sequences are of the same size, classes and seed, held out.
        settings: of `VideosConfig`, such as `split=train`.
    """
    _check_root(settings)
    if where != "scenes":
        config = VideosConfig().override(settings)
        return Davis(existing(where), config.split, config.resolution)
    known = (trained or DataConfig()).scenes
    own = {name: getattr(known, name) for name in ("image_size", "classes", "seed")}
    config = VideosConfig.parse(own).override(settings)
    if config.split not in ("train", "val"):
        raise ValueError(f"data.split is {config.split!r}; scenes have train and val")
    split: Literal["train", "val"] = "train" if config.split == "train" else "val"
    chosen = SyntheticScenes(config.count, config.image_size, config.classes, config.seed, split)
    return SceneVideos(chosen, config.frames)


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


def open_whole(where: str, trained: DataConfig | None = None, settings: Sequence[str] = ()) -> Splits:
    """As `open_data`, and a tree of ImageNet-C; a test set of ImageNet's classes is taken as a whole.

    That is a folder without splits whose class folders are WordNet ids of ImageNet-1k, as ImageNet-A and -R have. What
    the weights were trained on is split as in training.
    """
    _check_root(settings)
    if where == "scenes":
        return open_data(where, trained, settings)
    root = existing(where)
    if is_imagenet_c(root):
        tree = ImageNetC(root)
        return Splits(tree, tree)
    own = trained is not None and trained.root and Path(trained.root).expanduser().resolve() == root.resolve()
    folders = tuple(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if not own and are_wnids(folders):
        whole = ImageFolder(root)
        return Splits(whole, whole)
    return open_data(where, trained, settings)


def _check_root(settings: Sequence[str]) -> None:
    if any(setting.startswith("root=") for setting in settings):
        raise ValueError("--data names the images that are measured on; leave data.root out")


def _asked(where: str, trained: DataConfig | None, settings: Sequence[str]) -> DataConfig:
    """How a folder is opened: as the weights' own images, where it holds these, and as the settings say."""
    root = existing(where)
    same = trained and trained.root and Path(trained.root).expanduser().resolve() == root.resolve()
    return (trained if trained and same else DataConfig(root=where)).override(settings)


def _stuff(root: Path, coarse: bool) -> Splits:
    return Splits(Later(lambda: CocoStuff(root, "train", coarse=coarse)), CocoStuff(root, "val", coarse=coarse))


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
    _tell_lost(data, train)
    log.info("there is no val/: %d of %d images are held out", len(val), len(data))
    return Splits(Part(data, train, f"all but {share:g} held out"), Part(data, val, f"{share:g} held out"))


def _tell_lost(data: ImageSet, train: Sequence[int]) -> None:
    """Warn of classes all of whose images are held out, where labels are known without reading images."""
    labels = getattr(data, "labels", None)
    if labels is None or np.ndim(labels) != 1:
        return
    lost = sorted(set(np.asarray(labels).tolist()) - set(np.asarray(labels)[list(train)].tolist()))
    if lost:
        names = data.classes or ()
        log.warning(
            "%d classes have no image to train on, since their few are held out: %s; add images, or a val/ folder",
            *(len(lost), ", ".join(names[each] if each < len(names) else str(each) for each in lost[:8])),
        )


def tree_of(root: Path) -> str | None:
    """VOC, COCO, COCO-Stuff, ADE20K, Cityscapes, DAVIS or ImageNet-C, by their folders; None for any other folder.

    A folder with both instances and stuff is COCO; `open_segmented` finds the masks there.
    """
    trees = {
        "VOC": is_voc,
        "COCO": is_coco,
        "COCO-Stuff": is_cocostuff,
        "ADE20K": is_ade20k,
        "Cityscapes": is_cityscapes,
        "DAVIS": is_davis,
        "ImageNet-C": is_imagenet_c,
    }
    return next((name for name, fits in trees.items() if fits(root)), None)


def _split_name(root: Path, options: Sequence[str]) -> str | None:
    return next((name for name in options if (root / name).is_dir()), None)


def _a_severity(root: Path) -> Path:
    """One folder of class folders of a tree of ImageNet-C."""
    folder = next(iter(corruption_folders(root).values()))
    return next(path for path in sorted(folder.iterdir()) if path.is_dir())
