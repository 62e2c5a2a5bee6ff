"""Shares in words."""

from __future__ import annotations

import pytest

from vitrail.viz.percent import percent


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.25, "25 %"),
        (0.0625, "6.2 %"),
        (0.02, "2 %"),
        (0.0996, "10 %"),
        (0.994, "99 %"),
        (0.996, "99.6 %"),
        (0.9996, "99.96 %"),
        (1 - 1 / 256**2, "99.998 %"),  # a mask with one hole
        (1 / 256**2, "0.0015 %"),
        (1e-6, "under 0.001 %"),
        (1 - 1e-6, "over 99.999 %"),
    ],
)
def test_all_is_told_from_nearly_all(share: float, words: str) -> None:
    assert percent(share) == words.replace(" ", "\u00a0")
