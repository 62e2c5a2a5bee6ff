"""What a person sees while training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import functools
import logging
import resource
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("vitrail")


@functools.cache
def console() -> Console:
    """The one console that bars and messages share."""
    from rich.console import Console

    return Console(stderr=True)


class Progress:
    """Shows loss, images per second, time left, the share of time spent waiting for data, and memory."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        self.total, self.done, self.first = total, done, done
        self.started = time.perf_counter()
        self.shown = shown
        self.bar: Any = None
        self.task: Any = None
        self.terminal = shown and console().is_terminal

    def __enter__(self) -> Self:
        if self.terminal:
            from rich import progress as parts

            self.bar = parts.Progress(
                parts.TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                parts.BarColumn(),
                parts.TaskProgressColumn(),
                parts.TextColumn("{task.fields[words]}"),
                parts.TimeRemainingColumn(),
                console=console(),
            )
            self.bar.start()
            self.task = self.bar.add_task("train", total=self.total, completed=self.done, words="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self) -> None:
        """One optimizer step is done."""
        self.done += 1
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done)
        elif self.shown and self.done == self.first + 1 < self.total:
            log.info("first step after %.0f s", time.perf_counter() - self.started)

    def line(self, numbers: Mapping[str, float]) -> None:
        """Show the numbers of a metrics line; the log file gets them in either case."""
        words = describe(numbers)
        if self.bar is not None:
            self.bar.update(self.task, words=words)
        seconds = (time.perf_counter() - self.started) / max(self.done - self.first, 1) * (self.total - self.done)
        left = f"{seconds // 3600:.0f}:{seconds // 60 % 60:02.0f}:{seconds % 60:02.0f} left"
        log.log(
            logging.DEBUG if self.bar is not None else logging.INFO,
            f"step {self.done}/{self.total}  {words}  {left}",
        )


def describe(numbers: Mapping[str, float]) -> str:
    """A metrics line in words."""
    return (
        f"epoch {numbers['epoch']:.2f}  loss {numbers['train/loss']:.4f}"
        f"  {numbers['images_per_second']:.0f} img/s  data wait {100 * numbers['data_wait']:.0f}%"
        f"  {numbers['memory_gb']:.1f} GB"
    )


def memory_gb(device: torch.device) -> float:
    """The most memory held so far, in 1e9 bytes: the GPU's where one is used, else this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
