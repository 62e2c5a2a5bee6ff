"""Compile numba kernels, and share independent maps out among threads.

The threads are Python's own, running kernels that release the GIL. numba's threading layers are left alone on
purpose: its OpenMP layer ends a forked data-loader worker that touches it, and its workqueue layer aborts the
process when two threads (the main one and autograd's) launch kernels at once. Plain threads have neither
trouble.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
import torch

_CELLS_PER_PART = 100_000  # about half a millisecond of work: less is not worth a thread
_pool: ThreadPoolExecutor | None = None


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as machine code that releases the GIL, cached on disk where that can be written."""
    return _compile(function, False)


def fast_sums(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `compiled`; sums within it may be taken in any order, and so many terms at a time."""
    return _compile(function, {"reassoc"})


def _compile(function: Callable[..., Any], fastmath: Any) -> Callable[..., Any]:
    # numba sees when the file of a cached kernel changes, not when a kernel does that it calls from another
    # file: so the name of the cached file says which sources it was made of.
    function.__qualname__ += _digest_of_kernels()
    try:
        return numba.njit(nogil=True, cache=True, fastmath=fastmath)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(nogil=True, fastmath=fastmath)(function)


@cache
def _digest_of_kernels() -> str:
    digest = sha256()
    for path in sorted(Path(__file__).parent.glob("*/cpu.py")):
        digest.update(path.read_bytes())
    return "_" + digest.hexdigest()[:12]


def share_out(kernel: Callable[..., Any], maps: int, cells: int, *arguments: Any) -> None:
    """Run `kernel(first, last, *arguments)` so that every map in `range(maps)` is covered once.

    Uses at most `torch.get_num_threads()` threads, the calling one included. Each takes small parts until
    none is left: torch's OpenMP workers keep spinning on their cores for a while after each parallel region,
    and a helper that has to wait for such a core must not be waited for.

    Args:
        kernel: a function from `compiled`; maps are independent of each other.
        maps: how many maps there are.
        cells: cells of one map.
        arguments: arrays over all maps, and constants.
    """
    threads = torch.get_num_threads()
    parts = max(1, min(maps, maps * cells // _CELLS_PER_PART)) if threads > 1 else 1
    if parts == 1:
        kernel(0, maps, *arguments)
        return
    waiting = deque(range(parts))

    def work() -> None:
        while True:
            try:
                part = waiting.popleft()
            except IndexError:
                return
            kernel(maps * part // parts, maps * (part + 1) // parts, *arguments)

    helpers = [_threads().submit(work) for _ in range(min(threads, parts) - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="vitrail-ops")
    return _pool


def _forget_threads() -> None:
    # A forked child inherits the pool object but none of its threads: waiting for them would hang.
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
