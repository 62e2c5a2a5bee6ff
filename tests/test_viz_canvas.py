from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz import canvas


def test_normalization_is_taken_back():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    levels = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    pixels = (levels / 255 - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
    image = canvas.to_image(pixels, mean, std)
    assert image.mode == "RGB"
    assert image.size == (7, 5)
    assert np.array_equal(np.asarray(image), levels.permute(1, 2, 0).numpy())
    assert np.array_equal(np.asarray(canvas.to_image(levels)), levels.permute(1, 2, 0).numpy())


def test_out_of_range_pixels_are_clipped_and_gray_becomes_rgb():
    image = canvas.to_image(torch.tensor([[[-1.0, 0.5, 2.0]]], dtype=torch.float16))
    assert np.asarray(image)[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (torch.zeros(2, 3, 4, 4), "take one image"),
        (torch.zeros(4, 4), "take one image"),
        (torch.zeros(3, 0, 4), "take one image"),
        (torch.full((3, 2, 2), torch.nan), "NaN"),
    ],
)
def test_what_is_no_image(pixels, words):
    with pytest.raises(ValueError, match=words):
        canvas.to_image(pixels)


def test_mean_and_std_come_together():
    with pytest.raises(ValueError, match="both"):
        canvas.to_image(torch.zeros(3, 2, 2), mean=(0, 0, 0))


def test_to_unit():
    assert canvas.to_unit(np.array([1.0, 2.0, 3.0])).tolist() == [0, 0.5, 1]
    assert canvas.to_unit(np.array([1.0, 2.0, 9.0]), 1, 3).tolist() == [0, 0.5, 1]
    assert canvas.to_unit(np.full(3, 7.0)).tolist() == [0, 0, 0]
    assert canvas.to_unit(np.array([-1.7e308, 0.0, 1.7e308])).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("smooth", [False, True])
def test_enlarged_maps_keep_their_range_and_place(smooth):
    values = np.zeros((3, 5))
    values[2, 4] = 1
    large = canvas.enlarge(values, (50, 30), smooth)
    assert large.shape == (30, 50)
    assert large.min() == 0
    assert large.max() == pytest.approx(1, abs=0.05)
    assert np.unravel_index(large.argmax(), large.shape) >= (20, 40)
    if not smooth:
        assert set(np.unique(large)) == {0.0, 1.0}
        assert large[20:, 40:].all()


def test_fit_keeps_the_proportions():
    assert canvas.fit(Image.new("L", (400, 200)), 100).size == (100, 50)
    assert canvas.fit(Image.new("L", (48, 48)), 100).mode == "RGB"
    assert canvas.fit(Image.new("RGB", (1000, 1)), 10).size == (10, 1)


def test_a_sheet_holds_every_picture_where_it_belongs():
    red, blue = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (30, 10), "blue")
    sheet = canvas.sheet([[red, None], [blue, red]], gap=10)
    assert sheet.mode == "RGB"
    assert sheet.size == (10 + 30 + 10 + 20 + 10, 10 + 10 + 10 + 10 + 10)
    assert sheet.getpixel((10, 10)) == (255, 0, 0)
    assert sheet.getpixel((10, 30)) == (0, 0, 255)
    assert sheet.getpixel((50, 30)) == (255, 0, 0)
    assert sheet.getpixel((50, 10)) == canvas.PAPER.background


def test_captions_and_titles_take_room_and_ink():
    pane = Image.new("RGB", (120, 40), "red")
    bare = canvas.sheet([[pane]])
    full = canvas.sheet([[pane]], captions=[["head 3, λ"]], row_titles=["row"], column_titles=["column"])
    assert full.width > bare.width
    assert full.height > bare.height
    dark = np.asarray(full).min(2) < 120
    x, y = [offset for offset in (full.width - 130, full.height)]
    assert dark[:, : x - 5].any()  # the row title
    assert dark[y - 25 :, x:].any()  # the caption
    long = canvas.sheet([[pane]], captions=[["word " * 40]])
    assert long.width == bare.width
    assert long.height > full.height
    unbroken = canvas.sheet([[pane]], captions=[["x" * 200]])
    assert unbroken.width == bare.width
    assert unbroken.height > full.height


def test_words_below_narrow_pictures_stay_whole(monkeypatch: pytest.MonkeyPatch):
    """The column is as wide as its longest word, that above it, too; a file name alone is cut."""
    narrow = Image.new("RGB", (20, 40), "red")
    told: list[str] = []
    right = canvas._lines
    monkeypatch.setattr(canvas, "_lines", lambda *a: told.extend(found := right(*a)) or found)
    canvas.sheet([[narrow, narrow]], captions=[["19\u00a0% uncertain", "is"]], column_titles=["trimap", "attention"])
    assert told == ["19\u00a0%", "uncertain", "is", "trimap", "attention"]
    told.clear()
    wide = canvas.sheet([[narrow]], captions=[["x" * 200]])
    assert wide.width == 20 + 9 * 13
    assert "".join(told) == "x" * 200


def test_long_names_break_after_their_parts():
    lines = canvas._lines("Rusty_Blackbird_0075_6717-attention.png of it", 120, 13)
    assert lines == ["Rusty_Blackbird_", "0075_6717-", "attention.png of it"]
    assert canvas._lines("a_b/c.d and e-f", 120, 13) == ["a_b/c.d and e-f"]
    assert canvas._lines("", 120, 13) == []
    assert "".join(canvas._lines("short_" + "x" * 90, 60, 13)) == "short_" + "x" * 90


def test_a_line_along_the_edge():
    picture = np.asarray(canvas.edged(Image.new("L", (5, 4), 255)))
    line = (picture == canvas.PAPER.faint).all(2)
    assert line.sum() == 2 * 5 + 2 * 4 - 4
    assert not line[1:-1, 1:-1].any()
    assert canvas.edged(Image.new("RGB", (3, 3)), canvas.LEAD).getpixel((0, 0)) == canvas.LEAD.faint


def test_the_same_sheet_every_time():
    pane = Image.new("RGB", (60, 40), "red")
    make = lambda: canvas.sheet([[pane, pane]], captions=[["a", "b"]], theme=canvas.LEAD)  # noqa: E731
    assert make().tobytes() == make().tobytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rows": []}, "at least one picture"),
        ({"rows": [[None]]}, "at least one picture"),
        ({"rows": [[1]], "captions": [["a", "b"]]}, "captions are shaped"),
        ({"rows": [[1]], "row_titles": ["a", "b"]}, "2 row titles for 1 rows"),
        ({"rows": [[1]], "column_titles": ["a", "b"]}, "2 column titles for 1 columns"),
    ],
)
def test_sheets_that_do_not_add_up(arguments, words):
    rows = [[Image.new("RGB", (5, 5)) if cell else None for cell in row] for row in arguments.pop("rows")]
    with pytest.raises(ValueError, match=words):
        canvas.sheet(rows, **arguments)


def test_wrapping():
    panes = [Image.new("RGB", (20, 20), "red")] * 5
    assert canvas.wrapped(panes, [""] * 5, 2).size == (10 + 2 * 30, 10 + 3 * (20 + 1 + 10))
    with pytest.raises(ValueError, match="5 pictures but 1 captions"):
        canvas.wrapped(panes, [""], 2)
    with pytest.raises(ValueError, match="columns is 0"):
        canvas.wrapped(panes, [""] * 5, 0)
