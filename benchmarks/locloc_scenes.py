"""Does LocLoc find objects without boxes? Training on generated scenes, over several seeds.

    python benchmarks/locloc_scenes.py [--seeds 0 1 2] [--settings KEY=VALUE ...] [--runs FOLDER] [--out FILE.json]

Each seed gives other scenes, weights and order. A tiny ViT learns classes with SAR, so that its attention sees objects;
from there LocLoc learns from GrabCut's masks of that attention, PPD from the attention over a threshold, each by its
recipe: equally many steps on the same images. No box is seen in training. Measured on held-out scenes, the threshold
chosen on others: GT-known, Top-1 localization, MaxBoxAccV2, PxAP, and beside them the same of what needs no training
of its own (attention, LOST, TokenCut, Grad-CAM, all on the first network) and of a centered box. Settings of masks were
chosen on held-out scenes of seed 0. What was interrupted goes on where the commit is the same.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from kept_numbers import KeptNumbers
from over_seeds import summary
from record import record

from vitrail.data import SyntheticScenes
from vitrail.evaluation import localization
from vitrail.localizers import open_localizer
from vitrail.recipes import locloc, ppd
from vitrail.recipes.run import Verbs, run

FREE = ("attention", "lost", "token_cut", "grad_cam")
SHOWN = ("gt_known_loc", "top1_loc", "max_box_acc_v2", "pxap")
VAL, HELD_OUT = 1000, 300


def located(name: str, weights: Path, seed: int, classes: int) -> dict[str, float]:
    """Numbers of a localizer on scenes that no training of this seed has seen, those for the threshold neither."""
    val = SyntheticScenes(VAL, 48, classes, seed, "val", cache=True)
    held_out = SyntheticScenes(HELD_OUT, 48, classes, seed + 1000, "val", cache=True)
    opened: Any = open_localizer(name, str(weights))
    return localization.evaluate(opened, val, held_out=held_out, device="cpu").numbers


def trained(recipe: Any, folder: Path) -> float:
    """Train, or go on; seconds."""
    return float(run(recipe, Verbs(resume=(folder / "config.yaml").is_file()), folder).seconds)


def measure(seed: int, kept: KeptNumbers, settings: list[str]) -> dict[str, Any]:
    """All localizers of one seed."""
    seeds = [f"{name}={seed}" for name in ("train.seed", "data.scenes.seed")]
    recipes: dict[str, Any] = {"locloc": locloc.scenes_locloc(), "ppd": ppd.scenes_ppd()}
    stage1: Any = recipes["locloc"].override(settings).stage1
    assert stage1 is not None
    start, classes = kept.folder / f"start-{seed}", stage1.data.scenes.classes
    kept.once(start.name, partial(trained, stage1.override(seeds), start))
    found = {name: kept.once(f"{name}-{seed}", partial(located, name, start, seed, classes)) for name in FREE}
    for name, recipe in recipes.items():
        folder = kept.folder / f"run-{name}-{seed}"
        ready = recipe.override([*seeds, *settings, f"init_from={start}"])
        seconds = kept.once(folder.name, partial(trained, ready, folder))
        found[name] = kept.once(f"{name}-{seed}", partial(located, name, folder, seed, classes)) | {"seconds": seconds}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="*", default=[], help="of both recipes, key=value")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=Path, default=Path("runs/locloc_scenes"), help="one folder a commit")
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept, found = KeptNumbers(options.runs, {"settings": options.settings}), []
    for seed in options.seeds:
        found.append(measure(seed, kept, options.settings))
        for name, numbers in found[-1].items():
            shown = [f"{key} {numbers[key]:.1f}" for key in SHOWN if key in numbers]
            print(f"seed {seed} {name}: {', '.join(shown)}", flush=True)
    models = {name: summary([row[name] for row in found]) for name in found[0]}
    words = {"threads": options.threads, "settings": options.settings, "models": models}
    print(f"written to {record('locloc_scenes', words, options.out)}")


if __name__ == "__main__":
    main()
