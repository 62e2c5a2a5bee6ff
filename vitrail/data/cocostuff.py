"""COCO-Stuff: COCO's images with a mask of things and stuff, in 171 classes or in 27 coarse ones.

    train2017/*.jpg  val2017/*.jpg                           or below images/
    stuffthingmaps/{train2017,val2017}/*.png                 or annotations/{train2017,val2017}/*.png
    curated/{train2017,val2017}/Coco164kFull_Stuff_Coarse_7.txt     where it is there: names of the images to use

Values in the files are COCO's id minus 1: 0 to 90 things (11 of these ids are of no class any more), 91 to 181 stuff;
255 is unlabeled. By default the 27 coarse classes: 12 kinds of things and 15 of stuff, one level up in the hierarchy.
Published numbers on 27 classes are on the images of the curated list, 2,175 of val2017.

Source: Caesar, Uijlings and Ferrari 2018, "COCO-Stuff" (arXiv 1612.03716), with its hierarchy of labels; list and
coarse classes as in PiCIE (Cho et al. 2021, arXiv 2103.17070) and STEGO (Hamilton et al. 2022, arXiv 2203.08414).
"""

from __future__ import annotations

from pathlib import Path

from vitrail.data.mask_pairs import MaskPairs, Pair, table_of

CURATED = "Coco164kFull_Stuff_Coarse_7.txt"
_YEAR = "2017"

THINGS: dict[str, str] = {
    "electronic": "72 tv, 73 laptop, 74 mouse, 75 remote, 76 keyboard, 77 cell phone",
    "appliance": "78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator, 83 blender",
    "food": "52 banana, 53 apple, 54 sandwich, 55 orange, 56 broccoli, 57 carrot, 58 hot dog, 59 pizza, "
    "60 donut, 61 cake",
    "furniture": "62 chair, 63 couch, 64 potted plant, 65 bed, 66 mirror, 67 dining table, 68 window, 69 desk, "
    "70 toilet, 71 door",
    "indoor": "84 book, 85 clock, 86 vase, 87 scissors, 88 teddy bear, 89 hair drier, 90 toothbrush, 91 hair brush",
    "kitchen": "44 bottle, 45 plate, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl",
    "accessory": "26 hat, 27 backpack, 28 umbrella, 29 shoe, 30 eye glasses, 31 handbag, 32 tie, 33 suitcase",
    "animal": "16 bird, 17 cat, 18 dog, 19 horse, 20 sheep, 21 cow, 22 elephant, 23 bear, 24 zebra, 25 giraffe",
    "outdoor": "10 traffic light, 11 fire hydrant, 12 street sign, 13 stop sign, 14 parking meter, 15 bench",
    "person": "1 person",
    "sports": "34 frisbee, 35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat, 40 baseball glove, "
    "41 skateboard, 42 surfboard, 43 tennis racket",
    "vehicle": "2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat",
}
"""Coarse classes of things: COCO's ids and names."""

STUFF: dict[str, str] = {
    "ceiling": "102 ceiling-other, 103 ceiling-tile",
    "floor": "101 carpet, 114 floor-marble, 115 floor-other, 116 floor-stone, 117 floor-tile, 118 floor-wood",
    "food-stuff": "121 food-other, 122 fruit, 153 salad, 170 vegetable",
    "furniture-stuff": "98 cabinet, 107 counter, 108 cupboard, 110 desk-stuff, 112 door-stuff, 123 furniture-other, "
    "130 light, 133 mirror-stuff, 156 shelf, 161 stairs, 165 table",
    "rawmaterial": "100 cardboard, 132 metal, 139 paper, 143 plastic",
    "textile": "92 banner, 93 blanket, 104 cloth, 105 clothes, 109 curtain, 131 mat, 137 napkin, 141 pillow, 152 rug, "
    "167 textile-other, 168 towel",
    "wall": "171 wall-brick, 172 wall-concrete, 173 wall-other, 174 wall-panel, 175 wall-stone, 176 wall-tile, "
    "177 wall-wood",
    "window": "180 window-blind, 181 window-other",
    "building": "95 bridge, 96 building-other, 128 house, 151 roof, 158 skyscraper, 166 tent",
    "ground": "111 dirt, 125 gravel, 126 ground-other, 136 mud, 140 pavement, 144 platform, 145 playingfield, "
    "147 railroad, 149 road, 154 sand, 159 snow",
    "plant": "94 branch, 97 bush, 119 flower, 124 grass, 129 leaves, 134 moss, 142 plant-other, 163 straw, 169 tree",
    "sky": "106 clouds, 157 sky-other",
    "solid": "127 hill, 135 mountain, 150 rock, 160 solid-other, 162 stone, 182 wood",
    "structural": "99 cage, 113 fence, 138 net, 146 railing, 164 structural-other",
    "water": "120 fog, 148 river, 155 sea, 178 water-other, 179 waterdrops",
}
"""Coarse classes of stuff: COCO's ids and names."""

