"""Positive patches and recall, against counting pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vitrail.metrics.patch_recall import (
    average,
    pair_weights,
    parse_rule,
    positive_of_mask,
    positive_patches,
    random_error,
    recall,
)

RULES = ["any", "center", "fraction:0.25", "fraction:0.5", "fraction:1"]
SIZE, GRID = (12, 20), (3, 4)  # patches of 4 x 5 pixels


def by_pixels(inside: Tensor, rule: str, fine: int = 2) -> Tensor:
    """Positive patches of `inside`, bool on a raster `fine` times finer than pixels, by loops."""
    tall, wide = inside.shape[0] // GRID[0], inside.shape[1] // GRID[1]
    found = torch.zeros(GRID, dtype=torch.bool)
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            cell = inside[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
            share = int(cell.sum()) / cell.numel()
            if rule == "any":
                found[row, column] = share > 0
            elif rule == "center":
                found[row, column] = cell[tall // 2, wide // 2]
            else:
                found[row, column] = share >= float(rule.split(":")[1])
    return found


@pytest.mark.parametrize("rule", RULES)
def test_boxes_by_counting_half_pixels(rule: str) -> None:
    generator = torch.Generator().manual_seed(3)
    corners = torch.randint(0, 2 * SIZE[0] + 1, (60, 2), generator=generator).sort(dim=1).values
    across = torch.randint(0, 2 * SIZE[1] + 1, (60, 2), generator=generator).sort(dim=1).values
    boxes = torch.stack([across[:, 0], corners[:, 0], across[:, 1], corners[:, 1]], 1) / 2
    found = positive_patches(boxes, SIZE, GRID, rule)
    assert found.shape == (60, *GRID)
    for own, (y0, y1), (x0, x1) in zip(found, corners.tolist(), across.tolist()):
        raster = torch.zeros(2 * SIZE[0], 2 * SIZE[1], dtype=torch.bool)
        raster[y0:y1, x0:x1] = True
        assert torch.equal(own, by_pixels(raster, rule))
    assert found.any()


@pytest.mark.parametrize("rule", RULES)
def test_masks_by_counting_pixels(rule: str) -> None:
    mask = torch.randint(0, 4, SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    mask[:4, :5], mask[4:8, 5:9] = 2, 1
    found = positive_of_mask(mask, [1, 2, 3, 9], GRID, rule)
    for own, number in zip(found, (1, 2, 3, 9)):
        assert torch.equal(own, by_pixels(mask == number, rule))
    assert not found[3].any()
    assert found[1, 0, 0]


def test_edges_of_boxes() -> None:
    whole = positive_patches(torch.tensor([[5.0, 4.0, 10.0, 8.0]]), SIZE, GRID)
    assert whole[0].nonzero().tolist() == [[1, 1]]  # it ends where the neighbors begin
    reach = torch.tensor([[-9.0, -9.0, 0.5, 0.5], [3.0, 3.0, 3.0, 9.0], [30.0, 30.0, 40.0, 40.0]])
    assert [part.nonzero().tolist() for part in positive_patches(reach, SIZE, GRID)] == [[[0, 0]], [], []]
    assert positive_patches(torch.zeros(0, 4), SIZE, GRID).shape == (0, *GRID)
    assert positive_patches(torch.tensor([[0.0, 0.0, 20.0, 12.0]]), SIZE, GRID, "fraction:1").all()


def test_words_that_are_no_rule() -> None:
    assert parse_rule("fraction:1") == ("fraction", 1.0)
    for rule in ("some", "fraction", "fraction:0", "fraction:1.5", "fraction:x", "any:1", "fraction:nan"):
        with pytest.raises(ValueError, match="the rule is 'any', 'center' or 'fraction:t'"):
            parse_rule(rule)
    with pytest.raises(ValueError, match=r"\[n, 4\], not \[4\]"):
        positive_patches(torch.zeros(4), SIZE, GRID)
    with pytest.raises(ValueError, match="12 x 20 px does not divide into a grid of 5 x 4"):
        positive_of_mask(torch.zeros(SIZE), [1], (5, 4))


def test_recall() -> None:
    positive = torch.tensor([[1, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    selected = torch.tensor([1, 0, 0, 1]).bool()
    assert recall(selected, positive)[:2].tolist() == [2 / 3, 0]
    assert recall(selected, positive)[2].isnan()
    assert recall(torch.ones(4, dtype=torch.bool), positive)[:2].tolist() == [1, 1]
    with pytest.raises(ValueError, match="are bool"):
        recall(selected.float(), positive)


def pairs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Images, classes, positive patches of 40 pairs."""
    generator = torch.Generator().manual_seed(seed)
    positive = torch.rand(40, 24, generator=generator) < torch.rand(40, 1, generator=generator)
    positive[:, 0] |= ~positive.any(1)
    return torch.arange(40) // 2, torch.randint(1, 6, (40,), generator=generator), positive


def test_weights_are_the_means_they_stand_for() -> None:
    _, classes, positive = pairs()
    counts = positive.sum(1)
    values = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    macro = torch.stack([values[classes == number].mean() for number in classes.unique()]).mean()
    assert torch.isclose(values @ pair_weights(classes, counts, "macro"), macro)
    assert torch.isclose(average(values, classes, counts, "macro"), macro)
    micro = (values * counts).sum() / counts.sum()
    assert torch.isclose(values @ pair_weights(classes, counts, "micro"), micro)
    several = average(torch.stack([values, values * 0 + 1]), classes, counts, "micro")
    assert torch.isclose(several[0], micro)
    assert several[1] == 1
    with pytest.raises(ValueError, match="'macro' or 'micro', not 'mean'"):
        average(values, classes, counts, "mean")
    with pytest.raises(ValueError, match="no pair"):
        pair_weights(classes[:0], counts[:0], "micro")


def test_splits_of_the_classes_make_up_the_whole() -> None:
    images, classes, positive = pairs()
    selected = torch.rand(20, 24, generator=torch.Generator().manual_seed(2)) < 0.4
    values, counts = recall(selected[images], positive), positive.sum(1)

    def mean(some: Tensor) -> float:
        return float(average(values[some], classes[some], counts[some], "micro"))

    one = classes < 3
    parts = [(mean(some), int(counts[some].sum())) for some in (one, ~one)]
    both = sum(value * count for value, count in parts) / sum(count for _, count in parts)
    assert both == pytest.approx(mean(classes > 0))


@pytest.mark.parametrize("how", ["macro", "micro"])
def test_the_error_of_a_random_selection_is_that_of_many_draws(how: str) -> None:
    images, classes, positive = pairs()
    weights = pair_weights(classes, positive.sum(1), how)
    generator = torch.Generator().manual_seed(4)
    ids = torch.rand(4000, 20, 24, generator=generator).argsort(-1)[..., :7]
    drawn = torch.zeros(4000, 20, 24, dtype=torch.bool).scatter(2, ids, True)
    values = torch.stack([recall(each[images], positive) @ weights for each in drawn])
    error = random_error(positive, images, weights, 7)
    assert abs(float(values.mean()) - 7 / 24) < 3 * error / math.sqrt(4000)
    assert float(values.std()) == pytest.approx(error, rel=3 / math.sqrt(2 * 4000))
    assert random_error(positive, images, weights, 24) == 0
    assert random_error(positive[:, :1] | True, images, weights, 1) == 0
