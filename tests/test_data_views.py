"""Multi-crop: shapes, boxes, chances, geometry, and what a configuration refuses."""

from __future__ import annotations

import pickle
import random
import time
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from vitrail.config import ConfigError
from vitrail.data import MultiCrop, MultiCropConfig
from vitrail.data import views as views_module
from vitrail.data.transforms import IMAGENET_MEAN, IMAGENET_STD, jitter_colors
from vitrail.data.views import jitter_levels

PLAIN: dict[str, Any] = {
    "jitter": 0.0,
    "grayscale": 0.0,
    "blur": (0.0, 0.0, 0.0),
    "solarize": (0.0, 0.0, 0.0),
    "flip": 0.0,
}


def picture(height: int = 75, width: int = 100, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def small(**changes: Any) -> MultiCrop:
    return MultiCrop(MultiCropConfig(**{"global_size": 32, "local_size": 16, "locals": 3, **changes}))


def levels_of(pixels: torch.Tensor) -> np.ndarray:
    """Back from a normalized tensor to `[H, W, 3]` in [0, 255]."""
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    return (255 * (pixels * std + mean)).permute(1, 2, 0).numpy()


def seeded(transform: MultiCrop, image: Any, seed: int = 0) -> tuple[torch.Tensor, ...]:
    random.seed(seed)
    return transform(image)


def test_shapes_order_and_ranges() -> None:
    views = seeded(small(), picture())
    assert [tuple(view.shape) for view in views] == [(3, 32, 32)] * 2 + [(3, 16, 16)] * 3
    for view in views:
        assert view.dtype == torch.float32
        assert view.is_contiguous()
        assert levels_of(view).min() >= -1e-2
        assert levels_of(view).max() <= 255.01


def test_the_defaults_are_dinos() -> None:
    views = seeded(MultiCrop(MultiCropConfig()), picture(375, 500))
    assert [view.shape[-1] for view in views] == [224] * 2 + [96] * 8
    assert len(seeded(small(locals=0), picture())) == 2


def test_the_state_of_random_decides_all() -> None:
    transform, image = small(), picture()
    first, again, other = seeded(transform, image), seeded(transform, image), seeded(transform, image, 1)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    random.seed(0)
    assert all(torch.equal(view.pixels, one) for view, one in zip(transform.views(image), first, strict=True))


def test_arrays_and_pickled_transforms_give_the_same() -> None:
    transform, image = small(), picture()
    expected = seeded(transform, image)
    for other, given in [(transform, np.asarray(image)), (pickle.loads(pickle.dumps(transform)), image)]:
        assert all(torch.equal(one, two) for one, two in zip(seeded(other, given), expected, strict=True))


def test_the_image_stays_as_it_is() -> None:
    pixels = np.asarray(picture()).copy()
    before = pixels.copy()
    seeded(small(global_scale=(1.0, 1.0)), pixels)
    assert np.array_equal(pixels, before)


def test_crops_lie_inside_and_cover_the_share_that_is_asked_for() -> None:
    transform = small(locals=6, global_scale=(0.4, 0.6), local_scale=(0.05, 0.2))
    random.seed(0)
    for _ in range(30):
        for number, view in enumerate(transform.views(picture())):
            left, top, right, bottom = view.box
            assert 0 <= left < right <= 100
            assert 0 <= top < bottom <= 75
            share = (right - left) * (bottom - top) / 7500
            least, most = (0.4, 0.6) if number < 2 else (0.05, 0.2)
            assert least - 0.02 < share < most + 0.02
            assert 0.7 < (right - left) / (bottom - top) < 1.43


def test_the_box_says_where_the_pixels_come_from() -> None:
    # Red grows with x and green with y, so the colors of a view name the place in the image.
    y, x = np.mgrid[:200, :250]
    image = Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8))
    transform = small(**{**PLAIN, "flip": 0.5})
    random.seed(0)
    flips = set()
    for view in [view for _ in range(6) for view in transform.views(image)]:
        left, top, right, bottom = view.box
        size = view.pixels.shape[-1]
        found = levels_of(view.pixels)
        centers = (np.arange(size) + 0.5) / size
        across = left + centers * (right - left) - 0.5
        down = top + centers * (bottom - top) - 0.5
        inner = slice(2, -2)
        assert np.abs(found[:, :, 0] - (across[::-1] if view.flipped else across))[:, inner].max() < 1.5
        assert np.abs(found[:, :, 1] - down[:, None])[inner].max() < 1.5
        flips.add(view.flipped)
    assert flips == {True, False}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [20, 75, 600])
