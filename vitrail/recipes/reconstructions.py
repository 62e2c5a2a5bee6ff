"""What a masked autoencoder makes of masked images: for `vitrail show reconstruction`, and for a run's own pages."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vitrail.backbones import TimmViT, need_part, need_vit
from vitrail.contracts import Backbone, ImageSet, Mask
from vitrail.data import EvalTransformConfig, build_eval_transform
from vitrail.masks import MaskConfig, build, visible
from vitrail.nn.cls_attention import cls_attention
from vitrail.nn.masked_autoencoder import DecoderConfig, MaskedDecoder
from vitrail.ops.patches import grid_of
from vitrail.recipes.files import told_apart
from vitrail.recipes.look import different, open_images
from vitrail.recipes.masks import Asked
from vitrail.recipes.weights import find_weights, open_backbone
from vitrail.viz.reconstruction import Reconstructed, reconstruction_gallery


class Autoencoder(NamedTuple):
    """A backbone with the decoder that was trained beside it."""

    backbone: TimmViT
    decoder: MaskedDecoder
    normalized: bool  # it predicts pixels normalized within each patch


def draw_reconstructions(
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
    paste: bool = True,
    device: str = "auto",
) -> list[Path]:
    """Draw each image with its reconstructions from a random mask and from DPPMask: one page, reconstruction.png.

    Args:
        images: files; those that cannot be read are left out, with a warning.
        weights: of a masked autoencoder, with its decoder.
        out: folder.
        asked: what to hide.
        model, key: which architecture and which network, as in `vitrail.load`.
        size: side of the square that is cut out of the middle; by default the model's own.
        heads, normalized: see `open_autoencoder`.
        paste: show the visible patches as they are; False shows what is predicted of them, too.
        device: to compute on.

    Raises:
        ValueError: weights without a decoder, or no image that can be read.
    """
    opened = open_images(images)
    found = open_autoencoder(weights, model=model, key=key, heads=heads, normalized=normalized, device=device)
    pixels = pixels_of(found.backbone, list(opened.values()), size)
    masks = {
        "random": MaskConfig(),
        f"DPPMask, tau\u00a0{asked.tau:g}": MaskConfig(kind="dpp", tau=asked.tau),
    }
    page = _page(found, pixels, masks, asked, paste=paste, titles=told_apart(list(opened)))
    out.mkdir(parents=True, exist_ok=True)
    page.save(out / "reconstruction.png")
    return [out / "reconstruction.png"]


def open_autoencoder(
    weights: str,
    *,
    model: str | None = None,
    key: str = "auto",
    heads: int | None = None,
    normalized: bool | None = None,
    device: str = "auto",
) -> Autoencoder:
    """A backbone and its decoder, both in evaluation mode.

    Args:
        weights: a file or a run folder.
        model, key: which architecture and which network, as in `vitrail.load`.
        heads: attention heads of the decoder, for files that do not say; None guesses, with a warning.
        normalized: the decoder predicts pixels normalized within each patch; for files that do not say.
        device: to compute on.

    Raises:
        ValueError: a file without a decoder, one that does not say what it predicts where `normalized` is None, or
            one that says the opposite of it.
    """
    if weights == "pretrained":
        raise ValueError("pretrained weights come without a decoder; give a file of MAE that has one, or a run of MAE")
    where = find_weights(weights)
    part = need_part(where, "decoder", checkpoint_key=key, heads=heads)
    backbone = need_vit(open_backbone(where, model=model, key=key, device=device), "a decoder")
    said = part.normalized_targets
    if said is None and normalized is None:
        raise ValueError(
            f"{where} does not say what its decoder predicts; give --normalized-targets for pixels normalized within "
            "each patch, as MAE's *_full files, or --plain-targets, as mae_visualize_*"
        )
    if said is not None and normalized is not None and said != normalized:
        words = {True: "pixels normalized within each patch", False: "plain pixels"}
        raise ValueError(
            f"{where} says that its decoder predicts {words[said]}, not {words[normalized]}; leave "
            "--normalized-targets and --plain-targets out"
        )
    for note in part.notes:
        if "guess" in note:
            warnings.warn(note, stacklevel=2)
    config = DecoderConfig.parse(part.config.get("decoder", part.config), source=f"{where}: its decoder")
    rows, columns = (side // step for side, step in zip(backbone.image_size, backbone.patch_size))
    decoder = MaskedDecoder(config, backbone.embed_dim, backbone.patch_size, (rows, columns))
    part.fill(decoder)
    place = next(backbone.parameters()).device
    return Autoencoder(backbone, decoder.to(place).eval(), bool(normalized if said is None else said))


def reconstruction_sheet(
    found: Autoencoder,
    data: ImageSet,
    masks: Mapping[str, MaskConfig],
    *,
    hidden: float = 0.75,
    count: int = 4,
    seed: int = 0,
    untrained: bool = False,
) -> Image.Image:
    """The first images of different classes of a set, each with its reconstructions: a run's before and after.

    Draws nothing from torch's global generator, and leaves the modules in the mode they were in.

    Args:
        found: what reconstructs.
        data: the images; unreadable ones are passed over.
        masks: by the name in the captions.
        hidden: share of the patches that is hidden.
        count: how many images.
        seed: of the masks.
        untrained: the decoder is fresh, which the picture says.
    """
    modes = found.backbone.training, found.decoder.training
    found.backbone.eval()
    found.decoder.eval()
    pixels = pixels_of(found.backbone, [data[index].image for index in different(data, count)])
    page = _page(found, pixels, masks, Asked(hidden, seed=seed), untrained=untrained)
    found.backbone.train(modes[0])
    found.decoder.train(modes[1])
    return page


@torch.no_grad()
def reconstruct(
    found: Autoencoder, images: Tensor, mask: Mask, hidden: float, generator: torch.Generator
) -> Reconstructed:
    """A mask of images `[B, 3, H, W]`, drawn on the CPU, and what the decoder predicts from the visible patches."""
    backbone: Backbone = found.backbone
    place = next(found.decoder.parameters()).device
    images, on_host = images.to(place), images.cpu()
    attention = cls_attention(backbone, images).cpu() if mask.needs_attention else None
    grid = grid_of(images.shape[-2], images.shape[-1], backbone.patch_size)
    covered = mask(on_host, grid, hidden, attention=attention, generator=generator)
    ids = visible(covered, hidden).to(place)
    tokens = backbone(images, keep=ids)
    return Reconstructed(covered, found.decoder(tokens.cls, tokens.patches, ids, tokens.grid))


def _page(
    found: Autoencoder,
    pixels: Tensor,
    masks: Mapping[str, MaskConfig],
    asked: Asked,
    *,
    paste: bool = True,
    untrained: bool = False,
    titles: Sequence[str] = (),
) -> Image.Image:
    made = {
        name: reconstruct(found, pixels, build(config), asked.ratio, torch.Generator().manual_seed(asked.seed))
        for name, config in masks.items()
    }
    backbone = found.backbone
    return reconstruction_gallery(
        pixels,
        made,
        backbone.patch_size,
        normalized=found.normalized,
        mean=backbone.mean,
        std=backbone.std,
        paste=paste,
        untrained=untrained,
        titles=titles,
    )


def pixels_of(backbone: TimmViT, images: Sequence[Image.Image], size: int | None = None) -> Tensor:
    """`[B, 3, H, W]`, cut out of the middle and normalized."""
    config = EvalTransformConfig(image_size=size or backbone.image_size, mean=backbone.mean, std=backbone.std)
    transform = build_eval_transform(config)
    return torch.stack([transform(image) for image in images])
