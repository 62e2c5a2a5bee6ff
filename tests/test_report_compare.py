from __future__ import annotations

import math

import pytest
from run_folders import make_run, write_report

from vitrail.data.corruptions import GROUPS
from vitrail.report import compare
from vitrail.report.collect import read_run


def _rows(groups, title):
    return {row.name: row for group in groups if group.title == title for row in group.rows}


def test_numbers_side_by_side(tmp_path):
    a = read_run(make_run(tmp_path / "a", jaccard=18.25))
    b = read_run(make_run(tmp_path / "b", jaccard=31.5))
    row = _rows(compare.number_groups([a, b]), "attention_jaccard")["jaccard"]
    assert [cell.text for cell in row.cells] == ["18.25", "31.50"]
    assert [cell.best for cell in row.cells] == [False, True]
    assert [cell.difference for cell in row.cells] == ["", "+13.25"]
    assert row.cells[1].verdict == "better"


def test_floors_and_entropies_have_no_best(tmp_path):
    a, b = read_run(make_run(tmp_path / "a")), read_run(make_run(tmp_path / "b"))
    write_report(tmp_path / "b", "attention_jaccard", {"jaccard": 1.0, "floor_whole_image": 99.0})
    b = read_run(tmp_path / "b")
    row = _rows(compare.number_groups([a, b]), "attention_jaccard")["floor_whole_image"]
    assert not any(cell.best for cell in row.cells)
    assert row.cells[1].verdict == ""


def test_two_evaluations_by_one_protocol_are_told_apart(tmp_path):
    folder = make_run(tmp_path / "a")
    one = read_run(folder)
    card = {"preset": "dino", "deviations": ["k = [5] (standard 20)"]}
    write_report(folder, "knn-dino-cars-a1b2c3", {"knn20_top1": 3.0}, **card)
    other = folder / "evaluation" / "knn-dino-cars-a1b2c3.json"
    other.write_text(other.read_text().replace('"protocol": "knn-dino-cars-a1b2c3"', '"protocol": "knn"'))
    both = read_run(folder)
    assert compare.heading([one], "knn") == compare.heading([both], "knn") == "knn"
    title = "knn (knn-dino-cars-a1b2c3): preset dino, k = [5] (standard 20)"
    assert compare.heading([one, both], "knn-dino-cars-a1b2c3") == title
    assert title in [group.title for group in compare.number_groups([one, both])]


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("knn20_top1", "higher"),
        ("best_top1", "higher"),
        ("val/loss", "lower"),
        ("train/cross_entropy", "lower"),
        ("train/spatial_entropy", ""),
        ("val/blobs", ""),
        ("train/views", ""),
        ("train/dense_alignment", ""),
        ("train/loss", "lower"),
        ("train/top1", "higher"),
        ("train/kendall", "higher"),
        ("floor_other_image", ""),
        ("seconds", ""),
        ("memory_gb (highest)", "lower"),
        ("images_per_second (median)", "higher"),
        ("intra_class", "higher"),
        ("inter_class", "lower"),
        ("inter_instance", "lower"),
        ("gap_instance", "higher"),
        ("crops_moved_correct", "higher"),
        ("crops_outside", "lower"),
        ("video_j", "higher"),
        ("video_f_decay", "lower"),
        ("mce", "lower"),
        ("mce_unnormalized", "lower"),
        ("relative_mce", "lower"),
        ("relative_mce_unnormalized", "lower"),
        ("clean_top1", "higher"),
        ("corrupted_top1", "higher"),
    ],
)
def test_directions(name, direction):
    assert compare.direction_of(name) == direction


@pytest.mark.parametrize("group", GROUPS)
def test_errors_by_groups_of_corruptions_are_lower_is_better(group):
    assert compare.direction_of(f"{group}_error") == "lower"


def test_equal_numbers_have_no_best_and_one_run_has_none(tmp_path):
    a, b = read_run(make_run(tmp_path / "a")), read_run(make_run(tmp_path / "b"))
    for records in ([a, b], [a]):
        for group in compare.number_groups(records):
            if not group.title.startswith("training"):
                assert not any(cell.best for row in group.rows for cell in row.cells)


