import logging

import pytest

from vitrail.evaluation import progress as module
from vitrail.evaluation.progress import progress, progress_line


def test_the_line_names_rate_and_time_left() -> None:
    assert progress_line("x", 0, 2500, 0.0) == "x 0/2,500 images"
    assert progress_line("x", 500, 2500, 2.0) == "x 500/2,500 images, 250/s, 8 s left"
    assert progress_line("x", 3, 6, 6.0, "steps") == "x 3/6 steps, 0.50/s, 6 s left"
    assert progress_line("x", 6, 6, 6.0) == "x 6/6 images, 1.00/s"
    assert progress_line("x", 6, 8, 2.0, ready=4) == "x 6/8 images (4 from the cache), 1.00/s, 2 s left"
    assert progress_line("x", 8, 8, 0.01, ready=8) == "x 8/8 images (8 from the cache)"


def test_without_a_terminal_it_logs(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with caplog.at_level(logging.INFO), progress("x", 4) as advance:
        advance(2)
        advance(2)
    assert [message.split(",")[0] for message in caplog.messages] == [
        "x 2/4 images",
        "x 4/4 images",
        "x 4/4 images",
    ]
