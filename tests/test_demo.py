"""The demo from end to end, on a small part of its scenes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vitrail.demo import run_demo

ROOT = Path(__file__).resolve().parents[1]


def test_the_demo_trains_measures_and_writes_one_page(tmp_path: Path) -> None:
    page = run_demo(tmp_path, budget=0.03)
    text = page.read_text()
    assert page.name == "index.html"
    assert page.stat().st_size < 10e6
    assert not re.findall(r"""(?:src|href)=["']?https?://""", text)
    for word in ("attention_before", "Attention Jaccard", "vitrail train folder_sar"):
        assert word in text, word
    for name in ("baseline", "sar"):
        for protocol in ("accuracy", "knn", "attention_jaccard"):
            report = json.loads((tmp_path / name / "evaluation" / f"{protocol}.json").read_text())
            assert all(0 <= value <= 100 for value in report["numbers"].values() if isinstance(value, float))


@pytest.mark.parametrize("budget", [0, 1.5])
def test_a_budget_outside_its_range(budget: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"budget {budget} is not in"):
        run_demo(tmp_path, budget=budget)
