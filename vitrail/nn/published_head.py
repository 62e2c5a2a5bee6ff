"""The heads of DINO's, iBOT's and Mugs' checkpoints, under the names of `vitrail.nn.prototype_head`.

mlp.{0,2,4}.weight, .bias                    the same; mlp.weight, .bias where there is one layer alone
last_layer.weight_v [K, W]                   prototypes; only their directions count
last_layer.weight_g [K, 1]                   norms [K]
last_layer.parametrizations.weight.original0, original1     weight_g and weight_v of newer torch
last_layer2.*                                iBOT's prototypes of patches: a part of its own, left out here
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_WEIGHT_NORM = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
_OF_PATCHES = ("last_layer2.", "mlp2.", "last_norm2.")


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`mlp.*`, `prototypes` and `norms` of a head of DINO or iBOT; one that has `prototypes` stays as it is.

    Raises:
        ValueError: for what a `PrototypeHead` does not have: batch norm in the MLP, a norm of the outputs, or outputs
            that are not compared with prototypes.
    """
    if "prototypes" in state:
        return dict(state)
    state = {name: value for name, value in state.items() if not name.startswith(_OF_PATCHES)}
    _refuse(state)
    found = {name.replace("mlp.", "mlp.0.") if name.count(".") == 1 else name: value for name, value in state.items()}
    for lengths, directions in _WEIGHT_NORM:
        if f"last_layer.{directions}" in state and f"last_layer.{lengths}" in state:
            found = {name: value for name, value in found.items() if not name.startswith("last_layer.")}
            found["prototypes"] = state[f"last_layer.{directions}"]
            found["norms"] = state[f"last_layer.{lengths}"].reshape(-1)
    return found


def _refuse(state: Mapping[str, Tensor]) -> None:
    away = "export the backbone alone (vitrail export) and start from that, with a fresh head"
    for name in state:
        if name.endswith("running_mean"):
            raise ValueError(f"the head has batch norm in its MLP ({name}), and ours has none; {away}")
        if name.startswith("last_norm."):
            raise ValueError(f"the head normalizes its outputs ({name}), and ours does not; {away}")
    if not any(name.startswith("last_layer.") for name in state):
        raise ValueError(f"the head has no last_layer, so its outputs are no likenesses with prototypes; {away}")
