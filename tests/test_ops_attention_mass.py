"""The smallest set that holds a share of the attention."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch

from vitrail.ops.attention_mass import mass_mask


def test_golden_masks(oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = oracle("voc_jaccard")
    mask = mass_mask(torch.from_numpy(golden["cls_attn"]), share=float(golden["thr"])).view(6, 30, 30).numpy()
    assert np.array_equal(np.kron(mask, np.ones((1, 16, 16))), golden["mask"])


def test_is_the_smallest_set_by_brute_force() -> None:
    weights = torch.rand(20, 7, generator=torch.Generator().manual_seed(0)).softmax(-1)
    for share in (0.1, 0.5, 0.6, 0.9):
        for row, kept in zip(weights, mass_mask(weights, share), strict=True):
            assert row[kept].sum() >= share - 1e-6
            size = int(kept.sum())
            smaller = max((float(row[list(chosen)].sum()) for chosen in combinations(range(7), size - 1)), default=0.0)
            assert smaller < share


def test_a_map_may_have_two_axes_and_any_scale() -> None:
    weights = torch.rand(2, 3, 5, 9, generator=torch.Generator().manual_seed(1))
    flat = mass_mask(weights.flatten(-2))
    assert torch.equal(mass_mask(weights, dims=2), flat.view(weights.shape))
    assert torch.equal(mass_mask(weights.mT, dims=2).mT, flat.view(weights.shape))
    assert torch.equal(mass_mask(weights * 1e-3, dims=2), flat.view(weights.shape))


def test_corners() -> None:
    assert mass_mask(torch.tensor([0.0, 0.2, 0.8]), share=1.0).tolist() == [False, True, True]
    assert mass_mask(torch.tensor([0.25, 0.25, 0.25, 0.25]), share=0.5).tolist() == [False, False, True, True]
    assert mass_mask(torch.tensor([0.1, 0.9]), share=1e-6).tolist() == [False, True]
    assert not mass_mask(torch.zeros(2, 4)).any()
    assert mass_mask(torch.zeros(0, 4)).shape == (0, 4)
    assert mass_mask(torch.tensor([0.5, 0.25, 0.25], dtype=torch.float16)).tolist() == [True, False, True]


def test_bad_input_is_answered_in_words() -> None:
    with pytest.raises(ValueError, match=r"share is 60"):
        mass_mask(torch.ones(3), share=60)
    with pytest.raises(ValueError, match=r"dims is 2.*\(3,\)"):
        mass_mask(torch.ones(3), dims=2)
    for bad in (-1.0, torch.nan, torch.inf):
        with pytest.raises(ValueError, match=r"softmax first"):
            mass_mask(torch.tensor([0.5, bad]))
