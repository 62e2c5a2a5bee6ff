"""Each corruption against its definition: closed forms, SciPy, loops over pixels."""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
import pytest
from photos import photo
from PIL import Image
from scipy import ndimage, stats

from vitrail.ops.corruptions import blur, digital, noise, weather
from vitrail.ops.corruptions.cpu import swap_near
from vitrail.ops.corruptions.frost import frost_texture


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


def flat(level: int, side: int = 96) -> np.ndarray:
    return np.full((side, side, 3), level, np.uint8)


def test_gaussian_noise_has_its_deviation_and_no_color() -> None:
    found = noise.gaussian_noise(flat(128, 128), 0.08, rng()).astype(float) - 128
    assert found.std() == pytest.approx(255 * 0.08, rel=0.02)
    assert abs(found.mean()) < 0.3
    between = np.corrcoef(found[..., 0].ravel(), found[..., 1].ravel())[0, 1]
    assert abs(between) < 0.02


@pytest.mark.parametrize("photons", [3, 12, 60, 250])
@pytest.mark.parametrize("level", [0, 1, 100, 255])
def test_shot_noise_is_poisson(photons: int, level: int) -> None:
    found = noise.shot_noise(flat(level, 160), photons, rng(level)).ravel()
    law = stats.poisson(level / 255 * photons)
    counts = np.arange(int(photons + 12 * math.sqrt(photons) + 20))
    levels = np.rint(np.minimum(counts / photons, 1) * 255)
    wanted = np.bincount(levels.astype(int), law.pmf(counts), 256) * len(found)
    seen = np.bincount(found, minlength=256)
    assert seen[wanted < 1e-6].sum() == 0
    often = wanted >= 5
    # Pearson's statistic has as many degrees of freedom as there are levels; five deviations are allowed.
    distance = ((seen[often] - wanted[often]) ** 2 / wanted[often]).sum()
    assert distance < often.sum() + 5 * math.sqrt(2 * often.sum())


def test_shot_noise_has_mean_and_variance_of_its_light() -> None:
    found = noise.shot_noise(flat(51, 200), 60, rng()).astype(float) / 255  # 0.2 of 60 photons: 12
    assert found.mean() == pytest.approx(12 / 60, rel=0.01)
    assert found.var() == pytest.approx(12 / 60**2, rel=0.03)


def test_impulse_noise_sets_its_share() -> None:
    image = flat(100, 200)
    found = noise.impulse_noise(image, 0.1, rng())
    assert (found == 0).mean() == pytest.approx(0.05, abs=0.003)
    assert (found == 255).mean() == pytest.approx(0.05, abs=0.003)
    assert set(np.unique(found)) == {0, 100, 255}
    assert image.min() == 100  # what was given stays


@pytest.mark.parametrize(("radius", "softness"), [(0.5, 0.6), (1.5, 0.1), (3, 0.1), (8, 0.5), (10, 0.5)])
def test_the_kernel_of_defocus_is_a_disk(radius: float, softness: float) -> None:
    kernel = blur.disk_kernel(radius, softness).astype(float)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert np.array_equal(kernel, kernel.T)
    assert np.array_equal(kernel, kernel[::-1])
    far = (len(kernel) - 1) // 2
    places = np.hypot(*np.mgrid[-far : far + 1, -far : far + 1])
    edge = 1 if radius <= 8 else 2
    assert kernel[places > radius + math.sqrt(2) * edge].max(initial=0) == 0
    inside = kernel[places < radius - math.sqrt(2) * edge]
    assert np.ptp(inside) < 1e-7 if len(inside) else True
    assert kernel.max() == kernel[far, far]


def test_defocus_blur_is_a_convolution() -> None:
    image = photo(33, 40)
    kernel = blur.disk_kernel(3, 0.5)
    wanted = [ndimage.convolve(image[..., c].astype(float), kernel.astype(float), mode="mirror") for c in range(3)]
    assert np.abs(blur.defocus_blur(image, 3, 0.5) - np.stack(wanted, -1)).max() <= 0.5 + 1e-3


def test_swaps_are_made_one_after_the_other() -> None:
    pixels, shifts = photo(36, 34), rng().integers(-2, 2, (36, 34, 2), np.int8)
    wanted = pixels.copy()
    for y in range(36 - 2, 2, -1):
        for x in range(34 - 2, 2, -1):
            other = (y + shifts[y, x, 0], x + shifts[y, x, 1])
            wanted[y, x], wanted[other] = wanted[other].copy(), wanted[y, x].copy()
    found = pixels.copy()
    swap_near(found, shifts, 2)
    assert np.array_equal(found, wanted)
    assert not np.array_equal(found, pixels)
    # Swapping loses no pixel.
    assert np.array_equal(np.sort(found.reshape(-1, 3), 0), np.sort(pixels.reshape(-1, 3), 0))


