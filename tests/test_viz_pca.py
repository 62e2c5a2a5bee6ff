from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.pca import foreground_gates, pca_colors, pca_pictures, principal_components

IMAGES = [Image.new("RGB", (60, 40), "gray"), Image.new("RGB", (40, 60), "gray")]


def _features(count, width, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, width)) * np.geomspace(5, 0.1, width) + 3


@pytest.mark.parametrize(("count", "width"), [(50, 8), (8, 50), (20, 20)])
def test_components_against_the_covariance(count, width):
    features = _features(count, width)
    mean, directions, shares = principal_components(features)
    values, vectors = np.linalg.eigh(np.cov(features.T, bias=True))
    assert np.allclose(mean, features.mean(0))
    assert np.allclose(shares, values[::-1][:3] / values.sum())
    assert np.allclose(np.abs(directions @ vectors[:, ::-1][:, :3]), np.eye(3), atol=1e-6)


def test_the_sign_is_fixed():
    features = _features(40, 12)
    directions = principal_components(features)[1]
    assert all(direction[np.abs(direction).argmax()] > 0 for direction in directions)
    # Mirrored data have the same axes, so the rule gives the same directions.
    assert np.allclose(principal_components(-features)[1], directions)
    shuffled = np.random.default_rng(1).permutation(features)
    assert np.allclose(principal_components(shuffled)[1], directions)
    # Both ways to compute them agree: by the covariance (N >= D) and by the features (N < D).
    wide = np.concatenate([features, np.zeros((40, 60))], 1)
    assert np.allclose(principal_components(wide)[1][:, :12], directions, atol=1e-8)


def test_ties_for_the_largest_entry_go_to_the_first():
    features = np.outer(np.linspace(-1, 1, 9), [-1.0, 1.0])
    direction = principal_components(features)[1][0]
    assert np.allclose(direction, [0.5**0.5, -(0.5**0.5)])


def test_colors_are_joint_over_images():
    features = _features(24, 10)
    apart, _ = pca_colors([features[:12], features[12:]], [(3, 4), (4, 3)])
    joint, _ = pca_colors([features], [(4, 6)])
    assert apart[0].shape == (3, 4, 3)
    assert np.allclose(np.concatenate([one.reshape(-1, 3) for one in apart]), joint[0].reshape(-1, 3))
    assert joint[0].min() == 0
    assert joint[0].max() == 1


def test_an_outlier_does_not_flatten_the_rest():
    features = _features(400, 6)
    features[0] *= 50
    colors, _ = pca_colors([features], [(20, 20)])
    assert colors[0].reshape(-1, 3)[1:, 1].std() > 0.1


@pytest.mark.parametrize("features", [np.zeros((6, 4)), np.full((6, 4), 1e8), np.ones((6, 1))])
def test_features_that_do_not_vary_are_gray(features):
    colors, shares = pca_colors([features], [(2, 3)])
    assert np.array_equal(colors[0], np.full((2, 3, 3), 0.5))
    assert shares.tolist() == [0, 0, 0]


def test_components_that_are_not_there_are_gray():
    colors, shares = pca_colors([np.outer(np.arange(6.0), np.ones(5))], [(2, 3)])
    assert shares[0] == pytest.approx(1)
    assert shares[1:].tolist() == [0, 0]
    assert np.allclose(colors[0][..., 1:], 0.5)
    assert np.ptp(colors[0][..., 0]) == 1


def test_gates_leave_the_rest_out():
    features = _features(24, 6)
    gate = np.zeros((4, 6), dtype=bool)
    gate[1:3, 1:5] = True
    colors, _ = pca_colors([features], [(4, 6)], [torch.from_numpy(gate)])
    inside, _ = pca_colors([features[gate.ravel()]], [(2, 4)])
    assert np.allclose(colors[0][gate], inside[0].reshape(-1, 3))
    assert np.isnan(colors[0][~gate]).all()


def test_foreground_is_the_side_that_leaves_the_border():
    truth = np.zeros((6, 8), dtype=bool)
    truth[2:4, 3:6] = True
    features = _features(48, 5) * 0.01
    features[truth.ravel()] += 4
    for given in (features, -features):
        assert np.array_equal(foreground_gates([given], [(6, 8)])[0], truth)
    assert foreground_gates([np.ones((4, 3))], [(2, 2)])[0].all()


def test_pictures():
    grids = [(4, 6), (6, 4)]
    features = [torch.randn(24, 16, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    figure = pca_pictures(IMAGES, features, grids, cell=60)
    assert figure.mode == "RGB"
    assert figure.width == 10 + 70 + 50
    assert figure.tobytes() == pca_pictures(IMAGES, features, grids, cell=60).tobytes()
    pca_pictures(IMAGES[:1], features[:1], grids[:1], smooth=True, gates=[torch.rand(4, 6) > 0.5])


@pytest.mark.parametrize(
    ("features", "grids", "gates", "words"),
    [
        ([], [], None, "one of each per image"),
        ([np.zeros((6, 2))], [(2, 2)], None, "6 patches do not fill a grid of 2 x 2"),
        ([np.zeros((4, 2)), np.zeros((4, 3))], [(2, 2)] * 2, None, r"\[2, 3\] numbers"),
        ([np.full((4, 2), np.nan)], [(2, 2)], None, "image 0 hold 8 NaN"),
        ([np.zeros((4, 2))], [(2, 2)], [np.zeros((2, 2), dtype=bool)], "leaves no patch"),
        ([np.zeros((4, 2))], [(2, 2)], [np.zeros((2, 3), dtype=bool)], "one gate"),
    ],
)
def test_what_cannot_be_analyzed(features, grids, gates, words):
    with pytest.raises(ValueError, match=words):
        pca_colors(features, grids, gates)


def test_as_many_images_as_features():
    with pytest.raises(ValueError, match="1 images but features of 2"):
        pca_pictures(IMAGES[:1], [np.zeros((4, 2))] * 2, [(2, 2)] * 2)
