"""`vitrail export`: a backbone alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrail.cli.words import Key, Model, Weights, app


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
