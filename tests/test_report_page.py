from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from run_folders import make_run, picture, write_report

from vitrail.report.collect import read_run
from vitrail.report.page import Section, write_page

VOID = {"meta", "img", "br", "wbr", "hr", "input", "line", "path", "circle", "link"}


class _Checker(HTMLParser):
    """Every tag is closed in order, every table has headers, every picture has words."""

    def __init__(self):
        super().__init__()
        self.open, self.images, self.references, self.scripts = [], [], [], 0

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            self.images.append(values)
        if tag == "th":
            assert "scope" in values
        if tag == "svg":
            assert values["aria-label"]
        self.scripts += tag == "script"
        self.references += [values[name] for name in ("src", "href", "srcset", "poster", "data") if values.get(name)]
        assert not any(name.startswith("on") for name in values), values
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(path):
    text = path.read_text()
    checker = _Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    for reference in checker.references:
        assert reference.startswith(("data:", "#")), reference[:80]
    assert not re.search(r"https?://|@import|url\(", text)
    assert all("alt" in image for image in checker.images)
    assert checker.scripts == 2
    assert len(text.encode()) < 10_000_000
    return text


def words_of(text):
    return html.unescape(re.sub(r"<wbr>", "", re.sub(r"\s+", " ", text)))


@pytest.fixture
def two(tmp_path):
    a = make_run(tmp_path / "baseline", jaccard=18.17)
    b = make_run(tmp_path / "sar", jaccard=32.82, weight=0.01)
    return [a, b]


def test_two_runs_side_by_side(tmp_path, two):
    path = write_page(tmp_path / "page.html", two, title="Both", introduction="<p>What was <em>done</em>.</p>")
    text = words_of(check(path))
    assert path == tmp_path / "page.html"
    for part in (
        "Both",
        "What was <em>done</em>",
        "baseline",
        "18.17",
        "32.82",
        "+14.65",
        "70.12",
        "train/loss",
    ):
        assert part in text
    assert text.count('class="best"') == 1  # the metrics of both runs are the same
    for part in (
        "regularizer.weight",
        "0.01",
        "cat/3.jpg",
        "truncated",
        "the last line",
        "val/top1",
        "resolution",
    ):
        assert part in text
    assert text.count("data:image/png;base64,") == 2
    assert "Attention, seed 0" in text
    assert "500 entries" in text  # long lists of details stay in their files


def test_the_page_forbids_the_network(tmp_path, two):
    text = write_page(tmp_path / "page.html", two).read_text()
    assert "default-src 'none'; img-src data:" in text


def test_same_runs_same_page(tmp_path, two):
    one = write_page(tmp_path / "one.html", two).read_bytes()
    assert write_page(tmp_path / "other.html", two).read_bytes() == one
    assert write_page(tmp_path / "other.html", [read_run(path) for path in two]).read_bytes() == one


def test_one_run(tmp_path, two):
    text = check(write_page(tmp_path / "page.html", two[:1]))
    assert "18.17" in text
    assert 'class="best"' not in text
    assert "Keys in which the runs differ" not in text


def test_repeated_runs_show_their_spread(tmp_path):
    runs = [make_run(tmp_path / f"sar-seed{n}", seed=n, jaccard=30.0 + n + 0.5, weight=0.01) for n in range(3)]
    text = words_of(check(write_page(tmp_path / "page.html", runs)))
    assert "31.50 (30.50 to 32.50, n = 3)" in text


def test_hostile_strings_are_text(tmp_path, two):
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">{{ 7*7 }}&"\''
    folder = make_run(tmp_path / "<b onclick=x>run", weight=0.5)
    (folder / "log.txt").write_text(evil)
    (folder / "skipped.jsonl").write_text(json.dumps({"path": evil, "reason": evil}))
    (folder / "versions.json").write_text(json.dumps({evil: evil}))
    (folder / "config.yaml").write_text(json.dumps({evil: evil, "seed": 9}))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "epoch": 1, f"train/{evil}": 2.0}))
    (folder / "pictures" / "captions.json").write_text(json.dumps({"attention.png": evil}))
    write_report(folder, "knn", {evil: 5.5}, evil=evil)
    text = check(write_page(tmp_path / "page.html", [two[0], folder], title=evil, sections=[Section(evil)]))
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "<b onclick" not in text
    assert "{{ 7*7 }}" in text  # and not evaluated
    payload = json.loads(re.search(r'id="payload">(.*?)</script>', text, re.DOTALL)[1])
    assert any(chart["title"] == f"train/{evil}" for chart in payload["charts"])


def test_the_hover_has_the_logged_values(tmp_path, two):
    text = write_page(tmp_path / "page.html", two).read_text()
    payload = json.loads(re.search(r'id="payload">(.*?)</script>', text, re.DOTALL)[1])
    chart = next(chart for chart in payload["charts"] if chart["title"] == "val/top1")
    assert [point[2:] for point in chart["lines"][1]["points"]] == [[1, 55], [2, 60], [3, 65], [4, 70]]
    assert payload["runs"] == ["baseline", "sar"]


