"""The DAVIS layout: video sequences, and for each frame a mask of object ids.

    JPEGImages/480p/<sequence>/00000.jpg  Annotations/480p/<sequence>/00000.png  ImageSets/2017/val.txt

directly in the root or in a folder DAVIS below it; any other resolution's folder does where 480p is not there. The
split is a list of names in ImageSets/2017, ImageSets/2016, ImageSets/480p (lines of two paths, of which the sequence is
taken), ImageSets or the root. Without any list, as in a part of DAVIS, all sequences are the split "val".

Object ids are the indices of a palette PNG or the values of a gray one. Where the first frame has no other value than
0 and 255, the masks are those of DAVIS 2016: 255 is object 1. Elsewhere 255 is void and becomes 0. Values that only
appear after the first frame are no objects: nobody could have followed them.

Source: Perazzi et al. 2016, "A benchmark dataset and evaluation methodology for video object segmentation"; Pont-Tuset
et al. 2017, "The 2017 DAVIS challenge on video object segmentation" (arXiv 1704.00675).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitrail.contracts import Video
from vitrail.data.fingerprint import chosen, fingerprint
from vitrail.data.folders import position
from vitrail.data.images import EXTENSIONS, UnreadableImage, open_image, open_mask

VOID = 255
LISTS = ("ImageSets/2017", "ImageSets/2016", "ImageSets/480p", "ImageSets")
MOST_GRAY = 32  # objects of a gray mask: brighter values are colors that somebody made gray


def _palette() -> bytes:
    """VOC's and DAVIS's colors: bit 3 b + c of an id is bit 7 - b of channel c."""
    ids = np.arange(256)[:, None]
    bits = [((ids >> (3 * b + np.arange(3))) & 1) << (7 - b) for b in range(3)]
    return np.sum(bits, axis=0).astype(np.uint8).tobytes()


PALETTE = _palette()
"""Red, green and blue of each object id, 768 bytes."""


class DavisVideo:
    """One sequence. Fulfills `vitrail.contracts.Video`.

    Reading a frame or a mask raises `UnreadableImage` for a broken file, and for one of another size, or of another
    kind (palette or gray), than the first.
    """

    def __init__(self, name: str, frames: list[Path], masks: list[Path]) -> None:
        """Args: frames, masks: files in order, equally many. Raises `ValueError` where the first mask has no object."""
        self.name, self.frames, self.masks = name, frames, masks
        first, self.kind = _read_mask(masks[0])
        self.size = (first.shape[0], first.shape[1])
        ids = set(np.unique(first).tolist()) - {0}
        self.binary = ids == {VOID}
        self.objects: tuple[int, ...] = (1,) if self.binary else tuple(sorted(ids - {VOID}))
        if not self.objects:
            raise ValueError(
                f"{masks[0]} shows no object, so there is nothing to follow in the sequence {name!r}; give a first "
                "mask with one, or leave the sequence out"
            )
        if self.kind == "gray" and max(self.objects) > MOST_GRAY:
            raise ValueError(
                f"{masks[0]} is a gray mask with values {list(self.objects)[:6]}, which look like colors of a palette; "
                "save the palette's indices (mode P of Pillow), or ids 1, 2, ..."
            )

    def __len__(self) -> int:
        return len(self.frames)

    def frame(self, index: int) -> Image.Image:
        """A frame as RGB."""
        path = self.frames[index]
        image = open_image(path)
        if (image.height, image.width) != self.size:
            raise UnreadableImage(
                path,
                f"a frame of {_words(image.height, image.width)} in a sequence of {_words(*self.size)}",
            )
        return image

    def mask(self, index: int) -> np.ndarray:
        """Object ids `[H, W]` uint8, 0 where there is none."""
        path = self.masks[index]
        ids, kind = _read_mask(path)
        if ids.shape != self.size:
            raise UnreadableImage(
                path,
                f"a mask of {_words(ids.shape[0], ids.shape[1])} in a sequence of {_words(*self.size)}",
            )
        if kind != self.kind:
            raise UnreadableImage(
                path, f"a {kind} mask in a sequence whose first one is {self.kind}; save all of them in one way"
            )
        if self.binary:
            return (ids == VOID).astype(np.uint8)
        return np.where(np.isin(ids, self.objects), ids, 0).astype(np.uint8)


class Davis:
    """Sequences of a split. Fulfills `vitrail.contracts.VideoSet`; `names` holds their names.

    Args:
        root: the folder that holds JPEGImages, or one above it.
        split: name of a list, such as "val" or "train".
        resolution: folder of frames; None for 480p, or the only one.

    Raises:
        ValueError: no such layout, split or sequence, or (listed) frames without a mask, masks without a frame, and
            numbers that lack in between, where frames are numbered with one step.
    """

    unit = "sequences"
    classes: tuple[str, ...] | None = None

    def __init__(self, root: str | Path, split: str = "val", resolution: str | None = None) -> None:
        self.root, self.resolution = _layout(Path(root), resolution)
        self.split = split
        self.names = _names(self.root, self.resolution, split)
        self._files = {name: _files(self.root, self.resolution, name) for name in self.names}
        wrong = [line for files in self._files.values() for line in files.wrong]
        if wrong:
            shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            raise ValueError(
                f"{len(wrong)} frames or masks of the split {split!r} are not in {self.root}: {shown}; put them there, "
                "or take the sequences out of its list in ImageSets"
            )
        self.lengths: Sequence[int] = [len(files.frames) for files in self._files.values()]
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Video:
        return self.video(self.names[position(index, len(self))])

    def video(self, name: str) -> DavisVideo:
        """A sequence by its name. Raises `ValueError` for another name, or a first frame without an object."""
        if name not in self._files:
            raise ValueError(f"no sequence {name!r} in the split {self.split!r}; there are {_some(self.names)}")
        files = self._files[name]
        return DavisVideo(name, files.frames, files.masks)

    def digest(self) -> str:
        """16 hex digits over names, sizes and a sample of the content of all files; see `vitrail.data.fingerprint`."""
        if self._digest is None:
            digest = hashlib.sha256(repr((self.split, self.resolution)).encode())
            pairs = [pair for files in self._files.values() for pair in zip(files.frames, files.masks)]
            for index, pair in enumerate(pairs):
                marks = [fingerprint(path, chosen(index, len(pairs))) for path in pair]
                digest.update(f"{pair[0].parent.name}/{pair[0].name} {marks}\n".encode())
            self._digest = digest.hexdigest()[:16]
        return self._digest


def write_masks(folder: str | Path, name: str, masks: np.ndarray) -> None:
    """Write masks as the official tool reads results: FOLDER/NAME/00000.png, ..., palette PNGs of object ids.

    Args:
        folder: of all sequences' results; made where needed.
        name: of the sequence.
        masks: uint8 `[T, H, W]`.
    """
    place = Path(folder) / name
    place.mkdir(parents=True, exist_ok=True)
    for number, ids in enumerate(masks):
        picture = Image.fromarray(ids, "L")
        picture.putpalette(PALETTE)
        picture.save(place / f"{number:05d}.png")


def is_davis(root: str | Path) -> bool:
    """Whether a folder, or DAVIS below it, has frames and masks in folders of sequences."""
    try:
        _layout(Path(root), None)
    except ValueError:
        return False
    return True


class _Files(NamedTuple):
    frames: list[Path]
    masks: list[Path]
    wrong: list[str]  # what is missing, in words


def _layout(root: Path, resolution: str | None) -> tuple[Path, str]:
    """The folder that holds JPEGImages and the name of the resolution's folder."""
    for place in (root, root / "DAVIS"):
        frames = place / "JPEGImages"
        if not frames.is_dir() or not (place / "Annotations").is_dir():
            continue
        there = [each.name for each in sorted(frames.iterdir()) if any(path.is_dir() for path in _inside(each))]
        there = [name for name in there if (place / "Annotations" / name).is_dir()]
        wanted = resolution or ("480p" if "480p" in there or not there else there[0])
        if wanted in there:
            return place, wanted
        if resolution and there:
            raise ValueError(f"{place} has no frames of {resolution!r}; there are {', '.join(there)}")
    raise ValueError(
        f"{root} does not have the DAVIS layout: JPEGImages/480p/SEQUENCE/00000.jpg and "
        "Annotations/480p/SEQUENCE/00000.png"
    )


