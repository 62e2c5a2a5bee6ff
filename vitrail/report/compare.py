"""Several runs side by side: their numbers, their configurations, and what makes numbers incomparable."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from vitrail.metrics.by_head import is_of_head
from vitrail.report.collect import Evaluation, RunRecord

Direction = Literal["higher", "lower", ""]
Verdict = Literal["better", "worse", ""]
_NEUTRAL = re.compile(
    r"floor|chance|blobs|(?<!cross_)entropy|lr$|learning_rate|count|temperature|scale|seconds$|best_k$"
    r"|alignment_|diversity_|greedy_length"
)
_LOWER = re.compile(
    r"loss|error|cross_entropy|perplexity|memory|variance|distance|inter_(class|instance)|_outside|_[jf]_decay"
    r"|(^|_)mce(_|$)"
)
_GOOD = re.compile(r"top\d|accuracy|kendall|jaccard|iou|recall")
_PASSING = re.compile(r"train/(lr|grad_norm|scale)$")  # their last values are not worth a row
# Cards may differ in these without making numbers incomparable: they are what is compared, or bookkeeping.
_IDENTITY = frozenset({"weights", "date", "versions", "branch", "seed"})
# Parts of a card that say what was measured; runs that differ in them are not marked as better or worse.
_MEASURE = ("resolution", "resize", "crop", "averaging")
# Settings of protocols that change the speed, what is measured with the same images, or what numbers are relative to.
_NO_OTHER_MEASURE = frozenset(
    (
        "batch_size",  # where it matters, it is among a card's deviations
        "forward_batch_size",
        "workers",
        "seed",
        "keeps",
        "rounds",
        "pictures",
        "memory",
        "baseline",
        "clean_error",
        "allow_missing",
        "imagenet_order",
        "localizer",
    )
)
_RELATIVE = re.compile(r"^(relative_)?mce$")
_LOSS = re.compile(r"loss|cross_entropy|perplexity")
# Runs that differ in these alone are the same experiment.
_INCIDENTAL = frozenset(
    (
        "seed",
        "out",
        "log_every",
        "checkpoint_every",
        "evaluate_every",
        "workers",
        "prefetch",
        "pin",
        "device",
        "devices",
    )
)


class Cell(NamedTuple):
    """One number of one run."""

    text: str  # empty where the run has no such number
    difference: str = ""  # to the first run, with its sign
    verdict: Verdict = ""
    best: bool = False


class Row(NamedTuple):
    """One number of all runs."""

    name: str
    direction: Direction
    cells: list[Cell]


class Group(NamedTuple):
    """The rows of one protocol, and warnings about comparing them."""

    title: str
    rows: list[Row]
    warnings: list[str]


class Repeats(NamedTuple):
    """Runs of one experiment with different seeds, by their positions."""

    name: str
    members: list[int]


def direction_of(name: str) -> Direction:
    """Whether a higher or a lower value of the number is better; "" where neither is, or a name does not tell.

    Parts of a loss have names of their own, so what training logs is good where it is high only where words say so.
    """
    if _NEUTRAL.search(name) or (name.startswith("train/") and not (_LOWER.search(name) or _GOOD.search(name))):
        return ""
    return "lower" if _LOWER.search(name) else "higher"


def is_accuracy(name: str) -> bool:
    """Whether training logged it as what held-out images are scored by."""
    return name.startswith("val/") and bool(_GOOD.search(name)) and direction_of(name) == "higher"


def when_reached(records: Sequence[RunRecord], key: str, axis: str) -> str:
    """In words, where in its training each run first has what the first run ends with, in a number that is to rise.

    Empty for a single run, for numbers of different images, and where the first run has but one value.
    """
    series = [record.series(key, axis) for record in records]
    finite = [value for value in series[0][1] if math.isfinite(value)]
    if len(records) < 2 or len(finite) < 2 or _data_differences(records):
        return ""
    first = [next((x for x, value in zip(*one) if value >= finite[-1]), None) for one in series]
    there = [f"{record.name} at {axis} {x:.4g}" for record, x in zip(records, first) if x is not None]
    never = [record.name for record, x in zip(records, first) if x is None]
    words = f"{records[0].name} ends at {format_number(finite[-1], decimals_for(finite))}, first reached by "
    return words + ", ".join(there) + f"; not by {', '.join(never)}" * bool(never) + "."


def number_groups(records: Sequence[RunRecord]) -> list[Group]:
    """All numbers of all runs: one group for each way in which something was measured, and training's last values."""
    groups = [_evaluation_group(records, names) for names in paired(records)]
    finals = [_final_numbers(record) for record in records]
    kinds, moved, losses = _kinds(records), _data_differences(records), _loss_differences(records)
    apart = (*(["train/"] if kinds[1:] else []), *(["val/"] if moved else []))
    rows = [
        _row(
            key,
            [numbers.get(key) for numbers in finals],
            neutral=key.startswith(apart) or bool(losses and _LOSS.search(key)),
        )
        for key in _union(finals)
    ]
    if rows:
        words = [f"trained by different methods ({', '.join(kinds)}): their losses do not compare"] if kinds[1:] else []
        if losses and not kinds[1:]:
            some = ", ".join(losses[:3]) + f" and {len(losses) - 3} more" * (len(losses) > 3)
            words.append(f"trained for different losses ({some}): loss and cross entropy do not compare")
        if moved:
            words.append(f"trained on different images ({', '.join(moved)}): their val/ numbers do not compare")
        groups.append(Group("training, last values", rows, words + _length_warnings(records)))
    return [group for group in groups if group.rows]


