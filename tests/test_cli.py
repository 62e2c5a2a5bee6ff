"""The command line: words without heavy imports, errors in one line, and one run from end to end."""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from processes import python, until
from safetensors.torch import load_file
from typer.testing import CliRunner

from vitrail import catalog
from vitrail.backbones import BackboneConfig, create, save_exported
from vitrail.cli import PICTURES, app
from vitrail.config import Config
from vitrail.masks import MaskConfig
from vitrail.methods.mae import Mae, MaeConfig
from vitrail.nn.masked_autoencoder import DecoderConfig
from vitrail.regularizers import RegularizerConfig

ROOT = Path(__file__).resolve().parents[1]
runner = CliRunner()


def vitrail(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return python("-m", "vitrail", *arguments, cwd=cwd, check=False, **variables)


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "demo",
        "doctor",
        "train",
        "evaluate",
        "rank",
        "localize",
        "features",
        "show",
        "report",
        "curves",
        "export",
        "label",
    ],
)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"vitrail {command}" in result.output
    assert "Example" in result.output


def test_help_names_verbs_in_the_order_of_work() -> None:
    """As `vitrail/cli/__init__.py` imports their files: what sorts imports would sort the verbs."""
    verbs = [each.name or str(getattr(each.callback, "__name__", "")) for each in app.registered_commands]
    asked = ["list", "demo", "doctor", "train", "study", "evaluate", "show", "rank", "compare", "export"]
    assert [verb for verb in verbs if verb in asked] == asked


def test_list_names_recipes_and_protocols() -> None:
    output = runner.invoke(app, ["list"]).output
    for name in (
        "scenes_sar",
        "folder",
        "deit_small",
        "finetune_sar",
        "finetune_mae",
        "knn",
        "linear",
        "attention_jaccard",
        *PICTURES,
    ):
        assert name in output


def test_every_listed_thing_has_a_summary() -> None:
    for entry in [
        *catalog.recipes(),
        *catalog.protocols(),
        *catalog.parts("methods"),
        *catalog.kinds("masks"),
        *catalog.kinds("regularizers"),
    ]:
        assert entry.summary, entry


def test_the_settings_of_every_protocol_are_listed() -> None:
    for entry in catalog.protocols():
        hint = get_type_hints(importlib.import_module(entry.module).evaluate)["config"]
        (config,) = [each for each in get_args(hint) if each is not type(None)]
        told = {each.name: each for each in catalog.settings_of(entry)}
        assert set(told) == set(config.model_fields), entry.name
        for name, default in config().plain().items():
            if told[name].default not in ("", "..."):
                assert config().override([f"{name}={told[name].default}"]).plain()[name] == default, (entry.name, name)
    shown = runner.invoke(app, ["list", "protocols", "localization"]).output
    assert '  view=null                    squash | crop | null\n      "squash" shows the whole image;' in shown
    assert "  precision=fp32               fp32 | bf16\n" in shown
    assert "  ious=0.3,0.5,0.7             tuple[float, ...]\n" in shown


def test_rankers_are_listed_with_what_they_need() -> None:
    lines = runner.invoke(app, ["list", "rankers"]).output.splitlines()
    told: dict[str, list[str]] = {}
    for line in lines[1:]:
        if line[2:3].strip():
            told[line.split()[0]] = []
        elif line:
            told[list(told)[-1]].append(line.strip())
    assert told["center"] == ["needs no weights"]
    assert told["dino"][0].startswith("weights: the file of a ViT")
    assert told["dino"][1] == "variants: sum_attention, mass_vote"
    assert sorted(told) == [entry.name for entry in catalog.rankers()]


@pytest.mark.parametrize(("room", "config"), [("masks", MaskConfig), ("regularizers", RegularizerConfig)])
def test_what_is_listed_is_what_a_recipe_takes(room: str, config: type[Config]) -> None:
    listed = [entry.name for entry in catalog.kinds(room)]
    assert listed == list(get_args(config.model_fields["kind"].annotation))
    assert all(config.model_validate({"kind": name}) for name in listed)
    output = runner.invoke(app, ["list", room]).output
    assert [line.split()[0] for line in output.splitlines()[1:] if line] == listed


