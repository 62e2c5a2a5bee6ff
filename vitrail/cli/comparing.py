"""`vitrail compare`, `report` and `curves`: several of a kind, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vitrail.cli.words import RANKER, Device, Key, Model, Overrides, _show_progress, app, folder


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
            "--out", "-o", help="Folder for page and numbers; default rankers or localizers.", callback=folder
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
