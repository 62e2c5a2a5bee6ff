import pytest
from evaluation_doubles import MeanBackbone
from painted import painted

from vitrail.evaluation.fcn_seg import PRESETS, FcnSegConfig, evaluate

QUICK = {"image_size": 24, "samples": 3200, "batch_size": 16, "width": 16}


def test_it_learns_colors_and_borders() -> None:
    report = evaluate(MeanBackbone(), painted(60), painted(12, seed=1), FcnSegConfig.parse(QUICK))
    # One logit vector a patch cannot meet the borders of cells after enlarging; a map of 24 x 24 can.
    assert report.numbers["fcn_seg_miou"] > 85
    assert report.numbers["floor_majority_miou"] < 20
    assert report.protocol == report.card["protocol"] == "fcn_seg"
    assert report.details["loss"][-1][1] < report.details["loss"][0][1]


def test_crops() -> None:
    settings = QUICK | {"preset": "voc", "crop_size": 16, "samples": 48, "learning_rates": [1e-3]}
    config = FcnSegConfig.parse(settings)
    first, again = (evaluate(MeanBackbone(), painted(8), painted(4, seed=1), config) for _ in range(2))
    assert first.numbers == again.numbers
    assert "width = 16 (standard null)" in first.card["deviations"]


def test_presets() -> None:
    voc = FcnSegConfig(preset="voc").settings()
    assert (voc.samples, voc.final_rate, voc.learning_rates) == (400_000, 1e-4, (1e-4, 1e-3, 3e-3, 1e-2))
    assert FcnSegConfig(preset="cityscapes").settings().steps(2975) == 6250
    assert PRESETS["features"].crop_size == 0
    with pytest.raises(ValueError, match="width"):
        FcnSegConfig.parse({"width": 0})
