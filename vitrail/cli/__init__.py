"""The command line: words to recipes, protocols, pictures and pages. Nothing heavy is imported before it is used."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import Annotated, Any

import typer

from vitrail import catalog
from vitrail.cli.words import PICTURES, app

# `vitrail --help` names the verbs in the order of these imports
# isort: off
from vitrail.cli import (  # noqa: F401
    listing,
    training,
    studies,
    evaluating,
    showing,
    ranking,
    comparing,
    shipping,
)
# isort: on

__all__ = ["PICTURES", "app", "catalog", "main"]


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


def _note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning in a line of its own, without the line of code, and once for all processes."""
    if int(os.environ.get("RANK", "0")) == 0:
        typer.secho(f"note: {message}", fg="yellow", err=True)


def _for_people(error: BaseException) -> bool:
    """Our own errors speak to people; a stranger's, but for wrong values and files, are defects with a traceback."""
    return isinstance(error, ValueError | OSError) or type(error).__module__.split(".")[0] == "vitrail"


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
