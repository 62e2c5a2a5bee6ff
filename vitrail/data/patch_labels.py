"""Labels of patches on disk: for each image some draws of visible patches, and a number for each of these.

    FOLDER/labels.json                 what they are labels of, and how they were made
    FOLDER/shard-00000.safetensors     `ids` int16 [n, D, V] and `labels` float32 [n, D, V] of SHARD images in order

Shards are written whole or not at all, so a killed writer goes on with the first one that is not there. What a shard
holds depends on no other, so several writers may share the folder, or write into folders of their own, whose files are
then put into one. An image that could not be read has ids of -1.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

SHARD = 512
"""Images in a shard."""
ABOUT = "labels.json"


class Drawn(NamedTuple):
    """Visible patches of images, and their labels."""

    ids: Tensor  # [B, V] int64, ascending
    labels: Tensor  # [B, V] float32


class Share(NamedTuple):
    """Which shards a writer writes: every `of`-th one from `part` on, counted from 0."""

    part: int = 0
    of: int = 1

    def takes(self, number: int) -> bool:
        """Whether a shard is the writer's."""
        return number % self.of == self.part

    def split(self, rank: int, world: int) -> Share:
        """That of one of `world` processes which do this one together."""
        return Share(self.part + self.of * rank, self.of * world)

    def check(self, images: int) -> None:
        """Raise `ValueError`, with the parts that do it all, where so many images leave no shard for this one."""
        count = shards(images)
        if not count or self.part < count:
            return
        one = count == 1
        done = f"which 1/{self.of} does" if one else f"which 1/{self.of} to {count}/{self.of} do"
        way = "leave --shard out" if one else f"use --shard I/{count} at most, or leave it out"
        raise ValueError(
            f"--shard {self.part + 1}/{self.of} has nothing to do: {images:,} images are {count} shard{'s'[one:]} of "
            f"{SHARD} images, {done}; {way}"
        )

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read `2/4`, the second of four; `ValueError` for other words.

        >>> Share.parse("2/4")
        Share(part=1, of=4)
        """
        part, _, of = text.partition("/")
        if not (part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of)):
            raise ValueError(f"the shard {text!r} is not I/N with I from 1 to N, as in 1/4, 2/4, 3/4 and 4/4")
        return cls(int(part) - 1, int(of))


class PatchLabels:
    """Labels that were made before. Indexed by the images' positions in their data set.

    Attributes: `about` (what `labels.json` says), `ids` `[n, D, V]` and `labels` `[n, D, V]`.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read a finished folder.

        Raises:
            ValueError: where there is none, or where it is not finished.
        """
        self.folder = Path(folder).expanduser()
        if not (self.folder / ABOUT).is_file():
            raise ValueError(f"there are no labels in {folder} ({ABOUT} is missing); make some with `vitrail label`")
        self.about: dict[str, Any] = json.loads((self.folder / ABOUT).read_text())
        count = int(self.about["images"])
        absent = missing(self.folder, count)
        if absent:
            raise ValueError(
                f"the labels in {folder} are not finished: {len(absent)} of {shards(count)} shards are missing; run "
                "the same `vitrail label` again, it goes on where it stopped, or put the files of all its parts here"
            )
        parts = [_read(shard_file(self.folder, number)) for number in range(shards(count))]
        self.ids, self.labels = (torch.cat([part[name] for part in parts]) for name in ("ids", "labels"))
        if len(self.ids) != count:
            raise ValueError(f"the labels in {folder} are of {len(self.ids)} images and should be of {count}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def draws(self) -> int:
        """D, sets of visible patches an image."""
        return self.ids.shape[1]

    def draw(self, indices: Tensor, generator: torch.Generator | None = None) -> Drawn:
        """One of the draws of each image, by chance.

        Args:
            indices: int64 `[B]`, on the CPU.
            generator: torch's global one by default.

        Raises:
            ValueError: for an image that is outside of the set, or has no labels.
        """
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise ValueError(
                f"labels in {self.folder} are of images 0 to {len(self) - 1}, and image {int(indices.max())} was asked "
                "for; they belong to other data"
            )
        chosen = torch.randint(self.draws, (len(indices),), generator=generator)
        ids, labels = self.ids[indices, chosen].long(), self.labels[indices, chosen]
        if bool((ids < 0).any()):
            lost = indices[(ids < 0).any(1)].tolist()
            raise ValueError(f"images {lost[:8]} have no labels in {self.folder}: they could not be read then")
        return Drawn(ids, labels)


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """In words, what labels are of and what is wanted, where these differ in a wanted key; None where they do not."""
    words = [f"{key} {found.get(key)!r}, wanted {value!r}" for key, value in wanted.items() if found.get(key) != value]
    return "; ".join(words) or None


def begin(folder: Path, about: Mapping[str, Any]) -> list[int]:
    """Start or go on with a folder of labels; returns the numbers of the shards that are to be written.

    Raises:
        ValueError: where other labels stand there, with what differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / ABOUT
    if kept.is_file():
        reason = differing(json.loads(kept.read_text()), about)
        if reason:
            raise ValueError(f"{folder} holds other labels: {reason}; choose another folder, or remove that one")
    else:
        _whole(kept, (json.dumps(dict(about), indent=2) + "\n").encode())
    return missing(folder, int(about["images"]))


def missing(folder: Path, images: int) -> list[int]:
    """Numbers of the shards that are not there."""
    return [number for number in range(shards(images)) if not shard_file(folder, number).is_file()]


def unlabeled(folder: Path, number: int, images: int) -> list[int]:
    """Positions in the whole set of a shard's images that could not be read when it was made."""
    ids = _read(shard_file(folder, number))["ids"]
    return [index for index, row in zip(members(number, images), ids, strict=True) if bool((row < 0).any())]


def write_shard(folder: Path, number: int, ids: Tensor, labels: Tensor) -> None:
    """Write a shard, whole or not at all.

    Args:
        folder: of the labels, begun.
        number: of the shard; it holds the images number * SHARD and following.
        ids: `[n, D, V]`, -1 where an image could not be read.
        labels: `[n, D, V]`.
    """
    from safetensors.torch import save

    state = {"ids": ids.to(torch.int16).contiguous(), "labels": labels.float().contiguous()}
    _whole(shard_file(folder, number), save(state, metadata={"format": "pt"}))


def shards(images: int) -> int:
    """How many shards hold so many images."""
    return -(-images // SHARD)


def members(number: int, images: int) -> range:
    """Positions of the images in a shard."""
    return range(number * SHARD, min((number + 1) * SHARD, images))


def shard_file(folder: Path, number: int) -> Path:
    """Where a shard stands."""
    return folder / f"shard-{number:05d}.safetensors"


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it and run the same `vitrail label` again") from None


def _whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
