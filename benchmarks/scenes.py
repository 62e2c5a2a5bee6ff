"""Does attention see objects? Baseline, surgery alone, and SAR on generated scenes, over several seeds.

    python benchmarks/scenes.py [--seeds 0 1 2] [--runs FOLDER] [--out FILE.json]

Each seed gives other scenes, weights and order, the same for the three models. Attention Jaccard, k-NN and accuracy
are those of `vitrail demo`. One to three minutes a model on two cores; what was interrupted goes on, what is
finished is measured alone. Wanted: the mean Jaccard with SAR at least 1.3 times the
baseline's, the mean accuracy not lower.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from record import record

from vitrail.demo import measure_run
from vitrail.recipes.run import Verbs, run
from vitrail.recipes.supervised import Recipe, scenes, scenes_sar
from vitrail.report import write_page
from vitrail.train import RunFolder

NUMBERS = {"attention_jaccard": "jaccard", "accuracy": "top1", "knn": "knn20_top1"}


def recipes() -> dict[str, Recipe]:
    """The three models."""
    plain = scenes()
    return {
        "baseline": plain,
        "surgery": plain.override(["backbone.surgery=C"]),
        "sar": scenes_sar(),
    }


def measure(name: str, recipe: Recipe, seed: int, runs: Path) -> dict[str, float]:
    """Train one model and measure it."""
    config = recipe.override([f"train.seed={seed}", f"data.scenes.seed={seed}"])
    folder = runs / f"{name}-{seed}"
    resume = (folder / "checkpoints" / "last.pt").is_file()
    outcome = run(config, Verbs(resume=resume, overwrite=not resume), folder)
    reports = measure_run(folder, config)
    found = {
        f"{protocol}_{key.removeprefix('knn20_')}": reports[protocol].numbers[key] for protocol, key in NUMBERS.items()
    }
    with RunFolder(folder, config, "resume") as opened:
        entropy = [line["val/spatial_entropy"] for line in opened.metrics() if "val/spatial_entropy" in line]
    return found | {"spatial_entropy": entropy[-1], "seconds": outcome.seconds}


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Means and standard deviations over seeds, and SAR against the baseline."""
    words: dict[str, Any] = {}
    for name, rows in found.items():
        words[name] = {"seeds": rows}
        for key in rows[0]:
            values = [row[key] for row in rows]
            words[name][key] = {
                "mean": statistics.mean(values),
                "deviation": statistics.stdev(values) if len(values) > 1 else None,
            }
    base, sar = words["baseline"], words["sar"]
    words["jaccard_ratio"] = sar["attention_jaccard_jaccard"]["mean"] / base["attention_jaccard_jaccard"]["mean"]
    words["accuracy_gain_points"] = sar["accuracy_top1"]["mean"] - base["accuracy_top1"]["mean"]
    return words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/scenes"))
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in recipes()}
    for seed in options.seeds:
        for name, recipe in recipes().items():
            found[name].append(measure(name, recipe, seed, options.runs))
            print(seed, name, found[name][-1], flush=True)
    numbers = {"recipe": scenes().plain(), **summary(found)}
    print(f"Jaccard {numbers['jaccard_ratio']:.2f} times, accuracy {numbers['accuracy_gain_points']:+.1f} points")
    print(f"written to {record('scenes', numbers, options.out)}")
    folders = [options.runs / f"{name}-{options.seeds[0]}" for name in found]
    print(f"page: {write_page(options.runs / 'index.html', folders, title='Generated scenes')}")


if __name__ == "__main__":
    main()
