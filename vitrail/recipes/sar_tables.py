"""What the studies of the SAR paper's tables share: settings, trainings, measurements, notes.

vitrail study sar_table1a imagenet100=data/imagenet100 --runs runs/sar --out studies/sar_table1a
vitrail study sar_table4 small=true --out studies/transfer-on-scenes

The tables stand in `sar_table1.py` (1a to 1c), `sar_networks.py` (2, 7, 11), `sar_transfer.py` (3, 4) and `sar_maps.py`
(5, 6, 8), what they can be told in `sar_settings.py`. With one folder of `--runs` they share their trainings: that of
ViT-S/16 for 300 epochs is one run for Tables 2, 4, 5, 6 and 11.

Source: Peruzzo et al., "Spatial Entropy as an Inductive Bias for Vision Transformers", 2022 (arXiv 2206.04636).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from vitrail.config import ConfigError
from vitrail.recipes.sar_settings import Asked
from vitrail.recipes.study import Cell, First, Study

SOURCE = "Peruzzo et al. 2022, arXiv 2206.04636"
WEIGHT = 0.01
"""Lambda of all tables but 1(a)."""
WRONG_DELTAS = (
    "Three differences that the paper prints are not those of its own numbers: Table 3 Painting 57.11 - 38.4 = 18.71, "
    "printed +18.17; Table 3 Sketch 62.98 - 37.2 = 25.78, printed +30.78; Table 8(b) MoCo-v3 33.10 - 27.40 = 5.70, "
    "printed +6.17. The text to Table 3 has 18.71."
)
SHORT = {100: 4, 300: 12, 5000: 12}
"""Epochs that stand for the published ones where small=true."""


class Net(NamedTuple):
    """A network of the paper, and what stands for it where small=true."""

    name: str  # as the paper has it
    recipe: str  # without SAR; the one with SAR is called RECIPE_sar
    small: tuple[str, ...] = ()  # settings of `scenes` and `folder`
    image_size: int = 0  # pixels, where it differs from theirs
    with_sar: str = ""  # the recipe with SAR, where it is called otherwise


IN_STAGES = tuple(f"backbone.{name}=null" for name in ("patch_size", "embed_dim", "depth", "heads"))
TINY = ("backbone.embed_dim=48", "backbone.depth=4", "backbone.heads=3")
SMALL = ("backbone.embed_dim=96", "backbone.depth=4", "backbone.heads=3")
T2T = ("backbone.name=t2t_vit_14", "backbone.patch_size=null", *SMALL)
PVT = (
    "backbone.name=pvt_small",
    *IN_STAGES,
    "backbone.options={embed_dims: [24, 48, 72, 96], depths: [1, 1, 1, 2], heads: [1, 2, 3, 3]}",
)
CVT = (
    "backbone.name=cvt_13",
    *IN_STAGES,
    "backbone.options={embed_dims: [24, 48, 96], depths: [1, 1, 2], heads: [1, 2, 3]}",
)
VIT_T = Net("ViT-T/16", "deit_tiny", TINY)
VIT_S = Net("ViT-S/16", "deit_small", SMALL)
HYBRIDS = (
    Net("T2T-ViT-14", "t2t_vit_14", T2T, 96),
    Net("PVT-Small", "pvt_small", PVT, 96),
    Net("CvT-13", "cvt_13", CVT, 96),
)


class Training(NamedTuple):
    """A recipe with its settings, the name of its run without the seed, and what it is trained on."""

    recipe: str
    overrides: tuple[str, ...]
    run: str
    data: str  # a folder, or `scenes`


class Measure(NamedTuple):
    """A protocol and one of its numbers."""

    protocol: str
    number: str
    settings: tuple[str, ...] = ()
    data: str | None = None  # None: what was trained on


class Place(NamedTuple):
    """One place of a table."""

    row: str
    column: str
    training: Training
    measure: Measure
    published: float | None  # None where nothing published is comparable
    first: First | None = None


TOP1 = Measure("accuracy", "top1")


def loss(asked: Asked, weight: float = WEIGHT) -> str:
    """The setting of a recipe that adds the spatial entropy."""
    schedule = f"weight: {{kind: {asked.own.schedule}, peak: {weight}}}"
    return f"method.regularizers=[{{kind: spatial_entropy, {schedule}}}]"


def sar(asked: Asked, letter: str, weight: float = WEIGHT) -> tuple[str, ...]:
    """Settings of a row of Table 1(b): surgery by its letter, and the loss in E and F."""
    cut = () if letter in "AE" else (f"backbone.surgery={letter}",)
    return (*cut, loss(asked, weight) if letter in "EF" else "method.regularizers=[]")


def supervised(
    asked: Asked,
    net: Net,
    root: str | None,
    where: str,
    *,
    epochs: int = 300,
    changes: Sequence[str] = (),
    mark: str = "",
    scenes: int = 0,
) -> Training:
    """Training of a network from labels, or of its small stand-in.

    Args:
        root: folder of the images; None for generated scenes.
        where: a word for them, in the run's name.
        epochs: as published.
        changes: settings, such as those of `sar`.
        mark: what they are, in the run's name.
        scenes: seed of the scenes.
    """
    small = "" if not asked.own.small else "small-" if root is None else "small-folder-"
    run = _slug(f"{small}{where}-{net.name}{mark and f'-{mark}'}-{epochs}")
    if not asked.own.small:
        return Training(
            net.recipe, (f"train.epochs={epochs}", f"data.root={root}", *changes, *asked.others), run, f"{root}"
        )
    return Training(*_small(asked, net, root, epochs, changes, scenes), run, root or "scenes")


def _small(
    asked: Asked, net: Net, root: str | None, epochs: int, changes: Sequence[str], scenes: int
) -> tuple[str, tuple[str, ...]]:
    settings = [*net.small, *short(asked, epochs)]
    if net.image_size:
        settings.append(f"augment.image_size={net.image_size}")
    if root is not None:
        return "folder", (*settings, f"data.root={root}", *changes, *asked.others)
    settings += [f"data.scenes.image_size={net.image_size}"] if net.image_size else []
    settings += [f"data.scenes.seed={scenes}"] if scenes else []
    return "scenes", (*settings, *changes, *asked.others)


def _epochs(asked: Asked) -> int | None:
    """What `train.epochs=` says, for a warm-up of a fifth of it; None where it says no number."""
    given = _last(asked.others, "train.epochs")
    return int(given) if given is not None and given.isdigit() else None


def _last(settings: Sequence[str], key: str) -> str | None:
    """What settings say of a key in the end; no recipe is read for it, which would import torch."""
    return {name.strip(): value.strip() for name, _, value in (text.partition("=") for text in settings)}.get(key)


def short(asked: Asked, epochs: int) -> tuple[str, ...]:
    """Epochs where small=true, and a fifth of them to warm up."""
    short = _epochs(asked) or SHORT[epochs]
    return (f"train.epochs={short}", f"train.warmup_epochs={short / 5:g}")


def with_sar(asked: Asked, net: Net, root: str | None, where: str, *, epochs: int = 300, scenes: int = 0) -> Training:
    """`supervised`, by the recipe with SAR."""
    found = supervised(
        asked, net, root, where, epochs=epochs, changes=sar(asked, "F"), mark=_mark(asked, "F"), scenes=scenes
    )
    return found if asked.own.small else found._replace(recipe=net.with_sar or f"{net.recipe}_sar")


def _mark(asked: Asked, letter: str, weight: float = WEIGHT) -> str:
    """What tells a run of Table 1(b)'s letter from others: nothing for row A."""
    if letter not in "EF":
        return "" if letter == "A" else f"row-{letter}"
    return (
        {"E": "loss", "F": "sar"}[letter]
        + ("" if weight == WEIGHT else f"-{weight:g}")
        + "-code" * (asked.own.schedule != "constant")
    )