def test_words_are_quick() -> None:
    """`--help` and `list` take little more of the processor than the libraries that read words do."""
    commands = {
        "libraries": ["-c", "import pydantic, rich.console, rich.table, typer, yaml"],
        "help": ["-m", "vitrail", "--help"],
        "list": ["-m", "vitrail", "list"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(4):  # in turn, for the machine may be busy at times
        for name, command in commands.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            python(*command, PYTHONPATH=str(ROOT))
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    floor = min(seconds["libraries"])
    assert min(seconds["help"]) < 2 * floor, seconds
    assert min(seconds["list"]) < 4 * floor, seconds


def test_completion_is_offered() -> None:
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the tests may run without a shell above them
    assert "_completion()" in vitrail("--show-completion", "bash", **named).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "scene"], "did you mean 'scenes'"),
        (["train", "scenes", "train.epoch=3", "--dry-run"], "did you mean 'train.epochs'"),
        (["train", "scenes", "train.epochs=many", "--dry-run"], "train.epochs = 'many'"),
        (["train", "scenes", "devices=0", "--dry-run"], "devices='0'"),
        (["train", "scenes", "--resume", "--extend", "3"], "exclude each other"),
        (["train", "scenes", "--init-from", "nothing.pth"], "no file of weights at nothing.pth"),
        (["train", "folder", "data.root=nowhere"], "no folder 'nowhere'"),
        (["train", "folder"], "data.root is not given"),
        (["train", "finetune", "data.root=."], "give --init-from"),
        (["evaluate", "kn", "-w", "x", "-d", "scenes"], "did you mean 'knn'"),
        (["evaluate", "knn", "-w", "none.pth", "-d", "scenes"], "no file of weights at none.pth"),
        (["evaluate", "knn", "-w", "pretrained", "-d", "scenes"], "--model"),
        (["show", "atention", "a.png", "-w", "x"], "did you mean 'attention'? known: attention"),
        (["show", "nonsense", "a.png", "-w", "x"], "there is no picture 'nonsense'; known: attention"),
        (["show", "attention", "a.png"], "show attention needs --weights"),
        (["show", "pca", "a.png", "-w", "x", "-w", "y"], "show pca draws one network, and 2 --weights are given"),
        (["show", "masks", "a.png", "-w", "x", "-w", "y"], "attention, regions, blobs set several side by side"),
        (["show", "regions", "a.png"], "show regions needs --weights"),
        (["show", "regions", "a.png", "-w", "x", "--mass", "60"], "--mass 60 is no share of the attention"),
        (["curves", "nothing"], "there is no run folder at nothing"),
        (["show", "reconstruction", "a.png"], "show reconstruction needs --weights"),
        (["show", "removal", "a.png"], "show removal needs --weights"),
        (["show", "filter", "a.png"], "show filter needs --weights"),
        (["show", "tsne", "a.png"], "show tsne needs --weights"),
        (["show", "grabcut", "a.png"], "show grabcut needs --weights"),
        (["show", "masks", "a.png"], "none of 1 images can be read"),
        (["show", "masks", "a.png", "-w", "x", "--patch-size", "8"], "exclude each other"),
        (["report", "nothing"], "nothing"),
        (["report", "nothing", "--before"], "nothing is no run folder with a config.yaml"),
        (["export", "-w", "x", "-o", "model.bin"], ".safetensors or .onnx"),
    ],
)
def test_mistakes_get_one_clear_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, arguments)
    text = f"{result.output}{result.exception}"
    assert result.exit_code != 0
    assert message in text, text


