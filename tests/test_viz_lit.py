"""The object lit in its image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vitrail.viz.lit import RIM, lit


def masked(size: tuple[int, int], *window: int) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, window)  # type: ignore[arg-type]
    return mask


def test_the_object_keeps_its_colors_and_the_rest_is_dark_gray() -> None:
    image = Image.new("RGB", (20, 20), (90, 180, 30))
    picture = lit(image, masked(image.size, 5, 5, 15, 15))
    assert picture.getpixel((9, 9)) == (90, 180, 30)
    assert picture.getpixel((5, 9)) == picture.getpixel((14, 9)) == RIM
    gray = picture.getpixel((0, 0))
    assert len(set(gray)) == 1  # type: ignore[arg-type]
    assert gray[0] < 70  # type: ignore[index]
    assert lit(image, Image.new("L", (20, 20), 127)).getcolors() == [(400, gray)]  # nothing is object, and no line


@pytest.mark.parametrize("level", [0, 60, 128, 200, 255])
@pytest.mark.parametrize("side", [40, 200])
def test_the_line_stands_out_from_gray_dark_and_bright(level: int, side: int) -> None:
    """Where neither color nor light tells object and rest apart."""
    image = Image.new("L", (side, side), level)
    quarter = side // 4
    picture = lit(image, masked(image.size, quarter, quarter, 3 * quarter, 3 * quarter))
    row = np.asarray(picture).astype(int)[side // 2]
    line = np.flatnonzero((row == RIM).all(1))
    assert line[0] == quarter  # on the object's outermost pixels
    assert line[-1] == 3 * quarter - 1
    outside, inside = row[: quarter - 2].max(), row[quarter + 4 : 3 * quarter - 4]
    assert abs(np.array(RIM) - outside).max() > 80
    assert (abs(np.array(RIM) - inside).max(1) > 80).all()
    assert row[quarter - 1].max() < 30  # between dark ones
    assert row[line[line < side // 2][-1] + 1].max() < 30


def test_a_mask_of_all_has_its_line_along_the_edge() -> None:
    picture = np.asarray(lit(Image.new("RGB", (12, 9), "gray"), Image.new("L", (12, 9), 255)))
    edge = np.ones((9, 12), bool)
    edge[1:-1, 1:-1] = False
    assert (picture == RIM).all(2).tolist() == edge.tolist()


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the mask has \(3, 3\) pixels and the image \(4, 4\)"):
        lit(Image.new("RGB", (4, 4)), Image.new("L", (3, 3)))
