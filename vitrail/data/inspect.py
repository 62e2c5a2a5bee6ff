"""What is wrong with a folder of images, each finding with its mend."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitrail.data.ade20k import Ade20k, ade20k_splits, is_ade20k
from vitrail.data.cifar import Cifar, is_cifar
from vitrail.data.cityscapes import Cityscapes, cityscapes_splits, is_cityscapes
from vitrail.data.coco import CocoInstances, coco_splits, is_coco
from vitrail.data.coco_semantic import CocoSemantic, has_semantic
from vitrail.data.cocostuff import CocoStuff, cocostuff_splits, is_cocostuff
from vitrail.data.cub import Cub, find_cub, is_cub
from vitrail.data.finding import Finding, few
from vitrail.data.folders import SPLITS, ImageFolder, split_folder
from vitrail.data.imagenet_c import ImageNetC, is_imagenet_c, misspelt_in_words, variants_in_words
from vitrail.data.images import UnreadableImage, open_image
from vitrail.data.inspect_boxes import cub_boxes, folder_boxes, wsol_boxes
from vitrail.data.listed import ListedImages
from vitrail.data.loader import TOLERATED
from vitrail.data.mask_pairs import MaskPairs
from vitrail.data.multi_label import TABLE, MultiLabelFolder, has_table
from vitrail.data.published_sets import listed_layout
from vitrail.data.voc import VocSegmentation, find_voc, is_voc, splits_of
from vitrail.data.wsol import Wsol, is_wsol, wsol_splits

Folder = ImageFolder | MultiLabelFolder
PARTS = {"images", "image", "annotations", "annotation", "masks", "mask", "labels", "segmentations", "jpegimages"}
PARTS |= {"segmentationclass", "segmentationobject", "stuff", "panoptic", "train", "val", "test", "boxes"}
"""Folders that data sets are made of and classes are seldom called, without digits at the end."""
SMALL = 256
"""Images; the global batch size of the recipes for folders."""


class Look(NamedTuple):
    """What decoding one file showed."""

    path: str
    size: tuple[int, int] | None  # width, height; None where it cannot be read
    mode: str
    reason: str  # why it cannot be read


def inspect_folder(
    root: str | Path, *, patch_size: int = 16, image_size: int = 224, every: bool = False, sample: int = 256
) -> list[Finding]:
    """Look at a folder as training and evaluation would see it.

    Layout, counts per split and class, classes of val that train lacks, sizes against the crop and the patch,
    unreadable files, color modes; all boxes, where a file has some; with `every`, files that are in both splits.

    Args:
        root: a folder of images, with or without splits and class folders, of CIFAR, Flowers-102, Pets, Cars, DomainNet
            or CUB, with metadata of wsolevaluation, or a tree of VOC, COCO, COCO-Stuff, ADE20K or Cityscapes.
        patch_size, image_size: pixels a side, of the backbone that is meant.
        every: decode all images instead of `sample` of them, evenly spread.

    Never raises for what is wrong with the folder: that is a finding.
    """
    root = Path(root)
    if not root.is_dir():
        return [Finding("error", f"there is no folder {root}", "check the path")]
    trees = {_voc: is_voc, _coco: is_coco, _stuff: is_cocostuff, _ade20k: is_ade20k, _cityscapes: is_cityscapes}
    trees |= {_cifar: is_cifar, _published: _is_listed, _wsol: is_wsol, _cub: is_cub, _imagenet_c: is_imagenet_c}
    for inspect_tree, fits in trees.items():
        if fits(root):
            return inspect_tree(root, patch_size, image_size, None if every else sample)
    findings, splits = _splits(root)
    for name, data in splits.items():
        looks = [look(data.path(index)) for index in _spread(len(data), None if every else sample)]
        findings += _of_looks(name, looks, len(data), patch_size, image_size)
    findings += folder_boxes(root, splits)
    if every and len(splits) > 1:
        findings += _in_both(splits)
    return findings


def look(path: str | Path) -> Look:
    """Decode a file and say what it is."""
    try:
        image = open_image(path)
        with Image.open(path) as stored:
            return Look(str(path), image.size, stored.mode, "")
    except UnreadableImage as error:
        return Look(str(path), None, "", error.reason)


def _splits(root: Path) -> tuple[list[Finding], dict[str, Folder]]:
    findings: list[Finding] = []
    found = {name: split_folder(root, name) for name in SPLITS}
    wanted = [name for name, folder in found.items() if folder is not None]
    splits: dict[str, Folder] = {}
    tables = has_table(root)
    for name in wanted or [""]:
        try:
            with warnings.catch_warnings(record=True) as notes:
                warnings.simplefilter("always")
                splits[name] = MultiLabelFolder(root, name or None) if tables else ImageFolder(root, name or None)
            mend = f"give each a line in {TABLE}" if tables else "move them into a class folder"
            findings += [Finding("warning", str(note.message), mend) for note in notes]
        except (ValueError, OSError) as error:
            mend = "put images there, one folder per class for supervised recipes"
            findings.append(Finding("error", str(error), f"mend {TABLE}" if tables else mend))
    if wanted and "val" not in wanted:
        mend = "add val/ (or validation/) with the same class folders; without one, a part of train is held out"
        findings.append(Finding("warning", f"{root} has train/ but no val/", mend))
    measured = found["val"]
    if measured is not None and "train" not in wanted:
        what = f"{root} has {measured.name}/ but no train/"
        findings.append(Finding("warning", what, "it can be evaluated on, not trained on"))
    elif measured is not None and measured.name == "test":
        what = f"{root} has test/ but no val/: training validates on test/"
        mend = "what is chosen by looking at test/ looks too good on it; add val/ and keep test/ for the last number"
        findings.append(Finding("warning", what, mend))
    for name, data in splits.items():
        findings += _classes(name, data) + _too_few(name, data, alone="val" not in splits)
    if len(splits) > 1:
        findings += _agreement(splits["train"], splits["val"])
    return findings, splits


def _classes(name: str, data: Folder) -> list[Finding]:
    where = _where(name)
    counts = data.counts()
    if isinstance(data, MultiLabelFolder):
        spread = f"{sum(counts.values()) / len(data):.1f} an image"
        return [Finding("ok", f"{where}: {len(data)} images with any of {len(counts)} labels, {spread}", "")]
    if not counts:
        mend = "fine for self-supervised recipes; supervised ones, k-NN and linear need one folder per class"
        inside = _classes_inside(data)
        if inside:
            mend += f"; if the classes are the folders in {inside}/, give {data.folder / inside}"
        return [Finding("warning", f"{where}: {len(data)} images without class folders", mend)]
    least, most = min(counts, key=lambda each: counts[each]), max(counts, key=lambda each: counts[each])
    spread = f"{counts[least]} ({least}) to {counts[most]} ({most}) each"
    findings = [Finding("ok", f"{where}: {len(data)} images in {len(counts)} classes, {spread}", "")]
    if counts[most] > 20 * counts[least]:
        mend = f"accuracy will mostly tell about the large classes; add images of {least}"
        findings.append(Finding("warning", f"{where}: {most} has over 20 times the images of {least}", mend))
    parts = [name for name in counts if name.lower().rstrip("0123456789") in PARTS]
    if parts:
        likely = max(parts, key=lambda name: name.lower().startswith(("train", "im", "jpeg")))
        mend = f"if they are parts of a data set, give the part that holds the images, as {data.folder / likely}"
        findings.append(Finding("warning", f"{where}: taken for classes by their folders: {few(parts)}", mend))
    empty = sorted(
        entry.name
        for entry in os.scandir(data.folder)
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in counts
    )
    if empty:
        mend = "remove them, or put images into them"
        findings.append(
            Finding("warning", f"{where}: folders without images, which are no classes: {few(empty)}", mend)
        )
    return findings


def _too_few(name: str, data: Folder, alone: bool) -> list[Finding]:
    """Whether there are enough images to train on for a step of most recipes; of images that are `alone` a tenth is
    held out."""
    total = len(data)
    left = total * 9 // 10 if alone else total
    if name not in ("", "train") or left >= SMALL:
        return []
    what = f"fewer than {SMALL} images" if total < SMALL else f"{total} images, {left} without those held out"
    batch = 1 << max(left, 1).bit_length() - 1
    mend = f"most recipes take {SMALL} at a step and refuse fewer: give train.global_batch_size={batch} or less"
    return [Finding("warning", f"{_where(name)}: {what}", mend)]


def _classes_inside(data: ImageFolder) -> str:
    """The folder that holds most images two folders deep, as one that holds class folders does."""
    tops = [data.relative_path(index).split("/") for index in range(len(data))]
    found = Counter(parts[0] for parts in tops if len(parts) > 2)
    return found.most_common(1)[0][0] if found else ""


def _agreement(train: Folder, val: Folder) -> list[Finding]:
    if train.classes is None or val.classes is None:
        if (train.classes is None) == (val.classes is None):
            return []
        with_labels = "train" if val.classes is None else "val"
        return [Finding("error", f"only {with_labels} has class folders", "give both splits the same class folders")]
    findings = []
    strangers = sorted(set(val.classes) - set(train.classes))
    if strangers:
        mend = "add training images of them, or remove them from val"
        findings.append(Finding("error", f"val has {len(strangers)} classes that train lacks: {few(strangers)}", mend))
    absent = sorted(set(train.classes) - set(val.classes))
    if absent:
        mend = "accuracy says nothing about them"
        findings.append(Finding("warning", f"val lacks {len(absent)} classes of train: {few(absent)}", mend))
    return findings or [Finding("ok", "train and val have the same classes", "")]


def _readable(name: str, looks: Sequence[Look], total: int) -> list[Finding]:
    where = _where(name)
    bad = [each for each in looks if each.size is None]
    seen = f"{len(looks)} of {total} images decoded" if len(looks) < total else f"all {total} images decoded"
    if not bad:
        return [Finding("ok", f"{where}: {seen}, all readable", "")]
    listed = "; ".join(f"{each.path}: {each.reason}" for each in bad[: 20 if len(looks) == total else 5])
    more = f"; and {len(bad) - 20} more" if len(bad) > 20 else ""
    what = f"{where}: {seen}, {len(bad)} unreadable: {listed}{more}"
    if len(bad) > TOLERATED * len(looks):
        return [Finding("error", what, "training stops when more than 1 % are unreadable: mend or remove these files")]
    return [Finding("warning", what, "training replaces them and lists them; better mend or remove these files")]


def _sizes(name: str, looks: Sequence[Look], patch_size: int, image_size: int) -> list[Finding]:
    sides = np.array([each.size for each in looks if each.size is not None])
    if not len(sides):
        return []
    where, shorter = _where(name), sides.min(axis=1)
    low, high, middle = sides.min(axis=0), sides.max(axis=0), np.median(sides, axis=0).astype(int)
    if (low == high).all():
        what = f"{where}: every image is {low[0]} x {low[1]}"
    else:
        spread = f"{low[0]} to {high[0]} wide, {low[1]} to {high[1]} high"
        what = f"{where}: {spread}, median {middle[0]} x {middle[1]}"
    findings = [Finding("ok", what, "")]
    tiny, small = int((shorter < patch_size).sum()), int((shorter < image_size).sum())
    if tiny:
        mend = f"remove them: enlarged from less than a patch of {patch_size} they show nothing"
        findings.append(Finding("warning", f"{where}: {_share(tiny, sides)} are smaller than one patch", mend))
    if small > 0.1 * len(sides):
        share = 50 if np.median(shorter) < image_size else 10
        fits = int(np.percentile(shorter, share)) // patch_size * patch_size
        mend = (
            f"they are enlarged, which costs time and adds nothing; {fits} fits most" if fits else "use larger images"
        )
        findings.append(
            Finding("warning", f"{where}: {_share(small, sides)} are smaller than {image_size} pixels", mend)
        )
    ragged = int((sides % patch_size).any(axis=1).sum())
    if ragged:
        mend = f"crops of {image_size} take care of it; where whole images are used, they are padded or resized"
        what = f"{where}: {_share(ragged, sides)} have sides that are no multiple of the patch size {patch_size}"
        findings.append(Finding("ok", what, mend))
    return findings


def _modes(name: str, looks: Sequence[Look]) -> list[Finding]:
    kinds = Counter(each.mode for each in looks if each.size is not None and each.mode != "RGB")
    if not kinds:
        return []
    shown = ", ".join(f"{count} {_kind(mode)}" for mode, count in kinds.most_common())
    findings = [Finding("ok", f"{_where(name)}: converted to RGB: {shown}", "")]
    gray = sum(count for mode, count in kinds.items() if _kind(mode).startswith("gray"))
    if gray > 0.5 * len(looks):
        mend = "color jitter does little here; mean and std of the pixels may be set to your own"
        findings.append(Finding("warning", f"{_where(name)}: {100 * gray / len(looks):.0f} % are gray", mend))
    return findings


def _kind(mode: str) -> str:
    known = {"L": "gray", "1": "gray (black and white)", "P": "palette", "RGBA": "with transparency"}
    known |= {"LA": "gray with transparency", "F": "gray (float)"}
    return known.get(mode, "gray (16 or 32 bits)" if mode.startswith("I") else mode)


def _in_both(splits: dict[str, Folder]) -> list[Finding]:
    """Equal files in train and val; reads only files of equal size."""
    sizes: dict[int, list[tuple[str, str]]] = {}
    for name, data in splits.items():
        for index in range(len(data)):
            path = data.path(index)
            sizes.setdefault(os.path.getsize(path), []).append((name, path))
    contents: dict[bytes, dict[str, str]] = {}
    for files in sizes.values():
        if len({name for name, _ in files}) > 1:
            for name, path in files:
                contents.setdefault(hashlib.sha256(Path(path).read_bytes()).digest(), {})[name] = path
    pairs = [" = ".join(found.values()) for found in contents.values() if len(found) > 1]
    if not pairs:
        return [Finding("ok", "no file is in both train and val", "")]
    mend = "remove them from one split: numbers on val are too good otherwise"
    return [Finding("warning", f"{len(pairs)} files are in both train and val: {few(pairs, 5)}", mend)]


def _voc(root: Path, patch_size: int, image_size: int, sample: int | None) -> list[Finding]:
    findings: list[Finding] = []
    for split in splits_of(find_voc(root)):
        try:
            data = VocSegmentation(root, split)
        except ValueError as error:
            mend = "unpack the archive again, or take these names out of the list"
            findings.append(Finding("error", f"VOC split {split}: {error}", mend))
            continue
        boxes = "with boxes" if data.has_boxes else "without boxes"
        findings.append(Finding("ok", f"VOC split {split}: {len(data)} images with masks, {boxes}", ""))
        looks = [_decoded(data, index, str(data.paths(index)[0])) for index in _spread(len(data), sample)]
        findings += _of_looks(split, looks, len(data), patch_size, image_size)
    return findings


def _coco(root: Path, patch_size: int, image_size: int, sample: int | None) -> list[Finding]:
    findings: list[Finding] = []
    for split in coco_splits(root):
        try:
            data = CocoInstances(root, split, missing="leave_out")
        except ValueError as error:
            findings.append(Finding("error", f"COCO split {split}: {error}", "copy or unpack it again"))
            continue
        counts, known = data.counts, len(data.classes or ())
        what = f"COCO split {split}: {len(data)} images with {counts.boxes} boxes of {known} classes"
        findings.append(Finding("ok", what, ""))
        if counts.missing_images:
            mend = f"copy them there, or go on without them by data.missing=leave_out; found are those in {data.folder}"
            what = f"COCO split {split}: {counts.missing_images} listed images are not there"
            findings.append(Finding("warning", what, mend))
        rest = [note for note in data.notes if "not there" not in note]
        rest += [f"{counts.without_objects} images have no object"] * bool(counts.without_objects)
        findings += [Finding("ok", f"COCO split {split}: {note}", "") for note in rest]
        looks = [_decoded(data, index, data.path(index)) for index in _spread(len(data), sample)]
        findings += _of_looks(split, looks, len(data), patch_size, image_size)
    return findings + _coco_masks(root, patch_size, image_size, sample)


def _coco_masks(root: Path, patch_size: int, image_size: int, sample: int | None) -> list[Finding]:
    """What COCO's folder has beside its instances: stuff, or else semantic maps."""
    if is_cocostuff(root):
        return _stuff(root, patch_size, image_size, sample)
    if not has_semantic(root):
        return []
    splits = [split for split in ("train", "val") if (root / "annotations" / f"semantic_{split}2017").is_dir()]
    return _masked(CocoSemantic, "COCO semantic maps", root, splits, patch_size, image_size, sample)


