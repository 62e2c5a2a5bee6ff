"""Which changes make two views teach something: crops, shared crops and colors, one by one, as one table.

vitrail study augmentation cifar10=data/cifar-10-batches-py cifar100=data/cifar-100-python --out runs/study --dry-run
vitrail study augmentation cifar10=data/cifar-10-batches-py methods=simclr table=I train.epochs=100 --out runs/study

Source: Wen et al., "Semantic Concentration for Self-Supervised Dense Representations Learning", 2025 (arXiv
2509.09429), Tables I and VIII and appendix B.1, after Huang et al. 2022 (arXiv 2111.00743), whose rows with independent
crops these are.

The marks that say what is on in a row are pictures in the paper; the text at hand has the numbers alone. So which row
is which is read from what the text says: the first five rows take away one change after the other, as Huang et al. do;
without random crops, numbers fall together in every second row of Table I; and Table VIII ends with shared crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from vitrail.config import Config, ConfigError, Listed
from vitrail.recipes.files import existing
from vitrail.recipes.study import Cell, Study, taken

METHODS = {"simclr": "SimCLR", "barlow_twins": "Barlow Twins", "moco": "MoCo", "simsiam": "SimSiam"}
SOURCE = "Wen et al. 2025, arXiv 2509.09429, Tables I and VIII"
CROPS = {"crop": "independent", "whole": "none", "shared": "shared"}
WORDS = {"crop": "own crops", "whole": "no crop", "shared": "one crop for both"}
CHANGES = {"b": ("blur", "blur"), "g": ("grayscale", "gray"), "j": ("jitter", "colors"), "f": ("flip", "flip")}


class Row(NamedTuple):
    """What is on, and the published k-NN of the four methods on CIFAR-10, then on CIFAR-100."""

    name: str  # crop, whole or shared, and a letter for each change: see `CHANGES`
    published: tuple[float, ...]

    @property
    def words(self) -> str:
        """For people: `own crops, blur, gray`."""
        crop, _, letters = self.name.partition("-")
        return ", ".join([WORDS[crop], *(CHANGES[letter][1] for letter in letters)])

    def overrides(self) -> list[str]:
        """Settings of a recipe that switch everything else off."""
        crop, _, letters = self.name.partition("-")
        off = [f"views.{field}=0" for letter, (field, _) in CHANGES.items() if letter not in letters]
        return [f"views.crop={CROPS[crop]}", *off]


ROWS = (
    Row("crop-bgjf", (89.8, 86.9, 90.1, 90.6, 57.7, 58.0, 64.2, 63.5)),
    Row("crop-bgj", (88.5, 85.4, 89.7, 89.3, 55.4, 55.2, 62.5, 60.3)),
    Row("crop-bg", (83.5, 82.0, 86.8, 85.4, 45.1, 50.4, 57.0, 51.4)),
    Row("crop-b", (63.2, 67.8, 75.1, 63.3, 28.0, 34.1, 40.2, 26.3)),
    Row("crop", (62.7, 67.8, 74.9, 61.5, 27.9, 34.0, 39.6, 25.9)),
    Row("whole-bgjf", (53.3, 40.6, 55.8, 31.8, 21.2, 18.1, 29.2, 11.8)),
    Row("whole-bgj", (53.1, 39.6, 53.6, 36.8, 19.5, 17.7, 26.4, 8.2)),
    Row("whole-bg", (40.8, 32.1, 41.9, 25.2, 16.9, 9.6, 17.0, 6.0)),
    Row("whole-b", (45.2, 29.9, 48.2, 28.9, 23.4, 10.0, 22.0, 7.2)),
    Row("shared-bgjf", (56.7, 41.3, 53.4, 31.7, 26.4, 16.7, 27.0, 8.8)),
    Row("shared-bgj", (59.9, 38.6, 53.7, 31.1, 28.1, 6.3, 26.4, 5.4)),
    Row("shared-bg", (40.1, 32.3, 41.1, 24.8, 16.6, 9.5, 16.5, 7.9)),
    Row("shared-b", (41.6, 30.4, 48.5, 27.4, 20.0, 8.5, 23.5, 6.4)),
)
"""Table VIII, in its order."""
TABLE_I = ("crop-bgj", "whole-bgj", "crop-bg", "whole-bg", "crop-b", "whole-b")

Method = Literal["simclr", "barlow_twins", "moco", "simsiam"]


class AugmentationConfig(Config):
    """Which part of the tables is filled."""

    cifar10: str | None = None
    """Folder of CIFAR-10, or of an npz with part of it; null leaves its columns out."""
    cifar100: str | None = None
    """Folder of CIFAR-100; null leaves its columns out."""
    scenes: bool = False
    """Columns of generated scenes, with small networks and without published numbers."""
    methods: Annotated[tuple[Method, ...], Listed] = ("simclr", "barlow_twins", "moco", "simsiam")
    """Which columns."""
    table: Literal["I", "VIII"] = "VIII"
    """Table I has 6 of the 13 rows of Table VIII."""
    rows: Annotated[tuple[str, ...] | None, Listed] = None
    """Rows by name, such as `crop-bgj,whole-bgj`; null for all of the table."""
    repeats: int = Field(1, ge=1)
    """Trainings of each cell, with seeds of their own; the paper's numbers are means of 3."""


