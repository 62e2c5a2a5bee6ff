"""A map of the patches of images by t-SNE, for `vitrail show tsne`: colored by class where masks are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from vitrail.data.images import open_mask
from vitrail.ops.patches import patchify
from vitrail.ops.tsne import tsne
from vitrail.recipes.files import image_files, stems
from vitrail.recipes.look import Seen, on_host, open_images, see
from vitrail.recipes.weights import open_backbone
from vitrail.viz.tsne import patch_thumbnail, point_map

IGNORED = 255


class Wanted(NamedTuple):
    """Which patches are drawn, and how they are laid out."""

    points: int = 800
    seed: int = 0
    perplexity: float = 30.0  # less for few points: a third of them at most
    masks: Path | None = None  # a folder of class ids, NAME.png for the image NAME.jpg
    steps: int = 750


class Patches(NamedTuple):
    """The patches of some images."""

    seen: Sequence[Seen]
    owners: Tensor  # [P] int64, which image
    numbers: Tensor  # [P] int64, which patch of it
    groups: Tensor  # [P] int64, -1 for patches that are left out
    names: Sequence[str]  # of the groups
    neutral: int | None = None  # the group of patches of no class


def draw_tsne(
    paths: Sequence[Path],
    weights: str,
    out: Path,
    wanted: Wanted | None = None,
    *,
    model: str | None = None,
    key: str = "auto",
    size: int | None = None,
    device: str = "auto",
) -> list[Path]:
    """Draw patches of all images on one map, tsne.png, whose path is returned. Folders stand for the images in them.

    Raises:
        ValueError: no image that can be read, too few patches, a mask of another size than its image.
    """
    wanted = wanted or Wanted()
    if wanted.points < 4:
        raise ValueError(f"--points {wanted.points} are too few to be laid out; give at least 4")
    opened = open_images(image_files(paths), whole=True)
    masks = {} if wanted.masks is None else masks_of(wanted.masks, opened)
    backbone = open_backbone(weights, model=model, key=key, device=device)
    seen = [on_host(see(backbone, image, size)) for image in opened.values()]
    names = stems(list(opened))
    page = tsne_page(patches_of(seen, names, [masks.get(path) for path in opened]), wanted)
    out.mkdir(parents=True, exist_ok=True)
    page.save(out / "tsne.png")
    return [out / "tsne.png"]


def tsne_page(patches: Patches, wanted: Wanted) -> Image.Image:
    """Lay out patches that are drawn by the seed, and draw them."""
    known = (patches.groups >= 0).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(wanted.seed)
    chosen = known[torch.randperm(len(known), generator=generator)[: wanted.points]]
    if len(chosen) < 4:
        raise ValueError(f"{len(chosen)} patches are too few to be laid out; give more or larger images")
    owners, numbers = patches.owners[chosen].tolist(), patches.numbers[chosen].tolist()
    features = torch.stack([patches.seen[owner].tokens.patches[0, n] for owner, n in zip(owners, numbers)])
    perplexity = max(1.0, min(wanted.perplexity, (len(chosen) - 1) / 3))
    layout = tsne(
        functional.normalize(features.double(), dim=1), perplexity=perplexity, steps=wanted.steps, seed=wanted.seed
    )

    def thumbnail(number: int) -> Image.Image:
        image, tokens = patches.seen[owners[number]]
        return patch_thumbnail(image, tokens.grid, divmod(numbers[number], tokens.grid[1]))

    title = (
        f"{len(chosen):,} of {len(known):,} patches of {len(patches.seen)} image{'s' * (len(patches.seen) != 1)} "
        f"by t-SNE of their cosine similarity, perplexity {perplexity:.3g}, seed {wanted.seed}"
    )
    groups = patches.groups[chosen].tolist()
    return point_map(layout, groups, patches.names, thumbnail=thumbnail, neutral=patches.neutral, title=title)


def patches_of(
    seen: Sequence[Seen],
    titles: Sequence[str],
    masks: Sequence[np.ndarray | None] = (),
    classes: Sequence[str] | None = None,
) -> Patches:
    """All patches of images, grouped by class where there are masks, else by image.

    Args:
        seen: images with tokens on the host.
        titles: of the images.
        masks: of each, `[H, W]` of any size: 0 no class, k the class `classes[k - 1]`, 255 ignored; None for an image
            whose patches are left out. Without any mask, groups are images.
        classes: names; without them classes are told by their numbers.
    """
    counts = [tokens.grid[0] * tokens.grid[1] for _, tokens in seen]
    owners = torch.arange(len(seen)).repeat_interleave(torch.tensor(counts))
    numbers = torch.cat([torch.arange(count) for count in counts])
    if all(mask is None for mask in masks):
        return Patches(seen, owners, numbers, owners, titles)
    found = [
        torch.full((count,), -1) if mask is None else patch_classes(mask, tokens.grid)
        for mask, (_, tokens), count in zip(masks, seen, counts, strict=True)
    ]
    groups = torch.cat(found)
    last = int(groups.max())
    named = [f"class {number}" if classes is None else classes[number - 1] for number in range(1, last + 1)]
    return Patches(seen, owners, numbers, groups, ["no class", *named], 0)


def patch_classes(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """The class id with most pixels of each patch, int64 `[N]`, of ties the lowest; -1 where that is 255.

    The mask `[H, W]` is stretched over the grid by nearest pixels, 8 x 8 for a patch.
    """
    stretched = Image.fromarray(np.asarray(mask, np.uint8)).resize((8 * grid[1], 8 * grid[0]), Image.Resampling.NEAREST)
    cells = patchify(torch.from_numpy(np.array(stretched))[None, None], 8)[0]
    classes = cells.long().mode(1).values
    return torch.where(classes == IGNORED, -1, classes)


def masks_of(folder: Path, images: Mapping[Path, Image.Image]) -> dict[Path, np.ndarray]:
    """Masks of images by their names. Raises `ValueError` where there is none, or one is of another size."""
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder of masks at {folder}; give one that holds NAME.png for the image NAME.jpg"
        )
    found = {path: open_mask(folder / f"{path.stem}.png") for path in images if (folder / f"{path.stem}.png").is_file()}
    if not found:
        raise ValueError(
            f"{folder} holds no mask of {len(images)} images, such as {next(iter(images)).stem}.png; give the folder "
            "that does"
        )
    for path, mask in found.items():
        width, height = images[path].size
        if mask.shape != (height, width):
            raise ValueError(f"mask {mask.shape} and image {(height, width)} of {path} differ in height or width")
    return found
