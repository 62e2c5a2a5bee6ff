"""Selection: exactly k ids for every k, ties by index, refusals in words; and the mix with diverse patches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vitrail.ops.cluster import dpc_knn
from vitrail.ops.patches import patchify
from vitrail.ops.selection import flat_scores, mask_of, mixed, number_kept, select


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ids_are_whole(ids: Tensor, batch: int, number: int, count: int) -> None:
    """int64 [B, k], ascending without a repetition, inside the image."""
    assert ids.shape == (batch, number)
    assert ids.dtype == torch.int64
    assert (ids.diff(dim=1) > 0).all()
    assert ids.min() >= 0
    assert ids.max() < count


SCORES = {
    "drawn": torch.randn(3, 4, 5, generator=seeded()),
    "few values": torch.randint(0, 3, (3, 4, 5), generator=seeded()).float(),
    "all equal": torch.zeros(3, 4, 5),
    "flat": torch.randn(3, 20, generator=seeded()),
}


@pytest.mark.parametrize("kind", SCORES)
def test_exactly_k_of_the_largest_for_every_k(kind: str) -> None:
    scores = SCORES[kind]
    for number in range(1, 21):
        ids = select(scores, number)
        ids_are_whole(ids, 3, number, 20)
        for row, chosen in zip(scores.flatten(1).tolist(), ids.tolist(), strict=True):
            assert chosen == sorted(sorted(range(20), key=lambda i: (-row[i], i))[:number])


def test_more_ids_keep_those_there_were() -> None:
    for number in range(1, 20):
        fewer, more = select(SCORES["few values"], number), select(SCORES["few values"], number + 1)
        for one, other in zip(fewer.tolist(), more.tolist(), strict=True):
            assert set(one) < set(other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_float_type(dtype: torch.dtype) -> None:
    scores = torch.tensor([[[0.5, 2.0], [-1.0, 2.0]]], dtype=dtype)
    assert [select(scores, k).tolist() for k in (1, 2, 3, 4)] == [[[1]], [[1, 3]], [[0, 1, 3]], [[0, 1, 2, 3]]]


def test_infinite_scores_have_their_place() -> None:
    scores = torch.tensor([[-torch.inf, 0.0, torch.inf, -torch.inf]])
    assert [select(scores, k).tolist()[0] for k in (1, 2, 3)] == [[2], [1, 2], [0, 1, 2]]


def test_scores_that_are_refused() -> None:
    scores = torch.zeros(8, 2, 3)
    scores[2, 1, 1] = scores[2, 0, 0] = scores[5, 0, 2] = torch.nan
    with pytest.raises(ValueError, match=r"3 of 48 scores are NaN, in images 2, 5 of the batch; look at the ranker"):
        select(scores, 1)
    with pytest.raises(ValueError, match=r"1 of 6 scores are NaN, in image 0 of the batch"):
        select(scores[5:6], 1)
    with pytest.raises(ValueError, match=r"in images 0, 1, 2, 3, 4 \.\.\. of the batch"):
        select(torch.full((7, 2, 3), torch.nan), 1)
    for shape in ((4,), (1, 2, 3, 4), (2, 0), (0, 4)):
        with pytest.raises(ValueError, match=r"they are \[B, Y, X\] or \[B, N\]"):
            flat_scores(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"scores are torch.int64; they are floating point numbers"):
        select(torch.zeros(2, 4, dtype=torch.int64), 1)


@pytest.mark.parametrize("number", [0, -1, 21])
def test_numbers_that_are_refused(number: int) -> None:
    points = torch.zeros(3, 20, 1)
    for ask in (lambda: select(SCORES["flat"], number), lambda: mixed(SCORES["flat"], points, number)):
        with pytest.raises(ValueError, match=f"{number} patches are to be kept of 20; choose 1 to 20"):
            ask()


def test_a_share_is_no_number() -> None:
    with pytest.raises(ValueError, match=r"2.5 patches are to be kept; give a whole number"):
        select(SCORES["flat"], 2.5)  # type: ignore[arg-type]


def test_number_kept() -> None:
    assert number_kept(0.1, 196) == 19  # 19.6, cut
    assert number_kept(0.25, 196) == 49
    assert number_kept(0.29, 100) == 29  # though 0.29 * 100 is 28.999999999999996
    assert number_kept(0.001, 196) == 1
    assert number_kept(1, 196) == 196
    for count in (7, 49, 196, 576):
        for number in range(1, count + 1):
            assert number_kept(number / count, count) == number


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.01, math.nan])
def test_shares_that_are_refused(keep: float) -> None:
    with pytest.raises(ValueError, match=r"the share of the patches that stay, above 0 and at most 1"):
        number_kept(keep, 10)


def test_mask_of() -> None:
    ids = torch.tensor([[0, 5], [1, 2]])
    assert mask_of(ids, (2, 3)).tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 1], [0, 0, 0]]]
    for number in range(1, 21):
        assert torch.equal(mask_of(select(SCORES["drawn"], number), (4, 5)).sum((1, 2)), torch.full((3,), number))


IMAGES = torch.randn(3, 3, 16, 20, generator=seeded(1))
POINTS = patchify(IMAGES, 4)  # [3, 20, 48]


class TestMixed:
    @pytest.mark.parametrize("kind", SCORES)
    @pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
    @pytest.mark.parametrize("drawn", [False, True])
    def test_exactly_k_for_every_k(self, kind: str, share: float, drawn: bool) -> None:
        for number in range(1, 21):
            generator = seeded(number) if drawn else None
            ids = mixed(SCORES[kind], POINTS, number, share, generator=generator)
            ids_are_whole(ids, 3, number, 20)
            if best := int(share * number + 1e-9):
                for one, other in zip(select(SCORES[kind], best).tolist(), ids.tolist(), strict=True):
                    assert set(one) <= set(other)

    def test_also_where_patches_are_alike(self) -> None:
        for points in (torch.zeros(3, 20, 4), (torch.arange(20) % 2).float().view(1, 20, 1).expand(3, -1, -1)):
            for number in range(1, 21):
                ids_are_whole(mixed(SCORES["drawn"], points, number), 3, number, 20)
                drawn = mixed(SCORES["drawn"], points, number, generator=seeded())
                ids_are_whole(drawn, 3, number, 20)

    def test_a_share_of_one_is_select(self) -> None:
        for number in range(1, 21):
            assert torch.equal(mixed(SCORES["drawn"], POINTS, number, 1.0), select(SCORES["drawn"], number))

    @pytest.mark.parametrize("share", [0.0, 0.5, 0.7])
    def test_the_definition(self, share: float) -> None:
        for number in range(1, 21):
            found = dpc_knn(POINTS, number, 5)
            ids = mixed(SCORES["drawn"], POINTS, number, share)
            for row in range(3):
                scores, near = SCORES["drawn"].flatten(1)[row].tolist(), found.assignment[row].tolist()
                taken = sorted(range(20), key=lambda i: -scores[i])[: int(share * number + 1e-9)]
                free = [(-near.count(c), c, center) for c, center in enumerate(found.centers[row].tolist())]
                free = sorted(each for each in free if each[2] not in taken)
                picks = [center for _, _, center in free[: number - len(taken)]]
                assert ids[row].tolist() == sorted(taken + picks)

    def test_diverse_picks_come_from_the_largest_clusters(self) -> None:
        """Three groups of 8, 6 and 2 points, far apart; scores choose from the first alone."""
        truth = torch.tensor([0] * 8 + [1] * 6 + [2] * 2)
        points = 100.0 * truth[None, :, None] + torch.rand(1, 16, 3, generator=seeded(3))
        center = next(int(each) for each in dpc_knn(points, 3, 2).centers[0] if each < 8)
        for first, groups in ((center, [0, 1, 2]), ((center + 1) % 8, [0, 0, 1])):
            scores = torch.zeros(1, 16).index_fill(1, torch.tensor(first), 1)
            ids = mixed(scores, points, 3, 0.4, neighbors=2)  # one by score, two of the clusters
            assert {first, center} <= set(ids[0].tolist())
            assert sorted(truth[ids[0]].tolist()) == groups

    def test_a_generator_draws_among_the_members(self) -> None:
        truth = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        points = 100.0 * truth[None, :, None] + torch.rand(1, 8, 3, generator=seeded(3))
        scores = torch.zeros(1, 8)
        counts = torch.zeros(8)
        generator = seeded()
        for _ in range(400):
            ids = mixed(scores, points, 2, 0.0, neighbors=3, generator=generator)
            assert truth[ids[0]].tolist() == [0, 1]
            counts[ids[0]] += 1
        assert ((counts - 100).abs() < 45).all()  # five standard deviations of 8.7
        one = mixed(SCORES["drawn"], POINTS, 9, generator=seeded(7))
        assert torch.equal(one, mixed(SCORES["drawn"], POINTS, 9, generator=seeded(7)))

    def test_images_do_not_meet(self) -> None:
        together = mixed(SCORES["drawn"], POINTS, 9)
        for row in range(3):
            assert torch.equal(mixed(SCORES["drawn"][row : row + 1], POINTS[row : row + 1], 9)[0], together[row])

    def test_what_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"points are \[3, 19, 48\] and scores \[3, 20\]; give points \[B, N, D\]"):
            mixed(SCORES["drawn"], POINTS[:, 1:], 4)
        for share in (-0.1, 1.1, math.nan):
            with pytest.raises(ValueError, match=r"it is the part of the number that scores choose, 0 to 1"):
                mixed(SCORES["drawn"], POINTS, 4, share)
        with pytest.raises(ValueError, match="neighbors is 21 and there are 20 points"):
            mixed(SCORES["drawn"], POINTS, 4, neighbors=21)
        with pytest.raises(ValueError, match="60 of 60 scores are NaN"):
            mixed(SCORES["drawn"] * torch.nan, POINTS, 4)
