"""`vitrail rank`, `localize` and `features`: what networks say of images, written to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vitrail.cli.words import RANKER, Device, Key, Model, Weights, _show_progress, app, folder


@app.command()
def rank(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", metavar="IMAGE...")],
    ranker: Annotated[str, typer.Option("--ranker", "-r", help=RANKER)] = "ltrp",
    weights: Annotated[
        str | None, typer.Option("--weights", "-w", help="A checkpoint or a run folder; random and center need none.")
    ] = None,
    keep: Annotated[float, typer.Option(help="Share of the patches that is kept, above 0 and at most 1.")] = 0.25,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for scores, ids and pictures.", callback=folder)
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
        Path, typer.Option("--out", "-o", help="Folder for boxes, masks and pictures.", callback=folder)
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
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards and their index.", callback=folder)],
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
