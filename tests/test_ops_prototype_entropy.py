"""The entropy of prototypes over images: golden numbers, its range, its gradient, and areas of 3 x 3."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from vitrail.ops.prototype_entropy import pool_3x3, prototype_entropy


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(prototypes: Tensor, pooled: Tensor, temperature: float) -> float:
    """Eq. 15 and 16, number by number."""
    total = 0.0
    for each in prototypes.flatten(1):
        cosines = [float(each @ image / each.norm() / image.norm()) for image in pooled.flatten(1)]
        masses = [math.exp(cosine / temperature) for cosine in cosines]
        total += sum(mass / sum(masses) * math.log(mass / sum(masses)) for mass in masses)
    return -total / len(pooled) / len(prototypes)


@pytest.mark.parametrize("flat", [False, True])
def test_golden(oracle: Callable[[str], dict[str, np.ndarray]], flat: bool) -> None:
    golden = oracle("oaf_text_reference")
    prototypes = torch.from_numpy(golden["U"]).requires_grad_()
    pooled = pool_3x3(torch.from_numpy(golden["h"]).flatten(2).transpose(1, 2), (7, 7))
    given = (prototypes.flatten(1), pooled.flatten(1)) if flat else (prototypes, pooled)
    loss = prototype_entropy(*given, temperature=float(golden["tau3"]))
    (gradient,) = torch.autograd.grad(loss, prototypes)
    assert float(loss.detach()) == pytest.approx(float(golden["L_proto"]), abs=1e-12)
    np.testing.assert_allclose(gradient, golden["g_proto"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_by_definition(temperature: float) -> None:
    prototypes, pooled = drawn(5, 2, 3, 3), drawn(4, 2, 3, 3, seed=1)
    assert float(prototype_entropy(prototypes, pooled, temperature)) == pytest.approx(
        by_definition(prototypes, pooled, temperature), rel=1e-12
    )


def test_the_range_is_reached_at_both_ends() -> None:
    images = torch.eye(4, 18, dtype=torch.float64)
    alike = images.sum(0, keepdim=True).repeat(3, 1)
    assert float(prototype_entropy(alike, images)) == pytest.approx(math.log(4) / 4, rel=1e-12)
    assert float(prototype_entropy(7 * images[:2], images, temperature=0.01)) < 1e-12
    assert float(prototype_entropy(alike, images[:1])) == 0


def test_only_directions_count() -> None:
    prototypes, pooled = drawn(5, 18), drawn(4, 18, seed=1)
    scaled = prototype_entropy(prototypes * 3, pooled * drawn(4, 1, seed=2).abs())
    assert float(scaled) == pytest.approx(float(prototype_entropy(prototypes, pooled)), rel=1e-12)


def test_gradients_reach_prototypes_alone() -> None:
    prototypes, pooled = drawn(3, 18).requires_grad_(), drawn(4, 18, seed=1).requires_grad_()
    prototype_entropy(prototypes, pooled).backward()
    assert pooled.grad is None
    assert prototypes.grad is not None
    # Lengths do not matter, so there is no slope along a prototype.
    along = (prototypes.grad * prototypes).sum(1) / prototypes.grad.norm(dim=1) / prototypes.norm(dim=1)
    assert along.abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda values: prototype_entropy(values, pooled.detach()), (prototypes,))


def test_descent_draws_each_prototype_to_its_nearest_image() -> None:
    images = drawn(6, 18, seed=1)
    nearest = torch.tensor([2, 2, 5])
    prototypes = (images[nearest] + drawn(3, 18)).requires_grad_()
    optimizer = torch.optim.Adam([prototypes], lr=0.05)
    first = float(prototype_entropy(prototypes, images).detach())
    for _ in range(200):
        optimizer.zero_grad()
        prototype_entropy(prototypes, images).backward()
        optimizer.step()
    assert float(prototype_entropy(prototypes, images).detach()) < 0.1 * first
    assert torch.equal((prototypes @ (images / images.norm(dim=1, keepdim=True)).T).argmax(1), nearest)


def test_no_images_and_zeros() -> None:
    prototypes = drawn(3, 18).requires_grad_()
    loss = prototype_entropy(prototypes, torch.empty(0, 18, dtype=torch.float64))
    loss.backward()
    assert float(loss.detach()) == 0
    assert prototypes.grad is not None
    assert not prototypes.grad.any()
    dark = prototype_entropy(prototypes, torch.zeros(4, 18, dtype=torch.float64))
    assert float(dark) == pytest.approx(math.log(4) / 4)


def test_precision_under_autocast() -> None:
    prototypes, pooled = drawn(5, 18).float(), drawn(4, 18, seed=1).float()
    expected = prototype_entropy(prototypes, pooled)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = prototype_entropy(prototypes, pooled)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert prototype_entropy(prototypes.bfloat16(), pooled.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("prototypes", "pooled", "temperature", "message"),
    [
        ((3, 2, 3, 3), (4, 3, 3, 3), 0.1, r"prototypes are \[3, 2, 3, 3\] and pooled images \[4, 3, 3, 3\]"),
        ((18,), (4, 18), 0.1, r"prototypes are \[18\]"),
        ((3, 18), (4, 18), 0.0, "temperature 0.0 is not positive"),
    ],
)
def test_refused(prototypes: tuple[int, ...], pooled: tuple[int, ...], temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prototype_entropy(torch.zeros(prototypes), torch.zeros(pooled), temperature)


@pytest.mark.parametrize("grid", [(3, 3), (6, 9), (7, 5), (14, 14), (2, 4)])
def test_areas_of_3x3(grid: tuple[int, int]) -> None:
    rows, columns = grid
    patches = drawn(2, rows * columns, 4)
    found = pool_3x3(patches, grid)
    picture = patches.unflatten(1, grid)
    assert found.shape == (2, 4, 3, 3)
    for y in range(3):
        for x in range(3):
            top, bottom = y * rows // 3, -(-(y + 1) * rows // 3)
            left, right = x * columns // 3, -(-(x + 1) * columns // 3)
            expected = picture[:, top:bottom, left:right].mean((1, 2))
            torch.testing.assert_close(found[:, :, y, x], expected, rtol=1e-12, atol=1e-12)


def test_patches_that_do_not_fill_the_grid() -> None:
    with pytest.raises(ValueError, match=r"patches are \[2, 50, 4\]; a grid of 7 x 7 is \[B, 49, D\]"):
        pool_3x3(torch.zeros(2, 50, 4), (7, 7))
