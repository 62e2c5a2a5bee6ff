"""What a terminal shows of a report."""

from __future__ import annotations

from vitrail.data import EvalTransformConfig, SyntheticScenes
from vitrail.evaluation.result import Report, make_card
from vitrail.recipes.tell import recall_table, told

CURVES = {
    "keep": [0.05, 0.5, 1.0],
    "kept": [9.0, 98.0, 196.0],
    "recall": [6.04, 61.25, 100.0],
    "recall_learned": [7.0, 62.0, 100.0],
    "recall_unseen": [5.0, 60.0, 100.0],
    "center": [8.0, 64.0, 100.0],
    "random": [4.59, 50.0, 100.0],
    "random_drawn": [1.0, 2.0, 3.0],
    "random_drawn_error": [0.1, 0.2, 0.3],
}


def test_recall_is_a_table_with_a_line_for_each_share() -> None:
    assert recall_table(CURVES) == [
        "kept  patches  recall  learned  unseen  center  random",
        "0.05        9     6.0      7.0     5.0     8.0     4.6",
        " 0.5       98    61.2     62.0    60.0    64.0    50.0",
        "   1      196   100.0    100.0   100.0   100.0   100.0",
    ]


def test_numbers_come_before_the_card() -> None:
    how = {"layer": "last", "token": "CLS", "averaging": "mean", "weights": "none", "config": {}, "backbone": None}
    data, seen = {"val": SyntheticScenes(2, image_size=24)}, EvalTransformConfig(image_size=24)
    for protocol, details, first in (
        ("patch_recall", {"curves": CURVES}, "kept  patches"),
        ("knn", {}, "top1                         12.346"),
    ):
        card = make_card(protocol=protocol, source="here", data=data, transform=seen, **how)  # type: ignore[arg-type]
        lines = told(Report(protocol, {"top1": 12.3456}, card, details))
        assert lines[0].startswith(first)
        assert lines[-1].endswith("digest of the weights none")
        assert f"{protocol} (here)" in lines
