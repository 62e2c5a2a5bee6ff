"""Spatial entropy, forward and backward, against the way that the paper's appendix A describes.

    python benchmarks/spatial_entropy.py [--pairs 100] [--processes 5] [--threads 2] [--out FILE.json]

768 maps of 14x14: a batch of 128 with the 6 heads of ViT-S/16. The alternative labels map after map with
OpenCV, makes one mask per component, stacks them, multiplies them with the maps they were gathered for, and
leaves the gradient to autograd. Both run in turns in one process; its ratio is the median over its pairs, and
what is reported is the median over processes with the lowest and the highest.
About a minute on two cores.

Wanted on 2 cores: at least 25 times faster, at most 10 ms. On a GPU: under 100 microseconds.
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

import cv2
import torch
from record import record
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vitrail.ops.spatial_entropy import entropy_and_slope, spatial_entropy

BATCH, HEADS, SIDE = 128, 6, 14


def per_map_masks(scores: Tensor) -> Tensor:
    """Mean spatial entropy by one mask per component, [batch, heads, Y, X] -> []."""
    batch, heads, _, _ = scores.shape
    mean = scores.mean((2, 3), keepdim=True)
    height = (scores - mean).relu().flatten(2)
    with torch.no_grad():
        above = (scores > mean).to(torch.uint8).cpu().numpy()
        image_of, head_of, masks = [], [], []
        for image in range(batch):
            for head in range(heads):
                count, labels = cv2.connectedComponents(above[image, head], connectivity=8)
                flat = torch.from_numpy(labels).flatten()
                for label in range(1, count):
                    image_of.append(image)
                    head_of.append(head)
                    masks.append(flat == label)
        stacked = torch.stack(masks).to(scores.device)
    share = (height[image_of, head_of] * stacked).sum(1) / height.sum(2)[image_of, head_of]
    return -(share * share.log()).sum() / (batch * heads)


def fused(scores: Tensor) -> Tensor:
    """The same by this library."""
    return spatial_entropy(scores).mean()


def forward_and_backward(loss: Callable[[Tensor], Tensor], scores: Tensor) -> tuple[float, Tensor]:
    """The loss and its gradient."""
    leaf = scores.detach().requires_grad_()
    value = loss(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.item(), leaf.grad


def seconds(loss: Callable[[Tensor], Tensor], scores: Tensor) -> float:
    """Wall time of one forward and backward, the device's work included."""
    start = time.perf_counter()
    forward_and_backward(loss, scores)  # .item() waits for a GPU
    return time.perf_counter() - start


def compare(scores: Tensor, pairs: int) -> dict[str, Any]:
    """Equality first, then interleaved times."""
    value, gradient = forward_and_backward(fused, scores)
    expected, expected_gradient = forward_and_backward(per_map_masks, scores)
    difference = (gradient - expected_gradient).abs().max().item()
    assert abs(value - expected) < 1e-5, (value, expected)
    assert difference < 1e-5 * max(1.0, expected_gradient.abs().max().item()), difference
    theirs, ours = [], []
    for _ in range(pairs):
        theirs.append(seconds(per_map_masks, scores))
        ours.append(seconds(fused, scores))
    ratios = sorted(their / our for their, our in zip(theirs, ours, strict=True))
    return {
        "entropy_nats": value,
        "entropy_difference": abs(value - expected),
        "gradient_difference": difference,
        "pairs": pairs,
        "alternative_ms_median": 1e3 * statistics.median(theirs),
        "fused_ms_median": 1e3 * statistics.median(ours),
        "fused_ms_best": 1e3 * min(ours),
        "fused_ms_90th_percentile": 1e3 * sorted(ours)[int(0.9 * pairs)],
        "ratio_median": statistics.median(ratios),
        "ratio_10th_percentile": ratios[int(0.1 * pairs)],
    }


def maps(smooth: bool, device: str = "cpu") -> Tensor:
    """Normal noise, or noise smoothed to look like a trained head's map."""
    noise = torch.randn(BATCH, HEADS, SIDE + 2, SIDE + 2, generator=torch.Generator().manual_seed(0))
    chosen = avg_pool2d(noise.flatten(0, 1), 3, stride=1).view(BATCH, HEADS, SIDE, SIDE) if smooth else noise
    return chosen[:, :, :SIDE, :SIDE].contiguous().to(device)


def microseconds(run: Callable[[], object], repeats: int = 500) -> float:
    """GPU time per call of a queue of calls, between two events."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(20):
        run()
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        run()
    stop.record()
    torch.cuda.synchronize()
    return 1e3 * start.elapsed_time(stop) / repeats


def in_processes(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """`compare` in several fresh processes: medians over them, and how far they lie apart."""
    found = []
    for _ in range(options.processes):
        command = [sys.executable, __file__, "--pairs", str(options.pairs), "--threads", str(options.threads)]
        done = subprocess.run([*command, "--only", kind], check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout))
    ratios = sorted(each["ratio_median"] for each in found)
    middle = {name: statistics.median(each[name] for each in found) for name in found[0]}
    return middle | {"processes": len(found), "ratio_lowest": ratios[0], "ratio_highest": ratios[-1]}


def on_gpu(scores: Tensor) -> dict[str, Any]:
    """Times on a GPU: as called from Python, and replayed as a CUDA graph, which leaves Python out."""
    leaf = scores.detach().requires_grad_()
    gradient = torch.ones((), device=scores.device)

    def step() -> Tensor:
        return torch.autograd.grad(fused(leaf), leaf, gradient)[0]

    numbers = {"forward_backward_us": microseconds(step)}
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        typed = scores.to(dtype)
        numbers[f"kernel_{str(dtype).removeprefix('torch.')}_us"] = microseconds(
            lambda typed=typed: entropy_and_slope(typed)
        )
    torch.cuda.set_sync_debug_mode("error")
    step()
    torch.cuda.set_sync_debug_mode("default")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = step()
    numbers["forward_backward_graph_us"] = microseconds(graph.replay)
    expected = forward_and_backward(fused, scores.cpu())[1]
    numbers["gradient_difference_to_cpu"] = (replayed.cpu() - expected).abs().max().item()
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument(
        "--only", choices=("noise", "smooth"), help="compare in this process, print JSON, record nothing"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    if options.only:
        print(json.dumps(compare(maps(options.only == "smooth"), options.pairs)))
        return

    numbers: dict[str, Any] = {
        "maps": f"{BATCH * HEADS} of {SIDE}x{SIDE}, float32",
        "threads": options.threads,
        "noise": in_processes("noise", options),
        "smooth": in_processes("smooth", options),
    }
    if torch.cuda.is_available():
        for name in ("noise", "smooth"):
            scores = maps(name == "smooth", "cuda")
            numbers[f"gpu_{name}"] = on_gpu(scores) | {"pairs": compare(scores, options.pairs)}
    path = record("spatial_entropy", numbers, options.out)
    for kind in ("noise", "smooth"):
        result = numbers[kind]
        print(
            f"{kind}: {result['alternative_ms_median']:.1f} ms -> {result['fused_ms_median']:.2f} ms,"
            f" {result['ratio_median']:.1f} times faster"
            f" ({result['ratio_lowest']:.1f} to {result['ratio_highest']:.1f} over processes)"
        )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
