import doctest

import pytest
import torch

from vitrail.ops import patch_classes as module
from vitrail.ops.patch_classes import patch_classes


def brute_force(mask: torch.Tensor, grid: tuple[int, int], purity: float, ignored: tuple[int, ...]) -> list[int]:
    tall, wide = mask.shape[0] // grid[0], mask.shape[1] // grid[1]
    found = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            pixels = mask[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide].flatten().tolist()
            counts = sorted(((pixels.count(value), value) for value in set(pixels)), reverse=True)
            tied = len(counts) > 1 and counts[0][0] == counts[1][0]
            few = counts[0][0] / len(pixels) < purity
            found.append(-1 if tied or few or counts[0][1] in ignored else counts[0][1])
    return found


@pytest.mark.parametrize("purity", [0.2, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("ignored", [(255,), (255, 0), (), (65535,)])
def test_brute_force(purity: float, ignored: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([0, 3, 3, 3, 7, 255], dtype=torch.uint8)[torch.randint(0, 6, (12, 15), generator=generator)]
    assert patch_classes(mask, (6, 5), purity, ignored).tolist() == brute_force(mask, (6, 5), purity, ignored)
    assert patch_classes(mask, (2, 1), purity, ignored).tolist() == brute_force(mask, (2, 1), purity, ignored)


def test_wide_ids_and_whole_patches() -> None:
    mask = torch.full((4, 4), 40_000, dtype=torch.int32)
    assert patch_classes(mask, (2, 2), 1.0).tolist() == [40_000] * 4
    mask[0, 0] = 65535
    assert patch_classes(mask, (2, 2), 1.0).tolist() == [-1, 40_000, 40_000, 40_000]


def test_a_tie_has_no_class() -> None:
    assert patch_classes(torch.tensor([[1, 2]]), (1, 1), 0.5).tolist() == [-1]
    assert patch_classes(torch.tensor([[1, 2, 1]]), (1, 1), 0.5).tolist() == [1]


def test_errors() -> None:
    with pytest.raises(ValueError, match="4 x 5 px does not divide into a grid of 2 x 2"):
        patch_classes(torch.zeros(4, 5), (2, 2))
    with pytest.raises(ValueError, match=r"purity is 0; it is a share"):
        patch_classes(torch.zeros(4, 4), (2, 2), 0)
    assert doctest.testmod(module).failed == 0
