"""Processes that cut, started from a process whose OpenCV has threads; what they cut is tested with the masks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

FORKED = """
import os, sys, time
from pathlib import Path
import cv2, numpy as np
from vitrail.data.cutters import Cutters
from vitrail.data.mask_writer import MaskWriter
from vitrail.data.object_masks import ObjectMasksConfig

def cut() -> None:
    with MaskWriter(Path(sys.argv[1]), {"images": 6, "size": 32}) as writer:
        with Cutters(writer, ObjectMasksConfig(size=32), processes=2) as cutters:
            image = np.zeros((32, 32, 3), np.uint8)
            image[8:20, 8:20] = 255
            for index in range(6):
                cutters.cut(index, image, image[::8, ::8, 0] / 255.0)
            cutters.finish()

cv2.setNumThreads(2)
before = len(os.listdir("/proc/self/task"))
cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 5)
assert len(os.listdir("/proc/self/task")) > before, "OpenCV started no thread"
time.sleep(1)  # they have gone to sleep
child = os.fork()
if child == 0:
    cut()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert cv2.getNumThreads() == 2
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_idle_threads_of_opencv_are_not_waited_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(tmp_path / "masks")]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        assert process.wait(60) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a child that hangs, too
