"""Two views: what each switch does, and that nothing else happens."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vitrail.config import ConfigError
from vitrail.data import TwoViews, TwoViewsConfig, colors
from vitrail.data.transforms import random_crop
from vitrail.data.views import jitter_levels, resized

OFF = {"flip": 0, "jitter": 0, "grayscale": 0, "blur": 0}
PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def picture(width: int = 40, height: int = 30, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def make(seed: int = 0, **changes: object) -> tuple[Tensor, Tensor]:
    random.seed(seed)
    one, two = TwoViews(TwoViewsConfig(**{"size": 16, **PLAIN, **OFF, **changes}))(picture())  # type: ignore[arg-type]
    return one, two


def level(view: Tensor) -> np.ndarray:
    return (255 * view).numpy()


def test_no_crop_is_the_whole_image() -> None:
    one, two = make(crop="none")
    assert torch.equal(one, two)
    assert one.shape == (3, 16, 16)
    np.testing.assert_allclose(level(one), resized(picture(), (0, 0, 40, 30), 16, "bilinear"), atol=1e-3)


def test_independent_and_shared_crops() -> None:
    random.seed(3)
    boxes = [random_crop((40, 30), (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(2)]
    assert boxes[0] != boxes[1]
    independent, shared = make(3, crop="independent"), make(3, crop="shared")
    for view, box in zip((*independent, *shared), (*boxes, boxes[0], boxes[0])):
        np.testing.assert_allclose(level(view), resized(picture(), box, 16, "bilinear"), atol=1e-3)


def test_flips_are_drawn_for_each_view_also_of_a_shared_crop() -> None:
    plain, _ = make(crop="none")
    seen = set()
    for seed in range(30):
        one, two = make(seed, crop="none", flip=0.5)
        for view in (one, two):
            assert torch.equal(view, plain) or torch.equal(view, plain.flip(2))
        seen.add((torch.equal(one, plain), torch.equal(two, plain)))
    assert len(seen) == 4


def test_gray_and_blur_and_colors_are_those_of_the_views() -> None:
    plain = level(make(crop="none")[0])
    gray = level(make(crop="none", grayscale=1)[0])
    np.testing.assert_allclose(gray, np.broadcast_to(colors.gray(plain), gray.shape), atol=1e-3)
    blurred = plain.copy()
    colors.blur(blurred, 1.0)
    np.testing.assert_allclose(level(make(crop="none", blur=1)[1]), blurred, atol=1e-3)
    jittered = plain.copy()
    random.seed(5)
    random.random()
    jitter_levels(jittered, (0.4, 0.4, 0.4, 0.1))
    np.testing.assert_allclose(level(make(5, crop="none", jitter=1)[0]), jittered, atol=1e-3)


@pytest.mark.parametrize(("switch", "share"), [("grayscale", 0.3), ("blur", 0.7), ("jitter", 0.5)])
def test_probabilities(switch: str, share: float) -> None:
    plain, _ = make(crop="none")
    random.seed(0)
    transform = TwoViews(TwoViewsConfig(**{"size": 16, "crop": "none", **PLAIN, **OFF, switch: share}))  # type: ignore[arg-type]
    changed = [not torch.equal(view, plain) for _ in range(200) for view in transform(picture())]
    assert np.mean(changed) == pytest.approx(share, abs=0.08)  # 3.5 standard errors


def test_pixels_are_normalized() -> None:
    plain, _ = make(crop="none")
    one, _ = make(crop="none", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    wanted = (plain - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.6, 0.7])[:, None, None]
    torch.testing.assert_close(one, wanted, atol=1e-6, rtol=0)


def test_the_same_chance_gives_the_same_views_also_when_pickled() -> None:
    transform = TwoViews(TwoViewsConfig())
    random.seed(1)
    first = transform(Image.fromarray(picture()))
    random.seed(1)
    second = pickle.loads(pickle.dumps(transform))(picture())
    assert all(torch.equal(one, two) for one, two in zip(first, second))
    assert not torch.equal(*first)


def test_whether_views_can_differ() -> None:
    assert TwoViewsConfig(**OFF).differ()
    assert not TwoViewsConfig(crop="shared", **OFF).differ()
    assert TwoViewsConfig(crop="none", **OFF | {"flip": 0.5}).differ()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("scale=[0.5, 2]", "scale is"),
        ("ratio=[2, 1]", "ratio is"),
        ("sigma=[0, 1]", "sigma is"),
        ("color_jitter=[0.1, 0.1, 0.1, 0.6]", "hue at most 0.5"),
        ("std=[0, 1, 1]", "std"),
        ("blur=1.5", "less than or equal to 1"),
        ("crop=random", "independent"),
    ],
)
def test_values_out_of_range_are_refused(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TwoViewsConfig().override([setting])


def test_a_gray_image_is_refused() -> None:
    with pytest.raises(ValueError, match="RGB"):
        TwoViews(TwoViewsConfig())(Image.new("L", (8, 8)))
