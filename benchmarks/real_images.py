"""A folder of real images, ViT-Ti/8 at 64 pixels from scratch, with and without SAR.

    python benchmarks/real_images.py FOLDER [--voc FOLDER] [--epochs 4] [--seeds 0] [--runs FOLDER] [KEY=VALUE ...]

FOLDER has train/ and val/ with one folder per class. Measures top-1, k-NN, the spatial entropy of the held-out
images, the attention Jaccard on a VOC tree, and pointing accuracy where FOLDER has val_boxes.txt. Settings go to both
recipes; a run that was interrupted goes on where it stood. A GPU takes 100 epochs in minutes; two CPU cores
take about five minutes an epoch for 12,500 images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from record import record

from vitrail.recipes.measure import measure
from vitrail.recipes.run import Verbs, prepare, run
from vitrail.report import write_page
from vitrail.train import RunFolder


def trained(recipe: str, settings: list[str], folder: Path) -> dict[str, Any]:
    """Train, or go on training, and return the last numbers."""
    config, _ = prepare(recipe, settings, Verbs())
    resume = (folder / "checkpoints" / "last.pt").is_file()
    outcome = run(config, Verbs(resume=resume, overwrite=not resume), folder)
    with RunFolder(folder, config, "resume") as opened:
        curve = [line for line in opened.metrics() if "val/top1" in line]
    return {"seconds": outcome.seconds, "steps": outcome.steps, "validation": curve}


def measured(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Every protocol that the data allow, on a run's exported weights."""
    wanted = [("accuracy", options.folder), ("knn", options.folder)]
    if (options.folder / "val_boxes.txt").is_file():
        wanted.append(("pointing", options.folder))
    if options.voc is not None:
        wanted.append(("attention_jaccard", options.voc))
    found = {}
    for protocol, data in wanted:
        report, _ = measure(protocol, str(folder), str(data), [])
        found |= {f"{protocol}_{key}": value for key, value in report.numbers.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--voc", type=Path, default=None)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/real-images"))
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_intermixed_args()
    numbers: dict[str, Any] = {"data": options.folder.name, "epochs": options.epochs, "settings": options.settings}
    folders = []
    for seed in options.seeds:
        for recipe in ("folder", "folder_sar"):
            settings = [f"data.root={options.folder}", f"train.epochs={options.epochs}", f"train.seed={seed}"]
            folder = options.runs / f"{recipe}-{seed}"
            numbers[f"{recipe}_seed_{seed}"] = trained(recipe, settings + options.settings, folder)
            numbers[f"{recipe}_seed_{seed}"] |= measured(folder, options)
            folders.append(folder)
            print(recipe, seed, numbers[f"{recipe}_seed_{seed}"], flush=True)
    print(f"written to {record('real_images', numbers, options.out)}")
    print(f"page: {write_page(options.runs / 'index.html', folders, title='Real images')}")


if __name__ == "__main__":
    main()
