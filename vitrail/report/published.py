"""What papers report of weakly supervised localization, to stand beside measured numbers, marked as published.

Conventions differ between papers, and most choose the threshold on the images that they measure. Percent.

Sources: LocLoc: Xu et al. 2023 (ACM MM), its abstract. GenPromp: Zhao et al. 2023 (arXiv 2307.09756). SCM: Bai et al.
2022 (arXiv 2207.10447). TS-CAM: Gao et al. 2021 (arXiv 2103.14862). CAM: Zhou et al. 2016 (arXiv 1512.04150), with
VGG-16 as later papers report it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from vitrail.contracts import ImageSet
from vitrail.evaluation.heat_maps import image_name


class Published(NamedTuple):
    """One line of a paper's table."""

    method: str
    network: str
    numbers: Mapping[str, float]  # by the names of the protocol `localization`


class Benchmark(NamedTuple):
    """A data set that papers measure on, all of it."""

    name: str
    images: int  # of its test split
    rows: tuple[Published, ...]


def _row(
    method: str, network: str, top1: float, top5: float | None, known: float | None, cls: float | None = None
) -> Published:
    names = ("top1_loc", "top5_loc", "gt_known_loc", "top1_cls")
    given = zip(names, (top1, top5, known, cls), strict=True)
    return Published(method, network, {name: value for name, value in given if value is not None})


CUB = Benchmark(
    "CUB-200-2011",
    5794,
    (
        _row("LocLoc", "ViT-S/16", 84.4, None, None, 85.8),
        _row("GenPromp", "EfficientNet-B7", 87.0, 96.1, 98.0),
        _row("SCM", "DeiT-S", 76.4, 91.6, 96.6, 78.5),
        _row("TS-CAM", "DeiT-S", 71.3, 83.8, 87.7),
        _row("CAM", "VGG-16", 44.2, 52.2, 56.0, 76.6),
    ),
)
IMAGENET = Benchmark(
    "ImageNet",
    50_000,
    (
        _row("LocLoc", "ViT-S/16", 57.6, None, None, 78.6),
        _row("GenPromp", "EfficientNet-B7", 65.2, 73.4, 75.0),
        _row("SCM", "DeiT-S", 56.1, 66.4, 68.8, 76.7),
        _row("TS-CAM", "DeiT-S", 53.4, 64.3, 67.6),
        _row("CAM", "VGG-16", 42.8, 54.9, 59.0, 68.8),
    ),
)


def benchmark_of(data: ImageSet) -> Benchmark | None:
    """Which of them images belong to, all or some of them, by their names alone; None for others.

    CUB's classes are called `001.Black_footed_Albatross`, ImageNet's images `ILSVRC2012_val_00000293.JPEG`.
    """
    classes = data.classes or ()
    if len(classes) and all(re.match(r"\d{3}\.[A-Z]", name) for name in classes):
        return CUB
    if len(data) and "ILSVRC2012_val_" in _first_name(data):
        return IMAGENET
    return None


def _first_name(data: ImageSet) -> str:
    try:
        return str(data.relative_path(0))  # type: ignore[attr-defined]
    except AttributeError:
        return image_name(data, 0, data[0].path)
