import pytest
import torch
from torch.nn import functional

from vitrail.ops.kmeans import cosine_kmeans, nearest_center


def blobs(clusters: int = 5, each: int = 40, width: int = 16, noise: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centers = torch.linalg.qr(torch.randn(width, width, generator=generator))[0][:clusters]
    labels = torch.arange(clusters).repeat(each)
    lengths = 0.2 + 3 * torch.rand(len(labels), 1, generator=generator)
    return lengths * (centers[labels] + noise * torch.randn(len(labels), width, generator=generator)), labels


@pytest.mark.parametrize("seed", range(5))
def test_separate_directions_are_found_whatever_their_length(seed: int) -> None:
    points, labels = blobs()
    found = cosine_kmeans(points, 5, seed=seed)
    pairs = set(zip(labels.tolist(), found.assignment.tolist(), strict=True))
    assert len(pairs) == 5
    assert torch.allclose(found.centers.norm(dim=1), torch.ones(5), atol=1e-5)


def test_it_ends_where_nothing_moves() -> None:
    points, _ = blobs(noise=0.4)
    found = cosine_kmeans(points, 7, iterations=200, tolerance=0.0)
    assert found.iterations < 200
    directions = functional.normalize(points, dim=1)
    cosines, assignment = nearest_center(points, found.centers)
    assert torch.equal(assignment, found.assignment)
    assert found.likeness == pytest.approx(cosines.double().mean().item())
    for number in range(7):
        own = functional.normalize(directions[assignment == number].sum(0), dim=0)
        torch.testing.assert_close(own, found.centers[number], atol=1e-4, rtol=0)


def test_more_iterations_are_no_worse() -> None:
    points, _ = blobs(clusters=12, noise=0.5)
    values = [cosine_kmeans(points, 6, iterations=number, tolerance=0.0).likeness for number in (0, 1, 2, 5, 20)]
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_every_point_its_own_cluster() -> None:
    points, _ = blobs(clusters=3, each=3, noise=0.3)
    found = cosine_kmeans(points, 9)
    assert sorted(found.assignment.tolist()) == list(range(9))
    assert found.likeness == pytest.approx(1.0)


def test_fewer_directions_than_clusters() -> None:
    points = torch.eye(4)[:2].repeat(6, 1)
    found = cosine_kmeans(points, 4)
    assert found.likeness == pytest.approx(1.0)
    assert found.centers.isfinite().all()


def test_seeds() -> None:
    points, _ = blobs(clusters=12, noise=0.6)
    first, same, other = (cosine_kmeans(points, 6, seed=seed, iterations=1) for seed in (1, 1, 2))
    assert torch.equal(first.centers, same.centers)
    assert not torch.equal(first.centers, other.centers)


def test_points_are_compared_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = blobs()
    centers = points[:7]
    whole = nearest_center(points, centers)
    monkeypatch.setattr("vitrail.ops.kmeans.CHUNK", 33)
    assert torch.equal(nearest_center(points, centers)[1], whole[1])
    expected = functional.cosine_similarity(points[:, None], centers[None], dim=-1).max(1)
    torch.testing.assert_close(whole[0], expected.values)
    assert torch.equal(whole[1], expected.indices)


def test_errors() -> None:
    points, _ = blobs()
    for clusters in (0, 201):
        with pytest.raises(ValueError, match=f"clusters is {clusters}"):
            cosine_kmeans(points, clusters)
    with pytest.raises(ValueError, match=r"\[5\]"):
        cosine_kmeans(torch.ones(5), 1)
    with pytest.raises(ValueError, match="NaN"):
        cosine_kmeans(torch.full((3, 2), float("nan")), 1)
