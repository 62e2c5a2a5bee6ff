"""The same images as several networks see them: before and after a training, or run beside run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitrail.backbones import AnyBackbone, TimmViT
from vitrail.contracts import ImageSet, Sample
from vitrail.recipes.files import stems
from vitrail.recipes.filtering import Filtered, filter_page, filter_sheets, filtered
from vitrail.recipes.look import different, keep_sheet, open_images, pixels_of, see, whole_patches
from vitrail.recipes.rankers import names_of_weights
from vitrail.recipes.sources import Splits
from vitrail.recipes.start import drawing
from vitrail.recipes.weights import open_backbone, run_folder_of
from vitrail.viz.attention import attention_overlays
from vitrail.viz.blobs import blob_overlays
from vitrail.viz.canvas import stacked
from vitrail.viz.filter_attention import most_used
from vitrail.viz.heads import Overlays
from vitrail.viz.heads_side_by_side import heads_of_images, heads_side_by_side
from vitrail.viz.regions import region_overlays
from vitrail.viz.side_by_side import Look, Point, attention_rows, pca_rows, similarity_rows

IMAGES = 6
"""Images of a run's own pictures of patch features."""


class Drawn(NamedTuple):
    """A picture, what it is, and what stands below it."""

    title: str
    caption: str
    picture: Image.Image


def draw_side_by_side(
    weights: Mapping[str, str], data: ImageSet, count: int = IMAGES, *, device: str = "auto"
) -> list[Drawn]:
    """Attention, similarity of one patch, patch features and, where there are some, filters, on images of a set.

    Args:
        weights: by the networks' names, as for `--weights`; one network is in memory at a time.
        data: the images; those of different classes are taken. Where masks are known, the similarity is that of a
            patch on the largest object, else of the one in the middle.
        count: how many.
        device: of the networks.

    Raises:
        ValueError: no weights there, or no image.
    """
    samples = [data[index] for index in different(data, count)]
    images = [sample.image for sample in samples]
    looks: dict[str, list[Look]] = {}
    filters: dict[str, list[Filtered]] = {}
    for name, where in weights.items():
        backbone = open_backbone(where, model=None, key="auto", device=device)
        looks[name] = [look(backbone, image) for image in images]
        if isinstance(backbone, TimmViT) and backbone.object_filter is not None:
            filters[name] = [filtered(backbone, image) for image in images[:2]]
    drawn = []
    if any(each.scores is not None for found in looks.values() for each in found):
        caption = "The class token's attention in the last block, mean over heads; below, its highest weight."
        drawn.append(Drawn("Attention, side by side", caption, attention_rows(images, looks)))
        drawn += _drawn_heads(images, looks)
    points = [object_point(sample) for sample in samples]
    caption = "Cosine similarity of the framed patch to the others, from the lowest to the highest."
    drawn.append(Drawn("Similarity, side by side", caption, similarity_rows(images, looks, points)))
    drawn.append(Drawn("Patch features, side by side", _PCA, pca_rows(images, looks)))
    for name, found in filters.items():
        sheets = filter_sheets(found, most_used([each.attention for each in found], 4))
        caption = "The self-attention of the class token, and which patches ask the most used prototypes."
        drawn.append(Drawn(f"Object-aware filter of {name}", caption, stacked(sheets)))
    return drawn


def draw_heads(
    picture: str,
    images: Sequence[Path],
    weights: Sequence[str],
    out: Path,
    *,
    model: str | None = None,
    key: str = "auto",
    size: int | None = None,
    block: int = -1,
    mass: float = 0.6,
    device: str = "auto",
) -> list[Path]:
    """Draw `attention`, `regions` or `blobs` of each head of several networks, a row for each; returns the PNGs' paths.

    One PNG an image, IMAGE-PICTURE.png as that of one network. Each network sees the image at its own size, or all at
    `size`; one is in memory at a time. `mass` is the share of the attention that `regions` keep.

    Raises:
        ValueError: the same weights twice, no image that can be read, a network whose attention cannot be read.
    """
    names = names_of_weights(weights)
    opened = open_images(images, whole=True)
    scores: dict[str, list[Tensor]] = {}
    for name, where in zip(names, weights):
        backbone = open_backbone(where, model=model, key=key, device=device)
        try:
            seen = (see(backbone, image, size, block).tokens for image in opened.values())
            scores[name] = [tokens.scores[block][0].float().cpu() for tokens in seen]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{stem}-{picture}.png" for stem in stems(list(opened))]
    for place, (path, image) in enumerate(zip(paths, opened.values())):
        of_image = {name: found[place] for name, found in scores.items()}
        heads_side_by_side(image, of_image, _overlays(picture, mass)).save(path)
    return paths


def _overlays(picture: str, mass: float = 0.6) -> Overlays:
    if picture == "regions":
        return partial(region_overlays, mass=mass)
    return attention_overlays if picture == "attention" else blob_overlays


