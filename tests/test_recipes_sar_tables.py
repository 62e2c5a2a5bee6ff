"""The studies of the SAR paper's tables: published numbers in their cells, recipes resolved, cells run end to end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED
from typer.testing import CliRunner

from vitrail import catalog
from vitrail.backbones import BackboneConfig, load
from vitrail.cli import app
from vitrail.config import ConfigError
from vitrail.recipes import run as runner
from vitrail.recipes.run import family_of
from vitrail.recipes.sar_maps import sar_table5, sar_table6, sar_table8
from vitrail.recipes.sar_networks import TABLE_2, sar_table2, sar_table7, sar_table11
from vitrail.recipes.sar_table1 import sar_table1a, sar_table1b, sar_table1c
from vitrail.recipes.sar_tables import WRONG_DELTAS
from vitrail.recipes.sar_transfer import sar_table3, sar_table4
from vitrail.recipes.study import Study, costs, first_costs, read_results, run_study
from vitrail.report.study import listing, run_and_write

Making = Callable[[Sequence[str]], Study]
FOLDERS: dict[str, tuple[Making, tuple[str, ...]]] = {
    "sar_table1a": (sar_table1a, ("imagenet100",)),
    "sar_table1b": (sar_table1b, ("imagenet100",)),
    "sar_table1c": (sar_table1c, ("imagenet100",)),
    "sar_table2": (sar_table2, ("imagenet",)),
    "sar_table3": (sar_table3, ("cars", "clipart", "painting", "sketch")),
    "sar_table4": (sar_table4, ("imagenet", "cifar10", "cifar100", "flowers", "pets")),
    "sar_table5": (sar_table5, ("imagenet", "imagenet_a", "imagenet_c")),
    "sar_table6": (sar_table6, ("imagenet", "voc")),
    "sar_table7": (sar_table7, ("imagenet100",)),
    "sar_table8": (sar_table8, ("imagenet100", "voc")),
    "sar_table11": (sar_table11, ("imagenet",)),
}
PUBLISHED: dict[str, dict[str, list[float]]] = {
    "sar_table1a": {"0": [75.72], "0.001": [75.82], "0.005": [76.16], "0.01": [76.72], "0.05": [76.22], "0.1": [75.88]},
    "sar_table1b": {
        "A: baseline": [74.22],
        "B: A + no MSA skip connections": [74.64],
        "C: B + no LN": [75.72],
        "D: C + no MLP skip connections": [73.76],
        "E: A + spatial entropy loss": [74.78],
        "F: A + SAR": [76.72],
    },
    "sar_table1c": {"ViT-S/16": [74.22, 80.82], "ViT-S/16 + SAR": [76.72, 85.24]},
    "sar_table2": {
        "ViT-T/16": [72.2],
        "ViT-T/16 + SAR": [72.4],
        "ViT-S/16": [79.8],
        "ViT-S/16 + SAR": [80.7],
        "T2T-ViT-14": [81.5],
        "T2T-ViT-14 + SAR": [81.9],
        "PVT-Small": [79.8],
        "PVT-Small + SAR": [79.84],
        "CvT-13": [81.6],
        "CvT-13 + SAR": [81.8],
    },
    "sar_table3": {"ViT-S/16": [35.3, 41.0, 38.4, 37.2], "ViT-S/16 + SAR": [64.65, 64.95, 57.11, 62.98]},
    "sar_table4": {
        "no SAR": [98.59, 88.95, 95.07, 92.21],
        "SAR pre-training": [98.69, 89.19, 96.05, 92.7],
        "SAR fine-tuning": [98.72, 88.95, 95.1, 92.34],
        "SAR in both": [98.65, 89.21, 96.1, 92.7],
    },
    "sar_table5": {"ViT-S/16": [19.2, 52.8], "ViT-S/16 + SAR": [22.39, 51.6]},
    "sar_table6": {"ViT-S/16": [19.18], "ViT-S/16 + SAR": [31.19]},
    "sar_table7": {
        "ViT-S/16": [74.22],
        "ViT-S/16 + SAR": [76.72],
        "T2T-ViT-14": [82.42],
        "T2T-ViT-14 + SAR": [83.96],
        "PVT-Small": [76.57],
        "PVT-Small + SAR": [77.78],
        "CvT-13": [83.38],
        "CvT-13 + SAR": [85.2],
    },
    "sar_table8": {
        "MoCo-v3": [77.6, 27.4],
        "MoCo-v3 + SAR": [78.88, 33.1],
        "DINO": [77.42, 35.06],
        "DINO + SAR": [79.9, 35.28],
    },
    "sar_table11": {"ViT-S/16": [79.8], "ViT-S/16 + DRLoc": [80.2], "ViT-S/16 + SAR": [80.7]},
}
TINY = [
    "data.scenes.count=48",
    "data.scenes.val_count=16",
    "data.scenes.image_size=24",
    "augment.image_size=24",
    "backbone.embed_dim=24",
    "backbone.depth=2",
    "backbone.heads=2",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "train.global_batch_size=16",
    "train.device=cpu",
]


def whole(name: str, tmp_path: Path, *more: str) -> Study:
    """A study with all its folders, which are empty."""
    making, folders = FOLDERS[name]
    for folder in folders:
        (tmp_path / folder).mkdir(exist_ok=True)
    return making([*(f"{folder}={tmp_path / folder}" for folder in folders), *more])


def test_every_table_is_a_study() -> None:
    found = {entry.name: entry.summary for entry in catalog.studies()}
    assert set(FOLDERS) == {name for name in found if name.startswith("sar_")}
    assert found["sar_table1a"].startswith("SAR, Table 1(a)")


@pytest.mark.parametrize("name", FOLDERS)
def test_published_numbers_stand_in_their_cells(name: str, tmp_path: Path) -> None:
    study = whole(name, tmp_path)
    found: dict[str, list[float | None]] = {row: [] for row in study.rows}
    for row in study.rows:
        for column in study.columns:
            (cell,) = [each for each in study.cells if (each.row, each.column) == (row, column)]
            found[row].append(cell.published)
    assert found == PUBLISHED[name]
    asked = {(cell.recipe, cell.overrides, cell.first) for cell in study.cells}
    assert len({cell.folder for cell in study.cells}) == len(asked)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_numbers_are_those_of_the_papers_text(name: str) -> None:
    path = SHARED / "papers" / "sar.txt"
    if not path.is_file():
        pytest.skip("PAPER ABSENT: sar.txt is not beside this checkout")
    text = path.read_text()
    for numbers in PUBLISHED[name].values():
        for number in numbers:
            assert re.search(rf"(?<![\d.]){re.escape(f'{number:g}')}0?(?!\d)", text), number


def test_the_papers_wrong_differences_are_these_three() -> None:
    """Differences that the paper prints, recomputed from its own numbers."""
    three, eight = PUBLISHED["sar_table3"], PUBLISHED["sar_table8"]
    found = [after - before for before, after in zip(three["ViT-S/16"], three["ViT-S/16 + SAR"])]
    assert np.allclose(found, [29.35, 23.95, 18.71, 25.78])
    assert round(eight["MoCo-v3 + SAR"][1] - eight["MoCo-v3"][1], 2) == 5.7
    for wrong, right in (("18.17", "18.71"), ("30.78", "25.78"), ("6.17", "5.70")):
        assert f"= {right}, printed +{wrong}" in WRONG_DELTAS
    for name in ("sar_table3", "sar_table8"):
        assert WRONG_DELTAS in FOLDERS[name][0](["small=true"]).notes


@pytest.mark.parametrize("name", FOLDERS)
def test_every_cell_is_a_recipe_that_can_be_checked(name: str, tmp_path: Path) -> None:
    for study in (whole(name, tmp_path), FOLDERS[name][0](["small=true"])):
        for cell in study.cells:
            for config, _ in cell.trainings(tmp_path):
                family_of(config).check(config)
            config: Any = cell.config()
            regularizers = [each.kind for each in config.method.regularizers]
            operated = config.backbone.surgery in ("B", "C", "D", "F")
            if "DRLoc" in cell.row:
                assert (regularizers, operated) == (["drloc"], False)
            elif name not in ("sar_table1a", "sar_table1b", "sar_table4"):
                assert (regularizers, operated) == ((["spatial_entropy"], True) if "SAR" in cell.row else ([], False))


def test_published_trainings(tmp_path: Path) -> None:
    def train(study: Study, row: str) -> tuple[str, int, int, float, float]:
        config: Any = next(cell for cell in study.cells if cell.row == row).config()
        found = config.train
        return config.backbone.name, found.epochs, found.global_batch_size, found.learning_rate, found.warmup_epochs

    two, seven = whole("sar_table2", tmp_path), whole("sar_table7", tmp_path)
    assert train(two, "ViT-T/16 + SAR") == ("vit_tiny_patch16_224", 300, 1024, 1e-3, 5)
    assert train(two, "T2T-ViT-14 + SAR") == ("t2t_vit_14", 300, 1024, 1e-3, 10)
    averaged = {cell.row for cell in two.cells if cell.config().train.ema is not None}  # type: ignore[attr-defined]
    assert averaged == {"T2T-ViT-14", "T2T-ViT-14 + SAR"}
    assert any("6.1 G are those of softmax tokens" in note for note in two.notes)
    assert train(two, "PVT-Small") == ("pvt_small", 300, 1024, 1e-3, 5)
    assert train(two, "CvT-13") == ("cvt_13", 300, 2048, 2e-3, 5)
    assert train(seven, "CvT-13 + SAR") == ("cvt_13", 100, 2048, 2e-3, 5)
    assert train(whole("sar_table3", tmp_path), "ViT-S/16")[1] == 5000
    assert train(whole("sar_table4", tmp_path), "SAR in both")[1:] == (100, 512, 5e-4, 3)
    longer: Any = next(cell for cell in whole("sar_table1c", tmp_path).cells if cell.column == "300 ep.").config()
    assert longer.train.epochs == 300
    assert {cell.row for cell in two.cells} == {f"{name}{end}" for name in TABLE_2 for end in ("", " + SAR")}


def test_rows_of_table_one(tmp_path: Path) -> None:
    sweep: list[Any] = [cell.config() for cell in whole("sar_table1a", tmp_path).cells]
    assert [[each.weight.peak for each in config.method.regularizers] for config in sweep] == [
        [],
        [0.001],
        [0.005],
        [0.01],
        [0.05],
        [0.1],
    ]
    assert [config.backbone.surgery for config in sweep] == ["C", "F", "F", "F", "F", "F"]
    rows: list[Any] = [cell.config() for cell in whole("sar_table1b", tmp_path).cells]
    assert [config.backbone.surgery for config in rows] == [None, "B", "C", "D", None, "F"]
    assert [len(config.method.regularizers) for config in rows] == [0, 0, 0, 0, 1, 1]
    code: Any = whole("sar_table1b", tmp_path, "schedule=warmup_cosine", "rows=F").cells[0].config()
    assert code.method.regularizers[0].weight.kind == "warmup_cosine"


def test_tables_share_runs_and_agree_on_them(tmp_path: Path) -> None:
    """Where two tables name the same run, they ask for the same training."""
    found: dict[str, Any] = {}
    for name in FOLDERS:
        for cell in whole(name, tmp_path).cells:
            for config, folder in cell.trainings(tmp_path):
                assert found.setdefault(folder.name, config) == config, folder.name
    runs = {name: {cell.folder for cell in whole(name, tmp_path).cells} for name in FOLDERS}
    assert runs["sar_table1a"] & runs["sar_table1b"] == {"in100-vit-s-16-sar-100-0", "in100-vit-s-16-row-c-100-0"}
    assert len(runs["sar_table1a"] | runs["sar_table1b"] | runs["sar_table1c"]) == 12
    assert runs["sar_table5"] == runs["sar_table6"] == {"in1k-vit-s-16-300-0", "in1k-vit-s-16-sar-300-0"}
    assert runs["sar_table5"] < runs["sar_table2"]
    assert runs["sar_table5"] < runs["sar_table11"]
    firsts = {cell.first.run for cell in whole("sar_table4", tmp_path).cells if cell.first is not None}
    assert firsts == runs["sar_table5"]


def test_rows_columns_and_seeds() -> None:
    study = sar_table3(["small=true", "rows=vit-s/16", "columns=scenes for cars,scenes for sketch", "seeds=3"])
    assert (study.rows, study.columns) == (("ViT-S/16",), ("scenes for Cars", "scenes for Sketch"))
    assert [cell.repeat for cell in study.cells] == [0, 1, 2] * 2
    assert len({cell.folder for cell in study.cells}) == 6
    seeds: list[Any] = [cell.config() for cell in study.cells]
    assert [config.train.seed for config in seeds] == [0, 1, 2] * 2
    assert [config.data.scenes.seed for config in seeds] == [1] * 3 + [4] * 3


def test_columns_of_scenes_by_their_own_names_and_rows_that_are_nearly_named() -> None:
    study = sar_table4(["small=true", "columns=Flowers,pets", "rows=no sar"])
    assert study.columns == ("scenes for Flowers", "scenes for Pets")
    with pytest.raises(ConfigError, match=r"called 'CvT'; did you mean 'CvT-13' or 'CvT-13 \+ SAR'\?; known: ViT-T/16"):
        sar_table2(["small=true", "rows=CvT"])
    with pytest.raises(ConfigError, match=r"called 'Flwers'; did you mean 'scenes for Flowers'\?; known"):
        sar_table4(["small=true", "columns=Flwers"])


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs ImageNet-100: give imagenet100=FOLDER, or small=true"):
        sar_table1a([])
    with pytest.raises(ConfigError, match=r"voc= is not read by this table, which reads imagenet$"):
        sar_table2([f"voc={tmp_path}", "small=true"])
    with pytest.raises(ConfigError, match=r"rows: there is none called 'G'; known: A: baseline, "):
        sar_table1b(["small=true", "rows=G"])
    with pytest.raises(ConfigError, match=r"train.epochs=2: rows, columns and settings of the study set this"):
        sar_table1c(["small=true", "train.epochs=2"])
    with pytest.raises(ConfigError, match=r"nothing to train on: give cars=FOLDER, clipart=FOLDER"):
        sar_table3([])
    with pytest.raises(ConfigError, match=r"starts from ViT-S/16 without SAR: give imagenet=FOLDER .* or weights=RUN"):
        sar_table4([f"pets={tmp_path}"])
    with pytest.raises(ConfigError, match=r"ViT-S/16 with SAR: .* weights_sar=RUN"):
        sar_table4([f"pets={tmp_path}", "rows=SAR pre-training"])
    with pytest.raises(ConfigError, match=r"unknown setting 'colums'; did you mean 'columns'"):
        sar_table1b(["small=true", "colums=100 ep."])
    with pytest.raises(ConfigError, match=r"imagenet=.*gone: there is no such folder; give that of ImageNet-1k"):
        sar_table6([f"imagenet={tmp_path / 'gone'}", f"voc={tmp_path}"])


def test_a_table_end_to_end_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["study", "sar_table1b", "small=true", "rows=F", *TINY, "--out", str(tmp_path / "b")]
    words += ["--runs", str(tmp_path / "runs")]
    listed = CliRunner().invoke(app, [*words, "--dry-run"])
    assert listed.exit_code == 0, listed.output
    assert "published 76.72" in listed.output
    assert "3 steps" in listed.output
    assert "48 images" in listed.output
    assert "left: 1 training, 48 images" in listed.output
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    page, table = ((tmp_path / "b" / f"study.{kind}").read_text() for kind in ("html", "json"))
    (entry,) = json.loads(table)["table"]
    assert f"{entry['mean']:.2f} (76.72)" in page
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["small-in100-vit-s-16-sar-100-0"]
    report = tmp_path / "b" / json.loads(table)["cells"][0]["report"]
    assert json.loads(report.read_text())["numbers"]["top1"] == entry["mean"]

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    # Another table that has this training finds it.
    monkeypatch.setattr(runner, "train_here", never)
    other = sar_table1a(["small=true", "rows=0.01", *TINY])
    (result,) = run_study(other, tmp_path / "a", runs=tmp_path / "runs")
    assert (result.state, result.value) == ("finished", entry["mean"])


def test_cells_start_from_one_training(tmp_path: Path) -> None:
    """Table 4: pre-trained once with and once without SAR; the network follows, the loss is the row's own."""
    columns = "columns=scenes for flowers,scenes for pets"
    study = sar_table4(["small=true", columns, "rows=no SAR,SAR pre-training,SAR in both", *TINY])
    before = first_costs(study, tmp_path)
    assert {run: (state, cost.steps) for run, (state, cost) in before.items()} == {
        "small-in1k-vit-s-16-300-0": ("open", 3),
        "small-in1k-vit-s-16-sar-300-0": ("open", 3),
    }
    lines = listing(study, tmp_path)
    assert sum(line.startswith("open      first, small-in1k") for line in lines) == 2
    assert lines[-1].startswith("left: 8 trainings")
    kept = study._replace(cells=tuple(cell for cell in study.cells if "Pets" in cell.column))
    results = run_study(kept, tmp_path)
    assert [result.state for result in results] == ["finished"] * 3
    runs = {path.name for path in (tmp_path / "runs").iterdir()}
    assert runs == {cell.folder for cell in kept.cells} | set(before)
    surgeries = [load(str(tmp_path / "runs" / cell.folder)).config for cell in kept.cells]
    assert [config.surgery for config in surgeries if isinstance(config, BackboneConfig)] == [None, "F", "F"]
    assert any("from one with both. The surgery follows the weights" in note for note in study.notes)
    assert not any("All fine-tunings" in note for note in study.notes)
    logs = [(tmp_path / "runs" / cell.folder / "metrics.jsonl").read_text() for cell in kept.cells]
    assert ["train/spatial_entropy" in log for log in logs] == [False, False, True]
    after = first_costs(study, tmp_path)
    assert {state for state, _ in after.values()} == {"trained"}
    assert listing(study, tmp_path)[-1].startswith("left: 3 trainings")


