"""The command line: words to recipes, protocols, pictures and pages. Nothing heavy is imported before it is used."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vitrail import catalog

app = typer.Typer(
    name="vitrail",
    help="Patch-level learning with Vision Transformers: train, evaluate and look.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _folder(out: Path | None) -> Path | None:
    """--out of a command that writes a folder, which can be one."""
    from vitrail.recipes.files import check_out

    if out is not None:
        check_out(out)
    return out


Weights = Annotated[
    str,
    typer.Option("--weights", "-w", help="A checkpoint, a run folder, or `pretrained` together with --model."),
]
PictureFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.", callback=_folder)]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A timm name, pvt_small, cvt_13, ...; needed where the file does not tell."),
]
Key = Annotated[str, typer.Option(help="Which model of a checkpoint that holds several: teacher, student, auto.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings as key.subkey=value.", metavar="[KEY=VALUE]...")]


def main() -> None:
    """Entry point: people get one line that says what is wrong and what to do; VITRAIL_DEBUG=1 shows the traceback."""
    signal.signal(signal.SIGINT, _stop)  # training has its own: it saves first
    warnings.showwarning = _note
    try:
        app()
    except Exception as error:
        if os.environ.get("VITRAIL_DEBUG") or not _for_people(error):
            raise
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)


def _stop(number: int, frame: Any) -> None:
    typer.secho("stopped", fg="yellow", err=True)
    sys.exit(128 + number)


def _show_progress() -> None:
    """Lines of progress on stderr where no terminal shows a bar."""
    import logging

    log = logging.getLogger("vitrail")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)


def _note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning in a line of its own, without the line of code, and once for all processes."""
    if int(os.environ.get("RANK", "0")) == 0:
        typer.secho(f"note: {message}", fg="yellow", err=True)


def _for_people(error: BaseException) -> bool:
    """Our own errors speak to people; a stranger's, but for wrong values and files, are defects with a traceback."""
    return isinstance(error, ValueError | OSError) or type(error).__module__.split(".")[0] == "vitrail"


@app.command("list")
def list_(
    what: Annotated[
        Literal[
            "all",
            "recipes",
            "studies",
            "protocols",
            "pictures",
            "methods",
            "rankers",
            "localizers",
            "masks",
            "regularizers",
        ],
        typer.Argument(help="Which list."),
    ] = "all",
    name: Annotated[
        str | None, typer.Argument(help="With protocols: the one whose settings are named.", metavar="[PROTOCOL]")
    ] = None,
) -> None:
    """Name what there is: recipes, studies, protocols, pictures, methods, rankers, localizers, masks, regularizers.

    Examples:

      vitrail list recipes

      vitrail list protocols localization     (its settings)
    """
    if name is not None:
        _list_settings(what, name)
        return
    pictures = [catalog.Entry(name, "", summary) for name, summary in PICTURES.items()]
    lists: dict[str, tuple[str, Sequence[catalog.Entry | catalog.RankerEntry]]] = {
        "recipes": ("vitrail train RECIPE", catalog.recipes()),
        "studies": ("vitrail study STUDY", catalog.studies()),
        "protocols": ("vitrail evaluate PROTOCOL", catalog.protocols()),
        "pictures": ("vitrail show PICTURE", pictures),
        "methods": ("in vitrail.methods", catalog.parts("methods")),
        "rankers": (
            "vitrail rank IMAGES --ranker NAME[:VARIANT]=WEIGHTS, the default variant first",
            catalog.rankers(),
        ),
        "localizers": (
            "vitrail localize IMAGES --localizer NAME[:VARIANT]=WEIGHTS, the default variant first",
            catalog.localizers(),
        ),
        "masks": ("in vitrail.masks, or method.mask.kind=MASK in a recipe of mae or ibot", catalog.kinds("masks")),
        "regularizers": (
            "in vitrail.regularizers, or method.regularizers=[{kind: REGULARIZER}] in a recipe, but of mae",
            catalog.kinds("regularizers"),
        ),
    }
    for name, (how, entries) in lists.items():
        if what in ("all", name):
            typer.secho(f"{name}  ({how})", bold=True)
            for entry in entries:
                typer.echo(f"  {entry.name:<20} {entry.summary}")
                for line in _needs(entry):
                    typer.echo(f"{'':<25}{line}")
            typer.echo()


def _list_settings(what: str, name: str) -> None:
    if what != "protocols":
        raise ValueError(
            f"settings of {what} are not listed, those of protocols are: vitrail list protocols PROTOCOL; "
            "`vitrail train RECIPE --dry-run` prints those of a recipe"
        )
    entry = catalog.find(catalog.protocols(), name, "protocol")
    typer.secho(f"{name}  (vitrail evaluate {name} SETTING=VALUE ...; of the images data.SETTING=VALUE)", bold=True)
    for each in catalog.settings_of(entry):
        typer.echo(f"  {f'{each.name}={each.default}':<28} {each.kind}")
        if each.summary:
            typer.echo(f"      {each.summary}")


def _needs(entry: catalog.Entry | catalog.RankerEntry) -> list[str]:
    """What a ranker or a localizer reads, and its variants."""
    if not isinstance(entry, catalog.RankerEntry):
        return []
    variants = [f"variants: {', '.join(entry.variants)}"] if len(entry.variants) > 1 else []
    return [f"weights: {entry.weights}" if entry.weights else "needs no weights", *variants]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.", callback=_folder)] = Path(
        "vitrail-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of scenes, weights and order.")] = 0,
    budget: Annotated[float, typer.Option(help="Share of the recipe's scenes, in (0, 1].")] = 0.7,
) -> None:
    """Train a tiny ViT on generated scenes with and without SAR, and write a page that compares them.

    Needs no data, no download and no GPU; about two and a half minutes on two CPU cores.

    Example: vitrail demo --out my-demo
    """
    from vitrail.demo import run_demo

    page = run_demo(out, seed=seed, budget=budget)
    typer.echo(f"\nopen {page}")


