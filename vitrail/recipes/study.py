"""A grid of trainings and measurements that becomes one table: a cell is a recipe, settings, a protocol and a number.

A study is a function in `vitrail/recipes` that returns a `Study`; `vitrail study NAME` runs it. What is finished is
passed over, what was cut is resumed, so the same command goes on after any stop:

    OUT/runs/RUN/             the run folder; cells of the same run are trained once
    OUT/runs/RUN/trained.json its settings, once it is trained to the end
    OUT/cells/CELL.json       what was asked and what came out, once it is measured

The table itself is written by `vitrail.report.study`.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple, TypeVar

from vitrail.config import Config, ConfigError
from vitrail.evaluation.result import write_atomically
from vitrail.recipes.run import Verbs, family_of, resolve, train_here

log = logging.getLogger("vitrail")
State = Literal["open", "begun", "trained", "finished", "failed"]
Asked = TypeVar("Asked", bound=Config)


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

    @property
    def name(self) -> str:
        """Row, column and repeat as the name of a file."""
        return f"{_slug(self.column)}--{_slug(self.row)}-{self.repeat}"

    @property
    def folder(self) -> str:
        """The run folder's name."""
        return self.run or self.name

    def config(self) -> Config:
        """The resolved recipe."""
        return _resolved(self.recipe, self.overrides, self.repeat)

    def asked(self) -> dict[str, Any]:
        """All that decides the number, as JSON values."""
        return {
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
    device: str = "auto",
    part: int = 0,
    of: int = 1,
    after: Callable[[list[Result]], None] | None = None,
) -> list[Result]:
    """Train and measure what is not finished yet, cell by cell; all processes of a cell work together.

    Args:
        out: the study's folder.
        part, of: do every `of`-th cell from `part` on, counted from 0; another call does the others.
        after: called with all results once at the start and after each cell, in one process.

    Returns:
        A result for each cell of the study. A training that diverges is a failed cell, the others go on.

    Raises:
        ConfigError: before anything is trained, for a cell whose recipe is refused, or whose run folder holds a
            training with other settings.
    """
    from vitrail.train import join

    ranks = join(device)
    for cell in study.cells:
        _check(cell, out)
    mine = study.cells[part::of]
    done = ranks.agree({result.cell.name for result in read_results(study, out) if result.state == "finished"})
    if ranks.main and after is not None:
        after(read_results(study, out))
    for number, cell in enumerate(mine, 1):
        if cell.name in done:
            continue
        if ranks.main:
            log.info("cell %d of %d: %s, %s", number, len(mine), cell.column, cell.row)
        _run(cell, out, device, ranks)
        if ranks.main and after is not None:
            after(read_results(study, out))
    return read_results(study, out)


def read_results(study: Study, out: Path) -> list[Result]:
    """What is known of each cell, from the folder alone."""
    return [_read(cell, out) for cell in study.cells]


def costs(study: Study, out: Path) -> list[Cost]:
    """What each cell is or was, unfinished or not. Builds one training of each kind, and trains nothing."""
    built: dict[str, tuple[int, int]] = {}
    found = []
    for cell in study.cells:
        config: Any = cell.config()
        train = config.train.plain() | {"seed": 0}
        key = json.dumps([cell.recipe, config.data.plain(), train], sort_keys=True)
        if key not in built:
            loader = family_of(config).build(config, 0, 1).loader
            built[key] = (loader.steps_per_epoch, len(loader.data))
        steps = built[key][0] * config.train.epochs
        images = steps * config.train.global_batch_size
        speed = _speed(study, out, cell)
        found.append(Cost(steps, images, None if speed is None else images / speed))
    return found


@functools.lru_cache(maxsize=4096)
def _resolved(recipe: str, overrides: tuple[str, ...], repeat: int) -> Config:
    config: Any = _named(recipe).override(overrides)
    return config.override([f"train.seed={config.train.seed + repeat}"]) if repeat else config


@functools.lru_cache(maxsize=64)
def _named(recipe: str) -> Config:
    return resolve(recipe)  # which reads all files of recipes


def _run(cell: Cell, out: Path, device: str, ranks: Any) -> None:
    from vitrail.recipes.measure import measure
    from vitrail.train import NonFiniteLoss

    folder, config = out / "runs" / cell.folder, cell.config()
    if ranks.agree(_trained(folder) is None):
        started = ranks.agree((folder / "config.yaml").is_file())
        try:
            train_here(config, Verbs(resume=started), folder)
        except NonFiniteLoss as error:
            if ranks.main:
                log.warning("%s, %s: %s", cell.column, cell.row, error)
                _write(out, cell, {"error": str(error)})
            return
        if ranks.main:
            write_atomically(folder / "trained.json", json.dumps(config.plain(), indent=2).encode())
    if ranks.main:
        report, path = measure(cell.protocol, str(folder), cell.data, list(cell.settings), device=device)
        value = _number(report.numbers, cell)
        log.info("%s, %s: %.2f%s", cell.column, cell.row, value, _beside(cell.published))
        _write(out, cell, {"value": value, "report": path.relative_to(out).as_posix()})
    ranks.agree(None)  # the others wait for the measurement


def _check(cell: Cell, out: Path) -> None:
    from vitrail.config import read_yaml
    from vitrail.train.run_folder import differences

    config, folder = cell.config(), out / "runs" / cell.folder
    family_of(config).check(config)
    if not (folder / "config.yaml").is_file():
        return
    changed = differences(read_yaml(folder / "config.yaml"), config.plain())
    if changed:
        words = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in changed.items())
        raise ConfigError(
            f"{folder} was trained with other settings: {words}. Take these back, or give the study another --out"
        )


def _read(cell: Cell, out: Path) -> Result:
    path, folder = out / "cells" / f"{cell.name}.json", out / "runs" / cell.folder
    begun: State = "begun" if (folder / "checkpoints" / "last.pt").is_file() else "open"
    known: Result = Result(cell, "trained" if _trained(folder) is not None else begun)
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


def _trained(folder: Path) -> Any:
    path = folder / "trained.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _write(out: Path, cell: Cell, found: dict[str, Any]) -> None:
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


def _speed(study: Study, out: Path, cell: Cell) -> float | None:
    """Images a second, the median over lines of runs of the same recipe."""
    found = []
    for other in study.cells:
        path = out / "runs" / other.folder / "metrics.jsonl"
        if other.recipe == cell.recipe and path.is_file():
            for text in path.read_text().splitlines():
                try:
                    found.append(json.loads(text)["images_per_second"])
                except (json.JSONDecodeError, KeyError):
                    continue
    return median(found) if found else None


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
