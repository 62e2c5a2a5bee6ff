"""What masks hide of images, all of them side by side, and the order of DPPMask's choice: for `vitrail show masks`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import torch
from PIL import Image
from torch import Tensor

from vitrail.backbones import AnyBackbone
from vitrail.data import EvalTransformConfig, build_eval_transform
from vitrail.masks import Dpp, MaskConfig, build
from vitrail.masks.counts import number_of
from vitrail.nn.cls_attention import cls_attention
from vitrail.ops.patches import grid_of
from vitrail.recipes.files import told_apart
from vitrail.recipes.look import open_images
from vitrail.recipes.weights import open_backbone
from vitrail.viz.canvas import heading, stacked, to_image
from vitrail.viz.masks import greedy_order, mask_gallery

SIZE, PATCH = 224, 16  # pixels, where no weights say otherwise


class Asked(NamedTuple):
    """Which masks are drawn."""

    ratio: float = 0.75  # share of the patches that is hidden
    tau: float = 0.5  # chance in DPPMask's search
    seed: int = 0


def draw_masks(
    images: Sequence[Path],
    out: Path,
    asked: Asked,
    *,
    weights: str | None = None,
    model: str | None = None,
    key: str = "auto",
    size: int | None = None,
    patch_size: int | None = None,
    device: str = "auto",
) -> list[Path]:
    """Draw all masks of all images on one page, masks.png, whose path is returned.

    Args:
        images: files; those that cannot be read are left out, with a warning.
        out: folder.
        asked: what to hide.
        weights: a backbone's, for masks that are guided by its attention; None leaves these out.
        model, key: which architecture and which network, as in `vitrail.load`.
        size: side of the square that is cut out of the middle; by default the backbone's own, or 224.
        patch_size: side of a patch, by default 16; a backbone has its own.
        device: of the backbone.

    Raises:
        ValueError: no image that can be read, a ratio or tau out of range, a size that holds no whole patches, a patch
            size beside weights.
    """
    if weights is not None and patch_size is not None:
        raise ValueError(
            f"--patch-size {patch_size} and --weights exclude each other: the backbone has its own patches"
        )
    if not 0 < asked.ratio < 1 or not 0 <= asked.tau <= 1:
        raise ValueError(f"--ratio {asked.ratio:g} lies inside (0, 1), --tau {asked.tau:g} in [0, 1]")
    backbone = None if weights is None else open_backbone(weights, model=model, key=key, device=device)
    config, patch = _frame(backbone, size, patch_size)
    opened = open_images(images)
    pixels = torch.stack([build_eval_transform(config)(image) for image in opened.values()])
    grid = grid_of(pixels.shape[2], pixels.shape[3], patch)
    shown = [to_image(each, config.mean, config.std) for each in pixels]
    page = masks_page(shown, pixels, grid, asked, backbone, told_apart(list(opened)))
    out.mkdir(parents=True, exist_ok=True)
    page.save(out / "masks.png")
    return [out / "masks.png"]


@torch.no_grad()
def masks_page(
    images: Sequence[Image.Image],
    pixels: Tensor,
    grid: tuple[int, int],
    asked: Asked,
    backbone: AnyBackbone | None = None,
    titles: Sequence[str] = (),
) -> Image.Image:
    """The gallery of all masks, a row for each image, and below it each image's order of choice.

    Args:
        images: what is drawn.
        pixels: the same, `[B, 3, H, W]`, as a backbone sees them.
        grid: (Y, X).
        asked: what to hide.
        backbone: whose class token's attention guides; None leaves out the masks that need it.
        titles: left of the rows.
    """
    attention = None
    if backbone is not None:
        attention = cls_attention(backbone, pixels.to(next(backbone.parameters()).device)).cpu()
    dpp = Dpp(asked.tau)
    masks = {
        name: build(config)(pixels, grid, asked.ratio, attention=attention, generator=_generator(asked, config.kind))
        for name, config in _configs(asked.tau, backbone is not None).items()
    }
    gallery = mask_gallery(images, masks, grid, titles=titles, cell=144)
    # The same state of the generator as for the mask, so that both pictures show the same choice.
    found = dpp.chosen(
        pixels, grid, grid[0] * grid[1] - number_of(asked.ratio, grid[0] * grid[1]), _generator(asked, "dpp")
    )
    orders = [
        greedy_order(image, ids, int(length), grid, cell=280)
        for image, ids, length in zip(images, found.ids, found.length)
    ]
    return stacked([gallery, heading(f"DPPMask, tau {asked.tau:g}: in which order patches are chosen", 800), *orders])


def _configs(tau: float, guided: bool) -> dict[str, MaskConfig]:
    free = {
        "random": MaskConfig(),
        "block": MaskConfig(kind="block"),
        "inverse block": MaskConfig(kind="inverse_block"),
        f"DPPMask, tau\u00a0{tau:g}": MaskConfig(kind="dpp", tau=tau),
    }
    return free | ({"AttMask": MaskConfig(kind="attmask"), "AMT": MaskConfig(kind="amt")} if guided else {})


def _generator(asked: Asked, kind: str) -> torch.Generator:
    """Chance of its own for each kind of mask: equal chance would make masks look alike that are not."""
    return torch.Generator().manual_seed(crc32(f"{kind} {asked.seed}".encode()))


def _frame(
    backbone: AnyBackbone | None, size: int | None, patch_size: int | None
) -> tuple[EvalTransformConfig, tuple[int, int]]:
    """How images are cut, and the size of a patch."""
    if backbone is None:
        side, width = PATCH if patch_size is None else patch_size, SIZE if size is None else size
        if side < 1 or width < 1:
            raise ValueError(f"--size {width} and --patch-size {side} are pixels, and positive")
        if width % side:
            fits = width // side * side or side
            raise ValueError(f"an image of {width} pixels holds no whole patches of {side}; --size {fits} would")
        return EvalTransformConfig(image_size=width), (side, side)
    config = EvalTransformConfig(image_size=size or backbone.image_size, mean=backbone.mean, std=backbone.std)
    return config, backbone.patch_size
