"""What rankers are opened from: missing weights, unknown variants, numbers."""

from __future__ import annotations

import pytest

from vitrail.rankers.source import Source, need_number, need_weights, variant_of


def test_weights_that_are_needed() -> None:
    assert need_weights(Source("x.pth"), "dino", "a file") == "x.pth"
    with pytest.raises(ValueError, match="the ranker dino needs weights: give a file; no weights come with this libr"):
        need_weights(Source(), "dino", "a file")


def test_variants() -> None:
    known = ("text", "code")
    assert variant_of(Source(), "x", known) == "text"
    assert variant_of(Source(variant="code"), "x", known) == "code"
    with pytest.raises(ValueError, match="the ranker x has no variant 'kode'; known: text, code"):
        variant_of(Source(variant="kode"), "x", known)


def test_numbers() -> None:
    assert [need_number(number, 4, "x") for number in (1, 4)] == [1, 4]
    with pytest.raises(ValueError, match="scores of the ranker x depend on how many patches are kept; pass number="):
        need_number(None, 4, "x")
    for number in (0, 5):
        with pytest.raises(ValueError, match=f"{number} patches are to be kept of 4; choose 1 to 4"):
            need_number(number, 4, "x")
