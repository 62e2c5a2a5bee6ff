import pytest
import torch

from vitrail.metrics.segmentation import iou


def test_closed_form() -> None:
    first = torch.zeros(4, 4, dtype=torch.bool)
    second = first.clone()
    first[:2], second[1:3] = True, True
    assert iou(first, second).item() == pytest.approx(4 / 12)
    assert iou(first, first).item() == 1.0
    assert iou(first, ~first).item() == 0.0


def test_ignored_pixels_leave_the_intersection_and_the_union() -> None:
    first = torch.tensor([[True, True, False, False]])
    second = torch.tensor([[True, False, True, False]])
    ignore = torch.tensor([[False, True, False, False]])
    assert iou(first, second).item() == pytest.approx(1 / 3)
    assert iou(first, second, ignore).item() == pytest.approx(1 / 2)


def test_brute_force_over_leading_axes() -> None:
    generator = torch.Generator().manual_seed(0)
    heads = torch.rand(3, 5, 7, generator=generator) > 0.5
    objects = torch.rand(2, 1, 5, 7, generator=generator) > 0.5
    found = iou(heads, objects)
    assert found.shape == (2, 3)
    for o in range(2):
        for h in range(3):
            a = {tuple(p) for p in heads[h].nonzero().tolist()}
            b = {tuple(p) for p in objects[o, 0].nonzero().tolist()}
            assert found[o, h].item() == pytest.approx(len(a & b) / len(a | b))


def test_two_empty_masks_are_neither_right_nor_wrong() -> None:
    empty = torch.zeros(2, 2, dtype=torch.bool)
    assert iou(empty, empty).isnan()
    assert iou(~empty, empty, ignore=~empty).isnan()


def test_numbers_are_refused() -> None:
    mask = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="boolean masks"):
        iou(mask, mask.float() * 255)
