"""Does CoTAP bring patches of one kind together? Post-training on generated scenes, over several seeds.

    python benchmarks/cotap_scenes.py [--seeds 2 3 4] [--rows 2 7] [--controls] [--runs FOLDER] [--out FILE.json]

Each seed gives other scenes, weights and order. A tiny ViT learns by DINO on scenes of one object; from there each
model goes on, for equally many steps on the same images (scenes of one object and of several in turn):

- row_2 and row_7 of the paper's Table VII: the alignment of patches alone, and all of CoTAP with the filter;
- cotap_filter: the alignment of patches with correspondences (weight 3) and the filter, without the two terms of whole
  images, which have little to go by here: class tokens after so short a DINO hardly know the class (k-NN 19 of 100,
  by chance 12.5).

Measured on held-out scenes of several objects: linear segmentation (mIoU, percent) and over-dispersion (similarity of
patches within and between classes, and their gap); on those of one: k-NN. With --controls two more models: cotap_filter
with the teacher's similarities dealt out at random among the pairs of patches, and the network before any training.
What was interrupted goes on where the commit is the same. Settings were chosen on seeds 0 and 1, which is why the
default seeds are others.
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
from torch import Tensor

from vitrail.backbones import TimmViT, create, load
from vitrail.evaluation import dispersion, knn, linear_seg
from vitrail.methods import cotap as method
from vitrail.recipes import cotap
from vitrail.recipes.measure import native
from vitrail.recipes.probe import spread
from vitrail.recipes.run import Verbs, run
from vitrail.recipes.sources import scenes
from vitrail.train import seed_everything

TRAIN_SCENES, VAL_SCENES = 800, 300
COTAP_FILTER = ["method.image_alignment=0", "method.concentration=0", "method.correspondence=3"]
"""All that stands between this model and row 7."""


def numbers_of(backbone: TimmViT, recipe: Any) -> dict[str, float]:
    """By the protocols, percent: of patches on scenes of several objects, of whole images on scenes of one."""
    several, single = scenes(recipe.scene_data.scenes), scenes(recipe.data.scenes)
    train, val = spread(several.train, TRAIN_SCENES), spread(several.val, VAL_SCENES)
    side = recipe.scene_data.scenes.image_size
    found = linear_seg.evaluate(
        backbone, train, val, linear_seg.LinearSegConfig().override([f"image_size={side}"]), device="cpu"
    ).numbers
    spreading = dispersion.DispersionConfig().override([f"transform.image_size={side}"])
    found |= dispersion.evaluate(backbone, val, spreading, device="cpu").numbers
    return found | knn.evaluate(backbone, *single, native(knn.KnnConfig(), backbone), device="cpu").numbers


def trained(recipe: Any, folder: Path, whole: Any = None) -> dict[str, float]:
    """Train, or go on; the numbers of what comes out, on the scenes of `whole`, by default the recipe's own."""
    outcome = run(recipe, Verbs(resume=(folder / "config.yaml").is_file()), folder)
    return numbers_of(load(weights=folder), whole or recipe) | {"seconds": outcome.seconds}


def untrained(recipe: Any) -> dict[str, float]:
    """Of the network before any training."""
    seed_everything(recipe.train.seed)
    backbone = create(recipe.backbone.model_copy(update={"image_size": recipe.views.global_size}))
    backbone.mean, backbone.std = recipe.views.mean, recipe.views.std
    return numbers_of(backbone, recipe)


def at_random(recipe: Any, folder: Path) -> dict[str, float]:
    """CoTAP with targets that say nothing about their pairs."""
    right = method.cotap_loss

    def shuffled(p: Tensor, q: Tensor, *tau: float) -> Tensor:
        return right(p, q[:, torch.randperm(q.shape[1])], *tau)

    method.cotap_loss = shuffled  # type: ignore[assignment]
    try:
        return trained(recipe, folder)
    finally:
        method.cotap_loss = right


def measure(seed: int, kept: KeptNumbers, rows: list[int], controls: bool, settings: list[str]) -> dict[str, Any]:
    """All models of one seed."""
    seeds = ["train.seed", "data.scenes.seed", "scene_data.scenes.seed", "stage1.train.seed", "stage1.data.scenes.seed"]
    recipe: Any = cotap.scenes_cotap().override([*(f"{name}={seed}" for name in seeds), *settings])
    start = kept.folder / f"start-{seed}"
    found = {"start": kept.once(start.name, partial(trained, recipe.stage1, start, recipe))}
    after = recipe.override([f"init_from={start}"])
    for row in rows:
        folder = kept.folder / f"row-{row}-{seed}"
        found[f"row_{row}"] = kept.once(folder.name, partial(trained, after.override([f"ablation={row}"]), folder))
    whole, folder = after.override(COTAP_FILTER), kept.folder / f"cotap-filter-{seed}"
    found["cotap_filter"] = kept.once(folder.name, partial(trained, whole, folder))
    if controls:
        found["untrained"] = kept.once(f"untrained-{seed}", partial(untrained, recipe))
        folder = kept.folder / f"targets-at-random-{seed}"
        found["targets_at_random"] = kept.once(folder.name, partial(at_random, whole, folder))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 7])
    parser.add_argument("--controls", action="store_true", help="two more models, see above")
    parser.add_argument("--settings", nargs="*", default=[], help="of the recipe, key=value")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=Path, default=Path("runs/cotap_scenes"), help="one folder a commit")
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept, found = KeptNumbers(options.runs, {"settings": options.settings}), []
    for seed in options.seeds:
        found.append(measure(seed, kept, options.rows, options.controls, options.settings))
        for name, numbers in found[-1].items():
            shown = ("linear_seg_miou", "intra_class", "inter_class", "gap")
            print(f"seed {seed} {name}: " + ", ".join(f"{key} {numbers[key]:.2f}" for key in shown), flush=True)
    models = {name: summary([row[name] for row in found]) for name in found[0]}
    words = {"threads": options.threads, "settings": options.settings, "models": models}
    print(f"written to {record('cotap_scenes', words, options.out)}")


if __name__ == "__main__":
    main()
