"""The rows of CoTAP's Table VII on real images, at a scale that one GPU holds: each reported as it falls.

    python benchmarks/cotap_images.py OBJECTS SCENES [--start WEIGHTS] [--rows 1 2 3 4 5 6 7] [--seeds 0]
        [--segment TREE ...] [--video TREE] [--size 64] [--patch 8] [--epochs 50] [--start-epochs 100] [--runs FOLDER]

OBJECTS is a folder of object-centric images with train/ and val/, one folder per class; SCENES a folder of
scene-centric ones. Without --start a ViT-Ti learns by DINO on OBJECTS first. Each row then goes on for as many steps on
both, one to one. Measured, the start included: k-NN on OBJECTS, linear segmentation on each tree of --segment,
over-dispersion there, J&F on the videos of --video. What was interrupted goes on where the commit is the same.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from kept_numbers import KeptNumbers
from record import record

from vitrail.recipes.measure import measure
from vitrail.recipes.run import Verbs, prepare, run


def trained(recipe: str, settings: list[str], folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Train, or go on; the numbers of what comes out."""
    config, _ = prepare(recipe, settings, Verbs())
    resume = (folder / "checkpoints" / "last.pt").is_file()
    outcome = run(config, Verbs(resume=resume, overwrite=not resume), folder)
    return measured(str(folder), options) | {"seconds": outcome.seconds}


def measured(weights: str, options: argparse.Namespace) -> dict[str, float]:
    """Every protocol that the data allow."""
    asked = [("knn", options.objects, "knn", [])]
    for tree in options.segment:
        dense = [f"image_size={options.dense_size}"]
        asked.append(("linear_seg", tree, tree.name, dense))
        asked.append(("dispersion", tree, tree.name, [f"transform.{dense[0]}"]))
    if options.video is not None:
        asked.append(("video", options.video, options.video.name, options.video_settings))
    found: dict[str, float] = {}
    for protocol, data, name, settings in asked:
        report, _ = measure(protocol, weights, str(data), settings)
        found |= {f"{name}_{key}": value for key, value in report.numbers.items()}
    return found


def of_seed(seed: int, kept: KeptNumbers, options: argparse.Namespace) -> dict[str, Any]:
    """The start and all rows."""
    views = [f"views.global_size={options.size}", f"views.local_size={options.size // 2}"]
    if options.start is None:
        start = kept.folder / f"start-{seed}"
        settings = [f"data.root={options.objects}", f"train.seed={seed}", f"train.epochs={options.start_epochs}"]
        settings += [*views, f"backbone.patch_size={options.patch}", *options.both]
        found = {"start": kept.once(start.name, partial(trained, "folder_dino", settings, start, options))}
    else:
        start = Path(options.start)
        found = {"start": kept.once("start", partial(measured, str(start), options))}
    for row in options.rows:
        folder = kept.folder / f"row-{row}-{seed}"
        settings = [f"data.root={options.objects}", f"scene_data.root={options.scenes}", f"init_from={start}"]
        settings += [f"train.seed={seed}", f"train.epochs={options.epochs}", f"ablation={row}", *views, *options.both]
        job = partial(trained, "folder_cotap", [*settings, *options.after], folder, options)
        found[f"row_{row}"] = kept.once(folder.name, job)
        print(f"seed {seed} row {row}: {found[f'row_{row}']}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", type=Path)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--start", default=None, help="weights to start from; by default DINO is trained first")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6, 7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--segment", type=Path, nargs="*", default=[])
    parser.add_argument("--video", type=Path, default=None)
    parser.add_argument("--video-settings", nargs="*", default=[])
    parser.add_argument("--size", type=int, default=64, help="of global crops, pixels")
    parser.add_argument("--dense-size", type=int, default=224, help="of images that are segmented, pixels")
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--start-epochs", type=int, default=100)
    parser.add_argument("--both", nargs="*", default=[], help="settings of all trainings, key=value")
    parser.add_argument("--after", nargs="*", default=[], help="settings of the rows alone, key=value")
    parser.add_argument("--runs", type=Path, default=Path("runs/cotap_images"), help="one folder a commit")
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    asked = {key: str(value) for key, value in vars(options).items() if key not in ("rows", "seeds", "runs", "out")}
    kept = KeptNumbers(options.runs, asked)
    seeds = {str(seed): of_seed(seed, kept, options) for seed in options.seeds}
    names = {"objects": options.objects.name, "scenes": options.scenes.name, "size": options.size}
    told = {
        "epochs": options.epochs,
        "start_epochs": options.start_epochs,
        "both": options.both,
        "after": options.after,
    }
    print(f"written to {record('cotap_images', {'data': names, **told, 'seeds': seeds}, options.out)}")


if __name__ == "__main__":
    main()
