from __future__ import annotations

import os

import pytest
from run_folders import make_run, picture

from vitrail.report.collect import read_run, read_runs


def test_a_whole_run_is_read(tmp_path):
    record = read_run(make_run(tmp_path / "run", seed=3, jaccard=31.5, weight=0.01))
    assert record.name == "run"
    assert record.config["regularizer"]["weight"] == 0.01
    assert record.epochs_planned == 4
    assert record.last("epoch") == 4
    assert record.evaluations["attention_jaccard"].numbers["jaccard"] == 31.5
    assert record.pictures["attention.png"].caption == "Attention, seed 3"
    assert record.skipped == [{"path": "cat/3.jpg", "reason": "truncated"}]
    assert record.log[-1] == "the last line"
    assert record.notes == []


def test_reading_changes_nothing(tmp_path):
    folder = make_run(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    read_run(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_empty_folder_says_what_is_missing(tmp_path):
    record = read_run(tmp_path)
    words = " ".join(record.notes)
    for name in ("config.yaml", "metrics.jsonl", "versions.json", "log.txt", "evaluation"):
        assert name in words
    assert record.config is None
    assert record.metrics == []


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no run folder at .*absent"):
        read_run(tmp_path / "absent")


def test_a_truncated_last_line_is_left_out_and_said(tmp_path):
    folder = make_run(tmp_path / "run")
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text[:-20])
    record = read_run(folder)
    assert len(record.metrics) == text.count("\n") - 1
    assert any("last line of metrics.jsonl was cut short" in note for note in record.notes)


def test_broken_files_of_every_kind(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "config.yaml").write_text("a: [1, 2\n")
    (folder / "versions.json").write_text('{"torch": ')
    (folder / "metrics.jsonl").write_bytes(b'\xff\xfe\n[1]\n{"step": 1, "train/loss": NaN}\n{"no": "step"}\n')
    (folder / "skipped.jsonl").write_text("3\n")
    (folder / "evaluation" / "knn.json").write_text('{"numbers": [1]}')
    (folder / "evaluation" / "linear.json").write_text('{"protocol": "linear", "numb')
    (folder / "evaluation" / "odd.json").write_text('{"numbers": {"a": 1, "b": "two", "c": true}}')
    (folder / "pictures" / "captions.json").write_text('{"gone.png": "x"}')
    record = read_run(folder)
    words = " ".join(record.notes)
    assert record.config is None
    assert record.config_text.startswith("a:")
    assert "config.yaml is not valid YAML" in words
    assert "versions.json is not complete JSON" in words
    assert "2 lines of metrics.jsonl cannot be read" in words
    assert "train/loss is not finite from step 1" in words
    assert "knn.json holds no numbers" in words
    assert "linear.json is not complete JSON" in words
    assert "b, c left out" in words
    assert "gone.png" in words
    assert record.evaluations["odd"].numbers == {"a": 1.0}
    assert record.evaluations["odd"].protocol == "odd"


def test_steps_that_were_trained_twice_stand_once(tmp_path):
    lines = ['{"step": 1, "train/loss": 3}', '{"step": 2, "train/loss": 2.5}', '{"step": 3, "train/loss": 9}']
    lines += ['{"step": 2, "train/loss": 2}', '{"step": 2, "val/top1": 50}', '{"step": 3, "train/loss": 1}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    record = read_run(tmp_path)
    assert record.series("train/loss", "step") == ([1, 2, 3], [3, 2, 1])
    assert record.series("val/top1", "step") == ([2], [50])


def test_a_stop_for_a_nonfinite_loss_is_said_first(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "nonfinite.json").write_text('{"step": 17, "epoch": 1, "ranks": []}')
    assert "step 17" in read_run(folder).notes[0]


def test_pictures_come_in_the_order_of_their_captions(tmp_path):
    folder = make_run(tmp_path / "run")
    for name in ("b.png", "a.png", "z.png"):
        picture(folder / "pictures" / name)
    (folder / "pictures" / "captions.json").write_text('{"z.png": "last letter first", "attention.png": ""}')
    assert list(read_run(folder).pictures) == ["z.png", "attention.png", "a.png", "b.png"]


def test_folders_of_the_same_name_are_told_apart(tmp_path):
    paths = [make_run(tmp_path / part / "run") for part in ("one", "two")] + [make_run(tmp_path / "third")]
    assert [record.name for record in read_runs(paths)] == ["one/run", "two/run", "third"]
    assert [record.name for record in read_runs([paths[0], paths[0]])] == ["run", "run"]


def test_an_evaluation_from_before_the_last_export_is_told(tmp_path):
    for name, text in (
        ("evaluation/knn.json", '{"numbers": {"knn20_top1": 5.0}}'),
        ("exported/backbone.safetensors", ""),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    os.utime(tmp_path / "evaluation" / "knn.json", (1e9, 1e9))
    os.utime(tmp_path / "exported" / "backbone.safetensors", (1e9 - 5, 1e9 - 5))
    assert not any("older than the weights" in note for note in read_run(tmp_path).notes)
    os.utime(tmp_path / "exported" / "backbone.safetensors", (1e9 + 5, 1e9 + 5))
    assert any("evaluation/knn.json is older than the weights" in note for note in read_run(tmp_path).notes)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"is no run folder: it has no config.yaml"):
        read_run(tmp_path / "photos")
