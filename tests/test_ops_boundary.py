import math

import pytest
import torch

from vitrail.ops.boundary import cpu, reference, region_counts


def labels(*shape: int, values: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, values, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def brute_force(first: torch.Tensor, second: torch.Tensor, number: int, radius: int) -> list[int]:
    """One map each, pixel by pixel from the words of the definition."""
    rows, columns = first.shape

    def edge(ids: torch.Tensor) -> list[tuple[int, int]]:
        inside = ids == number
        found = []
        for y in range(rows):
            for x in range(columns):
                around = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
                if any(inside[p, q] != inside[y, x] for p, q in around if p < rows and q < columns):
                    found.append((y, x))
        return found

    one, other = edge(first), edge(second)
    near = [sum(any(math.dist(p, q) <= radius for q in b) for p in a) for a, b in ((one, other), (other, one))]
    both = int(((first == number) & (second == number)).sum())
    either = int(((first == number) | (second == number)).sum())
    return [both, either, len(one), len(other), *near]


@pytest.mark.parametrize("radius", [0, 1, 2, 3])
def test_brute_force(radius: int) -> None:
    first, second = labels(2, 7, 9), labels(2, 7, 9, seed=1)
    found = torch.stack(region_counts(first, second, 3, radius), 2)
    for index in range(2):
        for number in (1, 2, 3):
            expected = brute_force(first[index], second[index], number, radius)
            assert found[index, number - 1].tolist() == expected


@pytest.mark.parametrize(("radius", "size"), [(0, 2), (2, 3), (5, 4), (13, 5), (30, 5)])
def test_both_ways_are_one(radius: int, size: int) -> None:
    """Blocks of pixels, as objects are; 4 of 6 values are objects."""
    first, second = (
        labels(4, 8, 11, values=6, seed=seed).repeat_interleave(size, 1).repeat_interleave(size, 2) for seed in (0, 1)
    )
    assert torch.equal(cpu.region_counts(first, second, 4, radius), reference.region_counts(first, second, 4, radius))


def test_the_disk_is_exact() -> None:
    """One pixel against another: matched at the distance 5 of (3, 4), not at that of (4, 4)."""
    first, near, far = torch.zeros(3, 1, 20, 20, dtype=torch.uint8)
    first[0, 4, 4], near[0, 8, 7], far[0, 8, 8] = 1, 1, 1
    # The outline of one pixel is that pixel and the three before it, so their nearest pixels are as far apart.
    assert region_counts(first, near, 1, 5).first_matched.item() == 4
    assert region_counts(first, far, 1, 5).first_matched.item() == 3
    assert region_counts(first, far, 1, 6).first_matched.item() == 4


def test_corners() -> None:
    nothing, whole = torch.zeros(1, 6, 8, dtype=torch.uint8), torch.ones(1, 6, 8, dtype=torch.uint8)
    assert [part.item() for part in region_counts(nothing, nothing, 1, 2)] == [0] * 6
    assert [part.item() for part in region_counts(whole, whole, 1, 2)] == [48, 48, 0, 0, 0, 0]
    assert [part.item() for part in region_counts(whole, nothing, 1, 2)] == [0, 48, 0, 0, 0, 0]
    assert region_counts(nothing[:0], nothing[:0], 3, 2).both.shape == (0, 3)
    assert region_counts(torch.full((1, 1, 1), 255, dtype=torch.uint8), nothing[:, :1, :1], 255, 0).either.sum() == 1
    strided = labels(3, 12, 10).transpose(1, 2)[:, ::2]
    assert torch.equal(
        torch.stack(region_counts(strided, strided, 2, 1), 2), reference.region_counts(strided, strided, 2, 1)
    )


def test_errors() -> None:
    ids = labels(1, 4, 4)
    with pytest.raises(ValueError, match=r"first is torch\.bool \[1, 4, 4\]; give label maps, torch\.uint8"):
        region_counts(ids > 0, ids, 1, 1)
    with pytest.raises(ValueError, match=r"first is \[1, 4, 4\] and second \[1, 4, 3\]"):
        region_counts(ids, ids[..., :3], 1, 1)
    with pytest.raises(ValueError, match="objects is 0, radius 1"):
        region_counts(ids, ids, 0, 1)
