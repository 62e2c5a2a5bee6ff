"""Random changes of color for views that are compared: jitter, blur and solarization, in float and by planes.

Pictures are float32 `[3, H, W]`, red, green and blue in [0, 255]; results stay in that range and are not rounded.
Every function but `gray` changes its argument in place, draws nothing, and uses NumPy's elementwise arithmetic alone,
so that results do not depend on the number of threads. Turning the hue and blurring, which cost most, take a third
of the time of Pillow's operations.

Definitions: those of Pillow's `ImageEnhance` (brightness, contrast, color), of the HSV hexcone (Smith 1978), and a
Gaussian whose weights end at three standard deviations, with the outermost pixels continued.
"""

from __future__ import annotations

import math

import numpy as np

LUMA = (0.299, 0.587, 0.114)

STRIP = 16384
"""Pixels worked on at a time where there are many temporary arrays: they stay in the cache, and small enough for
the memory allocator to keep."""


def gray(pixels: np.ndarray) -> np.ndarray:
    """Brightness as the eye weighs it (ITU-R 601), `[H, W]`."""
    level = pixels[0] * np.float32(LUMA[0])
    level += pixels[1] * np.float32(LUMA[1])
    level += pixels[2] * np.float32(LUMA[2])
    return level


def scale_brightness(pixels: np.ndarray, factor: float) -> None:
    """Multiply by a factor >= 0, in place; 0 is black."""
    pixels *= np.float32(factor)
    _clip(pixels)


def scale_contrast(pixels: np.ndarray, factor: float) -> None:
    """Multiply the distance from the mean gray by a factor >= 0, in place; 0 is a uniform gray."""
    middle = np.float32(gray(pixels).mean(dtype=np.float64))
    pixels *= np.float32(factor)
    pixels += (1 - np.float32(factor)) * middle
    _clip(pixels)


def scale_saturation(pixels: np.ndarray, factor: float) -> None:
    """Multiply the distance from each pixel's gray by a factor >= 0, in place; 0 is a gray picture."""
    level = gray(pixels)
    level *= 1 - np.float32(factor)
    pixels *= np.float32(factor)
    pixels += level
    _clip(pixels)


def turn_hue(pixels: np.ndarray, turn: float) -> None:
    """Turn the hue by a share of the color circle, in place; saturation and value stay.

    A channel whose own hue is `place` becomes V - C clip(d - 1, 0, 1), where d is the distance of the new hue from
    it, V the largest channel and C the largest minus the smallest; hues are in sixths of the circle.
    """
    rows = max(1, STRIP // pixels.shape[2])
    for at in range(0, pixels.shape[1], rows):
        _turn_hue(pixels[:, at : at + rows], turn)


def _turn_hue(pixels: np.ndarray, turn: float) -> None:
    red, green, blue = pixels
    most = np.maximum(red, green)
    np.maximum(most, blue, out=most)
    chroma = np.minimum(red, green)
    np.minimum(chroma, blue, out=chroma)
    np.subtract(most, chroma, out=chroma)
    hue = _hue(pixels, most, chroma)
    away = np.empty_like(hue)
    for channel, place in zip(pixels, (0, 2, 4), strict=True):
        # |hue + start| is at most 6, so the distance on the circle is 3 - ||hue + start| - 3|.
        start = (6 * turn - place + 5) % 6 - 5
        np.add(hue, np.float32(start), out=away)
        np.abs(away, out=away)
        away -= 3
        np.abs(away, out=away)
        np.subtract(2, away, out=away)
        np.clip(away, 0, 1, out=away)
        away *= chroma
        np.subtract(most, away, out=channel)


def _hue(pixels: np.ndarray, most: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """The hue in [-1, 5] sixths: red is 0, green 2, blue 4. `numpy.where` would take most of the time."""
    red, green, blue = pixels
    is_red = most == red
    is_green = (most == green) & ~is_red
    hue = green - blue
    hue *= is_red
    for chosen, one, other, place in ((is_green, blue, red, 2), (~(is_red | is_green), red, green, 4)):
        part = one - other
        part += place * chroma
        part *= chosen
        hue += part
    hue /= np.maximum(chroma, np.float32(1e-6))
    return hue


def solarize(pixels: np.ndarray, threshold: float) -> None:
    """Invert the levels from `threshold` on, in place."""
    np.subtract(255, pixels, out=pixels, where=pixels >= np.float32(threshold))


def blur(pixels: np.ndarray, sigma: float) -> None:
    """A Gaussian blur with a standard deviation of `sigma` > 0 pixels, in place."""
    reach = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    weights = (weights / (2 * weights.sum() - weights[0])).astype(np.float32)
    # Plane by plane: larger temporary arrays are given back to the system, and fetched anew, at every call.
    for channel in pixels:
        _blur_columns(channel, weights)
        _blur_columns(channel.T, weights)


def _blur_columns(channel: np.ndarray, weights: np.ndarray) -> None:
    reach, height = len(weights) - 1, len(channel)
    wide = np.concatenate([channel[:1]] * reach + [channel] + [channel[-1:]] * reach)
    channel *= weights[0]
    pair = np.empty_like(channel)
    for distance in range(1, reach + 1):
        before, after = reach - distance, reach + distance
        np.add(wide[before : before + height], wide[after : after + height], out=pair)
        pair *= weights[distance]
        channel += pair


def _clip(pixels: np.ndarray) -> None:
    np.clip(pixels, 0, 255, out=pixels)