def test_glass_blur_blurs_swaps_and_blurs() -> None:
    image = photo(40, 48)
    shifts = rng(3).integers(-2, 2, (3, 40, 48, 2), np.int8)
    wanted = blur.gaussian(image, 1.0)
    for each in shifts:
        swap_near(wanted, each, 2)
    assert np.array_equal(blur.glass_blur(image, 1.0, 2, 3, rng(3)), blur.gaussian(wanted, 1.0))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.9, 1.5])
def test_gaussian_blur_is_scipy_s(sigma: float) -> None:
    image = photo(37, 33).astype(np.float32)
    wanted = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="nearest", truncate=4)
    assert np.abs(blur.gaussian(image, sigma) - wanted).max() < 2e-3


@pytest.mark.parametrize("angle", [0, 30, -45, -90, -135])
def test_motion_blur_averages_along_its_way(angle: float) -> None:
    image = photo(32, 41)
    weights = np.exp(-(np.arange(21) ** 2) / (2 * 4.0**2))
    weights /= weights.sum()
    wanted = np.zeros(image.shape)
    y, x = np.mgrid[:32, :41]
    for k, weight in enumerate(weights):
        down, right = np.rint(k * math.sin(math.radians(angle))), np.rint(k * math.cos(math.radians(angle)))
        wanted += weight * image[np.clip(y + int(down), 0, 31), np.clip(x + int(right), 0, 40)]
    assert np.abs(blur.motion_blur(image, 10, 4.0, angle) - wanted).max() <= 0.5 + 1e-3
    gray = blur.motion_blur(image[..., :1], 10, 4.0, angle)
    assert np.array_equal(gray, blur.motion_blur(image, 10, 4.0, angle)[..., :1])


def test_zoom_blur_is_the_mean_of_enlargements() -> None:
    image = photo(32, 45)
    wanted = 2 * image.astype(float)
    for k in range(1, 5):
        scale = 1 + 0.03 * k
        y, x = (15.5 + (np.arange(32) - 15.5) / scale, 22 + (np.arange(45) - 22) / scale)
        at = np.meshgrid(y, x, indexing="ij")
        wanted += np.stack([ndimage.map_coordinates(image[..., c].astype(float), at, order=1) for c in range(3)], -1)
    # OpenCV knows places to 1/32 of a pixel.
    difference = blur.zoom_blur(image, 5, 0.03) - wanted / 6
    assert np.abs(difference).max() < 2.5
    assert np.abs(difference).mean() < 0.4


@pytest.mark.parametrize("rise", [0.1, 0.5])
def test_brightness_raises_the_value(rise: float) -> None:
    image = photo(32, 32)
    image[0, :4] = [[0, 0, 0], [255, 255, 255], [9, 0, 0], [250, 3, 77]]
    found = digital.brightness(image, rise)
    for pixel, seen in zip(image.reshape(-1, 3)[:200], found.reshape(-1, 3)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        wanted = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + rise, 1))) * 255
        assert np.abs(seen - wanted).max() <= 0.5 + 1e-6


def test_contrast_shrinks_the_distance_from_the_channels_means() -> None:
    image = photo(40, 33)
    means = image.reshape(-1, 3).mean(0)
    wanted = (image - means) * 0.2 + means
    assert np.abs(digital.contrast(image, 0.2) - wanted).max() <= 0.5 + 1e-6


def test_pixelate_averages_boxes() -> None:
    image = photo(32, 64)
    found = digital.pixelate(image, 0.25)  # whole boxes of 4 x 4
    boxes = image.reshape(8, 4, 16, 4, 3).mean((1, 3))
    wanted = boxes.repeat(4, 0).repeat(4, 1)
    assert np.abs(found - wanted).max() <= 1  # Pillow rounds after rows and after columns
    assert digital.pixelate(photo(33, 50), 0.3).shape == (33, 50, 3)


def test_jpeg_is_a_round_trip_by_pillow() -> None:
    image, stream = photo(40, 50), io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=10)
    assert np.array_equal(digital.jpeg(image, 10), np.array(Image.open(stream)))


@pytest.mark.parametrize(("sigma", "truncate"), [(2.4, 4), (7.9, 4), (9, 8), (19.5, 8), (171, 8)])
def test_wide_and_narrow_smoothing_are_scipy_s(sigma: float, truncate: float) -> None:
    values = rng().uniform(-1, 1, (70, 53))
    wanted = ndimage.gaussian_filter(values, sigma, mode="reflect", truncate=truncate)
    assert np.abs(digital.smoothed(values, sigma) - wanted).max() < 2e-6


def test_elastic_transform_moves_pixels() -> None:
    """Without jitter, each pixel is read where the field says."""
    image = photo(40, 52)
    across, down = digital.elastic_field(40, 52, 60.0, 5.0, rng(4))
    at = np.mgrid[:40, :52] + np.stack([down, across])
    wanted = [ndimage.map_coordinates(image[..., c].astype(float), at, order=1, mode="mirror") for c in range(3)]
    difference = digital.elastic_transform(image, 60.0, 5.0, 0.0, rng(4)) - np.stack(wanted, -1)
    assert np.abs(difference).mean() < 0.6
    assert np.abs(across).max() > 1
    same = digital.elastic_transform(image, 0, 0, 0.0, rng())
    assert np.array_equal(same, image)