def paired(records: Sequence[RunRecord], seeds: bool = True) -> list[list[str | None]]:
    """The evaluations that stand beside each other: of each run the file's name, None where it has no such one.

    Those of one protocol with the same preset, deviations and images, however their files are called. Where a run has
    several of these, the localizer or ranker, the remaining settings and at last the file's name tell them apart.

    Args:
        records: the runs.
        seeds: whether images that differ in nothing but which ones they are (another seed) are other images.
    """
    found: dict[str, list[tuple[int, str]]] = {}
    for name in _union(record.evaluations for record in records):
        for run, record in enumerate(records):
            if name in record.evaluations:
                found.setdefault(_measured(record.evaluations[name], seeds), []).append((run, name))
    groups = list(found.values())
    for told in (_subject, _settings):
        groups = [
            part for group in groups for part in _split(group, [told(records[r].evaluations[n]) for r, n in group])
        ]
    groups = [part for group in groups for part in _split(group, [name for _, name in group])]
    protocols = list(dict.fromkeys(records[run].evaluations[name].protocol for group in groups for run, name in group))
    groups.sort(key=lambda group: protocols.index(records[group[0][0]].evaluations[group[0][1]].protocol))
    return [[dict(group).get(run) for run in range(len(records))] for group in groups]


def repeated_runs(records: Sequence[RunRecord]) -> list[Repeats]:
    """Runs of equal configuration, but for the seed and what changes no weight; in order of appearance.

    Runs without a readable configuration stand alone.
    """
    found: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        key = f"run {number}"
        if record.config is not None:
            flat = flatten(record.config)
            key = json.dumps({k: v for k, v in flat.items() if k.split(".")[-1] not in _INCIDENTAL}, sort_keys=True)
        found.setdefault(key, []).append(number)
    return [Repeats(_shared_name([records[m].name for m in members]), members) for members in found.values()]


def spread_groups(records: Sequence[RunRecord], repeats: Sequence[Repeats]) -> list[Group]:
    """Mean, lowest and highest of every evaluation number over repeated runs; empty without repeated runs."""
    if all(len(repeat.members) < 2 for repeat in repeats):
        return []
    groups = []
    for names in paired(records, seeds=False):
        reports = _reports(records, names)
        differ = _other_measure([report for report in reports if report])
        rows = []
        for key in _union(report.numbers for report in reports if report):
            values = [
                [report.numbers[key] for m in repeat.members if (report := reports[m]) and key in report.numbers]
                for repeat in repeats
            ]
            rows.append(_spread_row(key, [[v for v in found if math.isfinite(v)] for found in values], bool(differ)))
        groups.append(Group(heading(records, names), rows, []))
    return groups