def _stuff(root: Path, patch_size: int, image_size: int, sample: int | None) -> list[Finding]:
    return _masked(CocoStuff, "COCO-Stuff", root, cocostuff_splits(root), patch_size, image_size, sample)


def _cityscapes(root: Path, patch_size: int, image_size: int, sample: int | None) -> list[Finding]:
    return _masked(Cityscapes, "Cityscapes", root, cityscapes_splits(root), patch_size, image_size, sample)


def _masked(
    opening: Callable[[Path, str], MaskPairs],
    name: str,
    root: Path,
    splits: Sequence[str],
    patch_size: int,
    image_size: int,
    sample: int | None,
) -> list[Finding]:
    findings: list[Finding] = []
    for split in splits:
        try:
            data = opening(root, split)
        except ValueError as error:
            findings.append(Finding("error", f"{name} split {split}: {error}", "unpack the masks and the images again"))
            continue
        findings.append(Finding("ok", f"{data.name}, split {split}: {len(data)} images with masks", ""))
        looks = [_decoded(data, index, str(data.paths(index).image)) for index in _spread(len(data), sample)]
        findings += _of_looks(split, looks, len(data), patch_size, image_size)
    return findings


def _ade20k(root: Path, patch_size: int, image_size: int, sample: int | None) -> list[Finding]:
    findings: list[Finding] = []
    for split in ade20k_splits(root):
        try:
            data = Ade20k(root, split)
        except ValueError as error:
            mend = "unpack it again, with its masks and its list of classes"
            findings.append(Finding("error", f"ADE20K split {split}: {error}", mend))
            continue
        stuff = "things and stuff told apart" if data.stuff is not None else "things and stuff not told apart"
        what = f"{data.name}, split {split}: {len(data)} images with masks, {stuff}"
        mend = "put objectInfo150.csv with its column Stuff there for recall of both"
        findings.append(Finding("ok", what, "" if data.stuff is not None or data.layout == "full" else mend))
        looks = [_decoded(data, index, str(data.paths(index)[0])) for index in _spread(len(data), sample)]
        findings += _of_looks(split, looks, len(data), patch_size, image_size)
    return findings


