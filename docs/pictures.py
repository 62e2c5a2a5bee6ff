"""Draw the pictures of these pages again, from generated scenes alone: masks, views, cells, a loss, cuts, runs.

vitrail train scenes_mae --out runs/scenes_mae
vitrail train scenes --out runs/scenes
vitrail train scenes_sar --out runs/scenes_sar
python docs/pictures.py runs/scenes_mae runs/scenes runs/scenes_sar
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional

from vitrail.backbones import TimmViT, load
from vitrail.data import EvalTransformConfig, MultiCrop, MultiCropConfig, SyntheticScenes, build_eval_transform
from vitrail.data.overlapping import OverlappingConfig, OverlappingCrops
from vitrail.masks import Dpp, MaskConfig, build
from vitrail.ops.correspondence import correspondence
from vitrail.ops.grabcut import grabcut_mask, resized_attention, trimap
from vitrail.ops.overlap import overlap
from vitrail.ops.patches import patchify
from vitrail.ops.ranking_ap import cotap_loss
from vitrail.recipes.look import see
from vitrail.recipes.reconstructions import open_autoencoder, reconstruction_sheet
from vitrail.recipes.side_by_side import object_point
from vitrail.viz.attention import attention_overlays, overlay
from vitrail.viz.canvas import fit, sheet, stacked, to_image
from vitrail.viz.grabcut import Stages, grabcut_sheet
from vitrail.viz.heads_side_by_side import heads_side_by_side
from vitrail.viz.masks import greedy_order, mask_gallery, veiled
from vitrail.viz.regions import region_overlays
from vitrail.viz.robustness import corruption_sheet
from vitrail.viz.side_by_side import patch_at
from vitrail.viz.similarity import framed
from vitrail.viz.tsne import group_color

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


def draw_crops() -> Image.Image:
    """Two global crops and a local one; the cells that each pair has in common, numbered by color."""
    random.seed(5)
    image = scenes(4)[3]
    boxes = torch.tensor(OverlappingCrops(OverlappingConfig(locals=1, local_scale=(0.15, 0.25))).boxes(image.size))
    teacher, others = boxes[:1], boxes[1:]
    rows = []
    for other in others:
        both = overlap(teacher, other[None])
        whole = image.copy()
        for box, color in ((teacher[0], (255, 255, 255)), (other, (20, 20, 20))):
            ImageDraw.Draw(whole).rectangle(box.tolist(), outline=color, width=3)
        rows.append([whole, cells(image, teacher[0], both[0]), cells(image, other, both[0])])
    captions = [["image, two crops", "teacher: Q", "student, global: S"], ["", "teacher: Q", "student, local: S"]]
    return sheet(rows, captions=captions)


def cells(image: Image.Image, crop: torch.Tensor, both: torch.Tensor, count: int = 4, side: int = 224) -> Image.Image:
    """A crop, and over what it shares with another one a grid of colored cells."""
    left, top, right, bottom = crop.tolist()
    picture = image.crop((left, top, right, bottom)).resize((side, side)).convert("RGBA")
    layer = Image.new("RGBA", picture.size)
    across = torch.linspace(0, 1, count + 1)
    x = ((both[0] + across * (both[2] - both[0]) - left) / (right - left) * side).tolist()
    y = ((both[1] + across * (both[3] - both[1]) - top) / (bottom - top) * side).tolist()
    for row in range(count):
        for column in range(count):
            color = (*group_color((3 * row + column) % 10), 110)
            box = (x[column] + 1, y[row] + 1, x[column + 1] - 2, y[row + 1] - 2)
            ImageDraw.Draw(layer).rectangle(box, fill=color, outline=(255, 255, 255, 255))
    return Image.alpha_composite(picture, layer).convert("RGB")


def draw_correspondence() -> Image.Image:
    """What the teacher and the student say of a patch of u in v, and where the loss pushes the student."""
    data = SyntheticScenes(40, image_size=224, seed=3, split="val")
    u, v = data[2], data[10]
    taught = [patch_means(each.image) for each in (u, v)]
    torch.manual_seed(0)
    learned = [each + 0.35 * torch.randn_like(each) for each in taught]
    p, q = correspondence(*learned).requires_grad_(), correspondence(*taught)
    cotap_loss(p, q).sum().backward()
    patch = patch_at(object_point(u), GRID)
    row = patch[0] * GRID[1] + patch[1]
    known, said, pushed = (each.reshape(196, 196)[row].reshape(GRID) for each in (q, p.detach(), -p.grad))
    small, most = fit(v.image, 180), float(pushed.abs().max())
    pictures = [
        framed(fit(u.image, 180), [patch], GRID),
        small,
        overlay(small, known, colormap="viridis", low=0, high=1),
        overlay(small, said, colormap="viridis", low=0, high=1),
        overlay(small, pushed, colormap="PiYG", low=-most, high=most, opacity=0.9),
    ]
    return sheet([pictures], captions=[["u", "v", "teacher: q", "student: p", "-dL/dp: green is to rise"]])


def patch_means(image: Image.Image) -> torch.Tensor:
    """Stand-ins for features: each patch's mean color, less the image's, `[1, N, 3]`."""
    pixels = build_eval_transform(EvalTransformConfig())(image)[None]
    means = patchify(pixels, 16).reshape(1, 196, 3, 256).mean(3)
    return means - means.mean(1, keepdim=True)


def draw_cuts() -> Image.Image:
    """From attention to a mask. Stand-ins for attention: the true mask, shrunk to patches and blurred."""
    data, rows = SyntheticScenes(8, image_size=224, seed=3, split="val"), []
    for index in (4, 2):
        sample = data[index]
        coarse = functional.avg_pool2d(torch.from_numpy(sample.mask > 0).float()[None, None], 16)
        for _ in range(2):
            coarse = functional.avg_pool2d(coarse, 3, 1, 1, count_include_pad=False)
        attention = (coarse[0, 0] / coarse.max()).pow(4).numpy()
        pixels = np.asarray(sample.image)
        marks = trimap(resized_attention(attention, pixels.shape[:2]))
        rows.append(Stages(sample.image, attention, marks, grabcut_mask(pixels, attention)))
    return grabcut_sheet(rows, cell=128)


def draw_reconstructions(run: str) -> Image.Image:
    """Held-out scenes, from random masks and from DPPMask's."""
    masks = {"random": MaskConfig(), "DPPMask, tau 0.5": MaskConfig(kind="dpp", tau=0.5)}
    held_out = SyntheticScenes(1000, split="val")
    return reconstruction_sheet(open_autoencoder(run, device="cpu"), held_out, masks, count=2)


