"""Random masking is uniform over sets."""

from __future__ import annotations

from itertools import combinations

import torch
from scipy import stats

from vitrail.masks import Random


def test_all_sets_are_equally_likely() -> None:
    images = torch.zeros(20_000, 1, 2, 3)
    mask = Random()(images, (2, 3), 2, generator=torch.Generator().manual_seed(0))
    codes = (mask.long() * 2 ** torch.arange(6)).sum(1)
    counts = [int((codes == 2**one + 2**other).sum()) for one, other in combinations(range(6), 2)]
    assert sum(counts) == 20_000
    assert stats.chisquare(counts).pvalue > 0.01


def test_fewer_hidden_are_a_subset_of_more() -> None:
    images = torch.zeros(6, 1, 4, 4)
    few, more = (Random()(images, (4, 4), n, generator=torch.Generator().manual_seed(0)) for n in (3, 9))
    assert not (few & ~more).any()
