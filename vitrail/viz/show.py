"""Whole figures from plain tensors: what `vitrail show` writes and what a run leaves among its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from vitrail.ops.spatial_entropy import spatial_entropy
from vitrail.viz.attention import attention_heads, attention_maps, overlay, peak
from vitrail.viz.blobs import attention_blobs, blob_overlays
from vitrail.viz.canvas import PAPER, Array, Theme, as_maps, fit, heading, sheet, stacked
from vitrail.viz.pca import foreground_gates, pca_pictures
from vitrail.viz.similarity import Patch, similarity_maps

_HEADS = "Attention of the CLS token, per head (each map from its lowest to its highest weight)"
_BLOBS = "Scores above their mean: connected regions and spatial entropy"
_SIMILAR = "Cosine similarity of patch features to the framed patch"
_PCA = "First three principal components of the patch features"


def attention_figure(
    image: Image.Image,
    scores: Tensor | Array,
    *,
    title: str = "",
    smooth: bool = False,
    columns: int = 5,
    cell: int = 224,
    theme: Theme = PAPER,
) -> Image.Image:
    """One image: every head's attention, and below it every head's blobs with their entropy.

    Args:
        image: as the backbone saw it, un-normalized (`to_image`).
        scores: CLS scores before the softmax of one image, `[H, Y, X]`.

    Raises:
        ValueError: scores of another shape (take one image of the batch), NaN or infinite scores.
    """
    heads = attention_heads(image, scores, smooth=smooth, columns=columns, cell=cell, theme=theme)
    blobs = attention_blobs(image, scores, columns=columns, cell=cell, theme=theme)
    return _titled(title, [(_HEADS, heads), (_BLOBS, blobs)], theme)


def tokens_figure(
    image: Image.Image,
    patches: Tensor | Array,
    grid: tuple[int, int],
    *,
    scores: Tensor | Array | None = None,
    cls: Tensor | Array | None = None,
    chosen: Sequence[Patch] | None = None,
    gate: bool = False,
    title: str = "",
    smooth: bool = False,
    columns: int = 5,
    cell: int = 224,
    theme: Theme = PAPER,
) -> Image.Image:
    """One image: attention and blobs (where scores are given), similarity maps, PCA of its patch features.

    Args:
        image: as the backbone saw it, un-normalized.
        patches: features `[N, D]` in raster order.
        grid: (Y, X).
        scores: CLS scores `[H, Y, X]`.
        cls: CLS features `[D]`, for one more similarity map.
        chosen: (row, column) of patches; by default the middle one and two between it and opposite corners.
        gate: whether the PCA is of the guessed foreground alone.
    """
    rows, across = grid
    if chosen is None:
        chosen = list(dict.fromkeys((rows * part // 4, across * part // 4) for part in (2, 1, 3)))
    parts: list[tuple[str, Image.Image]] = []
    if scores is not None:
        heads = attention_heads(image, scores, smooth=smooth, columns=columns, cell=cell, theme=theme)
        blobs = attention_blobs(image, scores, columns=columns, cell=cell, theme=theme)
        parts += [(_HEADS, heads), (_BLOBS, blobs)]
    similar = similarity_maps(
        image, patches, grid, list(chosen), cls=cls, smooth=smooth, columns=columns, cell=cell, theme=theme
    )
    gates = foreground_gates([patches], [grid]) if gate else None
    components = pca_pictures([image], [patches], [grid], gates=gates, smooth=smooth, cell=cell, theme=theme)
    return _titled(title, [*parts, (_SIMILAR, similar), (_PCA, components)], theme)


def compare_attention(
    images: Sequence[Image.Image],
    scores: Mapping[str, Sequence[Tensor | Array] | Tensor],
    *,
    captions: Sequence[str] = (),
    smooth: bool = False,
    cell: int = 160,
    theme: Theme = PAPER,
) -> Image.Image:
    """The same images through several models: a row per image, two pictures per model.

    They are the mean attention over heads, and the blobs of a typical head: the one of median spatial entropy
    (the lower of two middle ones). Captions name that head and give the mean entropy over heads.

    Args:
        images: `[B]` pictures.
        scores: name of a model -> CLS scores `[B, H, Y, X]` (or a list of `[H, Y, X]`).
        captions: one title per image, left of its row.

    Raises:
        ValueError: counts that do not match, and what the single pictures raise.
    """
    for name, given in scores.items():
        if len(given) != len(images):
            raise ValueError(f"{name}: scores of {len(given)} images for {len(images)} images; give one for each")
    rows, texts = [], []
    for number, image in enumerate(images):
        small = fit(image, cell)
        row, words = [small], [""]
        for given in scores.values():
            maps = attention_maps(given[number])
            blobs, names = blob_overlays(small, given[number])
            entropy = _entropy(given[number])
            chosen = sorted(range(len(entropy)), key=entropy.__getitem__)[(len(entropy) - 1) // 2]
            row += [overlay(small, maps.mean(0), smooth=smooth), blobs[chosen]]
            words += [
                f"{peak(maps.mean(0))}, mean entropy {sum(entropy) / len(entropy):.2f}\u00a0nats",
                names[chosen],
            ]
        rows.append(row)
        texts.append(words)
    columns = ["image"]
    for name in scores:
        columns += [f"{name}: mean attention", f"{name}: blobs of the head of median entropy"]
    return sheet(rows, captions=texts, row_titles=captions, column_titles=columns, theme=theme)


def _entropy(scores: Tensor | Array) -> list[float]:
    values: list[float] = spatial_entropy(torch.from_numpy(as_maps(scores, "scores"))).tolist()
    return values


def _titled(title: str, parts: Sequence[tuple[str, Image.Image]], theme: Theme) -> Image.Image:
    width = max(part.width for _, part in parts)
    stack = [heading(title, width, theme=theme, size=18)] if title else []
    for words, part in parts:
        stack += [heading(words, width, theme=theme, size=14), part]
    return stacked(stack, theme)
