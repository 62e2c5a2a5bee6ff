"""Spatial entropy: golden numbers, gradients, invariances, corners; three implementations that agree."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable

import numpy as np
import pytest
import torch
from processes import python
from torch import Tensor
from torch.autograd import gradcheck

from vitrail.ops import spatial_entropy as package
from vitrail.ops.components import connected_components
from vitrail.ops.spatial_entropy import cpu, reference, spatial_entropy

# The interpreter computes with NumPy, which warns of NaN that a GPU passes over.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
DEVICE = "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"


def floor_of(scores: Tensor) -> float:
    return package._floor(scores.dtype)


def by_numba(scores: Tensor) -> tuple[Tensor, Tensor]:
    return cpu.entropy_and_slope(scores, floor_of(scores))


def by_autograd(scores: Tensor) -> tuple[Tensor, Tensor]:
    # A wide copy takes the gradient, so that it is not rounded to a half type as the kernels' is not.
    leaf = scores.detach().clone().to(torch.promote_types(scores.dtype, torch.float32)).requires_grad_()
    entropy = reference.spatial_entropy(leaf, floor_of(scores))
    entropy.sum().backward()
    assert leaf.grad is not None
    return entropy.detach(), leaf.grad


def by_triton(scores: Tensor) -> tuple[Tensor, Tensor]:
    cuda = pytest.importorskip(
        "vitrail.ops.spatial_entropy.cuda", reason="TRITON IS ABSENT: the GPU kernel is untested"
    )
    entropy, slope = cuda.entropy_and_slope(scores.to(DEVICE), floor_of(scores))
    return entropy.cpu(), slope.cpu()


ways = pytest.mark.parametrize("way", [by_numba, by_autograd, by_triton], ids=["cpu", "reference", "cuda"])


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def brute_force(scores: Tensor) -> float:
    """Eq. 5 to 8 word for word on one map, with sets of cells."""
    values = scores.double().tolist()
    mean = sum(map(sum, values)) / scores.numel()
    left = {(y, x) for y, row in enumerate(values) for x, value in enumerate(row) if value > mean}
    masses = []
    while left:
        region, front = set(), {left.pop()}
        while front:
            region |= front
            front = {(y + j, x + i) for y, x in front for j in (-1, 0, 1) for i in (-1, 0, 1)} & left
            left -= front
        masses.append(sum(values[y][x] - mean for y, x in region))
    shares = [mass / sum(masses) for mass in masses]
    return -sum(share * math.log(share) for share in shares)


@ways
def test_golden_numbers(way: Callable, oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = oracle("sar_randn_f64")
    scores = torch.from_numpy(golden["S"]).view(4, 6, 14, 14)
    entropy, slope = way(scores)
    maps = entropy.numel()
    assert entropy.mean().item() == pytest.approx(float(golden["loss"]), abs=2e-8)
    np.testing.assert_allclose((slope / maps).view(4, 6, 196).numpy(), golden["grad"], atol=2e-8, rtol=0)
    np.testing.assert_allclose(entropy.numpy(), golden["H_fp64"], atol=1e-12)


def test_golden_gradient_and_labels_through_the_public_functions(
    oracle: Callable[[str], dict[str, np.ndarray]],
) -> None:
    golden = oracle("sar_randn_f64")
    scores = torch.from_numpy(golden["S"]).view(4, 6, 14, 14).requires_grad_()
    loss = spatial_entropy(scores).mean()
    loss.backward()
    assert loss.item() == pytest.approx(float(golden["loss"]), abs=2e-8)
    np.testing.assert_allclose(scores.grad.view(4, 6, 196).numpy(), golden["grad"], atol=2e-8, rtol=0)
    labels = connected_components(scores.detach() > scores.detach().mean((-2, -1), keepdim=True))
    assert np.array_equal(labels.numpy(), golden["labels"])
    assert np.array_equal(labels.amax((-2, -1)).numpy(), golden["ncomp"])


@ways
@pytest.mark.parametrize("shape", [(4, 4), (1, 8), (8, 1), (3, 11), (14, 14), (21, 13)])
def test_equals_the_definition(way: Callable, shape: tuple[int, int]) -> None:
    scores = noise(3, *shape, seed=shape[1])
    expected = [brute_force(one) for one in scores]
    assert way(scores)[0].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(7, 7), (5, 19), (14, 14)])
def test_the_three_ways_agree(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    scores = noise(2, 3, *shape, dtype=dtype)
    scores[0, 0] = 0.1  # constant, and not exact in binary
    scores[0, 1, 2, 3] = torch.nan
    scores[0, 2, 1, 1] = torch.inf
    scores[1, 0, 1, 1] = -torch.inf
    entropy, slope = by_numba(scores)
    assert entropy.dtype == slope.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6
    for other in (by_autograd, by_triton):
        for mine, theirs in zip((entropy, slope), other(scores), strict=True):
            torch.testing.assert_close(theirs.to(mine.dtype), mine, atol=tolerance, rtol=1e-5, equal_nan=True)


@ways
def test_64x64_maps(way: Callable) -> None:
    smooth = torch.nn.functional.avg_pool2d(noise(1, 1, 66, 66), 3, stride=1)[0]
    entropy, slope = way(smooth)
    expected, expected_slope = by_autograd(smooth)
    torch.testing.assert_close(entropy, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(slope, expected_slope, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(2, 2, 5, 5), (1, 3, 8), (2, 6, 1)])
def test_gradcheck(shape: tuple[int, ...]) -> None:
    scores = noise(*shape, seed=3)
    margin = (scores - scores.mean((-2, -1), keepdim=True)).abs().min()
    assert margin > 1e-4  # no cell crosses the mean, where the entropy jumps
    assert gradcheck(spatial_entropy, scores.requires_grad_(), eps=1e-6, atol=1e-6)


def test_invariances() -> None:
    scores = noise(4, 9, 14)
    entropy = spatial_entropy(scores)
    torch.testing.assert_close(spatial_entropy(3.5 * scores - 7), entropy, atol=1e-12, rtol=0)
    turned = [
        scores.flip(-1),
        scores.flip(-2),
        scores.mT,
        scores.rot90(1, (-2, -1)),
        scores.rot90(3, (-2, -1)),
    ]
    for view in turned:  # views with foreign strides, too
        torch.testing.assert_close(spatial_entropy(view), entropy, atol=1e-12, rtol=0)


@ways
def test_gradient_is_centered_and_blind_to_contrast(way: Callable) -> None:
    scores = noise(6, 10, 12)
    _, slope = way(scores)
    assert slope.sum((-2, -1)).abs().max() < 1e-12
    assert (slope * scores).sum((-2, -1)).abs().max() < 1e-12
    torch.testing.assert_close(way(4 * scores)[1], slope / 4, atol=1e-13, rtol=0)


def test_bounds_are_reached() -> None:
    dots = torch.zeros(14, 14)
    dots[::2, ::2] = 1.0
    assert spatial_entropy(dots).item() == pytest.approx(math.log(49), abs=1e-6)
    assert spatial_entropy(torch.eye(6)).item() == 0.0
    entropy = spatial_entropy(noise(200, 7, 7))
    components = connected_components(noise(200, 7, 7) > noise(200, 7, 7).mean((-2, -1), keepdim=True)).amax((-2, -1))
    assert (entropy >= 0).all()
    assert (entropy <= components.double().log() + 1e-12).all()


def test_a_step_down_the_gradient_lowers_the_entropy() -> None:
    scores = noise(8, 14, 14).requires_grad_()
    before = spatial_entropy(scores)
    before.sum().backward()
    after = spatial_entropy(scores.detach() - 1e-3 * scores.grad)
    assert (after < before).all()


@ways
@pytest.mark.parametrize("value", [0.0, 0.1, -3.3e4, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_constant_map_has_no_entropy_and_no_gradient(way: Callable, value: float, dtype: torch.dtype) -> None:
    entropy, slope = way(torch.full((2, 9, 11), value, dtype=dtype))
    assert not entropy.any()
    assert not slope.any()


@ways
def test_gradient_stays_finite_at_the_lowest_contrast(way: Callable) -> None:
    tiny = torch.zeros(3, 6, 6)
    tiny[0, 1, 1], tiny[0, 4, 4] = 1e-45, 3e-45  # below the floor: counts as constant
    tiny[1, 1, 1], tiny[1, 4, 4] = 1e-20, 3e-20
    tiny[2, 1, 1], tiny[2, 4, 4] = 1e-38, 1e30
    entropy, slope = way(tiny)
    assert slope.isfinite().all()
    assert entropy.tolist() == pytest.approx([0.0, brute_force(tiny[1]), 0.0], abs=1e-6)


@ways
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_map_says_so_and_leaves_the_others_alone(way: Callable, bad: float) -> None:
    scores = noise(3, 8, 8, dtype=torch.float32)
    alone = way(scores)
    scores[1, 3, 3] = bad
    entropy, slope = way(scores)
    assert entropy[1].isnan()
    assert slope[1].isnan().all()
    for with_bad, without in zip((entropy, slope), alone, strict=True):
        assert torch.equal(with_bad[::2], without[::2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_summed_wide(dtype: torch.dtype) -> None:
    scores = noise(4, 14, 14, dtype=dtype)
    wide = scores.double().requires_grad_()
    spatial_entropy(wide).sum().backward()
    narrow = scores.clone().requires_grad_()
    entropy = spatial_entropy(narrow)
    entropy.sum().backward()
    assert entropy.dtype == torch.float32
    torch.testing.assert_close(entropy.double(), spatial_entropy(wide), atol=1e-6, rtol=0)
    assert narrow.grad.dtype == dtype
    assert torch.equal(narrow.grad, wide.grad.to(dtype))


def test_empty_and_ownerless_maps() -> None:
    assert spatial_entropy(torch.zeros(0, 6, 14, 14)).shape == (0, 6)
    empty = torch.zeros(3, 0, 4, requires_grad=True)
    spatial_entropy(empty).sum().backward()
    assert empty.grad.shape == (3, 0, 4)
    assert spatial_entropy(torch.randn(5, 5)).shape == ()


def test_bad_input_is_answered_in_words() -> None:
    with pytest.raises(ValueError, match=r"torch\.int64.*scores\.float"):
        spatial_entropy(torch.zeros(4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(4,\)"):
        spatial_entropy(torch.zeros(4))


def test_upstream_gradients_weigh_each_map() -> None:
    scores = noise(2, 3, 6, 6).requires_grad_()
    weights = noise(2, 3, seed=9)
    (spatial_entropy(scores) * weights).sum().backward()
    _, slope = by_numba(scores.detach())
    torch.testing.assert_close(scores.grad, slope * weights[..., None, None])


def test_without_gradient_twice_and_under_autocast() -> None:
    scores = noise(2, 7, 7, dtype=torch.float32).requires_grad_()
    with torch.no_grad():
        assert not spatial_entropy(scores).requires_grad
    (spatial_entropy(scores) + spatial_entropy(2 * scores)).sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = spatial_entropy(scores)
    assert under.dtype == torch.float32
    assert torch.equal(under, spatial_entropy(scores))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiles_without_a_graph_break(dtype: torch.dtype) -> None:
    def loss(scores: Tensor) -> Tensor:
        return (spatial_entropy(scores * 2) * 3).mean()

    scores = noise(2, 3, 7, 7, dtype=dtype).requires_grad_()
    loss(scores).backward()
    eager, scores.grad = scores.grad, None
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(scores)
    compiled.backward()
    assert torch.equal(compiled, loss(scores))
    assert torch.equal(scores.grad, eager)


def test_a_larger_batch_runs_in_threads_and_in_a_forked_child() -> None:
    scores = noise(1100, 14, 14, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = by_numba(scores)
        torch.set_num_threads(2)
        together = by_numba(scores)
        assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
        if hasattr(os, "fork"):
            child = os.fork()
            if child == 0:  # a data-loader worker that was forked after the threads had started
                signal.alarm(60)  # ends it, should it wait for threads that it does not have
                try:
                    same = torch.equal(by_numba(scores)[0], alone[0])
                finally:
                    os._exit(0 if same else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(threads)


COMPILE_FOR_GPU = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vitrail.ops.components.cuda import _label_map, launch_size
from vitrail.ops.spatial_entropy.cuda import _entropy_map

def build(kernel, pointers, constants, cells):
    constants |= launch_size(cells)
    options = {"num_warps": constants.pop("num_warps")}
    words = pointers | {"columns": "i32", "cells": "i32"} | dict.fromkeys(constants, "constexpr")
    return compile(ASTSource(kernel, words, constants), target=GPUTarget("cuda", 90, 32), options=options)

for cells in (49, 196, 4096):
    outputs = {"entropy": "*fp32", "slope": "*fp32"}
    numbers = {"FLOOR": 2.0**-100, "TINY": 2.0**-1022}
    built = build(_entropy_map, {"scores": "*bf16"} | outputs, numbers, cells)
    assert "ptx" in built.asm
    assert built.metadata.shared <= 48 * 1024, built.metadata.shared
    assert "ptx" in build(_label_map, {"masks": "*u8", "out": "*i64"}, {"DIAGONAL": True}, cells).asm
"""


