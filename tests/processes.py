"""Other processes for tests: each has a bound, and none that outstays it is left behind.

Tests fork their own process only where the fork is what they are about: it has threads (of pytest-xdist, OpenCV,
OpenMP), which a fork leaves behind with their locks held, and a forked process that hangs keeps the pipe open by which
the tests' main process would learn that this one has ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PATIENCE = 200.0  # seconds, below pytest's own bound, which tells less

SERVER = multiprocessing.get_context("forkserver")
"""Forks processes from one without threads that has imported torch, which takes seconds, once."""
SERVER.set_forkserver_preload(["torch._dynamo", "torch.utils.tensorboard", "torch.distributed.fsdp"])


def start(target: Callable[..., None], places: Iterable[tuple[Any, ...]]) -> list[BaseProcess]:
    """Start a process of `target`, a function of a module, for each of the tuples of its arguments."""
    processes = [SERVER.Process(target=target, args=arguments) for arguments in places]
    for process in processes:
        process.start()
    return processes


def wait(processes: Sequence[BaseProcess], seconds: float = PATIENCE) -> list[int | None]:
    """Exit codes; after so many seconds together, or an error, those that still run are killed."""
    limit = time.monotonic() + seconds
    try:
        for process in processes:
            process.join(max(0.0, limit - time.monotonic()))
            if process.is_alive():
                raise TimeoutError(f"process {process.pid} ({process.name}) did not end within {seconds:g} s")
    finally:
        end(processes)
    return [process.exitcode for process in processes]


def end(processes: Sequence[BaseProcess]) -> None:
    """Kill those that still run."""
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join(10)


def until(done: Callable[[], bool], what: str, process: BaseProcess | None = None, seconds: float = PATIENCE) -> None:
    """Look until it is done; raises where so many seconds went by, or the process ended, before. Kills it then."""
    limit = time.monotonic() + seconds
    while not done():
        ended = process is not None and not process.is_alive()
        if (ended and not done()) or time.monotonic() > limit:
            end([process] if process is not None else [])
            reason = f"its process ended with code {process.exitcode}" if ended else f"{seconds:g} s went by"
            raise TimeoutError(f"{reason} before {what}")
        time.sleep(0.02)


def python(
    *arguments: str, cwd: Path | None = None, check: bool = True, seconds: float = PATIENCE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run this Python with arguments, and with variables beside those of this process; returns what it printed.

    Raises:
        TimeoutError: it did not end within so many seconds, and was killed.
        AssertionError: its exit code is not 0, where that is checked.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        start_new_session=True,
    )
    try:
        out, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # a launcher ends what it has started
        with suppress(subprocess.TimeoutExpired):
            process.wait(35)
        raise TimeoutError(f"python {arguments} did not end within {seconds:g} s") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
    assert not check or process.returncode == 0, f"exit code {process.returncode}: {said[-3000:]}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, said)


def free_port() -> int:
    """A port of this host that nothing listens to, for processes to meet at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
