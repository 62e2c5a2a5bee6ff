from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from vitrail.ops.grabcut import OBJECT, UNCERTAIN, grabcut_mask, resized_attention, trimap


def ellipse(side: int = 96, seed: int = 0, tight: float = 3.25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An ellipse of one color on another with noise, which pixels it covers, and attention that falls off from it."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    distance = ((x - 0.52) / 0.22) ** 2 + ((y - 0.48) / 0.33) ** 2
    truth = distance < 1
    noise = np.random.default_rng(seed).normal(0, 20, (side, side, 3))
    image = np.where(truth[..., None], [180, 90, 60], [60, 120, 150]) + noise
    return image.clip(0, 255).astype(np.uint8), truth, np.exp(-tight * distance)


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    found = found.astype(bool)
    return float((found & truth).sum() / (found | truth).sum())


class TestTrimap:
    def test_thresholds_belong_to_the_upper_side(self) -> None:
        values = np.array([[0.0, 0.029, 0.03], [0.099, 0.1, 1.0]])
        assert trimap(values).tolist() == [[0, 0, 2], [2, 1, 1]]
        assert trimap(values, 0.03, 0.03).tolist() == [[0, 0, 1], [1, 1, 1]]  # nothing is uncertain
        assert trimap(values).dtype == np.uint8

    def test_what_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"low is 0\.2 and high 0\.1; thresholds are"):
            trimap(np.zeros((2, 2)), 0.1, 0.2)
        with pytest.raises(ValueError, match=r"attention runs from nan to nan"):
            trimap(np.array([[0, np.nan]]))
        with pytest.raises(ValueError, match=r"runs from 0 to 2; it must lie in \[0, 1\]"):
            trimap(np.array([[0, 2.0]]))
        with pytest.raises(ValueError, match=r"attention is \[3\] of float64"):
            trimap(np.zeros(3))
        with pytest.raises(ValueError, match=r"of int64; give floating point"):
            trimap(np.zeros((2, 2), np.int64))


class TestGrabcut:
    def test_equals_a_direct_call_of_opencv(self) -> None:
        for iterations in (1, 3):
            image, _, attention = ellipse(seed=iterations)
            marks = np.where(attention >= 0.1, 1, np.where(attention < 0.03, 0, 2)).astype(np.uint8)
            cv2.setRNGSeed(0)
            cv2.grabCut(
                cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
                marks,
                None,
                np.zeros((1, 65)),
                np.zeros((1, 65)),
                iterations,
                cv2.GC_INIT_WITH_MASK,
            )
            found = grabcut_mask(image, attention, iterations=iterations)
            assert np.array_equal(found.enhanced, (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD))
            assert found.fallback == ""

    def test_sure_pixels_never_change_and_masks_are_zeros_and_ones(self) -> None:
        generator = np.random.default_rng(1)
        for _ in range(5):
            image = generator.integers(0, 256, (40, 30, 3), dtype=np.uint8)
            attention = resized_attention(generator.random((5, 4)) ** 4, (40, 30))
            found, marks = grabcut_mask(image, attention), trimap(attention)
            assert set(np.unique(marks)) == {0, 1, 2}
            sure = marks != UNCERTAIN
            assert np.array_equal(found.enhanced[sure], marks[sure] == OBJECT)
            assert set(np.unique(found.enhanced)) <= {0, 1}
            assert np.array_equal(found.plain, attention >= 0.05)
            assert found.enhanced.dtype == found.plain.dtype == np.uint8

    @pytest.mark.parametrize("side", [96, 256])
    def test_is_nearer_to_the_truth_than_thresholds(self, side: int) -> None:
        image, truth, attention = ellipse(side)
        found = grabcut_mask(image, attention)
        assert iou(found.enhanced, truth) > 0.87
        assert iou(attention >= 0.1, truth) < 0.715
        assert iou(found.enhanced, truth) > iou(found.plain, truth)

    def test_the_same_again_and_in_threads(self) -> None:
        image, _, attention = ellipse(seed=3)
        first = grabcut_mask(image, attention).enhanced
        cv2.setRNGSeed(7)
        assert np.array_equal(grabcut_mask(image, attention).enhanced, first)
        with ThreadPoolExecutor(2) as pool:
            for found in pool.map(lambda _: grabcut_mask(image, attention).enhanced, range(4)):
                assert np.array_equal(found, first)

    def test_attention_of_patches_is_resized_as_its_cells_lie(self) -> None:
        cells = np.array([[0.0, 1.0]], np.float32)
        assert resized_attention(cells, (1, 4)).tolist() == [[0, 0.25, 0.75, 1]]
        image, _, attention = ellipse()
        small = attention.reshape(8, 12, 8, 12).mean((1, 3)) / attention.max()
        large = resized_attention(small, (96, 96))
        assert np.array_equal(grabcut_mask(image, small).enhanced, grabcut_mask(image, large).enhanced)

    def test_nothing_is_left_over_between_calls(self) -> None:
        image, _, attention = ellipse()
        kept = image.copy(), attention.copy()
        grabcut_mask(image, attention)
        assert np.array_equal(image, kept[0])
        assert np.array_equal(attention, kept[1])