def test_gpu_kernels_compile_for_a_real_gpu() -> None:
    pytest.importorskip("triton", reason="TRITON IS ABSENT: the GPU kernels are not compiled")
    python("-c", COMPILE_FOR_GPU, TRITON_INTERPRET="0")


ON_A_REAL_GPU = """
import torch
from vitrail.ops.components import connected_components
from vitrail.ops.spatial_entropy import spatial_entropy

torch.manual_seed(0)
cases = ((7, "float32"), (14, "float16"), (14, "float64"), (33, "bfloat16"), (64, "float32"))
for side, dtype in cases:
    here = torch.randn(16, 6, side, side - side % 2, dtype=getattr(torch, dtype)).requires_grad_()
    there = here.detach().cuda().requires_grad_()
    spatial_entropy(there).sum().backward()  # compiles
    there.grad = None
    torch.cuda.set_sync_debug_mode("error")
    entropy, labels = spatial_entropy(there), connected_components(there.detach() > 0)
    entropy.sum().backward()
    torch.cuda.set_sync_debug_mode("default")
    expected = spatial_entropy(here)
    expected.sum().backward()
    torch.testing.assert_close(entropy.cpu(), expected)
    torch.testing.assert_close(there.grad.cpu(), here.grad)
    assert torch.equal(labels.cpu(), connected_components(here.detach() > 0))
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: the kernels ran in Triton's interpreter only")
def test_on_a_real_gpu_without_host_sync() -> None:
    python("-c", ON_A_REAL_GPU, TRITON_INTERPRET="0")


def test_torch_func_sees_the_same_gradient() -> None:
    scores = torch.randn(3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaf = scores.clone().requires_grad_()
    spatial_entropy(leaf).sum().backward()
    assert torch.equal(torch.func.grad(lambda maps: spatial_entropy(maps).sum())(scores), leaf.grad)