def _cifar(root: Path, patch_size: int, image_size: int, sample: int | None) -> list[Finding]:
    findings: list[Finding] = []
    for split in ("train", "val"):
        try:
            data = Cifar(root, split)
        except ValueError as error:
            findings.append(Finding("error", str(error), "unpack it again, or name the folder of one set"))
            continue
        what = f"{data.name}, {split}: {len(data)} images in {len(data.classes)} classes"
        findings.append(Finding("ok", what, ""))
        height, width = data.images.shape[1:3]
        looks = [Look(f"{split}/{index}", (width, height), "RGB", "") for index in _spread(len(data), sample)]
        findings += _of_looks(split, looks, len(data), patch_size, image_size)
    return findings


def _is_listed(root: Path) -> bool:
    return listed_layout(root) is not None


def _published(root: Path, patch_size: int, image_size: int, sample: int | None) -> list[Finding]:
    layout = listed_layout(root)
    assert layout is not None  # `_is_listed` has looked
    opening, splits = layout.opening, ["train", "val"]
    return _listed(lambda split: opening(root, split), layout.name, splits, patch_size, image_size, sample)


def _imagenet_c(root: Path, patch_size: int, image_size: int, sample: int | None) -> list[Finding]:
    try:
        data = ImageNetC(root)
    except ValueError as error:
        return [Finding("error", str(error), "unpack it again")]
    names = sorted({name for name, _ in data.variants})
    what = f"ImageNet-C: {len(data)} images in {len(data.classes)} classes, {len(names)} of 15 corruptions"
    findings = [Finding("ok", what, ""), *(Finding("ok", note, "") for note in data.notes)]
    if data.misspelt:
        what = f"ImageNet-C: {misspelt_in_words(data.misspelt)}"
        findings.append(Finding("warning", what, "rename them to what they hold, or move them away"))
    if data.missing:
        mend = "unpack noise.tar, blur.tar, weather.tar and digital.tar there, or measure with allow_missing=true"
        what = f"ImageNet-C: {len(data.missing)} of 75 folders are missing: {variants_in_words(data.missing)}"
        what += f"; of these are there and empty: {variants_in_words(data.empty)}" if data.empty else ""
        findings.append(Finding("warning", what, mend))
    if len(set(data.counts().values())) > 1:
        least, most = min(data.counts().values()), max(data.counts().values())
        what = f"ImageNet-C: its folders have {least} to {most} images each"
        findings.append(Finding("warning", what, "unpack the archives again; means weigh all severities alike"))
    looks = [look(data.path(index)) for index in _spread(len(data), sample)]
    return findings + _of_looks("ImageNet-C", looks, len(data), patch_size, image_size)


