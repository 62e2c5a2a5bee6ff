"""Frost on a window, drawn: ferns of ice that branch at 60 degrees, over a thin cloudy film.

Hendrycks and Dietterich lay photographs of frost over images. These belong to others, so here textures are grown from
fixed seeds instead: the same on every machine, in brightness and contrast like a photographed frosted window.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

SIDE = 768
"""Pixels a side of a texture, at least, before it is scaled."""
MEAN, SPREAD = 0.45, 0.2
"""Of a texture's light, 1 is white: as of photographed frost on a dark window, alike for all of them."""
TINT = (0.90, 0.96, 1.0)
"""Red, green and blue of white ice."""
_BRANCH = math.pi / 3  # the angle of ice


def frost_texture(number: int, side: int, scale: float = 1.0) -> np.ndarray:
    """A texture that an image of `side` pixels can be cut from anywhere, uint8 `[S, S, 3]`, S at least 1.5 sides.

    Args:
        number: which one; each is another.
        side: of the image, its longer side.
        scale: 1, or less for finer ice.
    """
    least = SIDE * scale
    while least < 1.5 * side:
        least *= 2
    return _texture(number, math.ceil(least), scale)


@lru_cache(maxsize=16)
def _texture(number: int, side: int, scale: float) -> np.ndarray:
    import cv2

    full = math.ceil(side / scale)
    rng = np.random.Generator(np.random.SFC64([20190328, number]))
    film = sum(0.5**octave * _cloud(full, 4 << octave, rng) for octave in range(5)) / 1.9375
    ice = _ferns(full, rng).astype(np.float32) / 255
    ice = 0.8 * ice + 0.5 * cv2.GaussianBlur(ice, (0, 0), 2) + 0.4 * cv2.GaussianBlur(ice, (0, 0), 12)
    light = 1 - np.exp(-(0.9 * film**2 + ice * (0.5 + film)))
    light = (light - light.mean()) / light.std() * SPREAD + MEAN
    light *= 1 + 0.08 * rng.standard_normal((full, full), np.float32)
    light = cv2.resize(light, (side, side), interpolation=cv2.INTER_AREA)
    texture = np.rint(255 * np.clip(light[..., None] * np.array(TINT, np.float32), 0, 1)).astype(np.uint8)
    texture.setflags(write=False)
    return texture


def _cloud(side: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in [0, 1], float32 `[side, side]`."""
    import cv2

    coarse = rng.random((cells, cells), np.float32)
    return np.clip(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), 0, 1)


def _ferns(side: int, rng: np.random.Generator) -> np.ndarray:
    """Stems with branches with twigs as lines, uint8 `[side, side]`, 255 where there is a stem."""
    import cv2

    nodes, twigs = 40, 6
    count = round(30 * (side / SIDE) ** 2)
    length = SIDE * rng.uniform(0.25, 0.55, (count, 1))
    along = np.linspace(0, 1, nodes)
    turn = rng.uniform(0, 2 * math.pi, (count, 1)) + np.cumsum(rng.normal(0, 0.05, (count, nodes)), 1)
    stem = rng.uniform(0, side, (count, 1, 2)) + np.cumsum(_towards(turn) * (length / nodes)[..., None], 1)
    sides = np.array([-1.0, 1.0])
    bend = turn[..., None] + sides * _BRANCH + rng.normal(0, 0.06, (count, nodes, 2))
    reach = 0.42 * (length * (1 - along) ** 0.8)[..., None] * rng.uniform(0.35, 1, (count, nodes, 2))
    tip = stem[:, :, None] + _towards(bend) * reach[..., None]
    share = np.linspace(0.12, 0.95, twigs)[:, None]
    root = stem[:, :, None, None, None] + (tip - stem[:, :, None])[:, :, :, None, None] * share[..., None]
    small = bend[..., None, None] + sides * _BRANCH + rng.normal(0, 0.1, (count, nodes, 2, twigs, 2))
    short = 0.3 * reach[..., None, None] * (1 - share) * rng.uniform(0.4, 1, small.shape)
    canvas = np.zeros((side, side), np.uint8)
    root = np.broadcast_to(root, (*small.shape, 2))
    _lines(canvas, root, root + _towards(small) * short[..., None], 95)
    _lines(canvas, np.broadcast_to(stem[:, :, None], tip.shape), tip, 160)
    cv2.polylines(canvas, list(_fixed(stem)), False, 255, 1, cv2.LINE_AA, 4)
    return canvas


def _towards(angle: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def _lines(canvas: np.ndarray, start: np.ndarray, stop: np.ndarray, light: int) -> None:
    import cv2

    pairs = _fixed(np.stack([start.reshape(-1, 2), stop.reshape(-1, 2)], 1))
    cv2.polylines(canvas, list(pairs), False, light, 1, cv2.LINE_AA, 4)


def _fixed(points: np.ndarray) -> np.ndarray:
    """Coordinates as OpenCV reads them with 4 bits behind the point."""
    return np.rint(points * 16).astype(np.int32)