def test_broken_runs_are_shown_with_what_they_have(tmp_path, two):
    (tmp_path / "empty").mkdir()
    broken = make_run(tmp_path / "broken")
    text = (broken / "metrics.jsonl").read_text()
    (broken / "metrics.jsonl").write_text(text[: len(text) // 2])
    (broken / "evaluation" / "knn.json").write_text('{"protocol": "knn", "numb')
    (broken / "versions.json").unlink()
    (broken / "pictures" / "attention.png").write_bytes(b"no picture")
    text = words_of(check(write_page(tmp_path / "page.html", [*two, broken, tmp_path / "empty"])))
    assert "last line of metrics.jsonl was cut short" in text
    assert "evaluation/knn.json is not complete JSON" in text
    assert "versions.json is missing" in text
    assert "not finished" in text
    assert "it is no PNG, JPEG or WebP picture" in text
    assert "No picture of this name: empty" in text
    assert "metrics.jsonl is missing: nothing was logged" in text


def test_a_page_of_nothing_but_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    text = check(write_page(tmp_path / "page.html", [tmp_path / "empty"]))
    assert "no evaluation was found" in text


def test_the_limit_is_kept(tmp_path, two):
    for number, run in enumerate(two):
        picture(run / "pictures" / "large.png", seed=number, size=(1000, 700))
    limit = 400_000
    path = write_page(tmp_path / "page.html", two, limit=limit)
    text = check(path)
    assert limit / 4 < path.stat().st_size <= limit
    assert "scaled down" in text
    with pytest.raises(ValueError, match=r"without any picture.*fewer than 2 runs"):
        write_page(tmp_path / "page.html", two, limit=20_000)
    assert path.read_text() == text  # the page that was there is still whole


def test_sections_with_pictures(tmp_path, two):
    picture(tmp_path / "file.png")
    section = Section(
        "Your own images",
        "<p>Run <code>vitrail train</code>, or <a href='#numbers'>look</a>.</p>",
        [("a square", Image.new("RGB", (5, 5), "red")), ("a file", tmp_path / "file.png")],
    )
    text = check(write_page(tmp_path / "page.html", two, sections=[section]))
    assert "<code>vitrail train</code>" in text
    assert text.count("data:image/png") == 4
    assert "a square" in text


@pytest.mark.parametrize(
    "part",
    [
        '<img src="https://x.org/a.png">',
        "<img src=a.png>",
        '<link rel="stylesheet" href="x.css">',
        "<style>@import 'x'</style>",
        "<p style='background: url(x.png)'>",
        "<iframe srcdoc=''></iframe>",
        '<video poster = "//x"></video>',
        '<svg><image href="a.png"/></svg>',
    ],
)
def test_html_that_fetches_is_refused(tmp_path, two, part):
    with pytest.raises(ValueError, match="self-contained"):
        write_page(tmp_path / "page.html", two, introduction=part)
    with pytest.raises(ValueError, match="self-contained"):
        write_page(tmp_path / "page.html", two, sections=[Section("x", part)])
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    "part",
    [
        '<img alt="" src="data:image/png;base64,AA==">',
        "<code>train data=my/images src=x</code>",
        "<a href='#x'>x</a>",
    ],
)
def test_html_that_fetches_nothing_is_welcome(tmp_path, two, part):
    assert part in write_page(tmp_path / "page.html", two, introduction=part).read_text()


def test_runs_must_be_given(tmp_path, two):
    with pytest.raises(ValueError, match="at least one run"):
        write_page(tmp_path / "page.html", [])
    with pytest.raises(ValueError, match="give a list"):
        write_page(tmp_path / "page.html", str(two[0]))
    with pytest.raises(ValueError, match="no run folder"):
        write_page(tmp_path / "page.html", [tmp_path / "absent"])


def test_the_template_travels_with_the_package():
    from importlib.resources import files

    folder = files("vitrail.report")
    for name in ("page.html", "page.css", "page.js"):
        assert folder.joinpath(name).is_file()


def test_pictures_before_and_after_stand_together_in_the_page_of_one_run(tmp_path):
    run = make_run(tmp_path / "run")
    for name in ("pca.png", "filter_before.png", "attention_before.png", "attention_after.png", "filter_after.png"):
        picture(run / "pictures" / name)
    one = check(write_page(tmp_path / "one.html", [run]))
    titles = re.findall(r"<h3>([^<]*(?:png|after))</h3>", one)
    assert titles == ["attention.png", "attention, before and after", "filter, before and after", "pca.png"]
    other = make_run(tmp_path / "other")
    picture(other / "pictures" / "filter_after.png")
    two = check(write_page(tmp_path / "two.html", [run, other]))
    assert re.findall(r"<h3>([^<]*(?:png|training))</h3>", two) == [
        "attention.png",
        "attention, before training",
        "attention, after training",
        "filter, before training",
        "filter, after training",
        "pca.png",
    ]
