"""What do the networks that skip patches learn on generated scenes? Six trainings; accuracy, and recall of patches.

    python benchmarks/scenes_rankers.py [--seeds 0] [--methods evit dge ...] [--take COMMIT] [--runs FOLDER]

Each seed gives other scenes, weights and order. The recipes `scenes_evit`, `scenes_dynamic_vit`, `scenes_ada_vit`,
`scenes_ia_red2` and `scenes_dge` train the same plain classifier first; here it is trained once, and all go on from it.
`scenes_gfnet` has a network of its own. Said are

    accuracy    top-1 of held-out scenes as the network is used, and of the plain classifier; `used` is the share of
                patches and so on that the network worked on; `plain` is that classifier trained on for as long, with
                every patch; of GFNet after each look, and with windows drawn at random or put in the middle
    recall      of the patches that touch the object, those among the share with the highest scores: `trained`; `start`,
                the classifier with what the method adds to it untrained; `untrained`, all of it fresh; `random`, its
                expectation; `center`. Of GFNet, whose network starts fresh, also `random_windows`

in percent, of 1,000 held-out scenes. What was interrupted goes on, what is finished is not measured again: run folders
and numbers lie under RUNS/COMMIT, so those of another commit are taken with --take alone. Each row says its commit, and
that of the classifier, which --classifiers takes from runs of the recipe `scenes`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from record import commit, record

from vitrail.backbones import save_exported
from vitrail.evaluation.patch_recall import PatchRecallConfig, evaluate
from vitrail.rankers import open_ranker
from vitrail.rankers.gfnet import Act, Gfnet, window_scores
from vitrail.recipes.run import Verbs, family_of, resolve, run
from vitrail.recipes.sources import scenes
from vitrail.recipes.sparse import plain_classifier
from vitrail.train import seed_everything

PLAIN = "plain"
METHODS = {
    PLAIN: (),
    "evit": ("fourth_layer", "staged"),
    "dynamic_vit": ("staged",),
    "ada_vit": ("last_block", "summed"),
    "ia_red2": ("group2", "group1"),
    "dge": ("crop",),
    "gfnet": ("window",),
}
"""Rankers by their recipes' names, and their variants, the default first; and the plain classifier, trained on."""
KEEPS = (0.125, 0.25, 0.5)


def recipe_of(name: str, seed: int, settings: tuple[str, ...] = ()) -> Any:
    """`scenes_NAME` with another seed. The plain classifier is an EViT that keeps everything."""
    name, settings = ("evit", (*settings, "method.keep=1")) if name == PLAIN else (name, settings)
    return resolve(f"scenes_{name}").override([f"train.seed={seed}", f"data.scenes.seed={seed}", *settings])


def trained(recipe: Any, folder: Path) -> dict[str, float]:
    """Train, or go on, once; the numbers of the last validation, and seconds: of the clock, and of the processor.

    Those of the processor do not depend on what else the machine does; they miss what came before an interruption.
    """
    kept = folder.parent / f"{folder.name}-trained.json"
    if kept.is_file():
        return json.loads(kept.read_text())  # type: ignore[no-any-return]
    start = time.process_time()
    outcome = run(recipe, Verbs(resume=(folder / "config.yaml").is_file()), folder)
    found = {key.removeprefix("val/"): value for key, value in outcome.losses.items() if key.startswith("val/")}
    found |= {"seconds": outcome.seconds, "processor_seconds": time.process_time() - start}
    kept.write_text(json.dumps(found, indent=2))
    return found


def recalls(ranker: Any, recipe: Any) -> dict[str, float]:
    """Percent: `recall_0.25` and so on of the ranker, and `center_` and `random_` of the two that all must beat."""
    side = recipe.augment.image_size
    config = PatchRecallConfig(keeps=KEEPS, labels="masks", image_size=side)
    return evaluate(ranker, scenes(recipe.data.scenes).val, config, device="cpu").numbers


def of_ranker(found: dict[str, float], key: str = "recall") -> dict[str, float]:
    """Of what `recalls` says, one kind, by the share that is kept."""
    return {f"{keep:g}": found[f"{key}_{keep:g}"] for keep in KEEPS}


def fresh(recipe: Any, path: Path) -> Path:
    """The file of a method before its training."""
    seed_everything(recipe.train.seed)
    save_exported(family_of(recipe).build(recipe, 0, 1).method.export(), path)
    return path


