"""What PPD and LocLoc cost, module by module: weights, operations and seconds. Tables 1 to 3 of LocLoc's supplement.

Networks have fresh weights, which change no number. Operations are those of one image, as torch.utils.flop_counter
counts them: matrix products, convolutions and attention, a multiplication and an addition as two. Seconds are those of
one batch, medians of rounds that take turns, since machines get faster and slower; where rounds differ by more than
20 % of the median, the table ends with a note.

Loading is what each method needs of the disk: files are decoded and resized, for PPD once for each of its two views.

How the published numbers were counted
- "M" in Table 1 is 2^20, and LocLoc's classifier has 1000 outputs for CUB's 200 classes (`outputs=1000`). Its total,
  49.49, is 49.39.
- Table 3's 82 % fewer operations come of counting multiply-adds of plain convolutions alone, both generators on
  14 x 14 tokens. Transposed convolutions, most of LocLoc's generator, are left out. `plain` is counted so; `gflops`
  has them all.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from vitrail.backbones import BackboneConfig, TimmViT, create, need_vit
from vitrail.config import Config
from vitrail.data import EvalTransformConfig, build_eval_transform
from vitrail.evaluation.selection_accuracy import flops_of
from vitrail.localizers.locloc import LocLoc, new_classifier
from vitrail.localizers.ppd import CROP, Ppd
from vitrail.nn.deconvolution import Geg, GegConfig, PpdGenerator, PpdGeneratorConfig
from vitrail.nn.token_classifier import ClassTokenProbe, LfdmConfig
from vitrail.recipes.weights import pick_device

MEBI = 2**20
WIDE = 0.2
"""Spread of the rounds from which on a note is made of it."""


class CostsConfig(Config):
    """Which networks. By default those of CUB-200-2011."""

    backbone: BackboneConfig = BackboneConfig(name="vit_small_patch16_224")
    classes: int = Field(200, ge=2)
    """Classes of PPD's classifier."""
    outputs: int | None = Field(None, ge=2)
    """Outputs of LocLoc's classifier; null for `classes`, 1000 for the published number of weights."""
    image_size: int = Field(224, ge=1)
    """Pixels a side that LocLoc sees, and PPD's classifier; PPD's generator sees 8 / 7 of it."""
    geg: GegConfig = GegConfig()
    ppd: PpdGeneratorConfig = PpdGeneratorConfig()
    batch: int = Field(32, ge=1)
    """Images of a batch, whose seconds are taken."""
    photo: tuple[int, int] = (500, 375)
    """Width and height of the JPEG files that are loaded."""
    rounds: int = Field(3, ge=1)
    """How often everything is timed."""


class Cost(NamedTuple):
    """One module of one method."""

    method: str
    module: str
    parameters: int | None  # None for what has none of its own
    gflops: float  # of one image
    plain: float  # 10^9 multiply-adds of one image, transposed convolutions left out
    seconds: float  # of a batch
    spread: float = 0.0  # of the rounds, the longest less the shortest, as a share of the median


class Costs(NamedTuple):
    """All modules, and what the paper claims of them."""

    rows: tuple[Cost, ...]
    claims: dict[str, float]  # percent that LocLoc needs less than PPD
    device: str


@torch.inference_mode()
def costs(config: CostsConfig, device: str = "auto") -> Costs:
    """Count and time both methods.

    Raises:
        ValueError: sizes that hold no whole patches.
    """
    place = torch.device(pick_device(device))
    torch.manual_seed(0)
    methods = {"PPD": _ppd(config, place), "LocLoc": _locloc(config, place)}
    stages = {(name, stage.module): stage for name, found in methods.items() for stage in found}
    taken = _timed({key: stage.run for key, stage in stages.items()}, config.rounds, place)
    rows = tuple(
        Cost(method, module, stage.parameters, stage.flops / 1e9, stage.plain / 2e9, *_middle(taken[method, module]))
        for (method, module), stage in stages.items()
    )
    return Costs(
        rows, _claims(rows, config, place), torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU"
    )


def costs_table(found: Costs, config: CostsConfig) -> str:
    """Words for a terminal: a row for each module, totals, the claims, and a note on timings that differ widely."""
    lines = [
        f"batches of {config.batch} on {found.device}",
        f"{'':<8}{'':<22}{'weights':>12}{'x 2^20':>8}{'GFLOPs':>9}{'plain':>8}{'seconds':>10}",
    ]
    for method in dict.fromkeys(row.method for row in found.rows):
        own = [row for row in found.rows if row.method == method]
        total = sum(row.parameters or 0 for row in own)
        sums = Cost(method, "all", total, *(sum(row[place] for row in own) for place in (3, 4, 5)))  # type: ignore[misc]
        lines += [_line(row) for row in (*own, sums)]
    lines.append("LocLoc needs less than PPD by, in percent (negative: more):")
    lines += [f"  {name:<58}{value:8.1f}" for name, value in found.claims.items()]
    return "\n".join([*lines, *_note(found.rows, config.rounds)])


def _note(rows: Sequence[Cost], rounds: int) -> list[str]:
    wide = [row for row in rows if row.spread > WIDE]
    if not wide:
        return []
    most = max(wide, key=lambda row: row.spread)
    named = ", ".join(f"{row.method} {row.module}" for row in wide)
    return [
        f"note: seconds of {len(wide)} of {len(rows)} modules differ by more than {100 * WIDE:g} % between {rounds} "
        f"rounds, up to {100 * most.spread:.0f} % ({most.method} {most.module}): {named}; take them again on an idle "
        f"machine, with more rounds, such as rounds={3 * rounds}"
    ]