@pytest.mark.parametrize("by_torch", [True, False])
def test_without_changes_a_view_is_the_resized_crop(
    monkeypatch: pytest.MonkeyPatch, by_torch: bool, interpolation: str, side: int
) -> None:
    monkeypatch.setattr(views_module, "TORCH_RESIZES", by_torch)
    transform, image = small(**PLAIN, interpolation=interpolation), picture(side, side)
    resample = Image.Resampling[interpolation.upper()]
    random.seed(0)
    for view in transform.views(image):
        size = view.pixels.shape[-1]
        expected = np.asarray(image.crop(view.box).resize((size, size), resample)).astype(float)
        assert np.abs(levels_of(view.pixels) - expected).max() < (1.01 if by_torch else 0.01)


def test_threads_change_nothing() -> None:
    transform, image, threads = MultiCrop(MultiCropConfig()), picture(375, 500), torch.get_num_threads()
    found = []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            found.append(seeded(transform, image))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_arrays_that_are_turned_or_read_only() -> None:
    transform, pixels = small(), np.asarray(picture())
    expected = seeded(transform, np.ascontiguousarray(pixels[::-1, ::-1]))
    assert all(torch.equal(*pair) for pair in zip(seeded(transform, pixels[::-1, ::-1]), expected, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (9, 7), (400, 3)])
def test_images_smaller_than_a_view_are_enlarged(size: tuple[int, int]) -> None:
    views = seeded(small(), picture(*size))
    assert [view.shape[-1] for view in views] == [32, 32, 16, 16, 16]
    assert all(view.isfinite().all() for view in views)


def test_each_kind_of_view_has_its_own_chances() -> None:
    image = Image.new("RGB", (60, 60), (200, 200, 200))
    inverted = small(**{**PLAIN, "solarize": (0.0, 1.0, 0.0)})
    assert [round(float(levels_of(view).mean())) for view in seeded(inverted, image)] == [200, 55, 200, 200, 200]

    noise = picture()
    sharp = seeded(small(**PLAIN), noise)
    for kind, places in enumerate([(0,), (1,), (2, 3, 4)]):
        chances = [0.0, 0.0, 0.0]
        chances[kind] = 1.0
        soft = seeded(small(**{**PLAIN, "blur": tuple(chances), "sigma": (2.0, 2.0)}, locals=3), noise)
        softer = {place for place in range(5) if soft[place].std() < 0.7 * sharp[place].std()}
        assert softer >= set(places)
        assert kind == 2 or not softer & {0, 1} - set(places)


def test_grayscale_and_jitter_happen_as_often_as_asked() -> None:
    image = picture()
    gray = [levels_of(view) for view in seeded(small(**{**PLAIN, "grayscale": 1.0}), image)]
    assert all(np.ptp(view, axis=-1).max() < 0.01 for view in gray)
    transform = small(**{**PLAIN, "grayscale": 0.2}, locals=10)
    random.seed(0)
    views = [levels_of(view) for _ in range(30) for view in transform(image)]
    share = np.mean([np.ptp(view, axis=-1).max() < 0.01 for view in views])
    assert 0.13 < share < 0.27  # 360 draws at 0.2: a standard deviation of 0.021


