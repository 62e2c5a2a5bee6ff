"""Files told from edited ones."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from vitrail.data.fingerprint import CHOSEN, PART, WHOLE, chosen, fingerprint


@pytest.mark.parametrize("size", [0, 10, WHOLE - 1, WHOLE, 10 * WHOLE])
def test_size_and_sampled_content_count(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x"
    content = bytearray(size)
    path.write_bytes(content)
    first = fingerprint(path, content=True)
    assert first.startswith(f"{size}:")
    assert fingerprint(path, content=False) == str(size)
    for place in {0, size // 2, size - 1} if size else ():
        content[place] ^= 1
        path.write_bytes(content)
        assert fingerprint(path, content=True) != first
        assert fingerprint(path, content=False) == str(size)
        content[place] ^= 1
    path.write_bytes(bytes(size + 1))
    assert fingerprint(path, content=True) != first
    path.unlink()
    assert fingerprint(path, content=True) == fingerprint(path, content=False) == "absent"


def test_what_is_not_read_does_not_count(tmp_path: Path) -> None:
    content = bytearray(10 * WHOLE)
    (tmp_path / "x").write_bytes(content)
    content[PART] ^= 1
    (tmp_path / "y").write_bytes(content)
    assert fingerprint(tmp_path / "x", content=True) == fingerprint(tmp_path / "y", content=True)


@pytest.mark.parametrize("count", [1, CHOSEN, CHOSEN + 1, 3 * CHOSEN, 1_281_167])
def test_the_chosen_ones_are_evenly_spaced(count: int) -> None:
    found = [index for index in range(count) if chosen(index, count)]
    assert len(found) == min(count, CHOSEN)
    gaps = {after - before for before, after in pairwise(found)}
    assert len(gaps) <= 2
    assert found[0] == 0