def _cub(root: Path, patch_size: int, image_size: int, sample: int | None) -> list[Finding]:
    found = _listed(lambda split: Cub(root, split), "CUB", ["train", "test"], patch_size, image_size, sample)
    return found + cub_boxes(find_cub(root))


def _wsol(root: Path, patch_size: int, image_size: int, sample: int | None) -> list[Finding]:
    try:
        splits = list(wsol_splits(root))
    except ValueError as error:
        return [Finding("error", str(error), "make a folder for each data set")]
    name = "metadata of wsolevaluation,"
    found = _listed(lambda split: Wsol(root, split), name, splits, patch_size, image_size, sample)
    for split in splits:
        found += wsol_boxes(root, split)
    return found + (cub_boxes(find_cub(root)) if is_cub(root) else [])


def _listed(
    opening: Callable[[str], Cub | Wsol | ListedImages],
    name: str,
    splits: Sequence[str],
    patch_size: int,
    image_size: int,
    sample: int | None,
) -> list[Finding]:
    findings: list[Finding] = []
    for split in splits:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # lines of boxes have findings of their own
                data = opening(split)
        except (ValueError, OSError) as error:
            findings.append(Finding("error", f"{name} split {split}: {error}", "copy or unpack it again"))
            continue
        boxes = "with boxes" if data.has_boxes else "with masks" if data.has_masks else "without boxes"
        known = len(set(data.labels.tolist()))
        what = f"{name} split {split}: {len(data)} images of {known} of {len(data.classes or ())} classes, {boxes}"
        findings.append(Finding("ok", what, ""))
        looks = [_decoded(data, index, data.path(index)) for index in _spread(len(data), sample)]
        findings += _of_looks(split, looks, len(data), patch_size, image_size)
    return findings


def _of_looks(name: str, looks: Sequence[Look], total: int, patch_size: int, image_size: int) -> list[Finding]:
    return _readable(name, looks, total) + _sizes(name, looks, patch_size, image_size) + _modes(name, looks)


def _decoded(
    data: VocSegmentation | CocoInstances | Ade20k | MaskPairs | Cub | Wsol | ListedImages, index: int, path: str
) -> Look:
    """The image, where what belongs to it can be used, too: its boxes fit, its mask is there."""
    try:
        data[index]
    except UnreadableImage as error:
        return Look(error.path, None, "", error.reason)
    return look(path)


def _spread(count: int, sample: int | None) -> list[int]:
    if sample is None or sample >= count:
        return list(range(count))
    return [place * count // sample for place in range(sample)]


def _where(name: str) -> str:
    return name or "images"


def _share(count: int, sides: np.ndarray) -> str:
    return f"{count} of {len(sides)} images"
