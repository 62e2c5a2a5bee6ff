from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.pca import pca_colors
from vitrail.viz.side_by_side import Look, attention_rows, patch_at, pca_rows, similarity_rows

IMAGES = [Image.new("RGB", (60, 60), "gray"), Image.new("RGB", (60, 40), "gray")]


def looks(count: int = 2, grid: tuple[int, int] = (2, 3), width: int = 8, scores: bool = True) -> list[Look]:
    patches = grid[0] * grid[1]
    return [Look(torch.randn(patches, width), grid, torch.randn(3, *grid) if scores else None) for _ in range(count)]


def test_a_row_for_each_network():
    one, two = {"before": looks()}, {"before": looks(), "after": looks(grid=(4, 6))}
    points = [(0.5, 0.5), (0.1, 0.9)]
    for draw in (attention_rows, pca_rows, lambda *a, **how: similarity_rows(*a, points, **how)):
        small, large = draw(IMAGES, one, cell=160), draw(IMAGES, two, cell=160)
        assert small.width == large.width
        assert large.height - small.height >= 160 + 10


def test_one_color_means_one_feature_where_networks_are_equally_wide():
    torch.manual_seed(3)
    first, second = torch.randn(4, 5), torch.randn(4, 5)
    image = Image.new("RGB", (120, 120))
    sheet = pca_rows([image], {"a": [Look(first, (2, 2))], "b": [Look(second, (2, 2))]}, cell=120)
    colors, _ = pca_colors([first, second], [(2, 2), (2, 2)])
    column = np.asarray(sheet)[:, sheet.width - 10 - 120 :]
    for values in colors:
        wanted = (values * 255).round().astype(np.uint8)
        for row, across in ((0, 30), (1, 90)):
            hits = (column[:, across] == wanted[row, across // 60]).all(1)
            assert hits.sum() >= 60  # that quarter's height
    alone, _ = pca_colors([second], [(2, 2)])
    assert not np.allclose(alone[0], colors[1])


def test_networks_of_other_widths_have_colors_of_their_own():
    first, second = looks(1, width=8), looks(1, width=12)
    both = pca_rows(IMAGES[:1], {"a": first, "b": second}, cell=160)
    alone = pca_rows(IMAGES[:1], {"a": first}, cell=160)
    a, b = np.asarray(both)[:330, -170:], np.asarray(alone)[:330, -170:]
    assert (a == b).all()


def test_networks_that_hide_their_attention_are_left_out():
    drawn = attention_rows(IMAGES, {"a": looks(), "b": looks(scores=False)}, cell=160)
    assert drawn.size == attention_rows(IMAGES, {"a": looks()}, cell=160).size
    with pytest.raises(ValueError, match="none of the networks gives its attention"):
        attention_rows(IMAGES, {"b": looks(scores=False)})


@pytest.mark.parametrize(
    ("point", "grid", "patch"),
    [
        ((0.0, 0.0), (4, 6), (0, 0)),
        ((1.0, 1.0), (4, 6), (3, 5)),
        ((0.5, 0.5), (2, 2), (1, 1)),
        ((0.26, 0.1), (4, 6), (1, 0)),
    ],
)
def test_places_and_patches(point: tuple[float, float], grid: tuple[int, int], patch: tuple[int, int]):
    assert patch_at(point, grid) == patch


@pytest.mark.parametrize(("point", "lit"), [((0.9, 0.2), 0), ((0.1, 0.7), 1)])
def test_the_patch_at_the_place_is_compared(point: tuple[float, float], lit: int):
    patches = torch.tensor([[1.0, 0.1], [0.1, 1.0], [1.0, 0.0], [0.0, 1.0]])  # left and right are alike
    sheet = similarity_rows([Image.new("RGB", (120, 120))], {"a": [Look(patches, (2, 2))]}, [point], cell=120)
    column = np.asarray(sheet).astype(int)[-150:-30, sheet.width - 130 : sheet.width - 10].sum(2)
    sides = column[:, 30], column[:, 90]
    assert (sides[lit] > sides[1 - lit] + 100).sum() > 100


@pytest.mark.parametrize(
    ("images", "found", "points", "words"),
    [
        ([], {}, [], "0 images and 0 networks"),
        (IMAGES, {"a": looks(1)}, [(0.5, 0.5)] * 2, "'a' has seen 1 of 2 images"),
        (IMAGES, {"a": looks()}, [(0.5, 0.5)], "for 2 images"),
        (IMAGES, {"a": looks()}, [(0.5, 1.5)] * 2, r"in \[0, 1\]"),
    ],
)
def test_what_cannot_be_drawn(images: list, found: dict, points: list, words: str):
    with pytest.raises(ValueError, match=words):
        similarity_rows(images, found, points)
