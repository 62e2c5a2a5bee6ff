"""Write what a benchmark measured, with machine, date, commit and versions, as one JSON file."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "timm", "triton", "numba", "numpy", "opencv-python-headless", "scipy")

# `python benchmarks/NAME.py` measures the checkout that it stands in, installed or not.
sys.path.insert(0, str(ROOT))


def record(name: str, numbers: dict[str, Any], path: str | Path | None = None) -> Path:
    """Write `numbers` and where they come from.

    Args:
        name: of the benchmark, as its file.
        numbers: JSON values; each key says its unit.
        path: of the JSON; by default `benchmarks/results/NAME-MACHINE-DATE.json`.

    Returns:
        The path written. A commit that ends in "+changes" was measured on a tree with uncommitted work.
    """
    machine = MACHINE
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    if path is None:
        chip = re.sub(r"[^a-z0-9]+", "-", (machine.get("gpu") or machine["cpu"]).lower()).strip("-")
        path = ROOT / "benchmarks" / "results" / f"{name}-{chip}-{machine['cores']}-cores-{date}.json"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    words = {
        "benchmark": name,
        "date": date,
        "commit": commit(),
        "machine": machine,
        "versions": versions(),
        "numbers": numbers,
    }
    path.write_text(json.dumps(words, indent=2) + "\n")
    return path


def machine_words() -> dict[str, Any]:
    """The processor, the cores this process may use, the GPU if any, how busy it is; no host's name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
    }
    if hasattr(os, "getloadavg"):
        words["load_1min"] = round(os.getloadavg()[0], 2)  # above 1 before a benchmark starts: measure again
    if torch.cuda.is_available():
        words["gpu"] = torch.cuda.get_device_name(0)
    return words


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter for speed, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of this checkout, "unknown" outside one."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # What earlier benchmarks wrote is no change of what is measured.
        changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


MACHINE = machine_words()  # on import, before the benchmark itself makes the machine busy
