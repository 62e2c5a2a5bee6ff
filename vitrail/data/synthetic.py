"""Generated scenes: a textured object on a textured background among distractors, with class, mask and boxes.

The class is told by shape, hue and texture together. Background and distractors take any hue and carry no
class. A scene is a function of (seed, split, index) alone, and the same bits on every machine: all arithmetic
is on float64 with +, -, *, / and square roots, which IEEE 754 rounds alike everywhere; no sine, no power, no
sum over axes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitrail.contracts import Sample
from vitrail.ops.patches import sides_of

VERSION = 2  # of the scenes; part of the digest
SHAPES = ("disk", "square", "triangle", "ring", "cross", "diamond", "star", "crescent")
TEXTURES = ("striped", "checked", "dotted", "circled")
HUES = ("red", "orange", "yellow", "green", "teal", "blue", "violet", "pink")
DISTRACTORS = 6
QUARTERS = 4
CHUNK = 32  # scenes that are computed together; more fall out of the cache
Array = NDArray[np.float64]


class SyntheticScenes:
    """Scenes by number. Fulfills `vitrail.contracts.ImageSet`."""

    background = True
    """Mask value 0 is a class of its own, not merely unlabeled."""

    def __init__(
        self,
        count: int,
        image_size: int | tuple[int, int] = 48,
        classes: int = 8,
        seed: int = 0,
        split: Literal["train", "val"] = "train",
        cache: bool = False,
        objects: int = 1,
    ) -> None:
        """Args:
            count: scenes in the set, at least 1.
            image_size: pixels, a side or (height, width), at least 16.
            classes: 2 to 32.
            seed: other seeds give other scenes of the same classes.
            split: train and val share no scene.
            cache: keep all scenes in memory from the first use on.
            objects: 1, or up to 4: then each scene holds 2 to so many, each in a quarter of the image, of classes
                that are drawn; the label is that of the first, and no boxes are given.

        Raises `ValueError` for values outside these ranges.
        """
        height, width = sides_of(image_size)
        if count < 1 or min(height, width) < 16:
            raise ValueError(f"{count} scenes of {height} x {width} pixels; give at least 1 scene of 16 x 16")
        if not 2 <= classes <= len(SHAPES) * len(TEXTURES):
            raise ValueError(f"{classes} classes; scenes have 2 to {len(SHAPES) * len(TEXTURES)}")
        self.count, self.size, self.seed, self.split = count, (int(height), int(width)), seed, split
        if not 1 <= objects <= QUARTERS:
            raise ValueError(f"{objects} objects; a scene has 1 to {QUARTERS}")
        self.classes: tuple[str, ...] = tuple(_class_name(label) for label in range(classes))
        self.cache, self.objects = cache, objects
        self._kept: tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]] | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        if self.cache and self._kept is None:
            self._kept = self.arrays(0, self.count)
        if self._kept is not None:
            images, labels, masks = (part[index] for part in self._kept)
        else:
            images, labels, masks = (part[0] for part in self.arrays(index, index + 1))
        return self._sample(images, int(labels), masks, f"{self.split}/{index:06d}")

    def arrays(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]:
        """Scenes start, ..., stop - 1: images `[n, H, W, 3]`, labels `[n]`, masks `[n, H, W]` (0, or 1 + label)."""
        images = np.empty((stop - start, *self.size, 3), np.uint8)
        masks = np.empty((stop - start, *self.size), np.uint8)
        labels = np.arange(start, stop, dtype=np.int64) % len(self.classes)
        for first in range(start, stop, CHUNK):
            last = min(first + CHUNK, stop)
            draws = np.stack([self._draws(index) for index in range(first, last)])
            part = slice(first - start, last - start)
            more = None if self.objects == 1 else np.stack([self._more(index) for index in range(first, last)])
            images[part], masks[part] = _paint(draws, labels[part], self.size, more, len(self.classes))
        return images, labels, masks

    def motion(self, index: int, frames: int) -> list[Sample]:
        """The scene and what comes after it: its object moves on a straight line and turns, its distractors drift.

        The first frame is the scene itself, to the bit; the object's center stays where scenes have theirs.
        Raises `ValueError` for scenes of several objects.
        """
        if self.objects > 1:
            raise ValueError(f"these scenes hold up to {self.objects} objects; those of one object move")
        draws = self._moving(index, frames)
        label = index % len(self.classes)
        images, masks = _paint(draws, np.full(frames, label), self.size)
        return [self._sample(images[n], label, masks[n], f"{self.split}/{index:06d}/{n:03d}") for n in range(frames)]

    def motion_of(self, index: int, frames: int, points: Array) -> Array:
        """Where points of the object of frame 0 are in each frame of `motion(index, frames)`.

        Args:
            points: `[n, 2]` x, y in pixels of frame 0; the center of its first pixel is (0.5, 0.5).

        Returns:
            `[frames, n, 2]` in pixels, outside of the image where the object leaves it. The object moves as a whole, so
            a point beside it is where it would be if it belonged to the object.
        """
        draws, side = self._moving(index, frames), min(self.size)
        centers = [_center(draws[:, k], span, side) for k, span in ((_X, self.size[1]), (_Y, self.size[0]))]
        cosine, sine = _rotation(draws[:, _TURN])
        x, y = (np.asarray(points)[:, k] / side - centers[k][0] for k in (0, 1))
        u, v = x * cosine[0] + y * sine[0], y * cosine[0] - x * sine[0]
        back = [u * _row(cosine) - v * _row(sine), v * _row(cosine) + u * _row(sine)]
        return np.stack([(each + _row(center)) * side for each, center in zip(back, centers)], -1)

    def _moving(self, index: int, frames: int) -> Array:
        """The draws `[frames, _DRAWS]` of a scene that moves."""
        draws = np.repeat(self._draws(index)[None], frames, 0)
        share = np.arange(frames) / max(frames - 1, 1)
        seeds = np.random.SeedSequence([self.seed, 2, index])
        way = np.random.Generator(np.random.Philox(seeds)).random(3 + 2 * DISTRACTORS)
        for place, target in ((_X, way[0]), (_Y, way[1])):
            draws[:, place] += 0.6 * share * (target - draws[:, place])  # between two draws, so in [0, 1)
        draws[:, _TURN] = (draws[:, _TURN] + 0.25 * share * way[2]) % 1.0
        for number in range(DISTRACTORS):
            place = _BLOB + 9 * number
            draws[:, place : place + 2] += 0.2 * share[:, None] * (way[3 + 2 * number : 5 + 2 * number] - 0.5)
        return draws

    def digest(self) -> str:
        """Of all that decides the scenes."""
        words: tuple[object, ...] = (VERSION, self.count, self.size, len(self.classes), self.seed, self.split)
        if self.objects > 1:
            words += (self.objects,)
        return hashlib.sha256(repr(words).encode()).hexdigest()[:16]

    def _draws(self, index: int) -> Array:
        which = 0 if self.split == "train" else 1
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, which, index]))).random(_DRAWS)

    def _more(self, index: int) -> Array:
        """Draws of the objects of a scene of several: one row for each quarter, the first says which is filled when."""
        which = 3 if self.split == "train" else 4
        seeds = np.random.SeedSequence([self.seed, which, index])
        draws = np.random.Generator(np.random.Philox(seeds)).random((QUARTERS + 1, 9))
        order = draws[0, :QUARTERS].argsort(kind="stable")
        number = 2 + int(draws[0, QUARTERS] * (self.objects - 1))
        draws[0, :QUARTERS] = [order[place] if place < number else -1 for place in range(QUARTERS)]
        return draws

    def _sample(self, image: NDArray[np.uint8], label: int, mask: NDArray[np.uint8], path: str) -> Sample:
        if self.objects > 1:
            return Sample(Image.fromarray(image), label, mask, path=path)
        boxes = _boxes(mask)
        return Sample(Image.fromarray(image), label, mask, boxes, path, np.full(len(boxes), 1 + label, np.int64))


_X, _Y, _RADIUS, _TURN, _HUE, _LIGHT, _PERIOD, _DARK = range(8)
_BACK = 8  # 12 draws of the background
_BLOB = 20  # 9 draws a distractor
_NOISE = _BLOB + 9 * DISTRACTORS  # two lattices
_LATTICE = 8
_DRAWS = _NOISE + 2 * _LATTICE * _LATTICE


def _class_name(label: int) -> str:
    return f"{TEXTURES[_texture(label)]} {HUES[label % 8]} {SHAPES[label % 8]}"


def _texture(label: int) -> int:
    return (label + label // 8) % 4


def _boxes(mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((0, 4))
    return np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=np.float64)


def _paint(
    draws: Array,
    labels: NDArray[np.int64],
    size: tuple[int, int],
    more: Array | None = None,
    classes: int = 0,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images `[n, H, W, 3]` and masks `[n, H, W]` of scenes with uniform draws `[n, _DRAWS]` in [0, 1)."""
    height, width = size
    side = min(height, width)
    # Pixel centers in units of the shorter side, from the image's corner.
    y, x = ((np.arange(height) + 0.5) / side)[:, None], ((np.arange(width) + 0.5) / side)[None, :]
    canvas = _background(draws, x, y)
    for number in range(DISTRACTORS):
        canvas = _distractor(canvas, draws[:, _BLOB + 9 * number : _BLOB + 9 * (number + 1)], x, y, side)
    masks = np.zeros((len(draws), height, width), np.uint8)
    if more is None:
        center_x, center_y = (_center(draws[:, k], span, side) for k, span in ((_X, width), (_Y, height)))
        canvas, masks = _object(canvas, masks, draws, labels, center_x, center_y, x, y)
        return (canvas * 255 + 0.5).astype(np.uint8), masks
    for place in range(QUARTERS):
        rows = np.flatnonzero(more[:, 0, place] >= 0)
        own, quarter = more[rows, 1 + place], more[rows, 0, place]
        chosen = labels[rows] if place == 0 else (own[:, 8] * classes).astype(np.int64)
        center_x = (0.25 + 0.5 * (quarter % 2) + 0.14 * (own[:, _X] - 0.5)) * width / side
        center_y = (0.25 + 0.5 * (quarter // 2) + 0.14 * (own[:, _Y] - 0.5)) * height / side
        canvas[rows], masks[rows] = _object(canvas[rows], masks[rows], own, chosen, center_x, center_y, x, y)
    return (canvas * 255 + 0.5).astype(np.uint8), masks


def _object(
    canvas: Array,
    masks: NDArray[np.uint8],
    draws: Array,
    labels: NDArray[np.int64],
    center_x: Array,
    center_y: Array,
    x: Array,
    y: Array,
) -> tuple[Array, NDArray[np.uint8]]:
    """Canvas and masks with one object a scene; its first 8 draws say the rest."""
    side = min(canvas.shape[1:3])
    radius = 0.17 + 0.09 * draws[:, _RADIUS]
    u, v = _turned((x - _c(center_x)) / _c(radius), (y - _c(center_y)) / _c(radius), draws[:, _TURN])
    inside = _shape(labels % 8, u, v) * _c(radius) * side  # pixels, negative inside
    cover = np.clip(0.5 - inside, 0.0, 1.0)
    textures = np.array([_texture(int(label)) for label in labels], np.int64)
    tone = _pattern(textures, u, v, 1.9 + 0.9 * draws[:, _PERIOD])
    light = 0.72 + 0.28 * draws[:, _LIGHT]
    hue = (labels % 8) / 8 + 0.22 * (draws[:, _HUE] - 0.5)
    bright, dark = _rgb(hue, 0.85, light), _rgb(hue, 0.9, light * (0.25 + 0.2 * draws[:, _DARK]))
    color = _mix(_c(dark), _c(bright), tone[..., None])
    return _mix(canvas, color, cover[..., None]), np.where(inside < 0, labels[:, None, None] + 1, masks).astype(
        np.uint8
    )


def _background(draws: Array, x: Array, y: Array) -> Array:
    d = draws[:, _BACK : _BACK + 12].T
    one, two = _rgb(d[0], 0.2 + 0.7 * d[1], 0.2 + 0.8 * d[2]), _rgb(d[3], 0.2 + 0.7 * d[4], 0.2 + 0.8 * d[5])
    lattices = draws[:, _NOISE:].reshape(len(draws), 2, _LATTICE, _LATTICE)
    coarse = _noise(lattices[:, 0], x, y, 2 + 3 * d[6])
    fine = _noise(lattices[:, 1], x, y, 5 + 1.9 * d[7])
    u, _ = _turned(x - 0.5, y - 0.5, d[8])
    wave = _wave(u * _c(4 + 5 * d[9]) + 0.35 * coarse)
    share = 0.5 * coarse + 0.2 * fine + _c(0.3 * (d[10] < 0.5)) * wave + _c(0.3 * (d[10] >= 0.5)) * fine
    return _mix(_c(one), _c(two), share[..., None])


def _distractor(canvas: Array, d: Array, x: Array, y: Array, side: int) -> Array:
    """The canvas `[n, H, W, 3]` with one blob a scene; outside of its window a blob would change no bit."""
    d = d.T
    center_x, center_y = ((0.02 + 0.96 * d[k]) * span / side for k, span in ((0, x.shape[1]), (1, len(y))))
    rows, columns = _window(center_y, len(y), side)[:, :, None], _window(center_x, x.shape[1], side)[:, None, :]
    u, v = _turned(x[0, columns] - _c(center_x), y[rows, 0] - _c(center_y), d[2])
    long = 0.07 + 0.08 * d[3]
    short = long * (0.5 + 0.4 * d[4])
    a, b = u / _c(long), v / _c(short)
    inside = (np.sqrt(a * a + b * b) - 1) * _c(short) * side
    cover = np.clip(0.5 - inside, 0.0, 1.0)
    light = 0.5 + 0.5 * d[7]
    one, two = _rgb(d[5], 0.5 + 0.45 * d[6], light), _rgb(d[5] + 0.12 * (d[8] - 0.5), 0.9, light * 0.4)
    kind = (d[8] * 64).astype(np.int64) % len(TEXTURES)
    tone = _pattern(kind, a, b, 1.1 + 0.6 * d[6])
    scene = np.arange(len(canvas))[:, None, None]
    canvas[scene, rows, columns] = _mix(
        canvas[scene, rows, columns], _mix(_c(two), _c(one), tone[..., None]), cover[..., None]
    )
    return canvas


def _window(center: Array, span: int, side: int) -> NDArray[np.int64]:
    """Pixels `[n, w]` within which a distractor at `center` covers anything."""
    # The cover ends half a pixel of the short axis beyond the outline: at most 1 / 0.5 half pixels of the long one.
    reach = 0.15 * side + 2
    width = min(int(2 * reach) + 2, span)
    first = np.clip(np.floor(center * side - reach).astype(np.int64), 0, span - width)
    return first[:, None] + np.arange(width)


def _shape(kind: NDArray[np.int64], u: Array, v: Array) -> Array:
    """About the distance to the outline in radii, negative inside; each scene its own kind."""
    result = np.empty_like(u)
    for number in range(len(SHAPES)):
        rows = np.flatnonzero(kind == number)
        if len(rows):
            result[rows] = _outline(number, u[rows], v[rows])
    return result


def _outline(number: int, u: Array, v: Array) -> Array:
    a, b, r = np.abs(u), np.abs(v), np.sqrt(u * u + v * v)
    up, down = np.maximum(0.866 * a + 0.5 * v, -v), np.maximum(0.866 * a - 0.5 * v, v)
    if number == 0:
        return r - 0.95
    if number == 1:
        return np.maximum(a, b) - 0.8
    if number == 2:
        return up - 0.55
    if number == 3:
        return np.abs(r - 0.72) - 0.27
    if number == 4:
        return np.minimum(np.maximum(a - 1.0, b - 0.34), np.maximum(a - 0.34, b - 1.0))
    if number == 5:
        return (0.8 * a + 0.6 * b) - 0.66
    if number == 6:
        return np.minimum(up, down) - 0.5
    shift = u - 0.45
    return np.maximum(r - 1.0, 0.72 - np.sqrt(shift * shift + v * v))


def _pattern(kind: NDArray[np.int64], u: Array, v: Array, period: Array) -> Array:
    """Brightness in [0, 1] of stripes, checks, dots or circles; `period` is in waves a radius."""
    p, q = u * _c(period), v * _c(period)
    stripes = _wave(p)
    choices = (
        stripes,
        np.abs(stripes - _wave(q)),
        np.clip(2.2 * np.minimum(stripes, _wave(q)), 0.0, 1.0),
        _wave(np.sqrt(p * p + q * q)),
    )
    return np.choose(kind[:, None, None], [np.clip(2.5 * each - 0.75, 0.0, 1.0) for each in choices])


def _wave(phase: Array) -> Array:
    """A triangle wave of period 1 in [0, 1]."""
    return np.abs(2.0 * (phase - np.floor(phase)) - 1.0)


def _noise(lattice: Array, x: Array, y: Array, cells: Array) -> Array:
    """Smooth noise in [0, 1]: a lattice of draws `[n, L, L]`, interpolated, `cells` cells along the shorter side."""
    p, q = x * _c(cells), y * _c(cells)
    p, q = (
        np.broadcast_to(p, np.broadcast_shapes(p.shape, q.shape)),
        np.broadcast_to(q, np.broadcast_shapes(p.shape, q.shape)),
    )
    column, row = np.floor(p), np.floor(q)
    s, t = p - column, q - row
    s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
    scene = np.arange(len(lattice))[:, None, None]

    def at(dy: int, dx: int) -> Array:
        return lattice[scene, (row.astype(np.int64) + dy) % _LATTICE, (column.astype(np.int64) + dx) % _LATTICE]

    top, bottom = at(0, 0) * (1 - s) + at(0, 1) * s, at(1, 0) * (1 - s) + at(1, 1) * s
    return top * (1 - t) + bottom * t


def _turned(u: Array, v: Array, turn: Array) -> tuple[Array, Array]:
    """Coordinates rotated by a share of a whole turn."""
    cosine, sine = _rotation(turn)
    return u * _c(cosine) + v * _c(sine), v * _c(cosine) - u * _c(sine)


def _rotation(turn: Array) -> tuple[Array, Array]:
    """Cosine and sine of shares of a whole turn, nearly; the circle's rational form, without sine and cosine."""
    quarter = np.floor(turn * 4)
    t = turn * 4 - quarter
    scale = 1 + t * t
    cosine, sine = (1 - t * t) / scale, 2 * t / scale
    for count in (1, 2, 3):
        more = quarter >= count
        cosine, sine = np.where(more, -sine, cosine), np.where(more, cosine, sine)
    return cosine, sine


def _center(draw: Array, span: int, side: int) -> Array:
    """Where the object's center lies along a side of `span` pixels, in units of the shorter one."""
    return (0.24 + 0.52 * draw) * span / side


def _rgb(hue: Array, saturation: Array | float, value: Array | float) -> Array:
    """HSV in [0, 1] (the hue wraps) to RGB `[n, 3]`."""
    steps = (5.0, 3.0, 1.0)
    channels = []
    for step in steps:
        k = (step + 6 * hue) % 6
        channels.append(value - value * saturation * np.clip(np.minimum(k, 4 - k), 0.0, 1.0))
    return np.stack(channels, -1)


def _mix(one: Array, two: Array, share: Array) -> Array:
    return one + (two - one) * share


def _c(values: Array) -> Array:
    """Per-scene values `[n]` or colors `[n, 3]` shaped to broadcast over pixels."""
    return values[:, None, None] if values.ndim == 1 else values[:, None, None, :]


def _row(values: Array) -> Array:
    """Per-frame values `[n]` shaped to broadcast over points."""
    return values[:, None]


def contact_sheet(scenes: Sequence[Sample], columns: int = 8) -> Image.Image:
    """Scenes side by side, each above its mask."""
    width, height = scenes[0].image.size
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (columns * width, rows * 2 * height))
    for number, scene in enumerate(scenes):
        assert scene.mask is not None
        place = (number % columns * width, number // columns * 2 * height)
        sheet.paste(scene.image, place)
        sheet.paste(Image.fromarray((scene.mask > 0).astype(np.uint8) * 255), (place[0], place[1] + height))
    return sheet
