"""Processes of tests end in time, and say what they failed at."""

from __future__ import annotations

import time

import pytest
from processes import end, python, start, until, wait


def test_what_takes_too_long_is_killed_with_what_it_started() -> None:
    code = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    with pytest.raises(TimeoutError, match=r"did not end within 0\.5 s"):
        python("-c", code, seconds=0.5)
    asleep = start(time.sleep, [(60,), (60,)])
    with pytest.raises(TimeoutError, match=f"process {asleep[0].pid} .* did not end within 0.1 s"):
        wait(asleep, 0.1)
    assert not any(process.is_alive() for process in asleep)


def test_an_exit_code_is_told() -> None:
    with pytest.raises(AssertionError, match="exit code 3: why"):
        python("-c", "import sys; sys.stderr.write('why'); sys.exit(3)")
    assert python("-c", "import os, sys; print(os.environ['A']); sys.exit(3)", check=False, A="b").stdout == "b\n"


def test_looks_until_it_is_done_or_cannot_be() -> None:
    (quick, slow) = start(time.sleep, [(0,), (60,)])
    try:
        with pytest.raises(TimeoutError, match="its process ended with code 0 before the end"):
            until(lambda: False, "the end", quick)
        with pytest.raises(TimeoutError, match=r"0\.1 s went by before the end"):
            until(lambda: False, "the end", slow, seconds=0.1)
        assert not slow.is_alive()
    finally:
        end([quick, slow])