def draw_heads(baseline: str, sar: str) -> Image.Image:
    """A held-out scene: each head's attention, and where most of it lies, without and with SAR."""
    image = SyntheticScenes(1000, split="val")[7].image
    runs = {"baseline": open_backbone(baseline), "SAR": open_backbone(sar)}
    scores = {name: see(backbone, image).tokens.scores[-1][0] for name, backbone in runs.items()}
    return stacked([heads_side_by_side(image, scores, each) for each in (attention_overlays, region_overlays)])


def open_backbone(run: str) -> TimmViT:
    return load(None, run).eval()


def draw_corruptions() -> Image.Image:
    """A scene in every corruption."""
    return corruption_sheet(scenes(3)[2], cell=72).quantize(128)  # noise does not compress


def keep(name: str, picture: Image.Image) -> None:
    path = HERE / f"{name}.png"
    picture.save(path, optimize=True)
    print(path, picture.size, path.stat().st_size)


if __name__ == "__main__":
    keep("masks", draw_masks())
    keep("dppmask", draw_taus())
    keep("dino", draw_views())
    keep("ibot", draw_student())
    keep("leopart", draw_crops())
    keep("cotap", draw_correspondence())
    keep("grabcut", draw_cuts())
    keep("corruptions", draw_corruptions())
    if len(sys.argv) > 1:
        keep("mae", draw_reconstructions(sys.argv[1]))
    if len(sys.argv) > 3:
        keep("sar", draw_heads(sys.argv[2], sys.argv[3]))
