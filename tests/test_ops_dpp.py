"""Determinantal point processes against golden numbers, brute force, LAPACK and enumeration."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import lapack
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vitrail.ops import dpp
from vitrail.ops.dpp import cpu, exact, exact_cpu, kernels, kernels_cpu
from vitrail.ops.dpp.exact import log_polynomials
from vitrail.ops.dpp.greedy import batched
from vitrail.ops.patches import patchify


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(batch: int = 3, count: int = 20, width: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, count, width, generator=seeded(seed), dtype=torch.float64)


def smooth_images(batch: int = 4, side: int = 64) -> Tensor:
    return avg_pool2d(torch.randn(batch, 3, side + 8, side + 8, generator=seeded(1)), 9, stride=1)


def logdet(kernel: Tensor, ids: Tensor) -> Tensor:
    return torch.stack([torch.logdet(each[chosen][:, chosen]) for each, chosen in zip(kernel, ids)])


class TestKernels:
    def test_gaussian_is_its_definition(self) -> None:
        x = features()
        squares = (x[:, :, None] - x[:, None]).square().sum(-1)
        above = torch.triu(torch.ones(20, 20), 1).bool()
        median = torch.stack([each[above].median() for each in squares])[:, None, None]
        torch.testing.assert_close(dpp.patch_kernel(x), (-squares / median).exp(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(dpp.patch_kernel(x, bandwidth=3.0), (-squares / 3).exp(), rtol=1e-12, atol=1e-12)

    def test_cosine_is_its_definition(self) -> None:
        x = features()
        expected = torch.cosine_similarity(x[:, :, None], x[:, None], dim=-1)
        torch.testing.assert_close(dpp.patch_kernel(x, kind="cosine"), expected, rtol=1e-12, atol=1e-12)

    def test_quality_scales_both_sides(self) -> None:
        x, quality = features(), torch.rand(3, 20, generator=seeded(), dtype=torch.float64)
        expected = torch.diag_embed(quality) @ dpp.patch_kernel(x) @ torch.diag_embed(quality)
        torch.testing.assert_close(dpp.patch_kernel(x, quality=quality), expected)

    @pytest.mark.parametrize("kind", ["gaussian", "cosine"])
    def test_images_are_their_patches(self, kind: dpp.kernels.Kind) -> None:
        images = smooth_images()
        kernel = dpp.patch_kernel(images, 8, kind=kind)
        assert torch.equal(kernel, dpp.patch_kernel(patchify(images, 8), kind=kind))
        assert kernel.shape == (4, 64, 64)
        assert torch.equal(kernel, kernel.mT)
        assert (kernel.diagonal(dim1=1, dim2=2) == 1).all()
        assert torch.linalg.eigvalsh(kernel.double()).min() > -1e-4

    @pytest.mark.parametrize("shift", [0.0, 1e3])
    def test_distances_survive_a_large_common_part(self, shift: float) -> None:
        x = features().float()
        torch.testing.assert_close(dpp.patch_kernel(x + shift), dpp.patch_kernel(x), rtol=0, atol=2e-3)

    @pytest.mark.parametrize("kind", ["gaussian", "cosine"])
    def test_a_flat_image_has_patches_that_are_alike(self, kind: dpp.kernels.Kind) -> None:
        kernel = dpp.patch_kernel(torch.full((1, 3, 32, 32), 0.7), 8, kind=kind)
        torch.testing.assert_close(kernel, torch.ones(1, 16, 16))
        assert dpp.greedy_map(kernel, 5, generator=seeded()).length.tolist() == [1]

    def test_mostly_flat_images_tell_the_rest_apart(self) -> None:
        images = torch.zeros(1, 3, 32, 32)
        images[:, :, 8:16, 8:16] = 1.0
        found = dpp.greedy_map(dpp.patch_kernel(images, 8), 2, first="argmax")
        assert found.ids.tolist() == [[0, 5]]

    def test_many_images_are_as_one_at_a_time(self) -> None:
        images = smooth_images(37, 32)
        for kind in ("gaussian", "cosine"):
            alone = torch.cat([dpp.patch_kernel(image[None], 8, kind=kind) for image in images])  # type: ignore[arg-type]
            torch.testing.assert_close(dpp.patch_kernel(images, 8, kind=kind), alone)  # type: ignore[arg-type]

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("count", [1, 2, 3, 4, 40])
    @pytest.mark.parametrize("bandwidth", [None, 3.0])
    def test_numba_and_torch_agree(self, dtype: torch.dtype, count: int, bandwidth: float | None) -> None:
        x = features(6, count, 5).to(dtype)
        x[1, ::2] = x[1, 0].clone()  # many pairs without a distance
        x[2] = 0
        gram, smallest = x @ x.mT, torch.tensor([1e-6, 1e-6, 1e-6, 0.5, 4.0, 1e3], dtype=dtype)
        expected = kernels.exponents(gram, smallest, bandwidth)
        torch.testing.assert_close(kernels_cpu.exponents(gram.clone(), smallest, bandwidth), expected)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("kind", ["uniform", "tails", "few", "equal", "zeros", "tiny", "geometric"])
    def test_the_value_at_a_rank(self, dtype: type, kind: str) -> None:
        random, size = np.random.default_rng(0), 5000
        values = {
            "uniform": random.random(size),
            "tails": random.standard_cauchy(size) ** 2,
            "few": random.integers(0, 3, size).astype(float),
            "equal": np.full(size, 0.3),
            "zeros": np.where(np.arange(size) < size - 70, 0.0, random.random(size)),
            "tiny": random.random(size) * 1e-40,
            "geometric": 2.0 ** -random.integers(0, 120, size),
        }[kind].astype(dtype)
        counts = np.empty(1024, np.int64)
        for rank in (0, 1, size // 2, size - 70, size - 1):
            for high in (float(values.max()), 4.0 * float(values.max())):
                assert kernels_cpu.select(values.copy(), rank, 0.0, high, counts) == np.sort(values)[rank]

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_an_image_that_is_not_finite_is_found(self, value: float) -> None:
        images = smooth_images(3, 32)
        images[1, 0, 3, 3] = value
        kernel = dpp.patch_kernel(images, 8)
        assert kernel[[0, 2]].isfinite().all()
        with pytest.raises(ValueError, match="NaN or infinite"):
            dpp.greedy_map(kernel, 4)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"values": torch.zeros(1, 3, 8, 8)}, "size of a patch"),
            ({"values": torch.zeros(4, 4)}, "features .B, N, D."),
            ({"values": torch.zeros(1, 4, 4), "kind": "rbf"}, "rbf"),
            ({"values": torch.zeros(1, 4, 4), "bandwidth": -1.0}, "-1.0 is not positive"),
            ({"values": torch.zeros(1, 4, 4), "bandwidth": "mean"}, "mean"),
            ({"values": torch.zeros(1, 4, 4), "quality": torch.ones(4)}, "quality has shape"),
        ],
    )
    def test_errors(self, arguments: dict[str, object], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            dpp.patch_kernel(**arguments)  # type: ignore[arg-type]


def both_ways(kernel: Tensor, k: int, limit: float, coins: Tensor | None = None) -> tuple[dpp.Greedy, dpp.Greedy]:
    keys = torch.rand(len(kernel), kernel.shape[1], generator=seeded(9))
    coins = torch.zeros(len(kernel), k, dtype=torch.bool) if coins is None else coins
    return cpu.greedy(kernel, k, limit, keys, coins), batched(kernel, k, limit, keys, coins)


class TestGreedy:
    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_golden_order(self, oracle: Callable[[str], dict[str, np.ndarray]], number: int) -> None:
        golden = oracle("greedy_dpp")
        kernel, expected = torch.from_numpy(golden[f"L{number}"])[None], golden[f"sel{number}"]
        for found in both_ways(kernel, len(expected), 0.0):
            assert found.ids[0].tolist() == expected.tolist()
            total = logdet(kernel, found.ids)
            torch.testing.assert_close(found.gains.log().sum(1), total, rtol=1e-10, atol=1e-10)

    def test_equals_brute_force(self) -> None:
        kernel = dpp.patch_kernel(features(), bandwidth=5.0)
        found = dpp.greedy_map(kernel, 9, first="argmax")
        for each, ids in zip(kernel.numpy(), found.ids.tolist()):
            chosen: list[int] = []
            for _ in range(9):
                volumes = [
                    -np.inf if item in chosen else np.linalg.slogdet(each[np.ix_([*chosen, item], [*chosen, item])])[1]
                    for item in range(20)
                ]
                chosen.append(int(np.argmax(np.round(volumes, 12))))
            assert ids == chosen

    @pytest.mark.parametrize("kind", ["gaussian", "cosine"])
    def test_equals_pivoted_cholesky(self, kind: dpp.kernels.Kind) -> None:
        kernel = dpp.patch_kernel(smooth_images(side=112).double(), 8, kind=kind)
        quality = 1 + 1e-6 * torch.arange(196.0, 0, -1, dtype=torch.float64).expand(4, -1)  # no ties
        kernel = kernel * quality[:, :, None] * quality[:, None]
        found = dpp.greedy_map(kernel, 49, first="argmax")
        for each, ids in zip(kernel.numpy(), found.ids.tolist()):
            _, pivots, _, _ = lapack.dpstrf(each, lower=1)
            assert ids == (pivots[:49] - 1).tolist()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("limit", [0.0, 0.5])
    def test_numba_and_torch_agree(self, dtype: torch.dtype, limit: float) -> None:
        kernel = dpp.patch_kernel(features(5, 30, 12)).to(dtype)
        coins = torch.rand(5, 14, generator=seeded(3)) < 0.3
        for given in (None, coins if limit == 0 else None):
            one, other = both_ways(kernel, 14, limit, given)
            assert torch.equal(one.ids, other.ids)
            assert torch.equal(one.length, other.length)
            torch.testing.assert_close(one.gains, other.gains, rtol=1e-4, atol=1e-5)

    def test_many_images_in_single_precision_equal_brute_force(self) -> None:
        kernel = dpp.patch_kernel(smooth_images(64, 112), 8)
        found = dpp.greedy_map(kernel, 49, generator=seeded())
        assert kernel.dtype == torch.float32
        assert (found.length == 49).all()
        for image in (0, 31, 63):
            wide = kernel[image].double()
            for step in (1, 13, 48):
                before = found.ids[image, :step]
                left = torch.tensor([item for item in range(196) if item not in before.tolist()])
                sets = torch.cat([before.expand(len(left), -1), left[:, None]], 1)
                volumes = torch.linalg.slogdet(wide[sets[:, :, None], sets[:, None, :]]).logabsdet
                assert left[volumes.argmax()] == found.ids[image, step]
                gain = volumes.amax() - torch.logdet(wide[before][:, before])
                assert found.gains[image, step].log().item() == pytest.approx(gain.item(), abs=1e-5)

    def test_gains_fall_and_lie_below_the_diagonal(self) -> None:
        kernel = dpp.patch_kernel(smooth_images(), 8)
        gains = dpp.greedy_map(kernel, 30, generator=seeded()).gains
        assert (gains.diff() <= 1e-6).all()
        assert ((gains > 0) & (gains <= 1)).all()

    @pytest.mark.parametrize("randomness", ["stop", "mix"])
    @pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
    @pytest.mark.parametrize("rank", [3, 40])
    def test_ids_are_unique_also_beyond_the_rank(self, randomness: str, tau: float, rank: int) -> None:
        kernel = dpp.patch_kernel(features(6, 40, rank), kind="cosine")
        for each in (kernel, kernel.float()):
            found = dpp.greedy_map(each, 40, tau, randomness=randomness, generator=seeded())  # type: ignore[arg-type]
            assert torch.equal(found.ids.sort(1).values, torch.arange(40).expand(6, 40))
            if tau == 0 and each.dtype == torch.float64:
                assert (found.length == (rank if randomness == "stop" else 40)).all()

    def test_it_does_not_care_for_order_rotation_or_scale(self) -> None:
        x = features(2, 25, 6)
        kernel = dpp.patch_kernel(x, kind="cosine", quality=1 + torch.rand(2, 25, generator=seeded()).double())
        plain = dpp.greedy_map(kernel, 6, first="argmax").ids
        shuffle = torch.randperm(25, generator=seeded(4))
        moved = dpp.greedy_map(kernel[:, shuffle][:, :, shuffle], 6, first="argmax").ids
        assert torch.equal(shuffle[moved], plain)
        assert torch.equal(dpp.greedy_map(7.5 * kernel, 6, first="argmax").ids, plain)
        rotation = torch.linalg.qr(torch.randn(6, 6, generator=seeded(5), dtype=torch.float64)).Q
        torch.testing.assert_close(dpp.patch_kernel(x @ rotation), dpp.patch_kernel(x))

    def test_its_volume_is_not_far_from_the_best(self) -> None:
        kernel = dpp.patch_kernel(features(1, 10, 4))
        found = logdet(kernel, dpp.greedy_map(kernel, 3, first="argmax").ids)
        sets = torch.tensor(list(combinations(range(10), 3)))
        best = logdet(kernel.expand(len(sets), 10, 10), sets).max()
        assert best - found <= np.log(36)  # det of the greedy set is at least the best one's over (k!)^2

    def test_it_spreads_over_clusters(self) -> None:
        """16 patches in 4 tight clusters: a greedy four takes one of each, a uniform four seldom does."""
        clusters = torch.arange(16) % 4
        x = torch.eye(4, dtype=torch.float64)[clusters] + 0.02 * features(1, 16, 4)
        kernel = dpp.patch_kernel(x).expand(200, 16, 16).contiguous()
        hits = [
            (clusters[dpp.greedy_map(kernel, 4, tau, generator=seeded()).ids].sort(1).values == torch.arange(4))
            .all(1)
            .double()
            .mean()
            .item()
            for tau in (0.0, 1.0)
        ]
        assert hits[0] == 1
        assert hits[1] < 0.3  # 4^4 of the C(16, 4) sets: 0.14


class TestChance:
    KERNEL = dpp.patch_kernel(features(1, 12, 5))

    def counts(self, tau: float, randomness: str, draws: int = 20_000) -> Tensor:
        kernel = self.KERNEL.expand(draws, 12, 12).contiguous()
        found = dpp.greedy_map(kernel, 4, tau, randomness=randomness, generator=seeded())  # type: ignore[arg-type]
        return found.ids.flatten().bincount(minlength=12)

    @pytest.mark.parametrize("randomness", ["stop", "mix"])
    def test_tau_1_is_uniform(self, randomness: str) -> None:
        sets = torch.tensor(list(combinations(range(12), 2)))
        kernel = self.KERNEL.expand(20_000, 12, 12).contiguous()
        ids = dpp.greedy_map(kernel, 2, 1.0, randomness=randomness, generator=seeded()).ids  # type: ignore[arg-type]
        pairs = (ids.sort(1).values[:, None] == sets).all(2).int().argmax(1).bincount(minlength=len(sets))
        assert stats.chisquare(pairs.numpy()).pvalue > 1e-3
        assert stats.chisquare(self.counts(1.0, randomness).numpy()).pvalue > 1e-3

    @pytest.mark.parametrize("randomness", ["stop", "mix"])
    def test_between_it_is_neither(self, randomness: str) -> None:
        assert stats.chisquare(self.counts(0.6, randomness).numpy()).pvalue < 1e-6

    def test_tau_0_is_decided_by_the_first(self) -> None:
        kernel = self.KERNEL.expand(500, 12, 12).contiguous()
        ids = dpp.greedy_map(kernel, 6, generator=seeded()).ids
        assert len({tuple(each) for each in ids.tolist()}) == 12
        assert len(set(ids[:, 0].tolist())) == 12
        fixed = dpp.greedy_map(kernel, 6, first="argmax", generator=seeded()).ids
        assert (fixed == fixed[0]).all()

    def test_smaller_tau_searches_longer(self) -> None:
        kernel = dpp.patch_kernel(smooth_images(8), 8)
        lengths = [
            dpp.greedy_map(kernel, 40, tau, generator=seeded()).length.double().mean().item()
            for tau in (0.0, 0.3, 0.7, 1.0)
        ]
        assert lengths[0] == 40
        assert lengths[-1] == 1
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[1] > lengths[2] > 1

    def test_mix_counts_what_was_searched(self) -> None:
        kernel = self.KERNEL.expand(400, 12, 12).contiguous()
        lengths = dpp.greedy_map(kernel, 9, 0.25, randomness="mix", generator=seeded()).length.double()
        assert lengths.mean().item() == pytest.approx(1 + 8 * 0.75, abs=0.3)

    def test_a_generator_repeats_itself(self) -> None:
        kernel = dpp.patch_kernel(smooth_images(), 8)
        one, same, other = (dpp.greedy_map(kernel, 16, 0.5, generator=seeded(seed)).ids for seed in (7, 7, 8))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


class TestExact:
    def test_polynomials(self) -> None:
        values = torch.rand(2, 6, generator=seeded(), dtype=torch.float64)
        table = log_polynomials(values.log(), 4).exp()
        for m in range(7):
            for degree in range(5):
                expected = [sum(np.prod(each) for each in combinations(row[:m], degree)) for row in values.tolist()]
                assert table[:, m, degree].tolist() == pytest.approx(expected)

    def test_polynomials_beyond_single_precision(self) -> None:
        kernel = torch.eye(196)[None]
        expected = -float(np.sum(np.log(np.arange(148, 197)) - np.log(np.arange(1, 50))))  # 1 over C(196, 49)
        found = dpp.log_prob(kernel, torch.arange(49)[None])
        assert found.item() == pytest.approx(expected)
        assert expected < -88  # whose inverse float32 cannot hold

    def test_probabilities_sum_to_one(self) -> None:
        kernel = dpp.patch_kernel(features(1, 7, 4))
        for k in range(1, 8):
            sets = torch.tensor(list(combinations(range(7), k)))
            assert dpp.log_prob(kernel.expand(len(sets), 7, 7), sets).exp().sum().item() == pytest.approx(1)

    def test_all_sets_together_are_det_of_kernel_plus_identity(self) -> None:
        kernel = dpp.patch_kernel(features(1, 7, 4))[0]
        total = 1 + sum(
            torch.det(kernel[list(each)][:, list(each)]) for k in range(1, 8) for each in combinations(range(7), k)
        )
        torch.testing.assert_close(total, torch.det(kernel + torch.eye(7)))

    @pytest.mark.parametrize("k", [1, 3, 6])
    def test_draws_against_enumeration(self, k: int) -> None:
        kernel, draws = dpp.patch_kernel(features(1, 7, 4)), 20_000
        sets = torch.tensor(list(combinations(range(7), k)))
        expected = draws * dpp.log_prob(kernel.expand(len(sets), 7, 7), sets).exp()
        ids = dpp.kdpp_sample(kernel.expand(draws, 7, 7).contiguous(), k, seeded())
        assert (ids.diff() > 0).all()
        found = (ids[:, None] == sets).all(2).int().argmax(1).bincount(minlength=len(sets))
        assert stats.chisquare(found.numpy(), expected.numpy()).pvalue > 1e-3

    def test_inclusion_is_the_marginal_diagonal(self) -> None:
        kernel, draws = dpp.patch_kernel(features(1, 30, 6), bandwidth=4.0), 6000
        ids = dpp.kdpp_sample(kernel.expand(draws, 30, 30).contiguous(), 8, seeded())
        found = ids.flatten().bincount(minlength=30) / draws
        expected = dpp.marginal_kernel(kernel, 8)[0].diagonal()
        assert expected.sum().item() == pytest.approx(8)
        sigma = (expected * (1 - expected) / draws).sqrt()
        assert ((found - expected).abs() < 4.5 * sigma).all()
        assert expected.std() > 5 * sigma.max()  # not uniform, or the test would say nothing

    def test_marginals_of_sets_of_any_size(self) -> None:
        kernel = dpp.patch_kernel(features(1, 6, 3))
        marginal, whole = dpp.marginal_kernel(kernel)[0], kernel[0]
        weights = {
            each: torch.det(whole[list(each)][:, list(each)]) if each else torch.tensor(1.0).double()
            for k in range(7)
            for each in combinations(range(6), k)
        }
        total = sum(weights.values())
        for inside in [(0,), (2, 5), (1, 3, 4)]:
            share = sum(weight for each, weight in weights.items() if set(inside) <= set(each)) / total
            torch.testing.assert_close(torch.det(marginal[list(inside)][:, list(inside)]), share)

    def test_likely_sets_are_the_spread_ones(self) -> None:
        kernel = dpp.patch_kernel(smooth_images(32), 16)
        drawn, uniform = dpp.kdpp_sample(kernel, 4, seeded()), torch.rand(32, 16, generator=seeded()).argsort(1)[:, :4]
        greedy = dpp.greedy_map(kernel, 4, generator=seeded()).ids
        likely = [dpp.log_prob(kernel, ids).mean().item() for ids in (greedy, drawn, uniform)]
        assert likely[0] > likely[1] > likely[2]

    def test_numba_and_torch_agree(self) -> None:
        values, vectors = torch.linalg.eigh(dpp.patch_kernel(features(50, 30, 12)))
        values[:, :4] = 0
        coins = torch.rand(50, 30, generator=seeded(1), dtype=torch.float64)
        draws = torch.rand(50, 9, generator=seeded(2), dtype=torch.float64)
        chosen = exact.choose_vectors(values.log(), 9, coins)
        assert torch.equal(exact_cpu.choose_vectors(values.log(), 9, coins).sort(1).values, chosen.sort(1).values)
        assert torch.equal(exact_cpu.project(vectors, chosen, draws), exact.project(vectors, chosen, draws))

    def test_shared_out_eigenvectors(self) -> None:
        kernel = dpp.patch_kernel(features(40, 30, 12))
        values, vectors = exact_cpu.eigh(kernel)
        torch.testing.assert_close((vectors * values[:, None]) @ vectors.mT, kernel)
        torch.testing.assert_close(values, torch.linalg.eigvalsh(kernel))

    def test_log_prob_has_the_gradient(self) -> None:
        kernel = dpp.patch_kernel(features(1, 6, 5)).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda each: dpp.log_prob((each + each.mT) / 2, torch.tensor([[0, 2, 5]])), kernel
        )


@pytest.mark.parametrize(
    ("kernel", "k", "options", "words"),
    [
        (torch.zeros(3, 3), 1, {}, r"\[B, N, N\]"),
        (torch.zeros(1, 3, 4), 1, {}, r"\[B, N, N\]"),
        (torch.zeros(1, 3, 3, dtype=torch.int64), 1, {}, "floating point"),
        (torch.eye(3)[None], 4, {}, "k is 4 of 3 patches"),
        (torch.eye(3)[None], 0, {}, "k is 0"),
        (torch.eye(3)[None], 1, {"tau": 1.5}, "tau is 1.5"),
        (torch.eye(3)[None], 1, {"first": "best"}, "best"),
        (torch.eye(3)[None], 1, {"randomness": "some"}, "some"),
        (torch.full((1, 3, 3), torch.nan), 1, {}, "NaN"),
        (torch.arange(9.0).view(1, 3, 3), 1, {}, "not symmetric"),
    ],
)
def test_errors(kernel: Tensor, k: int, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dpp.greedy_map(kernel, k, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("row", "column"), [(0, 11), (11, 0), (5, 6), (7, 7)])
def test_one_wrong_entry_is_found(dtype: torch.dtype, row: int, column: int) -> None:
    kernel = torch.eye(12, dtype=dtype).repeat(30, 1, 1)
    for value, words in ((torch.inf, "infinite"), (torch.nan, "NaN"), (0.5, "differ by 0.5")):
        if row == column and value == 0.5:
            continue
        wrong = kernel.clone()
        wrong[29, row, column] = value
        for each in (wrong, wrong.mT):
            with pytest.raises(ValueError, match=words):
                dpp.greedy_map(each, 3)
    assert dpp.greedy_map(kernel, 3).ids.shape == (30, 3)


class TestRefusedProbabilities:
    """What has no probability is refused by all three, not answered."""

    @pytest.mark.parametrize(
        ("kernel", "words"),
        [
            (torch.eye(5).index_fill(0, torch.tensor(2), torch.nan), "NaN"),
            (torch.eye(5) + 0.5 * torch.eye(5).roll(1, 0), "not symmetric"),
            (5 - 4 * torch.eye(5), "not positive semi-definite: its lowest eigenvalue is -4, its largest 21"),
        ],
    )
    def test_kernels(self, kernel: Tensor, words: str) -> None:
        for answer in (
            lambda: dpp.log_prob(kernel[None], torch.tensor([[0, 1]])),
            lambda: dpp.marginal_kernel(kernel[None]),
            lambda: dpp.marginal_kernel(kernel[None], 2),
            lambda: dpp.kdpp_sample(kernel[None], 2),
        ):
            with pytest.raises(ValueError, match=words):
                answer()

    def test_sets_beyond_the_rank(self) -> None:
        kernel = dpp.patch_kernel(features(1, 7, 2), kind="cosine")
        with pytest.raises(ValueError, match="k is 3, and a kernel has rank 2"):
            dpp.log_prob(kernel, torch.tensor([[0, 1, 2]]))

    def test_other_numbers_of_sets_than_kernels(self) -> None:
        with pytest.raises(ValueError, match=r"ids are \[1, 2\] and the kernel is \[3, 5, 5\]"):
            dpp.log_prob(torch.eye(5).expand(3, 5, 5), torch.tensor([[0, 1]]))

    def test_no_patch_at_all_is_fine_where_any_number_may_be_drawn(self) -> None:
        assert dpp.marginal_kernel(torch.zeros(1, 3, 3)).abs().max() == 0


def test_a_kernel_with_a_gradient_is_read_only() -> None:
    kernel = dpp.patch_kernel(features()).requires_grad_()
    assert not dpp.greedy_map(kernel, 4).gains.requires_grad
    assert dpp.kdpp_sample(kernel, 4).shape == (3, 4)
    assert dpp.marginal_kernel(kernel, 4).requires_grad


def test_no_set_beyond_the_rank_can_be_drawn() -> None:
    kernel = dpp.patch_kernel(features(2, 10, 3), kind="cosine")
    assert dpp.kdpp_sample(kernel, 3, seeded()).shape == (2, 3)
    with pytest.raises(ValueError, match="rank 3"):
        dpp.kdpp_sample(kernel, 4)


def test_no_images() -> None:
    assert dpp.greedy_map(torch.zeros(0, 5, 5), 2).ids.shape == (0, 2)
    assert dpp.kdpp_sample(torch.zeros(0, 5, 5), 2).shape == (0, 2)
    for kind in ("gaussian", "cosine"):
        assert dpp.patch_kernel(torch.zeros(0, 3, 8, 8), 4, kind=kind).shape == (0, 4, 4)  # type: ignore[arg-type]
