"""Processes that cut objects out of images by GrabCut and write each mask when it is done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Self

import numpy as np

from vitrail.data.loader import WorkerCrashed
from vitrail.data.mask_writer import MaskWriter
from vitrail.data.object_masks import ObjectMasksConfig
from vitrail.ops.grabcut import ObjectMask, grabcut_mask

AHEAD = 2  # images that wait for each process, beside a batch


def cut_object(image: np.ndarray, attention: np.ndarray, config: ObjectMasksConfig) -> ObjectMask:
    """Both masks of a squashed image, uint8 `[S, S, 3]`, by attention `[Y, X]` in [0, 1] and the settings."""
    return grabcut_mask(
        image,
        attention,
        high=config.high,
        low=config.low,
        threshold=config.threshold,
        iterations=config.iterations,
    )


class Cutters:
    """Some processes that cut, or this one alone. Use it in `with`; leaving drops what waits, and keeps what is done.

    Masks do not depend on the number of processes.
    """

    def __init__(self, writer: MaskWriter, config: ObjectMasksConfig, processes: int, batch_size: int = 1) -> None:
        """Say where masks go, and how they are made.

        Args:
            processes: how many cut; 1 is this one alone. `ValueError` below 1.
            batch_size: images that come at once. As many wait while the next ones come, so that no process is idle.
        """
        if processes < 1:
            raise ValueError(f"processes is {processes}; at least one cuts")
        self.writer, self.config, self.processes = writer, config, processes
        self._most = AHEAD * processes + batch_size
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        if self.processes > 1:
            how = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
            job = (self.writer, self.config, os.getpid())
            self._pool = ProcessPoolExecutor(self.processes, how, initializer=_start, initargs=job)
            self._pool.submit(_nothing).result()  # they start now, before the loader's
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def cut(self, index: int, image: np.ndarray, attention: np.ndarray) -> int:
        """Hand over an image; returns how many were done meanwhile. Waits while too many wait.

        Raises:
            WorkerCrashed: a process died.
        """
        if self._pool is None:
            _cut(self.writer, self.config, index, image, attention)
            return 1
        try:
            self._waiting.append(self._pool.submit(_task, index, image, attention))
        except BrokenProcessPool as error:
            raise _crashed(self.processes) from error
        return self._collect(self._most)

    def finish(self) -> int:
        """Wait for all; returns how many that were."""
        return self._collect(0)

    def _collect(self, most: int) -> int:
        count = 0
        while self._waiting and (len(self._waiting) > most or self._waiting[0].done()):
            try:
                self._waiting.popleft().result()
            except BrokenProcessPool as error:
                raise _crashed(self.processes) from error
            count += 1
        return count


_job: tuple[MaskWriter, ObjectMasksConfig] | None = None


def _start(writer: MaskWriter, config: ObjectMasksConfig, parent: int) -> None:
    """Make a process modest: one thread, Ctrl-C is the parent's business, and it ends when the parent is gone."""
    import cv2

    global _job
    _job = writer, config
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Not 1: that ends OpenCV's threads, and a forked process waits forever for those of its parent.
    cv2.setNumThreads(0)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _nothing() -> None:
    return


def _task(index: int, image: np.ndarray, attention: np.ndarray) -> None:
    assert _job is not None
    _cut(*_job, index, image, attention)


def _cut(writer: MaskWriter, config: ObjectMasksConfig, index: int, image: np.ndarray, attention: np.ndarray) -> None:
    found = cut_object(image, attention, config)
    writer.write(index, found.enhanced, found.plain, fell_back=bool(found.fallback))


def _crashed(processes: int) -> WorkerCrashed:
    return WorkerCrashed(
        "a process that cuts objects died. Usual causes: the system ran out of memory, or the process was killed. What "
        f"is done is kept: run the same again, with fewer processes than {processes} where memory is short"
    )
