"""TokenCut against SciPy's generalized eigenvectors, the brute-force cut, planted clusters and the corners."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from torch import Tensor

from vitrail.ops.token_cut import cut_tokens


def drawn(batch: int = 6, rows: int = 5, columns: int = 7, width: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, rows * columns, width, generator=torch.Generator().manual_seed(seed))


def weights_by_loops(features: Tensor, tau: float, epsilon: float) -> np.ndarray:
    rows = features.double().numpy()
    count = len(rows)
    weights = np.empty((count, count))
    for i, j in itertools.product(range(count), repeat=2):
        cosine = rows[i] @ rows[j] / (np.linalg.norm(rows[i]) * np.linalg.norm(rows[j]))
        weights[i, j] = 1.0 if cosine >= tau else epsilon
    return weights


@pytest.mark.parametrize(("tau", "epsilon"), [(0.2, 1e-5), (-0.3, 1e-5), (0.5, 1e-2)])
@pytest.mark.parametrize("grid", [(5, 7), (1, 35)])
def test_by_definition(tau: float, epsilon: float, grid: tuple[int, int]) -> None:
    features = drawn()
    found = cut_tokens(features, grid, tau, epsilon)
    sizes = set()
    for index, each in enumerate(features):
        weights = weights_by_loops(each, tau, epsilon)
        degrees = np.diag(weights.sum(1))
        values, vectors = scipy.linalg.eigh(degrees - weights, degrees)
        assert values[2] - values[1] > 1e-6  # one vector, not a plane of them
        vector = vectors[:, 1]
        seed = int(np.abs(vector).argmax())
        vector = vector * np.sign(vector[seed])
        np.testing.assert_allclose(found.eigenvector[index].flatten().numpy(), vector, atol=1e-8)
        assert abs(vector[int(found.seeds[index])]) > (1 - 2e-6) * abs(vector[seed])
        labels, _ = scipy.ndimage.label((vector > vector.mean()).reshape(grid))
        assert (found.mask[index].numpy() == (labels == labels.flat[int(found.seeds[index])])).all()
        sizes.add(int(found.mask[index].sum()))
    assert len(sizes) > 1


def planted(mask: Tensor, noise: float = 0.2) -> Tensor:
    """Features of two directions that are at right angles, and noise; `[1, N, 8]`."""
    ways = torch.eye(8)[:2]
    features = ways[mask.flatten().long()]
    return (features + noise * torch.randn(features.shape, generator=torch.Generator().manual_seed(2)))[None]


def test_a_planted_object_is_the_smaller_side() -> None:
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[1:4, 2:5] = True
    for inside in (mask, ~mask):
        found = cut_tokens(planted(inside, 0.02), (6, 6))
        assert torch.equal(found.mask[0], mask)
        assert torch.equal(found.eigenvector[0] > 0, mask)
        assert found.seeds.tolist() == [8]  # all are alike there, so the first in reading order


def test_the_cut_is_the_best_of_all_cuts() -> None:
    """The least normalized cut of ten patches in two plain clusters, by trying all of them."""
    mask = torch.tensor([[False, True, True, False, False], [False, True, False, False, False]])
    features = planted(mask, 0.1)
    weights = weights_by_loops(features[0], 0.2, 1e-5)
    best = min(
        (side for size in range(1, 6) for side in itertools.combinations(range(10), size)),
        key=lambda side: normalized_cut(weights, list(side)),
    )
    assert list(best) == mask.flatten().nonzero().flatten().tolist()
    assert torch.equal(cut_tokens(features, (2, 5)).mask[0], mask)


def normalized_cut(weights: np.ndarray, side: list[int]) -> float:
    other = [each for each in range(len(weights)) if each not in side]
    cut = weights[np.ix_(side, other)].sum()
    return cut / weights[side].sum() + cut / weights[other].sum()


def test_parts_that_do_not_touch_by_a_side() -> None:
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[0, 0] = mask[1, 1] = mask[4, 4] = True
    features = planted(mask, 0.0)
    assert cut_tokens(features, (6, 6)).mask[0].nonzero().tolist() == [[0, 0]]
    assert cut_tokens(features, (6, 6), connectivity=8).mask[0].nonzero().tolist() == [[0, 0], [1, 1]]


def test_sides_of_one_size() -> None:
    """Neither is the smaller: the side of the first patch, not that of a rounding."""
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:, :3] = True
    for inside in (mask, ~mask):
        found = cut_tokens(planted(inside, 0.0), (4, 6))
        assert torch.equal(found.mask[0], mask)
        assert found.seeds.tolist() == [0]


def test_length_does_not_matter_and_a_zero_vector_is_like_nothing() -> None:
    features = drawn(batch=2)
    longer = features * torch.linspace(0.1, 9, 35)[None, :, None]
    for one, other in zip(cut_tokens(features, (5, 7)), cut_tokens(longer, (5, 7))):
        assert torch.equal(one, other)
    features = planted(torch.zeros(3, 3, dtype=torch.bool), 0.0)
    features[0, 4] = 0
    assert cut_tokens(features, (3, 3)).mask[0].nonzero().tolist() == [[1, 1]]


def test_a_batch_is_its_images_one_by_one() -> None:
    features = drawn(batch=5)
    features[2] = 1.0  # nothing to cut
    together = cut_tokens(features, (5, 7))
    for index in range(5):
        alone = cut_tokens(features[index : index + 1], (5, 7))
        for one, all_of_them in zip(alone, together):
            torch.testing.assert_close(one[0], all_of_them[index])
    assert cut_tokens(features[:0], (5, 7)).mask.shape == (0, 5, 7)


@pytest.mark.parametrize("features", [torch.zeros(1, 12, 5), torch.full((1, 12, 5), -2.0), torch.eye(12)[None]])
def test_nothing_to_cut(features: Tensor) -> None:
    """Patches that are all alike, or all unlike."""
    found = cut_tokens(features, (3, 4))
    assert found.mask.all()
    assert not found.eigenvector.any()
    assert found.seeds.tolist() == [0]


def test_one_patch() -> None:
    found = cut_tokens(torch.tensor([[[1.0, -2.0]]]), (1, 1))
    assert found.mask.tolist() == [[[True]]]
    assert found.eigenvector.tolist() == [[[0.0]]]


def test_half_precision_and_autocast_change_nothing() -> None:
    features = drawn().bfloat16()
    plain = cut_tokens(features, (5, 7))
    with torch.autocast("cpu", torch.bfloat16):
        cast = cut_tokens(features, (5, 7))
    for one, other, third in zip(plain, cast, cut_tokens(features.double(), (5, 7))):
        assert torch.equal(one, other)
        assert torch.equal(one, third)


def test_what_is_refused() -> None:
    features = drawn()
    with pytest.raises(ValueError, match=r"for a grid of 5 x 6 patches; give floats \[B, 30, D\]"):
        cut_tokens(features, (5, 6))
    for tau, epsilon in ((1.5, 1e-5), (0.2, 0.0), (0.2, 1.0), (float("nan"), 1e-5)):
        with pytest.raises(ValueError, match=r"a cosine is in \[-1, 1\], and epsilon is in \(0, 1\)"):
            cut_tokens(features, (5, 7), tau, epsilon)
    features[3, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="features of image 3 of the batch are NaN or infinite"):
        cut_tokens(features, (5, 7))
