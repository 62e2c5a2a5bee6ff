"""One self-contained HTML page about one or more runs.

Everything is inside the file: styles, charts, pictures, and a little script for hovering. It opens from a
disk, an e-mail or a CI artifact, without a network; a content security policy in the page forbids one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from vitrail import __version__
from vitrail.evaluation.result import Report
from vitrail.metrics.by_head import is_of_head
from vitrail.report.chart import Chart, make_chart
from vitrail.report.collect import RunRecord, read_run, read_runs
from vitrail.report.compare import (
    config_differences,
    heading,
    is_accuracy,
    number_groups,
    paired,
    repeated_runs,
    spread_groups,
    table_of,
    when_reached,
    words_of,
)
from vitrail.report.embed import WORDS, Embedded, embed
from vitrail.report.head_charts import head_charts

LIMIT = 10_000_000  # bytes
_COLORS = 8  # run colors in page.css
_SKIPPED_SHOWN = 50
_CONFIG_SHOWN = 60_000  # characters
_CHART_GROUPS = (  # title, whether folded, what belongs there
    ("Training", False, re.compile(r"train/(?!grad_norm|scale$)")),
    ("Validation", False, re.compile(r"val/")),
    ("Machine and gradients", True, re.compile(r"")),
)
# What makes a browser fetch something, unless it is data: or an anchor in the page. No wall (the content
# security policy is one), but a word to the author before a picture silently stays away.
_FETCHES = re.compile(
    r"""<[^<>]*\s(?:src|srcset|poster|background)\s*=\s*["']?\s*(?!data:|["'\s])"""
    r"""|<\s*(?:image|use|feimage)\b[^<>]*\bhref\s*=\s*["']?\s*(?!data:|\#|["'\s])"""
    r"""|<\s*(?:link|iframe|object|embed|base|meta|form)\b|@import|url\(\s*["']?\s*(?!data:|\#|["'\s])""",
    re.IGNORECASE,
)


class Section(NamedTuple):
    """A part of the page that the caller writes.

    `html` is trusted and goes in as it is; anything in it that would fetch from outside is refused.
    `pictures` are (caption, picture or file).
    """

    title: str
    html: str = ""
    pictures: Sequence[tuple[str, Image.Image | Path]] = ()


def write_page(
    path: str | Path,
    runs: Sequence[str | Path | RunRecord],
    *,
    title: str = "vitrail report",
    introduction: str = "",
    sections: Sequence[Section] = (),
    limit: int = LIMIT,
) -> Path:
    """Write the page about runs, the first of which the others are compared with.

    Args:
        path: the HTML file; written whole or not at all.
        runs: run folders, or what `read_run` gave for them. Broken runs are shown with what they have.
        title: text.
        introduction: trusted HTML at the top.
        sections: further parts, after the pictures of the runs.
        limit: bytes that the file may have; pictures are scaled down, then left out, to keep it.

    Returns:
        `path`.

    Raises:
        ValueError: no run, a folder that is not there, HTML that would fetch something from outside, or a
            page that exceeds the limit without any picture.
    """
    records = _records(runs)
    for part in (introduction, *(section.html for section in sections)):
        _refuse_outside(part)
    values = _contents(records, title, introduction, sections)
    sources = [picture["source"] for picture in values["all_pictures"]]
    empty = [Embedded("", problem="x" * 60)] * len(sources)
    bare = len(_render(values, empty, "x" * WORDS).encode())
    if bare > limit:
        raise ValueError(
            f"the page would have {bare / 1e6:.1f} MB without any picture, the limit is {limit / 1e6:.1f} MB;"
            f" give fewer than {len(records)} runs"
        )
    text = _render(values, *embed(sources, limit - bare - 400 * len(sources)))
    return _write(Path(path), text)


def write_sections(
    path: str | Path,
    sections: Sequence[Section],
    *,
    title: str,
    reports: Mapping[str, Report] | None = None,
    limit: int = LIMIT,
) -> Path:
    """Write a page that is about no run: sections, and below them the protocol cards of reports.

    Args:
        path: the HTML file; written whole or not at all.
        sections: in their order, at least one.
        title: text.
        reports: by the names under which their cards stand.
        limit: bytes, as in `write_page`.

    Raises:
        ValueError: no section, HTML that would fetch something from outside, or a page that exceeds the limit.
    """
    if not sections:
        raise ValueError("a page needs at least one section")
    for section in sections:
        _refuse_outside(section.html)
    extra = _section_pictures(sections)
    pictures = [picture for part in extra for picture in part]
    cards = [(name, _notes(report), table_of([report.card])) for name, report in (reports or {}).items()]
    values: dict[str, Any] = {"title": title, "introduction": "", "version": __version__, "cards": cards}
    values |= {"sections": list(zip(sections, extra)), "all_pictures": pictures}
    bare = len(_render(values, [Embedded("", problem="x" * 60)] * len(pictures), "x" * WORDS, "sections.html").encode())
    if bare > limit:
        raise ValueError(f"the page would have {bare / 1e6:.1f} MB without any picture, the limit is {limit / 1e6} MB")
    sources = [picture["source"] for picture in pictures]
    text = _render(values, *embed(sources, limit - bare - 400 * len(sources)), "sections.html")
    return _write(Path(path), text)


