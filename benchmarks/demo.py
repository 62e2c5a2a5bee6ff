"""What `vitrail demo` takes, as a user types it, in a fresh process with torch's own number of threads.

    python benchmarks/demo.py [--out FILE.json]

Wanted: at most 180 s on two cores. Also what the page shows, for one seed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import ROOT, record

from vitrail.evaluation.result import Report

SHOWN = {"accuracy": "top1", "knn": "knn20_top1", "attention_jaccard": "jaccard"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", "vitrail", "demo"], cwd=folder, env=environment, check=True)
        numbers: dict[str, float] = {"seconds": time.perf_counter() - started}
        page = Path(folder) / "vitrail-demo"
        numbers["page_megabytes"] = (page / "index.html").stat().st_size / 1e6
        for run in ("baseline", "sar"):
            for protocol, name in SHOWN.items():
                report = Report.load(page / run / "evaluation" / f"{protocol}.json")
                numbers[f"{run}_{protocol}_{name}"] = report.numbers[name]
    for name, value in numbers.items():
        print(f"{name:<36} {value:.1f}")
    print(f"written to {record('demo', numbers, options.out)}")


if __name__ == "__main__":
    main()
