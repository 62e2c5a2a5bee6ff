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
