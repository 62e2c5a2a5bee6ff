from __future__ import annotations

import numpy as np
import pytest
from processes import python

from vitrail.viz.curves import Curve, curves_figure, curves_png, curves_svg, mean_and_band

ONE = Curve([0, 1, 2], [3.0, 2.0, 1.0])


def test_band_over_seeds():
    x, mean, low, high = mean_and_band([ONE, Curve([0, 1, 2], [5.0, 2.0, 0.0])])
    assert x.tolist() == [0, 1, 2]
    assert mean.tolist() == [4, 2, 0.5]
    assert low.tolist() == [3, 2, 0]
    assert high.tolist() == [5, 2, 1]


def test_seeds_with_other_steps_are_interpolated_where_they_overlap():
    x, mean, _, _ = mean_and_band([Curve([0, 1, 2, 3], [0, 1, 2, 3]), Curve([0.5, 2.5], [1.5, 3.5])])
    assert x.tolist() == [1, 2]
    assert mean.tolist() == [1.5, 2.5]


def test_gaps_stay_gaps():
    _, mean, _, _ = mean_and_band([Curve([0, 1, 2], [1.0, np.nan, 3.0])])
    assert np.isnan(mean).tolist() == [False, True, False]


@pytest.mark.parametrize("look", ["both", "light", "dark"])
def test_png(look):
    curves = {"baseline": ONE, "_with $SAR": [ONE, Curve([0, 1, 2], [5.0, 2.0, 0.5])]}
    picture = curves_png(curves, title="Loss", look=look, size=(4, 3), dots_per_inch=100)
    assert picture.size == (400, 300)
    assert picture.mode == ("RGBA" if look == "both" else "RGB")
    assert picture.tobytes() == curves_png(curves, title="Loss", look=look, size=(4, 3), dots_per_inch=100).tobytes()
    if look == "both":
        alpha = np.asarray(picture)[..., 3]
        assert alpha.min() == 0
        assert alpha.max() == 255


def test_svg_is_the_same_every_time():
    first = curves_svg({"a": ONE}, title="<loss> & more")
    assert first == curves_svg({"a": ONE}, title="<loss> & more")
    assert first.rstrip().endswith("</svg>")
    assert "<dc:date>" not in first


def test_logarithmic_axis_and_many_runs():
    curves = {f"run {n}": Curve([0, 1], [1.0 + n, 0.0]) for n in range(20)}
    figure = curves_figure(curves, log_y=True)
    assert figure.axes[0].get_yscale() == "log"
    assert len(figure.axes[0].get_legend().get_texts()) == 20
    curves_png({"one point": Curve([3], [1.0])})


def ticks(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def test_one_evaluation_has_one_mark():
    axes = curves_figure({"a": Curve([23], [13.667])}).axes[0]
    assert (ticks(axes.xaxis), ticks(axes.yaxis)) == (["23"], ["13.67"])
    axes = curves_figure({"a": Curve([23], [1.0]), "b": Curve([23], [2.0])}).axes[0]
    assert ticks(axes.xaxis) == ["23"]
    assert len(ticks(axes.yaxis)) > 2


def test_steps_have_whole_marks():
    axes = curves_figure({"a": Curve([20, 23], [1.0, 2.0])}).axes[0]
    assert all(place == round(place) for place in axes.get_xticks())
    between = curves_figure({"a": Curve([0.9, 1.1], [1.0, 2.0])}).axes[0]
    assert any(place != round(place) for place in between.get_xticks())


@pytest.mark.parametrize("count", [1, 4, 5, 12])
def test_many_names_stand_below_the_lines(count):
    figure = curves_figure({f"head {n}": Curve([0, 1], [n, n + 1.0]) for n in range(count)}, size=(4, 3))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    names, lines = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert (names.y1 < lines.y0) == (count > 4)
    assert names.x0 >= 0 <= names.y0
    assert names.x1 <= figure.get_window_extent().x1
    assert lines.height > 150  # of 300 pixels: names take room of their own
    none = curves_figure({"a": ONE}, legend="none").axes[0]
    assert none.get_legend() is None


@pytest.mark.parametrize(
    ("curves", "words"),
    [
        ({}, "at least one curve"),
        ({"a": []}, "a: give at least one curve"),
        ({"a": Curve([0, 1], [1.0])}, "as many of each"),
        ({"a": Curve([], [])}, "as many of each"),
        ({"a": Curve([1, 0], [1.0, 1.0])}, "ascend"),
        ({"a": Curve([0, 1], [np.nan, np.inf])}, "no finite value"),
        ({"a": [Curve([0, 1], [1, 1]), Curve([5, 6], [1, 1])]}, "no x in common"),
    ],
)
def test_what_cannot_be_drawn(curves, words):
    with pytest.raises(ValueError, match=words):
        curves_figure(curves)


def test_pyplot_is_never_imported():
    code = (
        "import sys, vitrail.viz.curves as c, vitrail.report.page\n"
        "assert 'matplotlib' not in sys.modules and 'jinja2' not in sys.modules\n"
        "c.curves_png({'a': c.Curve([0, 1], [1, 2])}); c.curves_svg({'a': c.Curve([0, 1], [1, 2])})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    python("-c", code)
