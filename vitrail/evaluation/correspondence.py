"""Do patches find each other again? Mutual nearest patches of two views, against where they truly are.

Definition: two patches match where each is the other's nearest by cosine similarity (last block, after the final norm).
Where a patch truly is in the other image is known for

    crops   two random crops of one image, each a quarter to all of its area and resized to a square, with other
            brightness, contrast and saturation: any images will do
    motion  two frames of a generated scene, whose object moves and turns; only the object's patches count

A patch is visible where the true place of its center lies inside the other image. Of both kinds of pairs, in percent:

    correct           of the matches of visible patches, those within one patch's side of the true place
    moved_correct     the same of the patches that truly moved by more than one patch, so that no match at the same
                      place is right
    top_correct       of the 10 most similar matches of a pair
    matched           of the visible patches, those with a match
    outside           crops: of all matches, those of patches that are not visible, so that none can be right
    floor_random      a patch of the other image drawn at random
    floor_same_place  the patch at the same place of the other image: what an answer without looking earns

Counts are pooled over pairs. Numbers carry their kind: `crops_correct`, `motion_correct`. `found` is correct times
matched: of the visible patches, those with a right match.

Source: CoTAP, Figures 13 and 14, which show matches as lines; matching after Amir et al. 2021 (arXiv 2112.05814).
Expected: no number is published; the floors stand beside it.

Deviations: none of the crops, the tolerance and the counting is stated there. Crops are drawn from the seed and the
image's position alone, the same for every backbone. They are not flipped. The frames are the first and the last of a
motion, up to a quarter of a turn. Half of the patches of scenes of 48 px move by less than a patch of 8 px: look at
`moved_correct` there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance
from pydantic import Field
from torch import Tensor

from vitrail.config import Config
from vitrail.contracts import Backbone, ImageSet
from vitrail.data.images import UnreadableImage
from vitrail.data.loader import sample_seed
from vitrail.data.synthetic import SyntheticScenes
from vitrail.data.transforms import EvalTransform, EvalTransformConfig
from vitrail.evaluation.attention import Pixels
from vitrail.evaluation.features import NO_INFLUENCE, Precision, autocast, eval_transform, frozen, weights_digest
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import Report, changes, make_card
from vitrail.evaluation.some import Some
from vitrail.ops.mutual_nearest import Matches, mutual_nearest
from vitrail.ops.patch_classes import patch_classes
from vitrail.ops.patches import grid_of, sides_of

SOURCE = "this library; after CoTAP, Figures 13 and 14"
FRAMES, LATER = 5, 4  # of a motion, and the one that is compared with the first
AREA, RATIO, OVERLAP = (0.25, 1.0), 4 / 3, 0.1  # of a crop: share, most width by height, share of the image in common
Box = tuple[float, float, float, float]


class CorrespondenceConfig(Config):
    """Which views are compared and what counts as right."""

    image_size: Pixels | tuple[Pixels, Pixels] = 224
    """Pixels, a side or (height, width), of a crop and of a frame."""
    tolerance: float = Field(default=1.0, ge=0)
    """How far from the true place a match is right, in sides of a patch."""
    top: int = Field(default=10, ge=1)
    """How many of a pair's most similar matches `top_correct` looks at."""
    colors: float = Field(default=0.4, ge=0, lt=1)
    """Brightness, contrast and saturation of a crop are multiplied by a factor from [1 - x, 1 + x]."""
    images: int | None = Field(default=500, ge=1)
    """At most so many images, evenly spaced; null takes all."""
    seed: int = 0
    """Of the crops."""
    batch_size: int = Field(default=16, ge=1)
    """Pairs per forward pass; no influence on the result."""
    precision: Precision = "fp32"
    """Of the backbone: fp32 or bf16 autocast."""


class Pair(NamedTuple):
    """Two views, and where the first one's patches are in the second."""

    kind: str  # "crops" or "motion"
    first: Image.Image
    second: Image.Image
    truth: Tensor  # [N, 2] float64 x, y in pixels of the second view, of the patches' centers
    counted: Tensor  # Bool [N], patches that are looked at


class Judged(NamedTuple):
    """Counts of one pair, or of several pairs."""

    visible: int
    matched: int  # visible patches with a match
    correct: int
    moved: int  # matched patches whose true place is beyond the tolerance of their own
    moved_correct: int
    top: int  # of the most similar matches of visible patches
    top_correct: int
    all_matches: int  # also of patches that are not visible
    random: float  # expected right ones of the visible patches
    same_place: int


