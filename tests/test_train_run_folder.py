"""Who may write into a run folder, and the ways back into it."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import processes
import pytest

from vitrail.config import Config, ConfigError
from vitrail.train import TrainConfig
from vitrail.train.run_folder import FolderInUse, RunFolder, differences, versions

CONFIG = {"train": {"epochs": 2, "learning_rate": 1e-3, "log_every": 5}, "data": {"root": "x", "workers": 2}}


def changed(**values: object) -> dict[str, dict[str, object]]:
    return {"train": CONFIG["train"] | values, "data": dict(CONFIG["data"])}


def hold(path: Path, pipe) -> None:
    with RunFolder(path, CONFIG):
        pipe.send("held")
        time.sleep(60)


def test_a_live_process_holds_its_folder_and_death_frees_it(tmp_path):
    here, there = processes.SERVER.Pipe()
    (process,) = processes.start(hold, [(tmp_path, there)])
    there.close()  # else its death would not be heard
    try:
        assert here.poll(processes.PATIENCE)
        assert here.recv() == "held"
        with pytest.raises(FolderInUse, match=f"pid {process.pid} on "):
            RunFolder(tmp_path, CONFIG, "resume")
        with pytest.raises(FolderInUse):
            RunFolder(tmp_path, CONFIG, "overwrite")
        os.kill(process.pid, signal.SIGKILL)
        assert processes.wait([process]) == [-signal.SIGKILL]
        with RunFolder(tmp_path, CONFIG, "resume"):
            assert f"pid {process.pid}" in (tmp_path / "log.txt").read_text()
            assert f"pid {os.getpid()}" in (tmp_path / ".lock").read_text()
            with pytest.raises(FolderInUse):
                RunFolder(tmp_path, CONFIG, "resume")
        assert (tmp_path / ".lock").read_text() == ""
    finally:
        processes.end([process])


def test_a_forked_worker_that_outlives_its_parent_does_not_hold_the_lock(tmp_path):
    folder = RunFolder(tmp_path, CONFIG)
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
    worker.start()
    try:
        folder.close()
        with RunFolder(tmp_path, CONFIG, "resume") as again:
            assert worker.is_alive()
            assert again.resuming
    finally:
        processes.end([worker])


def test_a_non_empty_folder_is_refused_with_the_three_ways(tmp_path):
    with RunFolder(tmp_path / "run", CONFIG) as folder:
        folder.write_metrics({"step": 1})
    with pytest.raises(ConfigError, match=r"--resume.*--extend.*--overwrite"):
        RunFolder(tmp_path / "run", CONFIG)
    with pytest.raises(ConfigError, match=r"no run in .* to resume"):
        RunFolder(tmp_path, CONFIG, "resume")
    with pytest.raises(ConfigError, match=r"no run in .* to extend"):
        RunFolder(tmp_path / "absent", CONFIG, "extend")
    assert not (tmp_path / "absent").exists()


def test_overwrite_removes_what_vitrail_writes_and_nothing_else(tmp_path):
    with RunFolder(tmp_path, CONFIG) as folder:
        folder.write_metrics({"step": 1, "epoch": 0.5, "train/loss": 1.0})
        folder.write_skipped({1: ("a", "b")})
        folder.write_json("nonfinite.json", {})
        (folder.checkpoints / "last.pt").write_bytes(b"x")
        (folder.checkpoints / "mine.pt").write_bytes(b"x")
        folder.write_json("trained.json", {})
        folder.write_json("pictures/captions.json", {"heads.png": "words", "../../mine.png": "not ours"})
        folder.write_json("evaluation/knn.json", {"protocol": "knn", "numbers": {}, "card": {}, "details": {}})
        folder.write_json("evaluation/mine.json", {"numbers": []})
        (tmp_path.parent / "mine.png").write_bytes(b"x")
        (folder.pictures / "heads.png").write_bytes(b"x")
        (folder.pictures / "holiday.png").write_bytes(b"x")
        (tmp_path / "notes.txt").write_text("mine")
    with RunFolder(tmp_path, changed(epochs=7), "overwrite") as folder:
        assert not folder.resuming
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    mine = ["checkpoints/mine.pt", "evaluation/mine.json", "notes.txt", "pictures/holiday.png"]
    assert found == sorted([".lock", "config.yaml", "log.txt", "versions.json", *mine])
    assert (tmp_path.parent / "mine.png").exists()
    assert "epochs: 7" in (tmp_path / "config.yaml").read_text()


def test_overwrite_wants_a_run_of_vitrail(tmp_path):
    mine = ("pictures/holiday.png", "evaluation/mine.json", "exported/backbone.onnx", "curves.png", "report.html")
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    own = {"config.yaml": "lr: 1", "log.txt": "epoch 1", "versions.json": '{"torch": "2"}'}  # others write such, too
    for name, text in own.items():
        with pytest.raises(ConfigError, match=r"--overwrite removes a run of vitrail, and .* is none; give another"):
            RunFolder(tmp_path, CONFIG, "overwrite")
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="is none"):
        RunFolder(tmp_path, CONFIG, "overwrite")
    assert all((tmp_path / name).read_text() == "mine" for name in mine)
    assert {name: (tmp_path / name).read_text() for name in own} == own
    RunFolder(tmp_path / "absent", CONFIG, "overwrite").close()
    RunFolder(tmp_path / "absent", changed(seed=5), "overwrite").close()  # a refused start


def test_a_run_is_known_by_its_log_too(tmp_path):
    with RunFolder(tmp_path, CONFIG) as folder:
        folder.write_metrics({"step": 1})
        logging.getLogger("vitrail").info("training")
    (tmp_path / "versions.json").unlink()
    RunFolder(tmp_path, CONFIG, "overwrite").close()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_resume_wants_the_very_same_configuration(tmp_path):
    RunFolder(tmp_path, CONFIG).close()
    other = changed(learning_rate=2e-3, epochs=4, seed=1)
    with pytest.raises(ConfigError) as refused:
        RunFolder(tmp_path, other, "resume")
    for words in (
        "train.learning_rate was 0.001, is 0.002",
        "train.epochs was 2, is 4",
        "train.seed was None, is 1",
    ):
        assert words in str(refused.value)
    assert "--extend" in str(refused.value)
    assert "epochs: 2" in (tmp_path / "config.yaml").read_text()
    free = changed(log_every=1)
    free["data"]["workers"] = 0
    with RunFolder(tmp_path, free, "resume") as folder:
        assert folder.resuming


def test_extend_lets_epochs_grow_alone(tmp_path):
    RunFolder(tmp_path, CONFIG).close()
    with pytest.raises(ConfigError, match="1 does not extend 2"):
        RunFolder(tmp_path, changed(epochs=1), "extend")
    with pytest.raises(ConfigError, match="learning_rate was"):
        RunFolder(tmp_path, changed(epochs=3, learning_rate=1.0), "extend")
    with pytest.raises(ConfigError, match="nothing to extend"):
        RunFolder(tmp_path, CONFIG, "extend")
    RunFolder(tmp_path, changed(epochs=3), "extend").close()
    RunFolder(tmp_path, changed(epochs=3), "resume").close()


def test_an_elastic_restart_resumes_whatever_the_verb_was(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with RunFolder(tmp_path, CONFIG) as folder:  # died before it wrote anything
        assert not folder.resuming
    for verb in ("new", "overwrite", "extend"):
        with RunFolder(tmp_path, CONFIG, verb) as folder:
            assert folder.resuming
            folder.write_metrics({"step": 1, "train/loss": 1.0})
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    with pytest.raises(ConfigError):
        RunFolder(tmp_path, CONFIG)


def test_a_run_that_never_took_a_step_may_start_again(tmp_path):
    RunFolder(tmp_path, CONFIG).close()
    RunFolder(tmp_path, changed(seed=5)).close()
    (tmp_path / "pictures" / "mine.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="not empty"):
        RunFolder(tmp_path, CONFIG)


def test_a_refused_start_is_not_in_the_way_and_its_list_of_images_goes(tmp_path):
    with RunFolder(tmp_path, CONFIG) as folder:
        folder.write_skipped({1: ("a", "b")})
    (tmp_path / "stage1").mkdir()
    RunFolder(tmp_path / "stage1", CONFIG).close()
    RunFolder(tmp_path, changed(seed=5)).close()
    assert not (tmp_path / "skipped.jsonl").exists()
    (tmp_path / "stage1" / "checkpoints" / "last.pt").write_bytes(b"x")  # there something was trained
    with pytest.raises(ConfigError, match=r"it holds stage1/checkpoints/last\.pt$"):
        RunFolder(tmp_path, CONFIG)


def test_what_was_prepared_is_kept_and_not_in_the_way(tmp_path):
    RunFolder(tmp_path, CONFIG).close()
    (tmp_path / "object_masks").mkdir()
    made = [
        tmp_path / "object_masks" / name for name in ("object_masks.json", "masks.npy", "table.npy", ".masks.npy.7")
    ]
    made += [tmp_path / "neighbors.safetensors"]
    for path in made:
        path.write_bytes(b"hours")
    RunFolder(tmp_path, changed(seed=5)).close()
    RunFolder(tmp_path, changed(seed=6), "overwrite").close()
    assert all(path.read_bytes() == b"hours" for path in made)
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "object_masks" / "mine.png").write_text("")
    said = r"removes what vitrail writes but for object_masks; it holds (metrics\.jsonl|object_masks/mine\.png), "
    with pytest.raises(ConfigError, match=said):
        RunFolder(tmp_path, CONFIG)


@pytest.mark.parametrize("name", ["config.yaml", "versions.json", "thesis.tex", "sub/config.yaml"])
def test_files_of_others_are_left_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    for _ in range(2):  # the first refusal leaves nothing that makes the folder ours
        with pytest.raises(ConfigError, match=f"it holds {name}"):
            RunFolder(tmp_path, CONFIG)
    assert (tmp_path / name).read_text() == "mine"


def test_metrics_are_cut_back_to_a_step_and_survive_a_torn_line(tmp_path):
    with RunFolder(tmp_path, CONFIG) as folder:
        for step in (1, 2, 3):
            folder.write_metrics({"step": step, "train/loss": 1 / step})
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write('{"step": 4, "train/lo')
        folder.forget_after(2)
        folder.write_metrics({"step": 3, "train/loss": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["train/loss"]) for line in lines] == [(1, 1.0), (2, 0.5), (3, 0.5)]


def test_a_full_disk_for_metrics_is_said_and_not_raised(tmp_path, monkeypatch, caplog):
    with RunFolder(tmp_path, CONFIG) as folder:
        (tmp_path / "metrics.jsonl").mkdir()
        for step in (1, 2):
            folder.write_metrics({"step": step, "train/loss": 1.0})
    assert len([record for record in caplog.records if "could not be written" in record.message]) == 1


def test_other_ranks_write_nothing(tmp_path):
    with RunFolder(tmp_path / "run", CONFIG, main=False) as folder:
        folder.write_metrics({"step": 1})
        folder.forget_after(0)
        folder.write_skipped({1: ("a", "b")})
        assert folder.exported.name == "backbone.safetensors"
    assert not (tmp_path / "run").exists()


def test_other_versions_are_said_on_resume(tmp_path, caplog):
    RunFolder(tmp_path, CONFIG).close()
    found = json.loads((tmp_path / "versions.json").read_text())
    assert found == versions()
    assert {"python", "torch", "timm", "vitrail", "numpy", "cuda", "commit"} <= found.keys()
    (tmp_path / "versions.json").write_text(json.dumps(found | {"torch": "0.1"}))
    RunFolder(tmp_path, CONFIG, "resume").close()
    assert "torch 0.1 -> " in caplog.text


def test_differences():
    assert differences({"a": {"b": 1, "log_every": 2}}, {"a": {"b": 1, "log_every": 3}}) == {}
    assert differences({"a": {"b": 1}}, {"a": None}) == {"a": ({"b": 1}, None)}
    assert differences({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3], "c": 0}}) == {
        "a.b": ([1, 2], [1, 3]),
        "a.c": (None, 0),
    }


class Settings(Config):
    """A recipe, as far as this file is concerned."""

    train: TrainConfig = TrainConfig()
    scenes: str | None = None


def test_a_run_from_before_a_setting_was_there_goes_on_with_its_default(tmp_path):
    RunFolder(tmp_path, Settings()).close()
    path = tmp_path / "config.yaml"
    old = "".join(line for line in path.read_text().splitlines(keepends=True) if "nesterov" not in line)
    assert old != path.read_text()
    path.write_text(old)
    RunFolder(tmp_path, Settings(), "resume").close()
    with pytest.raises(ConfigError, match=r"train.nesterov was True, is False"):
        RunFolder(tmp_path, Settings().override(["train.nesterov=false"]), "resume")
