"""Which files of a run folder are vitrail's, and which of them are worth keeping."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

# What --overwrite removes in a run's folder, beside the pictures that captions.json names and the evaluations.
# config.yaml and versions.json, by which a run is known, are replaced and never missing.
OURS = (
    *("log.txt", "metrics.jsonl", "skipped.jsonl", "nonfinite.json", "trained.json"),
    *("tensorboard/events.out.*", "checkpoints/last.pt*", "checkpoints/previous.pt", "exported/backbone.*"),
    *("pictures/captions.json", "pictures/patches_before.safetensors"),
    *("report.html", "curves.png", "entropy_heads.png"),
)
# What a run that stopped before its first step leaves: a mistyped folder must not cost a new --out.
BEFORE_TRAINING = frozenset(
    {".lock", "config.yaml", "versions.json", "log.txt", "nonfinite.json", "captions.json", "skipped.jsonl"}
)
# What some recipes make before they train, in hours: it is looked at before it is used, and --overwrite keeps it.
PREPARED = (
    *("object_masks/object_masks.json", "object_masks/masks.npy", "object_masks/table.npy"),
    *("object_masks/.object_masks.json.*", "object_masks/.masks.npy.*", "object_masks/.table.npy.*"),
    *("neighbors.safetensors", ".neighbors.safetensors.*"),
)
_LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ")


def is_run(folder: Path) -> bool:
    """Whether vitrail trained there: config.yaml, and beside it versions.json or log.txt as a run writes them."""
    if not (folder / "config.yaml").is_file():
        return False
    if "vitrail" in (_mapping(folder / "versions.json") or ()):
        return True
    try:
        with open(folder / "log.txt", errors="replace") as file:
            return _LOGGED.match(file.readline()) is not None
    except OSError:
        return False


def in_the_way(folder: Path) -> Iterator[Path]:
    """Files, relative to the folder, for which no new run may begin there; those of a refused start are none."""
    found = (entry.relative_to(folder) for entry in folder.rglob("*") if entry.is_file())
    return (name for name in found if not _free(folder, name))


def kept(folder: Path) -> list[Path]:
    """What a run or one inside of it has to show, relative to the folder: checkpoints, weights, evaluations."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [name for name in found if name.parent.name in ("checkpoints", "exported", "evaluation")]
    return sorted(name for name in shown if name.suffix != ".partial" and not name.name.startswith("."))


def removable(folder: Path) -> list[Path]:
    """What --overwrite removes from a run's folder."""
    captions = _mapping(folder / "pictures" / "captions.json") or {}
    found = [path for pattern in OURS for path in folder.glob(pattern)]
    found += [folder / "pictures" / name for name in captions if Path(name).name == name]
    found += [path for path in (folder / "evaluation").glob("*.json") if _is_report(path)]
    return [path for path in found if path.is_file()]


def _is_report(path: Path) -> bool:
    return {"protocol", "numbers", "card"} <= (_mapping(path) or {}).keys()


def _mapping(path: Path) -> dict[str, Any] | None:
    """A JSON file's mapping; None for no file, or another one."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _free(folder: Path, name: Path) -> bool:
    """Whether a file of a run folder may be there before training: what a refused start leaves, or prepares."""
    if name.name in ("config.yaml", "versions.json"):  # a run writes both; one alone is someone's own
        place = folder / name.parent
        return (place / "config.yaml").is_file() and (place / "versions.json").is_file()
    if any(fnmatchcase(str(name), pattern) for pattern in PREPARED):
        return True
    return name.name in BEFORE_TRAINING or (name.parent.name == "pictures" and name.stem.endswith("_before"))
