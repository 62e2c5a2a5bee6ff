"""LOST against plain loops, planted clusters and the corners."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from vitrail.ops.lost import expand_seed


def drawn(batch: int = 6, rows: int = 5, columns: int = 7, width: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, rows * columns, width, generator=torch.Generator().manual_seed(seed))


def by_loops(features: Tensor, grid: tuple[int, int], k: int) -> tuple[int, list[int], np.ndarray, np.ndarray]:
    """Of one image `[N, D]`: seed, degrees, r and mask, by definition."""
    rows = [[float(value) for value in row] for row in features.double()]
    count = len(rows)
    likeness = [[sum(a * b for a, b in zip(one, other)) for other in rows] for one in rows]
    degrees = [sum(value >= 0 for value in row) for row in likeness]
    order = sorted(range(count), key=lambda p: (degrees[p], p))
    seed = order[0]
    joined = [q for q in order[:k] if likeness[q][seed] >= 0]
    total = np.array([sum(likeness[q][s] for s in joined) for q in range(count)]).reshape(grid)
    labels, _ = scipy.ndimage.label(total >= 0)
    return seed, degrees, total, labels == labels.flat[seed]


@pytest.mark.parametrize("k", [1, 2, 8, 35, 100])
@pytest.mark.parametrize("grid", [(5, 7), (1, 35), (35, 1)])
def test_by_definition(k: int, grid: tuple[int, int]) -> None:
    features = drawn()
    found = expand_seed(features, grid, k)
    sizes = set()
    for index, each in enumerate(features):
        seed, degrees, total, mask = by_loops(each, grid, k)
        assert int(found.seeds[index]) == seed
        assert found.degrees[index].tolist() == degrees
        np.testing.assert_allclose(found.likeness[index].numpy(), total, atol=1e-10)
        assert (found.mask[index].numpy() == mask).all()
        sizes.add(int(mask.sum()))
    assert len(sizes) > 1


def test_seed_is_the_first_patch_of_lowest_degree_and_lies_in_its_mask() -> None:
    features = drawn(batch=50)
    found = expand_seed(features, (5, 7), 10)
    for degrees, seed, mask in zip(found.degrees.tolist(), found.seeds.tolist(), found.mask.flatten(1)):
        assert degrees.index(min(degrees)) == seed
        assert mask[seed]


def planted(places: list[tuple[int, int]], rows: int = 6, columns: int = 6) -> tuple[Tensor, Tensor]:
    """Features that point one way at these places and roughly the other way elsewhere, and the mask."""
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    for y, x in places:
        mask[y, x] = True
    noise = 0.1 * torch.randn(rows, columns, 4, generator=torch.Generator().manual_seed(1))
    way = torch.tensor([1.0, 0.5, -0.5, 2.0])
    return (torch.where(mask[:, :, None], way, -way) + noise).flatten(0, 1)[None], mask


def test_a_planted_object() -> None:
    features, mask = planted([(1, 2), (1, 3), (2, 2), (2, 3), (3, 2)])
    for k in (1, 5, 36):
        assert torch.equal(expand_seed(features, (6, 6), k).mask[0], mask)


def test_parts_that_do_not_touch_by_a_side() -> None:
    features, _ = planted([(0, 0), (1, 1), (4, 4), (4, 5)])
    assert expand_seed(features, (6, 6)).mask[0].nonzero().tolist() == [[0, 0]]
    assert expand_seed(features, (6, 6), connectivity=8).mask[0].nonzero().tolist() == [[0, 0], [1, 1]]


def test_a_batch_is_its_images_one_by_one() -> None:
    features = drawn(batch=8)
    together = expand_seed(features, (5, 7), 9)
    for index in range(8):
        alone = expand_seed(features[index : index + 1], (5, 7), 9)
        for one, all_of_them in zip(alone, together):
            torch.testing.assert_close(one[0], all_of_them[index])
    assert expand_seed(features[:0], (5, 7)).mask.shape == (0, 5, 7)


@pytest.mark.parametrize("value", [0.0, 2.0, -1.0])
def test_features_that_are_all_the_same(value: float) -> None:
    found = expand_seed(torch.full((1, 12, 5), value), (3, 4))
    assert found.mask.all()
    assert found.seeds.tolist() == [0]
    assert (found.degrees == 12).all()


def test_one_patch() -> None:
    found = expand_seed(torch.tensor([[[1.0, -2.0]]]), (1, 1))
    assert found.mask.tolist() == [[[True]]]
    assert found.likeness.tolist() == [[[5.0]]]


def test_half_precision_and_autocast_change_nothing() -> None:
    features = drawn().bfloat16()
    plain = expand_seed(features, (5, 7), 9)
    with torch.autocast("cpu", torch.bfloat16):
        cast = expand_seed(features, (5, 7), 9)
    exact = expand_seed(features.double(), (5, 7), 9)
    for one, other, third in zip(plain, cast, exact):
        assert torch.equal(one, other)
        assert torch.equal(one, third)


def test_what_is_refused() -> None:
    features = drawn()
    with pytest.raises(ValueError, match=r"for a grid of 5 x 6 patches; give floats \[B, 30, D\]"):
        expand_seed(features, (5, 6))
    with pytest.raises(ValueError, match=r"give floats \[B, 0, D\]"):
        expand_seed(features[:, :0], (0, 0))
    with pytest.raises(ValueError, match=r"of torch.int64 for a grid"):
        expand_seed(features.long(), (5, 7))
    with pytest.raises(ValueError, match="k is 0; it is at least 1"):
        expand_seed(features, (5, 7), 0)
    with pytest.raises(ValueError, match="connectivity is 6"):
        expand_seed(features, (5, 7), connectivity=6)
    for bad in (torch.nan, torch.inf):
        features[4, 3, 1] = bad
        with pytest.raises(ValueError, match="features of image 4 of the batch are NaN or infinite"):
            expand_seed(features, (5, 7))
