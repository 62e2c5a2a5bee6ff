"""DPC-KNN against its definition, on clusters that are known, and on ties."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vitrail.ops.cluster import dpc_knn, draw_members, member_counts


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def defined(points: Tensor, clusters: int, neighbors: int) -> tuple[list[int], list[int], list[float], list[float]]:
    """The definition, point by point, for one set without ties."""
    count, width = points.shape
    apart = [[math.dist(a, b) / math.sqrt(width) for b in points.tolist()] for a in points.tolist()]
    density = [math.exp(-sum(value**2 for value in sorted(row)[:neighbors]) / neighbors) for row in apart]
    distance = []
    for i in range(count):
        denser = [apart[i][j] for j in range(count) if density[j] > density[i]]
        distance.append(min(denser) if denser else max(map(max, apart)))
    centers = sorted(range(count), key=lambda i: -density[i] * distance[i])[:clusters]
    near = [min(range(clusters), key=lambda c: apart[i][centers[c]]) for i in range(count)]
    return centers, near, density, distance


@pytest.mark.parametrize(("clusters", "neighbors"), [(1, 5), (4, 1), (7, 3), (20, 20)])
def test_the_definition(clusters: int, neighbors: int) -> None:
    points = draw(3, 20, 6)
    if neighbors == 1:  # then all are equally dense, and the first counts as the densest
        assert (dpc_knn(points, clusters, 1).density == 1).all()
        return
    found = dpc_knn(points, clusters, neighbors)
    for row in range(3):
        centers, near, density, distance = defined(points[row], clusters, neighbors)
        assert found.centers[row].tolist() == centers
        assert found.assignment[row].tolist() == near
        torch.testing.assert_close(found.density[row], torch.tensor(density, dtype=torch.float64))
        torch.testing.assert_close(found.distance[row], torch.tensor(distance, dtype=torch.float64))


def test_it_finds_clusters_that_are_there() -> None:
    middles = 10 * draw(4, 8, seed=1)
    truth = torch.arange(40) % 4
    points = middles[truth] + 0.1 * draw(40, 8, seed=2)
    found = dpc_knn(points[None], 4)
    assert sorted(truth[found.centers[0]].tolist()) == [0, 1, 2, 3]
    assert torch.equal(truth[found.centers[0]][found.assignment[0]], truth)


@pytest.mark.parametrize("points", [torch.zeros(2, 9, 3), torch.tensor([0.0, 1.0]).repeat(5)[None, :9, None]])
def test_ties_still_give_unique_centers_that_own_themselves(points: Tensor) -> None:
    for clusters in range(1, 10):
        found = dpc_knn(points, clusters)
        again = dpc_knn(points, clusters)
        for row in range(len(points)):
            assert len(set(found.centers[row].tolist())) == clusters
            assert torch.equal(found.assignment[row][found.centers[row]], torch.arange(clusters))
        assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_half_precision_is_compared_in_float32() -> None:
    points = draw(2, 30, 8).to(torch.bfloat16)
    one, other = dpc_knn(points, 5), dpc_knn(points.float(), 5)
    assert torch.equal(one.centers, other.centers)
    assert one.density.dtype == torch.float32


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"points are \[4, 3\]"):
        dpc_knn(torch.zeros(4, 3), 1)
    with pytest.raises(ValueError, match="clusters is 5 and there are 4 points"):
        dpc_knn(torch.zeros(1, 4, 3), 5)
    with pytest.raises(ValueError, match="neighbors is 5 and there are 4 points"):
        dpc_knn(torch.zeros(1, 4, 3), 2)
    with pytest.raises(ValueError, match="1 of 12 values are NaN or infinite"):
        dpc_knn(
            torch.tensor([[[torch.nan, 0, 0], [0, 0, 0]]]).repeat(1, 2, 1)[:, :4].index_fill(1, torch.tensor(2), 0),
            2,
            2,
        )


def test_members_are_drawn_alike_likely() -> None:
    assignment = torch.tensor([[2, 0, 1, 0, 2, 0], [0, 1, 2, 2, 2, 2]])
    assert member_counts(assignment, 3).tolist() == [[3, 1, 2], [1, 1, 4]]
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(2, 6)
    for _ in range(600):
        members = draw_members(assignment, 3, generator)
        assert torch.equal(assignment.gather(1, members), torch.arange(3).expand(2, -1))
        counts.scatter_add_(1, members, torch.ones(2, 3))
    expected = torch.tensor([[300, 200, 600, 200, 300, 200], [600, 600, 150, 150, 150, 150]])
    assert ((counts - expected).abs() < 62).all()  # five standard deviations of at most 12.2
    with pytest.raises(ValueError, match="cluster 1 of set 1 has no member; number the clusters 0 to 1"):
        draw_members(torch.tensor([[0, 1], [0, 0]]), 2)
