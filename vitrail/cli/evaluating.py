"""`vitrail evaluate`: a protocol's numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from vitrail.cli.words import Device, Key, Model, Overrides, _show_progress, app

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
