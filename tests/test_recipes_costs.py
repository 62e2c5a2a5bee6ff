"""Costs of LocLoc and PPD: the published weights, the published count of operations, words and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from vitrail.cli import app
from vitrail.nn.deconvolution import Geg, GegConfig, PpdGenerator, PpdGeneratorConfig
from vitrail.recipes.costs import Costs, CostsConfig, _middle, _stage, costs, costs_table

SMALL = [
    "backbone.image_size=null",
    "backbone.patch_size=8",
    "backbone.embed_dim=24",
    "backbone.depth=2",
    "backbone.heads=2",
    "classes=5",
    "image_size=56",
    "geg.channels=6",
    "geg.width=8",
    "ppd.hidden=16",
    "ppd.width=8",
    "batch=2",
    "rounds=1",
    "photo=[40, 30]",
]


@pytest.fixture(scope="module")
def found() -> Costs:
    return costs(CostsConfig().override(SMALL), "cpu")


def test_modules(found: Costs) -> None:
    named = {(row.method, row.module): row for row in found.rows}
    assert list(named) == [
        *(("PPD", name) for name in ("loading", "class tokens", "classifier", "patches", "generator")),
        *(("LocLoc", name) for name in ("loading", "tokens", "classifier", "generator")),
    ]
    assert all(row.seconds > 0 for row in found.rows)
    assert named["LocLoc", "generator"].parameters == sum(
        value.numel() for value in Geg(GegConfig(channels=6, width=8), 24).parameters()
    )
    assert named["PPD", "classifier"].parameters == 5 * (24 * 2 + 1)
    assert named["PPD", "class tokens"].parameters == named["LocLoc", "tokens"].parameters
    linear = named["PPD", "classifier"]
    assert linear.gflops == pytest.approx(2 * 5 * 24 * 2 / 1e9)
    assert linear.plain == pytest.approx(linear.gflops / 2)
    # 64 of 56 pixels a side: PPD's generator looks at more.
    assert named["PPD", "patches"].gflops > named["PPD", "class tokens"].gflops


def test_claims_follow_the_rows(found: Costs) -> None:
    generators = {row.method: row for row in found.rows if row.module == "generator"}
    expected = 100 * (1 - generators["LocLoc"].gflops / generators["PPD"].gflops)
    assert found.claims["operations of the generators"] == pytest.approx(expected)
    seconds = {method: sum(row.seconds for row in found.rows if row.method == method) for method in ("PPD", "LocLoc")}
    assert found.claims["seconds, with loading"] == pytest.approx(100 * (1 - seconds["LocLoc"] / seconds["PPD"]))


def test_how_table_3_was_counted() -> None:
    """0.24 against 1.39 times 10^9 multiply-adds of plain convolutions; with all, LocLoc's generator needs more."""
    features = torch.randn(1, 384, 14, 14)
    geg, ppd = Geg(GegConfig(), 384).eval(), PpdGenerator(PpdGeneratorConfig(), 384).eval()
    with torch.no_grad():
        ours, theirs = _stage("", geg, geg, features), _stage("", ppd, ppd, features)
    assert ours.plain / 2e9 == pytest.approx(0.24, abs=0.005)
    assert theirs.plain / 2e9 == pytest.approx(1.39, abs=0.005)
    assert 1 - ours.plain / theirs.plain == pytest.approx(0.8201, abs=0.01)
    assert ours.flops / 2e9 == pytest.approx(4.51, abs=0.01)
    assert theirs.flops / 2e9 == pytest.approx(2.83, abs=0.01)


def test_transposed_convolutions_are_counted_as_torch_counts_them() -> None:
    generator = PpdGenerator(PpdGeneratorConfig(hidden=6, width=4), 5).eval()
    with torch.no_grad():
        counted = _stage("", generator, generator, torch.randn(1, 5, 8, 8))
    plain = 2 * (5 * 6 * 9 * 64 + 4 * 32 * 32)
    transposed = 2 * 16 * (6 * 4 * 16 + 4 * 4 * 64 + 4 * 4 * 256)
    assert (counted.plain, counted.flops) == (plain, plain + transposed)


def test_timings_that_differ_widely_are_told(found: Costs) -> None:
    assert _middle([1.0, 2.0, 1.1]) == (1.1, pytest.approx(1 / 1.1))
    assert _middle([3.0]) == (3.0, 0)
    config, first, second, *others = CostsConfig(), *found.rows
    quiet = [row._replace(spread=0.2) for row in others]
    steady = found._replace(rows=(first._replace(spread=0.0), second._replace(spread=0.19), *quiet))
    assert "note" not in costs_table(steady, config)
    wide = found._replace(rows=(first._replace(spread=0.21), second._replace(spread=0.5), *quiet))
    said = costs_table(wide, config).splitlines()[-1]
    assert said.startswith(
        "note: seconds of 2 of 9 modules differ by more than 20 % between 3 rounds, up to 50 % (PPD "
    )
    assert "(PPD class tokens): PPD loading, PPD class tokens; take them again on an idle machine" in said
    assert said.endswith("such as rounds=9")


def test_words_and_json(tmp_path: Path, found: Costs) -> None:
    words = costs_table(found, CostsConfig().override(SMALL))
    assert "batches of 2 on CPU" in words
    assert words.count("generator") == 4  # two rows, two claims
    done = CliRunner().invoke(app, ["costs", *SMALL, "--device", "cpu", "--out", str(tmp_path / "deep" / "c.json")])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "deep" / "c.json").read_text())
    assert [row["module"] for row in told["modules"]] == [row.module for row in found.rows]
    assert told["settings"]["classes"] == 5
