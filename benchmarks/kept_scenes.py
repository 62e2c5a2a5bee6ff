"""What a classifier knows of generated scenes by the patches that random, center and LTRP keep.

    python benchmarks/kept_scenes.py [--seed 0] [--keeps 0.25 0.5] [--runs FOLDER] [--out FILE.json]

`scenes_ltrp` trains a tiny MAE and the ranking model, without labels. Then classifiers learn by `scenes_kept`: one for
each ranker and share, on the patches that it keeps, and one on whole images, which is shown the patches that rankers
keep without having learned on such. Top-1 of 1,000 held-out scenes; two accuracies of independent images differ by 1.9
points in one standard error at 78 %. What was interrupted goes on, on the same commit.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from kept_numbers import KeptNumbers
from record import record

from vitrail.recipes.measure import measure
from vitrail.recipes.run import Verbs, resolve, run


class Scenes:
    """Runs on the scenes of one seed, each trained once."""

    def __init__(self, kept: KeptNumbers, seed: int) -> None:
        self.kept, self.common = kept, [f"train.seed={seed}", f"data.scenes.seed={seed}", "train.evaluate_every=null"]

    def train(self, name: str, recipe: str, *settings: str) -> dict[str, Any]:
        """Train, or go on; the last numbers and the seconds."""

        def compute() -> dict[str, Any]:
            folder = self.kept.folder / name
            resume = (folder / "checkpoints" / "last.pt").is_file()
            verbs = Verbs(resume=resume, overwrite=not resume and folder.exists())
            outcome = run(resolve(recipe).override([*self.common, *settings]), verbs, folder)
            return {**outcome.losses, "seconds": outcome.seconds}

        return self.kept.once(name, compute)

    def shown(self, keeps: list[float], rankers: list[str]) -> dict[str, float]:
        """Top-1 of the classifier of whole images, on what rankers keep."""

        def compute() -> dict[str, float]:
            asked = [f"keeps={','.join(map(str, keeps))}", "rounds=0"]
            where, out = str(self.kept.folder / "whole"), self.kept.folder / "selection_accuracy.json"
            report, _ = measure("selection_accuracy", where, "scenes", asked, rankers=rankers, out=out)
            return {name: value for name, value in report.numbers.items() if name.endswith("_top1")}

        return self.kept.once("shown", compute)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keeps", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--runs", type=Path, default=Path("runs/kept_scenes"))
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    kept = KeptNumbers(options.runs, {"seed": options.seed, "keeps": options.keeps})
    scenes = Scenes(kept, options.seed)
    ltrp = scenes.train("ltrp", "scenes_ltrp")
    whole = scenes.train("whole", "scenes_kept", "method.keep=1", "keeps=[]")
    rankers = {"random": "random", "center": "center", "ltrp": f"ltrp={kept.folder / 'ltrp'}"}
    learned: dict[str, float] = {}
    for keep in options.keeps:
        for name, words in rankers.items():
            settings = [f"method.keep={keep}", "keeps=[]", f"ranker={words}"]
            learned[f"{name}_{keep:g}"] = scenes.train(f"{name}_{keep:g}", "scenes_kept", *settings)["val/top1"]
            print(f"{name} {keep:g}: {learned[f'{name}_{keep:g}']:.1f}", flush=True)
    numbers = {
        "unit": "percent",
        "measured_commit": kept.commit,
        "threads": torch.get_num_threads(),
        "seed": options.seed,
        "ltrp": ltrp,
        "whole_images_top1": whole["val/top1"],
        "learned_on_kept_patches_top1": learned,
        "learned_on_whole_images_top1": scenes.shown(options.keeps, list(rankers.values())),
    }
    print(f"written to {record('kept_scenes', numbers, options.out)}")


if __name__ == "__main__":
    main()
