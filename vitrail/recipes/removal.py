"""What the reconstruction of a masked autoencoder loses with each visible patch: for `vitrail show removal`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vitrail.masks import MaskConfig, build, visible
from vitrail.nn.patch_removal import Anchor, PatchRemoval
from vitrail.ops.patches import grid_of
from vitrail.recipes.files import told_apart
from vitrail.recipes.look import open_images
from vitrail.recipes.masks import Asked
from vitrail.recipes.reconstructions import Autoencoder, open_autoencoder, pixels_of
from vitrail.viz.patch_removal import Removed, removal_gallery
from vitrail.viz.reconstruction import Reconstructed


def draw_removals(
    images: Sequence[Path],
    weights: str,
    out: Path,
    asked: Asked,
    *,
    model: str | None = None,
    key: str = "auto",
    size: int | None = None,
    heads: int | None = None,
    normalized: bool | None = None,
    device: str = "auto",
) -> list[Path]:
    """Draw the removals that change the reconstruction of each image most and least: one page, removal.png.

    Args:
        images: files; those that cannot be read are left out, with a warning.
        weights: of a masked autoencoder, with its decoder.
        out: folder.
        asked: how much to hide at random, and the seed.
        model, key: which architecture and which network, as in `vitrail.load`.
        size: side of the square that is cut out of the middle; by default the model's own.
        heads, normalized: see `open_autoencoder`.
        device: to compute on.

    Raises:
        ValueError: weights without a decoder, or no image that can be read.
    """
    opened = open_images(images)
    found = open_autoencoder(weights, model=model, key=key, heads=heads, normalized=normalized, device=device)
    page = removal_sheet(found, pixels_of(found.backbone, list(opened.values()), size), asked, told_apart(list(opened)))
    out.mkdir(parents=True, exist_ok=True)
    page.save(out / "removal.png")
    return [out / "removal.png"]


@torch.no_grad()
def removal_sheet(found: Autoencoder, images: Tensor, asked: Asked, titles: Sequence[str] = ()) -> Image.Image:
    """A row for each of the images `[B, 3, H, W]`: two removals that change much, and the one that changes least."""
    backbone = found.backbone
    grid = grid_of(images.shape[-2], images.shape[-1], backbone.patch_size)
    generator = torch.Generator().manual_seed(asked.seed)
    hidden = build(MaskConfig())(images, grid, asked.ratio, generator=generator)
    place = next(found.decoder.parameters()).device
    removal = PatchRemoval(backbone, found.decoder)
    pixels, ids = images.to(place), visible(hidden, asked.ratio).to(place)
    labels, anchor = removal(pixels, ids), removal.anchor(pixels, ids)
    order = labels.argsort(dim=1, descending=True)
    named = {0: "largest", 1: "second largest", ids.shape[1] - 1: "smallest"}
    columns = {0: "only"} if ids.shape[1] == 1 else named
    return removal_gallery(
        images,
        Reconstructed(hidden, _predicted(removal, anchor, anchor.features)),
        [_removed(removal, anchor, labels, order[:, [column]], name) for column, name in columns.items()],
        backbone.patch_size,
        normalized=found.normalized,
        mean=backbone.mean,
        std=backbone.std,
        titles=titles,
    )


def _removed(removal: PatchRemoval, anchor: Anchor, labels: Tensor, which: Tensor, name: str) -> Removed:
    patch = anchor.visible.gather(1, which)[:, 0]
    change = removal.change(anchor, torch.arange(len(patch), device=patch.device), patch)
    predictions = _predicted(removal, anchor, anchor.features + change)
    return Removed(patch.cpu(), labels.gather(1, which)[:, 0].cpu(), predictions, name)


def _predicted(removal: PatchRemoval, anchor: Anchor, features: Tensor) -> Tensor:
    """`[B, N, P]` on the CPU; zeros in visible places."""
    values = removal.decoder.predict(features)
    index = anchor.counted.unsqueeze(2).expand_as(values)
    whole = values.new_zeros(len(values), anchor.sequence.shape[1] - 1, values.shape[2])
    return whole.scatter(1, index, values).cpu()
