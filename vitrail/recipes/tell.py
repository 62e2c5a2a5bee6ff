"""What a terminal shows of a report: its numbers, a table where they are curves, and the card in a few lines."""

from __future__ import annotations

from collections.abc import Sequence

from vitrail.evaluation.result import Report


def told(report: Report) -> list[str]:
    """Lines for a terminal. The report's file has more: every class, errors, versions, digests."""
    if report.protocol == "patch_recall":
        numbers = recall_table(report.details["curves"])
    else:
        numbers = [f"{name:<28} {value:.3f}" for name, value in report.numbers.items()]
    return [*numbers, *report.words()]


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
