"""The training loop and what it leaves on disk."""

from vitrail.train.config import TrainConfig
from vitrail.train.distributed import Ranks, join, launched, leave
from vitrail.train.interruption import Interrupted
from vitrail.train.launch import launch
from vitrail.train.loop import Loader, NonFiniteLoss, Outcome, fit
from vitrail.train.randomness import deterministic_kernels, seed_everything
from vitrail.train.run_folder import FolderInUse, RunFolder

__all__ = [
    "FolderInUse",
    "Interrupted",
    "Loader",
    "NonFiniteLoss",
    "Outcome",
    "Ranks",
    "RunFolder",
    "TrainConfig",
    "deterministic_kernels",
    "fit",
    "join",
    "launch",
    "launched",
    "leave",
    "seed_everything",
]
