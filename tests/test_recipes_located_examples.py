"""Hits and misses of a localizer, looked at again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_doubles import ListSet
from object_scenes import squares
from saturated import Saturated

from vitrail.evaluation.heat_maps import HeatMaps
from vitrail.evaluation.localization import LocalizationConfig, evaluate
from vitrail.evaluation.result import Report
from vitrail.recipes import located_examples
from vitrail.recipes.located_examples import galleries, spaced
from vitrail.viz.located_gallery import Example, located_gallery


def half_wrong(count: int = 12) -> ListSet:
    """Squares; every other image is annotated somewhere else."""
    data = squares(count)
    for index in range(0, count, 2):
        data.samples[index] = data.samples[index]._replace(boxes=np.array([[0.0, 0, 3, 3]]))
    return data


def measured(source: Any, data: ListSet, **settings: Any) -> Report:
    return evaluate(source, data, LocalizationConfig(threshold=0.5, image_size=32, **settings), device="cpu")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[list[Example]]:
    """What galleries are drawn of."""
    seen: list[list[Example]] = []

    def draw(examples: list[Example]) -> Any:
        seen.append(examples)
        return located_gallery(examples)

    monkeypatch.setattr(located_examples, "located_gallery", draw)
    return seen


def test_rows_that_are_shown() -> None:
    rows = [{"n": number} for number in range(11)]
    assert [row["n"] for row in spaced(rows, 3)] == [0, 5, 10]
    assert [row["n"] for row in spaced(rows, 2)] == [0, 10]
    assert [row["n"] for row in spaced(rows, 1)] == [0]
    assert spaced(rows, 20) == rows
    assert spaced(rows, 0) == spaced([], 3) == []


def test_hits_and_misses_by_falling_overlap(shown: list[list[Example]]) -> None:
    data, source = half_wrong(), Saturated()
    report = measured(source, data)
    hits, misses = galleries(source, data, report, 4, device="cpu")
    assert (hits.name, misses.name) == ("hits", "misses")
    assert hits.caption.startswith("4 of 6 hits, by falling IoU; found boxes at threshold 0.50 are yellow")
    for examples, few in zip(shown, (1.0, 0.5), strict=True):
        overlaps = [float(each.caption.split("IoU ")[1][:4]) for each in examples]
        assert overlaps == sorted(overlaps, reverse=True)
        assert max(overlaps) <= few
    rows = {row["index"]: row for row in report.details["per_image"]}
    first = shown[0][0]
    (index,) = [number for number, sample in enumerate(data.samples) if sample.image is first.image]
    assert (first.box, first.truth) == (rows[index]["box"], rows[index]["truth"])
    assert tuple(first.frame) == (0, 0, 32, 32)
    peak = first.map.flatten().argmax()
    left, top, right, bottom = rows[index]["box"]
    assert left <= peak % 32 < right
    assert top <= peak // 32 < bottom


def test_all_where_there_are_few_and_none_where_there_are_no_boxes() -> None:
    source, data = Saturated(), squares(3)
    (hits,) = galleries(source, data, measured(source, data), 4, device="cpu")
    assert hits.caption.startswith("All 3 hits")
    assert galleries(source, data, measured(source, data), 0, device="cpu") == []
    masks = ListSet([sample._replace(boxes=None) for sample in data.samples], data.classes)
    assert galleries(source, masks, measured(source, masks), 4, device="cpu") == []


def test_captions_name_what_the_image_was_taken_for(shown: list[list[Example]]) -> None:
    data = squares(3)
    data.samples[0] = data.samples[0]._replace(label=2)
    galleries(source := Saturated(), data, measured(source, data), 4, device="cpu")
    captions = [each.caption.splitlines() for each in shown[0]]
    assert sorted((first, last) for first, _, last in captions) == [
        ("blue", "class right"),
        ("blue", "taken for red"),
        ("green", "class right"),
    ]
    galleries(source := Saturated(says=False), data, measured(source, data), 4, device="cpu")
    assert all("class" not in each.caption for each in shown[1])


def test_a_miss_never_reads_as_a_hit(shown: list[list[Example]]) -> None:
    data, source = squares(1), Saturated()
    report = measured(source, data)
    report.details["per_image"][0] |= {"iou": 0.4999, "hit": False}
    galleries(source, data, report, 1, device="cpu")
    assert "IoU 0.49" in shown[0][0].caption


def test_labels_are_those_of_the_localizer() -> None:
    data, source = squares(3), Saturated(("blue", "green", "red"), says=False)
    report = measured(source, data)
    source.asked.clear()
    galleries(source, data, report, 3, device="cpu")
    order = [row["label"] for row in sorted(report.details["per_image"], key=lambda row: (-row["iou"], row["index"]))]
    assert source.asked == [[2 - label for label in order]]


def test_a_cropped_view_frames_the_map(shown: list[list[Example]]) -> None:
    data = squares(2, size=48)
    source = Saturated()
    report = evaluate(source, data, LocalizationConfig(preset="locloc", threshold=0.5, image_size=128), device="cpu")
    galleries(source, data, report, 2, device="cpu")
    frames = {tuple(round(side, 1) for side in each.frame) for examples in shown for each in examples}
    assert frames == {(3.0, 3.0, 45.0, 45.0)}  # 48 pixels to 146, the middle 128 of them


def test_heat_maps_are_read_again(tmp_path: Path, shown: list[list[Example]]) -> None:
    data = squares(3)
    for index, sample in enumerate(data.samples):
        values = np.asarray(sample.image).astype(np.float32)
        np.save(tmp_path / f"{index}.npy", np.ptp(values, axis=2))
    maps = HeatMaps(tmp_path)
    report = measured(maps, data)
    galleries(maps, data, report, 3, device="cpu")
    found = sum(len(examples) for examples in shown)
    assert found == 3
    assert all(each.map.shape == (32, 32) and each.map.max() > 100 for examples in shown for each in examples)
    (tmp_path / "0.npy").unlink()
    shown.clear()
    galleries(maps, data, measured(maps, data, allow_missing=True), 3, device="cpu")
    (lost,) = [each for examples in shown for each in examples if not each.map.any()]
    assert (lost.box, lost.caption) == (None, "red\nno box found")


def test_a_report_of_other_images_is_refused() -> None:
    source = Saturated()
    with pytest.raises(ValueError, match="measure again"):
        galleries(source, squares(3, seed=1), measured(source, squares(3)), 4, device="cpu")
