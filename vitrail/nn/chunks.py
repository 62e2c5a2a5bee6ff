"""How many sequences a transformer runs at once: enough to keep a machine busy, few enough to fit."""

from __future__ import annotations

import torch

from vitrail.nn.masked_autoencoder import MaskedDecoder

BUDGET = {"cpu": 64 * 2**20, "cuda": 2**30}
"""Bytes. On CPUs more was no faster; a GPU's is a guess. Fixed, so that rounding is alike wherever memory is enough."""


def chunk_of(decoder: MaskedDecoder, like: torch.Tensor, tokens: int, kept: int, predicted: int) -> int:
    """Sequences that MAE's decoder runs at once: 1 or more, as many as `BUDGET` or half of the free memory holds.

    Args:
        decoder: whose sizes count.
        like: anything of its device and type.
        tokens: that are computed in each sequence.
        kept: tokens whose keys and values are read from a pass before, 0 for none.
        predicted: patches.
    """
    wide = decoder.config.embed_dim
    # In float32: queries, keys, values and the MLP's two are 11 times the width, the stream and its norm some more.
    values = tokens * wide * 16 + kept * wide * 4 + predicted * (4 * wide + 3 * decoder.predict.out_features)
    return _number(values, like)


def images_of(decoder: MaskedDecoder, sequence: torch.Tensor) -> int:
    """Images `[B, L, W]` of which all blocks' queries, keys and values are kept at once, and one block's attention."""
    _, length, wide = sequence.shape
    attention = 2 * decoder.config.heads * length * length
    return _number(length * wide * (3 * len(decoder.blocks) + 16) + attention, sequence)


def _number(values: int, like: torch.Tensor) -> int:
    budget = min(BUDGET.get(like.device.type, BUDGET["cuda"]), _free(like.device) // 2)
    return max(budget // (values * (8 if like.dtype == torch.float64 else 4)), 1)


def _free(device: torch.device) -> int:
    """Bytes that nobody uses, as far as can be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        with open("/proc/meminfo") as lines:
            found = dict(line.split(":", 1) for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024  # what caches hold can be had, too
    except (OSError, KeyError, ValueError):  # not on this system
        return 2**40
