"""Uniform scores: fixed by the pixels, or drawn."""

from __future__ import annotations

import torch

from vitrail.ops.selection import mask_of, select
from vitrail.rankers.random import Random, seeded_by

GOLDEN_SEED = 41135561710000407  # of BLAKE2b

OPENINGS = {"random": lambda folder: {"image_size": 64, "patch_size": 16}}


def images(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_every_image_has_scores_of_its_own() -> None:
    x, ranker = images(3), Random(patch_size=(8, 8))
    scores = ranker(x)
    assert not torch.equal(scores[0], scores[1])
    assert torch.equal(ranker(x.flip(0)), scores.flip(0))
    assert torch.equal(ranker(x.double()), scores)
    one = x.clone()
    one[0, 2, 31, 31] += 1e-3
    changed = ranker(one)
    assert not torch.equal(changed[0], scores[0])
    assert torch.equal(changed[1:], scores[1:])
    assert ranker(x[:0]).shape == (0, 4, 4)


def test_golden_scores() -> None:
    """The same on every machine and version: a digest seeds torch's CPU generator, whose stream is fixed."""
    image = torch.arange(3 * 4 * 4).view(3, 4, 4) / 48
    expected = torch.rand(2, 2, generator=torch.Generator().manual_seed(seeded_by(image).initial_seed()))
    assert torch.equal(Random(patch_size=(2, 2))(image[None])[0], expected)
    assert seeded_by(image).initial_seed() == GOLDEN_SEED


def test_kept_patches_are_uniform() -> None:
    kept = torch.zeros(4, 4)
    ranker = Random(patch_size=(8, 8))
    for seed in range(40):
        kept += mask_of(select(ranker(images(16, seed)), 4), (4, 4)).sum(0)
    assert kept.sum() == 640 * 4
    assert ((kept - 160).abs() < 55).all()  # five standard deviations of 11


def test_a_generator_draws_anew() -> None:
    x, ranker = images(2), Random(patch_size=(8, 8))
    generator = torch.Generator().manual_seed(0)
    one, other = ranker(x, generator=generator), ranker(x, generator=generator)
    assert not torch.equal(one, other)
    assert torch.equal(one, torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(ranker(x[[0, 0]], generator=generator)[0], ranker(x[[0, 0]], generator=generator)[1])