MISTYPED = [
    (["rank", "a.png", "--ranker", "centre"], "did you mean 'center'"),
    (["rank", "a.png", "--ranker", "dino:mass_votes", "-w", "w.pth"], "known: sum_attention, mass_vote"),
    (["rank", "a.png", "--ranker", "center:left"], "has no variants"),
    (["rank", "a.png"], "the ranker ltrp needs weights: give a run of LTRP"),
    (["rank", "a.png", "-w", "none.pth"], "no file of weights at none.pth"),
    (["rank", "none.png", "--ranker", "center"], "none of 1 images can be read: none.png"),
    (["rank", "a.png", "--ranker", "center", "--keep", "0"], "keep is 0; it is the share"),
    (["features", "a.png", "-o", "f", "-w", "none.pth"], "no file of weights at none.pth"),
    (["features", "none.png", "-o", "f", "-w", "w.pth"], "none of 1 images can be read"),
    (["localize", "a.png", "--localizer", "lots=w.pth"], "did you mean 'lost'"),
    (["localize", "a.png"], "no localizer is named; give --weights RUN or --localizer NAME=WEIGHTS, known names: att"),
    (["localize", "a.png", "-w", "a.png"], "a.png is an image (PNG), not weights"),
    (["localize", "a.png", "-l", "ranker=w.pth"], "ranker=w.pth names no ranker; say ranker:NAME=w.pth, NAME one of"),
    (["localize", "a.png", "-l", "ranker=dino"], "takes the ranker's name for weights; say ranker:dino"),
    (["localize", "a.png", "-l", "ranker"], "ranker names no ranker; say ranker:NAME=WEIGHTS"),
    (["localize", "a.png", "-l", "whole_image", "--top", "3"], "top 3 is of all boxes"),
    (["localize", "a.png", "-l", "whole_image", "--min-area", "5"], "min_area is 5; it is a share"),
    (["compare", "-d", "scenes", "-l", "heat_maps"], "heat_maps names no folder of maps; say heat_maps=FOLDER"),
    (["list", "recipes", "scenes"], "`vitrail train RECIPE --dry-run` prints those of a recipe"),
    (["list", "protocols", "localisation"], "did you mean 'localization'"),
    (["localize", "a.png", "-w", "none.pth"], "no file of weights at none.pth"),
    (["localize", "a.png", "-l", "lost=w.pth", "-w", "x.pth"], "weights are named twice"),
    (["localize", "a.png", "-l", "heat_maps=."], "heat_maps is a folder of maps, which sees no images"),
    (["localize", "a.png", "-l", "whole_image", "--threshold", "1"], "threshold is 1.0; it is a share"),
    (["localize", "none.png", "-l", "whole_image"], "none of 1 images can be read: none.png"),
    (["evaluate", "localization", "-d", "scenes"], "no localizer is named; give --weights RUN"),
    (["evaluate", "localization", "-d", "scenes", "-l", "lots"], "did you mean 'lost'"),
    (["evaluate", "localization", "-d", "scenes", "-l", "lost"], "the localizer lost needs weights"),
    (["evaluate", "localization", "-d", "scenes", "-r", "center"], "or say --localizer ranker:center"),
    (["evaluate", "localization", "-d", "scenes", "-l", "lost=w.pth", "--heat-maps", "."], "measures one localizer"),
    (["evaluate", "localization", "-d", "scenes", "--heat-maps", "none"], "no folder of heat maps 'none'"),
    (["evaluate", "knn", "-d", "scenes", "-w", "w.pth", "-l", "lost"], "knn measures no localizer"),
    (["show", "patches", "a.png", "--ranker", "centre"], "did you mean 'center'"),
    (["show", "patches", "a.png", "--ranker", "center", "--keep", "1.5"], "keep is 1.5"),
    (["show", "patches", "none.png", "--ranker", "center"], "none of 1 images can be read"),
    (["show", "attention", "none.png", "-w", "w.pth"], "none of 1 images can be read"),
    (["show", "blobs", "a.png", "-w", "w.pth", "-w", "none.pth"], "no file of weights at none.pth"),
    (["show", "attention", "a.png", "-w", "none.pth"], "no file of weights at none.pth"),
    (["evaluate", "patch_recall", "-d", "scenes"], "patch_recall measures one ranker"),
    (["evaluate", "patch_recall", "-d", "scenes", "-r", "centre"], "did you mean 'center'"),
    (["evaluate", "patch_recall", "-d", "scenes", "-r", "ltrp=none.pth"], "no file of weights at none.pth"),
    (["evaluate", "patch_recall", "-d", "nowhere", "-r", "center"], "no folder 'nowhere'"),
    (["evaluate", "selection_accuracy", "-d", "scenes", "-r", "center"], "selection_accuracy needs --weights"),
    (["evaluate", "knn", "-d", "scenes", "-w", "none.pth"], "no file of weights at none.pth"),
    (["compare", "-d", "scenes", "-r", "centre"], "did you mean 'center'"),
    (["compare", "-d", "scenes", "-r", "center", "--keep", "-1"], "keep is -1"),
    (["compare", "-d", "nowhere", "-r", "center"], "no folder 'nowhere'"),
    (["compare", "-d", "scenes", "-r", "center", "-c", "none.pth"], "no file of weights at none.pth"),
    (["train", "scenes", "--init-from", "none.pth"], "no file of weights at none.pth"),
    (["train", "folder", "data.root=nowhere"], "no folder 'nowhere'"),
    (["train", "scenes", "-o", "a.png/run"], "a.png is a file"),
    (["train", "scenes", "--resume", "--extend", "3"], "exclude each other"),
    (["study", "sar_table1b"], "this table needs ImageNet-100: give imagenet100=FOLDER"),
    (["study", "sar_table1b", "imagenet100=nowhere"], "imagenet100=nowhere: there is no such folder"),
    (["study", "sar_table4", "small=true", "flowers=nowhere"], "flowers=nowhere: there is no such folder"),
    (["study", "sar_table1b", "small=true", "-o", "a.png/study"], "a.png is a file"),
    (["show", "corruptions", "a.png", "-o", "new.png"], "new.png is to be a folder, into which files are written"),
    (["rank", "a.png", "-r", "center", "-o", "a.png"], "a.png cannot be a folder: "),
    (["study", "sar_table1b", "small=true", "--runs", "a.png"], "a.png is a file"),
    (["study", "sar_table1b", "small=true", "rows=Z"], "rows: there is no"),
    (["study", "augmentation", "cifar10=nowhere"], "no folder 'nowhere'"),
]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--no-cls"], "ask for one of them, --patches or --cls"), (["--shard-size", "0"], "shard_size = 0")],
)
def test_settings_of_features_are_told_in_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "w.pth").write_bytes(b"")
    told = ["features", str(tmp_path / "a.png"), "-w", str(tmp_path / "w.pth"), "-o", str(tmp_path / "f"), *words]
    said = str(runner.invoke(app, told).exception)
    assert said.startswith("features: ")
    assert message in said
    assert "\n" not in said