def test_a_first_training_that_diverges_fails_its_cells_and_other_settings_are_refused(tmp_path: Path) -> None:
    wild = sar_table4(["small=true", "rows=no SAR", "columns=scenes for pets", *TINY, "train.learning_rate=1.0e30"])
    (result,) = run_study(wild, tmp_path)
    assert result.state == "failed"
    assert not (tmp_path / "runs" / result.cell.folder).exists()
    # Nothing of it was kept, so the advice to lower the rate can be followed in the same folder; then it binds.
    (result,) = run_study(sar_table4(["small=true", "rows=no SAR", "columns=scenes for pets", *TINY]), tmp_path)
    assert result.state == "finished"
    with pytest.raises(ConfigError, match=r"in1k-vit-s-16-300-0 was trained with other settings: train.learning_rate"):
        run_study(wild, tmp_path)


def test_given_weights_take_the_place_of_pre_training(tmp_path: Path) -> None:
    first = sar_table2(["small=true", "rows=ViT-S/16", *TINY])
    run_study(first, tmp_path)
    run = tmp_path / "runs" / first.cells[0].folder
    study = sar_table4(["small=true", "rows=no SAR", "columns=scenes for cifar-10", f"weights={run}", *TINY])
    (cell,) = study.cells
    assert cell.first is None
    config: Any = cell.config()
    assert config.init_from == str(run / "exported" / "backbone.safetensors")
    assert [cost.steps for cost in costs(study, tmp_path / "other")] == [3]
    family_of(config).check(config)


