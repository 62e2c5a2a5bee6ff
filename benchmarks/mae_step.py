"""What a diverse mask costs in a whole training step of MAE: mask, forward, backward and the optimizer's update.

    python benchmarks/mae_step.py [--model vit_tiny_patch16_224] [--image 224] [--batch 16] [--device cpu]

Networks of the same weights: uniform masks, DPPMask by greedy search (tau 0.5), and by exact draws of a k-DPP. These
are the rows of Table 9 of DPPMask's supplement, which reports 0.2129 s a step for random masks, 0.2609 greedy (82 % of
the images a second) and 2.7442 exact (8 %). Each step under another mask stands beside one under random masks, before
and after it in turn; a share is the median of the ratios of these pairs, and the ratio of the medians is given, too.
Where noise is larger than what is asked, the masks alone tell: `mask_seconds` is their median time, drawn within the
steps, and `mask_percent_of_step` their part of a step. All times are kept.

Images are smooth noise: how long a search takes depends on where it stops, and noise without neighbors would never
stop.

Wanted: greedy masks at least 95 % of the images a second of uniform ones.
"""

from __future__ import annotations

import argparse
import statistics
import time
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


class Timed:
    """A mask, and how long its draws took."""

    def __init__(self, mask: Any) -> None:
        self.mask, self.needs_attention = mask, mask.needs_attention
        self.seconds: list[float] = []

    def __call__(self, images: Tensor, *rest: Any, **more: Any) -> Tensor:
        """As the mask."""
        wait(images.device)
        start = time.perf_counter()
        found: Tensor = self.mask(images, *rest, **more)
        wait(images.device)
        self.seconds.append(time.perf_counter() - start)
        return found


def wait(device: torch.device) -> None:
    """Let a GPU finish."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Training:
    """A training step with one kind of mask, ready to run."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        backbone = create(BackboneConfig(name=options.model, image_size=options.image, patch_size=options.patch))
        self.method = Mae(MaeConfig(mask=MASKS[name]), backbone).to(options.device)
        self.mask = Timed(Exact() if name == "exact" else self.method.mask)
        self.method.mask = self.mask
        self.optimizer = torch.optim.AdamW(self.method.parameter_groups(), lr=1e-4, fused=True)
        noise = torch.randn(options.batch, 3, options.image // 8, options.image // 8)
        self.images = functional.interpolate(noise, scale_factor=8, mode="bicubic").to(options.device)
        self.batch = Batch(self.images, None, torch.arange(options.batch))
        self.half = torch.autocast(options.device, torch.bfloat16) if options.bf16 else nullcontext()

    def seconds(self) -> float:
        """Wall time of one step."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        with self.half:
            loss = self.method.training_step(self.batch, Step(0, 100)).total
        loss.backward()
        self.optimizer.step()
        wait(self.images.device)
        return time.perf_counter() - start


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Pairs of steps, one under random masks and one under another mask; which is first alternates."""
    steps = {name: Training(name, options) for name in MASKS}
    for each in steps.values():
        each.seconds()
        each.mask.seconds.clear()
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in steps if name != "random"}
    for number in range(options.rounds):
        for name, times in pairs.items():
            first, second = ("random", name) if number % 2 else (name, "random")
            found = {first: steps[first].seconds(), second: steps[second].seconds()}
            times.append((found["random"], found[name]))
    numbers: dict[str, Any] = {"rounds": options.rounds}
    plain = [random for times in pairs.values() for random, _ in times]
    numbers["random"] = summary("random", plain, steps["random"].mask.seconds, options)
    for name, times in pairs.items():
        shares = sorted(100 * random / other for random, other in times)
        numbers[name] = summary(name, [other for _, other in times], steps[name].mask.seconds, options) | {
            "percent_of_random": statistics.median(shares),
            "percent_of_random_quartiles": [shares[len(shares) // 4], shares[-1 - len(shares) // 4]],
            "percent_of_random_by_medians": 100
            * statistics.median(random for random, _ in times)
            / statistics.median(other for _, other in times),
            "pairs": times,
        }
    return numbers


def summary(name: str, times: list[float], masks: list[float], options: argparse.Namespace) -> dict[str, Any]:
    """Of the steps under one mask."""
    step, mask = statistics.median(times), statistics.median(masks)
    return {
        "seconds_median": step,
        "images_per_second": options.batch / step,
        "mask_seconds": mask,
        "mask_percent_of_step": 100 * mask / step,
        "published_percent_of_random": 100 * PUBLISHED["random"] / PUBLISHED[name],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = {key: value for key, value in vars(options).items() if key not in ("out", "rounds")}
    numbers = settings | measure(options)
    for name in MASKS:
        found = numbers[name]
        beside = f", {found['percent_of_random']:.1f} % of random" if name != "random" else ""
        print(
            f"{name:12} {found['seconds_median']:.3f} s a step, of which masks {1000 * found['mask_seconds']:.1f} ms "
            f"({found['mask_percent_of_step']:.1f} %){beside}; published: {found['published_percent_of_random']:.0f} %"
        )
    print(f"written to {record('mae_step', numbers, options.out)}")


if __name__ == "__main__":
    main()
