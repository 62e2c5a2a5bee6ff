"""Images, what a mask leaves of them, and what a decoder makes of that: one row for each image.

With two masks the rows are the triplets of DPPMask's Figure 8, each reconstruction beside its mask. Decoders that
predict pixels normalized within each patch say nothing about a patch's brightness and contrast: those are put back
from the true patch, and the picture says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vitrail.ops.patches import grid_of, patchify, unpatchify
from vitrail.viz.canvas import PAPER, Theme, fit, heading, sheet, stacked, to_image
from vitrail.viz.masks import veiled
from vitrail.viz.percent import percent

UNNORMALIZED = "Un-normalized with the hidden patches' own mean and spread."
UNTRAINED = "The decoder is untrained: nothing here was learned."


class Reconstructed(NamedTuple):
    """One mask of a batch of images, and what was predicted from what it leaves."""

    hidden: Tensor  # bool [B, N], True is hidden, raster order
    predictions: Tensor  # [B, N, P], P = patch_height * patch_width * 3: channel, row, column


def unnormalized(predictions: Tensor, images: Tensor, patch: tuple[int, int]) -> Tensor:
    """Predictions of pixels that were normalized within each patch, with the true patch's statistics put back.

    Args:
        predictions: `[B, N, P]` in units of (pixel - mean) / sqrt(variance + 1e-6), the variance unbiased.
        images: `[B, 3, H, W]`, the true ones.
        patch: (height, width) in pixels.

    Returns:
        `[B, N, P]` in units of the images' pixels.
    """
    variance, mean = torch.var_mean(patchify(images.float(), patch), dim=-1, keepdim=True)
    return predictions.float() * (variance + 1e-6).sqrt() + mean


def reconstructed_images(
    images: Tensor, found: Reconstructed, patch: tuple[int, int], *, normalized: bool, paste: bool = True
) -> Tensor:
    """What the decoder made of masked images, `[B, 3, H, W]` in units of the images' pixels.

    Args:
        images: `[B, 3, H, W]`, as the backbone saw them.
        found: the mask and the predictions.
        patch: (height, width) in pixels.
        normalized: predictions are normalized within each patch; see `unnormalized`.
        paste: show the visible patches as they are; False shows what the decoder says of them, too.

    Raises:
        ValueError: a mask or predictions that do not fit the images.
    """
    grid = grid_of(images.shape[-2], images.shape[-1], patch)
    patches = patchify(images.float(), patch)
    if found.predictions.shape != patches.shape or found.hidden.shape != patches.shape[:2]:
        raise ValueError(
            f"predictions are {list(found.predictions.shape)} and the mask {list(found.hidden.shape)}; images "
            f"{list(images.shape)} in patches of {patch[0]}x{patch[1]} want {list(patches.shape)} and "
            f"{list(patches.shape[:2])}"
        )
    values = unnormalized(found.predictions, images, patch) if normalized else found.predictions.float()
    if paste:
        values = torch.where(found.hidden[:, :, None], values, patches)
    return unpatchify(values, grid, patch)


def reconstruction_gallery(
    images: Tensor,
    found: Mapping[str, Reconstructed],
    patch: tuple[int, int],
    *,
    normalized: bool,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    paste: bool = True,
    untrained: bool = False,
    titles: Sequence[str] = (),
    cell: int = 160,
    theme: Theme = PAPER,
) -> Image.Image:
    """One row for each image: the image, then for each mask the masked image and its reconstruction.

    Args:
        images: `[B, 3, H, W]`, B at least 1, as the backbone saw them.
        found: by the mask's name.
        patch: (height, width) in pixels.
        normalized: predictions are normalized within each patch: each hidden patch gets its own mean and spread back.
        mean, std: per channel, as the pixels were normalized; None where they were not.
        paste: see `reconstructed_images`.
        untrained: the decoder is fresh, which the picture says in large words.
        titles: left of the rows, one for each image.
        cell: longer side of one picture, pixels.
        theme: `PAPER` or `LEAD`.

    Returns:
        An RGB picture. The captions give the share that is hidden, and the mean squared error of the hidden patches
        in units of what was predicted.

    Raises:
        ValueError: no image, no mask, or parts that do not fit one another.
    """
    if not len(images) or not found:
        raise ValueError(f"there is nothing to draw of {len(images)} images and {len(found)} masks; give one of each")
    images = images.float().cpu()
    found = {name: Reconstructed(*(part.detach().cpu() for part in each)) for name, each in found.items()}
    made = {
        name: reconstructed_images(images, each, patch, normalized=normalized, paste=paste)
        for name, each in found.items()
    }
    errors = {name: _errors(images, each, patch, normalized) for name, each in found.items()}
    grid = grid_of(images.shape[-2], images.shape[-1], patch)
    rows, captions = [], []
    for number, pixels in enumerate(images):
        image = fit(to_image(pixels, mean, std), cell)
        row, words = [image], ["image"]
        for name, each in found.items():
            share = percent(float(each.hidden[number].double().mean()))
            row += [
                veiled(image, each.hidden[number], grid, veil=1.0),
                fit(to_image(made[name][number], mean, std), cell),
            ]
            words += [f"{name}, {share} hidden", f"from it, error\u00a0{errors[name][number]:.3f}"]
        rows.append(row)
        captions.append(words)
    body = sheet(rows, captions=captions, row_titles=titles, theme=theme)
    top = [heading(UNTRAINED, body.width, theme=theme, size=26)] if untrained else []
    return stacked([*top, body, heading(_words(normalized, paste), body.width, theme=theme, size=13, gap=12)], theme)


def _errors(images: Tensor, found: Reconstructed, patch: tuple[int, int], normalized: bool) -> list[float]:
    """Mean squared error of each image's hidden patches, in units of what was predicted."""
    targets = patchify(images, patch)
    if normalized:
        variance, mean = torch.var_mean(targets, dim=-1, keepdim=True)
        targets = (targets - mean) / (variance + 1e-6).sqrt()
    errors = (found.predictions.float() - targets).square().mean(-1)
    return [float(error[hidden].mean()) for error, hidden in zip(errors, found.hidden)]


def _words(normalized: bool, paste: bool) -> str:
    shown = "Visible patches are pasted in." if paste else "All patches are predicted ones, the visible ones too."
    unit = "patches normalized one by one" if normalized else "normalized pixels"
    about = f"Error: mean square over the hidden patches, in {unit}."
    put_back = UNNORMALIZED if paste else UNNORMALIZED.replace("hidden ", "")
    floor = ["1 is what each patch's own mean would get; above it, nothing is learned yet."] if normalized else []
    return " ".join([shown, *([put_back] if normalized else []), about, *floor])