def test_wrong_words_are_told_before_torch_is_imported(tmp_path: Path) -> None:
    """All in one process, so that whichever imports it is found; then one alone, by the clock of the processor."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "w.pth").write_bytes(b"")
    code = (
        "import json, sys\nfrom vitrail.cli import app\nsaid = []\nfor words in json.loads(sys.argv[1]):\n"
        "    try:\n        app(words, standalone_mode=False)\n    except ValueError as error:\n"
        "        said.append([str(error), 'torch' in sys.modules])\nprint(json.dumps(said))"
    )
    done = python("-c", code, json.dumps([words for words, _ in MISTYPED]), cwd=tmp_path, PYTHONPATH=str(ROOT))
    said = json.loads(done.stdout)
    assert len(said) == len(MISTYPED), done.stderr
    for (words, message), (told, heavy) in zip(MISTYPED, said):
        assert message in told, words
        assert not heavy, words
    assert not (tmp_path / "runs").exists()

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert vitrail("rank", "a.png", "--ranker", "centre", cwd=tmp_path).returncode == 2
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


def test_an_error_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = vitrail("train", "folder", "data.root=nowhere", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_prints_a_configuration_that_trains(tmp_path: Path) -> None:
    done = runner.invoke(app, ["train", "scenes_sar", "train.epochs=3", "--dry-run"])
    (tmp_path / "c.yaml").write_text(done.stdout)
    again = runner.invoke(app, ["train", str(tmp_path / "c.yaml"), "--dry-run"])
    assert again.stdout == done.stdout
    assert "epochs: 3" in done.stdout
    assert "6,500 images, 3 epochs of 101 steps of 64: 303 steps" in done.stderr


def test_dry_run_meets_what_training_would(tmp_path: Path) -> None:
    """A batch that does not divide among the processes, a model that cannot be built: before anything is started."""
    for setting, words in (("devices=3", "64 does not divide into 3 ranks"), ("backbone.name=resnet18", "resnet")):
        result = runner.invoke(app, ["train", "scenes", setting, "--dry-run", "--out", str(tmp_path / "run")])
        assert words in str(result.exception), setting


def test_a_missing_folder_is_told_before_processes_are_started(tmp_path: Path) -> None:
    done = vitrail("train", "folder", "data.root=nowhere", "devices=2", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_warning_is_one_line_from_the_first_process_alone(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(4):
            Image.new("RGB", (64, 64), (number, 9, 9)).save(tmp_path / label / f"{number}.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "stray.png")
    arguments = ["train", "folder", f"data.root={tmp_path}", "train.global_batch_size=4", "--dry-run"]
    first, second = vitrail(*arguments), vitrail(*arguments, RANK="1")
    assert f"note: 1 image beside the class folders of {tmp_path}: left out\n" in first.stderr
    assert "warnings.warn" not in first.stderr
    assert "stray" not in second.stderr
    assert "note:" not in second.stderr


SMALL = [
    "data.scenes.count=64",
    "data.scenes.val_count=32",
    "train.epochs=2",
    "train.warmup_epochs=1",
    "train.global_batch_size=16",
    "backbone.embed_dim=48",
    "backbone.depth=2",
]


def test_from_training_to_page(tmp_path: Path) -> None:
    """train, refuse, evaluate, show, export and report, by the words that a user types."""
    run = tmp_path / "run"
    done = vitrail("train", "scenes_sar", *SMALL, "--out", str(run))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("val/top1" in line for line in lines)
    assert (run / "exported" / "backbone.safetensors").is_file()
    with Image.open(run / "curves.png") as curves:
        assert curves.height > 3 * 300  # loss, gradient norm, accuracy, entropy
    heads = {name for line in lines for name in line if "_head_" in name}
    assert heads == {f"val/{what}_head_{head}" for what in ("spatial_entropy", "blobs") for head in range(3)}
    assert "_head_" not in (run / "log.txt").read_text()
    with Image.open(run / "entropy_heads.png") as sheet:
        assert sheet.width > 2 * 300  # entropy, blobs
    assert {"attention_before.png", "attention_after.png"} <= {path.name for path in (run / "pictures").iterdir()}

    refused = str(runner.invoke(app, ["train", "scenes_sar", *SMALL, "--out", str(run)]).exception)
    assert all(word in refused for word in ("--resume", "--extend", "--overwrite"))

    measured = vitrail("evaluate", "knn", "-w", str(run), "-d", "scenes", "--cache", str(tmp_path / "cache"))
    assert measured.returncode == 0, measured.stderr
    assert any((tmp_path / "cache").rglob("*.*"))
    assert (run / "evaluation" / "knn.json").is_file()
    for words in ("64 images in 8 classes", "48 x 48 px", "deviation  transform.image_size = 48"):
        assert words in measured.stdout

    picture = next((run / "pictures").glob("*.png"))
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = [str(tmp_path / "broken.png"), str(picture)]
    with pytest.warns(UserWarning, match=r"broken\.png is left out"):
        shown = runner.invoke(app, ["show", "attention", *images, "-w", str(run), "-o", str(tmp_path / "shown")])
    assert shown.exit_code == 0, shown.exception
    assert len(list((tmp_path / "shown").glob("*.png"))) == 1

    exported = run / "exported" / "backbone.safetensors"
    (tmp_path / "other.safetensors").write_bytes(exported.read_bytes())
    both = ["-w", str(run), "-w", str(tmp_path / "other.safetensors"), "-o", str(tmp_path / "both")]
    shown = runner.invoke(app, ["show", "regions", str(picture), *both, "--mass", "0.5"])
    assert shown.exit_code == 0, shown.exception
    assert shown.output.strip() == str(tmp_path / "both" / f"{picture.stem}-regions.png")

    drawn = runner.invoke(app, ["curves", str(run), "--out", str(tmp_path / "accuracy.png")])
    assert drawn.exit_code == 0, drawn.exception
    assert (tmp_path / "accuracy.png").is_file()

    written = runner.invoke(
        app, ["features", str(picture), "-w", str(run), "--patches", "--format", "npy", "-o", str(tmp_path / "f")]
    )
    assert written.exit_code == 0, written.exception
    assert np.load(tmp_path / "f" / "000000-patches.npy").ndim == 3

    page = runner.invoke(app, ["report", str(run), "--out", str(tmp_path / "page.html")])
    assert page.exit_code == 0, page.exception
    assert "knn" in (tmp_path / "page.html").read_text()

    shipped = runner.invoke(app, ["export", "-w", str(run), "-o", str(tmp_path / "b.safetensors")])
    assert shipped.exit_code == 0, shipped.exception
    assert (tmp_path / "b.safetensors").stat().st_size > 1000


def test_every_picture_takes_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They become the images below them before anything is drawn, at most --limit; correspondence wants exactly two."""
    from vitrail.cli import showing

    for number in range(6):
        (tmp_path / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / "ab"[number % 2] / f"{number}.png").touch()
    weights = tmp_path / "weights.pth"
    weights.touch()
    seen: list[list[Path]] = []
    for name, place in {"_draw_seen": 1, "_draw_features": 1, "_draw_hidden": 1, "_draw_corruptions": 0}.items():
        monkeypatch.setattr(showing, name, lambda *given, place=place: seen.append(given[place]) or [])
    monkeypatch.setattr(showing, "_show_patches", lambda images, *more: seen.append(images))
    for picture in PICTURES:
        words = ["show", picture, str(tmp_path / "photos"), "--limit", "3", "-w", str(weights)]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (picture, done.exception)
        names = [path.stem for path in seen[-1]]
        limited = picture != "correspondence"
        assert names == (["0", "4", "3"] if limited else ["0", "2", "4", "1", "3", "5"]), picture
        assert any("3 of 6 images below" in str(each.message) for each in said) == limited
    assert len(seen) == len(PICTURES)


