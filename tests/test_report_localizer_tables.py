"""Tables of localizers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from evaluation_doubles import ListSet
from object_scenes import squares

from vitrail.data import Cub, Wsol
from vitrail.evaluation.result import Report
from vitrail.report.localizer_tables import class_table, number_table
from vitrail.report.published import CUB, IMAGENET, benchmark_of


def report(share: float = 0.75, threshold: Any = "held_out", **numbers: float) -> Report:
    details = {"chosen": {"loc": 0.25}, "centered_box": {"share": share, "chosen_on": "held-out images"}}
    return Report("localization", numbers, {"config": {"threshold": threshold}}, details)


def lines(table: str) -> dict[str, list[str]]:
    """Of each row its name and cells without tags."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table)
    found = {}
    for name, cells in rows:
        found[name] = [re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", cells)]
    return found


def heads(table: str) -> list[str]:
    return re.findall(r'<th scope="col">(.*?)</th>', table)


def test_numbers_stand_in_one_order_with_gaps() -> None:
    numbers = {"max_box_acc_v2_70": 1.0, "max_box_acc_v2": 2.0, "max_box_acc_v2_30": 3.0, "gt_known_loc": 51.26}
    table = number_table({"a": report(**numbers), "b": report(top1_loc=40.0, gt_known_loc=50.0, pxap=9.0)})
    assert heads(table) == [
        *("localizer", "", "GT-known Loc", "Top-1 Loc", "MaxBoxAccV2", "V2 at IoU 0.3", "V2 at IoU 0.7", "PxAP")
    ]
    assert lines(table)["a"] == ["threshold 0.25, held-out images", "51.3best", "–", "2.0", "3.0", "1.0", "–"]
    assert lines(table)["b"][1:] == ["50.0", "40.0", "–", "–", "–", "9.0"]


def test_the_best_is_marked_where_digits_that_are_written_differ() -> None:
    same = number_table({"a": report(gt_known_loc=50.04), "b": report(gt_known_loc=49.96)})
    assert 'class="best"' not in same
    assert 'class="best"' not in number_table({"a": report(gt_known_loc=50.0)})


def test_floors_stand_once_where_they_are_equal() -> None:
    floors = {"gt_known_loc": 60.0, "max_box_acc": 61.0, "floor_whole_image": 20.0, "floor_centered_box": 50.0}
    table = lines(number_table({"a": report(**floors), "b": report(**floors | {"floor_whole_image": 20.01})}))
    assert table["whole image"] == ["", "20.0", "20.0"]
    assert table["centered box"] == ["75 % of both sides, chosen on held-out images", "50.0", "50.0"]
    apart = number_table({"a": report(**floors), "b": report(**floors | {"floor_whole_image": 21.0})})
    assert re.findall("whole image</th><td.*?>(.*?)</td>", apart) == [" for a", " for b"]


@pytest.mark.parametrize(("threshold", "words"), [("test_set", "0.25, the measured images"), (0.25, "0.25, given")])
def test_where_the_threshold_comes_from(threshold: Any, words: str) -> None:
    assert words in number_table({"a": report(threshold=threshold, gt_known_loc=1.0)})


def test_masks_alone_have_no_threshold() -> None:
    alone = Report("localization", {"pxap": 30.0}, {"config": {"threshold": "held_out"}}, {})
    assert lines(number_table({"a": alone}))["a"] == ["", "30.0"]


def test_published_numbers_are_marked_as_such() -> None:
    table = number_table({"a": report(top1_loc=99.0, gt_known_loc=99.0, top1_cls=99.0)}, CUB)
    assert "published, CUB-200-2011" in table
    assert lines(table)["LocLoc"] == ["ViT-S/16", "–", "84.4", "–", "85.8"]
    assert lines(table)["SCM"] == ["DeiT-S", "96.6", "76.4", "91.6", "78.5"]
    assert lines(number_table({"a": report(gt_known_loc=9.0)}, CUB))["a"][1:] == ["9.0", "–", "–", "–"]
    assert "published" not in number_table({"a": report(top1_loc=99.0)})
    for row in (*CUB.rows, *IMAGENET.rows):
        bounds = [row.numbers[name] for name in ("top1_loc", "top5_loc", "gt_known_loc") if name in row.numbers]
        assert bounds == sorted(bounds)
        assert row.numbers["top1_loc"] <= row.numbers.get("top1_cls", 100)


def test_names_tell_the_benchmark() -> None:
    data = squares(2)
    assert benchmark_of(data) is None
    assert benchmark_of(ListSet(data.samples, ("001.Albatross", "002.Gull", "003.Wren"))) is CUB
    named = [sample._replace(path=f"/x/ILSVRC2012_val_0000000{n}.JPEG") for n, sample in enumerate(data.samples)]
    assert benchmark_of(ListSet(named, ("n01440764", "n01443537"))) is IMAGENET
    assert benchmark_of(ListSet(data.samples, ("n01440764", "n01443537"))) is None
    assert benchmark_of(ListSet(data.samples, None)) is None


def test_real_data_are_recognized(real_data: Any) -> None:
    cub: Path = real_data("cub-mini")
    assert benchmark_of(Cub(cub, "test")) is benchmark_of(Wsol(cub, "test")) is CUB
    assert benchmark_of(Wsol(real_data("in1k-mini"), "val")) is IMAGENET


def test_classes_in_the_order_of_the_first_localizer() -> None:
    first = [
        {"class": "b<c", "images": 3, "mean_iou": 0.123, "gt_known_loc": 10.0, "top1_loc": 5.0, "top1_cls": 50.0},
        {"class": "a", "images": 2, "mean_iou": 0.5, "gt_known_loc": 20.0, "top1_loc": 6.0, "top1_cls": 51.0},
    ]
    second = [{"class": "a", "images": 2, "mean_iou": 0.25, "gt_known_loc": 0.0}]
    table = class_table({"x": first, "y": second})
    names = ["GT-known Loc", "Top-1 Loc", "Top-1 Cls", "mean IoU"]
    assert heads(table) == ["class", "images", *(f"x: {name}" for name in names), "y: GT-known Loc", "y: mean IoU"]
    assert list(lines(table).items()) == [
        ("b&lt;c", ["3", "10.0", "5.0", "50.0", "0.12", "–", "–"]),
        ("a", ["2", "20.0", "6.0", "51.0", "0.50", "0.0", "0.25"]),
    ]
    assert heads(class_table({"y": second})) == ["class", "images", "GT-known Loc", "mean IoU"]
