"""Boxes and masks of a map in pixels of the image: closed forms, the protocol's own boxes, corners."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vitrail.data import EvalTransformConfig, build_eval_transform
from vitrail.data.transforms import Geometry
from vitrail.recipes.object_boxes import Window, laid, object_boxes


def view(height: int, width: int, size: int = 32, mode: str = "squash") -> Geometry:
    config = EvalTransformConfig.parse({"image_size": size, "mode": mode})
    return build_eval_transform(config).geometry(height, width)


def filled(*boxes: tuple[int, int, int, int, float], size: int = 32) -> Tensor:
    values = torch.zeros(size, size)
    for left, top, right, bottom, value in boxes:
        values[top:bottom, left:right] = value
    return values


def test_at_the_view_s_own_size_the_mask_is_the_component() -> None:
    values = torch.rand(32, 32)
    values[8:20, 5:17] += 1
    values /= values.max()
    (found,) = object_boxes(values, 120, view(32, 32))
    whole = np.zeros((32, 32), bool)
    left, top, right, bottom = found.window
    whole[top:bottom, left:right] = found.mask
    cut = ((values * 255).to(torch.uint8) > 120).numpy()
    assert found.box == tuple(map(float, found.window))
    assert (whole <= cut).all()
    assert whole[8:20, 5:17].all()
    inside = torch.from_numpy(whole)
    assert found.area == int(whole.sum())
    assert found.score == pytest.approx(float(values[inside].mean()))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (96, 48), (16, 16)])
def test_a_filled_rectangle_comes_back_in_pixels_of_the_image(height: int, width: int) -> None:
    (found,) = object_boxes(filled((4, 8, 20, 24, 1.0)), 90, view(height, width))  # bilinear rounds corners above
    box = (4 * width / 32, 8 * height / 32, 20 * width / 32, 24 * height / 32)
    assert found.box == box
    assert found.mask.all()
    assert found.area == (box[2] - box[0]) * (box[3] - box[1])
    assert found.score == 1


def test_a_crop_is_moved_back() -> None:
    geometry = view(64, 128, mode="crop")  # 32 x 64, of which columns 16 to 48 are seen
    (found,) = object_boxes(filled((0, 0, 8, 32, 1.0)), 100, geometry)
    assert found.box == (32, 0, 48, 64)
    assert found.window == Window(32, 0, 48, 64)
    lit = laid(filled((0, 0, 8, 32, 1.0)), geometry)
    assert lit.shape == (64, 128)
    assert lit[:, 33:47].min() == 1
    assert lit[:, :32].max() == lit[:, 96:].max() == 0


def test_all_components_by_size_and_the_largest_alone() -> None:
    values = filled((0, 0, 4, 4, 0.9), (10, 10, 30, 30, 0.8), (2, 20, 8, 28, 1.0))
    found = object_boxes(values, 127, view(64, 64), "all")
    assert [each.box for each in found] == [(20, 20, 60, 60), (4, 40, 16, 56), (0, 0, 8, 8)]
    assert [each.score for each in found] == pytest.approx([0.8, 1.0, 0.9])
    (largest,) = object_boxes(values, 127, view(64, 64))
    assert largest.box == found[0].box
    assert len(object_boxes(values, 210, view(64, 64), "all")) == 2


def test_one_component_within_the_box_of_another_is_told_apart() -> None:
    values = filled((2, 2, 30, 30, 1.0))
    values[5:27, 5:27] = 0
    values[10:15, 10:22] = 0.6
    ring, inner = object_boxes(values, 127, view(32, 32), "all")
    assert (ring.box, inner.box) == ((2, 2, 30, 30), (10, 10, 22, 15))
    assert (ring.area, inner.area) == (28 * 28 - 22 * 22, 60)
    assert (ring.score, inner.score) == pytest.approx((1.0, 0.6))


def test_a_mask_lies_in_its_box_and_is_smooth() -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    values = (1 - ((rows - 16) ** 2 + (columns - 16) ** 2).sqrt() / 23).clamp(0, 1)
    (found,) = object_boxes(values, 127, view(320, 320))
    left, top, right, bottom = found.window
    assert found.mask.shape == (bottom - top, right - left)
    radius = 23 * (1 - 128 / 255) * 10
    assert found.area == pytest.approx(np.pi * radius**2, rel=0.01)  # of squares of 10 pixels it would be off by 3 %


def test_corners() -> None:
    assert object_boxes(torch.zeros(32, 32), 0, view(40, 40)) == []
    assert object_boxes(torch.zeros(32, 32), 0, view(40, 40), "all") == []
    (found,) = object_boxes(filled((9, 9, 10, 10, 1.0)), 254, view(3, 5))  # a pixel of the image is six of the view
    assert found.area == 1
    assert found.window == Window(1, 0, 2, 1)  # 9.5 / 32 of 5 columns and of 3 rows
    (found,) = object_boxes(filled((31, 31, 32, 32, 1.0)), 127, view(1, 1))
    assert found.window == Window(0, 0, 1, 1)
