"""The demo from end to end, on a small part of its scenes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vitrail import demo
from vitrail.demo import run_demo

ROOT = Path(__file__).resolve().parents[1]


def test_the_demo_trains_measures_and_writes_one_page(tmp_path: Path) -> None:
    page = run_demo(tmp_path, budget=0.03)
    text = page.read_text()
    assert page.name == "index.html"
    assert page.stat().st_size < 10e6
    assert not re.findall(r"""(?:src|href)=["']?https?://""", text)
    for word in ("attention, before training", "Attention Jaccard", "vitrail train folder_sar"):
        assert word in text, word
    for name in ("baseline", "sar"):
        for protocol in ("accuracy", "knn", "attention_jaccard"):
            report = json.loads((tmp_path / name / "evaluation" / f"{protocol}.json").read_text())
            assert all(0 <= value <= 100 for value in report["numbers"].values() if isinstance(value, float))


def test_the_spread_on_the_page_is_what_was_measured() -> None:
    results = sorted((ROOT / "benchmarks" / "results").glob("scenes-*.json"))
    numbers = json.loads(results[-1].read_text())["numbers"]
    for key, said in (("attention_jaccard_jaccard", demo.JACCARD), ("accuracy_top1", demo.TOP1)):
        for name, (mean, deviation) in zip(("baseline", "sar"), said, strict=True):
            assert mean == pytest.approx(numbers[name][key]["mean"], abs=0.051)
            assert deviation == pytest.approx(numbers[name][key]["deviation"], abs=0.051)


@pytest.mark.parametrize("budget", [0, 1.5])
def test_a_budget_outside_its_range(budget: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"budget {budget} is not in"):
        run_demo(tmp_path, budget=budget)
