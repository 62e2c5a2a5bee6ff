"""What learning correspondences costs in a whole training step of CoTAP's second stage.

    python benchmarks/cotap_step.py [--model vit_small_patch16_224] [--image 224] [--batch 256] [--device cuda] [--bf16]

Networks of the same weights take turns in one process: all terms but the correspondences (`without`), all terms
(`cotap`), and with binary cross entropy on the same pairs in its place (`bce`). A step is forward, backward, the
optimizer's update, and the teacher's. The cost is the median over rounds of the ratio of two neighbors in time.

Wanted: ViT-S/16, batch 256 on a GPU: at most 1.5 times the step without the term; 1.15 is the goal.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from record import record

from vitrail.backbones import BackboneConfig, add_object_filter, create
from vitrail.contracts import Batch, Step
from vitrail.methods.cotap import Cotap, CotapConfig

ROWS: dict[str, dict[str, Any]] = {"without": {"correspondence": 0.0}, "cotap": {}, "bce": {"loss": "bce"}}


def batch_of(options: argparse.Namespace) -> Batch:
    """Two global views, local ones and neighbors' views of random pixels; half of the images are object-centric."""
    sides = [options.image, options.image, *[options.local] * options.locals, options.image]
    views = [torch.randn(options.batch, 3, side, side, device=options.device) for side in sides]
    start = torch.rand(options.batch, len(sides), 2, dtype=torch.float64) * 40
    stop = 100 - torch.rand(options.batch, len(sides), 2, dtype=torch.float64) * 40
    numbers = torch.arange(options.batch)
    return Batch(views[0], None, numbers, tuple(views[1:]), torch.cat((start, stop), -1), numbers % 2)


def step_of(row: str, batch: Batch, options: argparse.Namespace) -> Callable[[], None]:
    """A training step of one row, ready to run."""
    torch.manual_seed(0)
    backbone = add_object_filter(create(BackboneConfig(name=options.model, image_size=options.image)))
    method = Cotap(CotapConfig(**ROWS[row]), backbone).to(options.device)
    fused = options.device != "cpu"
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=1e-5, fused=fused)
    half = torch.autocast(options.device, torch.bfloat16) if options.bf16 else nullcontext()

    def step() -> None:
        optimizer.zero_grad()
        with half:
            loss = method.training_step(batch, Step(0, 100)).total
        loss.backward()
        optimizer.step()
        method.after_step(Step(0, 100))
        if options.device != "cpu":
            torch.cuda.synchronize()

    return step


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Interleaved times; the order of the rows turns round, so that none always follows the same."""
    batch = batch_of(options)
    steps = {row: step_of(row, batch, options) for row in ROWS}
    names = list(steps)
    for row in names * 2:
        steps[row]()
    times: dict[str, list[float]] = {row: [] for row in names}
    for number in range(options.rounds):
        turn = number % len(names)
        for row in names[turn:] + names[:turn]:
            start = time.perf_counter()
            steps[row]()
            times[row].append(time.perf_counter() - start)
    found: dict[str, Any] = {"seconds": {row: statistics.median(each) for row, each in times.items()}}
    for row in names[1:]:
        ratios = sorted(a / b for a, b in zip(times[row], times["without"], strict=True))
        found[f"times_without_{row}"] = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios
    if options.device != "cpu":
        found["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--local", type=int, default=96)
    parser.add_argument("--locals", type=int, default=4)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    numbers = measure(options)
    print(numbers)
    print(f"written to {record('cotap_step', {'settings': vars(options)} | numbers, options.out)}")


if __name__ == "__main__":
    main()
