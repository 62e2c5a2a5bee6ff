from __future__ import annotations

import pytest

from vitrail.viz.alignment_curve import alignment_curve, alignment_figure

ROWS = {
    "tau1": {"tau": 1.0, "alignment": 2.0, "diversity": 3.0, "alignment_error": 0.1, "diversity_error": None},
    "tau0.1": {"tau": 0.1, "alignment": 1.0, "diversity": 1.5},
    "inverse_block": {"tau": None, "alignment": 2.5, "diversity": 2.6, "alignment_error": 0.2},
}


def test_curves_go_over_tau_and_other_masks_stand_beside():
    axes = alignment_figure(ROWS, floor=2.8).axes[0]
    alignment, diversity = axes.lines[:2]
    assert (list(alignment.get_xdata()), list(alignment.get_ydata())) == ([0.1, 1], [1, 2])
    assert (list(diversity.get_xdata()), list(diversity.get_ydata())) == ([0.1, 1], [1.5, 3])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "1", "inverse\nblock"]
    assert axes.get_xticks()[2] > 1
    assert [text.get_text().split(":")[0] for text in axes.get_legend().get_texts()] == [
        "alignment",
        "diversity",
        "two images, unmasked",
    ]
    assert axes.lines[-1].get_ydata() == [2.8, 2.8]
    assert axes.get_ylim()[0] == 0


def test_bars_are_two_standard_errors():
    axes = alignment_figure(ROWS).axes[0]
    bars = [collection.get_segments()[0] for collection in axes.collections]
    spans = [tuple(bar[:, 1].tolist()) for bar in bars]
    assert spans == [
        (1, 1),
        pytest.approx((1.8, 2.2)),
        pytest.approx((2.1, 2.9)),
        (1.5, 1.5),
        (3, 3),
        (2.6, 2.6),
    ]


def test_masks_without_a_tau_are_not_joined_by_a_line():
    figure = alignment_figure({"block": ROWS["inverse_block"], "amt": ROWS["inverse_block"]})
    assert figure.axes[0].lines[0].get_linestyle() == "None"
    assert figure.axes[0].get_xlabel() == "mask"


def test_pictures():
    assert alignment_curve(ROWS, size=(3, 2)).size == (300, 200)
    assert alignment_curve(ROWS).mode == "RGB"
    assert alignment_curve(ROWS, look="both").mode == "RGBA"


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="at least one"):
        alignment_curve({})