class Windows(torch.nn.Module):
    """A GFNet's ranker whose windows are drawn uniformly."""

    def __init__(self, ranker: Gfnet) -> None:
        super().__init__()
        self.mean, self.std = ranker.mean, ranker.std
        self.image_size, self.patch_size, self.needs_number = ranker.image_size, ranker.patch_size, False
        self.share = ranker.network.config.window / ranker.network.config.image_size
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images: torch.Tensor, *, number: Any = None, generator: Any = None) -> torch.Tensor:
        grid = (images.shape[2] // self.patch_size[0], images.shape[3] // self.patch_size[1])
        window = (max(round(self.share * grid[0]), 1), max(round(self.share * grid[1]), 1))
        return window_scores(torch.rand(len(images), 2, generator=self.generator), grid, window)


@torch.no_grad()
def accuracy_by_look(ranker: Gfnet, recipe: Any) -> dict[str, list[float]]:
    """Top-1 after each look: at the policy's windows, at random ones, and at the middle."""
    val = scenes(recipe.data.scenes).val
    pixels, labels, _ = val.arrays(0, len(val))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(list(values))[:, None, None] for values in (ranker.mean, ranker.std))
    network, truth = ranker.network.eval(), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(0)
    ways: dict[str, Act | None] = {
        "policy": None,
        "random": lambda step, said: torch.rand(said.shape, generator=generator),
        "center": lambda step, said: torch.full_like(said, 0.5),
    }
    found = {}
    for name, act in ways.items():
        logits = torch.cat([network((part - mean) / std, act).logits for part in images.split(250)], 1)
        found[name] = ((logits.argmax(-1) == truth).double().mean(1) * 100).tolist()
    return found


def classifier(seed: int, recipe: Any, runs: Path, given: Path | None) -> tuple[Path, dict[str, Any]]:
    """The plain classifier's run folder, and what is said of it; of one that was given, also the commit it is of."""
    if given is None:
        folder = runs / f"classifier-{seed}"
        return folder, {**trained(plain_classifier(recipe), folder), "commit": runs.name}
    folder = given / f"classifier-{seed}"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    top1 = [line["val/top1"] for line in lines if "val/top1" in line][-1]
    ran = json.loads((folder / "versions.json").read_text())
    return folder, {"top1": top1, "commit": str(ran["commit"])[:12]}


def measure(name: str, seed: int, runs: Path, others: list[Path], given: Path | None) -> dict[str, Any]:
    """One method of one seed; what was measured stays beside its run folder, and in `others` that of other commits."""
    kept = runs / f"{name}-{seed}.json"
    for place in (kept, *(other / kept.name for other in others)):
        if place.is_file():
            return json.loads(place.read_text())  # type: ignore[no-any-return]
    start, words = None, recipe_of(name, seed)
    row: dict[str, Any] = {"commit": runs.name}
    if name != "gfnet":
        start, row["plain_classifier"] = classifier(seed, words, runs, given)
        words = recipe_of(name, seed, (f"init_from={start}",))
    before: dict[str, Path] = {}
    if METHODS[name]:
        before["untrained"] = fresh(recipe_of(name, seed), runs / f"{name}-{seed}-untrained.safetensors")
    if before and start is not None:
        before["start"] = fresh(words, runs / f"{name}-{seed}-start.safetensors")
    folder = runs / f"{name}-{seed}"
    row["network"] = trained(words, folder)
    row["recall"] = {}
    for variant in METHODS[name]:
        found = recalls(open_ranker(name, str(folder), variant=variant), words)
        row["recall"][variant] = {"trained": of_ranker(found)}
        for when, path in before.items():
            row["recall"][variant][when] = of_ranker(recalls(open_ranker(name, str(path), variant=variant), words))
    if METHODS[name]:
        row["recall"] |= {key: of_ranker(found, key) for key in ("center", "random")}
    if name == "gfnet":
        ranker: Any = open_ranker(name, str(folder))
        row["recall"]["random_windows"] = of_ranker(recalls(Windows(ranker), words))
        row["accuracy_by_look"] = accuracy_by_look(ranker, words)
    kept.write_text(json.dumps(row, indent=2))
    return row


def mean(rows: list[Any]) -> Any:
    """Of the same number in each row: its mean, with the standard deviation where there are several rows."""
    first = rows[0]
    if isinstance(first, dict):
        return {key: mean([row[key] for row in rows]) for key in first}
    if isinstance(first, str):
        return sorted(set(rows))
    if isinstance(first, list):
        return [mean(list(values)) for values in zip(*rows, strict=True)]
    if len(rows) == 1:
        return first
    return {"mean": statistics.mean(rows), "deviation": statistics.stdev(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--take", nargs="+", default=[], metavar="COMMIT", help="take numbers of these commits, too")
    parser.add_argument(
        "--classifiers",
        type=Path,
        metavar="FOLDER",
        help="with runs of the recipe scenes, classifier-SEED, to go on from",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/scenes_rankers"))
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = options.runs / commit()
    runs.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, Any] = {}
    for name in options.methods:
        rows = []
        for seed in options.seeds:
            rows.append(measure(name, seed, runs, [options.runs / each for each in options.take], options.classifiers))
            quarter = {
                f"{variant} {when}": values["0.25"]
                for variant in METHODS[name]
                for when, values in rows[-1]["recall"][variant].items()
            }
            told = ", ".join(f"{key} {value:.1f}" for key, value in quarter.items())
            print(f"{name}, seed {seed}: top-1 {rows[-1]['network']['top1']:.1f}; {told or '-'}", flush=True)
        numbers[name] = mean(rows)
    about = {"unit": "percent, seconds", "seeds": options.seeds, "threads": options.threads}
    print(f"written to {record('scenes_rankers', {**about, **numbers}, options.out)}")


if __name__ == "__main__":
    main()
