"""A grid of trainings and measurements that becomes one table: a cell is a recipe, settings, a protocol and a number.

A study is a function in `vitrail/recipes` that returns a `Study`; `vitrail study NAME` runs it. What is finished is
passed over, what was cut is resumed, so the same command goes on after any stop:

    OUT/runs/RUN/             the run folder; cells of the same run are trained once
    OUT/runs/RUN/trained.json its settings, once it is trained to the end
    OUT/cells/CELL.json       what was asked and what came out, once it is measured

Cells may begin with another run, whose weights theirs start from: it is trained before the first of them, once. Runs
may lie elsewhere, where several studies share them. The table itself is written by `vitrail.report.study`.

Building a study imports no torch, so that a missing folder is told at once; what trains is imported when it does.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple, TypeVar

from vitrail.config import Config, ConfigError

SHOWN = 4
"""Differing settings that an error names."""
log = logging.getLogger("vitrail")
State = Literal["open", "begun", "trained", "finished", "failed"]
Asked = TypeVar("Asked", bound=Config)


class First(NamedTuple):
    """A training whose weights others start from: once for all cells that name its run."""

    run: str  # name of the run folder
    recipe: str
    overrides: tuple[str, ...] = ()

    def config(self) -> Config:
        """The resolved recipe."""
        return _resolved(self.recipe, self.overrides, 0)


class Cell(NamedTuple):
    """One number of the table, and how it comes about."""

    row: str
    column: str
    recipe: str  # its name, as for `vitrail train`
    overrides: tuple[str, ...]  # of the recipe
    protocol: str  # its name, as for `vitrail evaluate`
    settings: tuple[str, ...]  # of the protocol
    data: str  # as for `vitrail evaluate`: a folder, or `scenes`
    number: str  # which of the report's numbers
    published: float | None = None  # what the paper says
    repeat: int = 0  # 0, 1, ...: added to the recipe's seed
    run: str | None = None  # name of the run folder; None for one of the cell's own
    first: First | None = None  # whose weights it starts from; the recipe has a field `init_from` then

    @property
    def name(self) -> str:
        """Row, column and repeat as the name of a file."""
        return f"{_slug(self.column)}--{_slug(self.row)}-{self.repeat}"

    @property
    def folder(self) -> str:
        """The run folder's name."""
        return self.run or self.name

    def config(self) -> Config:
        """The resolved recipe, without the weights that come first: these depend on where runs lie."""
        return _resolved(self.recipe, self.overrides, self.repeat)

    def trainings(self, runs: Path) -> list[tuple[Config, Path]]:
        """What is trained for it, in order, and into which folder."""
        if self.first is None:
            return [(self.config(), runs / self.folder)]
        place = runs / self.first.run
        return [(self.first.config(), place), (self.config().override([f"init_from={place}"]), runs / self.folder)]

    def asked(self) -> dict[str, Any]:
        """All that decides the number, as JSON values."""
        first = {} if self.first is None else {"first": self.first.config().plain()}
        return first | {
            "recipe": self.config().plain(),
            "protocol": self.protocol,
            "settings": list(self.settings),
            "data": self.data,
            "number": self.number,
        }


class Study(NamedTuple):
    """A table that is to be filled."""

    name: str
    title: str
    source: str  # the paper and its table
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]
    unit: str = "percent"
    notes: tuple[str, ...] = ()  # what a reader of the table has to know
    digits: int = 1  # decimals of its numbers
    corner: str = ""  # what its rows are, above their names


class Result(NamedTuple):
    """What is known of a cell."""

    cell: Cell
    state: State
    value: float | None = None
    error: str | None = None
    report: str | None = None  # the evaluation's file, relative to the study's folder


class Cost(NamedTuple):
    """What is left to do for a cell."""

    steps: int  # of the optimizer, in all
    images: int  # that are trained on, each epoch counted
    seconds: (
        float | None
    )  # of training, by the speed of runs of this recipe in the same folder; None before there is one


def taken(settings: Sequence[str], kind: type[Asked]) -> tuple[Asked, list[str]]:
    """A study's own settings, and the others, which are its recipes'."""
    own = [text for text in settings if re.split(r"[.=]", text)[0] in kind.model_fields]
    return kind().override(own), [text for text in settings if text not in own]