REMOVED = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91))
"""Ids that COCO took out; they stand in the hierarchy and in no mask."""


def fine_names() -> dict[int, str]:
    """COCO's id -> name, of all 182."""
    pairs = (entry.split(" ", 1) for kinds in (THINGS, STUFF) for text in kinds.values() for entry in text.split(", "))
    return dict(sorted((int(number), name) for number, name in pairs))


def coarse_of() -> dict[int, int]:
    """COCO's id -> place of its coarse class, 0 to 26, things first."""
    kinds = [*THINGS.values(), *STUFF.values()]
    return {int(entry.split(" ", 1)[0]): place for place, text in enumerate(kinds) for entry in text.split(", ")}


class CocoStuff(MaskPairs):
    """Images with a mask of things and stuff. Fulfills `vitrail.contracts.ImageSet`.

    Args:
        root: the folder that holds `stuffthingmaps` or `annotations`.
        split: "train" or "val".
        coarse: the 27 coarse classes; otherwise the 171 that masks have, in the order of their ids.

    Attributes: `classes`, `stuff` (names of the classes that are stuff), `curated` (whether the list was there).

    Raises:
        ValueError: no such layout or split, a list that names images that are not there, or images without a mask.
    """

    def __init__(self, root: str | Path, split: str = "val", *, coarse: bool = True) -> None:
        root = Path(root)
        masks = _mask_folder(root, split)
        if masks is None:
            raise ValueError(
                f"{root} has no masks of COCO-Stuff of the split {split!r}: neither stuffthingmaps/{split}{_YEAR} nor "
                f"annotations/{split}{_YEAR} holds a PNG"
            )
        listed = root / "curated" / f"{split}{_YEAR}" / CURATED
        self.curated = listed.is_file()
        pairs = _pairs(root, split, masks, listed if self.curated else None)
        names, known = fine_names(), [number for number in fine_names() if number not in REMOVED]
        if coarse:
            classes, stuff = (*THINGS, *STUFF), frozenset(STUFF)
            ids = {number - 1: place + 1 for number, place in coarse_of().items()}
        else:
            classes, stuff = (
                tuple(names[number] for number in known),
                frozenset(name for number, name in names.items() if number > 91),
            )
            ids = {number - 1: place for place, number in enumerate(known, start=1)}
        name = f"COCO-Stuff, {len(classes)} classes" + (", curated" if self.curated else "")
        super().__init__(root, split, name, pairs, classes, table_of(ids), stuff)


def is_cocostuff(root: Path) -> bool:
    """Whether a folder has masks of COCO-Stuff, of one split at least."""
    return any(_mask_folder(root, split) is not None for split in ("train", "val"))


def cocostuff_splits(root: Path) -> list[str]:
    """Which of "train" and "val" have masks."""
    return [split for split in ("train", "val") if _mask_folder(root, split) is not None]


def image_folder(root: Path, split: str) -> Path:
    """Where a split's images are: `val2017` or `images/val2017`. Raises `ValueError` where neither is there."""
    places = [root / f"{split}{_YEAR}", root / "images" / f"{split}{_YEAR}"]
    for place in places:
        if place.is_dir():
            return place
    raise ValueError(f"{root} has no images of the split {split!r}: neither {places[0]} nor {places[1]} is a folder")


def _mask_folder(root: Path, split: str) -> Path | None:
    for place in ("stuffthingmaps", "annotations", "annotations/stuffthingmaps"):
        folder = root / place / f"{split}{_YEAR}"
        if next(folder.glob("*.png"), None) is not None:
            return folder
    return None


def _pairs(root: Path, split: str, masks: Path, listed: Path | None) -> list[Pair]:
    folder = image_folder(root, split)
    there = {path.stem: path for path in sorted(folder.glob("*.jpg"))}
    if listed is None:
        if not there:
            raise ValueError(f"{folder} holds no .jpg images")
        return [Pair(path, masks / f"{name}.png") for name, path in there.items()]
    names = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    absent = [name for name in names if name not in there]
    if absent or not names:
        shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise ValueError(
            f"{listed} names {len(names)} images, of which {len(absent)} are not in {folder}: {shown}; copy them "
            "there, or take the list away to use all images"
        )
    return [Pair(there[name], masks / f"{name}.png") for name in names]
