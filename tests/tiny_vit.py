"""A tiny ViT with weights that make its attention uneven, and files of it, as rankers open them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.backbones import BackboneConfig, TimmViT, create, save_exported
from vitrail.contracts import Exported

SIZES: dict[str, Any] = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "heads": 3}


def tiny_vit(seed: int = 0, **changes: Any) -> TimmViT:
    """In evaluation mode, without gradients; 4 x 4 patches of 8 pixels."""
    torch.manual_seed(seed)
    backbone = create(BackboneConfig(**SIZES | changes))
    for value in backbone.parameters():
        value.requires_grad_(False).add_(torch.randn_like(value) * 0.3)
    return backbone.eval()


def vit_file(folder: Path, **changes: Any) -> str:
    """Its weights in our own layout."""
    path = folder / "vit.safetensors"
    save_exported(tiny_vit(**changes).export(), path)
    return str(path)


def classifier_file(folder: Path, classes: int = 5, names: list[str] | None = None, **said: Any) -> str:
    """With a linear classifier; `said` and the classes' names go into the header."""
    said |= {} if names is None else {"classes": names}
    path = folder / "classifier.safetensors"
    exported = tiny_vit().export()
    head = tiny_head(classes).state_dict()
    state = exported.state | {f"head.{name}": value for name, value in head.items()}
    save_exported(Exported(state, exported.metadata | said), path)
    return str(path)


def tiny_head(classes: int = 5, width: int = 24) -> nn.Linear:
    head = nn.Linear(width, classes).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    head.weight.copy_(torch.randn(classes, width, generator=generator))
    head.bias.copy_(torch.randn(classes, generator=generator))
    return head


def images(batch: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
