"""Tiny networks in stages with weights that make their attention uneven, and files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.backbones import BackboneConfig, StagedBackbone, create, save_exported

SIZES: dict[str, dict[str, Any]] = {
    "pvt_small": {"embed_dims": [8, 16, 20, 32], "depths": [1, 1, 1, 2], "heads": [1, 2, 5, 4]},
    "cvt_13": {"embed_dims": [8, 12, 24], "depths": [1, 2, 3], "heads": [1, 3, 2]},
}
NAMES = list(SIZES)
LAST = {"pvt_small": "block4.1", "cvt_13": "stage2.blocks.2"}
"""The very last block, as files name it."""


def config(name: str, **changes: Any) -> BackboneConfig:
    return BackboneConfig(name=name, **{"image_size": 64, "options": SIZES[name]} | changes)


def tiny_staged(name: str, seed: int = 0, **changes: Any) -> StagedBackbone:
    """In evaluation mode, without gradients, its batch norms away from where they start."""
    torch.manual_seed(seed)
    backbone = create(config(name, **changes))
    assert isinstance(backbone, StagedBackbone)
    moved(backbone)
    return backbone.eval()


def moved(module: torch.nn.Module) -> None:
    """Weights away from where they start, so that every part of the network counts."""
    module.requires_grad_(False)
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.mul_(1 + torch.rand_like(value))
        elif value.is_floating_point():
            value.add_(0.2 * torch.randn_like(value))


def staged_file(folder: Path, name: str, **changes: Any) -> str:
    """Weights in our own layout."""
    path = folder / f"{name}.safetensors"
    save_exported(tiny_staged(name, **changes).export(), path)
    return str(path)


def images(batch: int = 3, height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