@app.command()
def doctor(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of images, or a tree of VOC, COCO, ADE20K, ...")
    ] = None,
    patch_size: Annotated[int, typer.Option(help="Patch size of the model, pixels.")] = 16,
    image_size: Annotated[int, typer.Option(help="Image size to train at, pixels.")] = 224,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where runs will be written; its disk is checked.")] = Path(),
    every: Annotated[bool, typer.Option("--all", help="Decode every image, not a sample.")] = False,
) -> None:
    """Check this machine, and a folder of images; each finding comes with its mend.

    Example: vitrail doctor photos/ --image-size 224 --patch-size 16
    """
    from vitrail.doctor import findings

    marks = {"ok": ("ok     ", "green"), "warning": ("warning", "yellow"), "error": ("error  ", "red")}
    found = findings(folder, patch_size=patch_size, image_size=image_size, out=out, every=every)
    for finding in found:
        mark, color = marks[finding.level]
        typer.secho(mark, fg=color, nl=False)
        typer.echo(f"  {finding.what}")
        if finding.mend:
            typer.echo(f"         -> {finding.mend}")
    if any(finding.level == "error" for finding in found):
        raise typer.Exit(1)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (`vitrail list recipes`) or a YAML file.")],
    settings: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; default runs/RECIPE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; nothing may change.")] = False,
    extend: Annotated[
        int | None, typer.Option("--extend", help="Train the run in --out longer, to so many epochs in all.")
    ] = None,
    init_from: Annotated[
        str | None, typer.Option("--init-from", help="Start a new run from these weights, a run or a file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build all, print the configuration, stop.")] = False,
) -> None:
    """Train by a recipe; `devices=2` starts two processes, torchrun works too.

    Examples:

      vitrail train folder_sar data.root=photos --out runs/photos

      vitrail train folder_sar data.root=photos train.epochs=100 devices=2 --out runs/photos

      vitrail train folder_mae data.root=photos method.mask.kind=dpp method.mask.tau=0.5 --out runs/mae

      vitrail train finetune_mae data.root=flowers --init-from runs/mae --out runs/flowers

      vitrail train scenes --resume --out runs/scenes

      vitrail train scenes --extend 10 --out runs/scenes
    """
    if not recipe.endswith((".yaml", ".yml")):
        catalog.find(catalog.recipes(), recipe, "recipe")  # a typing error is told before torch is imported
    from vitrail.recipes.files import check_out, check_root
    from vitrail.recipes.rankers import check_weights

    if sum((resume, extend is not None, init_from is not None)) > 1:
        raise ValueError("--resume, --extend and --init-from exclude each other; choose one")
    out = out or Path("runs") / Path(recipe).stem
    check_weights(init_from)
    check_out(out)
    check_root(settings or [])
    from vitrail.recipes.run import Verbs, describe, prepare, run  # torch: what can be told without is told before

    verbs = Verbs(resume=resume, extend=extend, init_from=init_from, overwrite=overwrite)
    config, devices = prepare(recipe, settings or [], verbs, out)
    if dry_run:
        words = describe(config, devices)
        typer.echo(config.yaml(), nl=False)
        typer.echo(words, err=True)
        return
    if devices > 1:
        from vitrail.train import launch, launched

        if not launched():
            raise typer.Exit(launch(devices))
    run(config, verbs, out)
    if int(os.environ.get("RANK", "0")) == 0:
        typer.echo(f"done: {out}   look at it with: vitrail report {out}")


@app.command()
def label(
    recipe: Annotated[str, typer.Argument(help="A recipe of LTRP, or a YAML file: its images and what is removed.")],
    settings: Overrides = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the labels.", callback=_folder)] = Path("labels"),
    draws: Annotated[int, typer.Option(help="Sets of visible patches an image.")] = 4,
    shard: Annotated[
        str,
        typer.Option(
            help="I/N: this command does the I-th of N parts, as in 2/4; another machine the others. Images are "
            "divided by shards of 512, so there is work for as many parts as these are."
        ),
    ] = "1/1",
    device: Device = "auto",
) -> None:
    """Label patches once, by a masked autoencoder, for trainings of LTRP; called again, it goes on where it stopped.

    `devices=2` starts two processes, torchrun works too; --shard parts the work by hand. All write into one folder, or
    into their own: the files of all parts together are the labels.

    Examples:

      vitrail label folder_ltrp data.root=photos mae=runs/mae --draws 8 --out labels/photos

      vitrail label folder_ltrp data.root=photos mae=runs/mae devices=8 --draws 8 --out labels/photos

      vitrail label folder_ltrp data.root=photos mae=runs/mae --shard 2/4 --draws 8 --out labels/photos
    """
    if not recipe.endswith((".yaml", ".yml")):
        catalog.find(catalog.recipes(), recipe, "recipe")
    from vitrail.data.patch_labels import Share
    from vitrail.recipes.labels import label_by
    from vitrail.recipes.run import devices_of
    from vitrail.train import launch, launched, leave

    share = Share.parse(shard)
    devices, chosen = devices_of(settings or [])
    if devices > 1 and not launched():
        raise typer.Exit(launch(devices))
    first = int(os.environ.get("RANK", "0")) == 0
    if first:
        _show_progress()
    folder, words = label_by(recipe, chosen, out, draws, device=device, share=share)
    leave()
    if first:
        typer.echo(f"written: {folder}   {words}")


