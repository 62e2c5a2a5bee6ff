"""Pictures of what a backbone sees: in image files for `vitrail show`, in held-out images for a run's page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vitrail.backbones import TimmViT
from vitrail.contracts import ImageSet, Tokens
from vitrail.data import EvalTransformConfig, build_eval_transform, open_image
from vitrail.recipes.weights import open_backbone
from vitrail.viz.attention import attention_heads, overlay_heads
from vitrail.viz.blobs import attention_blobs
from vitrail.viz.canvas import grid, to_image
from vitrail.viz.pca import pca_pictures
from vitrail.viz.similarity import similarity_picture


def draw(
    picture: str,
    images: Sequence[Path],
    weights: str,
    out: Path,
    *,
    model: str | None,
    key: str,
    size: int | None,
    block: int,
    patch: str | None,
    device: str,
) -> list[Path]:
    """One PNG an image, named IMAGE-PICTURE.png; returns their paths. `pca` fits its colors over all images."""
    backbone = open_backbone(weights, model=model, key=key, device=device)
    seen = [_see(backbone, path, size, block) for path in images]
    pictures = [image for image, _ in seen]
    if picture == "pca":
        drawn = pca_pictures([tokens.patches[0] for _, tokens in seen], [tokens.grid for _, tokens in seen])
        drawn = [grid([[image, colors.resize(image.size, Image.Resampling.NEAREST)]]) for image, colors in zip(pictures, drawn)]
    else:
        drawn = [_picture(picture, image, tokens, block, patch) for image, tokens in seen]
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{path.stem}-{picture}.png" for path in images]
    for path, result in zip(paths, drawn):
        result.save(path)
    return paths