def augmentation(settings: Sequence[str] = ()) -> Study:
    """SimCLR, Barlow Twins, MoCo and SimSiam with each change of their views switched off, and with shared crops.

    Args:
        settings: of `AugmentationConfig`; all others, such as `train.epochs=100`, go to every recipe.
    """
    asked, others = taken(settings, AugmentationConfig)
    _refuse(others)
    sets = _sets(asked)
    rows = _rows(asked)
    cells = [
        Cell(
            row=row.words,
            column=f"{title} {METHODS[method]}",
            recipe=f"{'scenes' if root == 'scenes' else 'cifar'}_{method}",
            overrides=(*others, *([] if root == "scenes" else [f"data.root={root}"]), *row.overrides()),
            protocol="knn",
            settings=("preset=moco_cifar",),
            data=root,
            number="knn200_top1",
            published=None if first is None else row.published[first + list(METHODS).index(method)],
            repeat=repeat,
        )
        for title, root, first in sets
        for method in asked.methods
        for row in rows
        for repeat in range(asked.repeats)
    ]
    return Study(
        name="augmentation",
        title="Which changes of two views make features",
        source=SOURCE,
        rows=tuple(row.words for row in rows),
        columns=tuple(f"{title} {METHODS[method]}" for title, _, _ in sets for method in asked.methods),
        cells=tuple(cells),
        unit="k-NN top-1 in percent, k = 200, temperature 0.1",
        notes=_notes(asked, others),
    )


def _sets(asked: AugmentationConfig) -> list[tuple[str, str, int | None]]:
    """Title, root and place of the first published number of each data set."""
    found: list[tuple[str, str, int | None]] = []
    for title, root, right, first in (
        ("CIFAR-10", asked.cifar10, "cifar10", 0),
        ("CIFAR-100", asked.cifar100, "cifar100", 4),
    ):
        if root is None:
            continue
        place = existing(root)
        from vitrail.data.cifar import find_cifar  # torch: a missing folder is told before

        name = find_cifar(place)[1]
        if name not in (None, right):
            raise ConfigError(f"{right}={root} holds {name}; give it as {name}={root}")
        found.append((title, root, first))
    if asked.scenes:
        found.append(("scenes", "scenes", None))
    if not found:
        raise ConfigError(
            "there is nothing to train on: give cifar10=FOLDER, cifar100=FOLDER, or scenes=true. "
            "vitrail.data.cifar.download_cifar('data', 'cifar10') fetches a set"
        )
    return found


def _rows(asked: AugmentationConfig) -> list[Row]:
    known = {row.name: row for row in ROWS}
    names = asked.rows or (TABLE_I if asked.table == "I" else tuple(known))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"rows: there is no row {unknown[0]!r}; known: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def _refuse(others: Sequence[str]) -> None:
    ours = ("views.crop", "views.flip", "views.jitter", "views.grayscale", "views.blur", "data.root", "train.seed")
    for text in others:
        if text.partition("=")[0].strip() in ours:
            raise ConfigError(
                f"{text}: rows, data sets and repeats of the study set this; choose them by rows=, cifar10="
            )


def _notes(asked: AugmentationConfig, others: Sequence[str]) -> tuple[str, ...]:
    notes = ["Published numbers, in brackets, are means of three trainings of 800 epochs on the whole sets."]
    if asked.repeats < 3:
        notes.append(f"Here each cell is trained {asked.repeats} time{'s' * (asked.repeats > 1)}.")
    if others:
        notes.append(f"Settings of all cells: {' '.join(others)}.")
    return tuple(notes)