@app.command()
def neighbors(
    recipe: Annotated[str, typer.Argument(help="A recipe of CoTAP, or a YAML file: its object-centric images.")],
    settings: Overrides = None,
    init_from: Annotated[
        str | None, typer.Option("--init-from", help="The weights that training is to start from: a run or a file.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Neighbors of each image.", min=1)] = 20,
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the table.")] = Path("neighbors.safetensors"),
    device: Device = "auto",
) -> None:
    """Search each training image's nearest neighbors once, for trainings of CoTAP; called again, it goes on.

    A training without `neighbors=FILE` does this by itself. The table holds for these images and these weights.

    Example:

      vitrail neighbors folder_cotap data.root=photos --init-from runs/dino --out neighbors.safetensors
    """
    if not recipe.endswith((".yaml", ".yml")):
        catalog.find(catalog.recipes(), recipe, "recipe")
    if init_from is None:
        raise ValueError("neighbors needs --init-from: the weights that see the images, as training starts from them")
    from vitrail.recipes.rankers import check_weights

    check_weights(init_from)
    from vitrail.recipes.cotap import neighbors_by

    _show_progress()
    path = neighbors_by(recipe, settings or [], out, k, init_from=init_from, device=device)
    typer.echo(f"written: {path}   train with: vitrail train {recipe} neighbors={path} --init-from {init_from}")


@app.command("object-masks")
def object_masks(
    weights: Weights,
    data: Annotated[
        str, typer.Option("--data", "-d", help="An image folder, a tree of VOC, COCO, ADE20K ..., or `scenes`.")
    ],
    settings: Overrides = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the masks.", callback=_folder)] = Path(
        "object-masks"
    ),
    split: Annotated[Literal["train", "val"], typer.Option(help="Which of the images.")] = "train",
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that cut; default: as many as there are cores.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images; 0 does it in this one.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the backbone sees at a time.")] = 32,
    model: Model = None,
    key: Key = "auto",
    device: Device = "auto",
) -> None:
    """Cut the object out of each image once, by attention and GrabCut, for LocLoc; called again, it goes on.

    A training without `object_masks=FOLDER` does this by itself. The masks hold for these images and these weights.

    Examples:

      vitrail object-masks --weights dino_vitsmall16.pth --model vit_small_patch16_224 --data photos --out masks

      vitrail object-masks heads=0,1,2 high=0.1 low=0.03 --weights runs/dino --data photos --processes 8 --out masks
    """
    from vitrail.recipes.files import existing
    from vitrail.recipes.rankers import check_weights

    check_weights(weights)
    if data != "scenes":
        existing(data)
    from vitrail.recipes.object_masks import masks_by  # torch: what can be told without is told before

    _show_progress()
    how: dict[str, Any] = {"split": split, "processes": processes, "workers": workers, "batch_size": batch_size}
    masks_by(weights, data, settings or [], out, model=model, key=key, device=device, **how)
    typer.echo(f"written: {out}   look at how masks come about with: vitrail show grabcut IMAGE... --weights {weights}")


@app.command()
def costs(
    settings: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the numbers, as JSON.")] = None,
    device: Device = "auto",
) -> None:
    """Count and time LocLoc and PPD, module by module: weights, operations, seconds a batch (LocLoc's Tables 1 to 3).

    Examples:

      vitrail costs

      vitrail costs outputs=1000 geg.wiring=released batch=32 rounds=5 --out costs.json
    """
    import json

    from vitrail.recipes.costs import CostsConfig, costs_table
    from vitrail.recipes.costs import costs as measured

    config = CostsConfig().override(settings or [])
    found = measured(config, device)
    typer.echo(costs_table(found, config))
    if out is not None:
        rows = [row._asdict() for row in found.rows]
        words = {"settings": config.plain(), "device": found.device, "modules": rows, "less_percent": found.claims}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(words, indent=2) + "\n")
        typer.echo(f"written: {out}")


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="`vitrail list studies` names them.", metavar="STUDY")],
    settings: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; default studies/STUDY.")] = None,
    shard: Annotated[
        str, typer.Option(help="I/N: this command does every N-th cell from the I-th on; others do the rest.")
    ] = "1/1",
    runs: Annotated[
        Path | None, typer.Option(help="Folder of the trainings; several studies may share them. Default OUT/runs.")
    ] = None,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and what they cost, stop.")] = False,
) -> None:
    """Fill a paper's table: train and measure cell by cell, ours beside the published numbers, on one page.

    Called again, it goes on where it stopped. Settings of the study choose cells; all others go to every recipe.

    Examples:

      vitrail study augmentation cifar10=data/cifar-10-batches-py --dry-run

      vitrail study augmentation cifar10=data/cifar-10-batches-py table=I methods=simclr,moco --out studies/crops

      vitrail study augmentation scenes=true methods=simclr rows=crop-bgjf,whole-bgjf --out studies/scenes

      vitrail study sar_table1b imagenet100=data/imagenet100 --runs runs/sar --out studies/sar_table1b
    """
    entry = catalog.find(catalog.studies(), name, "study")
    from importlib import import_module

    from vitrail.recipes.files import check_out

    out = out or Path("studies") / name
    asked = getattr(import_module(entry.module), name)(settings or [])
    for folder in (out, runs or out):
        check_out(folder)
    from vitrail.data.patch_labels import Share  # torch: what can be told without is told before
    from vitrail.report.study import listing, run_and_write

    share = Share.parse(shard)
    if dry_run:
        for line in listing(asked, out, share, runs):
            typer.echo(line)
        return
    _show_progress()
    page, failed = run_and_write(asked, out, runs=runs, device=device, share=share)
    typer.echo(f"written: {page}")
    if failed:
        raise typer.Exit(1)