def test_jitter_of_levels_is_jitter_of_colors_without_rounding() -> None:
    image = picture(20, 20)
    for seed in range(5):
        random.seed(seed)
        expected = np.asarray(jitter_colors(image, (0.4, 0.4, 0.2, 0.0))).astype(float)
        pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32)
        random.seed(seed)
        jitter_levels(pixels, (0.4, 0.4, 0.2, 0.0))
        # Pillow drops the fractions after each of the three steps, and the next may enlarge the difference by 1.4.
        assert np.abs(pixels.transpose(1, 2, 0) - expected).max() < 1 + 1.4 + 1.4**2 + 0.5


def test_one_number_sets_three_strengths() -> None:
    assert MultiCropConfig(color_jitter=0.3).color_jitter == (0.3, 0.3, 0.3, 0.0)  # type: ignore[arg-type]
    random.seed(0)
    pixels = np.full((3, 4, 4), 100, np.float32)
    jitter_levels(pixels, (0.5, 0.0, 0.0, 0.0))
    random.seed(0)
    random.sample(range(4), 4)
    factor = random.uniform(0.5, 1.5)
    expected = ImageEnhance.Brightness(Image.new("RGB", (1, 1), (100,) * 3)).enhance(factor).getpixel((0, 0))
    assert abs(pixels[0, 0, 0] - expected[0]) <= 1


def test_tiny_images() -> None:
    views = seeded(MultiCrop(MultiCropConfig.tiny()), picture(48, 48))
    assert [view.shape[-1] for view in views] == [48, 48, 24, 24, 24, 24]
    assert MultiCropConfig.tiny(1).local_size == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"global_size": 0}, "global_size"),
        ({"local_size": 0}, "local_size"),
        ({"locals": -1}, "locals"),
        ({"local_size": 300}, "local_size 300 is larger than global_size 224; swap them, or set locals=0"),
        ({"global_scale": (0.9, 0.4)}, r"global_scale is \(least, most\) share .* not \(0.9, 0.4\)"),
        ({"local_scale": (0.0, 0.4)}, "local_scale is"),
        ({"global_scale": (0.4, 1.5)}, "global_scale is"),
        ({"ratio": (2.0, 1.0)}, "ratio is"),
        ({"sigma": (0.0, 2.0)}, "sigma is"),
        ({"sigma": (3.0, 2.0)}, r"sigma is \(least, most\) pixels and positive, not \(3.0, 2.0\)"),
        ({"color_jitter": (0.4, 0.4, 0.2, 0.6)}, "hue at most 0.5"),
        ({"blur": (1.0, 1.1, 0.0)}, r"blur holds probabilities in \[0, 1\]"),
        ({"solarize": (-0.1, 0.0, 0.0)}, "solarize holds probabilities"),
        ({"flip": 2.0}, "flip"),
        ({"std": (1.0, 0.0, 1.0)}, "std is positive"),
        ({"local": 3}, "did you mean 'locals'"),
    ],
)
def test_what_a_configuration_refuses(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MultiCropConfig.parse(values)


def test_local_size_does_not_matter_without_local_views() -> None:
    assert MultiCropConfig(global_size=48, locals=0).local_size == 96


def test_a_configuration_survives_yaml() -> None:
    config = MultiCropConfig.tiny().override(["locals=10", "global_scale=[0.25, 1]"])
    assert MultiCropConfig.parse(config.plain()) == config
    assert config.global_scale == (0.25, 1.0)


def test_pictures_that_are_not_rgb() -> None:
    with pytest.raises(ValueError, match="expected an RGB image, got mode L"):
        small()(Image.new("L", (20, 20)))
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\], got float64 \(20, 20, 3\)"):
        small()(np.zeros((20, 20, 3)))


def test_tiny_images_are_fast() -> None:
    transform, image = MultiCrop(MultiCropConfig.tiny()), picture(48, 48)
    transform(image)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(5):
            transform(image)
        best = min(best, (time.perf_counter() - started) / 5)
    assert best < 0.02  # 2 ms on a slow core that does nothing else
