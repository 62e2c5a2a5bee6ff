"""`vitrail costs` and `study`: the tables of papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrail import catalog
from vitrail.cli.words import Device, Overrides, _show_progress, app


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
