"""Shared fixtures. Golden numbers and small real data live beside the checkout, in `../shared`, and are optional."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# Read when torch is imported. Two test processes with two threads each get in each other's way on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported, which nothing did yet

SHARED = Path(__file__).resolve().parents[2] / "shared"

LONG = ("test_methods_learn", "test_methods_ltrp_learns")  # minutes each


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes start with a half of the tests each: the long ones first in both, so that none waits at the end."""
    long = [item for item in items if item.path.stem in LONG]
    rest = [item for item in items if item.path.stem not in LONG]
    half = len(items) // 2 - len(long[::2])
    items[:] = long[::2] + rest[:half] + long[1::2] + rest[half:]


@pytest.fixture(autouse=True)
def no_chance() -> None:
    """What a test draws is the same on every run, whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def oracle() -> Callable[[str], dict[str, np.ndarray]]:
    """Read golden numbers by name; skips the test, loudly, where they are not at hand."""

    def read(name: str) -> dict[str, np.ndarray]:
        path = SHARED / "oracles" / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"GOLDEN NUMBERS ABSENT: {name}.npz is not beside this checkout")
        with np.load(path, allow_pickle=False) as values:
            return dict(values)

    return read


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """The folder of a small real data set; skips the test, loudly, where it is not at hand."""

    def find(name: str) -> Path:
        path = SHARED / "data" / name
        if not path.is_dir():
            pytest.skip(f"REAL DATA ABSENT: {name} is not beside this checkout")
        return path

    return find
