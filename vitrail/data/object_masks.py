"""Masks of the object of each image on disk, made once and read in training: by GrabCut, and the plain ones.

    FOLDER/object_masks.json   what they are masks of, and how they were made
    FOLDER/masks.npy           uint8 [images, 2, ceil(S * S / 8)]: enhanced and plain, 8 pixels a byte, raster order
    FOLDER/table.npy           for each image `status` (uint8) and `crc` (uint32, CRC-32 of its row of masks.npy)

Each image is written when it is done, its row first, then its line of the table. So a killed run loses none that is
done, and a row that a failing machine did not write is found by its checksum. Several processes may write at once. Rows
that were not written take no room on disks that leave zeros out. NumPy opens all of it:

    np.unpackbits(np.load("masks.npy", mmap_mode="r")[7], axis=1)[:, : S * S].reshape(2, S, S)
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from vitrail.config import Config, Listed
from vitrail.contracts import ImageSet, Sample
from vitrail.data.folders import position
from vitrail.data.images import UnreadableImage
from vitrail.ops.grabcut import HIGH, LOW, PLAIN
from vitrail.ops.label_propagation import resized_ids
from vitrail.ops.mean_attention import HEADS

ABOUT, MASKS, TABLE = "object_masks.json", "masks.npy", "table.npy"
ABSENT, CUT, PLAIN_ALONE, UNREADABLE = range(4)
"""Status of an image: not done; done; done, but GrabCut had nothing to tell apart and both masks are the plain one; it
could not be read."""
LINE = np.dtype([("status", "u1"), ("crc", "<u4")])
Which = Literal["enhanced", "plain"]
MEND = "run the same `vitrail object-masks` again, which makes what is missing"


class ObjectMasksConfig(Config):
    """How an image becomes a mask of its object. By default LocLoc's values."""

    heads: Annotated[tuple[int, ...] | None, Listed] = HEADS
    """Heads of the last block whose attention is averaged, counted from 0; null for all."""
    image_size: int | tuple[int, int] | None = None
    """Pixels a side, or (height, width), at which the backbone sees the image, squashed; null: what its weights are
    made for. PPD takes 256."""
    size: int = Field(256, ge=2)
    """Pixels a side of the squashed image that is cut, and of its masks."""
    high: float = Field(HIGH, ge=0, le=1)
    """Stretched attention from here on is surely the object."""
    low: float = Field(LOW, ge=0, le=1)
    """Below, it is surely background."""
    threshold: float = Field(PLAIN, ge=0, le=1)
    """Attention from here on is in the plain mask; PPD's."""
    iterations: int = Field(1, ge=1)
    """Of GrabCut."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(
                f"low is {self.low} and high {self.high}; between them attention is uncertain: low <= high"
            )
        return self


class Masks(NamedTuple):
    """The two masks of one image, over all of it, squashed."""

    enhanced: np.ndarray  # [S, S] bool, by GrabCut
    plain: np.ndarray  # [S, S] bool, attention over a threshold


class ObjectMasks:
    """Masks that were made before, by the images' positions in their data set. Rows are read when they are asked for.

    Attributes: `about` (what the JSON says), `folder`, `size` (S, pixels).
    """

    def __init__(self, folder: str | Path) -> None:
        """As `open`."""
        self.folder = Path(folder).expanduser()
        self.about = read_about(self.folder)
        self.size, count = int(self.about["size"]), int(self.about["images"])
        self._table: np.ndarray = mapped(self.folder / TABLE, LINE, (count,), None)
        missing = int((self._table["status"] == ABSENT).sum())
        if missing:
            raise ValueError(f"the masks in {folder} are not finished: {missing:,} of {count:,} are missing; {MEND}")
        self._rows: np.ndarray | None = None
        _ = self.rows  # of the right shape, or an error now

    @classmethod
    def open(cls, path: str | Path) -> ObjectMasks:
        """Open a finished folder.

        Raises:
            ValueError: where there is none, where it is damaged, or where it is not finished.
        """
        return cls(path)

    @property
    def rows(self) -> np.ndarray:
        """Packed masks, uint8 `[images, 2, ceil(S * S / 8)]`, mapped from the disk."""
        if self._rows is None:
            shape = (len(self), 2, row_bytes(self.size))
            self._rows = mapped(self.folder / MASKS, np.dtype("u1"), shape, "r")
        return self._rows

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Masks:
        """Both masks of an image. `ValueError` where it could not be read then, or where its row is damaged."""
        index = position(index, len(self))
        line, row = self._table[index], self.rows[index]
        if line["status"] == UNREADABLE:
            raise ValueError(f"image {index} has no masks in {self.folder}: it could not be read then; {MEND}")
        if zlib.crc32(row) != line["crc"]:
            raise ValueError(f"the masks of image {index} in {self.folder} are damaged; {MEND}")
        pixels = np.unpackbits(row, axis=1)[:, : self.size**2].reshape(2, self.size, self.size).astype(bool)
        return Masks(pixels[0], pixels[1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": None}  # a process of its own maps the file again

    def status(self, index: int) -> int:
        """`CUT`, `PLAIN_ALONE` or `UNREADABLE`."""
        return int(self._table["status"][index])

    def having(self, status: int) -> list[int]:
        """Positions of the images of a status, such as `PLAIN_ALONE`."""
        return np.flatnonzero(self._table["status"] == status).tolist()

    def digest(self) -> str:
        """16 hex digits over what they are of and all checksums."""
        about = {key: value for key, value in self.about.items() if key != "made_by"}
        content = json.dumps(about, sort_keys=True).encode() + self._table.tobytes()
        return hashlib.sha256(content).hexdigest()[:16]

    def check(self, data: ImageSet, weights: str | None = None) -> None:
        """Raise `ValueError` where they are of other images, or, with `weights` given, of another network.

        Args:
            weights: digest of the network that they should be of; None takes any.
        """
        mend = "make them again with `vitrail object-masks`"
        if self.about["data"] != data.digest() or len(self) != len(data):
            raise ValueError(
                f"the masks in {self.folder} are of other images ({len(self):,}, digest {self.about['data']}) than "
                f"these ({len(data):,}, digest {data.digest()}); {mend}"
            )
        if weights is not None and self.about["weights"] != weights:
            raise ValueError(
                f"the masks in {self.folder} are of a network with the digest {self.about['weights']}, and this one "
                f"has {weights}; {mend}"
            )


class WithObjectMasks:
    """Images whose mask is one that was made, never the ground truth. Fulfills `vitrail.contracts.ImageSet`.

    `Sample.mask` is uint8 `[H, W]` at the image's size, 1 is the object; it is the made mask, stretched to the nearest
    pixels.
    """

    has_masks = True

    def __init__(self, data: ImageSet, masks: ObjectMasks, which: Which = "enhanced") -> None:
        """Raises `ValueError` for masks of other images, or a word that is neither."""
        if which not in Masks._fields:
            raise ValueError(f'which is "enhanced" or "plain", not {which!r}')
        masks.check(data)
        self.data, self.masks, self.which = data, masks, which
        self.classes = data.classes
        self.root, self.split = getattr(data, "root", None), getattr(data, "split", None)
        self.has_boxes, self.multi_label = getattr(data, "has_boxes", True), getattr(data, "multi_label", False)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        """Raises `UnreadableImage`, also for an image that could not be read when masks were made."""
        index = position(index, len(self))
        sample = self.data[index]
        if self.masks.status(index) == UNREADABLE:
            raise UnreadableImage(sample.path, f"has no mask in {self.masks.folder}: it could not be read then; {MEND}")
        mask: np.ndarray = getattr(self.masks[index], self.which).astype(np.uint8)
        return sample._replace(mask=resized_ids(mask, (sample.image.height, sample.image.width)))

    def digest(self) -> str:
        """Of the images and the masks."""
        content = f"{self.data.digest()} {self.masks.digest()} {self.which}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def is_finished(folder: str | Path) -> bool:
    """Whether a folder of masks is there and each image of it is done."""
    try:
        ObjectMasks.open(folder)
    except ValueError:
        return False
    return True


def read_about(folder: Path) -> dict[str, Any]:
    """What a folder's masks are of. Raises `ValueError` where it holds none, or words that cannot be read."""
    try:
        found = json.loads((folder / ABOUT).read_text())
        return dict(found) | {name: int(found[name]) for name in ("images", "size")}
    except OSError:
        raise ValueError(
            f"there are no object masks in {folder} ({ABOUT} is missing); make some with `vitrail object-masks`"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / ABOUT} cannot be read ({error!r}); remove {folder} and make masks anew") from None


def mapped(path: Path, kind: np.dtype[Any], shape: tuple[int, ...], mode: Literal["r"] | None) -> Any:
    """An array on disk, read whole, or mapped with "r". Raises `ValueError` where it is of another type or shape."""
    try:
        values = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove {path.parent} and make masks anew") from None
    if values.dtype != kind or values.shape != shape:
        raise ValueError(
            f"{path} holds {values.dtype} {list(values.shape)} and should hold {kind} {list(shape)}; remove "
            f"{path.parent} and make masks anew"
        )
    return values


def row_bytes(size: int) -> int:
    """Bytes of a packed mask with sides of so many pixels."""
    return -(-size * size // 8)
