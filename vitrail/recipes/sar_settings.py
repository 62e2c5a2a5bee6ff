"""What the studies of the SAR paper's tables can be told: images, size, seeds. Each table reads some of the folders."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from vitrail.config import Config, ConfigError, listed
from vitrail.recipes.files import existing
from vitrail.recipes.study import taken

FOLDERS = {
    "imagenet": "ImageNet-1k",
    "imagenet100": "ImageNet-100",
    "voc": "VOC 2012",
    "imagenet_a": "ImageNet-A",
    "imagenet_c": "ImageNet-C",
    "cars": "Stanford Cars",
    "clipart": "DomainNet's clipart",
    "painting": "DomainNet's painting",
    "sketch": "DomainNet's sketch",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "flowers": "Flowers-102",
    "pets": "Oxford-IIIT Pets",
}


def _words(values: object) -> object:
    """Names of rows, which may be numbers, such as 0.01."""
    found = listed(values)
    return [str(value) for value in found] if isinstance(found, list | tuple) else found


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class SarConfig(Config):
    """Which images a table is made of, and how much of it. Each table reads some of the folders."""

    imagenet: str | None = None
    """Folder of ImageNet-1k with train/ and val/."""
    imagenet100: str | None = None
    """Folder of ImageNet-100 with train/ and val/."""
    voc: str | None = None
    """Tree of VOC 2012."""
    imagenet_a: str | None = None
    """Folder of ImageNet-A."""
    imagenet_c: str | None = None
    """Folder of ImageNet-C."""
    cars: str | None = None
    """Folder stanford_cars."""
    clipart: str | None = None
    """Folder domainnet/clipart, and so on."""
    painting: str | None = None
    sketch: str | None = None
    cifar10: str | None = None
    cifar100: str | None = None
    flowers: str | None = None
    """Folder flowers-102."""
    pets: str | None = None
    """Folder oxford-iiit-pet."""
    weights: str | None = None
    """A finished run of the ViT-S/16 that the table begins with; null trains it."""
    weights_sar: str | None = None
    """The same with SAR."""
    small: bool = False
    """Tiny networks and short trainings, minutes on a CPU, on generated scenes where no folder is given."""
    seeds: int = Field(1, ge=1)
    """Trainings of each cell."""
    schedule: Literal["constant", "warmup_cosine"] = "constant"
    """Of lambda: as the text says, or as the authors' code has it, which rises over 10 epochs and falls to 0."""
    rows: Words = ()
    """Names of the rows to fill; all where empty. What stands before a colon is enough."""
    columns: Words = ()
    """Names of the columns to fill; all where empty."""


class Asked(NamedTuple):
    """A study's settings, and the others, which go to every recipe."""

    own: SarConfig
    others: tuple[str, ...]


def asked_of(settings: Sequence[str], reads: Sequence[str], fixed: Sequence[str] = ()) -> Asked:
    """A table's settings. Raises `ConfigError` for folders that it does not read, and settings that it sets itself.

    Args:
        reads: names of the folders, and of weights.
        fixed: settings of recipes that rows or columns set, such as `train.epochs`.
    """
    own, others = taken(settings, SarConfig)
    extra = [name for name in (*FOLDERS, "weights", "weights_sar") if getattr(own, name) and name not in reads]
    if extra:
        raise ConfigError(f"{extra[0]}= is not read by this table, which reads {', '.join(reads)}")
    ours = ("data.root", "train.seed", "init_from", "backbone.surgery", "method.regularizers", *fixed)
    for text in others:
        key = text.partition("=")[0].strip()
        if key in ours:
            raise ConfigError(f"{text}: rows, columns and settings of the study set this")
        near = difflib.get_close_matches(key, SarConfig.model_fields, n=1, cutoff=0.75)
        if near:
            raise ConfigError(f"unknown setting {key!r}; did you mean {near[0]!r}?")
    return Asked(own, tuple(others))


def folder_of(asked: Asked, name: str) -> str | None:
    """A folder that the table cannot do without; None for scenes in its place. Raises `ConfigError` without either."""
    where = getattr(asked.own, name)
    if where is None and not asked.own.small:
        raise ConfigError(
            f"this table needs {FOLDERS[name]}: give {name}=FOLDER, or small=true for tiny networks on generated scenes"
        )
    if where is None:
        return None
    if not Path(where).expanduser().is_dir():
        raise ConfigError(f"{name}={where}: there is no such folder; give that of {FOLDERS[name]}")
    return str(existing(where))
