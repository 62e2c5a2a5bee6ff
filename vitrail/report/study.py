"""The table of a study: ours beside the paper's, as JSON, Markdown and one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from vitrail.config import ConfigError
from vitrail.data.patch_labels import Share
from vitrail.evaluation.result import Report, write_atomically
from vitrail.recipes.study import Cost, Result, Study, check_study, costs, first_costs, read_results, run_study
from vitrail.report.page import Section, write_sections
from vitrail.report.rankers import table_html
from vitrail.train import leave

EVERYTHING = Share()


class Entry(NamedTuple):
    """One place of the table: the cells of one row and column, all their repeats."""

    row: str
    column: str
    values: tuple[float, ...]  # of the finished repeats
    planned: int  # repeats in all
    published: float | None
    failed: int  # repeats that diverged
    digits: int = 1  # decimals

    @property
    def mean(self) -> float | None:
        """Of the finished repeats; None before there is one."""
        return fmean(self.values) if self.values else None

    def text(self) -> str:
        """`53.2 ± 0.4 (53.1)`: ours, half the range of the repeats, the paper's."""
        if self.mean is None:
            ours = "diverged" if self.failed else "–"
        else:
            ours = f"{self.mean:.{self.digits}f}"
            if len(self.values) > 1:
                ours += f" ± {(max(self.values) - min(self.values)) / 2:.{self.digits}f}"
            if len(self.values) < self.planned:
                ours += f" [{len(self.values)} of {self.planned}]"
        return ours if self.published is None else f"{ours} ({self.published:.{self.digits}f})"


def run_and_write(
    study: Study, out: Path, *, runs: Path | None = None, device: str = "auto", share: Share = EVERYTHING
) -> tuple[Path, int]:
    """Fill a study, or one share of it, and write the table after each cell; returns the page and how many failed.

    Raises:
        ConfigError: OUT holds another study.
    """
    _refuse_another(study, out)

    def after(found: list[Result]) -> None:
        write_study(out, study, found)

    results = run_study(study, out, runs=runs, device=device, part=share.part, of=share.of, after=after)
    leave()
    return out / "study.html", sum(result.state == "failed" for result in results)


def listing(study: Study, out: Path, share: Share = EVERYTHING, runs: Path | None = None) -> list[str]:
    """Lines for a terminal: what comes first, each cell with its state, published number and cost, what is left in all.

    What comes first counts for every share that has cells which want it.

    Raises:
        ConfigError: as `run_and_write`, without opening images.
    """
    _refuse_another(study, out)
    check_study(study, out, runs)
    found = list(zip(read_results(study, out, runs), costs(study, out, runs)))[share.part :: share.of]
    wanted = {result.cell.first.run for result, _ in found if result.cell.first is not None}
    firsts = {run: told for run, told in first_costs(study, out, runs).items() if run in wanted}
    wide = max((len(result.cell.column) for result, _ in found), default=0)
    long = max((len(result.cell.row) for result, _ in found), default=0)
    lines = [f"{study.title}: {len(found)} cells; {study.unit}"]
    lines += [f"{state:<9} first, {run}: {_work(cost)}" for run, (state, cost) in firsts.items()]
    for result, cost in found:
        cell = result.cell
        published = "" if cell.published is None else f"published {cell.published:.{study.digits}f}"
        repeat = f" seed +{cell.repeat}" if cell.repeat else ""
        lines.append(
            f"{result.state:<9} {cell.column:<{wide}}  {cell.row:<{long}}  {published:<15} {_work(cost)}{repeat}"
        )
    left = {result.cell.folder: cost for result, cost in found if result.state in ("open", "begun", "failed")}
    left |= {run: cost for run, (state, cost) in firsts.items() if state != "trained"}
    return [*lines, _left(list(left.values()))]


def _work(cost: Cost) -> str:
    return f"{cost.steps:,} steps, {_images(cost.images)}{_time(cost.seconds)}"


def _images(count: int) -> str:
    return f"{count / 1e6:.3g} M images" if count >= 1e6 else f"{count:,} images"


def _left(costs: Sequence[Cost]) -> str:
    known = [cost.seconds for cost in costs if cost.seconds is not None]
    told = _time(sum(known))
    if len(known) < len(costs):
        told = ", for how long is known once a training of each recipe has begun"
    images = sum(cost.images for cost in costs)
    return f"left: {len(costs)} training{'s' * (len(costs) != 1)}, {_images(images)}{told if costs else ''}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f", about {seconds / 3600:.1f} h" if seconds >= 3600 else f", about {seconds / 60:.1f} min"