def run_study(
    study: Study,
    out: Path,
    *,
    runs: Path | None = None,
    device: str = "auto",
    part: int = 0,
    of: int = 1,
    after: Callable[[list[Result]], None] | None = None,
) -> list[Result]:
    """Train and measure what is not finished yet, cell by cell; all processes of a cell work together.

    Args:
        out: the study's folder.
        runs: where trainings lie; None for OUT/runs.
        part, of: do every `of`-th cell from `part` on, counted from 0; another call does the others.
        after: called with all results once at the start and after each cell, in one process.

    Returns:
        A result for each cell of the study. A training that diverges is a failed cell, the others go on.

    Raises:
        ConfigError: before anything is trained, for a cell whose recipe is refused, or whose run folder holds a
            training with other settings, one whose checkpoints are gone, or something else.
        ValueError: before anything is trained, for images that cannot be opened, or are too few for a batch.
    """
    from vitrail.train import join

    ranks = join(device)
    check_study(study, out, runs)
    runs = runs or out / "runs"
    mine = study.cells[part::of]
    done = ranks.agree({each.cell.name for each in read_results(study, out, runs) if each.state == "finished"})
    _open_all([cell for cell in mine if cell.name not in done], runs)
    if ranks.main and after is not None:
        after(read_results(study, out, runs))
    for number, cell in enumerate(mine, 1):
        if cell.name in done:
            continue
        if ranks.main:
            log.info("cell %d of %d: %s, %s", number, len(mine), cell.column, cell.row)
        same = [other for other in mine[number:] if _same_measurement(cell, other) and other.name not in done]
        done |= _run(cell, same, out, runs, device, ranks)
        if ranks.main and after is not None:
            after(read_results(study, out, runs))
    return read_results(study, out, runs)


def check_study(study: Study, out: Path, runs: Path | None = None) -> None:
    """Raise `ConfigError` for what can be known to go wrong without opening images; as of `run_study`."""
    for cell in study.cells:
        _check(cell, runs or out / "runs", "--out" if runs is None else "--runs")


def read_results(study: Study, out: Path, runs: Path | None = None) -> list[Result]:
    """What is known of each cell, from the folders alone; `runs` as of `run_study`."""
    return [_read(cell, out, runs or out / "runs") for cell in study.cells]


def costs(study: Study, out: Path, runs: Path | None = None) -> list[Cost]:
    """What each cell is or was, unfinished or not, what comes first left out; `runs` as of `run_study`.

    Builds one training of each kind, and trains nothing.
    """
    built: dict[str, tuple[int, int]] = {}
    runs = runs or out / "runs"
    speeds = {recipe: _speed(recipe, study, runs) for recipe in {cell.recipe for cell in study.cells}}
    return [_cost(cell.recipe, cell.config(), speeds[cell.recipe], built) for cell in study.cells]


def first_costs(study: Study, out: Path, runs: Path | None = None) -> dict[str, tuple[State, Cost]]:
    """What has to be trained before cells can begin, by its run: how far it is, and what it is or was."""
    built: dict[str, tuple[int, int]] = {}
    runs = runs or out / "runs"
    firsts = {cell.first.run: cell.first for cell in study.cells if cell.first is not None}
    return {
        run: (
            _state(runs / run, first.config()),
            _cost(first.recipe, first.config(), _speed(first.recipe, study, runs), built),
        )
        for run, first in firsts.items()
    }


@functools.lru_cache(maxsize=4096)
def _resolved(recipe: str, overrides: tuple[str, ...], repeat: int) -> Config:
    config: Any = _named(recipe).override(overrides)
    return config.override([f"train.seed={config.train.seed + repeat}"]) if repeat else config


@functools.lru_cache(maxsize=64)
def _named(recipe: str) -> Config:
    from vitrail.recipes.run import resolve

    return resolve(recipe)  # which reads all files of recipes