class TestCorners:
    def test_without_two_sides_it_is_the_plain_mask_and_says_so(self) -> None:
        image, _, _ = ellipse(16)
        cases = {
            "no pixel reaches 0.1, so there are no two sides": np.zeros((16, 16)),
            "no pixel reaches 0.1, so": np.full((16, 16), 0.06),  # uncertain alone
            "every pixel reaches 0.1, so": np.ones((16, 16)),
        }
        for words, attention in cases.items():
            found = grabcut_mask(image, attention)
            assert found.fallback.startswith(words)
            assert np.array_equal(found.enhanced, found.plain)
            assert np.array_equal(found.plain, attention >= 0.05)
        assert grabcut_mask(image, np.full((16, 16), 0.2), high=0.3, low=0.2, threshold=0.2).plain.all()

    @pytest.mark.parametrize("colors", ["constant", "gray ramp"])
    def test_where_colors_tell_nothing_uncertain_pixels_stay_background(self, colors: str) -> None:
        ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 1, 3))
        image = np.full((64, 64, 3), 128, np.uint8) if colors == "constant" else ramp
        attention = np.zeros((64, 64))
        attention[20:40, 20:40], attention[15:20, 20:40] = 1, 0.05
        found = grabcut_mask(image, attention)
        assert found.fallback == ""
        assert np.array_equal(found.enhanced, attention == 1)

    def test_a_gray_image_with_an_object(self) -> None:
        image, truth, attention = ellipse()
        gray = np.repeat(np.where(truth[..., None], 200, 60).astype(np.uint8), 3, axis=2)
        assert iou(grabcut_mask(gray, attention).enhanced, truth) == 1
        assert image.shape == gray.shape

    @pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2, 2), (3, 5)])
    def test_a_tiny_image(self, shape: tuple[int, int]) -> None:
        attention = np.zeros(shape)
        attention.flat[0] = 1
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        assert np.array_equal(grabcut_mask(image, attention).enhanced, attention == 1)
        assert grabcut_mask(image[:1, :1], attention[:1, :1]).fallback  # one pixel has one side

    def test_what_is_refused(self) -> None:
        image, _, attention = ellipse(16)
        for wrong in (image[..., 0], image.astype(np.float32), image[:0]):
            with pytest.raises(ValueError, match=r"GrabCut takes uint8 \[H, W, 3\], RGB"):
                grabcut_mask(wrong, attention)
        with pytest.raises(ValueError, match="attention runs from nan"):
            grabcut_mask(image, np.full((16, 16), np.nan))
        with pytest.raises(ValueError, match="threshold is 2; that of the plain mask"):
            grabcut_mask(image, attention, threshold=2)
        with pytest.raises(ValueError, match="iterations is 0"):
            grabcut_mask(image, attention, iterations=0)
