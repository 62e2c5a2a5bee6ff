from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.similarity import cosine_map, similarity_maps

IMAGE = Image.new("RGB", (60, 40), "gray")


def test_cosine_closed_form():
    patches = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [-1.0, 0.0], [0.0, 0.0], [5.0, 0.0]])
    values = cosine_map(patches, (2, 3), (0, 0))
    assert np.allclose(values, [[1, 0, 0.5**0.5], [-1, 0, 1]])
    assert np.allclose(cosine_map(patches, (2, 3), torch.tensor([7.0, 0.0])), values)
    torch.manual_seed(0)
    random = torch.randn(12, 5, dtype=torch.float64)
    expected = torch.nn.functional.cosine_similarity(random, random[7:8]).reshape(3, 4)
    assert np.allclose(cosine_map(random, (3, 4), (1, 3)), expected.numpy())


def test_the_chosen_patch_is_framed():
    figure = np.asarray(similarity_maps(IMAGE, torch.randn(24, 8), (4, 6), [(2, 3)], cell=60))
    left, top = 10 + 30, 10 + 20  # patch (2, 3) of the image, in the first cell
    assert (figure[top - 1, left + 2 : left + 8] == 255).all()
    assert (figure[top - 3, left + 2 : left + 8] < 40).all()


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (4, 6)])
def test_any_grid_with_cls(grid):
    count = grid[0] * grid[1]
    figure = similarity_maps(
        IMAGE, torch.randn(count, 8), grid, [(grid[0] - 1, grid[1] - 1)], cls=torch.randn(8), cell=60
    )
    assert figure.mode == "RGB"
    assert figure.width == 10 + 3 * 70


def test_constant_features():
    alike = similarity_maps(IMAGE, torch.ones(6, 4), (2, 3), [(0, 0)])
    empty = similarity_maps(IMAGE, torch.zeros(6, 4), (2, 3), [(0, 0)])
    assert alike.size == empty.size
    assert np.isfinite(cosine_map(torch.zeros(6, 4), (2, 3), torch.zeros(4))).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(6, 4), (2, 3), [(2, 0)]), r"row 2, column 0\) lies outside the grid of 2 x 3"),
        ((torch.zeros(6, 4), (2, 3), [(0, -1)]), "outside"),
        ((torch.zeros(6, 4), (2, 4), [(0, 0)]), "grid of 2 x 4 has 8 patches, not 6"),
        ((torch.full((6, 4), torch.nan), (2, 3), [(0, 0)]), "NaN"),
        ((torch.zeros(6, 4), (2, 3), []), "choose at least one"),
    ],
)
def test_what_cannot_be_drawn(arguments, words):
    with pytest.raises(ValueError, match=words):
        similarity_maps(IMAGE, *arguments)


def test_a_query_of_another_width():
    with pytest.raises(ValueError, match="3 features, patches have 4"):
        cosine_map(torch.zeros(6, 4), (2, 3), torch.zeros(3))
