"""What a diverse mask costs in a whole training step of MAE: mask, forward, backward and the optimizer's update.

    python benchmarks/mae_step.py [--model vit_tiny_patch16_224] [--image 224] [--batch 64] [--device cpu]

Networks of the same weights take turns in one process: uniform masks, DPPMask by greedy search (tau 0.5 and, what
costs most, tau 0), and by exact draws of a k-DPP. These are the rows of Table 9 of DPPMask's supplement, which reports
0.2129 s a step for random masks, 0.2609 greedy (82 % of the images a second) and 2.7442 exact (8 %). A share is the
median over rounds of the ratio of neighbors in time. About five minutes on two cores.

Images are smooth noise: how long a search takes depends on where it stops, and noise without neighbors would never
stop.

Wanted: greedy masks at least 95 % of the images a second of uniform ones.
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
from torch import Tensor
from torch.nn import functional

from vitrail.backbones import BackboneConfig, create
from vitrail.contracts import Batch, Step
from vitrail.masks import MaskConfig
from vitrail.masks.counts import number_of, patch_size
from vitrail.methods.mae import Mae, MaeConfig
from vitrail.ops.dpp import kdpp_sample, patch_kernel

MASKS = {
    "random": MaskConfig(),
    "greedy": MaskConfig(kind="dpp", tau=0.5),
    "greedy_tau0": MaskConfig(kind="dpp", tau=0),
    "exact": MaskConfig(),
}
PUBLISHED = {"random": 0.2129, "greedy": 0.2609, "exact": 2.7442}  # seconds a step, Table 9


class Exact:
    """Visible patches drawn exactly. A `vitrail.contracts.Mask`, too slow to be one of the library's."""

    needs_attention = False

    def __call__(self, images: Tensor, grid: tuple[int, int], hidden: float, **_: Any) -> Tensor:
        """Bool `[B, N]`."""
        count = grid[0] * grid[1]
        kernel = patch_kernel(images, patch_size(images, grid))
        ids = kdpp_sample(kernel, count - number_of(hidden, count))
        return torch.ones(len(images), count, dtype=torch.bool, device=images.device).scatter(1, ids, False)


def step_of(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """A training step with one kind of mask, ready to run."""
    torch.manual_seed(0)
    backbone = create(BackboneConfig(name=options.model, image_size=options.image, patch_size=options.patch))
    method = Mae(MaeConfig(mask=MASKS[name]), backbone).to(options.device)
    if name == "exact":
        method.mask = Exact()
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=1e-4, fused=True)
    noise = torch.randn(options.batch, 3, options.image // 8, options.image // 8)
    images = functional.interpolate(noise, scale_factor=8, mode="bicubic").to(options.device)
    batch = Batch(images, None, torch.arange(options.batch))
    half = torch.autocast(options.device, torch.bfloat16) if options.bf16 else nullcontext()

    def step() -> None:
        optimizer.zero_grad()
        with half:
            loss = method.training_step(batch, Step(0, 100)).total
        loss.backward()
        optimizer.step()
        if options.device != "cpu":
            torch.cuda.synchronize()

    return step


def seconds(step: Callable[[], None]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Interleaved times; the order turns round, so that none always follows the same."""
    steps = {name: step_of(name, options) for name in MASKS}
    names = list(steps)
    for name in names:
        steps[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(seconds(steps[name]))
    numbers: dict[str, Any] = {"rounds": options.rounds}
    for name in names:
        shares = sorted(100 * a / b for a, b in zip(times["random"], times[name], strict=True))
        numbers[name] = {
            "seconds_median": statistics.median(times[name]),
            "images_per_second": options.batch / statistics.median(times[name]),
            "percent_of_random": statistics.median(shares),
            "percent_of_random_quartiles": [shares[len(shares) // 4], shares[-1 - len(shares) // 4]],
            "published_percent_of_random": 100 * PUBLISHED["random"] / PUBLISHED[name] if name in PUBLISHED else None,
        }
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = {key: value for key, value in vars(options).items() if key not in ("out", "rounds")}
    numbers = settings | measure(options)
    for name in MASKS:
        found = numbers[name]
        published = found["published_percent_of_random"]
        beside = f"  (published: {published:.0f} %)" if published else ""
        print(
            f"{name:12} {found['seconds_median']:.3f} s a step, {found['images_per_second']:.1f} images/s, "
            f"{found['percent_of_random']:.1f} % of random{beside}"
        )
    print(f"written to {record('mae_step', numbers, options.out)}")


if __name__ == "__main__":
    main()
