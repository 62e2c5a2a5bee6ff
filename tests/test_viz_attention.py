from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.attention import attention_heads, attention_maps, overlay, peak

IMAGE = Image.effect_noise((90, 60), 60).convert("RGB")


def test_maps_are_softmax_over_patches():
    scores = torch.randn(3, 4, 6, dtype=torch.float64)
    maps = attention_maps(scores)
    assert maps.dtype == np.float64
    assert np.allclose(maps, scores.flatten(1).softmax(1).reshape(3, 4, 6).numpy(), atol=1e-15)
    assert np.allclose(attention_maps(scores + 1e5), maps)
    assert np.isfinite(attention_maps(torch.tensor([[[1e300, -1e300]]], dtype=torch.float64))).all()


def test_the_highest_weight_is_the_brightest_patch():
    values = np.zeros((2, 3))
    values[1, 2] = 1
    light = np.asarray(overlay(IMAGE, values).convert("L"), dtype=float)
    assert light.shape == (60, 90)
    assert light[30:, 60:].mean() > light[:30].mean() + 50


def test_fixed_ends_make_pictures_comparable():
    values = np.array([[0.0, 0.5]])
    half = np.asarray(overlay(IMAGE, values, low=0, high=1, opacity=1))
    full = np.asarray(overlay(IMAGE, values, opacity=1))
    assert np.array_equal(half[:, :45], full[:, :45])
    assert not np.array_equal(half[:, 45:], full[:, 45:])


@pytest.mark.parametrize("heads", [1, 3, 16])
@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (14, 14)])
@pytest.mark.parametrize("smooth", [False, True])
def test_any_grid_and_many_heads(heads, grid, smooth):
    figure = attention_heads(IMAGE, torch.randn(heads, *grid), smooth=smooth, columns=5, cell=100)
    assert figure.mode == "RGB"
    pictures = heads + 1 + (heads > 1)
    assert figure.width == 10 + 110 * min(5, pictures)
    assert figure.height > 50 * -(-pictures // 5)


def test_constant_maps_are_called_uniform():
    assert peak(attention_maps(torch.ones(1, 4, 4))[0]).replace("\u00a0", " ") == "uniform, 6.2 %"
    assert peak(np.array([[0.25, 0.75]])).replace("\u00a0", " ") == "max 75 %, uniform 50 %"
    assert peak(np.array([[0.003, 0.997]])).replace("\u00a0", " ") == "max 99.7 %, uniform 50 %"
    assert peak(np.array([[0.0, 1.0]])).replace("\u00a0", " ") == "max 100 %, uniform 50 %"
    attention_heads(IMAGE, torch.ones(2, 4, 4))


def test_the_same_picture_every_time_and_inputs_untouched():
    scores = torch.randn(2, 4, 4)
    before, pixels = scores.clone(), IMAGE.tobytes()
    assert attention_heads(IMAGE, scores).tobytes() == attention_heads(IMAGE, scores.numpy()).tobytes()
    assert torch.equal(scores, before)
    assert pixels == IMAGE.tobytes()


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (torch.zeros(1, 2, 4, 4), "take one image of a batch"),
        (torch.zeros(4, 4), "take one image of a batch"),
        (torch.zeros(0, 4, 4), "shape"),
        (torch.full((2, 3, 3), torch.nan), "18 NaN or infinite values of 18"),
        (torch.full((2, 3, 3), torch.inf), "NaN or infinite"),
    ],
)
def test_scores_that_cannot_be_drawn(scores, words):
    with pytest.raises(ValueError, match=words):
        attention_heads(IMAGE, scores)


def test_half_precision_and_gradients_are_fine():
    scores = torch.randn(2, 3, 3)
    half = attention_heads(IMAGE, scores.bfloat16().requires_grad_())
    assert half.size == attention_heads(IMAGE, scores).size