def entries(study: Study, results: Sequence[Result]) -> list[Entry]:
    """Places of the table, row by row; those that the study does not fill are left out."""
    found = []
    for row in study.rows:
        for column in study.columns:
            here = [result for result in results if (result.cell.row, result.cell.column) == (row, column)]
            if not here:
                continue
            values = tuple(result.value for result in here if result.value is not None)
            failed = sum(result.state == "failed" for result in here)
            found.append(Entry(row, column, values, len(here), here[0].cell.published, failed, study.digits))
    return found


def write_study(out: Path, study: Study, results: Sequence[Result]) -> Path:
    """Write OUT/study.json, study.md and study.html, each whole or not at all; returns the page."""
    table = entries(study, results)
    content = json.dumps(_json(study, results, table), indent=2, ensure_ascii=False)
    write_atomically(out / "study.json", content.encode())
    write_atomically(out / "study.md", markdown(study, table).encode())
    words = _paragraphs([_unit(study, results)]) + table_html(*_grid(study, table), kind="numbers")
    sections = [Section(study.source, words + _paragraphs(study.notes)), Section("Trainings", _trainings(results))]
    return write_sections(out / "study.html", sections, title=study.title, reports=_cards(out, results))


def markdown(study: Study, table: Sequence[Entry]) -> str:
    """The table as Markdown, with what has to be known of it."""
    heads, rows = _grid(study, table)
    lines = [f"# {study.title}", "", f"{study.source}: {study.unit}.", *(f"\n{note}" for note in study.notes), ""]
    lines += [_line(heads), _line(["---"] * len(heads)), *(_line(row) for row in rows), ""]
    return "\n".join(lines)


def _grid(study: Study, table: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    texts = {(entry.row, entry.column): entry.text() for entry in table}
    rows = [[row, *(texts.get((row, column), "") for column in study.columns)] for row in study.rows]
    return [study.corner, *study.columns], rows


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _unit(study: Study, results: Sequence[Result]) -> str:
    done = sum(result.state == "finished" for result in results)
    return f"{study.unit[:1].upper()}{study.unit[1:]}. {done} of {len(results)} numbers are measured."


def _paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _trainings(results: Sequence[Result]) -> str:
    """A line for each number: how far it is, of which run and seed, and why there is none."""
    rows = []
    for result in results:
        cell, digits = result.cell, "" if result.value is None else f"{result.value:.2f}"
        told = [f"{cell.row}, {cell.column}", cell.folder, f"+{cell.repeat}", result.state, digits, result.error or ""]
        rows.append(told if any(each.error for each in results) else told[:-1])
    heads = ["number", "run", "seed", "state", "value", "why not"]
    return f"<details><summary>Each number</summary>{table_html(heads[: len(rows[0])], rows)}</details>" if rows else ""


def _cards(out: Path, results: Sequence[Result]) -> dict[str, Report]:
    """The protocol card of one number of each kind."""
    found: dict[tuple[str, tuple[str, ...], str], Result] = {}
    for result in results:
        if result.report is not None and (out / result.report).is_file():
            found.setdefault((result.cell.protocol, result.cell.settings, result.cell.data), result)
    return {
        f"{each.cell.protocol}, as of {each.cell.row}, {each.cell.column}": Report.load(out / str(each.report))
        for each in found.values()
    }


def _refuse_another(study: Study, out: Path) -> None:
    path = out / "study.json"
    if not path.is_file():
        return
    try:
        there = json.loads(path.read_text()).get("study")
    except (json.JSONDecodeError, AttributeError):
        there = "something else"
    if there != study.name:
        raise ConfigError(f"{out} holds the study {there}, not {study.name}; give it another --out")


def _json(study: Study, results: Sequence[Result], table: Sequence[Entry]) -> dict[str, Any]:
    return {
        "study": study.name,
        "source": study.source,
        "unit": study.unit,
        "notes": list(study.notes),
        "table": [
            {
                "row": entry.row,
                "column": entry.column,
                "mean": entry.mean,
                "values": list(entry.values),
                "published": entry.published,
            }
            for entry in table
        ],
        "cells": [
            {
                "name": each.cell.name,
                "state": each.state,
                "value": each.value,
                "error": each.error,
                "report": each.report,
            }
            for each in results
        ],
    }
