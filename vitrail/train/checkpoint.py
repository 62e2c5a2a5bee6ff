"""Checkpoints: one plain full file that any number of processes can load, whole or not at all.

A file is written beside the others, brought to disk, and only then renamed: `last.pt` is the newest whole
one, `previous.pt` the one before; `torch.load(path, weights_only=True)` reads both. `last.pt.damaged` is one
that could not be read when the run was resumed.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger("vitrail")


class CheckpointError(OSError):
    """A checkpoint could not be written, or none can be read."""


def save(state: Mapping[str, Any], folder: Path) -> None:
    """Write `last.pt`; what was there becomes `previous.pt`.

    `CheckpointError` where it cannot be written (a full disk): then both older files are as they were.
    """
    last, partial = folder / "last.pt", folder / "last.pt.partial"
    try:
        with open(partial, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        if last.is_file():
            os.replace(last, folder / "previous.pt")
        os.replace(partial, last)
    except (OSError, RuntimeError) as error:  # torch's writer turns some of the system's errors into its own
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"the checkpoint could not be saved in {folder}: {error}") from error


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that can be read, None where there is none at all.

    A damaged `last.pt` (cut short, empty) is passed over for `previous.pt`, aloud, and set aside as
    `last.pt.damaged`: the next save would move it over the good one. `CheckpointError` where checkpoints exist
    and none can be read; they stay as they are.
    """
    damaged = []
    for path in (folder / "last.pt", folder / "previous.pt"):
        if not path.is_file():
            continue
        try:
            step = load(path)["step"]
        except CheckpointError as error:
            log.warning("%s", error)
            damaged.append(path.name)
            continue
        if path.name == "previous.pt":
            log.warning("falling back to %s, which holds step %d", path, step)
            if damaged:
                aside = folder / "last.pt.damaged"
                os.replace(folder / "last.pt", aside)
                log.warning("the damaged checkpoint is kept as %s; delete it when you like", aside)
        return path
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {folder} can be read ({', '.join(damaged)}); start again with --overwrite"
        )
    return None


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU; `CheckpointError` where the file is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not {"step", "method", "optimizer"} <= state.keys():
            raise ValueError("not a checkpoint of this trainer")
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {path} is damaged: {reason}") from error
    return state


def whole(value: Any) -> Any:
    """The same nested containers with every tensor whole and on the CPU. All ranks must call it."""
    if isinstance(value, Tensor):
        return (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().cpu()
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(item) for item in value)
    return value


def like(value: Tensor, target: Any) -> Tensor:
    """`value`, cut over the ranks as `target` is where that is sharded."""
    if not hasattr(target, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)


def load_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole weights into a module, sharded or not; `ValueError` for another architecture."""
    own = module.state_dict()
    odd = [name for name in own if name in state and own[name].shape != state[name].shape]
    strange = sorted(own.keys() ^ state.keys()) + odd
    if strange:
        shown = ", ".join(strange[:5])
        raise ValueError(
            f"the checkpoint is of another model: {len(strange)} weights are absent on one side or differ in"
            f" shape, such as {shown}; resume with the configuration that the run was started with"
        )
    module.load_state_dict({name: like(state[name], value) for name, value in own.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a whole optimizer state; moments are cut as their parameters are."""
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    moments = {
        index: {
            name: like(value, parameters[index]) if _shape(value) == parameters[index].shape else value
            for name, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None