def heading(records: Sequence[RunRecord], names: Sequence[str | None]) -> str:
    """What stands above evaluations that `paired` put together: the protocol, and names of files that have others.

    Where runs have evaluations by one protocol that stand apart, and of localizers, also what tells them apart: the
    localizer, the preset, what deviates from it, the images.
    """
    reports = [report for report in _reports(records, names) if report]
    protocol = reports[0].protocol
    files = list(dict.fromkeys(filter(None, names)))
    title = protocol if files == [protocol] else f"{protocol} ({', '.join(files)})"
    all_of = [each for record in records for each in record.evaluations.values() if each.protocol == protocol]
    often = len({_measured(each) for each in all_of}) > 1
    often = often or any(sum(each in all_of for each in record.evaluations.values()) > 1 for record in records)
    told = [_told_apart(report.card) for report in reports if often or "localizer" in _plain(report.card.get("config"))]
    return ": ".join([title, " or ".join(dict.fromkeys(filter(None, told)))]).removesuffix(": ")


def _evaluation_group(records: Sequence[RunRecord], names: Sequence[str | None]) -> Group:
    """One protocol's numbers; without marks and differences where what was measured differs after all."""
    reports = _reports(records, names)
    present = [report for report in reports if report]
    differ = _other_measure(present)
    relative = len({_baseline(report) for report in present if any(map(_RELATIVE.search, report.numbers))}) > 1
    rows = [
        _row(
            key,
            [report.numbers.get(key) if report else None for report in reports],
            neutral=bool(differ) or (relative and bool(_RELATIVE.search(key))),
        )
        for key in _union(report.numbers for report in present)
    ]
    warnings = _card_warnings([report.card for report in present])
    if differ:
        warnings.append(f"what was measured differs ({', '.join(differ)}): these numbers do not compare")
    if relative:
        warnings.append("relative to different baselines: mce and relative_mce do not compare")
    return Group(heading(records, names), rows, warnings)


def _baseline(report: Evaluation) -> str:
    """What errors are relative to."""
    return _text({key: value for key, value in _plain(report.details.get("baseline")).items() if key != "name"})


def _reports(records: Sequence[RunRecord], names: Sequence[str | None]) -> list[Evaluation | None]:
    return [None if name is None else record.evaluations[name] for record, name in zip(records, names, strict=True)]


def _measured(report: Evaluation, seeds: bool = True) -> str:
    """What was measured, by which protocol, as text that is equal where it is the same."""
    card = report.card
    sets = {role: _plain(entry) for role, entry in _plain(card.get("data")).items()}
    known = ("digest",) if seeds else ("name", "split", "images", "classes")
    data = {role: [entry.get(key) for key in known] for role, entry in sets.items()}
    deviations = card.get("deviations") or []
    return _text([report.protocol, card.get("preset"), deviations, data])


def _subject(report: Evaluation) -> str:
    """The localizer or ranker that was measured, where a protocol measures one."""
    return _text([_plain(report.card.get("config")).get("localizer"), report.details.get("ranker")])


def _settings(report: Evaluation) -> str:
    """The settings that may change a number."""
    return _text({key: v for key, v in _plain(report.card.get("config")).items() if key not in _NO_OTHER_MEASURE})


def _split(group: list[tuple[int, str]], told: Sequence[str]) -> list[list[tuple[int, str]]]:
    """A group of (run, file) by what tells its members apart; whole where no run is in it twice."""
    if len({run for run, _ in group}) == len(group):
        return [group]
    return [[each for each, own in zip(group, told, strict=True) if own == one] for one in dict.fromkeys(told)]


def _other_measure(reports: Sequence[Evaluation]) -> list[str]:
    """Of reports that stand beside each other: parts of the cards, settings and details that change what is measured.

    A setting that a report lacks, as one of an earlier version may, is not looked at.
    """
    words = [key for key in _MEASURE if len({_text(report.card.get(key)) for report in reports}) > 1]
    configs = [_plain(report.card.get("config")) for report in reports]
    for key in _union(configs):
        values = {_text(config[key]) for config in configs if key in config}
        if len(values) > 1 and key not in _NO_OTHER_MEASURE:
            words.append(key)
    classes = [names for report in reports if isinstance(names := report.details.get("class_names"), list)]
    return words + ["classes"] * (len({_text(sorted(map(str, names))) for names in classes}) > 1)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _told_apart(card: Mapping[str, Any]) -> str:
    """What was measured, how and on what, as far as a card says it."""
    preset, of = card.get("preset"), _plain(_plain(card.get("data")).get("val")).get("name")
    given = card.get("deviations")
    deviations = list(map(str, given)) if isinstance(given, list) else []
    left = [f"and {len(deviations) - 3} more deviations"] if len(deviations) > 3 else []
    localizer = _plain(card.get("config")).get("localizer")
    parts = [localizer, f"preset {preset}" if preset else "", *deviations[:3], *left, f"on {of}" if of else ""]
    return ", ".join(str(part) for part in parts if part)