def _names(root: Path, resolution: str, split: str) -> tuple[str, ...]:
    lists = {path.stem: path for folder in reversed(LISTS) for path in sorted((root / folder).glob("*.txt"))}
    if (root / f"{split}.txt").is_file():
        lists.setdefault(split, root / f"{split}.txt")
    if split in lists:
        lines = [line.split()[0] for line in lists[split].read_text().splitlines() if line.strip()]
        names = tuple(dict.fromkeys(line.strip("/").split("/")[-2] if "/" in line else line for line in lines))
        if not names:
            raise ValueError(f"the split list {lists[split]} is empty")
    elif split == "val" and not lists:
        names = tuple(sorted(path.name for path in (root / "JPEGImages" / resolution).iterdir() if path.is_dir()))
    else:
        raise ValueError(
            f"there is no list {split}.txt in {root / 'ImageSets' / '2017'} or beside it; there are {_some(lists)}"
        )
    absent = [name for name in names if not (root / "JPEGImages" / resolution / name).is_dir()]
    if absent:
        raise ValueError(
            f"{len(absent)} sequences of the split {split!r} are not in {root}: {_some(absent)}; put them there, or "
            "take them out of the list"
        )
    return names


def _files(root: Path, resolution: str, name: str) -> _Files:
    frames = {path.stem: path for path in _inside(root / "JPEGImages" / resolution / name)}
    masks = {path.stem: path for path in _inside(root / "Annotations" / resolution / name)}
    frames = {stem: path for stem, path in frames.items() if path.suffix.lower() in EXTENSIONS}
    masks = {stem: path for stem, path in masks.items() if path.suffix.lower() == ".png"}
    wrong = [f"mask {name}/{stem}.png" for stem in frames if stem not in masks]
    wrong += [f"frame {name}/{stem}.jpg" for stem in masks if stem not in frames]
    wrong += [f"frame and mask {name}/{stem}" for stem in _gaps(sorted({*frames, *masks}))]
    if not frames and not masks:
        wrong = [f"any frame of {name}"]
    return _Files(list(frames.values()), [masks[stem] for stem in frames if stem in masks], wrong)


def _gaps(stems: list[str]) -> list[str]:
    """What lacks in a row of numbers with one step between, as of every fifth frame; names and times are no row."""
    if len(stems) < 3 or not all(stem.isdecimal() for stem in stems):
        return []
    numbers = sorted({int(stem) for stem in stems})
    step = min((later - earlier for earlier, later in pairwise(numbers)), default=1)
    if (numbers[-1] - numbers[0]) // step > 2 * len(numbers):
        return []
    return [f"{each:0{len(stems[0])}d}" for each in range(numbers[0], numbers[-1], step) if each not in numbers]


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def _read_mask(path: Path) -> tuple[np.ndarray, str]:
    ids = open_mask(path)
    with Image.open(path) as image:
        return ids, "palette" if image.mode == "P" else "gray"


def _words(height: int, width: int) -> str:
    return f"{width} x {height} px"


def _some(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:5]) + (f" and {len(every) - 5} more" if len(every) > 5 else "") if every else "none"
