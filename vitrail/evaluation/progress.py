"""How far a long evaluation is: count, rate and time left, on a terminal or as log lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 30.0  # seconds between two log lines where no terminal is
REFRESH = 0.2  # seconds between two updates of a terminal's line
log = logging.getLogger(__name__)


@contextmanager
def progress(title: str, total: int, unit: str = "images") -> Iterator[Callable[..., None]]:
    """Yields `advance(n, ready=False, words="")`; a call may update the line `title 5/25 images, 3.10/s, 6 s left`.

    What was `ready` already (read from a cache) counts as done, but not for the rate; the last `words` end the line.
    Without a terminal on stderr the line goes to the log of this module (level INFO), every 30 s and at the end.
    """
    terminal = sys.stderr.isatty()
    start = shown = time.monotonic()
    done = found = 0
    more = ""

    def advance(count: int, ready: bool = False, words: str = "") -> None:
        nonlocal done, found, shown, more
        done += count
        found += count if ready else 0
        more = f", {words}" if words else more
        now = time.monotonic()
        if now - shown >= (REFRESH if terminal else PATIENCE):
            shown = now
            _show(progress_line(title, done, total, now - start, unit, found) + more, terminal)

    try:
        yield advance
    finally:
        _show(progress_line(title, done, total, time.monotonic() - start, unit, found) + more, terminal)
        if terminal:
            sys.stderr.write("\n")


def progress_line(title: str, done: int, total: int, seconds: float, unit: str = "images", ready: int = 0) -> str:
    """The line's words; the rate appears once something is done, the time left until all is."""
    line = f"{title} {done:,}/{total:,} {unit}"
    if ready:
        line += f" ({ready:,} from the cache)"
    if done > ready and seconds > 0:
        rate = (done - ready) / seconds
        line += f", {rate:,.0f}/s" if rate >= 10 else f", {rate:.2f}/s"
        if done < total:
            line += f", {(total - done) / rate:,.0f} s left"
    return line


def _show(line: str, terminal: bool) -> None:
    if terminal:
        sys.stderr.write(f"\r\x1b[2K{line}")
        sys.stderr.flush()
    else:
        log.info("%s", line)