def test_masks_are_shown_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").save("a.png")
    arguments = ["show", "masks", "a.png", "--size", "48", "--patch-size", "8", "--tau", "0.2", "--ratio", "0.5"]
    result = runner.invoke(app, arguments)
    assert result.output == "pictures/masks.png\n"
    assert (tmp_path / "pictures" / "masks.png").is_file()


def test_patches_are_ranked_and_rankers_shown_side_by_side(tmp_path: Path) -> None:
    Image.effect_noise((90, 60), 80).convert("RGB").save(tmp_path / "photo.png")
    words = [str(tmp_path / "photo.png"), "--size", "64", "--out", str(tmp_path / "out")]
    result = runner.invoke(app, ["rank", *words, "--ranker", "center", "--keep", "0.5"])
    assert result.output.strip().endswith("photo-center.png")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"photo-center.{ending}" for ending in ("json", "npy", "png")]
    runner.invoke(app, ["show", "patches", *words, "--ranker", "center"])
    assert (tmp_path / "out" / "patches.png").is_file()
    assert "needs --ranker" in str(runner.invoke(app, ["show", "patches", *words]).exception)
    assert "did you mean 'center'" in str(runner.invoke(app, ["rank", *words, "--ranker", "centre"]).exception)


def test_a_run_of_mae_shows_what_it_reconstructs(tmp_path: Path) -> None:
    """Its own pictures, before and after, and those of an image file."""
    run, image = tmp_path / "run", tmp_path / "a.png"
    Image.radial_gradient("L").save(image)
    small = ["method.decoder.embed_dim=16", "method.decoder.depth=1", "probe.train=20", "train.epochs=1"]
    done = runner.invoke(app, ["train", "scenes_mae", *SMALL, *small, "--out", str(run)])
    assert done.exit_code == 0, done.exception
    captions = json.loads((run / "pictures" / "captions.json").read_text())
    assert list(captions) == ["reconstruction_before.png", "reconstruction_after.png"]
    heights = {}
    for name in captions:
        with Image.open(run / "pictures" / name) as sheet:
            heights[name] = sheet.height
    # Before, it says in large words that the decoder is untrained.
    assert heights["reconstruction_before.png"] > heights["reconstruction_after.png"]
    for more, words in (([], "reconstruction.png"), (["--plain-targets"], "leave --normalized-targets")):
        arguments = ["show", "reconstruction", str(image), "-w", str(run), "-o", str(tmp_path / "shown"), *more]
        shown = runner.invoke(app, arguments)
        assert words in f"{shown.output}{shown.exception}"
    assert (tmp_path / "shown" / "reconstruction.png").is_file()


