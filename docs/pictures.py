"""Draw the pictures of these pages again, from generated scenes alone: masks, views, and a tiny MAE's reconstructions.

vitrail train scenes_mae --out runs/scenes_mae
python docs/pictures.py runs/scenes_mae
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
from PIL import Image

from vitrail.data import EvalTransformConfig, MultiCrop, MultiCropConfig, SyntheticScenes, build_eval_transform
from vitrail.masks import Dpp, MaskConfig, build
from vitrail.recipes.reconstructions import open_autoencoder, reconstruction_sheet
from vitrail.viz.canvas import sheet, stacked, to_image
from vitrail.viz.masks import greedy_order, mask_gallery, veiled

HERE = Path(__file__).parent / "images"
GRID, HIDDEN, VISIBLE = (14, 14), 0.75, 49  # of 224 px in patches of 16


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def scenes(count: int) -> list[Image.Image]:
    data = SyntheticScenes(count, image_size=224, seed=3, split="val")
    return [data[index].image for index in range(count)]


def draw_masks() -> Image.Image:
    """Every mask that needs no attention."""
    images = scenes(3)
    pixels = torch.stack([build_eval_transform(EvalTransformConfig())(image) for image in images])
    kinds = {"random": "random", "block": "block", "inverse block": "inverse_block", "DPPMask": "dpp"}
    masks = {name: build(MaskConfig(kind=kind)) for name, kind in kinds.items()}
    drawn = {name: mask(pixels, GRID, HIDDEN, generator=seeded()) for name, mask in masks.items()}
    return mask_gallery(images, drawn, GRID, cell=128)


def draw_taus() -> Image.Image:
    """From the plain search to random masking, and in which order patches are chosen."""
    image = scenes(4)[3]
    pixels = build_eval_transform(EvalTransformConfig())(image)[None]
    taus = {f"tau {tau:g}": Dpp(tau)(pixels, GRID, HIDDEN, generator=seeded()) for tau in (0, 0.5, 0.7, 1)}
    found = Dpp(0.5).chosen(pixels, GRID, VISIBLE, seeded())
    order = greedy_order(image, found.ids[0], int(found.length[0]), GRID, cell=200)
    return stacked([mask_gallery([image], taus, GRID, cell=128), order])


def draw_views() -> Image.Image:
    """Two global crops for teacher and student, four local ones for the student alone."""
    config = MultiCropConfig(locals=4, sigma=(0.1, 1.0))
    rows = []
    for number, image in enumerate(scenes(2)):
        random.seed(number)
        views = [to_image(view, config.mean, config.std) for view in MultiCrop(config)(image)]
        rows.append([picture.reduce(2) for picture in (image, *views)])
    captions = ["image", *("global: both",) * 2, *("local: student",) * 4]
    return sheet(rows, captions=[captions] * 2)


def draw_student() -> Image.Image:
    """Two global crops, whole for the teacher, masked for the student."""
    config = MultiCropConfig(locals=0, jitter=0, grayscale=0, blur=(0, 0, 0), solarize=(0, 0, 0))
    random.seed(1)
    views = torch.stack(MultiCrop(config)(scenes(4)[3]))
    kinds = {"block": MaskConfig(kind="block"), "random": MaskConfig(), "DPPMask": MaskConfig(kind="dpp")}
    masks = {name: build(kind)(views, GRID, 0.7, generator=seeded()) for name, kind in kinds.items()}
    rows = []
    for number, view in enumerate(views):
        crop = to_image(view, config.mean, config.std).resize((128, 128))
        rows.append([crop, *(veiled(crop, mask[number], GRID) for mask in masks.values())])
    captions = ["teacher sees", *(f"student, {name}" for name in masks)]
    return sheet(rows, captions=[captions] * 2)


def draw_reconstructions(run: str) -> Image.Image:
    """Held-out scenes, from random masks and from DPPMask's."""
    masks = {"random": MaskConfig(), "DPPMask, tau 0.5": MaskConfig(kind="dpp", tau=0.5)}
    held_out = SyntheticScenes(1000, split="val")
    return reconstruction_sheet(open_autoencoder(run, device="cpu"), held_out, masks, count=2)


def keep(name: str, picture: Image.Image) -> None:
    path = HERE / f"{name}.png"
    picture.save(path, optimize=True)
    print(path, picture.size, path.stat().st_size)


if __name__ == "__main__":
    keep("masks", draw_masks())
    keep("dppmask", draw_taus())
    keep("dino", draw_views())
    keep("ibot", draw_student())
    if len(sys.argv) > 1:
        keep("mae", draw_reconstructions(sys.argv[1]))
