"""Read a run folder, whole or broken, without changing it.

    config.yaml  versions.json  log.txt  metrics.jsonl  skipped.jsonl  nonfinite.json
    evaluation/<protocol>.json  pictures/*.png  pictures/captions.json

A run that was killed, or is still being written, has files that are absent or end in the middle of a line.
Whatever can be read is read; whatever cannot be is said in `RunRecord.notes`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

LOG_LINES = 60  # of the end of the log
PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".webp")


class Evaluation(NamedTuple):
    """One protocol's outcome, as its JSON file has it."""

    protocol: str
    numbers: dict[str, float]
    card: dict[str, Any]
    details: dict[str, Any]


class Picture(NamedTuple):
    """A picture file and the words that belong under it."""

    path: Path
    caption: str


class RunRecord(NamedTuple):
    """What a run folder holds. Parts that could not be read are None or empty, and `notes` say so."""

    path: Path
    name: str
    config: dict[str, Any] | None
    config_text: str
    metrics: list[dict[str, float]]  # by ascending step
    versions: dict[str, Any] | None
    log: list[str]  # its last lines
    skipped: list[dict[str, Any]]
    evaluations: dict[str, Evaluation]  # by file name without .json
    pictures: dict[str, Picture]  # by file name
    notes: list[str]

    @property
    def epochs_planned(self) -> float | None:
        """`train.epochs` of the configuration, or `epochs`."""
        config = self.config or {}
        train = config.get("train")
        planned = train.get("epochs") if isinstance(train, Mapping) else None
        planned = config.get("epochs") if planned is None else planned
        return float(planned) if isinstance(planned, int | float) and not isinstance(planned, bool) else None

    def last(self, key: str) -> float | None:
        """The last value of a metric, None where it was never written."""
        return next((line[key] for line in reversed(self.metrics) if key in line), None)

    def series(self, key: str, axis: str = "epoch") -> tuple[list[float], list[float]]:
        """A metric over training: the values of `axis` ("epoch" or "step") and its own, as logged."""
        points = {line[axis]: line[key] for line in self.metrics if key in line and axis in line}
        return list(points), list(points.values())