def patch_centers(size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """x, y in pixels `[Y * X, 2]` of the patches' centers of an image (height, width), raster order, float64."""
    y, x = (
        (torch.arange(cells, dtype=torch.float64) + 0.5) * side / cells for side, cells in zip(size, grid, strict=True)
    )
    return torch.stack([x.repeat(grid[0]), y.repeat_interleave(grid[1])], 1)


def judge(
    matches: Matches,
    truth: Tensor,
    counted: Tensor,
    size: tuple[int, int],
    grid: tuple[int, int],
    tolerance: float = 1.0,
    top: int = 10,
) -> Judged:
    """Compare the matches of a pair with the true places.

    Args:
        matches: of the first view's patches in the second.
        truth: `[N, 2]` x, y in pixels of the second view.
        counted: Bool `[N]`, the patches that are looked at.
        size: height and width of the second view, pixels.
        grid: of the second view.
        tolerance: in sides of a patch.
        top: how many of the most similar matches are looked at once more.
    """
    visible = counted & (truth >= 0).all(1) & (truth < torch.tensor([size[1], size[0]])).all(1)
    step = torch.tensor([size[1] / grid[1], size[0] / grid[0]], dtype=torch.float64)
    centers = patch_centers(size, grid) / step
    goals = truth / step
    seen = visible[matches.first]
    ids, partners = matches.first[seen], matches.second[seen]
    right = (centers[partners] - goals[ids]).norm(dim=1) <= tolerance + 1e-9
    near = torch.cdist(goals[visible], centers) <= tolerance + 1e-9  # [visible, patches]
    away = (centers - goals).norm(dim=1) > tolerance + 1e-9
    place = visible.nonzero()[:, 0]
    return Judged(
        visible=len(place),
        matched=len(ids),
        correct=int(right.sum()),
        moved=int(away[ids].sum()),
        moved_correct=int((right & away[ids]).sum()),
        top=min(top, len(ids)),
        top_correct=int(right[:top].sum()),
        all_matches=int(counted[matches.first].sum()),
        random=near.double().mean(1).sum().item(),
        same_place=int((~away[place]).sum()),
    )


def crop_pair(image: Image.Image, size: tuple[int, int], grid: tuple[int, int], colors: float, seed: int) -> Pair:
    """Two crops of one image that overlap, and where the first one's patches are in the second."""
    generator = torch.Generator().manual_seed(seed)
    one, other = _boxes(image.size, generator)
    views = [_colored(_view(image, box, size), colors, generator) for box in (one, other)]
    scale = torch.tensor([size[1], size[0]], dtype=torch.float64)
    corner, span, far_corner, far_span = (
        torch.tensor(box[part], dtype=torch.float64) for box in (one, other) for part in (slice(2), slice(2, 4))
    )
    inside = corner + patch_centers(size, grid) / scale * span  # pixels of the image
    truth = (inside - far_corner) / far_span * scale
    return Pair("crops", views[0], views[1], truth, torch.ones(len(truth), dtype=torch.bool))


def motion_pair(scenes: SyntheticScenes, index: int, size: tuple[int, int], grid: tuple[int, int]) -> Pair:
    """Two frames of a scene that moves, and where the patches of its object go."""
    frames = scenes.motion(index, FRAMES)
    height, width = scenes.size
    scale = torch.tensor([size[1] / width, size[0] / height], dtype=torch.float64)
    centers = patch_centers(size, grid)
    moved = scenes.motion_of(index, FRAMES, (centers / scale).numpy())[LATER]
    mask = np.asarray(frames[0].mask)
    ids = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST)
    counted = patch_classes(torch.from_numpy(np.array(ids)), grid, 0.5, (0, 255)) > 0
    views = [frame.image.resize((size[1], size[0]), Image.Resampling.BICUBIC) for frame in (frames[0], frames[LATER])]
    return Pair("motion", views[0], views[1], torch.from_numpy(moved) * scale, counted)