def test_timm_loads_a_backbone_beside_which_a_decoder_stands(tmp_path: Path) -> None:
    """With strict=False, as pretrained weights, or by itself after `vitrail export`; never silently otherwise."""
    both, alone = tmp_path / "both.safetensors", tmp_path / "alone.safetensors"
    backbone = create(BackboneConfig(image_size=32, patch_size=8, embed_dim=24, depth=2, heads=2))
    method = Mae(MaeConfig(decoder=DecoderConfig(embed_dim=8, depth=1, heads=2)), backbone)
    save_exported(method.export(), both)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    make = partial(timm.create_model, "vit_tiny_patch16_224", **shape)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*decoder"):
        make(checkpoint_path=str(both))

    shipped = runner.invoke(app, ["export", "--weights", str(both), "--out", str(alone)])
    assert shipped.exit_code == 0, shipped.exception
    loose = make()
    loose.load_state_dict(load_file(both), strict=False)
    as_pretrained = make(pretrained=True, pretrained_cfg_overlay={"file": str(both)})
    images = torch.randn(2, 3, 32, 32)
    expected = backbone.eval()(images).cls
    for vit in (loose, as_pretrained, make(checkpoint_path=str(alone))):
        torch.testing.assert_close(vit.eval().forward_features(images)[:, 0], expected, atol=1e-5, rtol=1e-5)


