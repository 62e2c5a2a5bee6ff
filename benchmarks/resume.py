"""Whether a run that is killed and resumed ends in the same bits as one that is not.

    python benchmarks/resume.py [--kills 5] [--seed 0] [--recipe scenes_sar] [--out FILE.json] [SETTING...]

The recipe is trained once to its end, and once more with a SIGKILL at random moments, each followed by
--resume: with data workers, accumulation, clipping and EMA on, and a checkpoint every few steps that the
kills do not wait for. Then every tensor of the two last checkpoints (weights, moments, EMA) and every line of
metrics is compared.
Wanted: all equal. About 20 s for each kill on two cores, most of it starting Python.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from record import ROOT, record

SETTINGS = [
    *(
        "data.scenes.count=640",
        "data.scenes.val_count=64",
        "workers=2",
        "train.epochs=6",
        "train.global_batch_size=32",
    ),
    *("train.accumulate=2", "train.ema=0.99", "train.clip_norm=1.0", "train.deterministic=true"),
    *("train.checkpoint_every=7", "train.log_every=1", "train.evaluate_every=null"),
]


def start(recipe: str, out: Path, settings: list[str], *, resume: bool) -> subprocess.Popen[bytes]:
    """A training process on this checkout, in its own session."""
    command = [sys.executable, "-m", "vitrail", "train", recipe, *settings, "--out", str(out)]
    with open(out.with_suffix(".log"), "ab") as words:
        return subprocess.Popen(
            [*command, "--resume"] if resume else command,
            cwd=ROOT,
            stdout=words,
            stderr=words,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], out: Path) -> None:
    """Wait for the end of a run that must succeed."""
    if process.wait():
        raise SystemExit(f"training failed with {process.returncode}:\n{out.with_suffix('.log').read_text()[-3000:]}")


def steps_done(out: Path) -> int:
    """The last step in the metrics, 0 before the first."""
    metrics = out / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (json.JSONDecodeError, KeyError):
            continue
    return 0


def kill_after(process: subprocess.Popen[bytes], out: Path, step: int, delay: float) -> int:
    """SIGKILL a moment after a step was seen; returns the step that was seen last."""
    while steps_done(out) < step:
        if process.poll() is not None:
            raise SystemExit(f"ended before step {step}:\n{out.with_suffix('.log').read_text()[-3000:]}")
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return steps_done(out)


def differing(first: Any, second: Any, place: str = "") -> list[str]:
    """Where two nested states differ in any bit."""
    if isinstance(first, dict):
        keys = first.keys() | second.keys()
        return [word for key in keys for word in differing(first.get(key), second.get(key), f"{place}.{key}")]
    if isinstance(first, (list, tuple)):
        return [
            word
            for index, pair in enumerate(zip(first, second, strict=True))
            for word in differing(*pair, f"{place}.{index}")
        ]
    same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [place]


def compare(whole: Path, killed: Path) -> list[str]:
    """Differences between two runs' last checkpoints and metrics (times and rates aside)."""
    states = [torch.load(run / "checkpoints" / "last.pt", weights_only=True) for run in (whole, killed)]
    for state in states:
        del state["seconds"]
    lines = [
        [
            {key: value for key, value in json.loads(line).items() if key.startswith(("step", "train/", "val/"))}
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in (whole, killed)
    ]
    if len(lines[0]) != len(lines[1]):
        return [f"{len(lines[0])} lines of metrics against {len(lines[1])}"]
    return differing(*states) + differing(*lines, "metrics")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="more settings of the recipe, such as workers=0")
    parser.add_argument("--recipe", default="scenes_sar")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", default=None, help="JSON file")
    options = parser.parse_intermixed_args()
    settings, draw = [*SETTINGS, *options.settings], random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        finish(start(options.recipe, whole, settings, resume=False), whole)
        total = steps_done(whole)
        moments = sorted(draw.sample(range(1, total), options.kills))
        seen = []
        for number, step in enumerate(moments):
            process = start(options.recipe, killed, settings, resume=number > 0)
            seen.append(kill_after(process, killed, step, draw.uniform(0, 0.05)))
        finish(start(options.recipe, killed, settings, resume=True), killed)
        found = compare(whole, killed)
    numbers = {
        "recipe": options.recipe,
        "settings": settings,
        "steps": total,
        "killed_after_steps": seen,
        "bit_equal": not found,
        "differences": found[:20],
    }
    print(json.dumps(numbers, indent=2))
    print(record("resume", numbers, options.out))
    if found:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