def _notes(report: Report) -> list[str]:
    given = report.details.get("notes")
    return [words_of(note) for note in given] if isinstance(given, list) else []


def _records(runs: Sequence[str | Path | RunRecord]) -> list[RunRecord]:
    if isinstance(runs, str | Path):
        raise ValueError(f"runs is the single path {runs}; give a list of run folders")
    if not runs:
        raise ValueError("give at least one run folder")
    paths = [run for run in runs if not isinstance(run, RunRecord)]
    if len(paths) == len(runs):
        return read_runs(paths)
    return [run if isinstance(run, RunRecord) else read_run(run) for run in runs]


def _contents(
    records: Sequence[RunRecord], title: str, introduction: str, sections: Sequence[Section]
) -> dict[str, Any]:
    repeats = repeated_runs(records)
    together = any(len(repeat.members) > 1 for repeat in repeats)
    color_of = {m: number for number, repeat in enumerate(repeats) for m in repeat.members}
    axis = "epoch" if all("epoch" in line for record in records for line in record.metrics) else "step"
    charts = _charts(records, axis)
    pictures, extra = _run_pictures(records), _section_pictures(sections)
    differences = config_differences(records)
    return {
        "title": title,
        "introduction": introduction,
        "version": __version__,
        "runs": [_head(record, number, color_of[number]) for number, record in enumerate(records)],
        "groups": number_groups(records),
        "repeats": repeats,
        "spread": spread_groups(records, repeats) if together else [],
        "charts": charts,
        "gathered": max((chart.gathered for _, _, group in charts for chart in group), default=1),
        "payload": [chart.payload for _, _, group in charts for chart in group],
        "pictures": pictures,
        "sections": list(zip(sections, extra)),
        "all_pictures": [
            *(p for row in pictures for p in row["pictures"]),
            *(p for part in extra for p in part),
        ],
        "cards": _cards(records),
        "differences": differences,
        "configs": [_short(record.config_text, _CONFIG_SHOWN) for record in records],
        "environment": table_of([record.versions for record in records if record.versions is not None]),
        "known": [number for number, record in enumerate(records) if record.versions is not None],
        "skipped": [(record.skipped[:_SKIPPED_SHOWN], len(record.skipped)) for record in records],
        "logs": [record.log for record in records],
    }


def _head(record: RunRecord, number: int, color: int) -> dict[str, Any]:
    epoch, time = record.last("epoch"), record.last("time")
    facts = []
    planned = record.epochs_planned
    if epoch is not None:
        reached = f"{epoch:.4g} of {planned:g} epochs" if planned else f"{epoch:.4g} epochs"
        facts.append(("trained", reached if not planned or epoch >= planned - 1e-6 else f"{reached}, not finished"))
    elif record.last("step") is not None:
        facts.append(("trained", f"{record.last('step'):,.0f} steps"))
    if time is not None:
        facts.append(("training time", _duration(time)))
    speeds = sorted(line["images_per_second"] for line in record.metrics if "images_per_second" in line)
    if speeds:
        facts.append(("images per second", f"{speeds[len(speeds) // 2]:,.0f}"))
    device = (record.versions or {}).get("gpu") or ("CPU" if record.versions else None)
    if device:
        facts.append(("device", words_of(device, 60)))
    if record.skipped:
        facts.append(("skipped files", str(len(record.skipped))))
    return {
        "name": record.name,
        "path": str(record.path),
        "number": number,
        "color": color % _COLORS,
        "dash": color // _COLORS,
        "facts": facts,
        "notes": record.notes,
    }


