from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.filter_attention import filter_sheet, most_used, prototype_maps

IMAGE = Image.new("RGB", (60, 40), "gray")


def attention(heads: int = 3, prototypes: int = 8, grid: tuple[int, int] = (2, 3)) -> torch.Tensor:
    return torch.randn(heads, prototypes, *grid).softmax(1)


def test_the_most_used_come_first_over_all_images():
    first, second = torch.full((1, 4, 1, 2), 0.05), torch.full((1, 4, 2, 2), 0.1)
    first[0, 2] = 0.85
    second[0, 1], second[0, 3] = 0.4, 0.3
    assert most_used([first, second], 3) == [2, 1, 3]  # means over images 0.475, 0.225, 0.175, 0.075
    assert most_used([second], 9) == [1, 3, 0, 2]
    assert most_used([attention(prototypes=2)], 5) in ([0, 1], [1, 0])


def test_maps_are_the_mean_and_each_head():
    values = attention()
    maps = prototype_maps(values, [5, 0])
    assert maps.shape == (2, 4, 2, 3)
    assert torch.allclose(maps[0, 0], values[:, 5].double().mean(0))
    assert torch.equal(maps[1, 1:], values[:, 0].double())


def brightness(sheet: Image.Image) -> float:
    """Of the picture at the lower right, 160 x 107 pixels above its caption: the last head of the last prototype."""
    return float(np.asarray(sheet)[-110:-50, -150:-30].mean())


def test_a_prototype_that_is_preferred_lights_up_and_the_others_stay_dark():
    values = torch.full((2, 10, 1, 1), 0.01)
    values[:, 4] = 0.91
    dark = filter_sheet(IMAGE, torch.zeros(2, 1, 1), values, [0], highest=0.91, cell=160)
    light = filter_sheet(IMAGE, torch.zeros(2, 1, 1), values, [4], highest=0.91, cell=160)
    assert dark.size == light.size
    assert brightness(dark) < 60
    assert brightness(light) > 150


def test_a_filter_that_has_not_learned_is_dark():
    even = filter_sheet(IMAGE, torch.zeros(2, 1, 1), torch.full((2, 10, 1, 1), 0.1), [0, 1], cell=160)
    assert brightness(even) < 60


@pytest.mark.parametrize("heads", [1, 6])
def test_a_row_for_each_prototype(heads: int):
    scores, values = torch.randn(heads, 2, 3), attention(heads)
    one, two, three = (filter_sheet(IMAGE, scores, values, chosen, cell=160) for chosen in ([1], [1, 2], [1, 2, 0]))
    assert one.width == two.width == three.width > (heads + 1) * 160
    assert three.height - two.height == two.height - one.height == 107 + 21 + 10  # a picture, its caption, a gap


@pytest.mark.parametrize(
    ("values", "chosen", "words"),
    [
        (attention(), [8], r"prototypes \[8\] are asked for; there are 0 to 7"),
        (attention(), [], r"prototypes \[\] are asked for"),
        (attention(), [-1], "there are 0 to 7"),
        (attention()[None], [0], r"shape \[1, 3, 8, 2, 3\], not \[heads, M, Y, X\]"),
        (attention() * torch.nan, [0], "NaN"),
    ],
)
def test_what_cannot_be_drawn(values: torch.Tensor, chosen: list[int], words: str):
    with pytest.raises(ValueError, match=words):
        filter_sheet(IMAGE, torch.zeros(3, 2, 3), values, chosen)


def test_images_of_different_filters_have_no_common_order():
    with pytest.raises(ValueError, match=r"filters have \[4, 8\] prototypes"):
        most_used([attention(), attention(prototypes=4)])
    with pytest.raises(ValueError, match="filters have no prototypes"):
        most_used([])
