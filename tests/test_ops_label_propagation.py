import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vitrail.ops.label_propagation import enlarged, propagate, resized_ids


def drawn(contexts: int = 3, rows: int = 7, columns: int = 9, labels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = normalize(torch.randn(rows, columns, 6, generator=generator), dim=-1)
    sources = normalize(torch.randn(contexts, rows, columns, 6, generator=generator), dim=-1)
    return target, sources, torch.rand(contexts, rows, columns, labels, generator=generator)


def brute_force(target: Tensor, sources: Tensor, labels: Tensor, radius: int, temperature: float, topk: int) -> Tensor:
    """Every query alone, in double precision."""
    rows, columns = target.shape[:2]
    result = torch.zeros(rows, columns, labels.shape[-1], dtype=torch.float64)
    for y in range(rows):
        for x in range(columns):
            found = []
            for c in range(len(sources)):
                for v in range(max(y - radius, 0), min(y + radius + 1, rows)):
                    for u in range(max(x - radius, 0), min(x + radius + 1, columns)):
                        found.append(((target[y, x].double() @ sources[c, v, u].double()).item(), c, v, u))
            found = sorted(found, reverse=True)[:topk]
            weights = torch.tensor([each[0] / temperature for each in found], dtype=torch.float64).softmax(0)
            for weight, (_, c, v, u) in zip(weights, found):
                result[y, x] += weight * labels[c, v, u].double()
    return result


@pytest.mark.parametrize(("radius", "topk", "temperature"), [(0, 5, 0.1), (2, 1, 0.1), (2, 5, 0.1), (3, 5, 1.0)])
def test_brute_force(radius: int, topk: int, temperature: float) -> None:
    parts = drawn()
    found = propagate(*parts, radius=radius, topk=topk, temperature=temperature)
    torch.testing.assert_close(found.double(), brute_force(*parts, radius, temperature, topk), atol=1e-5, rtol=0)


def test_the_published_way_over_all_pairs() -> None:
    """Exponentials, a mask of zeros, the five largest of each column, sums to 1: the same weights."""
    target, sources, labels = drawn()
    rows, columns = target.shape[:2]
    affinity = torch.einsum("yxd,cvud->cvuyx", target, sources).div(0.1).exp()
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    near = ((y[:, :, None, None] - y).abs() <= 2) & ((x[:, :, None, None] - x).abs() <= 2)
    flat = (affinity * near).flatten(0, 2).flatten(1)
    flat = torch.where(flat < flat.topk(5, dim=0).values[-1], 0, flat)
    expected = (flat / flat.sum(0)).T @ labels.flatten(0, 2)
    torch.testing.assert_close(propagate(target, sources, labels, radius=2).flatten(0, 1), expected, atol=1e-5, rtol=0)


def test_tiles_and_no_window() -> None:
    parts = drawn()
    whole = propagate(*parts, radius=3, tile=100)
    for tile in (1, 2, 5):
        torch.testing.assert_close(propagate(*parts, radius=3, tile=tile), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(propagate(*parts, radius=None), propagate(*parts, radius=50), atol=1e-6, rtol=0)


def test_the_same_frame_keeps_its_labels() -> None:
    target, _, labels = drawn(contexts=1)
    assert torch.equal(propagate(target, target[None], labels, topk=1), labels[0])
    shares = propagate(target, target[None].repeat(2, 1, 1, 1), torch.ones(2, *target.shape[:2], 2))
    torch.testing.assert_close(shares, torch.ones_like(shares))


def test_enlarged_is_bilinear_and_stretched() -> None:
    labels = torch.zeros(2, 4, 2)
    labels[:, :, 0] = 1
    labels[:, 2:, 0], labels[:, 2:, 1] = 0.7, 0.3
    # The object's share is at most 0.3 and stretched to 1, as the background's from [0.7, 1] to [0, 1]: half and half.
    assert enlarged(labels, (4, 4)).tolist() == [[0] * 8 + [1] * 8] * 8
    assert enlarged(labels, (1, 1)).tolist() == [[0, 0, 1, 1]] * 2


def test_maps_that_are_even_say_nothing() -> None:
    labels = torch.zeros(2, 2, 3)
    labels[..., 0] = 1  # background everywhere, stretched to 0; label 1 is nowhere
    labels[0, 0, 2] = 0.1
    assert enlarged(labels, (1, 1)).tolist() == [[2, 0], [0, 0]]
    assert enlarged(labels[..., :2], (2, 2)).unique().tolist() == [0]


def test_resized_ids() -> None:
    ids = np.array([[1, 2], [3, 4]], np.uint8)
    assert resized_ids(ids, (4, 4)).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert resized_ids(ids, (2, 2)) is ids
    assert resized_ids(np.arange(9, dtype=np.uint8).reshape(3, 3), (1, 1)).tolist() == [[4]]


def test_errors() -> None:
    target, sources, labels = drawn()
    with pytest.raises(ValueError, match=r"target is \[7, 9, 6\], sources \[3, 7, 8, 6\]"):
        propagate(target, sources[:, :, 1:], labels)
    with pytest.raises(ValueError, match="with C at least 1"):
        propagate(target, sources[:0], labels[:0])
    with pytest.raises(ValueError, match=r"temperature 0, topk 5"):
        propagate(target, sources, labels, temperature=0)