def test_elastic_transform_moves_three_points_by_its_jitter() -> None:
    """A smooth picture tells where it was read: the three points have moved as far as was drawn, to a fraction."""
    side, jitter = 96, 6.0
    y, x = np.mgrid[:side, :side]
    image = np.stack([2 * x + 30, 2 * y + 30, np.zeros_like(x)], -1).astype(np.uint8)
    found = digital.elastic_transform(image, 0, 0, jitter, rng(5)).astype(float)
    corners = side // 2 + side // 3 * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + rng(5).uniform(-jitter, jitter, (3, 2))
    for corner, place in zip(corners, moved):
        read = [ndimage.map_coordinates((found[..., c] - 30) / 2, place[::-1, None], order=1)[0] for c in range(2)]
        assert np.abs(np.array(read) - corner).max() < 0.6


@pytest.mark.parametrize("side", [32, 64])
def test_plasma_fills_its_range_and_is_rougher_the_slower_it_decays(side: int) -> None:
    clouds = {decay: weather.plasma(side, decay, rng()) for decay in (1.4, 3.0)}
    for each in clouds.values():
        assert each.shape == (side, side)
        assert (each.min(), each.max()) == (0, 1)
    rough = {decay: np.abs(np.diff(each, axis=0)).mean() for decay, each in clouds.items()}
    assert rough[1.4] > 2 * rough[3.0]


def test_plasma_is_the_mean_of_its_neighbors_where_nothing_is_added() -> None:
    """With a decay without end only the first step displaces: every later point is the mean of four."""
    clouds = weather.plasma(8, 1e6, rng())
    middle = clouds[4, 4]
    assert clouds[2, 2] == pytest.approx((clouds[0, 0] + clouds[0, 4] + clouds[4, 0] + middle) / 4, abs=1e-5)
    below = clouds[2, 2] + clouds[2, 6]
    assert clouds[2, 4] == pytest.approx((clouds[0, 4] + middle + below) / 4, abs=1e-5)


def test_fog_adds_clouds_and_keeps_the_brightest_value() -> None:
    image = photo(64, 64)
    clouds = weather.plasma(64, 2.0, rng(2))
    most = image.max() / 255
    wanted = np.clip((image / 255 + 1.5 * clouds[..., None]) * most / (most + 1.5), 0, 1) * 255
    assert np.abs(weather.fog(image, 1.5, 2.0, rng(2)) - wanted).max() <= 0.5 + 1e-3
    assert weather.fog(flat(0), 1.5, 2.0, rng()).max() == 0


def test_frost_lays_a_cut_of_a_texture_over_the_image() -> None:
    image = photo(40, 64)
    found = weather.frost(image, 0.0, 1.0, 0.3, rng(6))
    draw = rng(6)
    texture = frost_texture(int(draw.integers(5)), 64, 0.3)
    top, left = draw.integers(0, len(texture) - 40 + 1), draw.integers(0, len(texture) - 64 + 1)
    assert np.array_equal(found, texture[top : top + 40, left : left + 64])
    both = weather.frost(image, 0.7, 0.5, 0.3, rng(6))
    assert np.abs(both - np.clip(0.7 * image + 0.5 * found, 0, 255)).max() <= 0.5 + 1e-3


def test_frost_textures_differ_and_are_icy() -> None:
    textures = [frost_texture(number, 64, 0.3) for number in range(5)]
    assert all(each.dtype == np.uint8 and len(each) >= 96 for each in textures)
    for number, each in enumerate(textures):
        assert each.mean() == pytest.approx(109, abs=6)  # alike, so that none is worse than the others
        assert each.std() == pytest.approx(48, abs=8)
        assert each[..., 2].mean() >= each[..., 0].mean()  # bluish
        assert not any(np.array_equal(each, other) for other in textures[:number])
    assert len(frost_texture(0, 700, 1.0)) >= 1050


def test_snow_whitens_and_falls_on_both_sides() -> None:
    image = photo(64, 64)
    found = weather.snow(image, -9, 0.1, 2, 0.5, 8, 3, 0.7, rng())  # noise so low that nothing falls
    gray = image @ np.array([0.299, 0.587, 0.114])
    wanted = 0.7 * image + 0.3 * np.maximum(image, gray[..., None] * 1.5 + 127.5)
    assert np.abs(found - np.clip(wanted, 0, 255)).max() <= 0.5 + 1e-2
    falling = weather.snow(flat(0), 0.5, 0.3, 2, 0.6, 8, 3, 1.0, rng())
    assert np.array_equal(falling, falling[::-1, ::-1])
    assert falling.max() > 60
    assert np.array_equal(falling[..., 0], falling[..., 1])
