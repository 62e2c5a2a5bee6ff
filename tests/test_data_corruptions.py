"""Corruptions by name: any image, the same every time, and worse with every severity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from photos import photo
from PIL import Image

from vitrail.data import ImageFolder
from vitrail.data.corruptions import CORRUPTIONS, EXTRA, GROUPS, SEVERITIES, check_names, corrupt, strengths
from vitrail.ops.corruptions import digital
from vitrail.ops.corruptions.blur import gaussian

PHOTOS = {side: [photo(side, side, seed) for seed in range(3)] for side in (64, 224)}


def test_fifteen_in_four_groups() -> None:
    assert len(CORRUPTIONS) == 15 == len(set(CORRUPTIONS))
    assert [len(names) for names in GROUPS.values()] == [3, 4, 4, 4]
    assert not set(CORRUPTIONS) & set(EXTRA)


# What the authors' two programs give a corruption at severities 1 to 5, written down a second time. Zoom: where a range
# from 1 ends, and its step. Elastic transform: pixels, of images of 224 and of 64. Frost: the third is the enlargement.
PUBLISHED: dict[int, dict[str, list[tuple[float, ...]]]] = {
    224: {
        "gaussian_noise": [(0.08,), (0.12,), (0.18,), (0.26,), (0.38,)],
        "shot_noise": [(60,), (25,), (12,), (5,), (3,)],
        "impulse_noise": [(0.03,), (0.06,), (0.09,), (0.17,), (0.27,)],
        "defocus_blur": [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
        "glass_blur": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
        "motion_blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
        "zoom_blur": [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
        "snow": [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
        "frost": [(1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)],
        "fog": [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
        "brightness": [(0.1,), (0.2,), (0.3,), (0.4,), (0.5,)],
        "contrast": [(0.4,), (0.3,), (0.2,), (0.1,), (0.05,)],
        "elastic_transform": [
            (488, 170.8, 24.4),
            (488, 19.52, 48.8),
            (12.2, 2.44, 4.88),
            (17.08, 2.44, 4.88),
            (29.28, 2.44, 4.88),
        ],
        "pixelate": [(0.6,), (0.5,), (0.4,), (0.3,), (0.25,)],
        "jpeg_compression": [(25,), (18,), (15,), (10,), (7,)],
    },
    64: {
        "gaussian_noise": [(0.04,), (0.08,), (0.12,), (0.15,), (0.18,)],
        "shot_noise": [(250,), (100,), (50,), (30,), (15,)],
        "impulse_noise": [(0.01,), (0.02,), (0.05,), (0.08,), (0.14,)],
        "defocus_blur": [(0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)],
        "glass_blur": [(0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)],
        "motion_blur": [(10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)],
        "zoom_blur": [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
        "snow": [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ],
        "frost": [(1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)],
        "fog": [(0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)],
        "brightness": [(0.1,), (0.2,), (0.3,), (0.4,), (0.5,)],
        "contrast": [(0.4,), (0.3,), (0.2,), (0.1,), (0.05,)],
        "elastic_transform": [
            (0, 0, 5.12),
            (3.2, 19.2, 3.84),
            (6.4, 5.12, 3.84),
            (6.4, 1.92, 1.92),
            (10.24, 1.92, 1.28),
        ],
        "pixelate": [(0.9,), (0.8,), (0.7,), (0.6,), (0.5,)],
        "jpeg_compression": [(65,), (58,), (50,), (40,), (25,)],
    },
}


@pytest.mark.parametrize("side", [64, 224])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_strengths_are_the_published_ones(name: str, side: int) -> None:
    wanted = PUBLISHED[side][name]
    if name == "zoom_blur":
        wanted = [(len(np.arange(1, end, step)), step) for end, step in wanted]
    found = strengths(name, side)
    if name == "elastic_transform":
        found = tuple(tuple(side * share for share in each) for each in found)
    assert len(found) == len(wanted) == len(SEVERITIES)
    for mine, published in zip(found, wanted, strict=True):
        assert mine == pytest.approx(published, rel=1e-9)


def test_corruptions_are_told_these_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pixels where the published programs have pixels."""
    told: list[tuple[float, ...]] = []

    def elastic(image: np.ndarray, *given: float) -> np.ndarray:
        told.append(given[:3])
        return image

    monkeypatch.setattr(digital, "elastic_transform", elastic)
    for side in (64, 224):
        for severity in SEVERITIES:
            corrupt(photo(side, side + 9), "elastic_transform", severity)
            assert told[-1] == pytest.approx(PUBLISHED[side]["elastic_transform"][severity - 1])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_image_becomes_one_of_its_shape(name: str) -> None:
    images = [photo(32, 32), photo(33, 47), photo(71, 130), np.full((32, 40, 3), 77, np.uint8)]
    images += [np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8), photo(40, 200)[:, ::2]]
    gray = np.repeat(photo(48, 48)[..., :1], 3, 2)
    for image in [*images, gray]:
        before = image.copy()
        for severity in (1, 5):
            found = corrupt(image, name, severity)
            assert found.dtype == np.uint8
            assert found.shape == image.shape
            assert np.array_equal(image, before)  # what was given stays
    if name not in ("gaussian_noise", "shot_noise", "impulse_noise", "frost"):  # these have colors of their own
        assert np.ptp(corrupt(gray, name, 3).astype(int), axis=2).max() <= 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_arguments_give_the_same_image(name: str) -> None:
    image = PHOTOS[64][0]
    first = corrupt(image, name, 3, seed=1, index=5)
    np.random.seed(3)  # noqa: NPY002  chance of others has no part in it
    assert np.array_equal(first, corrupt(image, name, 3, seed=1, index=5))
    if name in ("brightness", "contrast", "defocus_blur", "zoom_blur", "pixelate", "jpeg_compression"):
        return
    assert not np.array_equal(first, corrupt(image, name, 3, seed=2, index=5))
    assert not np.array_equal(first, corrupt(image, name, 3, seed=1, index=6))


