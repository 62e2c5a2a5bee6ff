"""What SAR costs in a whole training step: forward, backward, the optimizer's update and a teacher's.

    python benchmarks/sar_step.py [--model vit_tiny_patch16_224] [--image 64] [--patch 8] [--batch 64] [--device cpu]
    python benchmarks/sar_step.py --backbones t2t_vit_14 cvt_13 --image 224 --batch 8 [--method dino mocov3]

Three networks of the same weights take turns in one process: the plain one (row A of the paper's Table 1(b)), the
operated one without the loss (C), and SAR (F, with the spatial entropy). The cost is the median over rounds of the
ratio of two neighbors in time. About two minutes on two cores.

With `--backbones` one after the other is measured, each with the patches of its name and by each of `--method`; the
JSON then has their numbers under `backbones`, by method and name. DINO and MoCo-v3 see two views of `--image` pixels,
DINO's student also `--locals` of `--local-image`.

Wanted: ViT-Ti at 64 pixels, patches of 8, batch 64 on a CPU at most 3 %; ViT-S/16 at 224 pixels on a GPU at most 1 %.
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

from vitrail.backbones import BackboneConfig, create
from vitrail.contracts import Batch, Step
from vitrail.methods.dino import Dino, DinoConfig
from vitrail.methods.mocov3 import MocoV3, MocoV3Config
from vitrail.methods.supervised import Supervised, SupervisedConfig
from vitrail.nn.prototype_head import HeadConfig
from vitrail.recipes.start import SAR
from vitrail.regularizers import RegularizerConfig

ROWS = {"plain": ("A", ()), "surgery": ("C", ()), "sar": ("F", (SAR,))}


def step_of(row: str, kind: str, config: BackboneConfig, options: argparse.Namespace) -> Callable[[], None]:
    """A training step of one row by a method of this kind, ready to run."""
    torch.manual_seed(0)
    surgery, regularizers = ROWS[row]
    backbone = create(config.model_copy(update={"surgery": surgery}))
    method = method_of(kind, backbone, regularizers, options).to(options.device)
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=1e-4, fused=True)
    batch = batch_of(kind, options)
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


def method_of(
    kind: str, backbone: Any, regularizers: tuple[RegularizerConfig, ...], options: argparse.Namespace
) -> Any:
    """Supervised learning of 100 classes, DINO or MoCo-v3."""
    if kind == "dino":
        head = HeadConfig(prototypes=options.prototypes)
        return Dino(DinoConfig(head=head, epochs=100, frozen_epochs=0, regularizers=regularizers), backbone)
    if kind == "mocov3":
        free = {"freeze_patch_embed": False, "positions": "learned"}
        return MocoV3(MocoV3Config(regularizers=regularizers, **free), backbone, fresh=False)
    config = SupervisedConfig(mixup=0, cutmix=0, regularizers=regularizers)
    return Supervised(config, backbone, tuple(str(label) for label in range(100)))


def batch_of(kind: str, options: argparse.Namespace) -> Batch:
    """Noise, with labels, or in as many views as are compared."""
    sizes = [options.image] * (1 if kind == "supervised" else 2)
    sizes += [options.local_image] * options.locals if kind == "dino" else []
    images, *views = (torch.randn(options.batch, 3, size, size, device=options.device) for size in sizes)
    labels = torch.randint(100, (options.batch,), device=options.device)
    return Batch(images, labels, torch.arange(options.batch), tuple(views))


def seconds(step: Callable[[], None]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(kind: str, config: BackboneConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Interleaved times; the order of the three turns round, so that none always follows the same."""
    steps = {row: step_of(row, kind, config, options) for row in ROWS}
    names = list(steps)
    for row in names * 3:
        steps[row]()
    times: dict[str, list[float]] = {row: [] for row in names}
    for number in range(options.rounds):
        for row in names[number % 3 :] + names[: number % 3]:
            times[row].append(seconds(steps[row]))

    def cost(row: str, base: str) -> float:
        return 100 * (statistics.median(a / b for a, b in zip(times[row], times[base], strict=True)) - 1)

    against = sorted(100 * (a / b - 1) for a, b in zip(times["sar"], times["plain"], strict=True))
    return {f"{row}_ms_median": 1e3 * statistics.median(times[row]) for row in names} | {
        "sar_against_plain_percent": cost("sar", "plain"),
        "sar_against_plain_quartiles": [against[len(against) // 4], against[-1 - len(against) // 4]],
        "entropy_loss_alone_percent": cost("sar", "surgery"),
        "rounds": options.rounds,
    }


def tell(name: str, numbers: dict[str, Any]) -> None:
    """One line of what was measured."""
    low, high = numbers["sar_against_plain_quartiles"]
    print(
        f"{name}: plain {numbers['plain_ms_median']:.0f} ms, SAR {numbers['sar_against_plain_percent']:+.1f} % "
        f"(quartiles {low:+.1f} and {high:+.1f}), of which the entropy loss "
        f"{numbers['entropy_loss_alone_percent']:+.1f} %",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--backbones", nargs="+", help="names in place of --model and --patch")
    parser.add_argument("--method", nargs="+", choices=("supervised", "dino", "mocov3"), default=["supervised"])
    parser.add_argument("--image", type=int, default=64)
    parser.add_argument("--locals", type=int, default=0)
    parser.add_argument("--local-image", type=int, default=96)
    parser.add_argument("--prototypes", type=int, default=65536, help="of DINO's head; 65536 is published")
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = {key: value for key, value in vars(options).items() if key not in ("out", "rounds", "backbones")}
    if options.backbones:
        found: dict[str, dict[str, Any]] = {}
        for kind in options.method:
            for name in options.backbones:
                both = f"{kind} {name}"
                found[both] = measure(kind, BackboneConfig(name=name, image_size=options.image), options)
                tell(both, found[both])
        numbers = {key: value for key, value in settings.items() if key not in ("model", "patch")}
        numbers |= {"backbones": found}
    else:
        config = BackboneConfig(name=options.model, image_size=options.image, patch_size=options.patch)
        numbers = settings | measure(options.method[0], config, options)
        tell(options.model, numbers)
    print(f"written to {record('sar_step', numbers, options.out)}")


if __name__ == "__main__":
    main()
