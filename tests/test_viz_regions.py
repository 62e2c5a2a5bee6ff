from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.regions import attention_regions, region_overlays

IMAGE = Image.new("RGB", (80, 40), (128, 128, 128))


def peaked(*places: tuple[int, int], grid: tuple[int, int] = (4, 8)) -> torch.Tensor:
    """One head that looks at some patches, equally, and hardly elsewhere."""
    scores = torch.zeros(1, *grid)
    for row, column in places:
        scores[0, row, column] = 20
    return scores


def test_captions_count_patches_and_parts():
    _, captions = region_overlays(IMAGE, torch.cat([peaked((0, 0), (3, 7)), peaked((1, 1), (2, 2))]), mass=0.9)
    assert captions[0] == "head 0, 6.2\u00a0% of patches, 2\u00a0parts"
    assert captions[1] == "head 1, 6.2\u00a0% of patches, 1\u00a0part"  # corners join
    assert captions[2] == "mean of 2 heads, 12\u00a0% of patches, 2\u00a0parts"
    _, captions = region_overlays(IMAGE, torch.rand(1, 3, 3), mass=1)
    assert captions == ["head 0, 100\u00a0% of patches, 1\u00a0part"]


def test_as_many_patches_as_hold_the_mass():
    weights = torch.tensor([[0.4, 0.25, 0.2, 0.15]])
    for mass, percent in ((0.39, "25"), (0.6, "50"), (0.7, "75"), (0.9, "100")):
        _, captions = region_overlays(IMAGE, weights.log()[None], mass=mass)
        assert captions[0].startswith(f"head 0, {percent}\u00a0%")


@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (7, 7), (14, 28)])
def test_what_is_kept_is_lit_wherever_the_grid_says_and_covers_the_whole_image(grid: tuple[int, int]):
    """Keys of 7 x 7 under patches of 14 x 14 are as good as any: the map is stretched over all of the image."""
    scores = peaked((grid[0] - 1, grid[1] - 1), grid=grid)
    (picture,), _ = region_overlays(IMAGE, scores)
    assert picture.size == IMAGE.size
    colors = np.asarray(picture).astype(int)
    colored = np.ptp(colors, axis=2) > 20
    left, top = 80 - 80 / grid[1], 40 - 40 / grid[0]
    rows, columns = np.nonzero(colored)
    assert (rows.max(), columns.max()) == (39, 79)
    assert abs(rows.min() - top) <= 1
    assert abs(columns.min() - left) <= 1
    assert colors[~colored].max() < 100  # the rest is dark


def test_brighter_where_the_weight_is_higher():
    scores = torch.tensor([[[3.0, 2.0, -9.0, -9.0]]])
    (picture,), _ = region_overlays(IMAGE, scores, mass=1)
    light = np.asarray(picture.convert("L"), dtype=int)
    assert light[20, 10] > light[20, 30] + 20 > light[20, 50] + 20


def test_the_sheet_has_image_heads_and_mean():
    figure = attention_regions(IMAGE, torch.randn(3, 4, 8), columns=5, cell=60)
    assert figure.width == 10 + 70 * 5
    assert attention_regions(IMAGE, torch.randn(1, 4, 8), cell=60).width == 10 + 70 * 2
    attention_regions(IMAGE, torch.ones(2, 3, 3))


@pytest.mark.parametrize(
    ("scores", "mass", "words"),
    [
        (torch.zeros(2, 2), 0.6, "take one image of a batch"),
        (torch.full((1, 2, 2), torch.nan), 0.6, "NaN or infinite"),
        (torch.zeros(1, 2, 2), 1.5, "share is 1.5"),
    ],
)
def test_what_cannot_be_drawn(scores: torch.Tensor, mass: float, words: str):
    with pytest.raises(ValueError, match=words):
        attention_regions(IMAGE, scores, mass=mass)


def test_a_single_patch_that_holds_all_is_bright():
    (picture,), _ = region_overlays(IMAGE, peaked((0, 0)))
    assert np.asarray(picture.convert("L"))[5, 5] > 150