def test_several_numbers_of_one_report_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrail.recipes import measure

    table = sar_table2(["small=true", "rows=ViT-S/16", *TINY])
    (cell,) = table.cells
    both = (cell, cell._replace(column="top-5", number="top5", published=None))
    study = table._replace(columns=(cell.column, "top-5"), cells=both)
    calls, right = [], measure.measure

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(given)
        return right(*given, **named)

    monkeypatch.setattr(measure, "measure", counted)
    first, second = run_study(study, tmp_path)
    assert len(calls) == 1
    assert first.report == second.report
    assert first.value is not None
    assert second.value is not None
    assert first.value <= second.value
    assert read_results(study, tmp_path) == [first, second]


def test_a_whole_table_to_its_page(tmp_path: Path) -> None:
    """Table 6: both trainings, both measurements, and what the page says of them."""
    page, failed = run_and_write(sar_table6(["small=true", *TINY]), tmp_path)
    assert failed == 0
    text = page.read_text()
    assert re.search(r"\d\.\d\d \(19\.18\)", text)
    assert re.search(r"\d\.\d\d \(31\.19\)", text)
    assert "tiny networks on generated scenes in place of ViT-S/16 of ImageNet-1k on VOC 2012. 2 of 2 numbers" in text
    assert "small=true: tiny networks, trained for 1 epoch by the recipe scenes." in text
    assert "data.scenes.count=48" in text
    found = json.loads((tmp_path / "study.json").read_text())["cells"]
    assert [cell["state"] for cell in found] == ["finished"] * 2
    with pytest.raises(ConfigError, match=r"holds the study sar_table6, not sar_table5; give it another --out"):
        run_and_write(sar_table5(["small=true", *TINY]), tmp_path)


