"""MATLAB files read without SciPy are what SciPy reads, and what is broken is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_trees import annotations

from vitrail.data.mat_file import read_mat

io: Any = pytest.importorskip("scipy.io", reason="SCIPY ABSENT: it writes the .mat files of this test")

VARIABLES: dict[str, Any] = {
    "labels": np.arange(1, 8, dtype=np.uint8)[None],
    "wide": np.arange(12, dtype=np.float64).reshape(3, 4) / 7,
    "counts": np.array([[70000, -3]], np.int32),
    "large": np.array([[2**40, -(2**40)]], np.int64),
    "single": np.array([[1.5], [2.25]], np.float32),
    "deep": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
    "empty": np.zeros((0, 0)),
    "text": "BMW 3 Series Wagon 2012",
    "umlaut": "Škoda Ä",
}


@pytest.mark.parametrize("packed", [True, False])
def test_numbers_text_cells_and_structs(packed: bool, tmp_path: Path) -> None:
    names = np.array([["cat", "a name of more than eight bytes", ""]], object)
    rows = annotations(["00001.jpg", "x.jpg"], [1, 196])
    io.savemat(tmp_path / "x.mat", VARIABLES | {"names": names, "annotations": rows}, do_compression=packed)
    found, known = read_mat(tmp_path / "x.mat"), io.loadmat(tmp_path / "x.mat")
    assert set(found) == {name for name in known if not name.startswith("__")}
    for name, value in VARIABLES.items():
        if isinstance(value, str):
            assert found[name] == value
        else:
            assert found[name].dtype == known[name].dtype
            assert np.array_equal(found[name], known[name])
    assert found["names"] == ["cat", "a name of more than eight bytes", ""]
    assert [(row["fname"], row["class"].item(), row["bbox_x1"].item()) for row in found["annotations"]] == [
        ("00001.jpg", 1, 39),
        ("x.jpg", 196, 39),
    ]


def test_several_rows_of_text(tmp_path: Path) -> None:
    io.savemat(tmp_path / "x.mat", {"rows": np.array(["abc", "def"])})
    assert io.loadmat(tmp_path / "x.mat")["rows"].tolist() == ["abc", "def"]
    assert read_mat(tmp_path / "x.mat")["rows"] == "abcdef"


def test_what_is_broken_or_left_out_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    io.savemat(path, {"wide": VARIABLES["wide"], "complex": np.array([[1j]])})
    with pytest.raises(ValueError, match=r"x.mat cannot be read: its variable 'complex' is complex, or of class 6"):
        read_mat(path)
    io.savemat(path, {"wide": VARIABLES["wide"]})
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=rf"ends after {len(whole) - 20} bytes, within an element.*copy it again"):
        read_mat(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file" + whole[19:])
    with pytest.raises(ValueError, match=r"version 7.3; save it with -v7"):
        read_mat(path)
    path.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="no little-endian MATLAB file"):
        read_mat(path)
    with pytest.raises(ValueError, match="No such file"):
        read_mat(tmp_path / "gone.mat")
