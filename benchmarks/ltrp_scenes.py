"""Does LTRP find objects without labels? Recall of patches on generated scenes, over several seeds.

    python benchmarks/ltrp_scenes.py [--seeds 0 1 2] [--controls] [--runs FOLDER] [--out FILE.json]

Each seed gives other scenes, weights and order. `vitrail train scenes_ltrp` trains a tiny MAE and then the ranking
model; recall is the share of the patches touching the object that are among the quarter with the highest scores, mean
over 1,000 held-out scenes. Beside it random and center, and the same ranking model before training. With --controls two
more models are trained on the same autoencoder: by labels of other images, which know where patches lie and not what is
there, and by labels in any order. What was interrupted goes on where the commit is the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from kept_numbers import KeptNumbers
from over_seeds import summary
from record import record

from vitrail.contracts import Batch
from vitrail.data.patch_labels import Drawn
from vitrail.methods.ltrp import Ltrp
from vitrail.rankers import open_ranker
from vitrail.rankers.center import Center
from vitrail.recipes import ltrp
from vitrail.recipes.run import Verbs, family_of, run
from vitrail.recipes.sources import scenes
from vitrail.train import seed_everything

KEEPS = (0.125, 0.25, 0.5)


class OfOtherImages(Ltrp):
    """Learns from the labels that the next image of the batch gives to the same patches."""

    def labeled(self, batch: Batch) -> Drawn:
        return super().labeled(batch._replace(images=batch.images.roll(1, 0)))


class InAnyOrder(Ltrp):
    """Learns from labels that are shuffled within each image."""

    def labeled(self, batch: Batch) -> Drawn:
        ids, labels = super().labeled(batch)
        return Drawn(ids, labels.gather(1, torch.rand(labels.shape).argsort(1).to(labels.device)))


CONTROLS: dict[str, type[Ltrp]] = {"labels_of_other_images": OfOtherImages, "labels_in_any_order": InAnyOrder}


class Chance(torch.nn.Module):
    """Another random order for each image."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.mean, self.std, self.image_size, self.patch_size = like.mean, like.std, like.image_size, like.patch_size
        self.needs_number, self.generator = False, torch.Generator().manual_seed(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        grid = (images.shape[2] // self.patch_size[0], images.shape[3] // self.patch_size[1])
        return torch.rand(len(images), *grid, generator=self.generator)


@contextmanager
def trained_by(method: type[Ltrp]) -> Iterator[None]:
    """Recipes of LTRP build this method inside."""
    kept, ltrp.Ltrp = ltrp.Ltrp, method  # type: ignore[misc]
    try:
        yield
    finally:
        ltrp.Ltrp = kept  # type: ignore[misc]


def recalls(ranker: Any, recipe: Any) -> dict[str, float]:
    """Percent, by the share that is kept."""
    val, side = scenes(recipe.data.scenes).val, recipe.augment.image_size
    return {f"recall_{keep:g}": ltrp.recall(ranker, val, side, keep) for keep in KEEPS}


def trained(recipe: Any, folder: Path) -> Any:
    """Train, or go on; the trainer's outcome."""
    resume = (folder / "config.yaml").is_file()
    return run(recipe, Verbs(resume=resume), folder)


def kendall(folder: Path) -> float:
    """Tau between scores and labels in the last lines of metrics."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return float([line["train/kendall"] for line in lines if "train/kendall" in line][-1])


def before_and_after(recipe: Any, folder: Path) -> dict[str, dict[str, float]]:
    """Random, center, and the ranking model before and after training."""
    seed_everything(recipe.train.seed)
    untrained = family_of(recipe).build(recipe, 0, 1).method.ranker.eval()
    found = {"random": recalls(Chance(untrained), recipe), "untrained": recalls(untrained, recipe)}
    found["center"] = recalls(Center(untrained.image_size, untrained.patch_size), recipe)
    outcome = trained(recipe, folder)
    found["trained"] = recalls(open_ranker("ltrp", str(folder)), recipe)
    found["trained"] |= {"kendall": kendall(folder), "seconds": outcome.seconds}
    state = torch.load(folder / "mae" / "checkpoints" / "last.pt", weights_only=True)
    found["trained"]["seconds_mae"] = state["seconds"]
    return found


def control(method: type[Ltrp], recipe: Any, folder: Path) -> dict[str, float]:
    """The ranking model that this method has trained."""
    with trained_by(method):
        trained(recipe, folder)
    return recalls(open_ranker("ltrp", str(folder)), recipe) | {"kendall": kendall(folder)}


def measure(seed: int, kept: KeptNumbers, controls: bool) -> dict[str, dict[str, float]]:
    """All models of one seed."""
    recipe: Any = ltrp.scenes_ltrp().override([f"train.seed={seed}", f"data.scenes.seed={seed}"])
    folder = kept.folder / f"ltrp-{seed}"
    found: dict[str, dict[str, float]] = kept.once(f"ltrp-{seed}", lambda: before_and_after(recipe, folder))
    same_mae = recipe.override([f"mae={folder / 'mae'}"])
    for name, method in CONTROLS.items() if controls else ():
        own = kept.folder / f"{name}-{seed}"
        found = found | {name: kept.once(own.name, partial(control, method, same_mae, own))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--controls", action="store_true", help="train the two controls, too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=Path, default=Path("runs/ltrp_scenes"), help="one folder a commit")
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept, found = KeptNumbers(options.runs, {}), []
    for seed in options.seeds:
        found.append(measure(seed, kept, options.controls))
        words = [f"{name} {numbers['recall_0.25']:.1f}" for name, numbers in found[-1].items()]
        print(f"seed {seed}: {', '.join(words)}", flush=True)
    models = {name: summary([row[name] for row in found]) for name in found[0]}
    path = record("ltrp_scenes", {"threads": options.threads, "recall_in_percent": models}, options.out)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