def read_run(path: str | Path) -> RunRecord:
    """Read one run folder.

    Raises:
        ValueError: there is no such folder. Anything missing or broken inside is noted, not raised.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"there is no run folder at {path}; give the folder that holds config.yaml and metrics.jsonl")
    if any(path.iterdir()) and not any(
        (path / name).exists() for name in ("config.yaml", "metrics.jsonl", "evaluation")
    ):
        raise ValueError(
            f"{path} is no run folder: it has no config.yaml, metrics.jsonl or evaluation/; give one that has"
        )
    notes: list[str] = []
    config_text, config = _config(path, notes)
    record = RunRecord(
        path=path,
        name=path.resolve().name or str(path),
        config=config,
        config_text=config_text,
        metrics=_metrics(path / "metrics.jsonl", notes),
        versions=_mapping(
            path / "versions.json", notes, missing="versions.json is missing: the environment is not known"
        ),
        log=_log(path / "log.txt", notes),
        skipped=_skipped(path / "skipped.jsonl", notes),
        evaluations=_evaluations(path / "evaluation", notes),
        pictures=_pictures(path / "pictures", notes),
        notes=notes,
    )
    broken = _mapping(path / "nonfinite.json", notes)
    if broken is not None:
        where = f" at step {broken['step']}" if "step" in broken else ""
        notes.insert(0, f"training stopped{where}: loss or gradient was not finite (nonfinite.json names the images)")
    return record


def read_runs(paths: Sequence[str | Path]) -> list[RunRecord]:
    """Read several run folders; folders of the same name are told apart by the folders that they lie in."""
    records = [read_run(path) for path in paths]
    parts = [record.path.resolve().parts for record in records]
    for number, record in enumerate(records):
        length = 1
        others = [other for index, other in enumerate(parts) if index != number and other != parts[number]]
        while length < len(parts[number]) and any(other[-length:] == parts[number][-length:] for other in others):
            length += 1
        records[number] = record._replace(name="/".join(parts[number][-length:]))
    return records


def _config(path: Path, notes: list[str]) -> tuple[str, dict[str, Any] | None]:
    text = _text(path / "config.yaml", notes, missing="config.yaml is missing: the configuration is not known")
    if text is None:
        return "", None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        notes.append(f"config.yaml is not valid YAML ({' '.join(str(error).split())}); it is shown as text")
        return text, None
    if not isinstance(values, dict):
        notes.append("config.yaml does not hold `key: value` lines; it is shown as text")
        return text, None
    return text, values


def _metrics(path: Path, notes: list[str]) -> list[dict[str, float]]:
    lines: list[dict[str, float]] = []
    infinite: dict[str, float] = {}
    for line in _json_lines(path, notes, missing="metrics.jsonl is missing: nothing was logged"):
        numbers = {str(key): float(value) for key, value in line.items() if _is_number(value)}
        if "step" not in numbers or not math.isfinite(numbers["step"]):
            continue
        # A run that was resumed has trained some steps twice; the later lines are the true ones.
        while lines and lines[-1]["step"] > numbers["step"]:
            lines.pop()
        lines.append(numbers)
        for key, value in numbers.items():
            if not math.isfinite(value):
                infinite.setdefault(key, numbers["step"])
    if not lines and path.is_file():
        notes.append("metrics.jsonl holds no complete line: training logged nothing")
    notes += [f"{key} is not finite from step {step:g} on, at least once" for key, step in infinite.items()]
    return lines


def _skipped(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    return [
        {"path": str(line.get("path", "")), "reason": str(line.get("reason", ""))} for line in _json_lines(path, notes)
    ]


def _log(path: Path, notes: list[str]) -> list[str]:
    text = _text(path, notes, missing="log.txt is missing")
    return [] if text is None else [line[:500] for line in text.splitlines()[-LOG_LINES:]]


def _evaluations(folder: Path, notes: list[str]) -> dict[str, Evaluation]:
    found = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        values = _mapping(path, notes)
        if values is None:
            continue
        numbers = values.get("numbers")
        if not isinstance(numbers, dict):
            notes.append(f"evaluation/{path.name} holds no numbers; evaluate again")
            continue
        odd = [str(key) for key, value in numbers.items() if not _is_number(value)]
        if odd:
            notes.append(f"evaluation/{path.name}: {', '.join(odd)} left out, not a number")
        found[path.stem] = Evaluation(
            str(values.get("protocol") or path.stem),
            {str(key): float(value) for key, value in numbers.items() if _is_number(value)},
            _as_dict(values.get("card")),
            _as_dict(values.get("details")),
        )
        weights = folder.parent / "exported" / "backbone.safetensors"
        if weights.is_file() and path.stat().st_mtime < weights.stat().st_mtime:
            notes.append(f"evaluation/{path.name} is older than the weights; if the run was trained on, evaluate again")
    if not found:
        notes.append("no evaluation was found in evaluation/")
    return found


def _pictures(folder: Path, notes: list[str]) -> dict[str, Picture]:
    if not folder.is_dir():
        return {}
    captions = _mapping(folder / "captions.json", notes) or {}
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_TYPES)
    absent = sorted(set(map(str, captions)) - {path.name for path in files})
    if absent:
        notes.append(f"pictures/captions.json names pictures that are not there: {', '.join(absent)}")
    order = {str(name): place for place, name in enumerate(captions)}
    files.sort(key=lambda path: (order.get(path.name, len(order)), path.name))
    return {path.name: Picture(path, str(captions.get(path.name, ""))) for path in files}


def _text(path: Path, notes: list[str], missing: str = "") -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        if missing:
            notes.append(missing)
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror or error}")
    return None


def _mapping(path: Path, notes: list[str], missing: str = "") -> dict[str, Any] | None:
    text = _text(path, notes, missing)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        notes.append(f"{path.parent.name}/{path.name} is not complete JSON ({error})")
        return None
    if not isinstance(values, dict):
        notes.append(f"{path.parent.name}/{path.name} holds a {type(values).__name__}, not a JSON object")
        return None
    return values


def _json_lines(path: Path, notes: list[str], missing: str = "") -> list[dict[str, Any]]:
    lines, broken = [], []
    texts = (_text(path, notes, missing) or "").splitlines()
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            lines.append(values)
        else:
            broken.append(number)
    if broken == [len(texts)]:
        notes.append(f"the last line of {path.name} was cut short and is left out")
    elif broken:
        notes.append(f"{len(broken)} lines of {path.name} cannot be read and are left out (the first is {broken[0]})")
    return lines


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
