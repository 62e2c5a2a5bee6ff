"""Pictures of what a backbone sees: in image files for `vitrail show`, in held-out images for a run's
page."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vitrail.backbones import AnyBackbone
from vitrail.contracts import ImageSet, Sample, Tokens, VideoSet
from vitrail.data import EvalTransformConfig, UnreadableImage, build_eval_transform, open_image, open_mask
from vitrail.metrics.by_head import is_of_head, quantities_by_head
from vitrail.ops.mutual_nearest import mutual_nearest
from vitrail.recipes.files import stems
from vitrail.recipes.weights import open_backbone
from vitrail.viz.attention import attention_heads
from vitrail.viz.blobs import attention_blobs
from vitrail.viz.canvas import heading, sheet, stacked
from vitrail.viz.correspondence import match_lines, query_heat
from vitrail.viz.curves import Curve, curves_png
from vitrail.viz.pca import pca_pictures
from vitrail.viz.regions import attention_regions
from vitrail.viz.similarity import similarity_maps

ELONGATED = 10
"""How many times the shorter side the longer one may be, where the shorter one is made as long as the model wants."""


class Seen(NamedTuple):
    """One image as the backbone saw it."""

    image: Image.Image  # resized and cropped, not normalized
    tokens: Tokens  # of this image alone, batch of 1


def draw(
    picture: str,
    images: Sequence[Path],
    weights: str,
    out: Path,
    *,
    model: str | None = None,
    key: str = "auto",
    size: int | None = None,
    block: int = -1,
    patch: str | None = None,
    mass: float = 0.6,
    device: str = "auto",
) -> list[Path]:
    """Draw `attention`, `regions`, `blobs`, `similarity` or `pca`; returns the PNGs' paths.

    One PNG an image, named IMAGE-PICTURE.png, with its folder where images of two have one name. `pca` fits its colors
    over all images and writes one sheet, pca.png. `mass` is the share of the attention that `regions` keep.
    """
    backbone = open_backbone(weights, model=model, key=key, device=device)
    opened = open_images(images, whole=True)
    images = list(opened)
    seen = [see(backbone, image, size, block) for image in opened.values()]
    out.mkdir(parents=True, exist_ok=True)
    if picture == "pca":
        features = [tokens.patches[0] for _, tokens in seen]
        sheet = pca_pictures([image for image, _ in seen], features, [tokens.grid for _, tokens in seen])
        sheet.save(out / "pca.png")
        return [out / "pca.png"]
    paths = [out / f"{stem}-{picture}.png" for stem in stems(images)]
    for path, each in zip(paths, seen):
        _picture(picture, each, block, patch, mass).save(path)
    return paths


def open_images(paths: Sequence[Path], *, whole: bool = False) -> dict[Path, Image.Image]:
    """The images that can be read, by path; each of the others gets a warning. Raises `ValueError` for none at all.

    With `whole`, for pictures that nothing is cut off, those are left out, too, of which one side is over `ELONGATED`
    times the other.
    """
    opened = {path: image for path in paths if (image := open_or_warn(path, whole=whole)) is not None}
    if not opened:
        named = ", ".join(map(str, paths[:5])) + (" ..." if len(paths) > 5 else "")
        raise ValueError(f"none of {len(paths)} images can be read: {named}; give image files that are there and whole")
    return opened


def open_or_warn(path: Path, *, whole: bool = False) -> Image.Image | None:
    """The image, or a warning that it is left out, see `open_images`."""
    try:
        image = open_image(path)
        if whole and max(image.size) > ELONGATED * min(image.size):
            raise UnreadableImage(
                path,
                f"{image.width} x {image.height} pixels, one side over {ELONGATED} times the other, are thousands of "
                "patches; cut it into parts",
            )
        return image
    except UnreadableImage as error:
        warnings.warn(f"{path} is left out: {error.reason}", stacklevel=3)
        return None


def curves_sheet(lines: Sequence[Mapping[str, float]]) -> Image.Image | None:
    """What changes among the numbers of `metrics.jsonl`, against steps, a chart each; None for nothing.

    Steps ascend whatever became of a run; epochs do not where it was extended with another batch size.
    """
    found = {name for line in lines for name in line if name.startswith(("train/", "val/")) and not is_of_head(name)}
    names = sorted(found - {"train/lr"})
    charts = []
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line and math.isfinite(line[name])]
        values = [value for _, value in points]
        constant = len(points) > 1 and max(values) - min(values) <= 1e-6 * max(map(abs, values))
        if points and not constant:
            curve = {name: Curve([step for step, _ in points], values)}
            charts.append(_chart(curve, name, legend="none"))
    return _charts(charts)


def heads_sheet(lines: Sequence[Mapping[str, float]]) -> Image.Image | None:
    """What `metrics.jsonl` says of each attention head, against steps: one chart for each quantity, a line a head.

    None where it says nothing.
    """
    charts = []
    for quantity, heads in quantities_by_head(sorted({name for line in lines for name in line})).items():
        series = {head: [(line["step"], line[name]) for line in lines if name in line] for head, name in heads.items()}
        curves = {
            f"head {head}": Curve([step for step, _ in points], [value for _, value in points])
            for head, points in series.items()
            if any(math.isfinite(value) for _, value in points)
        }
        if curves:
            charts.append(_chart(curves, f"{quantity} of each head", legend="below", dashes=True))
    return _charts(charts)


def _chart(curves: Mapping[str, Curve], title: str, **how: Any) -> Image.Image:
    how |= {"x_label": "step", "look": "light", "size": (5.4, 3.2), "dots_per_inch": 100}
    return curves_png(curves, title=title, **how)


def _charts(charts: Sequence[Image.Image]) -> Image.Image | None:
    """Charts side by side, about as many as below each other, three at most."""
    if not charts:
        return None
    columns = min(math.ceil(math.sqrt(len(charts))), 3)
    return sheet([charts[start : start + columns] for start in range(0, len(charts), columns)], gap=4)


@torch.no_grad()
def see(backbone: AnyBackbone, image: Image.Image, size: int | None = None, block: int = -1) -> Seen:
    """Resize so that the shorter side is `size` (default: the model's own) and both sides hold whole patches."""
    fitted = whole_patches(image, size or min(backbone.image_size), backbone.patch_size)
    return Seen(fitted, backbone(pixels_of(backbone, fitted), scores=(block,)))


def pixels_of(backbone: AnyBackbone, fitted: Image.Image) -> Tensor:
    """An image of whole patches as the backbone wants it, `[1, 3, H, W]` on its device."""
    shape = (fitted.height, fitted.width)
    config = EvalTransformConfig(image_size=shape, mode="squash", mean=backbone.mean, std=backbone.std)
    return build_eval_transform(config)(fitted)[None].to(next(backbone.parameters()).device)


def on_host(seen: Seen) -> Seen:
    """The same with all tokens on the CPU, in float32."""
    found = seen.tokens
    scores = {block: scores.float().cpu() for block, scores in found.scores.items()}
    return seen._replace(tokens=Tokens(found.cls.float().cpu(), found.patches.float().cpu(), found.grid, {}, scores))


def attention_sheet(
    backbone: AnyBackbone, data: ImageSet, count: int = 4, size: int | None = None, *, title: str = ""
) -> Image.Image:
    """The first images of different classes of a set, each with the last block's attention per head."""
    was_training = backbone.training
    backbone.eval()
    rows = []
    for index in different(data, count):
        image, tokens = see(backbone, data[index].image, size)
        rows.append(attention_heads(image, tokens.scores[-1][0], cell=112, columns=12))
    backbone.train(was_training)
    above = [heading(title, max(row.width for row in rows))] if title else []
    return stacked([*above, *rows])


def drop_sheet(folder: Path, name: str) -> None:
    """Remove a picture and its caption from a run folder's `pictures`, if they are there: what it showed is no more."""
    (folder / name).unlink(missing_ok=True)
    captions = folder / "captions.json"
    known = json.loads(captions.read_text()) if captions.is_file() else {}
    if known.pop(name, None) is not None:
        captions.write_text(json.dumps(known, indent=2))


def keep_sheet(folder: Path, name: str, picture: Image.Image, caption: str) -> None:
    """Save a picture into a run folder's `pictures`, with its caption in `captions.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / name)
    captions = folder / "captions.json"
    known = json.loads(captions.read_text()) if captions.is_file() else {}
    captions.write_text(json.dumps(known | {name: caption}, indent=2))


def draw_correspondence(
    images: Sequence[Path],
    weights: str,
    out: Path,
    *,
    patch: str | None = None,
    matches: int = 20,
    model: str | None = None,
    key: str = "auto",
    size: int | None = None,
    device: str = "auto",
) -> list[Path]:
    """Draw the most similar mutual matches of two images as lines, and below them a patch of the first as heat over the
    second; returns the path of A-B-correspondence.png.

    Args:
        patch: row,column in the first image; by default that of the most similar match.
        matches: how many lines at most.

    Raises:
        ValueError: not two images, or one that cannot be read.
    """
    if len(images) != 2:
        raise ValueError(
            f"show correspondence compares two images, and {len(images)} are given: show correspondence A B"
        )
    backbone = open_backbone(weights, model=model, key=key, device=device)
    opened = open_images(images, whole=True)
    if len(opened) + (images[0] == images[1]) != 2:
        raise ValueError("one of the two images cannot be read, so there is nothing to compare the other with")
    one, other = (see(backbone, opened[path], size) for path in images)
    found = mutual_nearest(one.tokens.patches[0], other.tokens.patches[0])
    pairs = list(zip(found.first.tolist(), found.second.tolist()))
    pictures, grids = (one.image, other.image), (one.tokens.grid, other.tokens.grid)
    query = divmod(pairs[0][0], grids[0][1]) if patch is None else _position(patch, grids[0])
    lines = match_lines(pictures, grids, pairs[:matches])
    words = f"{min(matches, len(pairs))} of {len(pairs)} mutual matches, the most similar ones"
    features = (one.tokens.patches[0], other.tokens.patches[0])
    picture = stacked([heading(words, lines.width), sheet([[lines]]), query_heat(pictures, features, grids, [query])])
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{'-'.join(stems(images))}-correspondence.png"
    picture.save(path)
    return [path]


def video_pictures(data: VideoSet, rows: Sequence[Mapping[str, Any]], folder: str | Path, frames: int = 8) -> Path:
    """Of each sequence whose masks lie in a folder, frames with their masks above J and F over time.

    Args:
        data: the sequences.
        rows: what the protocol `video` leaves under `details["per_sequence"]`.
        folder: of the masks, SEQUENCE/00000.png; the pictures are SEQUENCE.png beside them.
        frames: at most so many, evenly spaced, the first and the last among them.

    Returns:
        The folder.
    """
    from vitrail.viz.video import video_curve, video_sheet

    known, folder = {row["name"]: row for row in rows}, Path(folder)
    for index in range(len(data)):
        video = data[index]
        if video.name not in known:
            continue
        count = min(frames, len(video))
        chosen = [number * (len(video) - 1) // max(count - 1, 1) for number in range(count)]
        masks = [open_mask(folder / video.name / f"{number:05d}.png") for number in chosen]
        captions = ["frame 0, as given", *(f"frame {number}" for number in chosen[1:])]
        sheet = video_sheet([video.frame(number) for number in chosen], masks, captions)
        lines = {f"object {each['id']}": each for each in known[video.name]["objects"]}
        stacked([sheet, video_curve(lines, title=video.name)]).save(folder / f"{video.name}.png")
    return folder


def _picture(picture: str, seen: Seen, block: int, patch: str | None, mass: float) -> Image.Image:
    image, tokens = seen
    if picture == "attention":
        return attention_heads(image, tokens.scores[block][0])
    if picture == "regions":
        return attention_regions(image, tokens.scores[block][0], mass=mass)
    if picture == "blobs":
        return attention_blobs(image, tokens.scores[block][0])
    chosen = _position(patch, tokens.grid)
    return similarity_maps(image, tokens.patches[0], tokens.grid, [chosen], cls=tokens.cls[0])


def _position(patch: str | None, grid: tuple[int, int]) -> tuple[int, int]:
    if patch is None:
        return grid[0] // 2, grid[1] // 2
    parts = patch.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--patch {patch!r} is not row,column, such as 3,5; the grid here is {grid[0]} x {grid[1]}")
    row, column = (int(part) for part in parts)
    return row, column


def whole_patches(image: Image.Image, shorter: int, patch: tuple[int, int]) -> Image.Image:
    """The image resized so that its shorter side is about `shorter` and both sides hold whole patches."""
    scale = shorter / min(image.size)
    width, height = (max(round(side * scale / step), 1) * step for side, step in zip(image.size, reversed(patch)))
    return image.resize((width, height), Image.Resampling.BICUBIC)


def different(data: ImageSet, count: int) -> list[int]:
    """Positions of images of different classes, or of any where they have none, spread over the set."""
    if data.classes is None or len(data.classes) < 2:
        readable = (index for index in range(len(data)) if _readable(data, index) is not None)
        return list(itertools.islice(readable, count))
    chosen: dict[Any, int] = {}
    step = max(len(data) // 200, 1)
    for index in range(0, len(data), step):
        sample = _readable(data, index)
        if sample is not None:
            label = sample.label if sample.labels is None else sample.labels
            chosen.setdefault(("unlabeled", index) if label is None else label, index)
        if len(chosen) == count:
            break
    return list(chosen.values())


def _readable(data: ImageSet, index: int) -> Sample | None:
    try:
        return data[index]
    except UnreadableImage:
        return None