class _Stage(NamedTuple):
    module: str
    parameters: int | None
    run: Callable[[], object]
    flops: int  # of one image
    plain: int


def _ppd(config: CostsConfig, place: torch.device) -> list[_Stage]:
    large = round(config.image_size / CROP)
    network = _backbone(config)
    blocks = min(4, network.depth)
    probe = ClassTokenProbe(network.embed_dim, config.classes, blocks)
    generator = PpdGenerator(config.ppd, network.embed_dim)
    ppd = Ppd(network, generator, probe).to(place).eval()
    images = torch.randn(config.batch, 3, large, large, device=place)
    view = ppd.middle(images)
    tokens, patches = ppd.class_tokens(view), ppd.patches(images)
    return [
        _loading(config, (config.image_size, large)),
        _stage("class tokens", network, ppd.class_tokens, view),
        _stage("classifier", probe, probe, tokens),
        _stage("patches", None, ppd.patches, images),
        _stage("generator", generator, generator, patches),
    ]


def _locloc(config: CostsConfig, place: torch.device) -> list[_Stage]:
    network = _backbone(config)
    own = new_classifier(LfdmConfig(), network, config.outputs or config.classes)
    generator = Geg(config.geg, network.embed_dim)
    locloc = LocLoc(network, generator, own).to(place).eval()
    images = torch.randn(config.batch, 3, config.image_size, config.image_size, device=place)
    tokens, grid = locloc.embed(images)
    return [
        _loading(config, (config.image_size,)),
        _stage("tokens", network, lambda part: locloc.patches(*locloc.embed(part)), images),
        _stage("classifier", own, lambda part: own(part, grid), tokens),
        _stage("generator", generator, generator, locloc.patches(tokens, grid)),
    ]


def _backbone(config: CostsConfig) -> TimmViT:
    return need_vit(create(config.backbone.model_copy(update={"image_size": config.image_size})), "LocLoc")


def _stage(name: str, module: nn.Module | None, call: Callable[[Any], object], given: Any) -> _Stage:
    one = [part[:1] for part in given] if isinstance(given, list) else given[:1]
    count = None if module is None else sum(value.numel() for value in module.parameters())
    flops = flops_of(lambda: call(one))
    transposed = 0 if module is None else _transposed(module, lambda: call(one))
    return _Stage(name, count, partial(call, given), flops, flops - transposed)


def _transposed(module: nn.Module, run: Callable[[], object]) -> int:
    """Operations of the transposed convolutions in a call."""
    found = 0

    def note(layer: Any, given: tuple[Tensor, ...], _: Tensor) -> None:
        nonlocal found
        found += 2 * layer.weight.numel() * given[0].numel() // layer.in_channels

    handles = [part.register_forward_hook(note) for part in module.modules() if isinstance(part, nn.ConvTranspose2d)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _loading(config: CostsConfig, sizes: tuple[int, ...]) -> _Stage:
    """Decode and resize a batch of JPEG files in memory, once for each view."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(config.photo, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    views = [build_eval_transform(EvalTransformConfig(image_size=size)) for size in sizes]

    def run() -> list[Tensor]:
        return [
            torch.stack([view(Image.open(io.BytesIO(file.getvalue())).convert("RGB")) for _ in range(config.batch)])
            for view in views
        ]

    return _Stage("loading", None, run, 0, 0)


def _timed(
    runs: Mapping[tuple[str, str], Callable[[], object]], rounds: int, place: torch.device
) -> dict[tuple[str, str], list[float]]:
    """Seconds of each round, after one that does not count."""
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for number in range(rounds + 1):
        for key, run in runs.items():
            _wait(place)
            start = time.perf_counter()
            run()
            _wait(place)
            if number:
                taken[key].append(time.perf_counter() - start)
    return taken


def _middle(seconds: Sequence[float]) -> tuple[float, float]:
    """Their median, and their spread as a share of it."""
    median = statistics.median(seconds)
    return median, (max(seconds) - min(seconds)) / median


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _claims(rows: tuple[Cost, ...], config: CostsConfig, place: torch.device) -> dict[str, float]:
    """Percent that LocLoc needs less."""

    def total(method: str, name: str, *modules: str) -> float:
        chosen = [row for row in rows if row.method == method and (not modules or row.module in modules)]
        return float(sum(getattr(row, name) for row in chosen))

    def less(name: str, *modules: str) -> float:
        return 100 * (1 - total("LocLoc", name, *modules) / total("PPD", name, *modules))

    network = _backbone(config)
    grid = [side // patch for side, patch in zip(network.image_size, network.patch_size)]
    features = torch.randn(1, network.embed_dim, *grid, device=place)
    both = [Geg(config.geg, network.embed_dim), PpdGenerator(config.ppd, network.embed_dim)]
    counted = [_stage("", each.to(place).eval(), each, features) for each in both]
    computing = ("class tokens", "tokens", "classifier", "patches", "generator")
    return {
        "seconds, with loading": less("seconds"),
        "seconds, without loading": less("seconds", *computing),
        "operations of all": less("gflops"),
        "operations of the generators": less("gflops", "generator"),
        "operations of the generators, on one grid": 100 * (1 - counted[0].flops / counted[1].flops),
        "the same, plain convolutions alone, as published (82.0)": 100 * (1 - counted[0].plain / counted[1].plain),
    }


def _line(row: Cost) -> str:
    count = "" if row.parameters is None else f"{row.parameters:,}"
    share = "" if row.parameters is None else f"{row.parameters / MEBI:.2f}"
    numbers = f"{row.gflops:>9.2f}{row.plain:>8.2f}{row.seconds:>10.3f}"
    return f"{row.method:<8}{row.module:<22}{count:>12}{share:>8}{numbers}"
