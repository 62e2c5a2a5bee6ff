"""Fabricated run folders for the tests of the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image


def make_run(
    folder: Path, *, seed: int = 0, jaccard: float = 20.0, weight: float | None = None, epochs: int = 4
) -> Path:
    """A whole run folder; `weight` of the regularizer is what is configured differently."""
    (folder / "evaluation").mkdir(parents=True)
    (folder / "pictures").mkdir()
    config: dict[str, Any] = {
        "seed": seed,
        "regularizer": None if weight is None else {"kind": "spatial_entropy", "weight": weight},
        "train": {"epochs": epochs, "learning_rate": 1e-3, "seed": seed},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "versions.json").write_text(json.dumps({"python": "3.11", "torch": "2.15", "gpu": None}))
    lines = []
    for step in range(0, 10 * epochs + 1, 2):
        epoch = step / 10
        lines.append(
            {
                "step": step,
                "epoch": epoch,
                "time": 3.0 * step,
                "train/loss": 2 * math.exp(-epoch / 3) + 0.01 * seed,
                "train/spatial_entropy": 1.5 - 0.1 * epoch,
                "train/lr": 1e-3,
                "images_per_second": 500.0 + step,
            }
        )
        if step and step % 10 == 0:
            lines.append({"step": step, "epoch": epoch, "val/top1": 50.0 + 5 * epoch})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "log.txt").write_text("one line\nthe last line\n")
    (folder / "skipped.jsonl").write_text('{"index": 3, "path": "cat/3.jpg", "reason": "truncated"}\n')
    write_report(folder, "attention_jaccard", {"jaccard": jaccard, "floor_whole_image": 12.0})
    write_report(folder, "knn", {"knn20_top1": 70.125})
    picture(folder / "pictures" / "attention.png", seed)
    (folder / "pictures" / "captions.json").write_text(json.dumps({"attention.png": f"Attention, seed {seed}"}))
    return folder


def write_report(folder: Path, protocol: str, numbers: dict[str, float], **card: Any) -> None:
    """One evaluation's JSON file."""
    report = {
        "protocol": protocol,
        "numbers": numbers,
        "card": {"protocol": protocol, "resolution": 48, "weights": folder.name, **card},
        "details": {"notes": ["a note"], "per_image": list(range(500))},
    }
    (folder / "evaluation" / f"{protocol}.json").write_text(json.dumps(report))


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (60, 40)) -> None:
    """Noise, which no compression makes small."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
