import pytest
import torch

from vitrail.metrics.localization import clip_boxes, points_in_boxes


def test_boxes_are_half_open() -> None:
    boxes = torch.tensor([[2.0, 2.0, 4.0, 6.0], [8.0, 0.0, 9.0, 1.0]])
    points = torch.tensor([[2.0, 2.0], [4.0, 3.0], [3.9, 5.9], [8.5, 0.5], [1.5, 2.5]])
    assert points_in_boxes(points, boxes).tolist() == [True, False, True, True, False]
    assert points_in_boxes(points, boxes, tolerance=1.0).tolist() == [True] * 5


def test_no_box_and_leading_axes() -> None:
    assert points_in_boxes(torch.zeros(3, 5, 2), torch.zeros(0, 4)).shape == (3, 5)
    assert not points_in_boxes(torch.zeros(3, 5, 2), torch.zeros(0, 4)).any()


def test_errors() -> None:
    with pytest.raises(ValueError, match="negative"):
        points_in_boxes(torch.zeros(2), torch.zeros(1, 4), tolerance=-1)
    with pytest.raises(ValueError, match=r"\[n, 4\]"):
        points_in_boxes(torch.zeros(2), torch.zeros(4))


def test_clip() -> None:
    boxes = torch.tensor([[-3.0, 1.0, 4.0, 5.0], [10.0, 0.0, 12.0, 3.0], [6.0, 2.0, 20.0, 30.0]])
    assert clip_boxes(boxes, height=8, width=10).tolist() == [[0.0, 1.0, 4.0, 5.0], [6.0, 2.0, 10.0, 8.0]]
