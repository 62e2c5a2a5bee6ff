import pytest
import torch

from vitrail.ops.mutual_nearest import mutual_nearest


def brute_force(first: torch.Tensor, second: torch.Tensor) -> list[tuple[int, int, float]]:
    table = [[torch.nn.functional.cosine_similarity(a, b, dim=0).item() for b in second] for a in first]
    found = []
    for i, row in enumerate(table):
        j = max(range(len(row)), key=lambda each: (row[each], -each))
        if max(range(len(table)), key=lambda each: (table[each][j], -each)) == i:
            found.append((i, j, row[j]))
    return sorted(found, key=lambda each: (-each[2], each[0]))


@pytest.mark.parametrize("shape", [(12, 17), (17, 12), (1, 5), (5, 1), (1, 1)])
def test_brute_force(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    first, second = (torch.randn(count, 3, generator=generator) * 5 for count in shape)
    found, expected = mutual_nearest(first, second), brute_force(first, second)
    assert list(zip(found.first.tolist(), found.second.tolist())) == [(i, j) for i, j, _ in expected]
    assert found.similarity.tolist() == pytest.approx([value for *_, value in expected], abs=1e-6)


def test_the_same_patches_in_another_order() -> None:
    first = torch.randn(20, 8)
    order = torch.randperm(20)
    found = mutual_nearest(first, 3 * first[order])
    assert torch.equal(order[found.second], found.first)
    assert len(found.first) == 20
    assert (found.similarity.diff() <= 0).all()


def test_equal_patches_take_the_first() -> None:
    found = mutual_nearest(torch.ones(3, 2), torch.ones(4, 2))
    assert (found.first.tolist(), found.second.tolist()) == ([0], [0])


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"first is \[3, 2\] and second \[3, 4\]"):
        mutual_nearest(torch.ones(3, 2), torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"first is \[0, 2\]"):
        mutual_nearest(torch.ones(0, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        mutual_nearest(torch.tensor([[float("nan")]]), torch.ones(1, 1))
