"""A table of each image's nearest neighbors, made once and read in training: for each image a companion.

The file is safetensors: `neighbors` int32 `[images, k]`, the nearest first, positions in the data set; -1 fills the
rows of images that could not be read. Its header says of which data and of which weights it is.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.contracts import ImageSet, Sample
from vitrail.data.folders import position
from vitrail.data.images import UnreadableImage

NO_NEIGHBOR = -1


class NeighborTable(NamedTuple):
    """The nearest neighbors of all images of a set, and of what they are."""

    neighbors: Tensor  # [images, k] int32
    data: str  # digest of the data set
    weights: str  # digest of the network whose features were compared
    words: str  # which features, for people

    def save(self, path: str | Path) -> None:
        """Write it, whole or not at all."""
        from safetensors.torch import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting = path.with_name(f".{path.name}.part")
        header = {"data": self.data, "weights": self.weights, "words": self.words, "format": "vitrail neighbors"}
        save_file({"neighbors": self.neighbors.contiguous()}, str(waiting), header)
        waiting.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> NeighborTable:
        """Read what `save` wrote. Raises `ValueError` for a file that is missing, damaged, or of another kind."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                header = file.metadata() or {}
                table = cls(file.get_tensor("neighbors"), header["data"], header["weights"], header["words"])
        except (SafetensorError, OSError, KeyError) as error:
            raise ValueError(
                f"{path} is no table of neighbors that can be read ({error!r}); make one with `vitrail neighbors`"
            ) from None
        if table.neighbors.ndim != 2 or table.neighbors.dtype != torch.int32:
            raise ValueError(
                f"{path}: neighbors are {table.neighbors.dtype} {list(table.neighbors.shape)}, not int32 [images, k]"
            )
        return table

    def check(self, data: ImageSet, weights: str | None, source: str | Path) -> None:
        """Raise `ValueError` where it is of other images, or, with `weights` given, of another network.

        Args:
            weights: digest of the network that it should be of; None takes any.
            source: the file, for the message.
        """
        mend = "make it again with `vitrail neighbors`, or leave `neighbors` out"
        if self.data != data.digest():
            raise ValueError(
                f"{source} is of other images ({len(self.neighbors):,}, digest {self.data}) than those to train on "
                f"({len(data):,}, digest {data.digest()}); {mend}"
            )
        if len(self.neighbors) != len(data) or int(self.neighbors.max()) >= len(data):
            raise ValueError(f"{source} names images up to {int(self.neighbors.max())} of {len(data)}; {mend}")
        if weights is not None and self.weights != weights:
            raise ValueError(
                f"{source} is of a network with the digest {self.weights}, and training starts from {weights}; {mend}, "
                "or set neighbors_of=any to take neighbors as another network sees them"
            )


class WithNeighbors:
    """Images, each with one of its nearest neighbors as companion. Fulfills `vitrail.contracts.ImageSet`.

    Which neighbor is drawn from the global generator of `random`, which the loader seeds for each image; so the same
    index does not always give the same companion. One that cannot be read is passed over for another neighbor; where
    there is none, the image has no companion.
    """

    def __init__(self, data: ImageSet, table: NeighborTable) -> None:
        """Raises `ValueError` for a table of other images."""
        table.check(data, None, "the table of neighbors")
        self.data, self.table = data, table
        self.classes = data.classes
        self.root, self.split = getattr(data, "root", None), getattr(data, "split", None)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        index = position(index, len(self))
        sample = self.data[index]
        near = [number for number in self.table.neighbors[index].tolist() if number != NO_NEIGHBOR]
        random.shuffle(near)
        for number in near:
            try:
                return sample._replace(companion=self.data[number].image)
            except UnreadableImage:
                continue
        return sample

    def digest(self) -> str:
        """Of the images and the table."""
        content = self.data.digest().encode() + self.table.neighbors.numpy().tobytes()
        return hashlib.sha256(content).hexdigest()[:16]
