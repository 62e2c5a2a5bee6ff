"""Visible patches that are unlike one another, with as much chance as tau says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vitrail.masks import Dpp, Random, visible
from vitrail.ops.dpp import greedy_map, patch_kernel

GRID = (7, 7)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(batch: int = 6, side: int = 56) -> Tensor:
    return avg_pool2d(torch.randn(batch, 3, side + 12, side + 12, generator=seeded(1)), 13, stride=1) * 13


def logdet(images: Tensor, mask: Tensor) -> Tensor:
    kernel = patch_kernel(images, 8).double()
    ids = visible(mask)
    rows = torch.arange(len(ids))[:, None, None]
    return torch.linalg.slogdet(kernel[rows, ids[:, :, None], ids[:, None]]).logabsdet


def test_the_visible_set_is_the_greedy_one() -> None:
    images = smooth()
    mask = Dpp(0.0, first="argmax")(images, GRID, 37)
    expected = greedy_map(patch_kernel(images, 8), 12, first="argmax").ids.sort(1).values
    assert visible(mask).equal(expected)
    assert Dpp(0.0, first="argmax")(images, GRID, 37, generator=seeded(5)).equal(mask)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_visible_patches_are_more_diverse_than_random_ones(share: float) -> None:
    images = smooth()
    values = [logdet(images, mask(images, GRID, share, generator=seeded())) for mask in (Dpp(0.0), Dpp(0.7), Random())]
    assert (values[0] > values[2]).all()
    assert values[0].mean() > values[1].mean() > values[2].mean()


def test_real_images_too(real_data: Callable[[str], Path]) -> None:
    paths = sorted((real_data("in1k-mini") / "val").glob("*/*"))[:12]
    images = torch.stack(
        [
            torch.from_numpy(np.array(Image.open(path).convert("RGB").resize((56, 56)))).permute(2, 0, 1)
            for path in paths
        ]
    )
    images = images / 127.5 - 1
    found, drawn = (logdet(images, mask(images, GRID, 0.75, generator=seeded())) for mask in (Dpp(0.0), Random()))
    assert (found > drawn).all()


@pytest.mark.parametrize("kind", ["gaussian", "cosine"])
@pytest.mark.parametrize("randomness", ["stop", "mix"])
def test_tau_1_is_random_masking(kind: str, randomness: str) -> None:
    images = smooth(1, 24).expand(4000, -1, -1, -1)
    mask = Dpp(1.0, kind, randomness=randomness)(images, (3, 3), 6, generator=seeded())
    assert stats.chisquare((~mask).sum(0).numpy()).pvalue > 0.01
    pairs = (~mask).double().T @ (~mask).double() / len(mask)
    off = pairs[~torch.eye(9, dtype=torch.bool)]
    torch.testing.assert_close(off, torch.full_like(off, 3 * 2 / (9 * 8)), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["gaussian", "cosine"])
@pytest.mark.parametrize("color", [0.0, 1.7])
def test_images_of_one_color_fall_back_to_random(kind: str, color: float) -> None:
    images = torch.full((4000, 3, 6, 6), color)
    mask = Dpp(0.2, kind)(images, (3, 3), 6, generator=seeded())
    assert (mask.sum(1) == 6).all()
    assert stats.chisquare((~mask).sum(0).numpy()).pvalue > 0.01


def test_equal_patches_come_last() -> None:
    images = smooth(3)
    images[:, :, 8:, :] = images[:, :, -1:, -1:]  # one row of patches differs, the others are one color
    assert (~Dpp(0.0)(images, GRID, 41, generator=seeded()))[:, :7].all()


def test_each_image_takes_its_prefix() -> None:
    images = smooth(5)
    hidden = torch.tensor([48, 30, 0, 12, 44])
    mask = Dpp(0.5)(images, GRID, hidden, generator=seeded())
    order = Dpp(0.5).chosen(images, GRID, 37, seeded()).ids
    for row, number, ids in zip(mask, hidden.tolist(), order):
        shown = (~row).nonzero()[:, 0].tolist()
        assert shown == (sorted(ids[: 49 - number].tolist()) if number else list(range(49)))


def test_the_greedy_length_is_logged() -> None:
    images, mask = smooth(), Dpp(0.6)
    assert mask.logged() == {}
    mask(images, GRID, 25, generator=seeded())
    found = mask.chosen(images, GRID, 24, seeded())
    assert 1 < found.length.double().mean() < 24
    assert mask.logged()["greedy_length"].item() == pytest.approx(found.length.double().mean().item())
    hidden = torch.tensor([46, 25, 0, 0, 30, 48])
    mask(images, GRID, hidden, generator=seeded())
    expected = torch.minimum(found.length, 49 - hidden)[hidden > 0].double().mean()
    assert mask.logged()["greedy_length"].item() == pytest.approx(expected.item())
    mask(images, GRID, torch.zeros_like(hidden))
    assert mask.logged()["greedy_length"].item() == 0
    for tau, length in ((0.0, 24), (1.0, 1)):
        mix = Dpp(tau, randomness="mix")
        mix(images, GRID, 25)
        assert mix.logged()["greedy_length"].item() == length


def test_autocast_changes_nothing() -> None:
    images = smooth()
    plain = Dpp(0.3)(images, GRID, 0.6, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Dpp(0.3)(images, GRID, 0.6, generator=seeded()).equal(plain)


def test_patches_higher_than_wide_and_bandwidths() -> None:
    images = smooth(4)
    kernel = patch_kernel(images, (14, 8), bandwidth=20.0)
    expected = greedy_map(kernel, 10, 0.4, generator=seeded()).ids
    assert Dpp(0.4, bandwidth=20.0).chosen(images, (4, 7), 10, seeded()).ids.equal(expected)


def test_broken_images_are_named() -> None:
    images = smooth(4)
    images[2, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"images \[2\] of the batch hold NaN"):
        Dpp(0.5)(images, GRID, 0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tau": 1.5}, r"tau is 1\.5; it lies in \[0, 1\]"),
        ({"tau": 0.5, "kind": "laplace"}, r"not 'laplace'"),
        ({"tau": 0.5, "bandwidth": 0.0}, r"bandwidth is 0\.0"),
        ({"tau": 0.5, "bandwidth": "mean"}, r"bandwidth is 'mean'"),
        ({"tau": 0.5, "randomness": "swap"}, r"not 'swap'"),
        ({"tau": 0.5, "first": "last"}, r"not 'last'"),
    ],
)
def test_bad_settings(arguments: dict[str, float | str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Dpp(**arguments)