def _duration(seconds: float) -> str:
    if not 0 <= seconds < 1e9:
        return "not known"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _charts(records: Sequence[RunRecord], axis: str) -> list[tuple[str, bool, list[Chart]]]:
    keys = dict.fromkeys(key for record in records for line in record.metrics for key in line)
    left = sorted(
        {key for key in keys if not is_of_head(key)} - {"step", "epoch", "time"},
        key=lambda k: (k != "train/loss", k == "train/lr", not is_accuracy(k), k),
    )
    most_points = max(30, min(240, 2400 // len(records)))
    names = [record.name for record in records]
    groups = []
    for title, folded, pattern in _CHART_GROUPS:
        chosen = [key for key in left if pattern.match(key)]
        left = [key for key in left if key not in chosen]
        series = {key: [record.series(key, axis) for record in records] for key in chosen}
        charts = [
            make_chart(key, axis, [one if one[0] else None for one in found], names, most_points)
            for key, found in series.items()
        ]
        if kept := [_noted(chart, records) for chart in charts if chart is not None]:
            groups.append((title, folded, kept))
    open_ones = sum(not folded for _, folded, _ in groups)
    groups[open_ones:open_ones] = [(title, False, found) for title, found in head_charts(records, axis, most_points)]
    return groups


def _noted(chart: Chart, records: Sequence[RunRecord]) -> Chart:
    """With a sentence on how soon each run is as good as the first one in the end, below an accuracy."""
    return chart._replace(note=when_reached(records, chart.title, chart.axis)) if is_accuracy(chart.title) else chart


def _run_pictures(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    rows = []
    for title, names in _picture_rows(records):
        pictures, absent = [], []
        for number, record in enumerate(records):
            there = [name for name in names if name in record.pictures]
            if not there:
                absent.append(record.name)
            for name in there:
                found = record.pictures[name]
                alt = f"{found.caption or name}, run {record.name}"
                pictures.append({"source": found.path, "caption": found.caption, "run": number, "alt": alt})
        shared = {picture["caption"] for picture in pictures}
        rows.append(
            {
                "name": title,
                "caption": shared.pop() if len(shared) == 1 else "",
                "pictures": pictures,
                "absent": absent,
            }
        )
    return rows


def _picture_rows(records: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """What stands in a row, with its title: pictures of one name; of a single run, X_before and X_after together.

    Of several runs, or where only one of the two is there, the title says in words which it is.
    """
    names = list(dict.fromkeys(name for record in records for name in record.pictures))
    rows: dict[str, list[str]] = {}
    for name in names:
        before, after = (re.sub(r"_(before|after)(?=\.)", f"_{when}", name) for when in ("before", "after"))
        both = before != after and {before, after} <= set(names)
        if both and len(records) == 1:
            rows[re.sub(r"_before(?=\.).*", ", before and after", before)] = [before, after]
        else:
            rows |= {_row_title(each): [each] for each in ((before, after) if both else (name,))}
    return list(rows.items())


def _row_title(name: str) -> str:
    return re.sub(r"_(before|after)\.\w+$", r", \1 training", name)


def _section_pictures(sections: Sequence[Section]) -> list[list[dict[str, Any]]]:
    return [
        [
            {
                "source": Path(source) if isinstance(source, str) else source,
                "caption": words,
                "alt": words or section.title,
            }
            for words, source in section.pictures
        ]
        for section in sections
    ]


def _cards(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    cards = []
    for names in paired(records):
        members = [number for number, name in enumerate(names) if name is not None]
        reports = [record.evaluations[name] for record, name in zip(records, names) if name is not None]
        notes = []
        for number, report in zip(members, reports):
            given = report.details.get("notes")
            for note in given if isinstance(given, list) else []:
                notes.append(f"{records[number].name}: {words_of(note)}")
        details = [{k: _brief(v) for k, v in report.details.items() if k != "notes"} for report in reports]
        cards.append(
            {
                "name": heading(records, names),
                "members": members,
                "rows": table_of([report.card for report in reports]),
                "details": table_of(details),
                "notes": list(dict.fromkeys(notes)),
            }
        )
    return cards


def _brief(value: Any) -> Any:
    if isinstance(value, list | dict) and len(json.dumps(value, default=str)) > 300:
        return f"{len(value)} entries, in the evaluation's JSON file"
    if isinstance(value, list) and all(isinstance(item, float) for item in value):
        return [round(item, 4) for item in value]
    return value


def _short(text: str, longest: int) -> str:
    return (
        text if len(text) <= longest else f"{text[:longest]}\n... ({len(text)} characters, the rest is in config.yaml)"
    )


def _refuse_outside(html: str) -> None:
    match = _FETCHES.search(html)
    if match:
        part = html[max(0, match.start() - 20) : match.end() + 40]
        raise ValueError(f"the page must stay self-contained, but its HTML has {part!r}; embed it as a data: URI")


def _render(values: dict[str, Any], embedded: Sequence[Embedded], fitted: str, template: str = "page.html") -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    for picture, one in zip(values["all_pictures"], embedded):
        picture["embedded"] = one
    return environment.get_template(template).render(values, fitted=fitted)


def _breakable(text: str) -> Any:
    """Text that may break after `_`, `/` and `.`, as names of metrics and keys should."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([_/.])(?=\w)", r"\1<wbr>", str(escape(text))))


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
