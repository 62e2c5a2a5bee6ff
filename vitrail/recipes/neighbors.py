"""The nearest neighbors of training images, as the network sees them that training starts from.

Features are computed and kept in shards, and the search runs in parts that are kept, too: made again after a stop, a
table goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitrail.backbones import AnyBackbone
from vitrail.contracts import ImageSet
from vitrail.data import EvalTransformConfig
from vitrail.data.neighbors import NO_NEIGHBOR, NeighborTable
from vitrail.evaluation.features import eval_transform, extract, pick_device, weights_digest
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import write_atomically
from vitrail.ops.neighbors import nearest

log = logging.getLogger("vitrail")
PART = 8192  # images whose neighbors are searched for together


def make_neighbors(
    backbone: AnyBackbone,
    data: ImageSet,
    k: int,
    path: Path,
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str = "auto",
) -> NeighborTable:
    """Search the k nearest neighbors of every image by the cosine of class tokens, and write the table.

    Args:
        backbone: at the image size that its weights are made for.
        path: of the table; one that is there and fits is read instead. What is not finished stands beside it, in a
            folder that is removed at the end.

    Raises:
        ValueError: fewer than k + 1 readable images.
    """
    weights = weights_digest(backbone)
    if path.is_file():
        table = NeighborTable.load(path)
        table.check(data, weights, path)
        if table.neighbors.shape[1] == k:
            log.info("neighbors: read from %s", path)
            return table
    words = f"class token of the last block, after the final norm, images of {backbone.image_size} pixels"
    work = path.with_name(f".{path.name}.work")
    transform = eval_transform(EvalTransformConfig(image_size=backbone.image_size), backbone)
    place = pick_device(device, backbone)
    found = extract(
        backbone,
        data,
        transform,
        batch_size=batch_size,
        workers=workers,
        device=str(place),
        cache=work,
        title="features for neighbors",
    )
    if len(found.values) <= k:
        raise ValueError(
            f"{len(found.values)} readable images have no {k} neighbors each; lower the number of neighbors (-k, "
            "neighbor_count) below that of the images"
        )
    rows = _search(found.values.to(place), k, work / f"parts-{weights}-{data.digest()}-{k}")
    neighbors = torch.full((len(data), k), NO_NEIGHBOR, dtype=torch.int32)
    neighbors[found.indices] = found.indices[rows].to(torch.int32)
    table = NeighborTable(neighbors, data.digest(), weights, words)
    table.save(path)
    _remove(work)
    return table


def await_neighbors(path: Path, main: bool) -> None:
    """Wait until the first process has written the table; no collective operation, which would time out."""
    while not main and not path.is_file():
        time.sleep(0.5)


def _search(values: Tensor, k: int, folder: Path) -> Tensor:
    """The k nearest other rows of each row, `[N, k]` int64 on the CPU; finished parts are read from the folder."""
    parts = []
    with progress("neighbors", len(values)) as advance:
        for start in range(0, len(values), PART):
            queries = values[start : start + PART]
            file = folder / f"{start:09d}.npy"
            part = _read(file, (len(queries), k))
            if part is None:
                part = _others(queries, values, k, start)
                write_atomically(file, _bytes(part))
                advance(len(queries))
            else:
                advance(len(queries), ready=True)
            parts.append(part)
    return torch.cat(parts)


def _others(queries: Tensor, values: Tensor, k: int, start: int) -> Tensor:
    """Neighbors without the row itself, which need not be the nearest where images stand twice in a set."""
    ids = nearest(queries, values, k + 1)[1].cpu()
    own = ids == torch.arange(start, start + len(queries))[:, None]
    own[~own.any(1), -1] = True  # as many equal ones came before it: the last falls out instead
    return ids[~own].view(len(queries), k)


def _bytes(part: Tensor) -> bytes:
    content = part.to(torch.int64).numpy().tobytes()
    return hashlib.sha256(content).digest() + content


def _read(file: Path, shape: tuple[int, int]) -> Tensor | None:
    if not file.is_file():
        return None
    content = file.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32] or len(content) != 32 + 8 * shape[0] * shape[1]:
        log.warning("%s is damaged and is computed again", file)
        return None
    return torch.from_numpy(np.frombuffer(content[32:], np.int64).reshape(shape).copy())


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
