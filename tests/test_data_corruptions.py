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
from vitrail.data.corruptions import CORRUPTIONS, EXTRA, GROUPS, SEVERITIES, check_names, corrupt
from vitrail.ops.corruptions import digital
from vitrail.ops.corruptions.blur import gaussian

PHOTOS = {side: [photo(side, side, seed) for seed in range(3)] for side in (64, 224)}


def test_fifteen_in_four_groups() -> None:
    assert len(CORRUPTIONS) == 15 == len(set(CORRUPTIONS))
    assert [len(names) for names in GROUPS.values()] == [3, 4, 4, 4]
    assert not set(CORRUPTIONS) & set(EXTRA)


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
