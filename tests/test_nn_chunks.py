"""How many sequences are decoded at once."""

from __future__ import annotations

import pytest
import torch

from vitrail.nn import chunks
from vitrail.nn.masked_autoencoder import DecoderConfig, MaskedDecoder


def test_the_budget_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = MaskedDecoder(DecoderConfig(embed_dim=16, depth=3, heads=2), 8, (2, 2), (3, 3))
    sequence = torch.zeros(4, 10, 16)
    each = 4 * (6 * 16 * 16 + 10 * 16 * 4 + 5 * (4 * 16 + 3 * 12))
    monkeypatch.setattr(chunks, "_free", lambda device: 10**12)
    monkeypatch.setitem(chunks.BUDGET, "cpu", 7 * each + 1)
    assert chunks.chunk_of(decoder, sequence, 6, 10, 5) == 7
    assert chunks.chunk_of(decoder, sequence.double(), 6, 10, 5) == 3
    monkeypatch.setattr(chunks, "_free", lambda device: 4 * each)
    assert chunks.chunk_of(decoder, sequence, 6, 10, 5) == 2
    monkeypatch.setattr(chunks, "_free", lambda device: 0)
    assert chunks.chunk_of(decoder, sequence, 6, 10, 5) == 1
    monkeypatch.setattr(chunks, "_free", lambda device: 2 * 3 * 4 * (10 * 16 * (3 * 3 + 16) + 2 * 2 * 100))
    assert chunks.images_of(decoder, sequence) == 3


def test_what_can_be_had_here() -> None:
    """About what the system says; caches count."""
    free = chunks._free(torch.device("cpu"))
    try:
        with open("/proc/meminfo") as lines:
            total = int(next(line for line in lines if line.startswith("MemTotal")).split()[1]) * 1024
    except OSError:
        assert free == 2**40
    else:
        assert 0.01 * total < free < total
