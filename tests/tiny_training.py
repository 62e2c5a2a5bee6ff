"""A tiny method and loader that fulfill the trainer's contracts, and a run of them for other processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import processes
import torch
from processes import wait as wait
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from vitrail.backbones import BackboneConfig, create
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.data import TooManyUnreadable
from vitrail.masks import MaskConfig, RatioConfig
from vitrail.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from vitrail.methods.dino import Dino, DinoConfig
from vitrail.methods.ibot import Ibot, IbotConfig
from vitrail.methods.mae import Mae, MaeConfig
from vitrail.methods.moco import Moco, MocoConfig
from vitrail.methods.mocov3 import MocoV3, MocoV3Config
from vitrail.methods.simclr import Simclr, SimclrConfig
from vitrail.methods.supervised import Supervised, SupervisedConfig
from vitrail.nn.masked_autoencoder import DecoderConfig
from vitrail.nn.projection_head import ProjectionConfig
from vitrail.nn.prototype_head import HeadConfig
from vitrail.nn.soft_targets import TargetConfig
from vitrail.regularizers import RegularizerConfig, WeightConfig
from vitrail.train import RunFolder, TrainConfig, fit, join, leave, seed_everything


class Tiny(nn.Module):
    """A classifier on 3x4x4 images with a buffer that moves and noise from the global generator."""

    def __init__(self, noise: float = 0.1, fail_at: int = -1, fail_rank: int = 0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(48, 48), nn.GELU()) for _ in range(2)])
        self.head = nn.Linear(48, 4)
        self.register_buffer("center", torch.zeros(()))
        self.noise, self.fail_at, self.fail_rank = noise, fail_at, fail_rank

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = images.flatten(1)
        for block in self.blocks:
            features = features + block(features)
        return self.head(features)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        noise = self.noise * torch.randn_like(batch.images) if self.noise else 0.0
        loss = nn.functional.cross_entropy(self(batch.images + noise), batch.labels)
        pull = (1 + step.progress) * 1e-3 * (self.head.weight.square().mean() + self.center)
        if step.index == self.fail_at and join("cpu").rank == self.fail_rank:
            loss = loss * float("nan")
        return Losses(loss + pull, {"class": loss, "pull": pull})

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": self.blocks.parameters(), "weight_decay": 0.05},
            {"params": self.head.parameters(), "lr_scale": 0.5},
        ]

    def after_step(self, step: Step) -> None:
        self.center.mul_(0.9).add_(0.1 * step.progress)

    def export(self) -> Exported:
        return Exported(self.state_dict(), {"classes": ["a", "b", "c", "d"]})


def sar() -> Supervised:
    """A classifier on 3x24x24 images with SAR, strong enough to show in the gradient, and with checkpointing."""
    backbone = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2, surgery="F")
    entropy = RegularizerConfig(kind="spatial_entropy", weight=WeightConfig(peak=0.5))
    config = SupervisedConfig(mixup=0, cutmix=0, regularizers=(entropy,))
    backbone = backbone.model_copy(update={"gradient_checkpointing": True})
    return Supervised(config, create(backbone), ("a", "b", "c", "d"))


PAIRS = ("simclr", "barlow_twins", "moco", "mocov3")
"""Methods on two views."""


def pretraining(kind: str) -> Any:
    """MAE, DINO or iBOT on 3x24x24 images, with masks that the images alone decide, so that ranks do not matter.

    "... by chance": with masks, numbers of hidden patches and drop path that are drawn.
    """
    chance = kind.endswith("by chance")
    size = {"image_size": 24, "patch_size": 6, "embed_dim": 24, "depth": 2, "heads": 2}
    backbone = create(BackboneConfig(**size, drop_path=0.3 if chance else 0))
    if kind == "mocov3":  # with batch norm, of all processes
        projector = ProjectionConfig(layers=3, hidden_dim=16, out_dim=8, last_norm=True, whole_batch=True)
        config = MocoV3Config(head=projector, predictor_dim=16, momentum=0.9)
        return MocoV3(config, backbone, fresh=False)  # its class token near 0 has gradients of 300, and their rounding
    if kind in PAIRS:  # without batch norm, which sees one process alone
        head = ProjectionConfig(hidden_dim=16, out_dim=8, norm=False)
        if kind == "moco":
            return Moco(MocoConfig(head=head, queue=40, momentum=0.9), backbone)
        if kind == "simclr":
            return Simclr(SimclrConfig(head=head), backbone)
        return BarlowTwins(BarlowTwinsConfig(head=head, scale=0.1), backbone)
    mask = MaskConfig(kind="random") if chance else MaskConfig(kind="dpp", tau=0, first="argmax")
    if kind.startswith("mae"):
        return Mae(MaeConfig(mask=mask, hidden=0.5, decoder=DecoderConfig(embed_dim=16, depth=1, heads=2)), backbone)
    targets = TargetConfig(kind="sinkhorn" if kind.endswith("sinkhorn") else "centering", warmup_epochs=0)
    common = {"head": HeadConfig(prototypes=12, hidden_dim=16, bottleneck_dim=8, layers=2), "targets": targets}
    common |= {"frozen_epochs": 0, "momentum": 0.9, "weight_decay_end": 0.1}
    if kind.startswith("dino"):
        return Dino(DinoConfig(**common), backbone)
    ratio = RatioConfig(mean=0.5, spread=0.3) if chance else RatioConfig(mean=0.5, spread=0, probability=1)
    return Ibot(IbotConfig(**common, mask=mask, ratio=ratio, patch_targets=targets), backbone)


class Images(Dataset):
    def __init__(self, count: int, side: int = 4) -> None:
        self.count, self.side = count, side

    def __getitem__(self, place: tuple[int, int]) -> Batch:
        epoch, index = place
        image = torch.randn(3, self.side, self.side, generator=torch.Generator().manual_seed(1000 * epoch + index))
        image[0, index % 4] += 2.0  # the bright row is the class
        return Batch(image, torch.tensor(index % 4), torch.tensor(index))


def collate(samples: list[Batch]) -> Batch:
    images, labels, indices, *_ = zip(*samples)
    return Batch(torch.stack(images), torch.stack(labels), torch.stack(indices))


class TinyLoader:
    """Order and samples depend on seed, epoch and index alone."""

    def __init__(
        self,
        count: int,
        batch: int,
        *,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        workers: int = 0,
        side: int = 4,
        views: bool | str = False,
    ) -> None:
        self.views = views
        self.count, self.batch, self.rank, self.world = count, batch, rank, world
        self.accumulate, self.workers, self.side = accumulate, workers, side
        self.steps_per_epoch = count // batch
        self.skipped: dict[int, tuple[str, str]] = {}
        self.tolerated = 2  # unreadable samples
        self.delay = 0.0
        self.before: Callable[[int], None] = lambda step: None

    def tolerate(self, skipped: Mapping[int, tuple[str, str]]) -> None:
        if len(skipped) > self.tolerated:
            raise TooManyUnreadable(skipped, self.count)

    def places(self, step: int) -> list[list[tuple[int, int]]]:
        epoch, inside = divmod(step, self.steps_per_epoch)
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(epoch)).tolist()
        whole = order[inside * self.batch : (inside + 1) * self.batch]
        size = self.batch // self.world // self.accumulate
        mine = whole[self.rank * size * self.accumulate :]
        return [[(epoch, i) for i in mine[k * size : (k + 1) * size]] for k in range(self.accumulate)]

    def batches(self, start: int, stop: int) -> Iterator[list[Batch]]:
        micro = [batch for step in range(start, stop) for batch in self.places(step)]
        images = Images(self.count, self.side)
        source = iter(DataLoader(images, batch_sampler=micro, num_workers=self.workers, collate_fn=collate))
        for step in range(start, stop):
            self.before(step)
            time.sleep(self.delay)
            yield [self.seen(next(source)) for _ in range(self.accumulate)]

    def seen(self, batch: Batch) -> Batch:
        """With a second global view and a local one, for methods that compare views."""
        if not self.views:
            return batch
        if self.views == "two":
            return batch._replace(views=(batch.images.flip(3),))
        half = self.side // 2
        return batch._replace(views=(batch.images.flip(3), batch.images[..., :half, :half]))


def save_exported(exported: Exported, path: Path) -> None:
    save_file(exported.state, path)


def train(
    path: Path,
    verb: str = "new",
    *,
    count: int = 48,
    batch: int = 16,
    workers: int = 0,
    method: Any = None,
    with_sar: bool = False,
    pretrain: str | None = None,
    broken: int = 0,
    noise: float = 0.1,
    fail_at: int = -1,
    fail_rank: int = 0,
    probe: bool = False,
    before: Callable[[int], None] | None = None,
    delay: float = 0.0,
    evaluate: Any = None,
    writer: Any = save_exported,
    **options: Any,
) -> tuple[Any, Any]:
    """One run in this process; returns the outcome and the method.

    `with_sar` trains `sar()` on larger images, `pretrain` what `pretraining` makes; `broken` images are said to be
    unreadable by each rank.
    """
    config = TrainConfig(**{"device": "cpu", "global_batch_size": batch, "warmup_epochs": 1, **options})
    ranks = join("cpu")
    seed_everything(config.seed)
    if pretrain is not None:
        method = pretraining(pretrain)
    method = method or (sar() if with_sar else Tiny(noise, fail_at, fail_rank))
    side = 24 if with_sar or pretrain is not None else 4
    views = "two" if pretrain in PAIRS else pretrain is not None
    if probe:  # calls a part of the method by itself, as a real evaluation does with the backbone

        def evaluate() -> dict[str, float]:
            with torch.no_grad():
                return {"answer": float(method(torch.ones(2, 3, 4, 4)).square().sum())}

    place = {"rank": ranks.rank, "world": ranks.world, "accumulate": config.accumulate}
    loader = TinyLoader(count, batch, **place, workers=workers, side=side, views=views)
    loader.skipped = {ranks.rank * broken + number: (f"{number}.jpg", "truncated") for number in range(broken)}
    loader.delay = delay
    if before is not None:
        loader.before = before
    with RunFolder(path, {"train": config.plain(), "workers": workers}, verb, main=ranks.main) as folder:
        outcome = fit(method, loader, config, folder, evaluate=evaluate, save_exported=writer)
    return outcome, method


def in_process(options: dict[str, Any], place: dict[str, str] | None = None) -> None:
    """What another process runs: `train(**options)` as one of the ranks; leaves weights and gradients."""
    torch.set_num_threads(1)
    if os.getpgrp() != os.getpid():
        os.setsid()  # signals to this process and its data workers alone
    multiprocessing.set_start_method("fork", force=True)  # of data workers
    os.environ.update(place or {})
    options = dict(options)
    die_at = options.pop("die_at", None)
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if die_at == -1 and not restarted:
        join("cpu")
        os.kill(os.getpid(), signal.SIGKILL)
    if die_at is not None:

        def before(step: int) -> None:
            if step == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

        options["before"] = before
    _, method = train(**options)
    rank = os.environ.get("RANK", "0")
    weights = {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value
        for name, value in method.state_dict().items()
    }
    gradients = {
        name: value.grad.full_tensor() if hasattr(value.grad, "full_tensor") else value.grad
        for name, value in method.named_parameters()
    }
    torch.save({"weights": weights, "gradients": gradients}, Path(options["path"]) / f"rank{rank}.pt")
    leave()


def start(options: dict[str, Any], world: int = 1) -> list[BaseProcess]:
    """Start real processes of one run; `wait` for them."""
    port = str(processes.free_port())
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    places = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    return processes.start(in_process, [(options, place) for place in places])


def metrics(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    in_process(json.loads(sys.argv[1]))
