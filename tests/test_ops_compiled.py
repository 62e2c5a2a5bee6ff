"""Kernels compile where nothing can be cached, and every map is covered once."""

from __future__ import annotations

import numba
import pytest
import torch
from numba.core import caching

from vitrail.ops.compiled import compiled, share_out


def test_kernels_work_where_no_cache_folder_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(number: int) -> int:
        return 2 * number

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(twice)
    assert compiled(twice)(21) == 42


@pytest.mark.parametrize("maps", [1, 2, 7, 1001])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_map_is_covered_once(maps: int, threads: int) -> None:
    seen: list[int] = []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        share_out(lambda first, last, into: into.extend(range(first, last)), maps, 10**6, seen)
    finally:
        torch.set_num_threads(before)
    assert sorted(seen) == list(range(maps))


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def fail(first: int, last: int) -> None:
        if first > 0:
            raise RuntimeError("in the second part")

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(RuntimeError, match="second part"):
            share_out(fail, 10, 10**6)
    finally:
        torch.set_num_threads(before)
