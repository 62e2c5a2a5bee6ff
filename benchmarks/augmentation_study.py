"""The study of augmentations in small: SimCLR on 9,000 CIFAR-10 images with own crops, no crop and one crop for both.

    python benchmarks/augmentation_study.py --data FOLDER [--epochs 3] [--repeats 3] [--methods simclr] [--runs FOLDER]

FOLDER holds CIFAR-10 or an npz with part of it. The network is a ResNet-10 with 8 channels in its first stage, the rest
of the recipe that of the paper, but for batches of 128 and a few epochs. Beside the numbers stand the same network's
before training, and the k-NN of pixels. What was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from record import record

from vitrail.data import Cifar
from vitrail.evaluation import knn
from vitrail.recipes.augmentation_study import augmentation
from vitrail.recipes.run import family_of
from vitrail.report.study import run_and_write
from vitrail.train import seed_everything

ROWS = "crop-bgjf,whole-bgjf,shared-bgjf"
NETWORK = ["backbone.width=8", "backbone.blocks=[1,1,1,1]", "train.global_batch_size=128", "workers=0"]


def settings(data: str, epochs: int, repeats: int, methods: str) -> list[str]:
    """Of the study."""
    short = [f"train.epochs={epochs}", "train.evaluate_every=null", "probe.train=1000", "probe.val=500"]
    return [f"cifar10={data}", f"methods={methods}", f"rows={ROWS}", f"repeats={repeats}", *NETWORK, *short]


def untrained(data: str, config: Any) -> float:
    """k-NN of the network that every training starts from."""
    seed_everything(config.train.seed)
    backbone = family_of(config).build(config, 0, 1).method.backbone
    asked = knn.KnnConfig(preset="moco_cifar").override(["transform.image_size=32"])
    return knn.evaluate(backbone, Cifar(data, "train"), Cifar(data, "val"), asked).numbers["knn200_top1"]


def pixels(data: str) -> float:
    """k-NN of the pixels themselves, less their mean."""
    sets = [Cifar(data, split) for split in ("train", "val")]
    bank, queries = (torch.from_numpy(each.images).flatten(1).float() for each in sets)
    labels = [torch.from_numpy(each.labels) for each in sets]
    middle = bank.mean(0)
    found = knn.classify(queries - middle, labels[1], bank - middle, labels[0], ks=(200,), classes=10, temperature=0.1)
    return found[200][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", default="simclr")
    parser.add_argument("--runs", type=Path, default=Path("runs/augmentation_study"))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    study = augmentation(settings(asked.data, asked.epochs, asked.repeats, asked.methods))
    started, cpu = time.perf_counter(), time.process_time()
    run_and_write(study, asked.runs, device="cpu")
    table = json.loads((asked.runs / "study.json").read_text())
    numbers = {
        "unit": table["unit"],
        "images": {"train": len(Cifar(asked.data, "train")), "val": len(Cifar(asked.data, "val"))},
        "epochs": asked.epochs,
        "settings": settings("FOLDER", asked.epochs, asked.repeats, asked.methods),
        "table": table["table"],
        "untrained": [untrained(asked.data, cell.config()) for cell in study.cells[: asked.repeats]],
        "pixels": pixels(asked.data),
        "seconds_this_call": round(time.perf_counter() - started),
        "cpu_seconds_this_call": round(time.process_time() - cpu),
    }
    print(json.dumps(numbers, indent=2))
    print(record("augmentation_study", numbers, asked.out))


if __name__ == "__main__":
    main()