def test_other_corruptions_and_severities_draw_other_chance() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    noises = [corrupt(image, "gaussian_noise", severity).astype(float) - 128 for severity in (1, 2)]
    assert abs(np.corrcoef(noises[0].ravel(), noises[1].ravel())[0, 1]) < 0.05


def changed(name: str, severity: int, images: Sequence[np.ndarray]) -> float:
    """The mean square difference from what images were.

    Of glass, seen from afar: it blurs more where it swaps more, which hides the swaps. Of frost, after the best
    brightness and contrast: it adds light and takes some of the image's, which may leave the mean as it was.
    """
    squares = []
    for index, image in enumerate(images):
        found, clean = (each.astype(np.float32) for each in (corrupt(image, name, severity, index=index), image))
        if name == "glass_blur":
            found, clean = gaussian(found, 2.0), gaussian(clean, 2.0)
        if name == "frost":
            found, clean = found.ravel() - found.mean(), clean.ravel() - clean.mean()
            found *= (found @ clean) / (found @ found)
        squares.append(((found - clean) ** 2).mean())
    return float(np.mean(squares))


ORDERED = [name for name in CORRUPTIONS if name != "elastic_transform"]


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("name", ORDERED)
def test_every_severity_is_worse_than_the_one_before(name: str, side: int) -> None:
    many = 30 if name in ("frost", "fog") else 6  # some cuts and clouds are brighter than others
    images = [photo(side, side, seed) for seed in range(6)] * (many // 6 + 1)
    found = [changed(name, severity, images[:many]) for severity in SEVERITIES]
    assert all(one < other for one, other in pairwise(found)), found


@pytest.mark.parametrize("name", ORDERED)
def test_every_severity_is_worse_on_real_photos(name: str, real_data: Callable[[str], Path]) -> None:
    data = ImageFolder(real_data("cls-mini"), "val")
    images = [np.asarray(data[index].image) for index in range(0, len(data), 100)]
    found = [changed(name, severity, images) for severity in SEVERITIES]
    assert all(one < other for one, other in pairwise(found)), found


@pytest.mark.parametrize("side", [64, 224])
def test_elastic_severities_bend_more(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As published, the first severities move more and bend less than the last ones: the strain grows, not the way."""
    strains = []

    def watched(height: int, width: int, *how: float) -> tuple[np.ndarray, np.ndarray]:
        field = real(height, width, *how)  # type: ignore[arg-type]
        strains[-1].append(np.hypot(*(np.diff(part, axis=0)[:, 1:] for part in field)).mean())
        return field

    real = digital.elastic_field
    monkeypatch.setattr(digital, "elastic_field", watched)
    for severity in SEVERITIES:
        strains.append([])
        for index, image in enumerate(PHOTOS[side]):
            corrupt(image, "elastic_transform", severity, index=index)
    means = [float(np.mean(each)) for each in strains]
    assert all(one < other for one, other in pairwise(means)), means


def test_small_images_take_the_small_strengths() -> None:
    """Brightness and contrast are alike in both sets; JPEG at severity 1 has quality 65 below 120 pixels, then 25."""
    for side, quality in ((119, 65), (120, 25)):
        image = photo(side, 160)
        assert np.array_equal(corrupt(image, "jpeg_compression", 1), digital.jpeg(image, quality))


def test_arrays_that_are_views_are_taken() -> None:
    image = photo(64, 64)
    for name in CORRUPTIONS:
        turned = corrupt(np.ascontiguousarray(image[:, ::-1]), name, 2)
        assert np.array_equal(turned, corrupt(image[:, ::-1], name, 2))
        read_only = np.asarray(Image.fromarray(image))
        assert np.array_equal(corrupt(image, name, 2), corrupt(read_only, name, 2))


def test_errors() -> None:
    image = photo(64, 64)
    with pytest.raises(ValueError, match=r"float64; corruptions take uint8"):
        corrupt(image / 255, "fog", 1)
    with pytest.raises(ValueError, match=r"\[64, 64\] of uint8"):
        corrupt(image[..., 0], "fog", 1)
    with pytest.raises(ValueError, match=r"20 x 64 pixels; .* 32"):
        corrupt(image[:20], "fog", 1)
    with pytest.raises(ValueError, match=r"known: gaussian_noise"):
        corrupt(image, "fogg", 1)
    with pytest.raises(ValueError, match=r"known: 1, 2, 3, 4, 5"):
        corrupt(image, "fog", 6)
    with pytest.raises(ValueError, match="once"):
        check_names(("fog", "fog"), (1,))
    with pytest.raises(ValueError, match="no list"):
        check_names((), (1,))