def _plain(value: Any) -> Mapping[str, Any]:
    """A part of a card that should be a mapping; a card may be another version's."""
    return value if isinstance(value, Mapping) else {}


def config_differences(records: Sequence[RunRecord]) -> list[tuple[str, list[str], bool]]:
    """Keys `a.b` whose values differ between the readable configurations, with each run's value in words."""
    flat = [None if record.config is None else flatten(record.config) for record in records]
    known = [values for values in flat if values is not None]
    rows = []
    keys = _union(known)
    groups = list(dict.fromkeys(key.split(".")[0] for key in keys))
    for key in sorted(keys, key=lambda key: groups.index(key.split(".")[0])):
        if len({json.dumps(values.get(key, "\0")) for values in known}) > 1:
            words = ["not known" if v is None else words_of(v[key]) if key in v else "not set" for v in flat]
            rows.append((key, words, True))
    return rows


def table_of(mappings: Sequence[Mapping[str, Any] | None]) -> list[tuple[str, list[str], bool]]:
    """Mappings side by side: key, each one's value in words, and whether the values differ."""
    known = [values for values in mappings if values is not None]
    rows = []
    for key in _union(known):
        differ = len({json.dumps(values.get(key), sort_keys=True, default=str) for values in known}) > 1
        rows.append((key, [words_of(v[key]) if v is not None and key in v else "" for v in mappings], differ))
    return rows


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with keys `a.b`; dates and the like as text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value, default=str))
    return flat


