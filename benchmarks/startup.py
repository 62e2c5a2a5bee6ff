"""What starting costs: `import vitrail` beyond torch, `vitrail --help` and `vitrail list`.

    python benchmarks/startup.py [--rounds 15] [--out FILE.json]

Each round starts one fresh process of each, in turns. Wanted: under 150 ms beyond torch; under 1 s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from record import ROOT, record

COMMANDS = {
    "import_torch": ["-c", "import torch"],
    "import_torch_and_vitrail": ["-c", "import torch, vitrail"],
    "help": ["-m", "vitrail", "--help"],
    "list": ["-m", "vitrail", "list"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of a process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def vitrail_alone() -> float:
    """Milliseconds that Python's own clock of imports gives to `import vitrail`, once torch is there."""
    command = [sys.executable, "-X", "importtime", "-c", "import torch, vitrail"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True, text=True
    )
    lines = [line.split("|") for line in done.stderr.splitlines() if line.endswith(" vitrail")]
    return float(lines[0][1]) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    for arguments in COMMANDS.values():
        seconds(arguments)  # bytecode and the disk's cache
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    beyond = [a - b for a, b in zip(times["import_torch_and_vitrail"], times["import_torch"], strict=True)]
    numbers = {f"{name}_s_median": statistics.median(values) for name, values in times.items()}
    numbers |= {"vitrail_beyond_torch_ms_median": 1e3 * statistics.median(beyond), "rounds": options.rounds}
    numbers["vitrail_by_importtime_ms_median"] = statistics.median(vitrail_alone() for _ in range(options.rounds))
    for name, value in numbers.items():
        print(f"{name:<34} {value:.3f}")
    print(f"written to {record('startup', numbers, options.out)}")


if __name__ == "__main__":
    main()
