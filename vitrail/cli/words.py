"""What the verbs share: the program, options of several verbs, the pictures, lines of progress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="vitrail",
    help="Patch-level learning with Vision Transformers: train, evaluate and look.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def folder(out: Path | None) -> Path | None:
    """--out of a command that writes a folder, which can be one."""
    from vitrail.recipes.files import check_out

    if out is not None:
        check_out(out)
    return out


Weights = Annotated[
    str,
    typer.Option("--weights", "-w", help="A checkpoint, a run folder, or `pretrained` together with --model."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A timm name, pvt_small, cvt_13, ...; needed where the file does not tell."),
]
Key = Annotated[str, typer.Option(help="Which model of a checkpoint that holds several: teacher, student, auto.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings as key.subkey=value.", metavar="[KEY=VALUE]...")]
RANKER = "NAME, NAME=WEIGHTS or NAME:VARIANT=WEIGHTS; `vitrail list rankers` names them."
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


def _show_progress() -> None:
    """Lines of progress on stderr where no terminal shows a bar."""
    import logging

    log = logging.getLogger("vitrail")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
