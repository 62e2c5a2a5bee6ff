"""Cityscapes: street scenes with 19 classes.

    leftImg8bit/{train,val,test}/<city>/*_leftImg8bit.png
    gtFine/{train,val,test}/<city>/*_gtFine_labelIds.png         or *_gtFine_labelTrainIds.png

Values of labelIds run from 0 to 33, of which 19 are classes and the others are ignored; those of labelTrainIds are 0 to
18, and 255. Where both kinds of files are there, labelIds are read. Void pixels count for nothing.

Source: Cordts et al. 2016 (arXiv 1604.01685), and the label table of its development kit.
"""

from __future__ import annotations

from pathlib import Path

from vitrail.data.mask_pairs import IGNORED, MaskPairs, Pair, table_of

CITYSCAPES_CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
"""The 19 classes in the order of their train ids; mask value k is CITYSCAPES_CLASSES[k - 1]."""

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Their values in files of labelIds."""

THINGS = frozenset(("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"))
_IMAGE = "_leftImg8bit.png"
_ENDINGS = {"_gtFine_labelIds.png": False, "_gtFine_labelTrainIds.png": True}


class Cityscapes(MaskPairs):
    """Street scenes with a mask of class ids. Fulfills `vitrail.contracts.ImageSet`.

    Args:
        root: the folder that holds `leftImg8bit` and `gtFine`.
        split: "train" or "val".

    Raises:
        ValueError: no such layout or split, or images without their mask.
    """

    def __init__(self, root: str | Path, split: str = "val") -> None:
        root = Path(root)
        images = sorted((root / "leftImg8bit" / split).glob(f"*/*{_IMAGE}"))
        if not images:
            raise ValueError(f"{root} has no images of the split {split!r} in leftImg8bit/{split}/<city>/*{_IMAGE}")
        truth = root / "gtFine" / split
        ending = next((end for end in _ENDINGS if next(truth.glob(f"*/*{end}"), None) is not None), None)
        if ending is None:
            raise ValueError(f"{truth} has no masks; unpack gtFine_trainvaltest.zip there, with its *_labelIds.png")
        pairs = [Pair(path, truth / path.parent.name / (path.name.removesuffix(_IMAGE) + ending)) for path in images]
        ids = (
            {place: place + 1 for place in range(len(CITYSCAPES_CLASSES))}
            if _ENDINGS[ending]
            else dict.fromkeys(range(34), IGNORED) | {value: place for place, value in enumerate(LABEL_IDS, start=1)}
        )
        stuff = frozenset(CITYSCAPES_CLASSES) - THINGS
        super().__init__(root, split, "Cityscapes", pairs, CITYSCAPES_CLASSES, table_of(ids), stuff)


def is_cityscapes(root: Path) -> bool:
    """Whether a folder has Cityscapes' layout."""
    return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()


def cityscapes_splits(root: Path) -> list[str]:
    """Which of "train" and "val" have images."""
    return [split for split in ("train", "val") if (root / "leftImg8bit" / split).is_dir()]
