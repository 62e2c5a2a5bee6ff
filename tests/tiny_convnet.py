"""timm's smallest ResNet, and files of it in everyone's layouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

NAME = "test_resnet"


def tiny_resnet(classes: int = 0, seed: int = 0) -> Any:
    """In evaluation mode, without gradients, its batch norms away from where they start."""
    torch.manual_seed(seed)
    model = timm.create_model(NAME, num_classes=classes).requires_grad_(False).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.add_(0.2 * torch.randn_like(value))
    return model


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def saved(folder: Path, content: Mapping[str, Any], name: str = "network.pth") -> str:
    torch.save(dict(content), folder / name)
    return str(folder / name)