Measured = Annotated[
    list[str] | None,
    typer.Option(
        "--ranker", "-r", help="NAME[:VARIANT][=WEIGHTS], for protocols of rankers; several for selection_accuracy."
    ),
]
Locating = Annotated[
    str | None,
    typer.Option("--localizer", "-l", help="For localization: NAME[:VARIANT][=WEIGHTS]; default: what weights are."),
]
HeatMapFolder = Annotated[
    Path | None, typer.Option("--heat-maps", help="For localization: a folder of another program's maps.")
]
HeldOutMapFolder = Annotated[
    Path | None, typer.Option("--held-out-maps", help="And of the held-out images, if in another folder.")
]


@app.command()
def evaluate(
    protocol: Annotated[str, typer.Argument(help="`vitrail list protocols` names them.")],
    data: Annotated[
        str, typer.Option("--data", "-d", help="An image folder, a tree of VOC, COCO, ADE20K, DAVIS ..., or `scenes`.")
    ],
    settings: Overrides = None,
    weights: Annotated[
        str | None, typer.Option("--weights", "-w", help="A checkpoint, a run folder, or `pretrained` with --model.")
    ] = None,
    ranker: Measured = None,
    localizer: Locating = None,
    heat_maps: HeatMapFolder = None,
    held_out_maps: HeldOutMapFolder = None,
    model: Model = None,
    key: Key = "auto",
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="A file that ends in .json, or a folder for PROTOCOL.json; default: the run's evaluation/, or "
            "evaluation/NAME here for other weights.",
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of cached features; default: vitrail/ in the user's cache folder.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute features anew, keep none.")] = False,
) -> None:
    """Measure a backbone, a ranker or a localizer by a published protocol; the numbers come with their protocol card.

    `vitrail list protocols PROTOCOL` names its settings, KEY=VALUE.

    Examples:

      vitrail evaluate knn --weights runs/photos --data photos

      vitrail evaluate attention_jaccard -w dino_vitsmall16.pth -m vit_small_patch16_224 -d VOCdevkit/VOC2012

      vitrail evaluate patch_recall --ranker ltrp=runs/ltrp --data coco keeps=0.1,0.25 data.missing=leave_out

      vitrail evaluate selection_accuracy -w runs/photos -d photos --ranker center --ranker ltrp=ltrp.safetensors

      vitrail evaluate localization preset=wsolevaluation --localizer lost=dino.pth --data CUB_200_2011

      vitrail evaluate localization threshold=test_set --heat-maps scoremaps --data CUB_200_2011

      vitrail evaluate robustness --weights runs/sar --data photos baseline=runs/baseline workers=4
    """
    from vitrail.recipes.files import existing
    from vitrail.recipes.localizers import check_localizers
    from vitrail.recipes.rankers import check_protocol

    check_protocol(protocol, weights, ranker or [])
    localizers = [localizer] if localizer else []
    localizers += [f"heat_maps={heat_maps}"] if heat_maps else []
    check_localizers(protocol, weights, localizers)
    if held_out_maps is not None:
        existing(str(held_out_maps))
    if data != "scenes":
        existing(data)
    from vitrail.recipes.measure import measure  # torch: what can be told without is told before
    from vitrail.recipes.tell import told

    _show_progress()
    if cache is None and not no_cache:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrail" / "features"
    more: dict[str, Any] = {"model": model, "key": key, "device": device, "out": out, "cache": cache}
    more |= {"localizers": localizers, "held_out_maps": None if held_out_maps is None else str(held_out_maps)}
    report, path = measure(protocol, weights, data, settings or [], rankers=ranker or [], **more)
    for line in told(report):
        typer.echo(line)
    typer.echo(f"written: {path}")


RANKER = "NAME, NAME=WEIGHTS or NAME:VARIANT=WEIGHTS; `vitrail list rankers` names them."
Normalized = Annotated[
    bool | None,
    typer.Option(
        "--normalized-targets/--plain-targets",
        help="For reconstruction and removal, where the file does not say: what its decoder predicts.",
    ),
]
DecoderHeads = Annotated[
    int | None,
    typer.Option("--decoder-heads", help="For these, likewise: how many attention heads its decoder has."),
]
Size = Annotated[
    int | None,
    typer.Option(help="Shorter side in pixels, of masks and reconstructions both; default: the model's, or 224."),
]
Patch = Annotated[
    str | None,
    typer.Option(help="For similarity and correspondence: the patch as row,column; default center, best match."),
]
Matches = Annotated[int, typer.Option(min=1, help="For correspondence: how many lines at most.")]
PatchSize = Annotated[int | None, typer.Option(help="For masks without weights: side of a patch, pixels; default 16.")]
Prototypes = Annotated[
    str | None, typer.Option(help="For filter: numbers with commas, such as 0,3,7; default the most used.")
]
ShownRankers = Annotated[list[str] | None, typer.Option("--ranker", "-r", help=f"For patches, repeatable: {RANKER}")]
Points = Annotated[int, typer.Option(help="For tsne: how many patches are drawn.")]
MaskFolder = Annotated[
    Path | None, typer.Option(help="For tsne: folder of masks of class ids, NAME.png for the image NAME.jpg.")
]
Cutting = Annotated[
    list[str] | None,
    typer.Option("--set", help="For grabcut, repeatable: settings as of object-masks, such as heads=0,1 or high=0.2."),
]
ShownWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        "-w",
        help="As for evaluate; for attention, regions and blobs repeatable: a row for each. Masks need none; with "
        "some, attention guides them too.",
    ),
]
Limit = Annotated[
    int,
    typer.Option(min=0, help="Images that are shown of folders, evenly spaced; 0 for all. Files are shown all."),
]
Mass = Annotated[float, typer.Option(help="For regions: share of each head's attention that is kept.")]
SEVERAL = ("attention", "regions", "blobs")  # pictures that set several networks side by side
PICTURES = {
    "attention": "Per-head CLS attention of the last block over the image",
    "regions": "The fewest patches that hold 60 % of each head's attention",
    "blobs": "Connected components of each head's map with their spatial entropy",
    "similarity": "Cosine similarity of one patch to all others",
    "pca": "First three principal components of the patch features as colors",
    "correspondence": "Patches of two images that find each other, and one patch as heat over the other image",
    "tsne": "A map of patches by t-SNE, with thumbnails, colored by image, or by class where masks are given",
    "filter": "Self-attention, and which patches ask which prototypes of CoTAP's object-aware filter",
    "masks": "What each way to mask hides, and the order of DPPMask's choice; needs no weights",
    "reconstruction": "What a masked autoencoder makes of random masks and of DPPMask's",
    "removal": "What a masked autoencoder's reconstruction loses with one visible patch more",
    "patches": "Which patches rankers keep, side by side, with their score maps",
    "grabcut": "How attention and GrabCut make a mask of the object, step by step",
    "corruptions": "What 15 corruptions at five severities make of an image; needs no weights",
}


