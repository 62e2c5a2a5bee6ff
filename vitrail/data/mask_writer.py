"""Masks of objects, written to disk one by one; see `vitrail.data.object_masks` for the files."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from vitrail.data.object_masks import (
    ABOUT,
    CUT,
    LINE,
    MASKS,
    PLAIN_ALONE,
    TABLE,
    UNREADABLE,
    mapped,
    read_about,
    row_bytes,
)
from vitrail.data.patch_labels import differing

log = logging.getLogger("vitrail")


class MaskWriter:
    """Writes masks one by one, into a folder that another run may have begun. Use it in `with`.

    Attributes: `todo`, positions of the images that are to be made, ascending: those that were not, those whose row is
    damaged, and those that could not be read.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, Any], *, verify: bool = False) -> None:
        """Begin, or go on.

        Args:
            about: what decides the masks, as JSON values; `images` and `size` among it. `made_by` is not compared.
            verify: look at all checksums where nothing is missing, too.

        Raises:
            ValueError: where other masks stand in the folder, with what differs, or other files.
        """
        self.folder = Path(folder).expanduser()
        self.size, count = int(about["size"]), int(about["images"])
        _begin(self.folder, about)
        lines = mapped(self.folder / TABLE, LINE, (count,), "r")
        rows = mapped(self.folder / MASKS, np.dtype("u1"), (count, 2, row_bytes(self.size)), "r")
        done = np.isin(lines["status"], (CUT, PLAIN_ALONE))
        if verify or not done.all():
            done &= [bool(sure) and zlib.crc32(row) == crc for sure, row, crc in zip(done, rows, lines["crc"])]
        self.todo: list[int] = np.flatnonzero(~done).tolist()
        # Not written through the map: a full disk would end the process instead of raising.
        self._places = {MASKS: int(rows.offset), TABLE: int(lines.offset)}
        self._files: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._files:
            _, file = self._files.popitem()
            os.fsync(file)
            os.close(file)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}, "todo": []}  # a process of its own opens the files again

    def write(self, index: int, enhanced: np.ndarray, plain: np.ndarray, fell_back: bool = False) -> None:
        """Keep the masks of an image.

        Args:
            enhanced, plain: `[S, S]`, 0 or 1.
            fell_back: whether GrabCut had nothing to tell apart.

        Raises:
            ValueError: masks of another size.
            OSError: a full disk.
        """
        both = np.stack([enhanced, plain])
        if both.shape[1:] != (self.size, self.size):
            raise ValueError(f"masks are {list(both.shape[1:])}, and the folder holds {self.size} x {self.size}")
        row = np.packbits(both.reshape(2, -1).astype(bool), axis=1).tobytes()
        self._put(MASKS, index, row)
        self._put(TABLE, index, np.array((PLAIN_ALONE if fell_back else CUT, zlib.crc32(row)), LINE).tobytes())

    def lose(self, index: int) -> None:
        """Say of an image that it could not be read; a later run tries again."""
        self._put(TABLE, index, np.array((UNREADABLE, 0), LINE).tobytes())

    def _put(self, name: str, index: int, content: bytes) -> None:
        if name not in self._files:
            self._files[name] = os.open(self.folder / name, os.O_WRONLY)
        place = self._places[name] + index * len(content)
        done = 0
        while done < len(content):
            done += os.pwrite(self._files[name], content[done:], place + done)


def remove_other_masks(folder: str | Path, about: Mapping[str, Any]) -> None:
    """Remove the three files of masks of other images, weights or settings than `about`; those of the same stay."""
    folder = Path(folder).expanduser()
    if not (folder / ABOUT).is_file() or not _differing(folder, about):
        return
    log.info("object masks: %s holds others, which are removed", folder)
    for name in (ABOUT, TABLE, MASKS):  # without the first the folder holds none
        (folder / name).unlink(missing_ok=True)


def _begin(folder: Path, about: Mapping[str, Any]) -> None:
    """Make the files, or see that those that are there are of the same."""
    if (folder / ABOUT).is_file():
        reason = _differing(folder, about)
        if reason:
            raise ValueError(f"{folder} holds other masks: {reason}; choose another folder, or remove that one")
        return
    folder.mkdir(parents=True, exist_ok=True)
    count = int(about["images"])
    _empty(folder / MASKS, np.dtype("u1"), (count, 2, row_bytes(int(about["size"]))))
    _empty(folder / TABLE, LINE, (count,))
    words = folder / f".{ABOUT}.{os.getpid()}"  # last: with it the folder holds masks
    words.write_text(json.dumps(dict(about), indent=2) + "\n")
    words.replace(folder / ABOUT)


def _differing(folder: Path, about: Mapping[str, Any]) -> str | None:
    return differing(read_about(folder), {key: value for key, value in about.items() if key != "made_by"})


def _empty(path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
    waiting = path.with_name(f".{path.name}.{os.getpid()}")
    np.lib.format.open_memmap(waiting, mode="w+", dtype=kind, shape=shape).flush()
    waiting.replace(path)
