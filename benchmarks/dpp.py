"""Masks by determinantal point processes: greedy search against its alternatives, and what a batch costs in all.

    python benchmarks/dpp.py [--rounds 30] [--processes 5] [--threads 2] [--out FILE.json]

64 images of 224 px in 196 patches of 16 px, of which 49 are chosen: MAE's masks of ViT-B/16. In turns in one
process:

- the search over given kernels: `greedy_map`, as a NumPy loop over images (the same steps, each vectorized over
  the patches), and batched over the images in plain torch;
- a whole batch of masks: `patch_kernel` and `greedy_map`, the exact draw `patch_kernel` and `kdpp_sample`, and
  uniform ones. These are the rows of Table 9 of the supplement of DPPMask, which times whole training steps.

A ratio is the median over rounds, each of which runs all of them once; what is reported is the median over
fresh processes with the lowest and the highest. About two minutes on two cores.

Wanted on 2 cores: the search at least 3 times faster than the NumPy loop, a batch of greedy masks under 100 ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from record import record
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vitrail.ops.dpp import greedy_map, kdpp_sample, patch_kernel
from vitrail.ops.dpp.greedy import batched

BATCH, SIDE, PATCH, COUNT, CHOSEN = 64, 224, 16, 196, 49


def numpy_loop(kernels: np.ndarray, k: int) -> np.ndarray:
    """The greedy search, image after image, [B, N, N] -> [B, k]; the first patch has the largest diagonal entry."""
    ids = np.empty((len(kernels), k), np.int64)
    for kernel, chosen in zip(kernels, ids, strict=True):
        rows = np.zeros((k, len(kernel)), kernel.dtype)
        gains = kernel.diagonal().copy()
        for step in range(k):
            best = gains.argmax()
            row = (kernel[best] - rows[:step, best] @ rows[:step]) / np.sqrt(gains[best])
            rows[step] = row
            gains -= row * row
            gains[best] = -np.inf
            chosen[step] = best
    return ids


def torch_batch(kernels: Tensor) -> Tensor:
    """The greedy search over all images at once in plain torch, as on a GPU."""
    keys, coins = torch.rand(BATCH, COUNT), torch.zeros(BATCH, CHOSEN, dtype=torch.bool)
    return batched(kernels, CHOSEN, 0.0, keys, coins).ids


def contenders(images: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    kernels = patch_kernel(images, PATCH)
    as_numpy = kernels.numpy()
    return {
        "search_numpy_loop": lambda: numpy_loop(as_numpy, CHOSEN),
        "search_torch_batched": lambda: torch_batch(kernels),
        "search": lambda: greedy_map(kernels, CHOSEN),
        "masks_uniform": lambda: torch.rand(BATCH, COUNT).argsort(1)[:, :CHOSEN],
        "masks_exact": lambda: kdpp_sample(patch_kernel(images, PATCH), CHOSEN),
        "masks_greedy": lambda: greedy_map(patch_kernel(images, PATCH), CHOSEN),
    }


def compare(images: Tensor, rounds: int) -> dict[str, float]:
    """Equality first, then times in turns: milliseconds, and how many times as long as this library's search."""
    kernels = patch_kernel(images, PATCH)
    expected = numpy_loop(kernels.double().numpy(), CHOSEN)
    same = (greedy_map(kernels, CHOSEN, first="argmax").ids.numpy() == expected).all(1).mean()
    assert same == 1, f"only {same} of the images have the patches that the NumPy loop chooses"
    runs = contenders(images)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    times = {name: each[1:] for name, each in times.items()}  # the first round warms up
    numbers = {f"{name}_ms_median": statistics.median(each) for name, each in times.items()}
    numbers |= {f"{name}_ms_best": min(each) for name, each in times.items()}
    for name, ours in (
        ("search_numpy_loop", "search"),
        ("search_torch_batched", "search"),
        ("masks_exact", "masks_greedy"),
    ):
        ratios = [their / our for their, our in zip(times[name], times[ours], strict=True)]
        numbers[f"{name}_ratio"] = statistics.median(ratios)
    return numbers


def smooth_images() -> Tensor:
    """Noise smoothed over 9 pixels, whose patches are more or less alike, `[64, 3, 224, 224]`."""
    noise = torch.randn(BATCH, 3, SIDE + 8, SIDE + 8, generator=torch.Generator().manual_seed(0))
    return avg_pool2d(noise, 9, stride=1)


def in_processes(options: argparse.Namespace) -> dict[str, Any]:
    """`compare` in several fresh processes: medians over them, and how far the ratios lie apart."""
    found = []
    for _ in range(options.processes):
        command = [sys.executable, __file__, "--rounds", str(options.rounds), "--threads", str(options.threads)]
        done = subprocess.run([*command, "--only"], check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout))
    numbers: dict[str, Any] = {name: statistics.median(each[name] for each in found) for name in found[0]}
    for name in [name for name in found[0] if name.endswith("_ratio")]:
        values = [each[name] for each in found]
        numbers |= {f"{name}_lowest": min(values), f"{name}_highest": max(values)}
    return numbers | {"processes": len(found), "rounds": options.rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--only", action="store_true", help="compare in this process, print JSON, record nothing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(compare(smooth_images(), options.rounds)))
        return

    numbers: dict[str, Any] = {
        "images": f"{BATCH} of {SIDE}x{SIDE}, {COUNT} patches, {CHOSEN} chosen, float32",
        "threads": options.threads,
    } | in_processes(options)
    path = record("dpp", numbers, options.out)
    for name, ours in (
        ("search_numpy_loop", "search"),
        ("search_torch_batched", "search"),
        ("masks_exact", "masks_greedy"),
    ):
        print(
            f"{name}: {numbers[f'{name}_ms_median']:.1f} ms, {ours}: {numbers[f'{ours}_ms_median']:.2f} ms,"
            f" {numbers[f'{name}_ratio']:.1f} times faster"
            f" ({numbers[f'{name}_ratio_lowest']:.1f} to {numbers[f'{name}_ratio_highest']:.1f} over processes)"
        )
    print(f"uniform masks: {numbers['masks_uniform_ms_median']:.2f} ms")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
