from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.blobs import GLASS
from vitrail.viz.tsne import NEUTRAL, group_color, patch_thumbnail, place_boxes, point_map


def colors_in(picture: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()}


def test_points_stand_where_the_layout_says_in_their_color():
    layout = torch.tensor([[-1.0, -0.5], [1.0, 0.5]])
    picture = point_map(layout, [0, 1], ["a", "b"], side=120, thumb=20)
    margin = 12  # half a thumbnail and its frame
    assert picture.getpixel((margin, 60 - 24)) == GLASS[0]
    assert picture.getpixel((120 - margin - 1, 60 + 24)) == GLASS[1]
    assert picture.getpixel((60, 60)) == (255, 255, 255)


def test_thumbnails_are_of_their_points_and_asked_for_only_where_drawn():
    asked = []

    def thumbnail(number: int) -> Image.Image:
        asked.append(number)
        return Image.new("RGB", (10, 5), (1, 2, 3 + number))

    layout = torch.tensor([[0.0, 0.0], [0.01, 0.0], [1.0, 1.0], [0.0, 1.0]])
    picture = point_map(layout, [0, 1, 2, 2], ["a", "b", "c"], thumbnail=thumbnail, side=200, thumb=30, most=2)
    assert asked == [0, 2]  # there is no room for 1, and 3 is one too many
    assert picture.getpixel((17, 17)) == (1, 2, 3)
    assert picture.getpixel((1, 1)) == GLASS[0]  # its frame
    asked.clear()
    point_map(layout, [0, 0, 1, 1], ["no class", "b"], thumbnail=thumbnail, neutral=0, most=2)
    assert asked == [2, 3]


@pytest.mark.parametrize("seed", range(3))
def test_boxes_never_overlap_and_only_points_without_room_are_left_out(seed: int):
    places = np.random.default_rng(seed).uniform(0, 300, (200, 2))
    found = place_boxes(places, 24, 1000)
    cover = np.zeros((400, 400), int)
    for number, (left, top, right, bottom) in found.items():
        assert (right - left, bottom - top) == (24, 24)
        assert np.abs(places[number] - 12 - (left, top)).max() <= 0.5
        cover[top + 50 : bottom + 50, left + 50 : right + 50] += 1
    assert cover.max() == 1
    for number in set(range(200)) - set(found):
        left, top = np.floor(places[number] - 12 + 0.5).astype(int) + 50
        earlier = [box for other, box in found.items() if other < number]
        assert any(abs(left - 50 - box[0]) < 24 and abs(top - 50 - box[1]) < 24 for box in earlier)
    assert list(place_boxes(places, 24, 5)) == list(found)[:5]


def test_thirty_groups_have_colors_of_their_own():
    assert len({group_color(group) for group in range(30)}) == 30
    assert group_color(30) == group_color(0)
    assert NEUTRAL not in {group_color(group) for group in range(30)}


def test_the_legend_names_groups_that_are_there():
    layout = torch.randn(6, 2)
    one = point_map(layout, [1] * 6, ["a", "b", "c"], side=240)
    assert GLASS[1] in colors_in(one.crop((0, 240, 240, one.height)))
    assert GLASS[0] not in colors_in(one)


def test_a_thumbnail_is_centered_and_stays_inside():
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(40)[:, None], np.arange(60)
    image = Image.fromarray(pixels)  # 4 x 6 patches of 10 pixels; a pixel says where it stands
    middle = np.asarray(patch_thumbnail(image, (4, 6), (1, 3), times=2))
    assert middle.shape == (20, 20, 3)
    assert (middle[0, 0, 0], middle[0, 0, 1]) == (5, 25)
    corner = np.asarray(patch_thumbnail(image, (4, 6), (3, 0), times=3))
    assert (corner[0, 0, 0], corner[0, 0, 1], corner[-1, -1, 0], corner[-1, -1, 1]) == (10, 0, 39, 29)
    assert patch_thumbnail(image, (4, 6), (0, 0), times=100).size == (60, 40)
    with pytest.raises(ValueError, match=r"patch \(4, 0\) lies outside the grid of 4 x 6"):
        patch_thumbnail(image, (4, 6), (4, 0))


@pytest.mark.parametrize("layout", [torch.zeros(3, 2), torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0], [0, 1]])])
def test_odd_layouts_are_drawn(layout: torch.Tensor):
    assert point_map(layout, [0] * len(layout), ["a"], title="words").width == 960


@pytest.mark.parametrize(
    ("layout", "groups", "words"),
    [
        (torch.zeros(3, 3), [0] * 3, r"shape \(3, 3\), not \[N, 2\]"),
        (torch.full((3, 2), torch.nan), [0] * 3, "NaN"),
        (torch.zeros(3, 2), [0] * 2, "3 points, 2 groups from 0 to 0 and 2 names"),
        (torch.zeros(3, 2), [0, 1, 2], "3 points, 3 groups from 0 to 2 and 2 names"),
    ],
)
def test_what_cannot_be_drawn(layout: torch.Tensor, groups: list[int], words: str):
    with pytest.raises(ValueError, match=words):
        point_map(layout, groups, ["a", "b"])
