"""The runner of studies: cells are trained once, measured once, resumed, and refused where they differ."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from vitrail import catalog
from vitrail.config import Config, ConfigError
from vitrail.recipes import augmentation as family
from vitrail.recipes import run as runner
from vitrail.recipes.run import Verbs
from vitrail.recipes.study import Cell, Study, _entered, costs, read_results, run_study, taken
from vitrail.train import RunFolder

TINY = (
    "data.scenes.count=32",
    "data.scenes.val_count=16",
    "data.scenes.image_size=16",
    "views.size=16",
    "backbone.width=4",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "train.global_batch_size=16",
    "train.device=cpu",
    "train.evaluate_every=null",
    "probe.train=16",
    "probe.val=16",
)


def cell(row: str = "own crops", column: str = "SimCLR", **changes: Any) -> Cell:
    settings: dict[str, Any] = {
        "recipe": "scenes_simclr",
        "overrides": TINY,
        "protocol": "knn",
        "settings": ("k=5,20",),
        "data": "scenes",
        "number": "knn20_top1",
        "published": 50.0,
    }
    return Cell(row, column, **settings | changes)


def study(*cells: Cell) -> Study:
    rows, columns = ({getattr(each, name): None for each in cells} for name in ("row", "column"))
    return Study("tiny", "A table", "nobody", tuple(rows), tuple(columns), cells)


def test_cells_are_trained_measured_and_then_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = study(cell(), cell("no crop", overrides=(*TINY, "views.crop=none")))
    seen: list[list[str]] = []
    results = run_study(table, tmp_path, after=lambda found: seen.append([each.state for each in found]))
    assert seen == [["open", "open"], ["finished", "open"], ["finished", "finished"]]
    report = json.loads((tmp_path / str(results[0].report)).read_text())
    assert results[0].value == report["numbers"]["knn20_top1"]
    assert (tmp_path / "runs" / "simclr--own-crops-0" / "exported" / "backbone.safetensors").is_file()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(runner, "train_here", never)
    assert run_study(table, tmp_path) == results
    # Asked for another number of the same run, it is measured again and not trained again.
    other = study(cell(number="knn5_top1"))
    (again,) = run_study(other, tmp_path)
    assert again.value == report["numbers"]["knn5_top1"]


def test_cells_of_one_run_train_once(tmp_path: Path) -> None:
    table = study(cell("k = 20", run="shared"), cell("k = 5", run="shared", number="knn5_top1"))
    first, second = run_study(table, tmp_path)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["shared"]
    assert first.report == second.report == "runs/shared/evaluation/knn.json"
    assert first.state == second.state == "finished"


def test_a_cut_training_goes_on(tmp_path: Path) -> None:
    table = study(cell(overrides=(*TINY, "train.epochs=3")))
    build = family.build

    def cut(*given: Any) -> Any:
        parts = build(*given)
        right, steps = parts.method.after_step, []

        def after_step(step: Any) -> None:
            if len(steps) == 3:
                raise KeyboardInterrupt
            steps.append(step)
            right(step)

        parts.method.after_step = after_step
        return parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family, "build", cut)
        with pytest.raises(KeyboardInterrupt):
            run_study(table, tmp_path)
    assert read_results(table, tmp_path)[0].state == "begun"
    (result,) = run_study(table, tmp_path)
    assert result.state == "finished"
    log = (tmp_path / "runs" / result.cell.folder / "log.txt").read_text()
    assert "resuming at step 2 of 6" in log


def test_another_configuration_in_the_same_folder_is_refused_before_training(tmp_path: Path) -> None:
    run_study(study(cell()), tmp_path)
    with pytest.raises(
        ConfigError, match=r"own-crops-0 was trained with other settings: train.epochs was 1, is 2.*--out"
    ):
        run_study(study(cell("new"), cell(overrides=(*TINY, "train.epochs=2"))), tmp_path)
    assert not (tmp_path / "runs" / "simclr--new-0").exists()
    with pytest.raises(ValueError, match="there is no folder"):
        run_study(study(cell(overrides=(*TINY, "data.root=/nowhere"))), tmp_path / "other")


def test_what_was_not_trained_yet_binds_nobody(tmp_path: Path) -> None:
    """A run that stopped before its first checkpoint, then asked for with other settings, is begun anew."""
    table = study(cell())
    folder = tmp_path / "runs" / table.cells[0].folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(table.cells[0].config().override(["train.epochs=9"]).yaml())
    (folder / "versions.json").write_text('{"vitrail": "0.1.0"}')
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (result,) = run_study(table, tmp_path)
    assert result.state == "finished"
    with pytest.raises(
        ConfigError, match=r"train.epochs was 1, is 2\. Take these back, or give the study another --runs"
    ):
        run_study(study(cell(overrides=(*TINY, "train.epochs=2"))), tmp_path, runs=tmp_path / "runs")


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_weights_without_checkpoints_are_not_trained_over(tmp_path: Path) -> None:
    """Who removes checkpoints for space keeps the model, be it of the same settings or of others."""
    table = study(cell())
    run_study(table, tmp_path)
    folder = tmp_path / "runs" / table.cells[0].folder
    rmtree(folder / "checkpoints")
    (tmp_path / "cells" / f"{table.cells[0].name}.json").unlink()
    (result,) = run_study(table, tmp_path)  # trained to the end: only measured
    assert result.state == "finished"
    (tmp_path / "cells" / f"{table.cells[0].name}.json").unlink()
    (folder / "trained.json").unlink()
    before = files(folder)
    for asked in (table, study(cell(overrides=(*TINY, "train.epochs=2")))):
        with pytest.raises(
            ConfigError, match=r"own-crops-0 has no checkpoint .*: evaluation/knn\.json, exported/backb"
        ):
            run_study(study(cell("new"), *asked.cells), tmp_path)
        assert isinstance(_entered(asked.cells[0].config(), folder), ConfigError)
        assert files(folder) == before


def test_a_folder_of_others_is_refused_before_training(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / cell().folder
    folder.mkdir(parents=True)
    (folder / "curves.png").write_text("mine")
    with pytest.raises(
        ConfigError, match=r"own-crops-0 is no run of vitrail, and holds curves\.png\. .* another --out"
    ):
        run_study(study(cell("new"), cell()), tmp_path)
    assert files(tmp_path) == {f"runs/{cell().folder}/curves.png": b"mine"}


def test_what_was_trained_inside_of_a_run_is_not_trained_over(tmp_path: Path) -> None:
    folder, config = tmp_path / "run", cell().config()
    RunFolder(folder, config).close()
    RunFolder(folder / "mae", config).close()
    assert _entered(config, folder) == Verbs(overwrite=True)
    (folder / "mae" / "checkpoints" / "last.pt").write_bytes(b"hours")
    assert _entered(config, folder) == Verbs(resume=True)
    other = _entered(config.override(["train.epochs=2"]), folder)
    assert isinstance(other, ConfigError)
    assert "mae/checkpoints/last.pt" in str(other)


def test_a_mark_of_other_settings_is_stale(tmp_path: Path) -> None:
    table = study(cell())
    run_study(table, tmp_path)
    (tmp_path / "cells" / f"{table.cells[0].name}.json").unlink()
    mark = tmp_path / "runs" / table.cells[0].folder / "trained.json"
    assert read_results(table, tmp_path)[0].state == "trained"
    mark.write_text(json.dumps(table.cells[0].config().override(["train.epochs=9"]).plain()))
    assert read_results(table, tmp_path)[0].state == "begun"
    assert run_study(table, tmp_path)[0].state == "finished"
    assert json.loads(mark.read_text()) == table.cells[0].config().plain()
    RunFolder(mark.parent, table.cells[0].config(), "overwrite").close()
    assert not mark.exists()


def test_images_are_opened_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for late in (
        cell("late", overrides=(*TINY, f"data.root={tmp_path / 'empty'}")),
        cell("late", data=str(tmp_path / "empty")),
    ):
        with pytest.raises(ValueError, match=r"empty has no images"):
            run_study(study(cell(), late), tmp_path / "out")
    with pytest.raises(ValueError, match=r"global_batch_size 64 is larger than the 32 images"):
        run_study(study(cell(), cell("late", overrides=(*TINY, "train.global_batch_size=64"))), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_training_that_diverges_is_a_failed_cell_and_the_others_go_on(tmp_path: Path) -> None:
    wild = (*TINY, "train.learning_rate=1.0e30", "train.epochs=3")
    first, second = run_study(study(cell("wild", overrides=wild), cell()), tmp_path)
    assert (first.state, second.state) == ("failed", "finished")
    assert first.error is not None
    assert "Lower learning_rate" in first.error


def test_repeats_have_seeds_and_folders_of_their_own() -> None:
    cells = [cell(repeat=number, overrides=(*TINY, "train.seed=7")) for number in range(3)]
    assert [each.config().train.seed for each in cells] == [7, 8, 9]  # type: ignore[attr-defined]
    assert len({each.folder for each in cells}) == 3


def test_parts_of_a_study(tmp_path: Path) -> None:
    table = study(*(cell(f"row {number}") for number in range(3)))
    states = [each.state for each in run_study(table, tmp_path, part=1, of=2)]
    assert states == ["open", "finished", "open"]


def test_costs(tmp_path: Path) -> None:
    table = study(cell(), cell("longer", overrides=(*TINY, "train.epochs=4")))
    assert [(cost.steps, cost.images, cost.seconds) for cost in costs(table, tmp_path)] == [
        (2, 32, None),
        (8, 128, None),
    ]
    run_study(study(cell()), tmp_path)
    one, four = (cost.seconds for cost in costs(table, tmp_path))
    assert one is not None
    assert four == pytest.approx(4 * one)


def test_a_number_that_the_protocol_does_not_give_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"knn gave no knn200_top1 for SimCLR, own crops, but knn5_top1.*too few images"
    ):
        run_study(study(cell(number="knn200_top1")), tmp_path)


def test_settings_of_the_study_and_of_its_recipes() -> None:
    class Own(Config):
        rows: int = 1
        cifar10: str | None = None

    own, others = taken(["rows=3", "train.epochs=2", "cifar10=x", "rowing=1"], Own)
    assert (own.rows, own.cifar10, others) == (3, "x", ["train.epochs=2", "rowing=1"])


def test_studies_are_found_by_what_they_return() -> None:
    (entry,) = [each for each in catalog.studies() if each.name == "augmentation"]
    assert entry.module == "vitrail.recipes.augmentation_study"
    recipes = {each.name for each in catalog.recipes()}
    assert not recipes & {"augmentation", "first"}  # `first` returns a recipe, too, but is none: it needs one