def _cost(recipe: str, config: Any, speed: float | None, built: dict[str, tuple[int, int]]) -> Cost:
    """Of one training; `built` keeps steps an epoch and images of those that were looked at before."""
    key = json.dumps([recipe, config.data.plain(), config.train.plain() | {"seed": 0}], sort_keys=True)
    if key not in built:
        loader = _loader(config)
        built[key] = (loader.steps_per_epoch, len(loader.data))
    steps = built[key][0] * config.train.epochs
    images = steps * config.train.global_batch_size
    return Cost(steps, images, None if speed is None else images / speed)


def _run(cell: Cell, same: Sequence[Cell], out: Path, runs: Path, device: str, ranks: Any) -> set[str]:
    """Train and measure a cell, and with it those that ask for other numbers of the same; returns the done ones."""
    from vitrail.recipes.measure import measure

    for config, folder in cell.trainings(runs):
        error = _train(config, folder, ranks)
        if error is not None:
            if ranks.main:
                log.warning("%s, %s: %s", cell.column, cell.row, error)
                _write(out, cell, {"error": error})
            return set()
    if ranks.main:
        report, path = measure(cell.protocol, str(runs / cell.folder), cell.data, list(cell.settings), device=device)
        for each in (cell, *same):
            value = _number(report.numbers, each)
            log.info("%s, %s: %.2f%s", each.column, each.row, value, _beside(each.published))
            _write(out, each, {"value": value, "report": Path(os.path.relpath(path, out)).as_posix()})
    ranks.agree(None)  # the others wait for the measurement
    return {each.name for each in (cell, *same)}


def _train(config: Config, folder: Path, ranks: Any) -> str | None:
    """Train to the end, or what is left of that; returns why a loss was not finite, None where all went well."""
    from vitrail.evaluation.result import write_atomically
    from vitrail.recipes.run import train_here
    from vitrail.train import Interrupted, NonFiniteLoss

    if ranks.agree(_state(folder, config)) == "trained":
        return None
    verbs = ranks.agree(_entered(config, folder) if ranks.main else None)
    if isinstance(verbs, ConfigError):
        raise verbs
    try:
        train_here(config, verbs, folder)
    except NonFiniteLoss as error:
        return str(error)
    except Interrupted:
        if ranks.main:
            log.warning("a study has no --resume: the same command goes on from there")
        raise
    if ranks.main:
        write_atomically(folder / "trained.json", json.dumps(config.plain(), indent=2).encode())
    return None


def _same_measurement(one: Cell, other: Cell) -> bool:
    """Whether both read a number of the same report."""
    shared = other._replace(row=one.row, column=one.column, number=one.number, published=one.published)
    return one.folder == other.folder and one == shared


def _open_all(cells: Sequence[Cell], runs: Path) -> None:
    """Open the images of each kind once: what is wrong with them is said now, not after hours of other cells."""
    from vitrail.recipes.measure import open_images

    seen: set[str] = set()
    for cell in cells:
        trainings = cell.trainings(runs)
        for config, folder in trainings:
            key = json.dumps([config.plain()["data"], config.train.global_batch_size], sort_keys=True)  # type: ignore[attr-defined]
            if key not in seen and _state(folder, config) != "trained":
                _loader(config)
                seen.add(key)
        if cell.data not in (*seen, "scenes", trainings[-1][0].data.root):  # type: ignore[attr-defined]
            open_images(cell.protocol, cell.data)
            seen.add(cell.data)


def _loader(config: Any) -> Any:
    """The images of a training in batches, in one process."""
    from vitrail.recipes.run import family_of

    if hasattr(config, "init_from"):  # it may not be trained yet, and changes no step
        config = config.model_copy(update={"init_from": None})
    return family_of(config).build(config, 0, 1).loader


def _check(cell: Cell, runs: Path, option: str) -> None:
    from vitrail.config import read_yaml
    from vitrail.recipes.run import family_of
    from vitrail.train.run_folder import differences

    for config, folder in cell.trainings(runs):
        family_of(config).check(config)
        if not _begun(folder) and not (folder / "trained.json").is_file():
            _goes_on(config, folder, option)
            continue
        changed = differences(read_yaml(folder / "config.yaml"), config.plain())
        if changed:
            words = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in list(changed.items())[:SHOWN])
            words += f"; and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            raise ConfigError(
                f"{folder} was trained with other settings: {words}. Take these back, or give the study another "
                f"{option}"
            )
        if _state(folder, config) == "open":  # the mark is of other settings
            _goes_on(config, folder, option)


