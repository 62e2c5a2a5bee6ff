from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.canvas import LEAD
from vitrail.viz.show import attention_figure, compare_attention, tokens_figure

IMAGE = Image.effect_noise((48, 32), 60).convert("RGB")


def test_attention_figure():
    scores = torch.randn(12, 4, 6)
    figure = attention_figure(IMAGE, scores, title="photo.jpg", cell=60)
    assert figure.mode == "RGB"
    assert figure.width == 10 + 5 * 70
    assert figure.tobytes() == attention_figure(IMAGE, scores, title="photo.jpg", cell=60).tobytes()
    dark = attention_figure(IMAGE, scores, theme=LEAD, cell=60)
    assert np.asarray(dark)[0, 0].tolist() == list(LEAD.background)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (14, 14)])
@pytest.mark.parametrize("full", [False, True])
def test_tokens_figure(grid, full):
    count = grid[0] * grid[1]
    more = {"scores": torch.randn(3, *grid), "cls": torch.randn(8), "gate": True} if full else {}
    figure = tokens_figure(IMAGE, torch.randn(count, 8), grid, cell=60, **more)
    assert figure.mode == "RGB"
    assert figure.width >= 140


def test_compare_attention():
    images = [IMAGE, IMAGE.rotate(90, expand=True)]
    scores = {"without SAR": torch.randn(2, 3, 4, 4), "with SAR": [torch.randn(3, 4, 4), torch.ones(3, 4, 4)]}
    figure = compare_attention(images, scores, captions=["one", "two"], cell=60)
    assert figure.mode == "RGB"
    assert figure.width > 5 * 60
    with pytest.raises(ValueError, match="with SAR: scores of 2 images for 1 images"):
        compare_attention(images[:1], {"with SAR": scores["with SAR"]})


def test_batches_are_told_apart():
    with pytest.raises(ValueError, match="take one image of a batch"):
        attention_figure(IMAGE, torch.zeros(1, 3, 4, 4))