def _drawn_heads(images: Sequence[Image.Image], looks: Mapping[str, Sequence[Look]]) -> list[Drawn]:
    """Every head of the networks that give their attention: as it is, where most of it lies, and its blobs."""
    known = {name: [each.scores for each in found if each.scores is not None] for name, found in looks.items()}
    known = {name: scores for name, scores in known.items() if scores}
    drawn = {picture: heads_of_images(images, known, _overlays(picture)) for picture in _HEADS}
    return [Drawn(*_HEADS[picture], sheet) for picture, sheet in drawn.items()]


@torch.no_grad()
def look(backbone: AnyBackbone, image: Image.Image) -> Look:
    """One image as a network sees it, at the network's own size, on the host."""
    fitted = whole_patches(image, min(backbone.image_size), backbone.patch_size)
    last = () if backbone.depth - 1 in backbone.closed else (-1,)
    tokens = backbone(pixels_of(backbone, fitted), scores=last)
    scores = tokens.scores[-1][0].float().cpu() if last else None
    return Look(tokens.patches[0].float().cpu(), tokens.grid, scores)


def object_point(sample: Sample) -> Point:
    """A place (down, right) in [0, 1] on the largest object of an image: its pixel nearest to its middle.

    The middle of the image where no mask is known, or it marks nothing.
    """
    if sample.mask is None:
        return 0.5, 0.5
    ignored = 65535 if sample.mask.dtype == np.uint16 else 255
    ids, counts = np.unique(sample.mask[(sample.mask != 0) & (sample.mask != ignored)], return_counts=True)
    if not len(ids):
        return 0.5, 0.5
    rows, columns = np.nonzero(sample.mask == ids[counts.argmax()])
    nearest = int(((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin())
    height, width = sample.mask.shape
    return (rows[nearest] + 0.5) / height, (columns[nearest] + 0.5) / width


def start_of(run: str | Path) -> str:
    """The weights that a run's training started from, as for `--weights`; its own stage 1 where it trained one.

    Raises:
        ValueError: no run folder, or a training that started with fresh weights.
    """
    folder = run_folder_of(str(run))
    config: Any = None
    if folder is not None and (folder / "config.yaml").is_file():
        config = yaml.safe_load((folder / "config.yaml").read_text())
    if not isinstance(config, dict):
        raise ValueError(f"{run} is no run folder with a config.yaml, so nothing says what came before it; name it")
    assert folder is not None
    named = config.get("init_from")
    if named is None and (folder / "stage1").is_dir():
        return str(folder / "stage1")
    if named in (None, "pretrained"):
        raise ValueError(f"{run} started with {'fresh' if named is None else 'pretrained'} weights: no run came before")
    before = run_folder_of(named)
    return str(named if before is None else before)


def drawing_change(splits: Splits) -> Callable[[Path, str, AnyBackbone], None]:
    """A function that draws a run's backbone before and after training: attention, patch features, the filter.

    Features after training stand below those before, in one picture, by one analysis.
    """
    attention = drawing(splits)

    def draw(folder: Path, when: str, drawn: AnyBackbone) -> None:
        attention(folder, when, drawn)
        was_training = drawn.training
        drawn.eval()
        chosen = different(splits.val, IMAGES)
        images = [splits.val[index].image for index in chosen]
        looks = {f"{when} training": [look(drawn, image) for image in images]}
        known = folder / "patches_before.safetensors"
        if when == "before":
            keep_looks(known, looks[f"{when} training"], chosen)
        elif (before := kept_looks(known, chosen)) is not None:
            looks = {"before training": before} | looks
        keep_sheet(folder, "pca.png", pca_rows(images, looks), _PCA)
        if isinstance(drawn, TimmViT) and drawn.object_filter is not None and not drawn.closed:
            caption = (
                f"The object-aware filter beside the last self-attention, {when} training: the most used prototypes."
            )
            keep_sheet(folder, f"filter_{when}.png", filter_page(drawn, splits.val, 2), caption)
        drawn.train(was_training)

    return draw


def keep_looks(path: Path, looks: Sequence[Look], chosen: Sequence[int]) -> None:
    """Keep patch features for a later comparison; `chosen` are the images' positions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"{place}": each.patches.contiguous() for place, each in zip(chosen, looks)}
    grids = {f"{place}.grid": torch.tensor(each.grid) for place, each in zip(chosen, looks)}
    save_file(state | grids, path)


def kept_looks(path: Path, chosen: Sequence[int]) -> list[Look] | None:
    """What `keep_looks` kept, None where there is nothing of these images."""
    if not path.is_file():
        return None
    state = load_file(path)
    if {name for name in state if not name.endswith(".grid")} != {f"{place}" for place in chosen}:
        return None
    grids = [state[f"{place}.grid"].tolist() for place in chosen]
    return [Look(state[f"{place}"], (grid[0], grid[1])) for place, grid in zip(chosen, grids)]


_HEADS = {
    "attention": (
        "Attention of each head",
        "The class token's attention in the last block, each map from its lowest to its highest weight.",
    ),
    "regions": (
        "60 % of each head's attention",
        "The fewest patches that hold 60 % of a head's attention, brighter where it is higher; parts are connected.",
    ),
    "blobs": (
        "Blobs of each head",
        "Regions where a head's scores are above their mean, a color each: spatial entropy is theirs, 0 for one blob.",
    ),
}
_PCA = "Patch features: their first three principal components as red, green and blue."
