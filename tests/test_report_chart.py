from __future__ import annotations

import math

import pytest

from vitrail.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, make_chart, nice_ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.3, 2.1), (-5, 5), (0, 1e-6), (1e6, 3e6), (99.99, 100.0)])
def test_ticks_are_few_round_and_inside(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    slack = 1e-6 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in ticks)


def test_lines_stay_inside_the_frame_and_keep_their_values():
    chart = make_chart("loss", "epoch", [([0, 1, 2], [3.0, 2.0, 1.0]), None, ([0, 2], [5.0, 4.0])], ["a", "b", "c"])
    assert [line.run for line in chart.lines] == [0, 2]
    assert [point[2:] for point in chart.lines[0].points] == [[0, 3], [1, 2], [2, 1]]
    for line in chart.lines:
        for x, y, *_ in line.points:
            assert LEFT <= x <= WIDTH - RIGHT
            assert TOP <= y <= HEIGHT - BOTTOM
    assert "a 1" in chart.summary
    assert "c 4" in chart.summary


def test_charts_of_one_scale():
    small, large = ([0, 1], [1.0, 2.0]), ([0, 1], [1.0, 9.0])
    charts = [make_chart("a", "step", [one], ["a"], y_range=(1.0, 9.0)) for one in (small, large)]
    assert charts[0].y_ticks == charts[1].y_ticks
    assert charts[0].lines[0].points[0] == charts[1].lines[0].points[0]
    assert charts[0].lines[0].points[1][1] > charts[1].lines[0].points[1][1]  # lower on the page


def test_higher_values_stand_higher():
    points = make_chart("loss", "step", [([0, 1], [1.0, 2.0])], ["a"]).lines[0].points
    assert points[1][1] < points[0][1]


def test_nonfinite_values_are_gaps():
    y = [1.0, 2.0, math.nan, 3.0, math.inf, 4.0, 5.0]
    line = make_chart("loss", "step", [(list(range(7)), y)], ["a"]).lines[0]
    assert line.path.count("M") == 2
    assert len(line.dots) == 1
    assert len(line.points) == 5


@pytest.mark.parametrize("series", [[None], [([], [])], [([1.0], [math.nan])]])
def test_nothing_to_draw(series):
    assert make_chart("loss", "step", series, ["a"]) is None


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-30, 1e30])
def test_constant_curves_and_single_points(value):
    for x in ([0.0, 1.0], [3.0]):
        chart = make_chart("loss", "step", [(x, [value] * len(x))], ["a"])
        assert all(math.isfinite(number) for point in chart.lines[0].points for number in point)
        (y_tick,) = chart.y_ticks  # nothing else is to be read off
        assert y_tick.place == chart.lines[0].points[0][1]
        assert (len(chart.x_ticks) == 1) == (len(x) == 1)


def test_one_evaluation_has_one_mark():
    chart = make_chart("val/top1", "epoch", [([1.0], [13.667]), ([1.0], [14.5])], ["a", "b"])
    assert [tick.text for tick in chart.x_ticks] == ["1"]
    assert len(chart.y_ticks) > 1
    alone = make_chart("val/top1", "step", [([1200.0], [-13.667])], ["a"])
    assert [tick.text for tick in (*alone.x_ticks, *alone.y_ticks)] == ["1,200", "−13.67"]
    heads = make_chart("a", "step", [([5.0], [2.0])], ["a"], y_range=(1.0, 9.0))
    assert len(heads.y_ticks) > 1


def test_long_curves_are_averaged_and_say_so():
    x = [float(n) for n in range(1000)]
    chart = make_chart("loss", "step", [(x, x)], ["a"], most_points=100)
    assert len(chart.lines[0].points) == 100
    assert chart.gathered == 10
    assert chart.lines[0].points[0][2:] == [4.5, 4.5]
