"""CoTAP with its gradient: what sorting saves over looking at every pair of items.

    python benchmarks/ranking_ap.py [--samples 15] [--rivals 3] [--out FILE]

One row of N = 2,401 (a 7x7 grid with itself) and of N = 38,416 (14x14), float32, one thread. The alternative is the
loss as a user would write it where N x N does not fit memory: tiles of rows, plain torch, autograd, each tile
recomputed in the backward pass. It is timed `--rivals` times for the short row, and once for the long one, where it
takes minutes. Times are wall times; the processor time of the thread stands beside them, because a busy machine adds to
the former. Memory is the highest resident size of a fresh process less what it had before, after a call on a short row.

With a GPU: 256 rows of N = 38,416, forward and backward, the kernels and the plain torch way in turns.

Wanted: 60 ms on one core for N = 38,416, 1,000 times faster than the alternative, 20 MB; 60 ms for 256 rows on an H200.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import record
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vitrail.ops.ranking_ap import batched, cotap_loss, levels, reference

SIDES = {2401: 7, 38416: 14}
TILE = 512
ROWS = 256


def tiled(p: Tensor, q: Tensor) -> Tensor:
    """The loss of one row by all its pairs, TILE x N at a time."""

    def tile(p_i: Tensor, q_i: Tensor, p: Tensor, q: Tensor) -> Tensor:
        below = q[None, :] < q_i[:, None]
        misranked = (reference.one_sided_huber(p_i[:, None] - p[None, :], 0.5) * below).sum(-1)
        ahead = (~below & (p[None, :] >= p_i[:, None])).sum(-1)
        return ((q_i + 0.2).clamp(min=0) * misranked / (misranked + ahead)).sum()

    parts = zip(p.split(TILE), q.split(TILE))
    return torch.stack([checkpoint(tile, *part, p, q, use_reentrant=False) for part in parts]).sum() / len(p)


def scores(count: int, rows: int | None = None, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """p and q of patches whose features agree in part, float32."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((2, *((rows,) if rows else ()), count), generator=generator)
    q = 0.5 + 0.1 * noise[0]
    return (0.25 + 0.5 * q + 0.08 * noise[1]).to(device), q.to(device)


def forward_and_backward(loss: Callable[[Tensor, Tensor], Tensor], p: Tensor, q: Tensor) -> tuple[float, Tensor]:
    """The loss and its gradient."""
    leaf = p.detach().requires_grad_()
    value = loss(leaf, q)
    value.backward()
    assert leaf.grad is not None
    return value.item(), leaf.grad


def times(run: Callable[[], object], samples: int) -> dict[str, Any]:
    """Milliseconds of wall and of this thread's processor: quartiles over samples."""
    wall, busy = [], []
    for _ in range(samples):
        start, start_busy = time.perf_counter(), time.thread_time()
        run()
        wall.append(1e3 * (time.perf_counter() - start))
        busy.append(1e3 * (time.thread_time() - start_busy))
    return {"samples": samples, "wall_ms": quartiles(wall), "processor_ms": quartiles(busy)}


def quartiles(values: list[float]) -> list[float]:
    """Lowest, lower quartile, median, upper quartile."""
    cuts = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * values
    return [round(each, 3) for each in (min(values), *cuts)]


def on_cpu(count: int, samples: int, rivals: int) -> dict[str, Any]:
    """One row: equality with the alternative, times of both, memory."""
    p, q = scores(count)
    value, gradient = forward_and_backward(cotap_loss, p, q)  # loads the kernels
    found: dict[str, Any] = {}

    def rival() -> None:
        found["value"], found["gradient"] = forward_and_backward(tiled, p, q)

    slow = times(rival, rivals)
    exact, exact_gradient = forward_and_backward(cotap_loss, p.double(), q.double())
    fast = times(lambda: forward_and_backward(cotap_loss, p, q), samples)
    assert abs(value - found["value"]) < 1e-4, (value, found["value"])
    ratios = {clock: slow[clock][2] / fast[clock][2] for clock in ("wall_ms", "processor_ms")}
    return {
        "loss": value,
        "loss_and_gradient": fast,
        "loss_alone": times(lambda: cotap_loss(p, q), samples),
        "plain_torch_way": times(lambda: batched.loss_and_slope(p, q, -0.2, 0.5, levels.dominated), 3),
        "tiled_pairs": slow,
        "times_faster": {clock.removesuffix("_ms"): round(ratio, 1) for clock, ratio in ratios.items()},
        "loss_error_to_float64": abs(value - exact),
        "gradient_error_to_float64": relative(gradient, exact_gradient),
        "gradient_error_of_tiled_pairs": relative(found["gradient"], exact_gradient),
        "memory_kib": memory(count),
    }


def relative(gradient: Tensor, exact: Tensor) -> float:
    """Length of the difference over length of the exact one."""
    return float((gradient.double() - exact).norm() / exact.norm())


def memory(count: int) -> int | None:
    """KiB by which the peak of a fresh process rises, on Linux."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    done = subprocess.run(
        [sys.executable, __file__, "--memory", str(count)], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def print_memory(count: int) -> None:
    """What `memory` runs in a process of its own."""

    def kib(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1])

    p, q = scores(count)
    forward_and_backward(cotap_loss, p[:50], q[:50])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = kib("VmRSS")
    forward_and_backward(cotap_loss, p, q)
    print(kib("VmHWM") - before)


def on_gpu(samples: int) -> dict[str, Any]:
    """256 rows of 38,416: the kernels and the plain torch way in turns, and the error to the CPU's float64."""
    p, q = scores(38416, ROWS, "cuda")

    def step(plain: bool) -> Tensor:
        if plain:
            return batched.loss_and_slope(p, q, -0.2, 0.5, levels.dominated)[1]
        leaf = p.detach().requires_grad_()
        return torch.autograd.grad(cotap_loss(leaf, q).mean(), leaf)[0]

    numbers: dict[str, list[float]] = {"kernels_ms": [], "plain_torch_ms": []}
    for sample in range(samples + 2):
        for name in numbers:
            torch.cuda.synchronize()
            start = time.perf_counter()
            step(name == "plain_torch_ms")
            torch.cuda.synchronize()
            if sample > 1:
                numbers[name].append(1e3 * (time.perf_counter() - start))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradient = step(False)[0].cpu() * ROWS
    peak = torch.cuda.max_memory_allocated() - before
    _, exact = forward_and_backward(cotap_loss, p[0].cpu().double(), q[0].cpu().double())
    words = {name: quartiles(each) for name, each in numbers.items()}
    return words | {"rows": ROWS, "samples": samples, "gradient_error": relative(gradient, exact), "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=15)
    parser.add_argument("--rivals", type=int, default=3)
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    parser.add_argument("--memory", type=int, help="print the memory of a row so long, and record nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print_memory(options.memory)
        return

    numbers: dict[str, Any] = {"threads": 1, "quartiles": "lowest, 25%, 50%, 75%"}
    for count in SIDES:
        numbers[f"n_{count}"] = on_cpu(count, options.samples, options.rivals if count < 10_000 else 1)
    if torch.cuda.is_available():
        numbers["gpu"] = on_gpu(options.samples)
    path = record("ranking_ap", numbers, options.out)
    print(json.dumps(numbers, indent=2))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
