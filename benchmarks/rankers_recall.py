"""Patch recall of rankers that are trained here, on one grid, each beside its untrained self, random and center.

    python benchmarks/rankers_recall.py --train IMAGES FOLDER [FOLDER ...] [--only NAME ...] [KEY=VALUE ...]
    python benchmarks/rankers_recall.py --train IMAGES FOLDER ... --full --device cuda
    python benchmarks/rankers_recall.py FOLDER --ranker dino=dino_deitsmall16_pretrain.pth

IMAGES is a folder with one folder per class: all networks are trained on it, at 64 pixels in patches of 8. FOLDER is a
tree of COCO, VOC or ADE20K, or a folder with boxes; its validation split is measured, by boxes and by masks where it
has both. Settings KEY=VALUE go to the protocol. Tables are for each rule, and for both averages; random is the
expectation, its error that of one selection drawn at random.

Without --full networks and trainings are as small as minutes of one CPU core ask for: the numbers say how much was
learned in that time, and nothing of what the methods can. With it, networks and lengths are those of the folder_*
recipes. `numbers["trained"]` says of each training what it was. What was interrupted goes on, on the same commit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from kept_numbers import KeptNumbers
from record import record

from vitrail.backbones import save_exported
from vitrail.contracts import ImageSet, Ranker, Sample
from vitrail.data.images import UnreadableImage
from vitrail.evaluation.features import weights_digest
from vitrail.evaluation.patch_recall import PatchRecallConfig, evaluate
from vitrail.rankers import open_ranker
from vitrail.rankers.center import Center
from vitrail.recipes.probe import spread
from vitrail.recipes.rankers import open_rankers
from vitrail.recipes.run import Verbs, family_of, resolve, run
from vitrail.recipes.sources import open_data
from vitrail.recipes.weights import pick_device
from vitrail.train import seed_everything

RULES = ("any", "fraction:0.5")
AVERAGES = ("macro", "micro")
KEEPS = "keeps=0.1,0.25,0.5,0.75"
SIDE, PATCH = 64, 8  # pixels, of the folder_* recipes


class Training(NamedTuple):
    """A run of a recipe."""

    recipe: str
    settings: tuple[str, ...] = ()
    small: tuple[str, ...] = ()  # without --full
    after: tuple[tuple[str, str], ...] = ()  # settings that name the runs of other trainings


VIT = ("backbone.embed_dim=64", "backbone.depth=4", "backbone.heads=2")
FROM_CLASSIFIER = (("init_from", "classifier"),)
SPARSE = ("train.epochs=1", "train.global_batch_size=64", "train.warmup_epochs=0.1", "backbone.drop_path=0", *VIT)
PLAIN = ("method.labels.smoothing=0", "method.labels.mixup=0", "method.labels.cutmix=0")
TRAININGS = {
    "classifier": Training(
        "folder",
        small=(
            *("train.epochs=5", "train.global_batch_size=64", "train.learning_rate=1e-3", "train.warmup_epochs=0.5"),
            *("method.label_smoothing=0", "method.mixup=0", "method.cutmix=0", "backbone.drop_path=0", *VIT),
        ),
    ),
    "mae": Training(
        "folder_mae",
        ("method.normalized_targets=false",),
        (
            *("train.epochs=4", "train.global_batch_size=64", "train.warmup_epochs=0.4", *VIT),
            *("method.decoder.embed_dim=48", "method.decoder.depth=1", "method.decoder.heads=4"),
        ),
    ),
    "ltrp": Training(
        "folder_ltrp",
        small=("train.epochs=2", "train.global_batch_size=64", "train.warmup_epochs=0.2", *VIT),
        after=(("mae", "mae"),),
    ),
    "dino": Training(
        "folder_dino",
        small=(
            *("train.epochs=1", "train.global_batch_size=64", "train.warmup_epochs=0.1", "backbone.drop_path=0", *VIT),
            *("views.locals=2", "method.head.prototypes=512", "method.targets.warmup_epochs=0"),
            "method.frozen_epochs=0",
        ),
    ),
    "evit": Training(
        "folder_evit", ("method.anneal_from=0", "method.anneal_until=0"), (*SPARSE, *PLAIN), FROM_CLASSIFIER
    ),
    "dynamic_vit": Training("folder_dynamic_vit", (), (*SPARSE, *PLAIN), FROM_CLASSIFIER),
    "ada_vit": Training("folder_ada_vit", (), (*SPARSE, *PLAIN), FROM_CLASSIFIER),
    "ia_red2": Training("folder_ia_red2", ("method.warmup=0",), (*SPARSE, *PLAIN), FROM_CLASSIFIER),
    "dge": Training("folder_dge", (), (*SPARSE, *PLAIN), FROM_CLASSIFIER),
    "gfnet": Training(
        "folder_gfnet",
        small=(
            *("train.epochs=3", "train.global_batch_size=64", "train.learning_rate=2e-3", "train.warmup_epochs=0.3"),
            *("method.network.cnn=resnet10t", "method.network.hidden=64", *PLAIN),
            "method.network.cnn_options={channels: [16, 32, 64, 64], stem_width: 16, output_stride: 8}",
        ),
    ),
}
FULL_SPARSE = ("train.epochs=30", "train.learning_rate=1e-4", "train.warmup_epochs=1")  # from a classifier, not scratch
RANKERS = {
    "ltrp": "ltrp",
    "grad_cam": "classifier",
    "tome": "classifier",
    "dino": "dino",
    "evit": "evit",
    "dynamic_vit": "dynamic_vit",
    "ada_vit": "ada_vit",
    "ia_red2": "ia_red2",
    "dge": "dge",
    "gfnet": "gfnet",
}
LEFT_OUT = {"moco": "no method here trains a ResNet by contrast; give --ranker moco=WEIGHTS"}
NOTES = (
    "learned and unseen are the paper's lists of classes, for networks that saw ImageNet-1k; see trained for these",
    "one run of each training: how far another seed lies is not known",
)


class Held:
    """A set whose decoded images stay in memory, with all that the set has."""

    def __init__(self, data: ImageSet) -> None:
        self._data, self._samples = data, dict[int, Sample | UnreadableImage]()

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._samples:
            try:
                self._samples[index] = self._data[index]
            except UnreadableImage as error:
                self._samples[index] = error
        found = self._samples[index]
        if isinstance(found, UnreadableImage):
            raise found
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)


class Trainer:
    """Trained and untrained networks of a benchmark, each made once."""

    def __init__(self, kept: KeptNumbers, images: str, full: bool, device: str, seed: int) -> None:
        self.kept, self.images, self.full, self.device, self.seed = kept, images, full, device, seed

    def trained(self, name: str) -> dict[str, Any]:
        """Train, or go on; what the training was."""
        training = TRAININGS[name]
        for _, other in training.after:
            self.trained(other)
        return self.kept.once(f"trained {name}", lambda: self._train(name))

    def untrained(self, name: str) -> str:
        """The file of the network with which the training would start from scratch."""
        path = self.kept.folder / "untrained" / f"{name}.safetensors"
        if not path.is_file():
            recipe = self._recipe(name, fresh=True)
            seed_everything(self.seed)
            path.parent.mkdir(exist_ok=True)
            save_exported(family_of(recipe).build(recipe, 0, 1).method.export(), path)
        return str(path)

    def _train(self, name: str) -> dict[str, Any]:
        folder, recipe = self.kept.folder / name, self._recipe(name)
        resume = (folder / "checkpoints" / "last.pt").is_file()
        outcome = run(recipe, Verbs(resume=resume, overwrite=not resume and folder.exists()), folder)
        images = len(open_data(self.images).train)
        return {
            "recipe": TRAININGS[name].recipe,
            "settings": [*TRAININGS[name].settings, *self._sizes(name)],
            "after": dict(TRAININGS[name].after),
            "images": images,
            "epochs": recipe.train.epochs,
            "steps": outcome.steps,
            "images_a_step": recipe.train.global_batch_size,
            "seconds": round(outcome.seconds),
            "last": {key: round(value, 3) for key, value in outcome.losses.items()},
        }

    def _recipe(self, name: str, fresh: bool = False) -> Any:
        training = TRAININGS[name]
        common = [f"data.root={self.images}", f"train.seed={self.seed}", f"train.device={self.device}"]
        common += ["train.evaluate_every=null", f"workers={8 if self.full else 0}"]
        # Without the autoencoder a recipe of LTRP is refused; its own weights do not enter the ranking model's.
        asked = [pair for pair in training.after if not (fresh and pair[0] == "init_from")]
        after = [f"{key}={self.kept.folder / other}" for key, other in asked]
        return resolve(training.recipe).override([*training.settings, *self._sizes(name), *common, *after])

    def _sizes(self, name: str) -> tuple[str, ...]:
        training = TRAININGS[name]
        if not self.full:
            return training.small
        return FULL_SPARSE if training.after == FROM_CLASSIFIER else ()


def measured(
    ranker: Ranker, name: str, data: ImageSet, labels: str, asked: list[str], device: str
) -> dict[str, dict[str, Any]]:
    """Tables of a ranker by rule and average, in percent."""
    own = [rule for rule in asked if rule.startswith("positive_rule=")]
    rules = own or [f"positive_rule={rule}" for rule in RULES]
    found: dict[str, dict[str, Any]] = {}
    for rule in rules:
        for average in AVERAGES:
            settings = [f"image_size={SIDE}", KEEPS, *asked, rule, f"average={average}", f"labels={labels}"]
            config = PatchRecallConfig().override(settings)
            details = evaluate(ranker, data, config, name=name, device=device).details
            curves = {key: [round(value, 2) for value in values] for key, values in details["curves"].items()}
            found[f"{config.positive_rule}, {average}"] = {
                "rows": {key: values for key, values in curves.items() if key.startswith("recall")},
                "beside": {key: values for key, values in curves.items() if not key.startswith("recall")}
                | {"images": details["images"], "patches": details["patches"], "notes": details["notes"]},
            }
    return found


def kinds_of(data: ImageSet) -> list[str]:
    """What marks objects in a set: boxes, masks, or both."""
    first = next(
        data[index] for index in range(len(data)) if data[index].mask is not None or data[index].boxes is not None
    )
    there = {"boxes": first.boxes is not None, "masks": first.mask is not None}
    return [kind for kind, known in there.items() if known]


def table(
    folder: Path, rankers: dict[str, Any], kept: KeptNumbers, asked: list[str], device: str, most: int
) -> dict[str, Any]:
    """All rankers on one tree: by label, rule and average, what stands beside them and a row of each."""
    data: Any = Held(spread(open_data(str(folder)).val, most))
    tables: dict[str, Any] = {}
    for labels in kinds_of(data):
        for name, opening in rankers.items():
            mark = f"{folder.name} {labels} {name}"
            found = kept.once(f"{mark} {data.digest()}", lambda: measured(opening(), name, data, labels, asked, device))  # noqa: B023
            for how, part in found.items():
                place = tables.setdefault(f"{folder.name}, {labels}, {how}", part["beside"] | {"rows": {}})
                place["rows"][name] = part["rows"]
            first = next(iter(found.values()))
            print(f"{mark:<44}", *(f"{value:5.1f}" for value in first["rows"]["recall"]), flush=True)
    return tables


def openings(options: argparse.Namespace, kept: KeptNumbers, device: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What gives each ranker, by title, and what was trained for it."""
    found: dict[str, Any] = {"center": lambda: Center((SIDE, SIDE), (PATCH, PATCH))}
    trained: dict[str, Any] = {}
    if options.train is not None:
        trainer = Trainer(kept, options.train, options.full, device, options.seed)
        for name in options.only or RANKERS:
            network = RANKERS[name]
            trained[network] = trainer.trained(network)
            trained |= {other: trainer.trained(other) for _, other in TRAININGS[network].after}
            print(f"{network}: {trained[network]}", flush=True)
            places = {name: str(kept.folder / network), f"{name} untrained": trainer.untrained(network)}
            for title, where in places.items():
                found[title] = lambda name=name, where=where: open_ranker(name, where, device=device)
    return found, trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="FOLDER or KEY=VALUE")
    parser.add_argument("--train", default=None, metavar="IMAGES", help="folder to train all rankers on")
    parser.add_argument("--only", nargs="+", default=[], choices=list(RANKERS), help="rankers to train; default: all")
    parser.add_argument("--full", action="store_true", help="networks and lengths of the folder_* recipes")
    parser.add_argument("--ranker", action="append", default=[], metavar="NAME[:VARIANT][=WEIGHTS]")
    parser.add_argument("--images", type=int, default=500, help="of a validation split, at most, evenly spaced")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=Path, default=Path("runs/rankers_recall"))
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_intermixed_args()
    folders = [Path(word) for word in options.words if "=" not in word]
    asked = [word for word in options.words if "=" in word]
    device = pick_device(options.device)
    given = open_rankers(options.ranker, device=device, image_size=SIDE, patch_size=PATCH)
    decides = {name: getattr(options, name) for name in ("train", "full", "seed", "images")}
    decides |= {"settings": asked, "device": device, "given": {name: weights_digest(given[name]) for name in given}}
    kept = KeptNumbers(options.runs, decides)
    rankers, trained = openings(options, kept, device)
    rankers |= {title: lambda ranker=ranker: ranker for title, ranker in given.items()}
    numbers: dict[str, Any] = {
        "unit": "percent",
        "measured_commit": kept.commit,
        "threads": torch.get_num_threads(),
        "full": options.full,
        "seed": options.seed,
        "grid": [SIDE // PATCH, SIDE // PATCH],
        "settings": asked,
        "trained": trained,
        "left_out": LEFT_OUT,
        "notes": NOTES,
        "tables": {},
    }
    for folder in folders:
        numbers["tables"] |= table(folder, rankers, kept, asked, device, options.images)
    print(f"written to {record('rankers_recall', numbers, options.out)}")


if __name__ == "__main__":
    sys.exit(main())
