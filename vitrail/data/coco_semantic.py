"""COCO's semantic maps: one PNG of class ids an image, of things and stuff, beside the instances.

    annotations/semantic_{train2017,val2017}/*.png       values 0 to C - 1, 255 unlabeled
    annotations/semantic_classes.txt                     a line for each value: value, COCO's id, name, thing or stuff
    train2017/*.jpg  val2017/*.jpg                       or below images/

The columns of the list are separated by tabs. Images without a map are left out and counted: panoptic annotations do
not cover every image that the instances list.

Source: the panoptic task of COCO (Kirillov et al. 2019, arXiv 1801.00868), whose segments merge to such maps.
"""

from __future__ import annotations

from pathlib import Path

from vitrail.data.cocostuff import image_folder
from vitrail.data.mask_pairs import STRANGE, MaskPairs, Pair, table_of

CLASSES = "semantic_classes.txt"


class CocoSemantic(MaskPairs):
    """Images with a mask of things and stuff. Fulfills `vitrail.contracts.ImageSet`.

    Args:
        root: the folder that holds `annotations`.
        split: "train" or "val".

    Attributes: `classes`, `stuff` (names of the classes that are stuff), `without` (images of the folder that have no
    map and were left out).

    Raises:
        ValueError: no such layout or split, or a list of classes that cannot be read.
    """

    def __init__(self, root: str | Path, split: str = "val") -> None:
        root = Path(root)
        masks = root / "annotations" / f"semantic_{split}2017"
        if not masks.is_dir():
            raise ValueError(f"{root} has no semantic maps of the split {split!r}: {masks} is no folder")
        folder = image_folder(root, split)
        pairs = [Pair(path, masks / f"{path.stem}.png") for path in sorted(folder.glob("*.jpg"))]
        there = {path.stem for path in masks.glob("*.png")}
        kept = [pair for pair in pairs if pair.image.stem in there]
        self.without = len(pairs) - len(kept)
        strangers = sorted(there - {pair.image.stem for pair in pairs})
        if strangers or not kept:
            raise ValueError(
                f"{len(strangers)} of {len(there)} maps in {masks} have no image in {folder}: "
                f"{', '.join(strangers[:5])}; copy the images there"
            )
        names, stuff = _classes(root / "annotations" / CLASSES)
        table = table_of({value: value + 1 for value in range(len(names))})
        super().__init__(root, split, f"COCO, {len(names)} classes", kept, names, table, stuff)


def has_semantic(root: Path) -> bool:
    """Whether a folder has COCO's semantic maps with their list of classes."""
    folder = root / "annotations"
    return (folder / CLASSES).is_file() and any(path.is_dir() for path in folder.glob("semantic_*2017"))


def _classes(path: Path) -> tuple[tuple[str, ...], frozenset[str]]:
    if not path.is_file():
        raise ValueError(
            f"there is no {path}, which names the values of the maps: value, COCO's id, name, thing or stuff"
        )
    names: list[str] = []
    stuff = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 4 or parts[0] != str(len(names)) or parts[3] not in ("thing", "stuff"):
            raise ValueError(
                f"{path}:{number}: expected `{len(names)}`, COCO's id, a name, and thing or stuff, with tabs between; "
                f"got {line!r}"
            )
        names.append(parts[2])
        if parts[3] == "stuff":
            stuff.add(parts[2])
    if not 0 < len(names) < STRANGE or len(set(names)) < len(names):
        raise ValueError(f"{path} names {len(names)} classes; it names 1 to {STRANGE - 1}, each once")
    return tuple(names), frozenset(stuff)
