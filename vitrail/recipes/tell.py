"""What a terminal shows of a report: its numbers, a table where they are curves, and the card in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitrail.evaluation.result import Report


def told(report: Report) -> list[str]:
    """Lines for a terminal. The report's file has more: every class, errors, versions, digests."""
    if report.protocol == "patch_recall":
        numbers = recall_table(report.details["curves"])
    elif report.details.get("mode") in ("generated", "imagenet_c"):
        numbers = [*corruption_table(report.details["rows"]), "", *_numbers(report)]
    else:
        numbers = _numbers(report)
    return [*numbers, *report.words()]


def _numbers(report: Report) -> list[str]:
    return [f"{name:<28} {value:.3f}" for name, value in report.numbers.items()]


def corruption_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each corruption: top-1 errors in percent by severity, their mean, and CE where there is a baseline.

    Args:
        rows: what the protocol `robustness` leaves under `details["rows"]`.
    """
    severities = sorted({severity for row in rows for severity in row["errors"]})
    more = [name for name in ("error", "ce", "relative_ce") if any(row.get(name) is not None for row in rows)]
    heads = ["top-1 error", *severities, *({"error": "mean"}.get(name, name) for name in more)]
    cells = [
        [*(row["errors"].get(severity) for severity in severities), *(row.get(name) for name in more)] for row in rows
    ]
    lines = [[row["corruption"], *map(_short, each)] for row, each in zip(rows, cells)]
    return _aligned([heads, *lines])


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def recall_table(curves: dict[str, list[float]]) -> list[str]:
    """A line for each share that is kept: how many patches, recall in percent over all classes and groups, floors.

    Args:
        curves: what the protocol `patch_recall` leaves under `details["curves"]`.
    """
    groups = {name: values for name, values in curves.items() if name.startswith("recall_")}
    shown = {"recall": curves["recall"]} | groups | {floor: curves[floor] for floor in ("center", "random")}
    heads = ["kept", "patches", *(name.removeprefix("recall_") for name in shown)]
    rows = [
        [f"{keep:g}", f"{number:.0f}", *(f"{values[place]:.1f}" for values in shown.values())]
        for place, (keep, number) in enumerate(zip(curves["keep"], curves["kept"], strict=True))
    ]
    return _aligned([heads, *rows])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells one below the other, their ends in line."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
