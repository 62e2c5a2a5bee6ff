"""Ctrl-C and SIGTERM: asked to stop, training finishes its step and saves first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


class Interrupted(SystemExit):
    """Training was asked to stop and has saved; exits with 128 + the signal's number (130 for Ctrl-C)."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(128 + number)
        self.step = step

    def __str__(self) -> str:
        name = signal.Signals(self.code - 128).name  # type: ignore[operator]
        return f"stopped by {name}, saved at step {self.step}; go on with --resume"


class Signals:
    """Remembers the first SIGINT or SIGTERM in `caught`; a second one acts as if this were not here.

    Forked data workers inherit the handler and so outlive a terminal's Ctrl-C, which reaches them as well.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._at_once: int | None = None  # the step that is saved already, where stopping needs no save
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    @contextmanager
    def stopping_at_once(self, step: int) -> Iterator[None]:
        """Inside, a signal raises `Interrupted` right away: `step` is saved already."""
        self._at_once = step
        try:
            yield
        finally:
            self._at_once = None

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.caught = number
        self.__exit__()
        # Data workers in the same group die of the signal; torch's alarm about it would cut the step in two.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if self._at_once is not None:
            raise Interrupted(number, self._at_once)
