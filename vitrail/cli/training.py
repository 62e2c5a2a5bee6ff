"""`vitrail train`, and what is made once for trainings: `label`, `neighbors`, `object-masks`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vitrail import catalog
from vitrail.cli.words import Device, Key, Model, Overrides, Weights, _show_progress, app, folder


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
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the labels.", callback=folder)] = Path("labels"),
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
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the masks.", callback=folder)] = Path(
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
