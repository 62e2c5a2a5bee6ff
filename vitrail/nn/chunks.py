"""How many sequences a transformer runs at once: enough to keep a machine busy, few enough to fit."""

from __future__ import annotations

import os

import torch

from vitrail.nn.masked_autoencoder import MaskedDecoder

BUDGET = {"cpu": 64 * 2**20, "cuda": 2**30}
"""Bytes. More is no faster; the same number on every run, so that rounding is, too."""


def chunk_of(decoder: MaskedDecoder, sequence: torch.Tensor, predicted: int) -> int:
    """Sequences `[., L, W]` that MAE's decoder runs at once, of which it predicts so many patches: 1 or more.

    As many as `BUDGET` holds, or half of the memory that is free where that is less.
    """
    _, length, wide = sequence.shape
    # In float32: queries, keys, values and the MLP's two are 11 times the width, the stream and its norm some more.
    values = length * wide * 16 + predicted * (4 * wide + 3 * decoder.predict.out_features)
    bytes_each = 4 * values * (2 if sequence.dtype == torch.float64 else 1)
    budget = min(BUDGET.get(sequence.device.type, BUDGET["cuda"]), _free(sequence.device) // 2)
    return max(budget // bytes_each, 1)


def _free(device: torch.device) -> int:
    """Bytes that nobody uses, as far as can be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return 2**40
