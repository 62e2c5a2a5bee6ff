"""Sheets of corruptions, and bars of what they cost."""

from __future__ import annotations

import numpy as np
import pytest
from photos import photo
from PIL import Image

from vitrail.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from vitrail.viz.robustness import corruption_bars, corruption_figure, corruption_sheet

ROWS = [
    {"corruption": name, "error": 40.0 + place, "errors": {str(s): 20.0 + 10 * s + place for s in SEVERITIES}}
    for place, name in enumerate(CORRUPTIONS)
]


def test_the_sheet_shows_every_corruption_at_every_severity() -> None:
    image = photo(64, 64)
    sheet = np.asarray(corruption_sheet(Image.fromarray(image), cell=64))
    shown = {sheet[y : y + 64, x : x + 64].tobytes() for y, x in corners(sheet, 64)}
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            assert corrupt(image, name, severity).tobytes() in shown, (name, severity)
    assert image.tobytes() in shown
    titled = corruption_sheet(Image.fromarray(image), cell=64, title="a cat")
    assert titled.height > len(sheet)
    assert corruption_sheet(Image.fromarray(photo(40, 72)), cell=48).mode == "RGB"


def test_the_image_itself_stands_under_no_severity(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrail.viz import robustness

    given: list[tuple[list, dict]] = []
    right = robustness.sheet
    monkeypatch.setattr(robustness, "sheet", lambda rows, **more: given.append((rows, more)) or right(rows, **more))
    image = Image.fromarray(photo(64, 64))
    sheet = np.asarray(corruption_sheet(image, cell=64))
    (alone,) = [more for rows, more in given if len(rows) == 1]
    assert alone == {"row_titles": ["as it is"]}
    assert all(len(row) == 5 for rows, more in given for row in rows if "column_titles" in more)
    white = (sheet == 255).all(2)
    first = next(
        x for x in range(len(white[0])) if not white[10:74, x].all() and white[10:74, x - 10 : x].all() and x > 70
    )
    assert np.array_equal(sheet[10:74, first : first + 64], np.asarray(image))
    below = corrupt(np.asarray(image), "gaussian_noise", 1)
    column = sheet[84:, first : first + 64]
    assert any(np.array_equal(column[y : y + 64], below) for y in range(40))


def corners(sheet: np.ndarray, cell: int) -> list[tuple[int, int]]:
    """Where pictures may begin: right of a white column, and below a white line as wide as a picture."""
    blank = (sheet == 255).all(2)
    xs = [x for x in range(1, len(sheet[0]) - cell + 1) if blank[:, x - 1].mean() > 0.97 and blank[:, x].mean() < 0.6]
    places = [(y, x) for y in range(1, len(sheet) - cell + 1) for x in xs]
    return [(y, x) for y, x in places if blank[y - 1, x : x + cell].all() and not blank[y, x : x + cell].all()]


def test_bars_are_accuracies_side_by_side() -> None:
    other = [{"corruption": row["corruption"], "error": 60.0} for row in ROWS]
    figure = corruption_figure({"one": ROWS, "other": other}, {"one": 12.0, "other": None})
    axes = figure.axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([60.0 - place for place in range(15)] + [40.0] * 15)
    assert sorted(text.get_text() for text in axes.get_legend().get_texts()) == ["one", "one, clean images", "other"]
    assert axes.get_xticklabels()[0].get_text() == "gaussian noise"
    lines = [line for line in axes.lines if len(line.get_xdata()) == 5]
    assert len(lines) == 15  # of the other only means are known
    assert list(lines[0].get_ydata()) == pytest.approx([70, 60, 50, 40, 30])
    centers = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert all(a < b for a, b in zip(centers[:15], centers[15:]))


@pytest.mark.parametrize("look", ["both", "light", "dark"])
def test_pixels(look: str) -> None:
    picture = corruption_bars({"one": ROWS[:3]}, look=look, size=(4, 3))  # type: ignore[arg-type]
    assert picture.size == (400, 300)
    assert picture.mode == ("RGBA" if look == "both" else "RGB")


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="no corruption to draw"):
        corruption_figure({"one": []})
