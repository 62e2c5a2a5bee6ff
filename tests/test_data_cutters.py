"""Processes that cut, started from a process whose OpenCV has threads; what they cut is tested with the masks."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import python

FORKED = """
import os, signal, sys, time
from pathlib import Path
import cv2, numpy as np
from vitrail.data.corrupted import one_thread_of_opencv
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

def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))

cv2.setNumThreads(2)
before = threads()
cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 5)
started = threads() - before
assert started, "OpenCV started no thread"
while any("R" in Path(f"/proc/self/task/{each}/stat").read_text().split(")")[1] for each in started):
    time.sleep(0.1)  # they spin for a while before they go to sleep, and only sleepers are waited for
child = os.fork()
if child == 0:
    signal.alarm(60)
    cut()
    cv2.setNumThreads(0)  # as in a worker of the loader
    with one_thread_of_opencv():
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 5)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert cv2.getNumThreads() == 2
"""


@pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="NO /proc: whether OpenCV's threads are waited for was not looked at"
)
def test_idle_threads_of_opencv_are_not_waited_for(tmp_path: Path) -> None:
    python("-c", FORKED, str(tmp_path / "masks"))