def evaluate(
    backbone: Backbone,
    data: ImageSet,
    config: CorrespondenceConfig | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """How well patches of two crops of each image of `data`, and of two frames of generated scenes, find each other.

    Args:
        cache: taken so that all protocols are called alike; nothing is kept.

    Returns:
        A report in percent: `crops_correct`, `crops_found` and so on, see the module; of generated scenes
        `motion_correct` and so on, too. Details: the counts.

    Raises:
        ValueError: empty data, none that can be read, or a size that the patch size does not divide.
    """
    config = config or CorrespondenceConfig()
    size = sides_of(config.image_size)
    grid = grid_of(*size, backbone.patch_size)
    if not len(data):
        raise ValueError("correspondence: the data set is empty; an evaluation needs at least one image")
    some, notes = Some(data, config.images), list[str]()
    transform = eval_transform(EvalTransformConfig(image_size=size, mode="squash"), backbone)
    found: dict[str, list[Judged]] = defaultdict(list)
    kinds = 1 + isinstance(data, SyntheticScenes)
    with frozen(backbone, device) as place, progress("correspondence", kinds * len(some), "pairs") as advance:
        for pairs in _batches(_pairs(some, config, size, grid, notes), config.batch_size):
            for pair, matches in zip(pairs, _matches(backbone, pairs, transform, config.precision, place)):
                judged = judge(matches, pair.truth, pair.counted, size, grid, config.tolerance, config.top)
                found[pair.kind].append(judged)
            advance(len(pairs))
    if not found:
        raise ValueError(f"none of {len(some)} images could be read; run `vitrail doctor` on the folder")
    sums = {kind: Judged._make(map(sum, zip(*each))) for kind, each in found.items()}
    if len(some) < len(data):
        notes.append(f"{len(some)} of {len(data)} images, evenly spaced; images=null takes all")
    card = make_card(
        protocol="correspondence",
        source=SOURCE,
        data={"val": some},
        transform=transform.config,
        layer="last block, after the final norm",
        token="patches, mutual nearest by cosine",
        averaging="counts pooled over pairs; percent",
        weights=weights_digest(backbone),
        config=config.plain(),
        backbone=backbone,
        deviations=changes(CorrespondenceConfig().plain(), config.plain(), (*NO_INFLUENCE, "seed", "images")),
        seed=config.seed,
        precision=config.precision,
    )
    numbers = {f"{kind}_{name}": value for kind, each in sums.items() for name, value in _numbers(each, kind).items()}
    details = {
        "pairs": {kind: len(each) for kind, each in found.items()},
        "counts": {kind: each._asdict() for kind, each in sums.items()},
        "notes": notes,
    }
    return Report("correspondence", numbers, card, details)


def _numbers(sums: Judged, kind: str) -> dict[str, float]:
    if not sums.visible:
        raise ValueError(f"no patch of any pair of {kind} is visible in both views; give larger images or objects")
    shares = {
        "correct": (sums.correct, sums.matched),
        "found": (sums.correct, sums.visible),
        "moved_correct": (sums.moved_correct, sums.moved),
        "top_correct": (sums.top_correct, sums.top),
        "matched": (sums.matched, sums.visible),
        "outside": (sums.all_matches - sums.matched, sums.all_matches),
        "floor_random": (sums.random, sums.visible),
        "floor_same_place": (sums.same_place, sums.visible),
    }
    if kind == "motion":
        del shares["outside"]
    if not sums.moved:
        del shares["moved_correct"]
    # Without a single match nothing is right.
    return {name: 100 * part / whole if whole else 0.0 for name, (part, whole) in shares.items()}


def _pairs(
    some: Some, config: CorrespondenceConfig, size: tuple[int, int], grid: tuple[int, int], notes: list[str]
) -> Iterator[Pair]:
    unreadable = 0
    for index, place in enumerate(some.positions):
        try:
            image = some[index].image
        except UnreadableImage:
            unreadable += 1
            continue
        yield crop_pair(image, size, grid, config.colors, sample_seed(config.seed, 0, place))
        if isinstance(some.data, SyntheticScenes):
            yield motion_pair(some.data, place, size, grid)
    if unreadable:
        notes.append(f"{unreadable} of {len(some)} images could not be read and were left out")


def _batches(pairs: Iterator[Pair], size: int) -> Iterator[list[Pair]]:
    waiting: list[Pair] = []
    for pair in pairs:
        waiting.append(pair)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _matches(
    backbone: Backbone, pairs: list[Pair], transform: EvalTransform, precision: Precision, place: torch.device
) -> list[Matches]:
    images = torch.stack([transform(view) for pair in pairs for view in (pair.first, pair.second)]).to(place)
    with autocast(place, precision):
        patches = backbone(images).patches.float().cpu()
    return [mutual_nearest(one, other) for one, other in patches.unflatten(0, (-1, 2))]


def _boxes(size: tuple[int, int], generator: torch.Generator) -> tuple[Box, Box]:
    """Two boxes (left, top, width, height) in an image of (width, height) that share a part of it, at best."""
    boxes = (_box(size, generator), _box(size, generator))
    for _ in range(50):
        (x, y, w, h), (u, v, p, q) = boxes
        shared = max(min(x + w, u + p) - max(x, u), 0) * max(min(y + h, v + q) - max(y, v), 0)
        if shared >= OVERLAP * size[0] * size[1]:
            break
        boxes = (_box(size, generator), _box(size, generator))
    return boxes


def _box(size: tuple[int, int], generator: torch.Generator) -> Box:
    draws = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    area = AREA[0] + (AREA[1] - AREA[0]) * draws[0]
    stretch = math.exp((2 * draws[1] - 1) * math.log(RATIO) / 2)
    width, height = (min(math.sqrt(area) * side, 1.0) * full for side, full in zip((stretch, 1 / stretch), size))
    return (size[0] - width) * draws[2], (size[1] - height) * draws[3], width, height


def _view(image: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    left, top, width, height = box
    edges = (left, top, min(left + width, image.width), min(top + height, image.height))
    return image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=edges)


def _colored(image: Image.Image, strength: float, generator: torch.Generator) -> Image.Image:
    factors = 1 + strength * (2 * torch.rand(3, generator=generator, dtype=torch.float64) - 1)
    for kind, factor in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors.tolist()):
        image = kind(image).enhance(factor) if strength else image
    return image
