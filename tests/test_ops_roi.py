import pytest
import torch

from vitrail.ops.roi import roi_align, sampling


def random_boxes(count, rows, columns, generator):
    ends = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64).sort(1).values
    ends[:, 1] = torch.maximum(ends[:, 1], ends[:, 0] + 0.01).clamp(max=1)
    ends[:, 0] = torch.minimum(ends[:, 0], ends[:, 1] - 0.005)
    return (ends * torch.tensor([columns, rows])).reshape(count, 4)


@pytest.mark.parametrize("points", [None, 1, 3])
@pytest.mark.parametrize(("rows", "columns", "cells"), [(14, 14, 7), (6, 14, 7), (6, 6, (3, 5)), (1, 2, 4)])
def test_equals_torchvision(rows, columns, cells, points):
    ops = pytest.importorskip("torchvision.ops")
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(40, 3, rows, columns, dtype=torch.float64, generator=generator)
    boxes = random_boxes(40, rows, columns, generator)
    numbered = torch.cat((torch.arange(40.0, dtype=torch.float64)[:, None], boxes), 1)
    size = (cells, cells) if isinstance(cells, int) else cells
    expected = ops.roi_align(maps, numbered, size, sampling_ratio=points or -1, aligned=True)
    assert torch.allclose(roi_align(maps, boxes, cells, points=points), expected, atol=1e-12, rtol=0)


def test_the_whole_map_at_its_own_size_is_the_map():
    maps = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    boxes = torch.tensor([[0.0, 0, 4, 5]] * 2)
    assert torch.allclose(roi_align(maps, boxes, (5, 4)), maps, atol=1e-14)


def test_a_box_from_right_to_left_gives_the_mirror_image():
    maps = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    there = roi_align(maps, torch.tensor([[1.3, 0.5, 4.7, 5.0]]), 3)
    back = roi_align(maps, torch.tensor([[4.7, 0.5, 1.3, 5.0]]), 3)
    assert torch.allclose(back, there.flip(3), atol=1e-14)


def test_rows_of_the_matrix_sum_to_one():
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(100, 14, 14, generator)
    matrix = sampling(boxes[:, 0], boxes[:, 2], 14, 7)
    assert matrix.shape == (100, 7, 14)
    assert torch.allclose(matrix.sum(-1), torch.ones(100, 7, dtype=torch.float64))
    assert (matrix >= 0).all()


def test_gradient():
    maps = torch.randn(2, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.2, 0.3, 4.1, 3.9], [3.0, 1.0, 1.0, 2.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: roi_align(x, boxes, 2), maps)


@pytest.mark.parametrize("box", [[0.0, 0, 4.1, 3], [-0.1, 0, 4, 3], [2.0, 0, 2.0, 3], [float("nan"), 0, 1, 1]])
def test_boxes_outside_or_empty_are_refused(box):
    with pytest.raises(ValueError, match="must lie within"):
        roi_align(torch.zeros(1, 1, 4, 4), torch.tensor([box]), 2)


def test_shapes_and_counts_are_checked():
    with pytest.raises(ValueError, match=r"boxes \[2, 4\]"):
        roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(2, 4), 2)
    with pytest.raises(ValueError, match="at least 1"):
        roi_align(torch.zeros(1, 1, 4, 4), torch.tensor([[0.0, 0, 1, 1]]), 0)
