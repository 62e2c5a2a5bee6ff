"""From one process to many hosts: who am I, on which device, and what do the others say.

Processes are started by `torchrun`, by `srun` with one task per GPU, or by `vitrail.train.launch`; all of
them must see the run folder at the same path.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


class Ranks(NamedTuple):
    """This process among the others. Every method below must be called by all ranks, in the same order.

    Tensors may be on the CPU: small ones are better there, where no GPU has to finish its work first.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes and prints."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean over ranks."""
        return self._reduced(values, dist.ReduceOp.SUM) / self.world

    def maximum(self, values: Tensor) -> Tensor:
        """The largest over ranks."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def agree(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on every rank."""
        if self.world == 1:
            return [value]
        boxes: list[Any] = [None] * self.world
        dist.all_gather_object(boxes, value)
        return boxes

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        values = values.detach().clone()
        if self.world > 1:
            dist.all_reduce(values, operation)
        return values


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return _placed() != (0, 1, 0)


def join(device: str = "auto") -> Ranks:
    """Find the other processes (once; later calls only answer) and this process's device.

    `ValueError` where this host has fewer GPUs than processes.
    """
    rank, world, local_rank = _placed()
    place = _device(device, local_rank)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world > 1 and not dist.is_initialized():
        if "MASTER_ADDR" not in os.environ:
            _name_main_host()
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
        patience = datetime.timedelta(minutes=30)
        board, _, _ = next(rendezvous("env://", rank, world, timeout=patience))
        # torchrun keeps its board over a restart, with the addresses of the processes that died.
        board = PrefixStore("attempt " + os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), board)
        dist.init_process_group(backend, store=board, rank=rank, world_size=world, timeout=patience)
    return Ranks(rank, world, place)


def leave() -> None:
    """Say goodbye to the other processes; harmless in a single one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wrap(module: nn.Module, ranks: Ranks, fsdp: bool) -> nn.Module:
    """The module as all ranks train it together: copied (DDP) or sharded (FSDP2), from rank 0's weights.

    FSDP2 shards each of `units` on its own, then the rest: a unit's weights are whole only inside its
    `forward`. Buffers are not synchronized: what changes them (`after_step`) has to agree.
    """
    if ranks.world == 1:
        return module
    module.to(ranks.device)
    for value in (*module.parameters(), *module.buffers()):
        dist.broadcast(value.detach(), src=0)
    if not fsdp:
        copied = DistributedDataParallel(module, gradient_as_bucket_view=True)
        copied.broadcast_buffers = False  # the argument of this name is deprecated, its successor too new
        return copied
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for part in units(module):
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)  # changes it in place
    return module


def units(module: nn.Module) -> list[nn.Module]:
    """The parts that FSDP2 gathers one at a time, inner ones first: transformer blocks and what is built like them.

    These are the children of every `ModuleList` and `Sequential` that hold weights and further modules; a
    single layer, as in an MLP head, is too small to be worth a message of its own.
    """
    lists = (part for part in module.modules() if isinstance(part, (nn.ModuleList, nn.Sequential)))
    found = dict.fromkeys(
        child
        for part in lists
        for child in part
        if not isinstance(child, (nn.ModuleList, nn.ModuleDict))  # these have no forward
        and next(child.children(), None) is not None
        and next(child.parameters(), None) is not None
    )
    return [part for part in reversed(list(module.modules())) if part in found]


@contextmanager
def gradient_sync(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Backward passes inside exchange gradients between ranks, or only add them up here."""
    if isinstance(module, DistributedDataParallel) and not wanted:
        with module.no_sync():
            yield
        return
    for part in _sharded(module)[:1]:
        part.set_requires_gradient_sync(wanted)
    yield


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Inside, sharded weights lie whole on every rank, so that any part of the module can be called."""
    sharded = _sharded(module)
    for part in sharded:
        part.unshard()
    try:
        yield
    finally:
        for part in sharded:
            part.reshard()


def _sharded(module: nn.Module) -> list[Any]:
    """The parts that FSDP2 shards, the root first."""
    return [part for part in module.modules() if hasattr(part, "unshard")]


def _placed() -> tuple[int, int, int]:
    """Rank, world size and rank on this host, from torchrun's variables or srun's."""
    here = os.environ
    if "RANK" in here and "WORLD_SIZE" in here:
        return int(here["RANK"]), int(here["WORLD_SIZE"]), int(here.get("LOCAL_RANK", 0))
    if int(here.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # unset in a batch script that calls python without srun
        return int(here["SLURM_PROCID"]), int(here["SLURM_STEP_NUM_TASKS"]), int(here["SLURM_LOCALID"])
    return 0, 1, 0


def _device(name: str, local_rank: int) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no GPU here; pass device=auto, or see `vitrail doctor`")
    count = torch.cuda.device_count()
    if count == 1 and "SLURM_LOCALID" in os.environ:  # srun may show each task its own GPU alone
        return torch.device("cuda", 0)
    if local_rank >= count:
        raise ValueError(
            f"process {local_rank + 1} of this host has no GPU: torch sees {count}; start {count} processes,"
            f" or pass device=cpu"
        )
    return torch.device("cuda", local_rank)


def _name_main_host() -> None:
    hosts = os.environ.get("SLURM_STEP_NODELIST", "localhost")
    found = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", hosts)
    os.environ["MASTER_ADDR"] = "".join(group or "" for group in found.groups()) if found else hosts
    job = int(os.environ.get("SLURM_JOB_ID", 0)) + int(os.environ.get("SLURM_STEP_ID", 0))
    os.environ["MASTER_PORT"] = str(20000 + job % 20000)
