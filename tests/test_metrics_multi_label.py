"""Average precision against its definition by brute force, closed forms, and the defects it must not have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vitrail.metrics.multi_label import average_precision, f1, mean_average_precision


def brute_force(scores: list[float], hits: list[int]) -> float:
    """For each threshold from above: the rise in recall times the precision of what is at or above it."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [hit for score, hit in zip(scores, hits) if score >= threshold]
        recall = sum(chosen) / sum(hits)
        total += (recall - before) * sum(chosen) / len(chosen)
        before = recall
    return total


def given(images: int, classes: int, levels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores of a few levels, so that many are equal."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (images, classes), generator=generator) / levels
    targets = (torch.rand(images, classes, generator=generator) < 0.3).float()
    targets[0] = 1
    return scores, targets


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("images", [1, 2, 7, 40])
def test_by_brute_force(images: int, levels: int) -> None:
    scores, targets = given(images, 4, levels)
    found = average_precision(scores, targets)
    expected = [brute_force(scores[:, c].tolist(), targets[:, c].int().tolist()) for c in range(4)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(average_precision(scores, targets.bool()), found)


def test_closed_forms() -> None:
    hits = torch.tensor([[1.0], [0], [1], [0]])
    rank = torch.tensor([[4.0], [3], [2], [1]])
    assert average_precision(rank, hits).item() == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(-rank, hits).item() == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert average_precision(torch.zeros(4, 1), hits).item() == 0.5  # a constant gets the share of positives
    assert average_precision(hits, hits).item() == 1
    infinite = torch.tensor([[math.inf], [1], [-math.inf], [-math.inf]])
    assert average_precision(infinite, hits).item() == pytest.approx((1 + 2 / 4) / 2)


def test_the_worst_of_n_and_one_positive() -> None:
    """One positive at rank r has AP 1 / r."""
    scores = torch.arange(9.0).flip(0)[:, None].expand(9, 9)
    torch.testing.assert_close(average_precision(scores, torch.eye(9)), 1 / torch.arange(1, 10, dtype=torch.float64))


def test_classes_without_a_positive_are_left_out_and_said() -> None:
    scores, targets = given(30, 4, 1000)
    targets[:, 2] = 0
    found = mean_average_precision(scores, targets)
    others = [0, 1, 3]
    expected = 100 * average_precision(scores[:, others], targets[:, others]).mean().item()
    assert found.mean == pytest.approx(expected)
    assert found.without == (2,)
    assert found.per_class.isnan().tolist() == [False, False, True, False]
    assert mean_average_precision(scores[:, others], targets[:, others]).without == ()
    with pytest.raises(ValueError, match=r"none of 30 images has any of the 1 labels"):
        mean_average_precision(scores[:, [2]], targets[:, [2]])


def test_the_whole_set_is_not_a_mean_over_batches() -> None:
    """The order of the images changes nothing; a mean over parts is another number."""
    scores, targets = given(64, 3, 7)
    whole = mean_average_precision(scores, targets).mean
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    assert mean_average_precision(scores[order], targets[order]).mean == pytest.approx(whole)
    parts = [mean_average_precision(*part).mean for part in zip(scores.split(8), targets.split(8))]
    assert abs(sum(parts) / len(parts) - whole) > 1


def test_monotone_scores_rank_alike() -> None:
    scores, targets = given(50, 3, 1000)
    torch.testing.assert_close(average_precision((5 * scores).sigmoid(), targets), average_precision(scores, targets))


def test_what_does_not_fit_is_refused() -> None:
    scores, targets = given(4, 3, 9)
    with pytest.raises(ValueError, match=r"\[4, 3\] and targets \[4, 2\]"):
        average_precision(scores, targets[:, :2])
    with pytest.raises(ValueError, match="at least one image"):
        average_precision(scores[:0], targets[:0])
    scores[2, 1] = float("nan")
    with pytest.raises(ValueError, match=r"scores of 1 images are NaN, first of image 2"):
        average_precision(scores, targets)


def by_counting(predicted: Tensor, targets: Tensor) -> tuple[float, float]:
    """CF1 and OF1, label by label."""
    precisions, recalls = [], []
    right = given = there = 0
    for chosen, hits in zip(predicted.T.tolist(), targets.T.tolist()):
        both = sum(a and b for a, b in zip(chosen, hits))
        right, given, there = right + both, given + sum(chosen), there + sum(hits)
        if sum(hits):
            precisions.append(both / sum(chosen) if sum(chosen) else 0)
            recalls.append(both / sum(hits))
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    of, rf = right / given, right / there
    return 200 * p * r / (p + r), 200 * of * rf / (of + rf)


@pytest.mark.parametrize("seed", range(5))
def test_f1_by_counting(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted, targets = (torch.rand(30, 6, generator=generator) < 0.3 for _ in range(2))
    targets[:, 0] = False  # no positive: in CF1 not at all, in OF1 by what is given
    predicted[:, 1] = False  # never given: precision 0
    found = f1(predicted, targets)
    assert tuple(found) == pytest.approx(by_counting(predicted, targets))
    assert f1(predicted, targets.float()) == found
    fewer = predicted.clone()
    fewer[:, 0] = False
    assert f1(fewer, targets).of_classes == found.of_classes
    assert f1(fewer, targets).overall > found.overall


def test_f1_at_its_ends() -> None:
    hits = torch.eye(3).bool()
    assert tuple(f1(hits, hits)) == (100, 100)
    assert tuple(f1(~hits, hits)) == (0, 0)
    everything = f1(torch.ones(3, 3, dtype=torch.bool), hits)
    assert tuple(everything) == pytest.approx((50, 50))  # precision 1 / 3, recall 1
    with pytest.raises(ValueError, match=r"predicted are torch.float32 \[3, 3\] .*; give bool"):
        f1(hits.float(), hits)
    with pytest.raises(ValueError, match="none of 3 images has any of the 3 labels"):
        f1(hits, ~(hits | True))
