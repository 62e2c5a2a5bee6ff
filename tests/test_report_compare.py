from __future__ import annotations

import json
import math
import re

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
    assert compare.heading([one], ["knn"]) == compare.heading([both], ["knn"]) == "knn"
    title = "knn (knn-dino-cars-a1b2c3): preset dino, k = [5] (standard 20)"
    assert compare.heading([one, both], [None, "knn-dino-cars-a1b2c3"]) == title
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


def _write(folder, name, numbers, details=None, **card):
    """An evaluation by the protocol robustness, whose file has another name."""
    report = {"protocol": "robustness", "numbers": numbers, "card": card, "details": details or {}}
    (folder / "evaluation" / f"{name}.json").write_text(json.dumps(report))


def _on(digest):
    return {"val": {"name": "photos", "digest": digest, "images": 60}}


def test_what_was_measured_pairs_evaluations_and_not_the_name_of_the_file(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    generated, c = {"preset": "generated", "data": _on("11")}, {"preset": "imagenet_c", "data": _on("22")}
    _write(a, "robustness", {"clean_top1": 30.0}, **generated)
    _write(b, "robustness", {"clean_top1": 60.0}, **c)
    _write(b, "robustness-generated-photos-123456", {"clean_top1": 40.0}, **generated)
    write_report(b, "robustness-between", {"other": 1.0})  # by another protocol: those of one stay together
    _write(b, "robustness-generated-photos-654321", {"clean_top1": 50.0}, **generated | {"data": _on("33")})
    every = compare.number_groups([read_run(a), read_run(b)])
    groups = [group for group in every if re.match("robustness[: ]", group.title)]
    assert every.index(groups[2]) == every.index(groups[0]) + 2
    cells = [[cell.text for cell in group.rows[0].cells] for group in groups]
    assert cells == [["30", "40"], ["", "60"], ["", "50"]]
    assert [[cell.best for cell in group.rows[0].cells] for group in groups] == [
        [False, True],
        [False] * 2,
        [False] * 2,
    ]
    assert groups[0].title.startswith("robustness (robustness, robustness-generated-photos-123456): preset generated")
    assert groups[1].title == "robustness: preset imagenet_c, on photos"
    assert not any(group.warnings for group in groups)


def test_other_settings_and_classes_leave_no_mark_and_no_difference(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    same = {"preset": "generated", "data": _on("11")}
    for config, details, told in (
        ({"images": 20, "workers": 1}, {}, "images"),
        ({"images": 10, "workers": 1}, {"class_names": ["cat"]}, "classes"),
    ):
        _write(a, "robustness", {"clean_top1": 30.0}, {"class_names": ["dog", "cat"]}, **same, config={"images": 10})
        _write(b, "robustness", {"clean_top1": 40.0}, details, **same, config=config)
        (group,) = [g for g in compare.number_groups([read_run(a), read_run(b)]) if g.title.startswith("robustness")]
        assert not any(cell.best or cell.difference for cell in group.rows[0].cells)
        assert f"what was measured differs ({told}): these numbers do not compare" in group.warnings


def test_of_errors_relative_to_another_baseline_none_is_the_best(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    for folder, value, error in ((a, 90.0, 50.0), (b, 80.0, 60.0)):
        numbers = {"mce": value, "mce_unnormalized": value, "relative_mce": value}
        _write(folder, "robustness", numbers, {"baseline": {"name": folder.name, "errors": {"fog": error}}})
    group = next(g for g in compare.number_groups([read_run(a), read_run(b)]) if g.title == "robustness")
    assert [row.cells[1].best for row in group.rows] == [False, True, False]
    assert "relative to different baselines: mce and relative_mce do not compare" in group.warnings
    _write(b, "robustness", {"mce_unnormalized": 80.0})  # relative to none: there is nothing to confuse
    group = next(g for g in compare.number_groups([read_run(a), read_run(b)]) if g.title == "robustness")
    assert group.warnings == []
    assert [row.direction for row in group.rows] == ["lower"] * 3


def test_several_evaluations_of_a_run_by_equal_settings_stand_apart(tmp_path):
    """Of a backbone's several localizers, those of the same name stand together in all runs."""
    records = []
    for name, order in (("a", ("lost", "attention")), ("b", ("attention", "lost"))):
        folder = make_run(tmp_path / name)
        for number, localizer in enumerate(order):
            _write(
                folder, f"robustness-{number}", {"clean_top1": float(len(localizer))}, config={"localizer": localizer}
            )
        records.append(read_run(folder))
    pairs = [names for names in compare.paired(records) if names[0].startswith("robustness")]
    assert pairs == [["robustness-0", "robustness-1"], ["robustness-1", "robustness-0"]]
    for record in records:  # a single run: each file is in one group
        assert sorted(names[0] for names in compare.paired([record])) == sorted(record.evaluations)


def test_images_of_another_seed_are_others_but_their_numbers_spread(tmp_path):
    records = []
    for seed in (0, 1):
        folder = make_run(tmp_path / f"run-seed{seed}", seed=seed)
        _write(folder, "robustness", {"clean_top1": 30.0 + seed}, data=_on(str(seed)))
        records.append(read_run(folder))
    assert len([group for group in compare.number_groups(records) if group.title.startswith("robustness")]) == 2
    spread = compare.spread_groups(records, compare.repeated_runs(records))
    (row,) = [row for group in spread if group.title.startswith("robustness") for row in group.rows]
    assert row.cells[0].text == "30.50 (30.00 to 31.00, n = 2)"


@pytest.mark.parametrize("regularized", ["regularizer", "method"])
def test_losses_of_other_terms_are_not_compared(tmp_path, regularized):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
    (a / "config.yaml").write_text("kind: dino\n")
    term = "{weight: 0.01}" if regularized == "regularizer" else "{regularizers: [{kind: spatial_entropy}]}"
    (b / "config.yaml").write_text(f"kind: dino\n{regularized}: {term}\n")
    group = compare.number_groups([read_run(a), read_run(b)])[-1]
    row = next(row for row in group.rows if row.name == "train/loss")
    assert row.direction == ""
    assert not any(cell.best or cell.difference for cell in row.cells)
    assert len(group.warnings) == 1
    assert group.warnings[0].startswith(f"trained for different losses ({regularized}.")


def test_a_difference_has_as_many_digits_as_tell(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    for values, texts, difference in (
        ((2.1051, 2.1049), ["2.11", "2.10"], "−0.0002"),
        ((2.1049, 2.0951), ["2.10", "2.10"], "±0"),
        ((1234.6, 1234.4), ["1,235", "1,234"], "−0.2"),
        ((2.5, 2.25), ["2.50", "2.25"], "−0.25"),
    ):
        for folder, value in zip((a, b), values):
            write_report(folder, "knn", {"knn20_top1": value})
        row = _rows(compare.number_groups([read_run(a), read_run(b)]), "knn")["knn20_top1"]
        assert [cell.text for cell in row.cells] == texts
        assert row.cells[1].difference == difference
        assert row.cells[0].best == (difference != "±0")


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
