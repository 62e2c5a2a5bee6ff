import numpy as np
import pytest
from PIL import Image

from vitrail.viz.video import OBJECTS, masked, video_curve, video_figure, video_sheet


def test_lines_and_their_styles() -> None:
    line = {"j": [90.0, 80.0, 70.0], "f": [60.0, 50.0, 40.0], "floor_j": [50.0, 40.0, 30.0]}
    figure = video_figure({"object 1": line, "object 2": {"j": [1.0], "f": [2.0]}})
    lines = figure.axes[0].lines
    assert [each.get_label() for each in lines[:4]] == ["object 1, J", "object 1, F", "object 2, J", "object 2, F"]
    assert list(lines[0].get_xdata()) == [1, 2, 3]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert list(lines[4].get_ydata()) == [50, 40, 30]
    assert video_curve({"mean": line}, x=[0, 0.5, 1], x_label="share").mode == "RGB"
    assert video_curve({"mean": line}, look="both").mode == "RGBA"
    with pytest.raises(ValueError, match="no object to draw"):
        video_figure({})


def test_masks_are_laid_over() -> None:
    ids = np.zeros((6, 8), np.uint8)
    ids[1:5, 2:7] = 2
    picture = np.array(masked(Image.new("RGB", (8, 6), (100, 100, 100)), ids, opacity=0.25))
    assert picture[0, 0].tolist() == [100, 100, 100]
    assert picture[1, 2].tolist() == list(OBJECTS[1])  # the line around
    inside = [round(100 * 0.75 + value * 0.25) for value in OBJECTS[1]]
    assert np.abs(picture[2, 4].astype(int) - inside).max() <= 1
    many = masked(Image.new("RGB", (8, 6)), np.where(ids > 0, len(OBJECTS) + 1, 0).astype(np.uint8))
    assert many.getpixel((2, 1)) == OBJECTS[0]
    with pytest.raises(ValueError, match="a mask of 8 x 6 px for a picture of 6 x 8 px"):
        masked(Image.new("RGB", (6, 8)), ids)


def test_sheet() -> None:
    frames, ids = [Image.new("RGB", (40, 20))] * 5, [np.ones((20, 40), np.uint8)] * 5
    sheet = video_sheet(frames, ids, [f"frame {t}" for t in range(5)], cell=80)
    assert sheet.width == 4 * 90 + 10
    with pytest.raises(ValueError, match="5 frames, 5 masks, 4 captions"):
        video_sheet(frames, ids, ["a"] * 4)
