from __future__ import annotations

import pytest

from vitrail.viz.curves import Curve
from vitrail.viz.recall_curve import lines_of, recall_curve, recall_figure

TABLE = {
    "keep": [0.1, 0.5, 1.0],
    "kept": [1.0, 5.0, 10.0],
    "recall": [20.0, 70.0, 100.0],
    "recall_learned": [25.0, 75.0, 100.0],
    "center": [15.0, 60.0, 100.0],
    "random": [10.0, 50.0, 100.0],
}


def test_the_lines_of_a_report():
    lines = lines_of(TABLE, "dino")
    assert list(lines) == ["dino", "dino, learned classes", "center"]
    assert lines["dino, learned classes"] == Curve([0.1, 0.5, 1.0], [25.0, 75.0, 100.0])
    assert list(lines_of(TABLE, "center")) == ["center", "center, learned classes"]


def test_lines_and_the_diagonal():
    axes = recall_figure(lines_of(TABLE, "dino")).axes[0]
    assert [line.get_label() for line in axes.lines] == ["dino", "dino, learned classes", "center", "random"]
    assert list(axes.lines[0].get_ydata()) == [20, 70, 100]
    assert (list(axes.lines[3].get_xdata()), list(axes.lines[3].get_ydata())) == ([0, 1], [0, 100])
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1), (0, 100))
    assert [text.get_text() for text in axes.get_legend().get_texts()][-1] == "random"


def test_pictures():
    lines = lines_of(TABLE)
    assert recall_curve(lines, size=(3, 2)).size == (300, 200)
    assert recall_curve(lines).mode == "RGB"
    assert recall_curve(lines, look="both").mode == "RGBA"
    with pytest.raises(ValueError, match="at least one line"):
        recall_curve({})
