"""The table of a study, and the command that fills it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vitrail.cli import app
from vitrail.config import ConfigError
from vitrail.recipes.study import Cell, Result, Study
from vitrail.report.study import Entry, entries, listing, markdown, run_and_write, write_study


def cell(row: str, column: str, repeat: int = 0, published: float | None = None) -> Cell:
    return Cell(row, column, "scenes_simclr", (), "knn", (), "scenes", "knn200_top1", published, repeat)


CELLS = (
    cell("a", "x", 0, 50.0)._replace(run="table/a-x"),
    cell("a", "x", 1, 50.0),
    cell("a", "y"),
    cell("b", "y", published=9.96),
)
STUDY = Study("table", "A <table>", "a paper", ("a", "b"), ("x", "y"), CELLS, "percent", ("a note",))


def results() -> list[Result]:
    return [
        Result(CELLS[0], "finished", 51.0),
        Result(CELLS[1], "finished", 52.5),
        Result(CELLS[2], "open"),
        Result(CELLS[3], "failed", error="NaN"),
    ]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (Entry("a", "x", (51.0, 52.5), 2, 50.0, 0), "51.8 ± 0.8 (50.0)"),
        (Entry("a", "x", (51.0,), 1, None, 0), "51.0"),
        (Entry("a", "x", (51.0, 53.0), 3, 50.0, 0), "52.0 ± 1.0 [2 of 3] (50.0)"),
        (Entry("a", "x", (), 1, 50.0, 0), "– (50.0)"),
        (Entry("a", "x", (), 1, None, 1), "diverged"),
    ],
)
def test_what_stands_in_a_place_of_the_table(entry: Entry, text: str) -> None:
    assert entry.text() == text


def test_repeats_share_a_place_and_empty_places_stay_empty() -> None:
    found = entries(STUDY, results())
    assert [(entry.row, entry.column, entry.values) for entry in found] == [
        ("a", "x", (51.0, 52.5)),
        ("a", "y", ()),
        ("b", "y", ()),
    ]
    lines = markdown(STUDY, found).splitlines()
    assert lines[-4:] == [
        "|  | x | y |",
        "| --- | --- | --- |",
        "| a | 51.8 ± 0.8 (50.0) | – |",
        "| b |  | diverged (10.0) |",
    ]


def test_the_files(tmp_path: Path) -> None:
    page = write_study(tmp_path, STUDY, results())
    text = page.read_text()
    assert "A &lt;table&gt;" in text
    assert "51.8 ± 0.8 (50.0)" in text
    assert "Percent. 2 of 4 numbers are measured" in text
    assert text.index("51.8 ± 0.8") < text.index("a note")  # the table stands before the notes
    for number in ("51.00", "52.50", "NaN", "table/a-x"):  # each seed, and why there is none
        assert number in text
    found = json.loads((tmp_path / "study.json").read_text())
    assert found["table"][0] == {"row": "a", "column": "x", "mean": 51.75, "values": [51.0, 52.5], "published": 50.0}
    assert [each["state"] for each in found["cells"]] == ["finished", "finished", "open", "failed"]
    assert "a note" in (tmp_path / "study.md").read_text()


def test_the_command(tmp_path: Path) -> None:
    settings = ["scenes=true", "methods=simclr", "rows=crop-bgjf,shared-bgjf", "data.scenes.count=200"]
    settings += ["data.scenes.val_count=20", "data.scenes.image_size=16", "views.size=16", "backbone.width=4"]
    settings += [
        "train.epochs=1",
        "train.warmup_epochs=0",
        "train.evaluate_every=null",
        "probe.train=20",
        "probe.val=20",
    ]
    words = ["study", "augmentation", *settings, "--out", str(tmp_path)]
    listed = CliRunner().invoke(app, [*words, "--dry-run"])
    assert listed.exit_code == 0, listed.output
    assert listed.output.count("open ") == 2
    assert "left: 2 trainings" in listed.output
    assert not (tmp_path / "runs").exists()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f"written: {tmp_path / 'study.html'}" in done.output
    assert (
        "knn, as of own crops, blur, gray, colors, flip" in (tmp_path / "study.html").read_text()
    )  # its protocol card
    after = CliRunner().invoke(app, [*words, "--dry-run"])
    assert after.output.count("finished ") == 2
    assert "left: 0 trainings" in after.output
    half = CliRunner().invoke(app, [*words, "--dry-run", "--shard", "2/2"])
    assert half.output.count("finished ") == 1


def test_rows_may_have_a_word_above_them() -> None:
    lines = markdown(STUDY._replace(corner="lambda"), entries(STUDY, results())).splitlines()
    assert "| lambda | x | y |" in lines


def test_a_folder_of_another_study_is_left_alone(tmp_path: Path) -> None:
    before = write_study(tmp_path, STUDY, results()).read_text()
    other = STUDY._replace(name="other", cells=())
    for refused in (run_and_write, listing):
        with pytest.raises(ConfigError, match=r"holds the study table, not other; give it another --out"):
            refused(other, tmp_path)
    assert (tmp_path / "study.html").read_text() == before
    (tmp_path / "study.json").write_text("[1")
    with pytest.raises(ConfigError, match="holds the study something else, not table"):
        listing(STUDY, tmp_path)


def test_an_unknown_study_is_told() -> None:
    refused = CliRunner().invoke(app, ["study", "augmentations"])
    assert "did you mean 'augmentation'" in str(refused.exception)