def test_a_missing_number_leaves_an_empty_cell(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    (a / "evaluation" / "knn.json").unlink()
    row = _rows(compare.number_groups([read_run(a), read_run(b)]), "knn")["knn20_top1"]
    assert [cell.text for cell in row.cells] == ["", "70.12"]
    assert row.cells[1].difference == ""


def test_different_scoring_is_warned_about(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    groups = compare.number_groups([read_run(a), read_run(b)])
    assert not any(group.warnings for group in groups)  # weights differ, which is the point
    write_report(b, "knn", {"knn20_top1": 1.0}, resolution=224)
    groups = {group.title: group for group in compare.number_groups([read_run(a), read_run(b)])}
    assert "resolution" in groups["knn"].warnings[0]


def test_losses_of_different_methods_are_not_compared(tmp_path):
    a, b = make_run(tmp_path / "a", seed=1), make_run(tmp_path / "b")
    same = _rows(compare.number_groups([read_run(a), read_run(b)]), "training, last values")
    assert same["train/loss"].cells[1].best
    for folder, kind in ((a, "dino"), (b, "cotap")):
        (folder / "config.yaml").write_text(f"kind: {kind}\n")
    groups = compare.number_groups([read_run(a), read_run(b)])
    rows = _rows(groups, "training, last values")
    assert rows["train/loss"].direction == ""
    assert not any(cell.best or cell.verdict for cell in rows["train/loss"].cells)
    assert rows["val/top1"].direction == "higher"
    assert groups[-1].warnings == ["trained by different methods (dino, cotap): their losses do not compare"]


def test_different_lengths_are_warned_about(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", epochs=2)
    group = compare.number_groups([read_run(a), read_run(b)])[-1]
    assert group.warnings == ["trained for different lengths: 2 to 4 epochs"]


def test_seeds_are_gathered_with_their_spread(tmp_path):
    values = {"base-seed0": 10.0, "base-seed1": 14.0, "sar-seed0": 20.0, "sar-seed1": 30.0}
    records = []
    for name, jaccard in values.items():
        weight = 0.01 if name.startswith("sar") else None
        records.append(read_run(make_run(tmp_path / name, seed=int(name[-1]), jaccard=jaccard, weight=weight)))
    repeats = compare.repeated_runs(records)
    assert [(repeat.name, repeat.members) for repeat in repeats] == [("base", [0, 1]), ("sar", [2, 3])]
    row = _rows(compare.spread_groups(records, repeats), "attention_jaccard")["jaccard"]
    assert [cell.text for cell in row.cells] == ["12 (10 to 14, n = 2)", "25 (20 to 30, n = 2)"]
    assert row.cells[1].difference == "+13"
    assert [cell.best for cell in row.cells] == [False, True]


def test_runs_without_configuration_are_not_gathered(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    for folder in (a, b):
        (folder / "config.yaml").unlink()
    records = [read_run(a), read_run(b)]
    repeats = compare.repeated_runs(records)
    assert [repeat.members for repeat in repeats] == [[0], [1]]
    assert compare.spread_groups(records, repeats) == []


def test_only_differing_keys_of_the_configurations(tmp_path):
    a = read_run(make_run(tmp_path / "a"))
    b = read_run(make_run(tmp_path / "b", seed=1, weight=0.5))
    rows = {key: words for key, words, _ in compare.config_differences([a, b])}
    assert rows["seed"] == ["0", "1"]
    assert rows["regularizer.weight"] == ["not set", "0.5"]
    assert rows["regularizer"] == ["none", "not set"]
    assert "train.epochs" not in rows
    assert compare.config_differences([a, a]) == []
    unknown = a._replace(config=None)
    assert dict((k, w) for k, w, _ in compare.config_differences([a, b, unknown]))["seed"][2] == "not known"


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([18.171, 32.5], ["18.17", "32.50"]),
        ([0.00002, 0.5], ["0.000", "0.500"]),
        ([2e-5], ["2.00e−05"]),
        ([12345.6], ["12,346"]),
        ([3.0, 7.0], ["3", "7"]),
        ([-1.5], ["−1.50"]),
        ([-0.0001, 5.5], ["0.00", "5.50"]),
        ([math.nan, 1.5], ["not a number", "1.50"]),
        ([math.inf], ["∞"]),
    ],
)
def test_numbers_in_words(values, texts):
    decimals = compare.decimals_for(values)
    assert [compare.format_number(value, decimals) for value in values] == texts


def test_differences_have_signs():
    assert compare.format_number(1.5, 2, signed=True) == "+1.50"
    assert compare.format_number(-1.5, 2, signed=True) == "−1.50"
    assert compare.format_number(-0.0001, 2, signed=True) == "±0"
