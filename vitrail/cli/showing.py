"""`vitrail show`: pictures of what a backbone sees."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

from vitrail.cli.words import PICTURES, RANKER, Device, Key, Model, app, folder

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
ShownOut = Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.", callback=folder)]
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


@app.command()
def show(
    picture: Annotated[str, typer.Argument(help="`vitrail list pictures` names them.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", metavar="IMAGE...")],
    weights: ShownWeights = None,
    out: ShownOut = Path("pictures"),
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