def test_a_small_page_says_nothing_of_recipes_that_it_does_not_use(tmp_path: Path) -> None:
    for name in ("sar_table1b", "sar_table2", "sar_table7", "sar_table8"):
        full, small = whole(name, tmp_path).notes, FOLDERS[name][0](["small=true"]).notes
        words = re.compile("DeiT's recipe|2e-3|performer|rest is each method's own")
        assert any(words.search(note) for note in full)
        assert not any(words.search(note) for note in small)
    longer = sar_table1c(["small=true"])
    assert "small=true: tiny networks, trained for 4 or 12 epochs by the recipe scenes." in longer.notes
    assert not any("brackets" in note for note in sar_table5(["small=true"]).notes)  # there nothing is published


def test_fewer_epochs_warm_up_for_less(tmp_path: Path) -> None:
    """train.epochs= alone is enough, also below the warm-up of the study's own epochs."""
    for name in ("sar_table2", "sar_table8"):
        for cell in FOLDERS[name][0](["small=true", "train.epochs=2"]).cells:
            config: Any = cell.config()
            assert (config.train.epochs, config.train.warmup_epochs) == (2, 0.4)
    (own,) = sar_table2(["small=true", "rows=ViT-S/16", "train.epochs=2", "train.warmup_epochs=1"]).cells
    assert own.config().train.warmup_epochs == 1  # type: ignore[attr-defined]
    # Scenes and a folder in their place are different trainings, which one folder of runs may hold.
    (tmp_path / "photos").mkdir()
    (photos,) = sar_table2(["small=true", "rows=ViT-S/16", f"imagenet={tmp_path / 'photos'}"]).cells
    assert photos.folder != own.folder


def test_attention_and_other_protocols_in_one_table(tmp_path: Path) -> None:
    eight = whole("sar_table8", tmp_path)
    told = {(cell.row, cell.column): (cell.protocol, cell.number, cell.settings) for cell in eight.cells}
    assert told["MoCo-v3", "linear probe"] == ("linear", "linear_top1", ("preset=sar", "workers=8"))
    assert told["DINO + SAR", "linear probe"] == ("linear", "linear_top1", ("preset=dino", "workers=8"))
    assert told["DINO", "Jaccard"] == ("attention_jaccard", "jaccard", ("preset=sar",))
    five = whole("sar_table5", tmp_path)
    assert [(cell.protocol, cell.number) for cell in five.cells[:2]] == [
        ("robustness", "top1"),
        ("robustness", "mce"),
    ]


def test_a_mean_error_stands_beside_no_published_mce(tmp_path: Path) -> None:
    five, small = whole("sar_table5", tmp_path), sar_table5(["small=true"])
    assert "percent of AlexNet's" in five.unit
    assert small.columns == ("error on corruptions",)
    assert {(cell.number, cell.published) for cell in small.cells} == {("mce_unnormalized", None)}
    assert "AlexNet" not in small.unit
    assert "it is no mCE" in small.unit
