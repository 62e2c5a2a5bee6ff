"""One number over the training of several runs, in one chart: SAR's Fig. 3 is top-1 on held-out images against epochs.

Runs that differ in the seed alone are one line, the mean, with a band from the lowest to the highest.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from vitrail.evaluation.result import write_atomically
from vitrail.report.collect import RunRecord, read_runs
from vitrail.report.compare import repeated_runs
from vitrail.viz.curves import Curve, curves_png, curves_svg

ACCURACIES = ("val/top1", "val/knn_top1")


def draw_run_curves(
    runs: Sequence[str | Path], out: Path, *, metric: str | None = None, title: str = "", log_y: bool = False
) -> Path:
    """Draw one metric of runs and write it; returns `out`.

    Args:
        runs: run folders.
        out: a file that ends in .png or .svg.
        metric: as in `metrics.jsonl`, `val/` may be left out; None takes the accuracy on held-out images, which is
            top-1 of a classifier, or else of nearest neighbors.
        title: above the chart.
        log_y: logarithmic vertical axis.

    Raises:
        ValueError: another ending, no run folder, no such metric in any of them or in one of them.
    """
    if out.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"--out {out} is neither a .png nor a .svg; name a file that ends in one of them")
    records = read_runs(runs)
    name = _metric(records, metric)
    silent = [record.name for record in records if not record.series(name, "step")[0]]
    if silent:
        raise ValueError(f"{', '.join(silent)} logged no {name}; leave the run out, or choose another --metric")
    axis = "epoch" if all(_ascends(record.series(name)) for record in records) else "step"
    curves = {
        repeat.name: [Curve(*records[member].series(name, axis)) for member in repeat.members]
        for repeat in repeated_runs(records)
    }
    how: dict[str, Any] = {
        "title": title,
        "x_label": axis,
        "y_label": name,
        "log_y": log_y,
        "dashes": True,
        "look": "light",
    }
    if out.suffix.lower() == ".svg":
        write_atomically(out, curves_svg(curves, **how).encode())
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    curves_png(curves, **how).save(out)
    return out


def _metric(records: Sequence[RunRecord], asked: str | None) -> str:
    known = sorted({key for record in records for line in record.metrics for key in line} - {"step", "epoch", "time"})
    wanted = ACCURACIES if asked is None else (asked, f"val/{asked}", f"train/{asked}")
    found = next((name for name in wanted if name in known), None)
    if found is not None:
        return found
    if asked is None:
        raise ValueError(f"no run logged {' or '.join(ACCURACIES)}; choose a --metric of {', '.join(known) or 'none'}")
    close = difflib.get_close_matches(asked, [*known, *(name.partition("/")[2] for name in known)], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"no run logged {asked!r}; {hint}known: {', '.join(known) or 'none'}")


def _ascends(series: tuple[Sequence[float], Sequence[float]]) -> bool:
    """Whether there are epochs, in order: they fall back where a run was extended with another batch size."""
    return bool(series[0]) and all(earlier < later for earlier, later in pairwise(series[0]))
