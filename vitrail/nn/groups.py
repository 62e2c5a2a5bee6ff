"""Optimizer groups: what decays, and how the learning rate falls from the top block down."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(
    module: nn.Module, *, weight_decay: float, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Groups with `params`, `weight_decay` and `lr_scale`, by timm's rules.

    Biases, norms and other vectors do not decay, nor what the model itself exempts (`no_weight_decay()` of it or of
    its `vit`: position embeddings and prefix tokens).

    Args:
        weight_decay: of the rest.
        layer_decay: factor on the learning rate per layer, from 1 at the last one down to the patch embedding
            (Clark et al., 2020); None gives one rate. Needs a timm model, or a module that holds one as `vit`.
    """
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    inner: Any = getattr(module, "vit", module)
    exempt = set(inner.no_weight_decay()) if hasattr(inner, "no_weight_decay") else set()
    if layer_decay is None:
        groups = param_groups_weight_decay(inner, weight_decay, no_weight_decay_list=exempt)
    else:
        groups = param_groups_layer_decay(inner, weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay)
    known = ("params", "weight_decay", "lr_scale")
    return [{"lr_scale": 1.0} | {key: group[key] for key in known if key in group} for group in groups]
