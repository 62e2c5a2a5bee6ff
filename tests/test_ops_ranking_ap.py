"""CoTAP: golden numbers, brute force, gradients, invariances, corners; four implementations that agree."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from processes import python
from torch import Tensor
from torch.autograd import gradcheck

from vitrail.ops.ranking_ap import batched, cotap_loss, cotap_moments, cpu, levels, reference, sampled_pairs

DEVICE = "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"
TAU1, TAU2 = -0.2, 0.5
GOLDEN = ["patch_49", "ties_49", "patch_400", "ties_400", "patch_2401"]


def by_numba(p: Tensor, q: Tensor, tau1: float = TAU1, tau2: float = TAU2) -> tuple[Tensor, Tensor]:
    return cpu.loss_and_slope(p, q, tau1, tau2)


def by_levels(p: Tensor, q: Tensor, tau1: float = TAU1, tau2: float = TAU2) -> tuple[Tensor, Tensor]:
    return batched.loss_and_slope(p, q, tau1, tau2, levels.dominated)


def by_triton(p: Tensor, q: Tensor, tau1: float = TAU1, tau2: float = TAU2) -> tuple[Tensor, Tensor]:
    loss, slope = batched.loss_and_slope(p.to(DEVICE), q.to(DEVICE), tau1, tau2, board().dominated)
    return loss.cpu(), slope.cpu()


def by_autograd(p: Tensor, q: Tensor, tau1: float = TAU1, tau2: float = TAU2) -> tuple[Tensor, Tensor]:
    leaf = p.detach().clone().requires_grad_()
    loss = reference.cotap_loss(leaf, q, tau1, tau2)
    loss.sum().backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def board():  # type: ignore[no-untyped-def]
    return pytest.importorskip("vitrail.ops.ranking_ap.cuda", reason="TRITON IS ABSENT: the GPU kernels are untested")


@pytest.fixture(autouse=True)
def large_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter a step takes as long, however much it does: take few large ones, of two to a block."""
    if DEVICE == "cpu":
        small, large = ({"BLOCK": block, "CHUNK": block // 2, "num_warps": 1} for block in (16, 64))
        monkeypatch.setattr(board(), "launch_size", lambda count: small if count < 100 else large)


exact = [by_numba, by_levels, by_autograd]
ways = pytest.mark.parametrize("way", [*exact, by_triton], ids=["cpu", "levels", "reference", "cuda"])


def noise(*shape: int, seed: int = 0, ties: bool = False) -> tuple[Tensor, Tensor]:
    """Scores p and targets q that agree in part, float64, in [0, 1] mostly; with ties, in steps of 1/8 and 1/16."""
    draw = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p, q = 0.5 + 0.1 * draw[0] + 0.1 * draw[1], 0.5 + 0.1 * draw[1]
    return ((p * 16).round() / 16, (q * 8).round() / 8) if ties else (p, q)


def brute_force(p: Tensor, q: Tensor, tau1: float, tau2: float) -> float:
    """Eq. 11 and 12 word for word on one row."""
    total = 0.0
    for p_i, q_i in zip(p.tolist(), q.tolist()):
        misranked, ahead = 0.0, 0
        for p_j, q_j in zip(p.tolist(), q.tolist()):
            x = p_i - p_j
            if q_j < q_i:
                misranked += 1 - 2 * x / tau2 if x < 0 else max(1 - x / tau2, 0) ** 2
            elif p_j >= p_i:
                ahead += 1
        total += max(q_i - tau1, 0) * (misranked / ahead) / (1 + misranked / ahead)
    return total / len(p)


@pytest.mark.parametrize(
    ("way", "name"),
    [(way, name) for way in exact for name in GOLDEN]
    + [(by_triton, name) for name in GOLDEN[:4]],  # 2,401 take minutes
)
def test_golden_numbers(way: Callable, name: str, oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = oracle(f"cotap_{name}")
    p, q = torch.from_numpy(golden["p"]), torch.from_numpy(golden["q"])
    loss, slope = way(p, q)
    assert loss.item() == pytest.approx(float(golden["loss"]), abs=1e-12)
    np.testing.assert_allclose(slope.numpy(), golden["grad"], atol=1e-11, rtol=0)


@ways
@pytest.mark.parametrize("name", GOLDEN[:2])
def test_golden_numbers_in_float32(way: Callable, name: str, oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = oracle(f"cotap_{name}")
    loss, slope = way(torch.from_numpy(golden["p"]).float(), torch.from_numpy(golden["q"]).float())
    assert loss.dtype == slope.dtype == torch.float32
    assert loss.item() == pytest.approx(float(golden["loss"]), abs=1e-5)
    np.testing.assert_allclose(slope.numpy(), golden["grad"], atol=1e-5 * np.abs(golden["grad"]).max(), rtol=0)


def moments_by_levels(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    return batched.moments(p, q, TAU2, levels.dominated)


def moments_by_triton(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    return batched.moments(p.to(DEVICE), q.to(DEVICE), TAU2, board().dominated)


three = [cotap_moments, reference.cotap_moments, moments_by_levels]


@pytest.mark.parametrize(
    ("moments", "name"),
    [(moments, name) for moments in three for name in GOLDEN] + [(moments_by_triton, name) for name in GOLDEN[:2]],
)
def test_golden_moments(moments: Callable, name: str, oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = oracle(f"cotap_{name}")
    misranked, ahead = moments(torch.from_numpy(golden["p"]), torch.from_numpy(golden["q"]))
    np.testing.assert_allclose(misranked.cpu().numpy(), golden["A"], rtol=1e-9, atol=1e-12)
    assert np.array_equal(ahead.cpu().numpy(), golden["R"])


@ways
@pytest.mark.parametrize("items", [1, 3, 35])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_the_definition(way: Callable, items: int, ties: bool) -> None:
    p, q = noise(2, items, seed=items, ties=ties)
    for tau1, tau2 in ((TAU1, TAU2), (0.5, 0.125), (0.0, 3.0)):
        loss, slope = way(p, q, tau1, tau2)
        expected = [brute_force(*row, tau1, tau2) for row in zip(p, q)]
        assert loss.tolist() == pytest.approx(expected, abs=1e-12)
        torch.testing.assert_close(slope, by_autograd(p, q, tau1, tau2)[1], atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("items", [2, 5, 30])
def test_gradcheck(items: int) -> None:
    p, q = noise(3, items)
    assert (p.sort(-1).values.diff(dim=-1) > 1e-5).all()  # R does not jump within the step
    assert gradcheck(lambda each: cotap_loss(each, q), p.requires_grad_(), eps=1e-7, atol=1e-6)


@ways
def test_invariances(way: Callable) -> None:
    p, q = noise(1, 40)
    loss, slope = way(p, q)
    for moved, tau2 in ((p + 7, TAU2), (4 * p - 1, 4 * TAU2)):
        torch.testing.assert_close(way(moved, q, TAU1, tau2)[0], loss, atol=1e-12, rtol=0)
    torch.testing.assert_close(way(4 * p, q, TAU1, 4 * TAU2)[1], slope / 4, atol=1e-12, rtol=0)
    order = torch.randperm(40)
    mixed, mixed_slope = way(p[:, order], q[:, order])
    torch.testing.assert_close(mixed, loss, atol=1e-12, rtol=0)
    torch.testing.assert_close(mixed_slope, slope[:, order], atol=1e-12, rtol=0)
    assert slope.sum(-1).abs().max() < 1e-12


@ways
def test_only_the_order_of_targets_and_their_weight_count(way: Callable) -> None:
    p, q = noise(1, 50)
    upper = q > q.median()
    far = torch.where(upper, q, q - 100)  # the same order, but the lower ones weigh nothing
    misranked, ahead = reference.cotap_moments(p, q)
    expected = (upper * (q - TAU1) * misranked / (misranked + ahead)).mean(-1)
    torch.testing.assert_close(way(p, far)[0], expected, atol=1e-12, rtol=0)


@ways
def test_equal_targets_rank_nothing(way: Callable) -> None:
    for q in (torch.full((2, 20), 0.3, dtype=torch.float64), torch.tensor([[0.0, -0.0] * 10] * 2, dtype=torch.float64)):
        loss, slope = way(noise(2, 20)[0], q)
        assert not loss.any()
        assert not slope.any()


@ways
def test_equal_scores_misrank_everything(way: Callable) -> None:
    p, q = torch.full((1, 30), 0.1, dtype=torch.float64), noise(1, 30)[1]
    rank = q.argsort().argsort()  # l(0) = 1: A_i = rank and R_i = N - rank
    loss, _ = way(p, q)
    torch.testing.assert_close(loss, ((q - TAU1) * rank / 30).mean(-1), atol=1e-12, rtol=0)


@ways
def test_perfect_and_reversed_order(way: Callable) -> None:
    q = torch.linspace(0, 1, 30, dtype=torch.float64)[None]
    perfect, slope = way(30 * q, q)  # more than tau2 from one to the next
    assert perfect.item() == pytest.approx(0, abs=1e-11)
    assert slope.abs().max() < 1e-11
    steps = [
        torch.arange(1, rank + 1, dtype=torch.float64) for rank in range(30)
    ]  # of 30/29, down to each lower target
    misranked = torch.stack([(1 + 2 * 30 / 29 * step / TAU2).sum() for step in steps])
    expected = ((q[0] - TAU1) * misranked / (misranked + 1)).mean()  # only i itself is ahead of i
    assert way(-30 * q, q)[0].item() == pytest.approx(expected.item(), abs=1e-12)


@ways
def test_bounds(way: Callable) -> None:
    p, q = noise(4, 20, seed=5)
    loss, _ = way(p, q)
    assert (loss >= 0).all()
    assert (loss < (q - TAU1).clamp(min=0).mean(-1)).all()
    assert (loss[1:] != loss[:-1]).all()


@pytest.mark.parametrize("ties", [False, True])
def test_the_chain_of_bounds(ties: bool) -> None:
    p, q = noise(8, 30, seed=2, ties=ties)
    gamma = torch.rand(8, 30, dtype=torch.float64)
    gamma = gamma.gather(-1, torch.searchsorted(q.sort(-1).values, q))  # a function of q
    weight = reference.bound_weight(q, gamma)
    misranked, ahead = reference.cotap_moments(p, q)
    exact, bound = reference.multi_threshold_ap(p, q, gamma), reference.ap_bound(p, q, weight)
    surrogate = (weight * misranked / (misranked + ahead)).mean(-1)
    assert (exact < bound).all()
    assert (bound < surrogate).all()


def test_ap_loss_is_one_minus_average_precision() -> None:
    p, q = noise(6, 40)
    for row_p, row_q, loss in zip(p, q, reference.ap_loss(p, q, 0.52)):
        hits = (row_q >= 0.52)[row_p.argsort(descending=True)].double()
        precision = hits.cumsum(0) / torch.arange(1, 41)
        assert loss.item() == pytest.approx(1 - precision[hits == 1].mean().item(), abs=1e-12)


def test_multi_threshold_ap_by_hand() -> None:
    p, q = torch.tensor([0.3, 0.1, 0.2]), torch.tensor([0.1, 0.5, 0.9])
    # Thresholds 0.1: all positive, 0. 0.5: positives 1 and 2 at ranks 3 and 2, (1/3 + 1/2) / 2. 0.9: item 2, 1/2.
    assert reference.multi_threshold_ap(p, q, torch.tensor([1.0, 2.0, 3.0])).item() == pytest.approx(
        (2 * 5 / 12 + 3 / 2) / 3
    )
    assert reference.ap_loss(p, q, 1.0).item() == 0  # no positive
    assert reference.bound_weight(q, torch.tensor([3.0, 4.0, 5.0])).tolist() == [1.0, 3.0, 8.0]


def test_the_surrogate_is_a_smooth_bound() -> None:
    x = torch.linspace(-2, 2, 401, dtype=torch.float64, requires_grad=True)
    value = reference.one_sided_huber(x, TAU2)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert (value >= (x <= 0).double()).all()
    assert (slope.diff() >= -1e-12).all()
    assert slope.diff().max() <= 0.01 * 2 / TAU2**2 + 1e-9  # no jump
    at = torch.tensor([-0.5, 0.0, 0.25, 0.5, 0.7])
    assert reference.one_sided_huber(at, TAU2).tolist() == pytest.approx([3, 1, 0.25, 0, 0])


@pytest.mark.parametrize("way", exact, ids=["cpu", "levels", "reference"])
def test_a_step_down_the_gradient_lowers_the_loss(way: Callable) -> None:
    p, q = noise(8, 80)
    before, slope = way(p, q)
    assert (way(p - 0.1 * slope, q)[0] < before).all()


@pytest.mark.parametrize("way", [by_numba, by_levels, by_triton], ids=["cpu", "levels", "cuda"])
def test_a_broken_row_says_so_and_leaves_the_others_alone(way: Callable) -> None:
    p, q = noise(7, 20)
    alone = way(p, q)
    p[1, 3], p[2, 4], p[3, 5] = torch.nan, torch.inf, -torch.inf
    q[4, 6], q[5, 7] = torch.nan, torch.inf
    loss, slope = way(p, q)
    assert loss.isnan().tolist() == [False, *[True] * 5, False]
    assert slope[1:6].isnan().all()
    for with_bad, without in zip((loss, slope), alone):
        assert torch.equal(with_bad[::6], without[::6])


def test_moments_of_a_broken_row() -> None:
    p, q = noise(2, 9)
    p[1, 3] = torch.nan
    for misranked, ahead in (cotap_moments(p, q), moments_by_levels(p, q)):
        assert misranked.isnan().all(-1).tolist() == [False, True]
        assert ahead[1].tolist() == [-1] * 9


@ways
def test_a_batch_is_its_rows_and_every_run_the_same(way: Callable) -> None:
    p, q = noise(2, 2, 20, ties=True)
    batch = way(p, q)
    assert batch[0].shape == (2, 2)
    assert batch[1].shape == (2, 2, 20)
    again = way(p, q)
    assert all(torch.equal(one, other) for one, other in zip(batch, again))
    if way is not by_autograd:
        loss, slope = way(p[1, 0], q[1, 0])
        assert torch.equal(loss, batch[0][1, 0])
        assert torch.equal(slope, batch[1][1, 0])


def test_rows_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = noise(3, 20)
    whole = by_triton(p, q)
    monkeypatch.setattr(board(), "_BOARD_BYTES", 2 * 32 * 2 * 3)  # two rows of 2 by 3 fields at a time
    assert board().launch_size(20)["BLOCK"] == 16
    assert all(torch.equal(one, other) for one, other in zip(by_triton(p, q), whole))


def test_a_larger_batch_runs_in_threads() -> None:
    p, q = noise(40, 500)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = by_numba(p, q)
        torch.set_num_threads(2)
        together = by_numba(p, q)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(alone, together))


@pytest.mark.parametrize("way", [by_numba, by_levels], ids=["cpu", "levels"])
@pytest.mark.parametrize("tau2", [0.5, 0.01])
def test_many_items(way: Callable, tau2: float) -> None:
    p, q = noise(1, 3000)
    p, q = p.float(), q.float()
    loss, slope = way(p, q, TAU1, tau2)
    expected, expected_slope = by_autograd(p.double(), q.double(), TAU1, tau2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (slope - expected_slope).norm() < 1e-6 * expected_slope.norm()


def test_long_rows_agree() -> None:
    p, q = noise(1, 38_416)
    p, q = p.float(), q.float()
    loss, slope = by_numba(p, q)
    other, other_slope = by_levels(p.double(), q.double())
    assert loss.item() == pytest.approx(other.item(), abs=1e-6)
    assert (slope - other_slope).norm() < 1e-6 * other_slope.norm()


MEMORY = """
import resource
from pathlib import Path
import torch
from vitrail.ops.ranking_ap import cotap_loss

p, q = torch.rand(2, 1, 38416, generator=torch.Generator().manual_seed(0))
p.requires_grad_()
cotap_loss(p[:, :50], q[:, :50]).sum().backward()  # loads the kernels
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
def kib(name):
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if name in line).split()[1])
before = kib("VmRSS")
cotap_loss(p, q).sum().backward()
print(kib("VmHWM") - before)
"""


def test_long_rows_take_little_memory() -> None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of memory is read from Linux's /proc")
    done = python("-c", MEMORY)
    assert 1000 < int(done.stdout) < 20_000  # KiB; a float32 for each pair would be 5,764,801


def test_upstream_gradients_weigh_each_row() -> None:
    p, q = noise(2, 3, 20)
    weights = torch.randn(2, 3, dtype=torch.float64)
    p.requires_grad_()
    q.requires_grad_()
    (cotap_loss(p, q) * weights).sum().backward()
    torch.testing.assert_close(p.grad, by_autograd(p, q.detach())[1] * weights[..., None])
    assert q.grad is None


def test_no_gradient_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = noise(2, 20)
    seen = []
    compute = cpu.loss_and_slope
    monkeypatch.setattr(cpu, "loss_and_slope", lambda *words: seen.append(words[-1]) or compute(*words))
    plain = cotap_loss(p, q)
    with torch.no_grad():
        assert torch.equal(cotap_loss(p.clone().requires_grad_(), q), plain)
    assert torch.equal(cotap_loss(p.requires_grad_(), q), plain)
    assert seen == [False, False, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_widened(dtype: torch.dtype) -> None:
    p, q = noise(2, 30)
    p, q = p.to(dtype), q.to(dtype)
    wide = p.double().requires_grad_()
    cotap_loss(wide, q.double()).sum().backward()
    narrow = p.clone().requires_grad_()
    loss = cotap_loss(narrow, q)
    loss.sum().backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), cotap_loss(p.double(), q.double()), atol=1e-6, rtol=0)
    assert narrow.grad.dtype == dtype
    torch.testing.assert_close(narrow.grad, wide.grad.to(dtype), rtol=0.01, atol=1e-6)


def test_targets_are_ranked_in_their_own_type() -> None:
    p = torch.tensor([0.2, 0.9])
    q = torch.tensor([0.5 + 1e-12, 0.5], dtype=torch.float64)
    assert cotap_loss(p, q.float()).item() == 0  # equal in float32
    loss = cotap_loss(p, q)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.35 * 3.8 / 4.8)


def test_func_and_compile() -> None:
    p, q = noise(2, 20)
    expected = by_autograd(p, q)[1]
    torch.testing.assert_close(torch.func.grad(lambda each: cotap_loss(each, q).sum())(p), expected)
    leaf = p.clone().requires_grad_()
    compiled = torch.compile(lambda each: cotap_loss(each * 2, q).sum() * 3, fullgraph=True, backend="aot_eager")(leaf)
    compiled.backward()
    torch.testing.assert_close(leaf.grad, 6 * by_autograd(2 * p, q)[1])


def test_no_rows() -> None:
    p = torch.zeros(0, 5, requires_grad=True)
    loss = cotap_loss(p, torch.zeros(0, 5))
    loss.sum().backward()
    assert loss.shape == (0,)
    assert p.grad.shape == (0, 5)
    assert [each.shape for each in cotap_moments(p, torch.zeros(0, 5))] == [(0, 5), (0, 5)]


def test_sampled_pairs() -> None:
    p, q = noise(3, 4000)
    p.requires_grad_()
    some_p, some_q = sampled_pairs(p, q, 1000, torch.Generator().manual_seed(0))
    again = sampled_pairs(p, q, 1000, torch.Generator().manual_seed(0))
    assert torch.equal(some_p, again[0])
    assert torch.equal(some_q, again[1])
    places = [torch.searchsorted(*sorted_and(values)) for values in ((q, some_q), (p.detach(), some_p.detach()))]
    for values, place in zip((q, p.detach()), places):
        assert (place.sort(-1).values.diff(dim=-1) > 0).all(), "an item twice"
        assert torch.equal(values.argsort(-1).gather(-1, place)[0], values.argsort(-1).gather(-1, place)[1])
    chosen = [values.argsort(-1).gather(-1, place) for values, place in zip((q, p.detach()), places)]
    assert torch.equal(*chosen)
    torch.testing.assert_close(cotap_loss(some_p, some_q), cotap_loss(p, q), atol=0.01, rtol=0)
    some_p.sum().backward()
    assert p.grad.sum() == 3000
    assert sampled_pairs(p, q, 4000)[0] is p


def sorted_and(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return pair[0].sort(-1).values, pair[1].contiguous()


def test_bad_input_is_answered_in_words() -> None:
    p, q = noise(2, 5)
    for words, arguments in (
        (r"\[2, 5\] and q \[2, 4\]", (p, q[:, :4])),
        (r"\[2, 0\].*N from 1 on", (p[:, :0], q[:, :0])),
        (r"\[\] and q \[\]", (torch.tensor(1.0), torch.tensor(1.0))),
        (r"torch\.int64 and q torch\.float64.*scores\.float", (p.long(), q)),
        (r"tau2 is 0.0.*positive", (p, q, TAU1, 0.0)),
        (r"tau2 is nan", (p, q, TAU1, float("nan"))),
        (r"tau1 is inf.*finite", (p, q, float("inf"))),
        (r"on cpu and q on meta", (p, q.to("meta"))),
    ):
        with pytest.raises(ValueError, match=words):
            cotap_loss(*arguments)
    with pytest.raises(ValueError, match="tau2 is -1"):
        cotap_moments(p, q, -1)
    with pytest.raises(ValueError, match=r"6 of 5 items.*1 to 5"):
        sampled_pairs(p, q, 6)
    with pytest.raises(ValueError, match=r"\[2, 5\] and q \[5\]"):
        sampled_pairs(p, q[0], 2)


COMPILE_FOR_GPU = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vitrail.ops.ranking_ap import cuda

def build(kernel, constants, fp, **pointers):
    words = dict.fromkeys(("scores", "weight"), f"*{fp}") | dict.fromkeys(("rank", "start", "position"), "*i32")
    words |= pointers | {"count": "i32", "blocks": "i32"} | dict.fromkeys(constants, "constexpr")
    signature = {name: words[name] for name in kernel.arg_names}
    source, options = ASTSource(kernel, signature, constants), {"num_warps": warps}
    built = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert built.metadata.shared <= 48 * 1024, built.metadata.shared
    assert "local" not in built.asm["ptx"]

for fp, full in (("fp32", True), ("fp64", False)):
    sizes = cuda.launch_size(38416)
    warps = sizes.pop("num_warps")
    near = {"value": f"*{fp}", "steepness": f"*{fp}", "passed": "*i32"}
    build(cuda._near_in_q, sizes | {"FULL": full}, fp, **near)
    near = {"near_" + name: kind for name, kind in near.items()}
    found = dict.fromkeys(("value", "steepness", "passed", "board"), "*fp64")
    build(cuda._near_in_p, sizes | {"FULL": full, "STEPS": 9}, fp, **near, **found)
    warps = 4
    build(cuda._sum_board, {"BLOCK": sizes["BLOCK"], "COLUMNS": 32, "FULL": full}, fp, board="*fp64")
"""


def test_gpu_kernels_compile_for_a_real_gpu() -> None:
    board()
    python("-c", COMPILE_FOR_GPU, TRITON_INTERPRET="0")


ON_A_REAL_GPU = """
import torch
from vitrail.ops.ranking_ap import batched, cotap_loss, cotap_moments, levels

torch.manual_seed(0)
cases = ((49, "float64", 0.5), (2401, "float32", 0.5), (2401, "float64", 0.02), (38416, "float32", 0.3))
for count, dtype, tau2 in cases:
    q = torch.rand(3, count, dtype=getattr(torch, dtype))
    q[1] = (q[1] * 16).round() / 16
    here = (0.5 * q + 0.5 * torch.rand_like(q)).requires_grad_()
    there, q_there = here.detach().cuda().requires_grad_(), q.cuda()
    cotap_loss(there, q_there, tau2=tau2).sum().backward()  # compiles
    first, there.grad = there.grad, None
    torch.cuda.set_sync_debug_mode("error")
    loss = cotap_loss(there, q_there, tau2=tau2)
    loss.sum().backward()
    torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(there.grad, first)
    expected = cotap_loss(here, q, tau2=tau2)
    expected.sum().backward()
    tolerance = 1e-5 if dtype == "float32" else 1e-10
    assert (loss.cpu() - expected).abs().max() < tolerance
    assert (there.grad.cpu() - here.grad).norm() < tolerance * here.grad.norm()
    plain, slope = batched.loss_and_slope(there.detach(), q_there, -0.2, tau2, levels.dominated)
    assert (plain.cpu() - expected).abs().max() < tolerance
    assert (slope.cpu() - here.grad).norm() < tolerance * here.grad.norm()
    assert torch.equal(cotap_moments(there, q_there, tau2)[1].cpu(), cotap_moments(here, q, tau2)[1])
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: its kernels ran in the interpreter alone")
def test_on_a_real_gpu() -> None:
    python("-c", ON_A_REAL_GPU, TRITON_INTERPRET="0")
