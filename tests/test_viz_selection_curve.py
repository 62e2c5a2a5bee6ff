from __future__ import annotations

import pytest

from vitrail.viz.selection_curve import selection_curve, selection_figure


def row(ranker: str, keep: float, top1: float, speed: float | None) -> dict[str, object]:
    costs = {"gflops": 4 * keep, "gflops_ranker": 1.0, "images_per_second": 99.0}
    return {"ranker": ranker, "keep": keep, "top1": top1, **costs, "images_per_second_with_ranker": speed}


ROWS = [row("center", 0.5, 40.0, 30.0), row("center", 1.0, 60.0, 20.0), row("dino", 0.5, 50.0, 25.0)]
FULL = {"top1": 61.0, "gflops": 4.0, "images_per_second": 22.0}


def test_against_the_share_that_is_kept():
    axes = selection_figure(ROWS, FULL).axes[0]
    assert [line.get_label() for line in axes.lines] == ["center", "dino", "full image"]
    assert (list(axes.lines[0].get_xdata()), list(axes.lines[0].get_ydata())) == ([0.5, 1], [40, 60])
    assert list(axes.lines[2].get_ydata()) == [61, 61]


def test_against_speed_and_operations():
    axes = selection_figure(ROWS, FULL, over="speed").axes[0]
    assert (list(axes.lines[0].get_xdata()), list(axes.lines[0].get_ydata())) == ([20, 30], [60, 40])  # ascending
    star = axes.lines[3]
    assert (list(star.get_xdata()), list(star.get_ydata()), star.get_marker()) == ([22], [61], "*")
    axes = selection_figure(ROWS, FULL, over="gflops").axes[0]
    assert list(axes.lines[0].get_xdata()) == [3, 5]
    assert list(axes.lines[3].get_xdata()) == [4]


def test_pictures_and_errors():
    assert selection_curve(ROWS, FULL, size=(3, 2)).size == (300, 200)
    assert selection_curve(ROWS, FULL, look="both").mode == "RGBA"
    with pytest.raises(ValueError, match="at least one row"):
        selection_curve([], FULL)
    with pytest.raises(ValueError, match="no speed was measured"):
        selection_curve([row("center", 0.5, 1.0, None)], FULL, over="speed")
