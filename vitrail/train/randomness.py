"""Seeds for every generator, and the switch to kernels that repeat their bits."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(seed: int, rank: int = 0, step: int = 0) -> None:
    """Seed Python, NumPy and torch (all devices); other ranks and steps draw other numbers.

    The trainer calls it before each step. What a step draws is then a function of (seed, rank, step),
    whatever loaders and evaluations drew before, and a resumed run needs no generator's state.
    """
    words = np.random.SeedSequence([seed, rank, step]).generate_state(4).tolist()
    random.seed(words[0])
    np.random.seed(words[1])  # noqa: NPY002  timm's mixup draws from the global generator
    torch.manual_seed(words[2] << 32 | words[3])


@contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Inside, every kernel repeats its bits or raises; attention is computed by plain matrix products."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    switches = (
        cuda.enable_flash_sdp,
        cuda.enable_mem_efficient_sdp,
        cuda.enable_cudnn_sdp,
        cuda.enable_math_sdp,
    )
    before = (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled())
    kept = (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark)
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    for switch, value in zip(switches, (False, False, False, True), strict=True):
        switch(value)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(kept[0])
        cudnn.deterministic, cudnn.benchmark = kept[1:]
        for switch, value in zip(switches, before):
            switch(value)
