"""Charts of attention heads: one for each run and quantity, on the page, and in no table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from run_folders import make_run

from vitrail.report.collect import read_runs
from vitrail.report.compare import number_groups
from vitrail.report.head_charts import head_charts
from vitrail.report.page import write_page


def with_heads(folder: Path, heads: int, scale: float = 1.0) -> Path:
    """A run that logged blobs and entropy of its heads at each epoch."""
    make_run(folder)
    with (folder / "metrics.jsonl").open("a") as file:
        for epoch in range(1, 5):
            line: dict[str, float] = {"step": 40 + epoch, "epoch": 4 + epoch / 10, "val/blobs": scale}
            for head in range(heads):
                line |= {f"val/blobs_head_{head}": scale * (head + epoch), f"val/spatial_entropy_head_{head}": 0.1}
            file.write(json.dumps(line) + "\n")
    return folder


def test_a_chart_for_each_run_that_logged_heads_on_one_scale(tmp_path: Path) -> None:
    runs = [with_heads(tmp_path / "a", 2), make_run(tmp_path / "b"), with_heads(tmp_path / "c", 12, scale=10)]
    rows = head_charts(read_runs(runs), "epoch")
    assert [title for title, _ in rows] == ["val/blobs of each head", "val/spatial_entropy of each head"]
    small, large = rows[0][1]
    assert [(chart.title, chart.run, len(chart.members)) for chart in (small, large)] == [("a", 0, 2), ("c", 2, 12)]
    assert large.members[10] == "head 10"
    assert small.y_ticks == large.y_ticks
    assert [line.points[0][3] for line in large.lines] == [10.0 * (head + 1) for head in range(12)]


def test_heads_stand_on_the_page_but_in_no_table(tmp_path: Path) -> None:
    runs = [with_heads(tmp_path / "a", 2), with_heads(tmp_path / "c", 12)]
    text = write_page(tmp_path / "page.html", runs).read_text()
    assert "<h3>val/blobs of each head</h3>" in text
    assert text.index("val/blobs of each head") < text.index("Machine and gradients")
    assert text.count('data-of-run="0"') == text.count('data-of-run="1"') == 2
    assert text.count("</svg>head 11</li>") == 2
    assert "blobs_head_" not in re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.S)
    payload = json.loads(re.search(r'id="payload">(.*?)</script>', text, re.S)[1])
    order = [int(number) for number in re.findall(r'data-chart="(\d+)"', text)]
    assert order == list(range(len(payload["charts"])))
    heads = [chart for chart in payload["charts"] if chart["members"]]
    assert [chart["title"] for chart in heads] == ["a", "c", "a", "c"]
    rows = [row.name for group in number_groups(read_runs(runs)) for row in group.rows]
    assert "val/blobs" in rows
    assert not any("_head_" in row for row in rows)


def test_runs_without_heads_have_no_such_part(tmp_path: Path) -> None:
    assert "of each head" not in write_page(tmp_path / "page.html", [make_run(tmp_path / "a")]).read_text()


@pytest.mark.parametrize("swapped", [False, True])
def test_how_soon_a_run_is_as_good_as_the_first_one_in_the_end(tmp_path: Path, swapped: bool) -> None:
    slow, fast = make_run(tmp_path / "slow"), make_run(tmp_path / "fast", weight=0.01)
    for folder, rates in ((slow, (50, 61, 60, 70)), (fast, (60, 71, 70, 69))):
        lines = [{"step": epoch, "epoch": epoch, "val/top1": rate} for epoch, rate in enumerate(rates, 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = [fast, slow] if swapped else [slow, fast]
    text = write_page(tmp_path / "page.html", runs).read_text()
    words = "fast ends at 69, first reached by fast at epoch 2, slow at epoch 4." if swapped else None
    words = words or "slow ends at 70, first reached by slow at epoch 4, fast at epoch 2."
    assert f'<p class="note">{words}</p>' in text
    never = [{"step": epoch, "epoch": epoch, "val/top1": 1.0} for epoch in (1, 2)]
    (fast / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in never))
    if not swapped:
        assert "by slow at epoch 4; not by fast." in write_page(tmp_path / "page.html", runs).read_text()
    assert 'class="note"' not in write_page(tmp_path / "page.html", runs[:1]).read_text()
