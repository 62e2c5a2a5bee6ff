"""Run this very command in several processes on this host, with PyTorch's own launcher."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def launch(devices: int, command: Sequence[str] | None = None, *, restarts: int = 0) -> int:
    """Start `devices` processes of `command` and wait; returns an exit code for `sys.exit`.

    Args:
        devices: processes to start, one per GPU (or CPU processes); at least 1.
        command: program and arguments; the command that started this process where None is given. Inside the
            processes `vitrail.train.distributed.launched()` is true: ask it first, or they launch again.
        restarts: how often all processes are started anew, to resume by themselves, after one has died.

    Only rank 0 prints progress; warnings and errors of all ranks pass through. A signal is handed to every
    process, which then has 30 s to save; afterwards signals do here what they did before.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    if devices < 1:
        raise ValueError(f"devices={devices}: at least one process is needed")
    command = [sys.executable, *sys.orig_argv[1:]] if command is None else list(command)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    options = ["--standalone", f"--nproc-per-node={devices}", f"--max-restarts={restarts}", "--no-python"]
    try:
        with _own_signals():
            run(parse_args([*options, *command]))
    except SignalException as stopped:
        return 128 + stopped.sigval.value
    except ChildFailedError as failed:
        codes = [failure.exitcode for failure in failed.failures.values()]
        return next((code for code in codes if code > 0), 1)
    return 0


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put handlers back afterwards: torch's launcher leaves its own, which raise long after its processes are gone."""
    if threading.current_thread() is not threading.main_thread():  # where nobody can set any
        yield
        return
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:  # None was not set from Python
                signal.signal(number, handler)