@app.command()
def show(
    picture: Annotated[str, typer.Argument(help="`vitrail list pictures` names them.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", metavar="IMAGE...")],
    weights: ShownWeights = None,
    out: PictureFolder = Path("pictures"),
    model: Model = None,
    key: Key = "auto",
    size: Size = None,
    block: Annotated[int, typer.Option(help="Block whose attention is shown; negative counts from the last.")] = -1,
    mass: Mass = 0.6,
    patch: Patch = None,
    matches: Matches = 20,
    prototypes: Prototypes = None,
    ratio: Annotated[float | None, typer.Option(help="Share of hidden patches; default 0.75, for removal 0.9.")] = None,
    tau: Annotated[float, typer.Option(help="Of their DPPMask: chance in it, 0 none, 1 random masking.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of masks, corruptions and the patches of tsne.")] = 0,
    points: Points = 800,
    masks: MaskFolder = None,
    patch_size: PatchSize = None,
    normalized: Normalized = None,
    heads: DecoderHeads = None,
    paste: Annotated[bool, typer.Option(help="For reconstruction: show the visible patches as they are.")] = True,
    ranker: ShownRankers = None,
    keep: Annotated[float, typer.Option(help="For patches: share of the patches that is kept.")] = 0.25,
    cutting: Cutting = None,
    limit: Limit = 24,
    device: Device = "auto",
) -> None:
    """Draw what a backbone sees in images, one PNG an image; pca and most from correspondence on draw them in one.

    Examples:

      vitrail show attention photos/ --weights runs/photos --limit 50 --out pictures

      vitrail show regions cat.jpg --weights runs/baseline --weights dino.pth --weights runs/sar --mass 0.6

      vitrail show correspondence cat.jpg dog.jpg --weights runs/photos --matches 30

      vitrail show masks cat.jpg dog.jpg --ratio 0.75 --tau 0.3

      vitrail show reconstruction cat.jpg --weights mae_visualize_vit_base.pth --plain-targets

      vitrail show patches cat.jpg dog.jpg --ranker ltrp=runs/photos-ltrp --ranker dino=dino.pth --ranker center

      vitrail show grabcut cat.jpg --weights runs/dino --set heads=0,1,2 --set high=0.1

      vitrail show corruptions cat.jpg --size 64
    """
    _check_picture(picture, weights or [], mass)
    one = weights[0] if weights else None
    images = _shown(picture, images, limit)
    if picture == "patches":
        _show_patches(images, ranker or [], keep, out, one, model, key, size, patch_size, device)
        return
    if one is None or patch_size is None:  # both together are refused where they meet
        _need_files(images, weights or [])
    common: dict[str, Any] = {"model": model, "key": key, "size": size, "device": device}
    if picture in ("masks", "reconstruction", "removal"):
        from vitrail.recipes.masks import Asked

        usual = 0.9 if picture == "removal" else 0.75
        asked = Asked(usual if ratio is None else ratio, tau, seed)
        more: dict[str, Any] = {"patch_size": patch_size, "heads": heads, "normalized": normalized, "paste": paste}
        drawn = _draw_hidden(picture, images, one, out, asked, more, common)
    elif picture in ("correspondence", "tsne", "filter", "grabcut"):
        asks: dict[str, Any] = {"patch": patch, "matches": matches, "prototypes": prototypes, "cutting": cutting}
        asks |= {"points": points, "seed": seed, "masks": masks}
        drawn = _draw_features(picture, images, str(one), out, asks, common)
    elif picture == "corruptions":
        drawn = _draw_corruptions(images, out, size, seed)
    else:
        drawn = _draw_seen(picture, images, weights or [], out, {"block": block, "patch": patch, "mass": mass}, common)
    for path in drawn:
        typer.echo(path)


def _shown(picture: str, images: list[Path], limit: int) -> list[Path]:
    """The images in place of their folders; all of them where the picture wants exactly two."""
    from vitrail.recipes.files import shown_files

    return shown_files(images, 0 if picture == "correspondence" else limit)


def _check_picture(picture: str, weights: list[str], mass: float) -> None:
    if picture not in PICTURES:
        close = difflib.get_close_matches(picture, PICTURES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"there is no picture {picture!r}; {hint}known: {', '.join(PICTURES)}")
    if not weights and picture not in ("masks", "patches", "corruptions"):
        raise ValueError(f"show {picture} needs --weights: a checkpoint, a run folder, or `pretrained` with --model")
    if len(weights) > 1 and picture not in SEVERAL:
        raise ValueError(
            f"show {picture} draws one network, and {len(weights)} --weights are given; {', '.join(SEVERAL)} set "
            "several side by side"
        )
    if not 0 < mass <= 1:
        raise ValueError(f"--mass {mass:g} is no share of the attention in (0, 1], such as 0.6")


