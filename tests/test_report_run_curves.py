"""One metric of several runs in one chart, as a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from run_folders import make_run

from vitrail.report.run_curves import draw_run_curves
from vitrail.viz.curves import Curve, curves_png

EPOCHS = [1.0, 2.0, 3.0, 4.0]


def rates(epochs: list[float]) -> list[float]:
    return [50 + 5 * epoch for epoch in epochs]


def test_accuracy_against_epochs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "baseline"), make_run(tmp_path / "sar", weight=0.01, epochs=3)]
    path = draw_run_curves(runs, tmp_path / "new" / "accuracy.png", title="Both")
    curves = {"baseline": Curve(EPOCHS, rates(EPOCHS)), "sar": Curve(EPOCHS[:3], rates(EPOCHS[:3]))}
    wanted = curves_png(curves, title="Both", x_label="epoch", y_label="val/top1", dashes=True, look="light")
    with Image.open(path) as picture:
        assert picture.tobytes() == wanted.tobytes()
    with Image.open(draw_run_curves(runs, path, title="Both", metric="top1")) as picture:
        assert picture.tobytes() == wanted.tobytes()


def test_seeds_become_a_band(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"sar-{seed}", seed=seed, weight=0.01) for seed in range(3)]
    path = draw_run_curves(runs, tmp_path / "loss.svg", metric="loss")
    text = path.read_text()
    assert text.startswith("<?xml")
    assert "<svg" in text
    alone = draw_run_curves(runs[:1], tmp_path / "one.svg", metric="train/loss").read_text()
    bands = [sum(word in each for word in ("PolyCollection", "FillBetween")) for each in (text, alone)]
    assert bands[0] > bands[1] == 0


def test_steps_where_epochs_fall_back(tmp_path: Path) -> None:
    """A run was extended with another batch size: its epochs do not ascend."""
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "epoch": 3.5, "val/top1": 75.0}\n')
    curve = Curve([10.0, 20.0, 30.0, 40.0, 60.0], [*rates(EPOCHS), 75.0])
    wanted = curves_png({"run": curve}, x_label="step", y_label="val/top1", dashes=True, look="light")
    with Image.open(draw_run_curves([run], tmp_path / "accuracy.png")) as picture:
        assert picture.tobytes() == wanted.tobytes()


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    run, bare = make_run(tmp_path / "run"), make_run(tmp_path / "bare", weight=1.0)
    (bare / "metrics.jsonl").write_text('{"step": 1, "epoch": 1.0, "train/loss": 2.0}\n')
    for runs, out, metric, words in (
        ([run], "a.jpg", None, r"a\.jpg is neither a \.png nor a \.svg"),
        ([run], "a.png", "val/top_1", r"no run logged 'val/top_1'; did you mean 'val/top1'\? known: .*train/loss"),
        ([run], "a.png", "tpo1", r"did you mean 'top1'\?"),
        ([run, bare], "a.png", None, "bare logged no val/top1; leave the run out"),
        ([bare], "a.png", None, "no run logged val/top1 or val/knn_top1; choose a --metric of train/loss"),
        ([tmp_path / "nothing"], "a.png", None, "there is no run folder"),
    ):
        with pytest.raises(ValueError, match=words):
            draw_run_curves(runs, tmp_path / out, metric=metric)
    assert not (tmp_path / "a.png").exists()
