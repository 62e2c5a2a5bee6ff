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
    told = [text.get_text() for text in axes.get_legend().get_texts()]
    # Triangles and trapezoids by hand: 0.1 of 10, 0.4 of 45, 0.5 of 85 are 61.5 in the mean of "recall".
    assert told == ["dino, learned classes, 65.0", "dino, 61.5", "center, 55.8", "random, 50.0"]


def test_lines_that_cover_each_other_differ_in_more_than_color():
    lines = {f"ranker {number}": Curve(TABLE["keep"], TABLE["recall"]) for number in range(9)} | {
        "_$a$": Curve([1], [9])
    }
    figure = recall_figure(lines)
    axes = figure.axes[0]
    looks = {
        (line.get_color(), line.get_linestyle(), str(line._dash_pattern), line.get_marker()) for line in axes.lines
    }
    assert len(looks) == 11
    neighbors = zip(axes.lines[:-2], axes.lines[1:-1])
    assert all(one.get_marker() != other.get_marker() for one, other in neighbors)
    assert axes.get_legend() is None  # there is no room below the diagonal for so many
    (legend,) = figure.legends
    assert [text.get_text().rpartition(", ")[2] for text in legend.get_texts()] == ["61.5"] * 9 + ["50.0", "4.5"]


def test_pictures():
    lines = lines_of(TABLE)
    assert recall_curve(lines, size=(3, 2)).size == (300, 200)
    assert recall_curve(lines).mode == "RGB"
    assert recall_curve(lines, look="both").mode == "RGBA"
    with pytest.raises(ValueError, match="at least one line"):
        recall_curve({})