def _draw_seen(
    picture: str, images: list[Path], weights: list[str], out: Path, asks: dict[str, Any], common: dict[str, Any]
) -> list[Path]:
    """The pictures of what one network sees in an image, or several see side by side."""
    if len(weights) > 1:
        from vitrail.recipes.side_by_side import draw_heads

        return draw_heads(picture, images, weights, out, block=asks["block"], mass=asks["mass"], **common)
    from vitrail.recipes.look import draw

    return draw(picture, images, weights[0], out, **asks, **common)


def _need_files(images: list[Path], weights: list[str]) -> None:
    """What can be told of files before torch is imported."""
    from vitrail.recipes.files import need_some
    from vitrail.recipes.rankers import check_weights

    need_some(images)
    for each in weights:
        check_weights(each)


def _draw_corruptions(images: list[Path], out: Path, size: int | None, seed: int) -> list[Path]:
    from vitrail.recipes.corruptions import draw_corruptions

    return draw_corruptions(images, out, size=size, seed=seed)


def _draw_features(
    picture: str, images: list[Path], weights: str, out: Path, asks: dict[str, Any], common: dict[str, Any]
) -> list[Path]:
    """The pictures of what patches have to do with each other and with a filter's prototypes, and of GrabCut."""
    if picture == "correspondence":
        from vitrail.recipes.look import draw_correspondence

        return draw_correspondence(images, weights, out, patch=asks["patch"], matches=asks["matches"], **common)
    if picture == "tsne":
        from vitrail.recipes.tsne import Wanted, draw_tsne

        return draw_tsne(images, weights, out, Wanted(asks["points"], asks["seed"], masks=asks["masks"]), **common)
    if picture == "grabcut":
        from vitrail.recipes.object_masks import draw_grabcut

        return draw_grabcut(images, weights, out, asks["cutting"] or [], **common)
    from vitrail.recipes.filtering import draw_filter

    return draw_filter(images, weights, out, prototypes=asks["prototypes"], **common)


def _draw_hidden(
    picture: str,
    images: list[Path],
    weights: str | None,
    out: Path,
    asked: Any,
    more: dict[str, Any],
    common: dict[str, Any],
) -> list[Path]:
    """The pictures of hidden patches: what hides them, what is made of the others."""
    from vitrail.recipes.masks import draw_masks
    from vitrail.recipes.reconstructions import draw_reconstructions
    from vitrail.recipes.removal import draw_removals

    if picture == "masks":
        return draw_masks(images, out, asked, weights=weights, patch_size=more["patch_size"], **common)
    decoder = {"heads": more["heads"], "normalized": more["normalized"]}
    if picture == "removal":
        return draw_removals(images, str(weights), out, asked, **decoder, **common)
    return draw_reconstructions(images, str(weights), out, asked, paste=more["paste"], **decoder, **common)


def _show_patches(
    images: list[Path], words: list[str], keep: float, out: Path, weights: str | None, *more: Any
) -> None:
    from vitrail.ops.shares import check_share
    from vitrail.recipes.files import image_files
    from vitrail.recipes.rankers import titled

    if not words:
        raise ValueError("show patches needs --ranker, once or more: NAME or NAME=WEIGHTS (`vitrail list rankers`)")
    check_share(keep)
    asked = titled(words, weights)
    for each in asked.values():
        each.check()
    files = image_files(images)
    from vitrail.recipes.rank import Shown, draw_patches

    for path in draw_patches(files, asked, Shown(*more), keep, out):
        typer.echo(path)


