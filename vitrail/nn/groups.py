"""Optimizer groups: what is decayed, and how fast each layer learns.

Not decayed: vectors (biases, norms, layer scale) and learned tokens and positions. With layer decay, as in
BEiT and MAE fine-tuning, the part at distance n below the classifier learns at decay ** n; parts are timm's
(stem, then one per block, the final norm with the last block).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

_TOKENS = frozenset(("cls_token", "dist_token", "reg_token", "mask_token", "pos_embed"))


def parameter_groups(
    module: nn.Module, *, weight_decay: float, layer_decay: float | None = None, weight_decay_end: float | None = None
) -> list[dict[str, Any]]:
    """Groups for an optimizer, of all parameters that require a gradient.

    Args:
        module: anything; for `layer_decay` it is, or holds, a timm model.
        weight_decay: of matrices and kernels.
        layer_decay: factor per part, in (0, 1]. The last block (with the final norm) gets decay ** 1, the one
            below decay ** 2, the stem decay ** (depth + 1); everything outside the timm model, and its own
            classifier, learns at the full rate.
        weight_decay_end: what the decay of matrices and kernels becomes by the end of training; None leaves it.

    Returns:
        Dictionaries with `params`, `weight_decay`, `lr_scale` (a factor on the schedule), and `weight_decay_end` where
        it is given; none is empty.

    Raises:
        ValueError: a negative weight decay, a layer decay outside (0, 1], or one for a module without timm's
            parts.
    """
    for decay_name, given in (("weight_decay", weight_decay), ("weight_decay_end", weight_decay_end or 0.0)):
        if given < 0:
            raise ValueError(f"{decay_name} {given} is negative; 0 switches it off")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay {layer_decay} is not inside (0, 1]; null switches it off, 0.75 is usual")
    distances = _distances(module) if layer_decay is not None else {}
    spared = set(_spared(module))
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, value in module.named_parameters():
        if not value.requires_grad:
            continue
        decay = 0.0 if value.ndim <= 1 or name in spared else weight_decay
        scale = 1.0 if layer_decay is None else layer_decay ** distances.get(name, 0)
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(value)
        if decay and weight_decay_end is not None:
            group["weight_decay_end"] = weight_decay_end
    return list(groups.values())


def _spared(module: nn.Module) -> Iterator[str]:
    """Names not decayed although they are no vectors: tokens, positions, and what timm's models list."""
    for name, _ in module.named_parameters():
        if name.rpartition(".")[2] in _TOKENS:
            yield name
    for prefix, part in module.named_modules():
        if hasattr(part, "no_weight_decay"):
            yield from (f"{prefix}.{name}" if prefix else name for name in part.no_weight_decay())


def _distances(module: nn.Module) -> dict[str, int]:
    """How many parts above it each parameter of a timm model in `module` has, the classifier included."""
    from timm.models import group_parameters

    found = [(prefix, part) for prefix, part in module.named_modules() if hasattr(part, "group_matcher")]
    if not found:
        raise ValueError(
            f"layer_decay needs a timm model, and {type(module).__name__} neither is nor holds one; "
            "set layer_decay to null"
        )
    distances: dict[str, int] = {}
    for prefix, model in found:
        start = f"{prefix}." if prefix else ""
        parts: dict[str, int] = group_parameters(model, model.group_matcher(), reverse=True)
        top = max((part for name, part in parts.items() if name.startswith("blocks.")), default=0)
        distances |= {start + name: max(top - part + 1, 0) for name, part in parts.items()}
    return distances