def _entered(config: Config, folder: Path) -> Any:
    """The `Verbs` with which a training is begun or goes on, or the `ConfigError` that refuses it."""
    from vitrail.recipes.run import Verbs

    try:
        resume = _begun(folder) or _goes_on(config, folder)
    except ConfigError as error:
        return error
    return Verbs(resume=resume, overwrite=not resume and folder.exists())


def _goes_on(config: Config, folder: Path, option: str = "--out or --runs") -> bool:
    """Whether a run without checkpoints is taken up: for what was trained inside of it; else it begins anew.

    `ConfigError` where that would cost weights or evaluations, or files of others.
    """
    from vitrail.config import read_yaml
    from vitrail.train.run_files import in_the_way, is_run, kept
    from vitrail.train.run_folder import differences

    others = sorted(in_the_way(folder)) if folder.is_dir() else []
    found = kept(folder) if others else []
    if not others or (is_run(folder) and not found):
        return False
    words = ", ".join(map(str, (found or others)[:SHOWN])) + " ..." * (len(found or others) > SHOWN)
    if not is_run(folder):
        raise ConfigError(f"{folder} is no run of vitrail, and holds {words}. Give the study another {option}")
    inside = all(len(name.parts) > 2 for name in found)
    if inside and not differences(read_yaml(folder / "config.yaml"), config.plain()):
        return True
    raise ConfigError(
        f"{folder} has no checkpoint to go on from, and beginning anew would replace what it holds: {words}. Put "
        f"checkpoints/last.pt back, remove the folder by hand, or give the study another {option}"
    )


def _read(cell: Cell, out: Path, runs: Path) -> Result:
    path = out / "cells" / f"{cell.name}.json"
    config, folder = cell.trainings(runs)[-1]
    known: Result = Result(cell, _state(folder, config))
    if not path.is_file():
        return known
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError:
        return known
    if values.get("asked") != cell.asked():
        return known
    if "error" in values:
        return known._replace(state="failed", error=values["error"])
    return Result(cell, "finished", values["value"], report=values["report"])


def _state(folder: Path, config: Config) -> State:
    """How far a training is."""
    if _trained(folder, config):
        return "trained"
    return "begun" if _begun(folder) else "open"


def _begun(folder: Path) -> bool:
    """Whether something was trained there that is kept."""
    return any((folder / "checkpoints" / name).is_file() for name in ("last.pt", "previous.pt"))


def _trained(folder: Path, config: Config) -> bool:
    """Whether it was trained to the end with these settings: the mark of others is stale."""
    path = folder / "trained.json"
    if not path.is_file():
        return False
    from vitrail.train.run_folder import differences

    return not differences(json.loads(path.read_text()), config.plain())


def _write(out: Path, cell: Cell, found: dict[str, Any]) -> None:
    from vitrail.evaluation.result import write_atomically

    text = json.dumps({"row": cell.row, "column": cell.column, **found, "asked": cell.asked()}, indent=2)
    write_atomically(out / "cells" / f"{cell.name}.json", text.encode())


def _number(numbers: dict[str, float], cell: Cell) -> float:
    if cell.number not in numbers:
        raise ValueError(
            f"{cell.protocol} gave no {cell.number} for {cell.column}, {cell.row}, but {', '.join(numbers)}; there may "
            "be too few images"
        )
    return numbers[cell.number]


def _beside(published: float | None) -> str:
    return "" if published is None else f" (published {published:g})"


def _speed(recipe: str, study: Study, runs: Path) -> float | None:
    """Images a second, the median over lines of runs of the same recipe."""
    folders = {cell.folder: cell.recipe for cell in study.cells}
    folders |= {cell.first.run: cell.first.recipe for cell in study.cells if cell.first is not None}
    found = []
    for folder, trained in folders.items():
        path = runs / folder / "metrics.jsonl"
        if trained == recipe and path.is_file():
            for text in path.read_text().splitlines():
                try:
                    found.append(json.loads(text)["images_per_second"])
                except (json.JSONDecodeError, KeyError):
                    continue
    return median(found) if found else None


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
