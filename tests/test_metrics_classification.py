import pytest
import torch

from vitrail.metrics.classification import confusion_matrix, topk_accuracy, topk_correct


def test_closed_form() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5]])
    labels = torch.tensor([1, 2, 0])
    assert topk_correct(scores, labels, 1).tolist() == [True, False, False]
    assert topk_correct(scores, labels, 2).tolist() == [True, True, False]
    assert topk_accuracy(scores, labels, (1, 2)) == {1: pytest.approx(100 / 3), 2: pytest.approx(200 / 3)}


def test_brute_force_and_leading_axes() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 50, 9, generator=generator)
    labels = torch.randint(0, 9, (50,), generator=generator)
    for k in (1, 3, 9):
        expected = [[labels[q] in scores[h, q].argsort(descending=True)[:k] for q in range(50)] for h in range(4)]
        assert topk_correct(scores, labels, k).tolist() == expected


def test_a_constant_prediction_is_at_chance() -> None:
    labels = torch.arange(8).repeat(10)
    assert topk_accuracy(torch.zeros(80, 8), labels, (1,)) == {1: 12.5}


def test_of_equal_scores_the_lower_ids_are_chosen() -> None:
    scores = torch.zeros(3, 40)
    scores[:, 30] = 1.0
    assert topk_correct(scores, torch.tensor([30, 3, 4]), 5).tolist() == [True, True, False]


def test_nan_is_wrong_and_infinity_is_a_score() -> None:
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([[nan, 0.0, 1.0], [0.0, inf, 1.0], [-inf, -inf, 0.0], [nan, nan, nan]])
    assert topk_correct(scores, torch.tensor([0, 1, 2, 0]), 1).tolist() == [False, True, True, False]


def test_a_k_that_holds_every_class_is_left_out() -> None:
    assert list(topk_accuracy(torch.eye(5), torch.arange(5), (1, 5))) == [1]
    assert list(topk_accuracy(torch.eye(6), torch.arange(6), (1, 5))) == [1, 5]


def test_errors_name_both_values() -> None:
    with pytest.raises(ValueError, match=r"k = 4 is outside 1\.\.3"):
        topk_correct(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), 4)
    with pytest.raises(ValueError, match="do not fit scores"):
        topk_correct(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), 1)
    with pytest.raises(ValueError, match="0 predictions"):
        topk_accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


def test_confusion_matrix() -> None:
    counts = confusion_matrix(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]), 3)
    assert counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert confusion_matrix(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 2).sum() == 0
    with pytest.raises(ValueError, match="do not fit 2 classes"):
        confusion_matrix(torch.tensor([2]), torch.tensor([0]), 2)
