"""Patch recall of rankers on COCO and VOC: random, center, and those that are named.

    python benchmarks/rankers_recall.py FOLDER [FOLDER ...] [--ranker NAME=WEIGHTS ...] [KEY=VALUE ...]

FOLDER is a tree of COCO, VOC or ADE20K, whose validation split is measured. Settings go to the protocol. Random (the
expectation, and a drawn selection with its standard error) and the center prior stand beside every ranker.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from record import record

from vitrail.evaluation.patch_recall import PatchRecallConfig, evaluate
from vitrail.recipes.rankers import open_rankers
from vitrail.recipes.sources import open_data
from vitrail.recipes.weights import pick_device

RULES = ("any", "fraction:0.5", "center")


def measured(folder: Path, rankers: dict[str, Any], config: PatchRecallConfig, device: str) -> dict[str, Any]:
    """The curves of all rankers on one tree, in percent."""
    data = open_data(str(folder)).val
    table: dict[str, Any] = {}
    for name, ranker in rankers.items():
        report = evaluate(ranker, data, config, name=name, device=device)
        curves = report.details["curves"]
        shown = {key: "  ".join(f"{value:5.1f}" for value in values) for key, values in curves.items()}
        for key in ("recall", "recall_learned", "recall_unseen"):
            if key in curves:
                table[f"{name}_{key}"] = curves[key]
                print(f"{name + ' ' + key:<28} {shown[key]}", flush=True)
        table |= {key: curves[key] for key in ("keep", "random", "random_drawn", "random_drawn_error")}
        table |= {"images": report.details["images"], "notes": report.details["notes"]}
    for key in ("random", "random_drawn", "random_drawn_error"):
        print(f"{key:<28} {shown[key]}", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="FOLDER or KEY=VALUE")
    parser.add_argument("--ranker", action="append", default=[], metavar="NAME[:VARIANT][=WEIGHTS]")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_intermixed_args()
    folders = [Path(word) for word in options.words if "=" not in word]
    settings = [word for word in options.words if "=" in word]
    device = pick_device(options.device)
    rankers = open_rankers(["center", *options.ranker], device=device)
    numbers: dict[str, Any] = {"unit": "percent", "settings": settings}
    rules = [] if any(word.startswith("positive_rule=") for word in settings) else RULES
    for folder in folders:
        for rule in rules or [PatchRecallConfig().override(settings).positive_rule]:
            config = PatchRecallConfig().override([*settings, f"positive_rule={rule}"])
            print(f"{folder.name}, {rule}", flush=True)
            numbers[f"{folder.name} {rule}"] = measured(folder, dict(rankers), config, device)
    print(f"written to {record('rankers_recall', numbers, options.out)}")


if __name__ == "__main__":
    main()
