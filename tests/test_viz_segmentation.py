import numpy as np
import pytest
from PIL import Image

from vitrail.viz.canvas import LEAD
from vitrail.viz.segmentation import UNKNOWN, Segmented, color_of, colored, segmentation_sheet


def test_colors_are_those_of_voc() -> None:
    usual = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [color_of(label, background=True) for label in range(7)] == usual
    assert color_of(15, background=True) == (192, 128, 128)
    assert [color_of(label) for label in range(6)] == usual[1:]
    assert len({color_of(label) for label in range(255)}) == 255
    with pytest.raises(ValueError, match="class -1 has no color"):
        color_of(-1)


def test_a_map_in_colors() -> None:
    pixels = np.asarray(colored(np.array([[0, 2], [-1, 1]])))
    assert pixels.tolist() == [
        [list(color_of(0)), list(color_of(2))],
        [list(UNKNOWN), list(color_of(1))],
    ]
    assert colored(np.full((2, 3), -1)).size == (3, 2)
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        colored(np.array([0, 1]))


def rows(count: int = 2, classes: int = 3) -> list[Segmented]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        truth = rng.integers(-1, classes, (6, 8))
        found.append(
            Segmented(Image.new("RGB", (80, 60), (9, 9, 9)), truth, rng.integers(0, classes, (3, 4)), f"n{number}")
        )
    return found


def test_the_sheet_shows_image_truth_and_prediction() -> None:
    sheet = np.asarray(segmentation_sheet(rows(), ("sky", "road", "car"), cell=80)).reshape(-1, 3)
    found = {tuple(color) for color in sheet.tolist()}
    assert found >= {color_of(0), color_of(1), color_of(2), UNKNOWN, (9, 9, 9)}
    dark = segmentation_sheet(rows(), ("sky", "road", "car"), cell=80, theme=LEAD)
    assert np.asarray(dark)[0, 0].tolist() == list(LEAD.background)


def test_the_legend_leaves_out_the_smallest_classes() -> None:
    names = [f"class {number}" for number in range(40)]
    few, many = (segmentation_sheet(rows(classes=40), names, cell=80, most=most) for most in (2, 40))
    assert many.height > few.height
    assert many.width == few.width


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        segmentation_sheet([], ("a",))
    with pytest.raises(ValueError, match="holds the class 2, and there are names for 0 to 1"):
        segmentation_sheet(rows(), ("a", "b"))
