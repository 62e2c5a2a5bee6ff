"""Connected components: three implementations against SciPy, against each other, and in the corners."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from vitrail.ops.components import component_at, components_above_mean, connected_components, cpu, reference

# The interpreter works on CPU tensors; with TRITON_INTERPRET=0 the same tests run on a GPU.
DEVICE = "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"


def on_gpu(mask: Tensor, connectivity: int = 8) -> Tensor:
    cuda = pytest.importorskip("vitrail.ops.components.cuda", reason="TRITON IS ABSENT: the GPU kernel is untested")
    return cuda.connected_components(mask.to(DEVICE), connectivity).cpu()


WAYS = [cpu.connected_components, reference.connected_components, on_gpu]
ways = pytest.mark.parametrize("way", WAYS, ids=["cpu", "reference", "cuda"])
connectivities = pytest.mark.parametrize("connectivity", [4, 8])


def scipy_labels(masks: Tensor, connectivity: int) -> Tensor:
    structure = np.ones((3, 3)) if connectivity == 8 else None
    flat = masks.reshape(-1, *masks.shape[-2:])
    labels = [torch.from_numpy(ndimage.label(one.numpy(), structure)[0]) for one in flat]
    return torch.stack(labels).long().view(masks.shape)


def serpentine(rows: int, columns: int) -> Tensor:
    """One path that runs to and fro through the whole map."""
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    return mask


def spiral(side: int) -> Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    y = x = 0
    down, across = 0, 1
    mask[0, 0] = True
    for length in [side - 1] + [size for size in range(side - 1, 0, -2) for _ in (0, 1)]:
        for _ in range(length):
            y, x = y + down, x + across
            mask[y, x] = True
        down, across = across, -down
    return mask


@ways
@connectivities
@pytest.mark.parametrize("shape", [(7, 7), (14, 14), (5, 13), (30, 17), (1, 9), (9, 1), (1, 1), (64, 64)])
@pytest.mark.parametrize("density", [0.3, 0.55, 0.8])
def test_random_maps_equal_scipy(way: Callable, connectivity: int, shape: tuple[int, int], density: float) -> None:
    generator = torch.Generator().manual_seed(shape[0] * 100 + shape[1])
    masks = torch.rand((2, *shape), generator=generator) < density
    assert torch.equal(way(masks, connectivity), scipy_labels(masks, connectivity))


@connectivities
def test_many_random_maps_equal_scipy_on_cpu(connectivity: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in [(7, 7), (14, 14), (9, 21), (33, 20), (64, 64)]:
        masks = torch.rand((150, *shape), generator=generator) < torch.rand(150, 1, 1, generator=generator)
        assert torch.equal(connected_components(masks, connectivity), scipy_labels(masks, connectivity))


@ways
@connectivities
@pytest.mark.parametrize(
    "mask",
    [
        serpentine(14, 14),
        serpentine(14, 14).T,
        serpentine(33, 65),
        serpentine(15, 15).flip(0, 1),
        spiral(31),
    ],
    ids=["14", "transposed", "long", "flipped", "spiral"],
)
def test_winding_region_is_one_component(way: Callable, connectivity: int, mask: Tensor) -> None:
    labels = way(mask, connectivity)
    assert int(labels.max()) == 1
    assert torch.equal(labels, mask.long())


@ways
def test_checkerboard_is_one_or_all(way: Callable) -> None:
    board = torch.arange(10).view(-1, 1) + torch.arange(13) & 1 == 0
    assert int(way(board, 8).max()) == 1
    labels = way(board, 4)
    assert torch.equal(labels[board], torch.arange(1, int(board.sum()) + 1))


@ways
def test_labels_follow_reading_order(way: Callable) -> None:
    mask = torch.tensor(
        [[0, 1, 0, 0, 1], [0, 0, 0, 0, 1], [1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]],
        dtype=torch.bool,
    )
    expected = [[0, 1, 0, 0, 2], [0, 0, 0, 0, 2], [3, 0, 3, 0, 0], [0, 3, 0, 0, 0], [0, 0, 0, 0, 4]]
    assert way(mask, 8).tolist() == expected


@ways
def test_full_empty_and_missing_maps(way: Callable) -> None:
    assert torch.equal(way(torch.ones(2, 3, 6, dtype=torch.bool)), torch.ones(2, 3, 6, dtype=torch.int64))
    assert not way(torch.zeros(2, 3, 6, dtype=torch.bool)).any()
    for shape in [(0, 4, 4), (2, 0, 4), (2, 4, 0), (0, 0)]:
        labels = way(torch.zeros(shape, dtype=torch.bool))
        assert labels.shape == shape
        assert labels.dtype == torch.int64


@ways
def test_leading_axes_and_strides_do_not_matter(way: Callable) -> None:
    masks = torch.rand(3, 2, 4, 9, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    turned = masks.permute(2, 1, 0, 4, 3)[:, :, ::2]
    assert torch.equal(way(turned), scipy_labels(turned.contiguous(), 8))


def test_maps_are_shared_out_among_threads() -> None:
    masks = torch.rand(1200, 14, 14, generator=torch.Generator().manual_seed(2)) < 0.5
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = connected_components(masks)
        torch.set_num_threads(3)
        assert torch.equal(connected_components(masks), alone)
    finally:
        torch.set_num_threads(threads)


def test_bad_input_is_answered_in_words() -> None:
    with pytest.raises(ValueError, match=r"torch\.float32.*compare first"):
        connected_components(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        connected_components(torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"connectivity is 6; give 4"):
        connected_components(torch.zeros(2, 2, dtype=torch.bool), connectivity=6)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_the_component_at_a_cell(connectivity: int) -> None:
    masks = torch.rand(20, 6, 7, generator=torch.Generator().manual_seed(5)) > 0.5
    cells = torch.arange(20) * 2 % 42
    found = component_at(masks, cells, connectivity)
    labels = connected_components(masks, connectivity)
    for mask, label, cell, own in zip(masks, labels, cells.tolist(), found):
        expected = label == label.flatten()[cell] if mask.flatten()[cell] else torch.zeros_like(mask)
        assert torch.equal(own, expected)
    assert 0 < found.any((1, 2)).sum() < 20
    with pytest.raises(ValueError, match=r"mask is \[6, 7\] and cells \[1\]; give \[B, Y, X\] and \[B\]"):
        component_at(masks[0], cells[:1])


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 14, 14), (4, 7, 7), (5, 9)])
def test_above_the_mean_as_a_loop_over_maps(kind: torch.dtype, shape: tuple[int, ...]) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(kind)
    labels = components_above_mean(scores)
    maps = scores.double().reshape(-1, *shape[-2:]).numpy()
    wanted = [ndimage.label(one > one.mean(), np.ones((3, 3)))[0] for one in maps]
    np.testing.assert_array_equal(labels.numpy(), np.stack(wanted).reshape(shape))


@pytest.mark.parametrize("value", [0.1, 1e30, -7.3, float("nan")])
def test_nothing_stands_out_of_a_constant_map(value: float) -> None:
    """In float32 the mean of 49 times 0.1 is not 0.1."""
    for kind in (torch.float32, torch.float64, torch.bfloat16):
        assert components_above_mean(torch.full((2, 7, 7), value, dtype=kind)).max() == 0


def test_scores_that_have_no_mean() -> None:
    for scores in (torch.zeros(2, 3, dtype=torch.long), torch.zeros(3), torch.zeros(2, 0, 3)):
        with pytest.raises(ValueError, match="give floats"):
            components_above_mean(scores)
