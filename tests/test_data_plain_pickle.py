"""Pickles of data sets: data pass, what could run does not."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest

from vitrail.data.plain_pickle import PlainUnpickler


class Shell:
    def __reduce__(self) -> object:
        return os.system, ("true",)


def test_data_pass_and_code_does_not() -> None:
    content = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2], "name": "x", "more": (1.5, None)}
    found = PlainUnpickler(io.BytesIO(pickle.dumps(content))).load()
    assert np.array_equal(found.pop("data"), content.pop("data"))  # type: ignore[arg-type]
    assert found == content
    for evil in (Shell(), io.BytesIO, print):
        with pytest.raises(pickle.UnpicklingError, match="which is not data"):
            PlainUnpickler(io.BytesIO(pickle.dumps({"data": evil}))).load()
