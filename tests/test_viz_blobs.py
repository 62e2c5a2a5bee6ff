from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.blobs import GLASS, attention_blobs, blob_labels, blob_overlays, blob_picture

IMAGE = Image.new("RGB", (60, 40), "gray")
TWO = torch.zeros(1, 4, 6)
TWO[0, 0, 0] = TWO[0, 3, 5] = 1


def test_blobs_are_components_above_the_mean():
    assert blob_labels(TWO)[0].max() == 2
    assert blob_labels(TWO)[0, 0, 0] == 1
    diagonal = torch.eye(3)[None]
    assert blob_labels(diagonal).max() == 1
    assert blob_labels(diagonal, connectivity=4).max() == 3
    assert blob_labels(torch.full((1, 3, 3), 0.1)).max() == 0


def test_captions_give_count_and_entropy():
    scores = torch.cat([TWO, torch.zeros(1, 4, 6)])
    pictures, captions = blob_overlays(IMAGE, scores)
    assert captions == [f"head 0, 2 blobs, {math.log(2):.2f}\u00a0nats", "head 1, 0 blobs, 0.00\u00a0nats"]
    assert [picture.size for picture in pictures] == [IMAGE.size] * 2


def test_each_blob_has_its_color():
    picture = blob_picture(TWO[0].double().numpy(), blob_labels(TWO)[0], (60, 40))
    first, second, rest = (np.array(picture.getpixel(place)) for place in ((0, 0), (59, 39), (30, 20)))
    assert len({tuple(color) for color in (first, second, rest)}) == 3
    assert rest.max() < 60
    for color, glass in (
        (first, GLASS[0]),
        (second, GLASS[1]),
    ):  # both maximal or both alone: one shade of their color
        ratio = color / np.array(glass).clip(1)
        assert np.ptp(ratio[np.array(glass) > 0]) < 0.05


def test_more_blobs_than_colors():
    board = torch.zeros(1, 16, 16)
    board[:, ::2, ::2] = 1
    assert blob_labels(board).max() == 64 > len(GLASS)
    attention_blobs(IMAGE, board)


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 9), (13, 14, 14)])
def test_shapes(shape):
    figure = attention_blobs(IMAGE, torch.randn(shape), cell=80)
    assert figure.mode == "RGB"
    assert figure.width == 10 + 90 * min(5, shape[0] + 1)


def test_broken_scores():
    with pytest.raises(ValueError, match="NaN or infinite"):
        attention_blobs(IMAGE, torch.full((1, 2, 2), torch.nan))
    with pytest.raises(ValueError, match="take one image"):
        attention_blobs(IMAGE, torch.zeros(2, 2))