@app.command()
def rank(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", metavar="IMAGE...")],
    ranker: Annotated[str, typer.Option("--ranker", "-r", help=RANKER)] = "ltrp",
    weights: Annotated[
        str | None, typer.Option("--weights", "-w", help="A checkpoint or a run folder; random and center need none.")
    ] = None,
    keep: Annotated[float, typer.Option(help="Share of the patches that is kept, above 0 and at most 1.")] = 0.25,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for scores, ids and pictures.", callback=_folder)
    ] = Path("ranked"),
    model: Model = None,
    key: Key = "auto",
    size: Annotated[int | None, typer.Option(help="Shorter side in pixels; default: the ranker's own.")] = None,
    patch_size: Annotated[
        int | None, typer.Option(help="Side of a patch in pixels, for rankers whose network has none; default 16.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Say which patches of images matter: score arrays (npy), ids of the kept patches (json) and pictures.

    Examples:

      vitrail rank photo.jpg --ranker ltrp --weights runs/photos-ltrp --keep 0.25 --out ranked

      vitrail rank photos/ --ranker dino:mass_vote --weights dino_deitsmall16_pretrain.pth
    """
    from vitrail.ops.shares import check_share
    from vitrail.recipes.files import image_files
    from vitrail.recipes.rankers import parse_ranker

    words = parse_ranker(ranker).given(weights)
    check_share(keep)
    words.check()
    files = image_files(images)
    from vitrail.recipes.rank import Shown, rank_files  # torch: what can be told without is told before

    for path in rank_files(files, words, Shown(model, key, size, patch_size, device), keep, out):
        typer.echo(path)


@app.command()
def localize(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", metavar="IMAGE...")],
    weights: Annotated[
        str | None,
        typer.Option("--weights", "-w", help="A run of LocLoc or PPD, or weights that --localizer reads."),
    ] = None,
    localizer: Annotated[
        str | None,
        typer.Option(
            "--localizer",
            "-l",
            help="NAME[:VARIANT][=WEIGHTS]; `vitrail list localizers` names them. Default: what the weights were "
            "trained to be, else attention.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for boxes, masks and pictures.", callback=_folder)
    ] = Path("localized"),
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Share of a map's greatest value above which the object is, in [0, 1); default: that chosen by "
            "`vitrail evaluate localization`, else 0.5."
        ),
    ] = None,
    boxes: Annotated[
        Literal["largest", "all"], typer.Option(help="Of the largest part of a map above the threshold, or of all.")
    ] = "largest",
    min_area: Annotated[
        float, typer.Option(help="Share of the image that an object covers at least, in [0, 1), such as 0.01.")
    ] = 0.0,
    top: Annotated[int | None, typer.Option(help="With --boxes all: the largest so many by area.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew in --out, and forget what is in it, instead of going on.")
    ] = False,
    model: Model = None,
    key: Key = "auto",
    size: Annotated[
        int | None, typer.Option(help="Pixels a side that images are shown at; default: as measured, or the model's.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 8,
    device: Device = "auto",
) -> None:
    """Find the object in images: boxes (boxes.json, and coco.json in COCO's format), masks and overlays (png).

    Called again, it goes on: images that are finished are not done again.

    Examples:

      vitrail localize photos/ --weights runs/locloc --out found

      vitrail localize cat.jpg dog.jpg --localizer lost=dino_deitsmall16_pretrain.pth --threshold 0.5

      vitrail localize photos/ --weights runs/locloc --boxes all --min-area 0.01 --top 5 --out several
    """
    from vitrail.recipes.files import image_files
    from vitrail.recipes.localizers import check_kept, check_threshold

    check_threshold(threshold)
    check_kept(boxes, min_area, top)
    words = _localizer_words(localizer, weights)
    image_files(images)
    from vitrail.recipes.localize import Wanted, localize_files  # torch: what can be told without is told before

    _show_progress()
    opening = (model, key, size, batch_size, device)
    done = localize_files(images, words, Wanted(threshold, boxes, *opening, min_area, top, overwrite), out)
    left = f" ({done.before} of them before)" * bool(done.before) + f", {done.without} without a box" * bool(
        done.without
    )
    left += f", {done.unreadable} left out" * bool(done.unreadable)
    typer.echo(f"written: {done.files[0]} and {done.files[1].name}, {done.images} images{left}; masks/ and overlays/")


def _localizer_words(localizer: str | None, weights: str | None) -> Any:
    """The one that sees images, checked."""
    from vitrail.recipes.localizers import HEAT_MAPS, known_names, parse_localizer, titled

    if localizer is not None:
        parse_localizer(localizer).given(weights)
    elif weights is None:
        raise ValueError(f"no localizer is named; give --weights RUN or --localizer NAME=WEIGHTS, {known_names()}")
    (words,) = titled([localizer] if localizer else [], weights).values()
    if words.name == HEAT_MAPS:
        raise ValueError(f"{words.title} is a folder of maps, which sees no images; name a localizer")
    words.check()
    return words


@app.command()
def features(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", metavar="IMAGE...")],
    weights: Weights,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards and their index.", callback=_folder)],
    patches: Annotated[bool, typer.Option("--patches", help="Write the features of all patches, too.")] = False,
    cls: Annotated[bool, typer.Option(help="Write class tokens.")] = True,
    fit: Annotated[
        Literal["crop", "squash", "native"],
        typer.Option(help="crop: the middle; squash: all of it, another shape; native: each image's own size."),
    ] = "crop",
    size: Annotated[
        int | None,
        typer.Option(help="Pixels a side, with native of the shorter one; default: the model's, with native none."),
    ] = None,
    form: Annotated[Literal["safetensors", "npy"], typer.Option("--format", help="Of the shards.")] = "safetensors",
    numbers: Annotated[Literal["float32", "float16"], typer.Option(help="What is stored.")] = "float32",
    shard_size: Annotated[int, typer.Option(help="Images of a shard.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Images at a time; 1 with native.")] = 32,
    workers: Annotated[int, typer.Option(help="Processes that decode images; 0 does it in this one.")] = 0,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="bf16 runs the model under autocast.")] = "fp32",
    model: Model = None,
    key: Key = "auto",
    device: Device = "auto",
) -> None:
    """Write features of images to disk: class tokens, with --patches all patches; called again, it goes on.

    Examples:

      vitrail features photos/ --weights runs/photos --out features

      vitrail features photos/ -w dino_deitsmall16_pretrain.pth --patches --numbers float16 --format npy --out features
    """
    from vitrail.recipes.files import need_some
    from vitrail.recipes.rankers import check_weights

    need_some(images)
    check_weights(weights)
    from vitrail.recipes.features import FeaturesConfig, write_features  # torch: the rest is told before

    _show_progress()
    written = {"cls": cls, "patches": patches, "format": form, "numbers": numbers, "shard_size": shard_size}
    seen = {"fit": fit, "size": size, "batch_size": batch_size, "workers": workers, "precision": precision}
    config = FeaturesConfig.parse(written | seen, source="features")
    typer.echo(f"written: {write_features(images, weights, out, config, model=model, key=key, device=device)}")


@app.command()
def compare(
    data: Annotated[
        str, typer.Option("--data", "-d", help="A tree of VOC, COCO, ADE20K or CUB, an image folder, or `scenes`.")
    ],
    settings: Overrides = None,
    ranker: Annotated[list[str] | None, typer.Option("--ranker", "-r", help=f"Repeatable: {RANKER}")] = None,
    localizer: Annotated[
        list[str] | None,
        typer.Option(
            "--localizer",
            "-l",
            help="In place of rankers, repeatable: NAME=WEIGHTS, or heat_maps=FOLDER; `vitrail list localizers`.",
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option("--classifier", "-c", help="Of rankers: weights whose accuracy on kept patches counts."),
    ] = None,
    keep: Annotated[float, typer.Option(help="Of rankers: share of the patches that is kept in the pictures.")] = 0.25,
    held_out_maps: Annotated[
        str | None,
        typer.Option(help="Folder of heat maps of the held-out images, where they do not lie with heat_maps=FOLDER."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="How many images the pictures show: 6; of localizers 8 hits and as many misses.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for page and numbers; default rankers or localizers.", callback=_folder
        ),
    ] = None,
    model: Model = None,
    key: Key = "auto",
    device: Device = "auto",
) -> None:
    """Compare rankers, or localizers, on one page.

    Of rankers: recall of objects, accuracy and speed on kept patches, and what they keep. Of localizers: all numbers
    beside floors and published ones, thresholds, hits and misses, masks step by step, classes.

    Examples:

      vitrail compare --data VOCdevkit/VOC2012 --ranker ltrp=runs/ltrp --ranker dino=dino.pth --ranker center

      vitrail compare keeps=0.25,0.5 --data photos --classifier runs/photos --ranker ltrp=runs/ltrp --ranker center

      vitrail compare --data CUB_200_2011 --localizer locloc=runs/birds --localizer lost=dino.pth --out birds
    """
    from vitrail.recipes.files import existing

    if bool(ranker) == bool(localizer):
        raise ValueError("compare needs --ranker or --localizer, once or more, and not both; `vitrail list` names them")
    if localizer and (classifier is not None or keep != 0.25):
        raise ValueError("--classifier and --keep are of rankers; leave them out")
    if ranker and held_out_maps is not None:
        raise ValueError("--held-out-maps is of localizers; leave it out")
    if data != "scenes":
        existing(data)
    how: dict[str, Any] = {"model": model, "key": key, "device": device}
    if localizer:
        shown = {} if images is None else {"images": images, "stages": min(images, 4)}
        more = (data, settings or [], {"held_out_maps": held_out_maps} | shown)
        page = _compare_localizers(localizer, more, out or Path("localizers"), how)
    else:
        asked = (data, classifier, keep, 6 if images is None else images, settings or [])
        page = _compare_rankers(ranker or [], asked, out or Path("rankers"), how)
    typer.echo(f"written: {page}")


def _compare_rankers(texts: list[str], asked: tuple[Any, ...], out: Path, how: dict[str, Any]) -> Path:
    from vitrail.ops.shares import check_share
    from vitrail.recipes.rankers import check_weights, titled

    _, classifier, keep, *_ = asked
    check_share(keep)
    for words in titled(texts).values():
        words.check()
    check_weights(classifier)
    from vitrail.recipes.rank import Shown  # torch: what can be told without is told before
    from vitrail.report.rankers import Wanted, compare_rankers

    _show_progress()
    return compare_rankers(texts, Wanted(*asked), Shown(**how), out)


def _compare_localizers(
    texts: list[str], asked: tuple[str, list[str], dict[str, Any]], out: Path, how: dict[str, Any]
) -> Path:
    from vitrail.recipes.localizers import titled

    for words in titled(texts).values():
        words.check()
    from vitrail.report.localizers import Opening, Wanted, compare_localizers  # torch

    _show_progress()
    data, settings, more = asked
    return compare_localizers(texts, Wanted(data, settings, **more), Opening(**how), out)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, the baseline first.", metavar="RUN...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Headline.")] = "vitrail report",
    before: Annotated[
        bool, typer.Option("--before", help="Of one run: set what its training started from beside it.")
    ] = False,
    pictures: Annotated[int, typer.Option(help="So many images as the weights of all runs see them, drawn anew.")] = 0,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="Images of the pictures; default: those held out by the last run."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Write one self-contained HTML page that compares runs side by side.

    Examples:

      vitrail report runs/baseline runs/sar --out comparison.html

      vitrail report runs/cotap --before --pictures 6 --out change.html
    """
    if not before and not pictures:
        from vitrail.report import write_page

        typer.echo(f"written: {write_page(out, runs, title=title)}")
        return
    from vitrail.report.side_by_side import Side, write_side_by_side

    side = Side(before=before, pictures=pictures, data=data, device=device)
    typer.echo(f"written: {write_side_by_side(out, runs, side, title=title)}")


@app.command()
def curves(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, the baseline first.", metavar="RUN...")],
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="A number of metrics.jsonl; default: accuracy on held-out images, val/top1."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png or .svg.")] = Path("curves.png"),
    title: Annotated[str, typer.Option(help="Headline.")] = "",
    log: Annotated[bool, typer.Option("--log", help="Logarithmic vertical axis.")] = False,
) -> None:
    """Draw one number of several runs against epochs; runs that differ in the seed alone become a line with a band.

    Examples:

      vitrail curves runs/baseline runs/sar --out accuracy.png

      vitrail curves runs/baseline runs/sar --metric spatial_entropy --out entropy.svg
    """
    from vitrail.report.run_curves import draw_run_curves

    typer.echo(f"written: {draw_run_curves(runs, out, metric=metric, title=title, log_y=log)}")


@app.command()
def export(
    weights: Weights,
    out: Annotated[Path, typer.Option("--out", "-o", help="backbone.safetensors or backbone.onnx.")],
    model: Model = None,
    key: Key = "auto",
    size: Annotated[int | None, typer.Option(help="Image size that is baked into ONNX, pixels.")] = None,
    batch: Annotated[str, typer.Option(help="ONNX batch: a number, or `dynamic`.")] = "dynamic",
) -> None:
    """Write a backbone alone, without decoder, heads or classifier: safetensors under timm's names, or ONNX.

    Example: vitrail export --weights runs/photos --out photos.onnx --batch dynamic
    """
    from vitrail.recipes.ship import ship

    typer.echo(ship(weights, out, model=model, key=key, size=size, batch=batch))


def _version(value: bool) -> None:
    if value:
        from vitrail import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> Any:
    """Patch-level learning with Vision Transformers: train, evaluate and look."""


if __name__ == "__main__":
    main()
