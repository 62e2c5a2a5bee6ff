"""Exact nearest neighbors and their vote."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from vitrail.ops.neighbors import knn_vote, nearest


def test_golden_accuracy(oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = {name: torch.from_numpy(value) for name, value in oracle("dino_knn").items()}
    values, ids = nearest(golden["test"], golden["train"], 200, chunk=900)
    classes = int(golden["train_y"].max()) + 1
    for k, top1, top5 in golden["result"].tolist():
        votes = knn_vote(values[:, : int(k)], ids[:, : int(k)], golden["train_y"], classes, golden["T"].item())
        # A plain sort, as in the released code: at k = 10 it also ranks classes that got no vote at all.
        hit = votes.sort(1, True).indices == golden["test_y"][:, None]
        assert 100 * hit[:, 0].double().mean().item() == pytest.approx(top1, abs=1e-9)
        assert 100 * hit[:, :5].any(1).double().mean().item() == pytest.approx(top5, abs=1e-9)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("chunk", [3, 16, 1000])
def test_equals_brute_force(metric: str, chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(11, 6, generator=generator), torch.randn(50, 6, generator=generator)
    if metric == "euclidean":
        table = -(queries[:, None].double() - bank).norm(dim=-1)
    elif metric == "dot":
        table = queries.double() @ bank.double().T
    else:
        table = functional.normalize(queries.double(), dim=1) @ functional.normalize(bank.double(), dim=1).T
    expected = table.sort(dim=1, descending=True, stable=True)
    values, ids = nearest(queries, bank, 9, chunk=chunk, metric=metric)
    assert torch.equal(ids, expected.indices[:, :9])
    sign = -1 if metric == "euclidean" else 1
    torch.testing.assert_close(values, sign * expected.values[:, :9].float(), atol=1e-5, rtol=1e-5)


def test_ties_go_to_the_lower_id_whatever_the_chunk() -> None:
    bank = torch.randint(-2, 3, (200, 3), generator=torch.Generator().manual_seed(0)).float()
    queries = bank[:20]
    table = queries @ bank.T  # small integers: exact, with many ties, zeros and negatives among them
    expected = table.sort(dim=1, descending=True, stable=True).indices
    for chunk in (1, 7, 64, 500):
        values, ids = nearest(queries, bank, 200, chunk=chunk, metric="dot")
        assert torch.equal(ids, expected)
        assert torch.equal(values, table.gather(1, ids))


def test_half_types_and_zero_vectors() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]], dtype=torch.float16)
    values, ids = nearest(bank[:2], bank, 3)
    assert values.dtype == torch.float32
    assert ids.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert values.tolist() == [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]


def test_no_queries() -> None:
    values, ids = nearest(torch.zeros(0, 4), torch.ones(5, 4), 2)
    assert values.shape == ids.shape == (0, 2)


def test_votes_are_shares_and_do_not_overflow() -> None:
    values = torch.tensor([[1.0, 0.9, 0.9], [0.2, 0.1, -1.0]])
    ids = torch.tensor([[0, 1, 2], [2, 1, 0]])
    labels = torch.tensor([0, 1, 1])
    votes = knn_vote(values, ids, labels, classes=3, temperature=0.1)
    e = torch.tensor(1.0).exp()
    torch.testing.assert_close(votes[0], torch.stack([e, 2 * e**0, e * 0]) / (e + 2))
    torch.testing.assert_close(votes.sum(1), torch.ones(2))
    assert knn_vote(values, ids, labels, classes=2, temperature=1e-4).isfinite().all()


def test_bad_input_is_answered_in_words() -> None:
    bank = torch.ones(5, 4)
    with pytest.raises(ValueError, match=r"k is 6, but the bank has 5 entries"):
        nearest(bank, bank, 6)
    with pytest.raises(ValueError, match=r"k is 0"):
        nearest(bank, bank, 0)
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(5, 4\)"):
        nearest(bank[:, :3], bank, 1)
    with pytest.raises(ValueError, match=r"'manhattan'"):
        nearest(bank, bank, 1, metric="manhattan")
    broken = bank.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"queries hold inf or NaN, first in row 3 of 5"):
        nearest(broken, bank, 1)
    with pytest.raises(ValueError, match=r"labels run from 0 to 2, but there are 2 classes"):
        knn_vote(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64), torch.tensor([0, 2]), classes=2)
    with pytest.raises(ValueError, match=r"temperature is 0"):
        knn_vote(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64), torch.tensor([0]), 2, temperature=0)