def words_of(value: Any, longest: int = 400) -> str:
    """A configuration or card value as short text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(not isinstance(item, dict | list) for item in value):
        text = ", ".join(words_of(item) for item in value) or "none"
    elif isinstance(value, Mapping):
        text = "\n".join(f"{key}: {words_of(inner)}" for key, inner in flatten(value).items())
    else:
        text = str(value) if isinstance(value, str | int | float) else json.dumps(value, default=str)
    return text if len(text) <= longest else f"{text[:longest]} ... ({len(text)} characters)"


def decimals_for(values: Sequence[float]) -> int | None:
    """How many decimals one row of numbers needs; None asks for scientific notation."""
    finite = [abs(value) for value in values if math.isfinite(value)]
    largest = max(finite, default=0.0)
    if largest < 1e15 and all(value == int(value) for value in finite):
        return 0
    for least, decimals in ((1000, 0), (100, 1), (1, 2), (0.1, 3), (0.01, 4)):
        if least <= largest < 1e15:
            return decimals
    return None


def format_number(value: float, decimals: int | None, signed: bool = False) -> str:
    """`1,234.5`; a true minus sign; `2.5e-05` where `decimals` is None."""
    sign = "+" if signed else ""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else f"{value:{sign}}".replace("inf", "∞").replace("-", "−")
    text = f"{value:{sign}.2e}" if decimals is None else f"{value:{sign},.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = "±0" if signed else text.lstrip("-")
    return text.replace("-", "−")


def _kinds(records: Sequence[RunRecord]) -> list[str]:
    """The families of recipes that the runs are of, where their configurations say so."""
    return _union([str(record.config["kind"])] for record in records if record.config and record.config.get("kind"))


def _data_differences(records: Sequence[RunRecord]) -> list[str]:
    """Settings of the images, but for seeds, in which the runs differ: they were validated on different ones."""
    found = [flatten(record.config.get("data") or {}, "data") for record in records if record.config]
    return [
        key
        for key in _union(found)
        if not key.endswith("seed") and len({words_of(each.get(key)) for each in found}) > 1
    ]


def _loss_differences(records: Sequence[RunRecord]) -> list[str]:
    """Settings of the method and of regularizers in which the runs differ: their losses are of different things."""
    known = [record.config for record in records if record.config]
    parts = [{k: v for k, v in config.items() if k in ("method", "regularizer", "regularizers")} for config in known]
    found = [flatten(each) for each in parts]
    return [
        key for key in _union(found) if not key.endswith("seed") and len({_text(each.get(key)) for each in found}) > 1
    ]


def _row(name: str, values: Sequence[float | None], neutral: bool = False) -> Row:
    direction = "" if neutral else direction_of(name)
    present = [value for value in values if value is not None and math.isfinite(value)]
    decimals = decimals_for(present)
    texts = ["" if value is None else format_number(value, decimals) for value in values]
    best = _best(present, direction, decimals)
    cells = []
    for number, (value, text) in enumerate(zip(values, texts)):
        first = values[0] if number and not neutral else None
        difference, verdict = _difference(first, value, decimals, direction)
        cells.append(Cell(text, difference, verdict, best is not None and text == best))
    return Row(name, direction, cells)


def _best(present: Sequence[float], direction: Direction, decimals: int | None) -> str | None:
    """The best number as it is written, None where all are written alike: unseen digits do not win."""
    if not direction or len({format_number(value, decimals) for value in present}) < 2:
        return None
    return format_number(max(present) if direction == "higher" else min(present), decimals)


def _difference(
    first: float | None, value: float | None, decimals: int | None, direction: Direction
) -> tuple[str, Verdict]:
    if first is None or value is None or not math.isfinite(first) or not math.isfinite(value):
        return "", ""
    gap = value - first
    if format_number(value, decimals) == format_number(first, decimals):
        return "±0", ""  # digits that neither number shows do not tell
    text = format_number(gap, decimals, signed=True)
    while decimals is not None and text == "±0":
        decimals = decimals + 1 if decimals < 6 else None  # numbers that are rounded apart: as many digits as tell
        text = format_number(gap, decimals, signed=True)
    return text, "" if not direction else "better" if (gap > 0) == (direction == "higher") else "worse"


def _spread_row(name: str, values: Sequence[Sequence[float]], neutral: bool) -> Row:
    means = [math.fsum(found) / len(found) if found else None for found in values]
    row = _row(name, means, neutral)
    decimals = decimals_for([mean for mean in means if mean is not None])
    cells = []
    for cell, found in zip(row.cells, values):
        if len(found) > 1:
            low, high = format_number(min(found), decimals), format_number(max(found), decimals)
            cell = cell._replace(text=f"{cell.text} ({low} to {high}, n = {len(found)})")
        cells.append(cell)
    return row._replace(cells=cells)


def _final_numbers(record: RunRecord) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for line in record.metrics:
        numbers |= {key: value for key, value in line.items() if key.startswith(("val/", "train/"))}
    numbers = {key: value for key, value in numbers.items() if not _PASSING.match(key) and not is_of_head(key)}
    ordered = {key: numbers[key] for key in sorted(numbers, key=lambda key: (not key.startswith("val/"), key))}
    speeds = sorted(line["images_per_second"] for line in record.metrics if "images_per_second" in line)
    if speeds:
        ordered["images_per_second (median)"] = speeds[len(speeds) // 2]
    memory = [line["memory_gb"] for line in record.metrics if "memory_gb" in line]
    if memory:
        ordered["memory_gb (highest)"] = max(memory)
    time = record.last("time")
    if time is not None:
        ordered["seconds"] = time
    return ordered


def _length_warnings(records: Sequence[RunRecord]) -> list[str]:
    unit = "epoch" if any(record.last("epoch") is not None for record in records) else "step"
    reached = [length for record in records if (length := record.last(unit)) is not None]
    if not reached or max(reached) - min(reached) < 1e-6:
        return []
    return [f"trained for different lengths: {min(reached):.4g} to {max(reached):.4g} {unit}s"]


def _card_warnings(cards: Sequence[Mapping[str, Any]]) -> list[str]:
    words = []
    for key in _union(cards):
        if key in _IDENTITY:
            continue
        values = [json.dumps(card.get(key), sort_keys=True, default=str) for card in cards]
        if len(set(values)) > 1:
            words.append(key)
    if not words:
        return []
    return [f"scored differently between runs ({', '.join(words)}): see the protocol cards before comparing"]


def _shared_name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names))
    shared = re.sub(r"[-_ ./]*(seed|s)?[-_ ./=]*$", "", "".join(letters[0] for letters in alike))
    return shared or f"{names[0]} and {len(names) - 1} more"


def _union(mappings: Any) -> list[str]:
    return list(dict.fromkeys(str(key) for mapping in mappings for key in mapping))