def operated(
    asked: Asked, net: Net, root: str | None, where: str, letter: str, weight: float = WEIGHT, *, epochs: int = 100
) -> Training:
    """`supervised`, as a row of Table 1(b); with SAR, the run is that of `with_sar`."""
    if letter == "F" and weight == WEIGHT:
        return with_sar(asked, net, root, where, epochs=epochs)
    mark, changes = _mark(asked, letter, weight), () if letter == "A" else sar(asked, letter, weight)
    return supervised(asked, net, root, where, epochs=epochs, changes=changes, mark=mark)


def study_of(
    asked: Asked,
    name: str,
    title: str,
    table: str,
    places: Sequence[Place],
    unit: str,
    of: str,
    notes: Sequence[str] = (),
    recipes: Sequence[str] = (),
    corner: str = "",
) -> Study:
    """The study of all places that were asked for. Raises `ConfigError` for a row or column that there is not.

    Args:
        unit: of the numbers.
        of: what they are of in the paper.
        notes: what has to be known of the table.
        recipes: what has to be known of the published recipes, which small=true does not use.
        corner: what rows are.
    """
    rows = _chosen("rows", asked.own.rows, [place.row for place in places])
    columns = _chosen("columns", asked.own.columns, [place.column for place in places])
    kept = [place for place in places if place.row in rows and place.column in columns]
    cells = [_cell(place, repeat) for place in kept for repeat in range(asked.own.seeds)]
    return Study(
        name=name,
        title=f"SAR, {table}: {title}{', small' * asked.own.small}",
        source=f"{SOURCE}, {table}",
        rows=rows,
        columns=columns,
        cells=tuple(cells),
        unit=f"{unit}; tiny networks on {_images(kept)} in place of {of}" if asked.own.small else f"{unit}; {of}",
        notes=(*_notes(asked, cells), *notes, *(() if asked.own.small else recipes)),
        digits=2,
        corner=corner,
    )


