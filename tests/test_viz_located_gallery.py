"""Images, maps and boxes in pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.located import FOUND, TRUE
from vitrail.viz.located_gallery import Example, located_gallery, mapped


def example(**changes: object) -> Example:
    image = Image.new("RGB", (40, 20), (0, 0, 200))
    return Example(image, torch.eye(4), (0, 0, 40, 20), (10, 5, 20, 15), [(12, 5, 22, 15)], "IoU 0.67")._replace(
        **changes
    )


def where(picture: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    rows, columns = (np.asarray(picture) == color).all(2).nonzero()
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_boxes_lie_where_they_are_on_both_pictures() -> None:
    sheet = located_gallery([example(truth=())], cell=160)  # 4 times as large
    above, below = sheet.crop((10, 10, 170, 90)), sheet.crop((10, 94, 170, 190))
    assert where(above, FOUND) == (40, 20, 80, 60)
    left, top, right, bottom = where(below, FOUND)
    assert (left, right, bottom - top) == (40, 80, 40)
    sheet = located_gallery([example(box=None)], cell=160)
    assert where(sheet.crop((10, 10, 170, 90)), TRUE) == (48, 20, 88, 60)
    assert not (np.asarray(sheet) == FOUND).all(2).any()


def test_a_map_over_a_part_leaves_the_rest_gray() -> None:
    image = Image.effect_noise((40, 20), 60).convert("RGB")
    picture = np.asarray(mapped(image, torch.rand(3, 3), (10, 0, 30, 20))).astype(int)
    colored = (np.ptp(picture, axis=2) > 0).any(0)
    assert not colored[:10].any()
    assert not colored[30:].any()
    assert colored[10:30].all()
    assert (picture[:, :10] == np.asarray(image)[:, :10]).all()


def test_a_map_that_reaches_over_the_rim_is_cut() -> None:
    assert mapped(Image.new("RGB", (40, 20)), torch.rand(3, 3), (-0.4, -0.2, 40.3, 20.1)).size == (40, 20)
    with pytest.raises(ValueError, match="lies outside of its image of 40 x 20 pixels"):
        mapped(Image.new("RGB", (40, 20)), torch.rand(3, 3), (50, 0, 60, 20))


def test_rows_and_refusals() -> None:
    one, three = located_gallery([example()], columns=2), located_gallery([example()] * 3, columns=2)
    assert three.width > 1.9 * one.width - 20
    assert three.height > 1.9 * one.height - 20
    narrow = example(image=Image.new("RGB", (4, 40)), frame=(0, 0, 4, 40), box=None, truth=())
    assert located_gallery([narrow]).width >= 140
    with pytest.raises(ValueError, match="at least one image"):
        located_gallery([])
    with pytest.raises(ValueError, match="columns is 0"):
        located_gallery([example()], columns=0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        located_gallery([example(map=torch.full((2, 2), torch.nan))])
