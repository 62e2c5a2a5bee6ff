"""A mask of the object from a map of attention and the colors of the image: GrabCut between two thresholds.

    trimap    attention >= high   sure object            low <= attention < high   uncertain, at first background
              attention <  low    sure background

Gaussian mixtures of the colors of object and background, and a minimum cut of the grid of pixels, decide on the
uncertain pixels; sure ones never change. So the mask is the sure object, and of the uncertain rim what looks like it.
The plain mask, attention >= 0.05, is what PPD learns from.

Sources: Rother, Kolmogorov and Blake 2004, "GrabCut", as OpenCV computes it (5 Gaussians of full covariance a side,
gamma 50); thresholds and the one iteration as in LocLoc, Section 3.2 and Appendix A.

Deviations: none known; OpenCV's seed is set, so the same input gives the same mask. LocLoc puts the mask through PPD's
threshold once more, which leaves a mask of zeros and ones as it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

HIGH, LOW, PLAIN = 0.10, 0.03, 0.05
BACKGROUND, OBJECT, UNCERTAIN = 0, 1, 2
"""What a trimap holds: OpenCV's numbers of sure background, sure object and what is at first background."""


class ObjectMask(NamedTuple):
    """Two masks of one image."""

    enhanced: np.ndarray  # [H, W] uint8, 1 is the object: by GrabCut
    plain: np.ndarray  # [H, W] uint8, 1 is the object: attention over a threshold
    fallback: str = ""  # why `enhanced` is the plain mask, in words; empty where GrabCut decided


def trimap(attention: np.ndarray, high: float = HIGH, low: float = LOW) -> np.ndarray:
    """Say of each pixel whether it is surely object, surely background, or uncertain.

    Args:
        attention: `[H, W]`, floating point in [0, 1].
        high: from here on a pixel is `OBJECT` for sure.
        low: below, it is `BACKGROUND` for sure; between the two it is `UNCERTAIN`.

    Returns:
        uint8 `[H, W]` of these three.

    Raises:
        ValueError: attention of another shape, NaN or out of [0, 1], or thresholds that are not 0 <= low <= high <= 1.
    """
    if not 0 <= low <= high <= 1:
        raise ValueError(f"low is {low} and high {high}; thresholds are 0 <= low <= high <= 1, such as 0.03 and 0.10")
    _check_attention(attention)
    sure = np.where(attention >= high, OBJECT, BACKGROUND)
    return np.where((attention >= low) & (attention < high), UNCERTAIN, sure).astype(np.uint8)


def grabcut_mask(
    image: np.ndarray,
    attention: np.ndarray,
    *,
    high: float = HIGH,
    low: float = LOW,
    threshold: float = PLAIN,
    iterations: int = 1,
    seed: int = 0,
) -> ObjectMask:
    """Cut the object out of an image.

    Where the trimap has no sure object, or nothing but it, there are no two mixtures to fit: `enhanced` is the plain
    mask then, and `fallback` says why. A map that is 0 everywhere, as a constant one becomes, is such a case, with two
    empty masks. Images of one color, gray ones and those of a few pixels are cut as others are: where colors tell
    nothing, uncertain pixels stay background.

    Args:
        image: uint8 `[H, W, 3]`, RGB. The paper's are 256 x 256.
        attention: `[H, W]` in [0, 1], or of another size, which is resized to the image's, bilinearly.
        high, low: of the trimap.
        threshold: of the plain mask, in [0, 1].
        iterations: of GrabCut, each of which fits the mixtures and cuts, at least 1.
        seed: of the first clusters of colors; OpenCV's generator of this thread is left behind with it.

    Returns:
        `ObjectMask`, at the image's size.

    Raises:
        ValueError: an image that is not uint8 `[H, W, 3]`, attention as in `trimap`, or other numbers out of range.
    """
    _check(image, threshold, iterations)
    attention = resized_attention(attention, image.shape[:2])
    above = (attention >= threshold).astype(np.uint8)
    marks = trimap(attention, high, low)
    sure = int((marks == OBJECT).sum())
    if sure in (0, marks.size):
        what = f"no pixel reaches {high:g}" if not sure else f"every pixel reaches {high:g}"
        return ObjectMask(above.copy(), above, f"{what}, so there are no two sides to tell apart")
    return ObjectMask(_cut(image, marks, iterations, seed), above)


def resized_attention(attention: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map at (height, width), float32 and bilinear between the middles of its cells; checked as in `trimap`."""
    import cv2

    _check_attention(attention)
    values = np.ascontiguousarray(attention, np.float32)
    if values.shape == tuple(size):
        return values
    return np.asarray(cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))


def _cut(image: np.ndarray, marks: np.ndarray, iterations: int, seed: int) -> np.ndarray:
    import cv2

    cut: Any = cv2.grabCut  # without a rectangle, which its types ask for
    found, mixtures = marks.copy(), (np.zeros((1, 65)), np.zeros((1, 65)))
    cv2.setRNGSeed(seed)
    cut(np.ascontiguousarray(image[..., ::-1]), found, None, *mixtures, iterations, cv2.GC_INIT_WITH_MASK)
    return found & 1  # 1 is sure, 3 probable object


def _check(image: np.ndarray, threshold: float, iterations: int) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"the image is {list(image.shape)} of {image.dtype}; GrabCut takes uint8 [H, W, 3], RGB")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; that of the plain mask lies in [0, 1], as in 0.05")
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; GrabCut runs at least once")


def _check_attention(attention: np.ndarray) -> None:
    if attention.ndim != 2 or not attention.size or not np.issubdtype(attention.dtype, np.floating):
        raise ValueError(f"attention is {list(attention.shape)} of {attention.dtype}; give floating point [H, W]")
    low, high = float(attention.min()), float(attention.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # NaN included
        raise ValueError(
            f"attention runs from {low:.4g} to {high:.4g}; it must lie in [0, 1] and be finite, as of `mean_attention`"
        )
