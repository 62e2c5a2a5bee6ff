import numpy as np
import pytest
import torch

from vitrail.metrics.localization import (
    PixelPrecision,
    best_iou,
    best_threshold,
    box_accuracy,
    box_iou,
    clip_boxes,
    localization_accuracy,
    points_in_boxes,
)


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


def test_iou_in_both_conventions() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 20, 30]])
    others = torch.tensor([[5.0, 0, 15, 10], [0, 0, 10, 10], [30, 30, 40, 40]])
    assert box_iou(boxes, others)[0].tolist() == pytest.approx([1 / 3, 1, 0])
    assert box_iou(boxes, others, "inclusive")[0].tolist() == pytest.approx([0.375, 1, 0])
    assert box_iou(boxes, boxes)[1].tolist() == [0, 0]  # no area
    assert box_iou(boxes, torch.zeros(0, 4)).shape == (2, 0)
    assert box_iou(boxes[None], others[None]).shape == (1, 2, 3)
    with pytest.raises(ValueError, match='"half_open" or "inclusive"'):
        box_iou(boxes, others, "plus_one")  # type: ignore[arg-type]


def test_any_and_first_truth() -> None:
    box = torch.tensor([[0.0, 0, 10, 10]])
    truth = torch.tensor([[5.0, 0, 15, 10], [0, 0, 10, 10]])
    assert best_iou(box, truth).tolist() == [1]
    assert best_iou(box, truth, rule="first").tolist() == pytest.approx([1 / 3])
    assert best_iou(box, torch.zeros(0, 4)).tolist() == [0]


def test_box_accuracy_falls_with_the_iou_and_takes_the_middle_of_equal_thresholds() -> None:
    ious = torch.tensor([[0.9, 0.6, 0.2, 0.2], [0.3, 0.5, 0.5, 0.1]])
    accuracy = box_accuracy(ious, (0.3, 0.5, 0.7))
    assert accuracy.tolist() == [[100, 100, 50, 0], [50, 100, 50, 0], [50, 0, 0, 0]]
    assert [best_threshold(each) for each in accuracy] == [1, 1, 0]
    assert best_threshold(torch.tensor([0.0, 5, 5, 5, 1])) == 2
    with pytest.raises(ValueError, match="no images"):
        box_accuracy(torch.zeros(0, 3), (0.5,))


def test_localization_with_classes() -> None:
    hits = torch.tensor([True, True, False, True])
    logits = torch.eye(8)[:4] + torch.linspace(0.5, 0, 8)
    numbers = localization_accuracy(hits, logits, torch.tensor([0, 7, 2, 1]))
    assert numbers == {"gt_known_loc": 75, "top1_loc": 25, "top1_cls": 50, "top5_loc": 50, "top5_cls": 75}
    assert numbers["top1_loc"] <= numbers["top5_loc"] <= numbers["gt_known_loc"]
    assert set(localization_accuracy(hits, logits[:, :5], torch.zeros(4, dtype=torch.long))) == {
        "gt_known_loc",
        "top1_loc",
        "top1_cls",
    }
    assert localization_accuracy(hits) == {"gt_known_loc": 75}
    with pytest.raises(ValueError, match="go together"):
        localization_accuracy(hits, logits)


def test_shuffled_labels_leave_gt_known_by_the_number_of_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = torch.rand(20_000, generator=generator) < 0.6
    labels = torch.randint(0, 10, (20_000,), generator=generator)
    logits = torch.eye(10)[labels[torch.randperm(20_000, generator=generator)]]
    numbers = localization_accuracy(hits, logits, labels)
    assert numbers["top1_loc"] == pytest.approx(numbers["gt_known_loc"] / 10, abs=0.5)


def plain_pxap(scores: np.ndarray, truth: np.ndarray, thresholds: int) -> float:
    """The sum over falling thresholds of precision times the recall that was gained."""
    total, before = 0.0, 0.0
    for step in range(thresholds, -1, -1):
        chosen = scores >= step / thresholds
        if not chosen.any():
            continue
        recall = truth[chosen].sum() / truth.sum()
        total += truth[chosen].mean() * (recall - before)
        before = recall
    return 100 * total


def test_pixel_precision_by_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    counts = PixelPrecision(20)
    scores, truths = [], []
    for _ in range(3):
        score, mask = rng.integers(0, 41, (9, 7)) / 40, rng.choice([0, 3, 255], (9, 7)).astype(np.uint8)
        counts.add(torch.from_numpy(score), torch.from_numpy(mask))
        scores.append(score[mask != 255])
        truths.append(mask[mask != 255] == 3)
    assert counts.value() == pytest.approx(plain_pxap(np.concatenate(scores), np.concatenate(truths), 20))


def test_pixel_precision_of_perfect_constant_and_wrong_maps() -> None:
    mask = torch.zeros(10, 10, dtype=torch.uint8)
    mask[2:5, 3:8] = 1
    for map_, expected in ((mask.float(), 100.0), (torch.zeros(10, 10), 15.0), (1 - mask.float(), 15.0)):
        counts = PixelPrecision()
        counts.add(map_, mask)
        assert counts.value() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        counts.add(mask.float() * 2, mask)
    with pytest.raises(ValueError, match="differ in size"):
        counts.add(torch.zeros(3, 3), mask)
    with pytest.raises(ValueError, match="no mask holds"):
        PixelPrecision().value()