def wants(wanted: Sequence[str], name: str) -> bool:
    """Whether a row or column is asked for; letters and digits alone are compared, and nothing asked for is all.

    What stands before a colon is enough, and what stands after `scenes for`.
    """
    names = (_slug(name), _slug(name.partition(":")[0]), _slug(name.removeprefix("scenes for ")))
    return not wanted or any(_slug(each) in names for each in wanted)


def _cell(place: Place, repeat: int) -> Cell:
    training, measure = place.training, place.measure
    return Cell(
        row=place.row,
        column=place.column,
        recipe=training.recipe,
        overrides=training.overrides,
        protocol=measure.protocol,
        settings=measure.settings,
        data=measure.data or training.data,
        number=measure.number,
        published=place.published,
        repeat=repeat,
        run=f"{training.run}-{repeat}",
        first=place.first,
    )


def _chosen(what: str, wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The known names that are wanted, in the table's order."""
    names = tuple(dict.fromkeys(known))
    unknown = [each for each in wanted if not any(wants([each], name) for name in names)]
    if unknown:
        raise ConfigError(
            f"{what}: there is none called {unknown[0]!r}{_meant(unknown[0], names)}; known: {', '.join(names)}"
        )
    return tuple(name for name in names if wants(wanted, name))


def _meant(word: str, names: Sequence[str]) -> str:
    """The names that begin like the word, else the nearest one, as a question."""
    slugs = {_slug(name.removeprefix("scenes for ")): name for name in names}
    near = [name for slug, name in slugs.items() if slug.startswith(_slug(word))] if _slug(word) else []
    near = near or [slugs[slug] for slug in difflib.get_close_matches(_slug(word), slugs, n=1)]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _images(places: Sequence[Place]) -> str:
    """What is trained on."""
    where = sorted({place.training.data for place in places})
    return ", ".join("generated scenes" if each == "scenes" else each for each in where)


def _notes(asked: Asked, cells: Sequence[Cell]) -> list[str]:
    published = any(cell.published is not None for cell in cells)
    notes = ["Published numbers stand in brackets; the paper says of none how many trainings it is from."] * published
    if asked.own.small:
        notes.append(_small_note(cells))
        if published:
            notes.append(
                "Published numbers are of other networks and images and of longer trainings, and stand here for their "
                "order alone; names of rows and columns are the paper's."
            )
    if asked.own.seeds > 1:
        notes.append(f"Each cell is the mean of {asked.own.seeds} trainings, with half their range.")
    if asked.own.schedule != "constant":
        notes.append("Lambda follows the authors' code (warm-up, then a cosine to 0); the text says it is constant.")
    if asked.others:
        notes.append(f"Settings of all recipes that differ from theirs: {' '.join(asked.others)}")
    return notes


def _small_note(cells: Sequence[Cell]) -> str:
    """How stand-ins are trained."""
    names = list(dict.fromkeys(cell.recipe for cell in cells))
    epochs = [each for each in dict.fromkeys(_last(cell.overrides, "train.epochs") for cell in cells) if each]
    told = " or ".join(epochs) + (" epoch" if epochs == ["1"] else " epochs")
    recipes = f"recipe{'s' * (len(names) > 1)} {' and '.join(names)}"
    return f"small=true: tiny networks, trained for {told} by the {recipes}."


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")
