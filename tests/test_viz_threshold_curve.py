"""Hits against the threshold."""

from __future__ import annotations

from typing import Any

import pytest

from vitrail.viz.threshold_curve import Line, lines_of, threshold_curve, threshold_figure

THRESHOLDS = [0.0, 0.25, 0.5, 0.75]
DETAILS: dict[str, Any] = {
    "thresholds": THRESHOLDS,
    "curves": {
        "largest": {"0.3": [60, 70, 50, 0], "0.5": [10, 30, 20, 0]},
        "all": {"0.3": [60, 75, 60, 0], "0.5": [10, 35, 40, 0]},
    },
    "held_out_curves": {"largest": {"0.3": [50, 60, 55, 0], "0.5": [5, 20, 25, 0]}, "all": {"0.3": [1, 2, 3, 4]}},
    "chosen": {"loc": 0.5, "max_box_acc": 0.5, "max_box_acc_v2": [0.25]},
}
CONFIG = {"ious": [0.3], "contour": "largest"}


def test_lines_have_the_thresholds_that_count_there() -> None:
    largest = lines_of(DETAILS, CONFIG, "largest")
    assert largest == {"IoU 0.3": Line([60, 70, 50, 0], [50, 60, 55, 0], None), "IoU 0.5": Line(*LARGEST, 0.5)}
    assert lines_of(DETAILS, CONFIG, "all")["IoU 0.3"] == Line([60, 75, 60, 0], [1, 2, 3, 4], 0.25)
    assert lines_of(DETAILS, CONFIG, "all")["IoU 0.5"].chosen is None
    best = DETAILS | {"chosen": {"loc": 0.75, "max_box_acc": 0.5, "max_box_acc_v2": [0.25]}}
    by_all = CONFIG | {"contour": "all"}
    assert lines_of(best, by_all, "all")["IoU 0.5"].chosen == 0.75
    assert lines_of(best, by_all, "largest")["IoU 0.5"].chosen == 0.5
    alone = lines_of(DETAILS | {"held_out_curves": None}, CONFIG, "largest")
    assert {line.held_out for line in alone.values()} == {None}


LARGEST = ([10, 30, 20, 0], [5, 20, 25, 0])


def test_what_is_drawn() -> None:
    axes = threshold_figure(THRESHOLDS, lines_of(DETAILS, CONFIG, "largest")).axes[0]
    solid = [line for line in axes.lines if line.get_linestyle() == "-" and line.get_marker() == "None"]
    assert [list(line.get_ydata()) for line in solid] == [[60, 70, 50, 0], LARGEST[0]]
    dashed = [list(line.get_ydata()) for line in axes.lines if line.get_label() == "_held out"]
    assert dashed == [[50, 60, 55, 0], LARGEST[1]]
    (dot,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([0.5], [20])
    assert dot.get_color() == solid[1].get_color() != solid[0].get_color()
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["IoU 0.3: 70.0 at 0.25, its highest", "IoU 0.5: 20.0 at 0.50", "dashed: held-out images"]
    alone = threshold_figure(THRESHOLDS, {"a": Line([1, 2, 3, 4])}).axes[0]
    assert [text.get_text() for text in alone.get_legend().get_texts()] == ["a: 4.0 at 0.75, its highest"]


def test_names_cover_no_line() -> None:
    figure = threshold_figure(THRESHOLDS, {f"localizer {n}": Line([100, 90, 95, 99]) for n in range(9)})
    figure.draw_without_rendering()
    axes = figure.axes[0]
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().y1 < axes.xaxis.label.get_window_extent().y0
    assert legend.get_window_extent().y0 >= 0


def test_pictures_and_errors() -> None:
    lines = lines_of(DETAILS, CONFIG, "largest")
    assert threshold_curve(THRESHOLDS, lines, size=(3, 2)).width == 300
    assert threshold_curve(THRESHOLDS, lines, look="both").mode == "RGBA"
    with pytest.raises(ValueError, match="at least one line"):
        threshold_curve(THRESHOLDS, {})
    with pytest.raises(ValueError, match="a has 2 values for 4 thresholds"):
        threshold_curve(THRESHOLDS, {"a": Line([1, 2])})
    with pytest.raises(ValueError, match="a has 3 values for 4 thresholds"):
        threshold_curve(THRESHOLDS, {"a": Line([1, 2, 3, 4], [1, 2, 3])})
    with pytest.raises(ValueError, match=r"a: 0.3 was chosen, which is none of the thresholds"):
        threshold_curve(THRESHOLDS, {"a": Line([1, 2, 3, 4], None, 0.3)})