def test_a_mistyped_folder_does_not_cost_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        result = runner.invoke(app, ["train", "folder", "data.root=nowhere", "--out", "run"])
        assert "no folder 'nowhere'" in str(result.exception)


def test_a_run_goes_on_with_the_settings_that_it_was_started_with(tmp_path: Path) -> None:
    run = ["--out", str(tmp_path / "run")]
    assert runner.invoke(app, ["train", "scenes_sar", *SMALL, "train.epochs=1", *run]).exit_code == 0
    assert runner.invoke(app, ["train", "scenes_sar", "--resume", *run]).exit_code == 0
    longer = runner.invoke(app, ["train", "scenes_sar", "--extend", "2", *run])
    assert longer.exit_code == 0, longer.exception
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 8


def test_two_processes_by_one_word(tmp_path: Path) -> None:
    """`devices=2` trains on two processes to the end, and the run is like any other."""
    done = vitrail("train", "scenes_sar", *SMALL, "train.epochs=1", "devices=2", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done:") == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4
    assert 0 <= lines[-1]["val/top1"] <= 100


def test_ctrl_c_elsewhere_exits_with_130_without_a_traceback(tmp_path: Path) -> None:
    words = "import signal, sys, vitrail.cli as c; sys.argv = ['vitrail', 'list']; c.catalog.recipes = lambda: "
    words += "signal.raise_signal(signal.SIGINT); c.main()"
    done = python("-c", words, check=False, PYTHONPATH=str(ROOT))
    assert done.returncode == 130
    assert done.stderr.strip() == "stopped"


def test_ctrl_c_saves_says_so_and_exits_with_130(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vitrail", "train", "scenes", *SMALL, "train.epochs=500", "train.log_every=1"]
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*command, "--out", str(run)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        written = (run / "metrics.jsonl").is_file
        until(lambda: written() or process.poll() is not None, "a line of metrics was written")
        process.send_signal(signal.SIGINT)
        words, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, words
    assert (run / "checkpoints" / "last.pt").is_file()
    assert "saved at step" in words
    assert "Traceback" not in words
