"""Rows A to F of the SAR paper's Table 1(b) on generated scenes: surgery and loss apart, over several seeds.

    python benchmarks/sar_scenes.py [--seeds 2] [--epochs 4] [--runs FOLDER] [--out FILE.json]

The study `vitrail study sar_table1b small=true`, as users run it: a tiny ViT, 6,500 scenes, 4 epochs, top-1 of 1,000
held-out scenes; two accuracies differ by 2.2 points in one standard error at 50 %. Seeds give other weights and another
order, the scenes are the same. A training takes about 100 seconds of one core. What was interrupted goes on, on the
same commit. No order of rows is wanted: the outcome stands in docs/sar_tables.md as it fell.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from kept_numbers import KeptNumbers
from over_seeds import summary
from record import record

from vitrail.recipes.sar_table1 import sar_table1b
from vitrail.recipes.study import run_study


def rows_of(settings: list[str], seeds: int, folder: Path) -> dict[str, list[float]]:
    """Top-1 in percent by row, one value for each seed; the first seed of all rows is trained first."""
    for count in range(1, seeds + 1):
        results = run_study(sar_table1b([*settings, f"seeds={count}"]), folder)
    found: dict[str, list[float]] = {}
    for result in results:
        if result.value is None:
            raise RuntimeError(f"row {result.cell.row} has no number: {result.error}")
        found.setdefault(result.cell.row, []).append(result.value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--runs", type=Path, default=Path("runs/sar_scenes"))
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    warmup = options.epochs / 5
    settings = ["small=true", f"train.epochs={options.epochs}", f"train.warmup_epochs={warmup:g}", "train.device=cpu"]
    settings.append("train.evaluate_every=null")
    kept = KeptNumbers(options.runs, {"settings": settings})
    found = rows_of(settings, options.seeds, kept.folder)
    by_seed = [{row: values[seed] for row, values in found.items()} for seed in range(options.seeds)]
    published = {cell.row: cell.published for cell in sar_table1b(["small=true"]).cells}
    numbers: dict[str, Any] = {
        "unit": "top-1 in percent",
        "measured_commit": kept.commit,
        "threads": torch.get_num_threads(),
        "settings": settings,
        "top1": summary(by_seed),
        "published_on_imagenet100": published,
    }
    for row, values in found.items():
        print(f"{row}: {', '.join(f'{value:.1f}' for value in values)}", flush=True)
    print(f"written to {record('sar_scenes', numbers, options.out)}")


if __name__ == "__main__":
    main()
