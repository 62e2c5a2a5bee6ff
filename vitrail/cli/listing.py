"""`vitrail list`, `demo` and `doctor`: what there is, a first look, and whether this machine will do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from vitrail import catalog
from vitrail.cli.words import PICTURES, app, folder


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
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.", callback=folder)] = Path(
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
