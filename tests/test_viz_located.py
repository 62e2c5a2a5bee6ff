"""Maps and boxes as a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.located import FOUND, TRUE, Found, boxed_picture, framed, located_sheet, overlap_of

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def found(**changes: object) -> Found:
    values = torch.zeros(20, 30)
    values[5:15, 10:20] = 1
    box = torch.tensor([10.0, 5, 20, 15])
    return Found(torch.randn(3, 20, 30), values, box, torch.tensor([[12.0, 5, 22, 15]]), True)._replace(**changes)


def test_a_box_is_half_open() -> None:
    picture = np.asarray(framed(Image.new("RGB", (20, 10)), [torch.tensor([2.0, 3, 8, 9])], TRUE))
    white = (picture == 255).all(2)
    rows, columns = white.any(1).nonzero()[0], white.any(0).nonzero()[0]
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (3, 8, 2, 7)
    assert not white[5, 5]


def test_boxes_are_scaled_and_colored() -> None:
    picture = np.asarray(framed(Image.new("RGB", (40, 20)), [torch.tensor([2.0, 3, 8, 9])], FOUND, 2.0))
    yellow = (picture == FOUND).all(2)
    rows, columns = yellow.any(1).nonzero()[0], yellow.any(0).nonzero()[0]
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (6, 17, 4, 15)


def test_a_sheet_shows_all() -> None:
    sheet = np.asarray(located_sheet([found(), found(right=False, truth=None), found(box=None)], MEAN, STD, cell=90))
    assert (sheet == FOUND).all(2).any()
    assert (sheet == TRUE).all(2).any()
    assert sheet.shape[1] > 3 * 90


def test_overlap() -> None:
    box = torch.tensor([0.0, 0, 10, 10])
    assert overlap_of(box, torch.tensor([[5.0, 0, 15, 10], [20.0, 20, 30, 30]])) == pytest.approx(1 / 3)
    assert overlap_of(box, box[None]) == 1
    assert overlap_of(box, torch.tensor([[20.0, 0, 30, 10]])) == 0


def test_a_missing_map_is_refused() -> None:
    with pytest.raises(ValueError, match="an image comes without a map"):
        located_sheet([found(map=None)], MEAN, STD)


def test_a_boxed_picture_lights_the_object_alone() -> None:
    image = Image.new("RGB", (60, 40), (200, 100, 50))
    values = torch.zeros(20, 30)
    values[5:15, 10:20] = 1
    mask = Image.fromarray(np.kron(values.numpy(), np.ones((2, 2))).astype(np.uint8) * 255)
    box = torch.tensor([10.0, 5, 20, 15])
    picture = np.asarray(boxed_picture(image, values, mask, [box], 2.0, "wren"))
    lit, both = picture[10:50, 10:70], (picture == FOUND).all(2)
    assert (lit[15, 30] == (200, 100, 50)).all()
    assert len(set(lit[5, 5])) == 1  # gray
    assert lit[5, 5, 0] < 100
    rows, columns = both[10:50, 10:70].any(1).nonzero()[0], both[10:50, 10:70].any(0).nonzero()[0]
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (10, 29, 20, 39)
    assert both[:, 75:].any()  # in the map, too
    assert picture.shape[0] > boxed_picture(image, values, mask, [box], 2.0).height - 1
    with pytest.raises(ValueError, match=r"the mask has .* and the image"):
        boxed_picture(image, values, mask.resize((5, 5)), [])
