"""Tables of localizers, as HTML: all numbers side by side with floors and published ones, and a class a row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from vitrail.evaluation.result import Report
from vitrail.report.published import Benchmark

NAMES = {
    "gt_known_loc": "GT-known Loc",
    "top1_loc": "Top-1 Loc",
    "top5_loc": "Top-5 Loc",
    "top1_cls": "Top-1 Cls",
    "top5_cls": "Top-5 Cls",
    "max_box_acc": "MaxBoxAcc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "pxap": "PxAP",
}
FLOORS = {"floor_whole_image": "whole image", "floor_centered_box": "centered box"}
COUNTED = ("gt_known_loc", "max_box_acc")
"""What a floor is a floor of: one box at an IoU of 0.5."""


class Row(NamedTuple):
    """One line: a name, words about it, and numbers by name."""

    name: str
    words: str
    numbers: Mapping[str, float]


def number_table(
    reports: Mapping[str, Report], benchmark: Benchmark | None = None, about: Mapping[str, str] | None = None
) -> str:
    """Localizers, floors and published results, a row each; a column for each number that one of them has.

    The best measured number of a column is marked where there are several localizers. `about` are words on some of the
    localizers, by their titles.
    """
    told = {title: [(about or {}).get(title, ""), _threshold(report)] for title, report in reports.items()}
    measured = [Row(title, "; ".join(filter(None, told[title])), report.numbers) for title, report in reports.items()]
    columns = _columns(reports, benchmark)
    groups = {"measured here": measured, "floors, without a look at the image": _floors(reports)}
    if benchmark is not None:
        rows = [Row(each.method, each.network, each.numbers) for each in benchmark.rows]
        groups[f"published, {benchmark.name}"] = rows
    heads = "".join(f'<th scope="col">{escape(words)}</th>' for words in ("localizer", "", *columns.values()))
    body = "".join(_group(name, rows, list(columns), rows is measured) for name, rows in groups.items() if rows)
    table = f'<table class="numbers compact"><thead><tr>{heads}</tr></thead>{body}</table>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Numbers of all localizers">{table}</div>'


def class_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A row for each class, in the order of the first localizer, and two to four columns for each localizer.

    Args:
        rows: by localizer, what its report has under `per_class`.
    """
    tables = {title: {row["class"]: row for row in found} for title, found in rows.items()}
    classes = list(dict.fromkeys(name for table in tables.values() for name in table))
    columns = [
        (title, name) for title, found in rows.items() for name in _CLASS_NAMES if any(name in row for row in found)
    ]
    several = len(rows) > 1
    heads = ["class", "images"] + [
        f"{title}: {_CLASS_NAMES[name]}" if several else _CLASS_NAMES[name] for title, name in columns
    ]
    lines = []
    for each in classes:
        images = next(table[each]["images"] for table in tables.values() if each in table)
        cells = [_value(tables[title].get(each, {}).get(name), name) for title, name in columns]
        inside = "".join(f"<td>{cell}</td>" for cell in (str(images), *cells))
        lines.append(f'<tr><th scope="row">{escape(each)}</th>{inside}</tr>')
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    table = f'<table class="numbers compact"><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Numbers of each class">{table}</div>'


_CLASS_NAMES = {
    "gt_known_loc": "GT-known Loc",
    "top1_loc": "Top-1 Loc",
    "top1_cls": "Top-1 Cls",
    "mean_iou": "mean IoU",
}


def _columns(reports: Mapping[str, Report], benchmark: Benchmark | None) -> dict[str, str]:
    """Names of numbers and their words: those of `NAMES` in that order, with each IoU of MaxBoxAccV2 behind it."""
    rows: list[Mapping[str, float]] = [report.numbers for report in reports.values()]
    rows += [row.numbers for row in benchmark.rows] if benchmark is not None else []
    there = {name for numbers in rows for name in numbers}
    apart = {name: match[1] for name in there if (match := re.fullmatch(r"max_box_acc_v2_([\d.]+)", name))}
    found = {}
    for name, words in NAMES.items():
        if name in there:
            found[name] = words
        if name == "max_box_acc_v2":
            ordered = sorted(apart.items(), key=lambda pair: float(pair[1]))
            found |= {each: f"V2 at IoU {float(iou) / 100:g}" for each, iou in ordered}
    return found


def _floors(reports: Mapping[str, Report]) -> list[Row]:
    """A row for each floor; several where localizers of other image sizes see other crops, with their names."""
    rows = []
    for name, words in FLOORS.items():
        values: dict[str, list[str]] = {}
        for title, report in reports.items():
            if name in report.numbers:
                values.setdefault(f"{report.numbers[name]:.1f}", []).append(title)
        for titles in values.values():
            value = reports[titles[0]].numbers[name]
            whose = ", ".join(titles) if len(values) > 1 else ""
            rows.append(
                Row(
                    words,
                    _share(reports[titles[0]], name) + (f" for {whose}" if whose else ""),
                    dict.fromkeys(COUNTED, value),
                )
            )
    return rows


def _share(report: Report, name: str) -> str:
    if name != "floor_centered_box":
        return ""
    box = report.details["centered_box"]
    return f"{100 * box['share']:g} % of both sides, chosen on {box['chosen_on']}"


def _threshold(report: Report) -> str:
    if "chosen" not in report.details:
        return ""
    wanted = report.card["config"]["threshold"]
    where = {"held_out": "held-out images", "test_set": "the measured images"}.get(str(wanted), "given")
    return f"threshold {report.details['chosen']['loc']:.2f}, {where}"


def _group(name: str, rows: Sequence[Row], columns: Sequence[str], marked: bool) -> str:
    best = {}
    if marked and len(rows) > 1:
        for column in columns:
            texts = [f"{row.numbers[column]:.1f}" for row in rows if column in row.numbers]
            if len(set(texts)) > 1:
                best[column] = max(texts, key=float)
    lines = [
        f'<tr class="group"><th scope="rowgroup" colspan="{len(columns) + 2}"><span>{escape(name)}</span></th></tr>'
    ]
    for row in rows:
        cells = "".join(_cell(_value(row.numbers.get(column)), best.get(column)) for column in columns)
        lines.append(
            f'<tr><th scope="row">{escape(row.name)}</th><td class="about">{escape(row.words)}</td>{cells}</tr>'
        )
    return f"<tbody>{''.join(lines)}</tbody>"


def _cell(text: str, best: str | None) -> str:
    if text == best:
        return f'<td class="best"><span class="value">{text}</span><span class="sr">best</span></td>'
    return f"<td>{text}</td>"


def _value(value: float | None, name: str = "") -> str:
    if value is None:
        return '<span class="none">–</span>'
    return f"{value:.2f}" if name == "mean_iou" else f"{value:.1f}"
