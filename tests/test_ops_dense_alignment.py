import math

import pytest
import torch

from vitrail.ops.dense_alignment import aligned, dense_alignment
from vitrail.ops.overlap import overlap, within


def test_overlap_in_pixels_of_the_image():
    one, other = torch.tensor([[0.0, 10, 60, 50]]), torch.tensor([[80.0, 0, 20, 30]])  # the second is flipped
    assert overlap(one, other).tolist() == [[20, 10, 60, 30]]


def test_within_a_crop_and_a_flipped_one():
    box, crop = torch.tensor([[20.0, 10, 60, 30]]), torch.tensor([[0.0, 10, 80, 50]])
    assert within(box, crop, (4, 8)).tolist() == [[2, 0, 6, 2]]
    assert within(box, crop[:, [2, 1, 0, 3]], (4, 8)).tolist() == [[6, 0, 2, 2]]


def test_crops_that_do_not_overlap_are_refused_by_name():
    crops = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 10]]), torch.tensor([[5.0, 5, 9, 9], [10.0, 0, 20, 10]])
    with pytest.raises(ValueError, match=r"image 1 .*\[0.0, 0.0, 10.0, 10.0\].*do not overlap.*local_overlap"):
        overlap(*crops)


def field(x, y):
    """A linear function of the place in the image: bilinear sampling reads it without error."""
    return torch.stack((0.1 * x + 0.05 * y, 0.3 * y - 0.02 * x))


def map_of(crop, rows, columns):
    left, top, right, bottom = crop
    x = left + (right - left) * (torch.arange(columns, dtype=torch.float64) + 0.5) / columns
    y = top + (bottom - top) * (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    return field(*torch.meshgrid(x, y, indexing="xy"))[None]


def test_aligned_maps_of_two_crops_show_the_same_places():
    one, other = (10.0, 0.0, 70.0, 60.0), (80.0, 12.0, 30.0, 52.0)  # the second is flipped
    box = overlap(torch.tensor([one]), torch.tensor([other]))
    seen = [
        aligned(map_of(crop, *grid), box, torch.tensor([crop]), 5) for crop, grid in ((one, (12, 12)), (other, (8, 10)))
    ]
    inner = (slice(None), slice(None), slice(1, 4), slice(1, 4))  # at the border the outer values go on
    assert torch.allclose(seen[0][inner], seen[1][inner], atol=1e-9)
    left, top, right, bottom = box[0].tolist()
    x = left + (right - left) * (torch.arange(5, dtype=torch.float64) + 0.5) / 5
    y = top + (bottom - top) * (torch.arange(5, dtype=torch.float64) + 0.5) / 5
    assert torch.allclose(seen[0][0][:, 1:4, 1:4], field(*torch.meshgrid(x, y, indexing="xy"))[:, 1:4, 1:4], atol=1e-9)


BOXES = torch.tensor([[[0.0, 0, 40, 40], [0, 0, 40, 40], [0, 0, 20, 20]]], dtype=torch.float64)


def test_by_hand_for_whole_crops():
    scores = [torch.randn(1, 3, 2, 2, dtype=torch.float64) for _ in range(2)]
    targets = [torch.rand(1, 3, 2, 2, dtype=torch.float64) for _ in range(2)]
    targets = [each / each.sum(1, keepdim=True) for each in targets]
    expected = 0.0
    for t, v in ((0, 1), (1, 0)):
        for row in range(2):
            for column in range(2):
                logits = scores[v][0, :, row, column] / 0.1
                logs = logits - logits.exp().sum().log()
                expected -= float((targets[t][0, :, row, column] * logs).sum()) / 8
    assert math.isclose(float(dense_alignment(scores, targets, BOXES, cells=2)), expected, rel_tol=1e-12)


def test_local_crops_take_part_as_students_alone():
    scores = [torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4), torch.randn(1, 4, 2, 2)]
    targets = [torch.full((1, 4, 4, 4), 0.25)] * 2
    pairs = [(t, v) for t in range(2) for v in range(3) if v != t]
    each = []
    for t, v in pairs:
        box = overlap(BOXES[:, t], BOXES[:, v])
        logs = (aligned(scores[v], box, BOXES[:, v], 3) / 0.2).log_softmax(1)
        each.append(-logs.mean(1).mean())
    total = dense_alignment(scores, targets, BOXES, cells=3, temperature=0.2)
    assert torch.allclose(total, torch.stack(each).mean())


def test_agreement_is_the_entropy_and_no_gradient_reaches_the_targets():
    target = torch.rand(2, 5, 4, 4, dtype=torch.float64).softmax(1).requires_grad_()
    scores = [(target.detach().log() * 0.1).requires_grad_() for _ in range(2)]
    boxes = torch.tensor([[0.0, 0, 8, 8]], dtype=torch.float64).expand(2, 2, 4)
    loss = dense_alignment(scores, [target, target], boxes, cells=4)
    entropy = -(target * target.log()).sum(1).mean()
    assert torch.allclose(loss, entropy, atol=1e-12)
    loss.backward()
    assert target.grad is None
    assert scores[0].grad is not None
    assert scores[0].grad.abs().max() < 1e-12  # the minimum


def test_corners_are_refused():
    scores, target = [torch.zeros(1, 3, 2, 2)] * 2, [torch.zeros(1, 3, 2, 2)]
    with pytest.raises(ValueError, match="temperature is 0"):
        dense_alignment(scores, target, BOXES, temperature=0)
    with pytest.raises(ValueError, match="1 crops of the student"):
        dense_alignment(scores[:1], target, BOXES)
    with pytest.raises(ValueError, match="prototypes"):
        dense_alignment(scores, [torch.zeros(1, 4, 2, 2)], BOXES)
    with pytest.raises(ValueError, match="boxes are"):
        dense_alignment(scores, target, BOXES[:, :1])
