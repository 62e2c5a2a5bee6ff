"""DGE's ranker: the plain block at granularity 1, pooled queries by brute force, rings that shift nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sparse_training import TINY, fresh, tiny_batch
from torch import Tensor
from torch.nn import functional as F

from vitrail.backbones import save_exported
from vitrail.backbones.parts import with_part
from vitrail.config import ConfigError
from vitrail.ops.selection import select
from vitrail.rankers import open_ranker
from vitrail.rankers.dge import PART, Dge, GatesConfig, GrainedVit, alike, multiplications, open_network
from vitrail.rankers.source import Source


def network(bias: list[float] | None = None, spread: float = 0.0) -> GrainedVit:
    found = GrainedVit(fresh(TINY), GatesConfig())
    for number, gate in enumerate(found.gates):
        torch.manual_seed(number)
        torch.nn.init.normal_(gate.weight, std=spread)  # type: ignore[arg-type]
        if bias is not None:
            gate.bias.data = torch.tensor(bias)
    return found.eval().requires_grad_(False)


def grained_file(folder: Path, **more: str) -> dict[str, str]:
    found = network([0.3, 0.2, 0.0], spread=0.5)
    save_exported(with_part(found.backbone.export(), PART, found.gates, found.config), folder / "x.safetensors")
    return {"weights": str(folder / "x.safetensors")} | more


OPENINGS = {
    "crop": grained_file,
    "resize": lambda folder: grained_file(folder, variant="resize"),
}


def one_hot(choices: list[list[int]]) -> Tensor:
    return F.one_hot(torch.tensor(choices), 3).float()[None]


def test_alike_in_closed_form() -> None:
    """Heads say 2 * 1 and 3 * 1 of the first patch, 2 * 5 and 0 of the second."""
    key = torch.tensor([[[[2.0], [1.0], [5.0]], [[3.0], [1.0], [0.0]]]])
    assert torch.equal(alike(key), torch.tensor([[2.5, 5.0]]))


def test_granularity_1_everywhere_is_the_plain_network() -> None:
    found, images = network([1.0, 0.0, 0.0]), tiny_batch().images
    told = found(images)
    torch.testing.assert_close(told.cls, found.backbone(images).cls, atol=1e-6, rtol=0)
    assert torch.equal(told.cost, torch.ones(3))


def by_hand(block: Any, x: Tensor, cells: list[list[int]]) -> Tensor:
    """One image `[1 + N, D]`: queries of the class token and of the mean of each cell, one at a time."""
    heads, seen = block.attn.num_heads, block.norm1(x)
    width = x.shape[1] // heads
    _, keys, values = block.attn.qkv(seen).view(len(x), 3, heads, width).permute(1, 2, 0, 3)
    out = x.clone()
    for cell in [[-1], *cells]:
        rows = torch.tensor(cell) + 1
        start = x[rows].mean(0)
        query = block.attn.qkv(block.norm1(start))[: heads * width].view(heads, 1, width)
        attended = ((query @ keys.mT / width**0.5).softmax(-1) @ values).reshape(-1)
        end = start + block.attn.proj(attended)
        end = end + block.mlp(block.norm2(end))
        out[rows] = x[rows] + end - start
    return out


@pytest.mark.parametrize("choice", [0, 1, 2])
def test_a_block_by_hand(choice: int) -> None:
    """A grid of 4 x 8 in two regions: the left one is always asked in cells of 2, the right one by `choice`."""
    found = network()
    x, grid = found.embed(torch.randn(1, 3, 24, 48, generator=torch.Generator().manual_seed(3)))
    assert grid == (4, 8)
    side = (1, 2, 4)[choice]
    cells = [
        [y * 8 + x for y in range(top, top + step) for x in range(left, left + step)]
        for first, step in ((0, 2), (4, side))
        for top in range(0, 4, step)
        for left in range(first, first + 4, step)
    ]
    assert sorted(patch for cell in cells for patch in cell) == list(range(32))
    told = found.run(0, x, one_hot([[1, choice]]), grid)
    torch.testing.assert_close(told[0], by_hand(found.backbone.vit.blocks[0], x[0], cells), atol=1e-5, rtol=0)


def test_cost_by_hand() -> None:
    """A grid of 4 x 4 is one region: 16, 4 or 1 queries, and the class token's."""
    tokens, width, hidden = 17, 24, 96
    whole = 4 * tokens * width**2 + 2 * tokens * tokens * width + 2 * tokens * width * hidden
    assert multiplications(tokens, torch.tensor(17.0), width, hidden) == whole
    for choice, queries in enumerate((17, 5, 2)):
        bias = [0.0, 0.0, 0.0]
        bias[choice] = 1.0
        share = 2 * tokens * width**2 + queries * (2 * width**2 + 2 * tokens * width + 2 * width * hidden)
        torch.testing.assert_close(network(bias)(tiny_batch().images).cost, torch.full((3,), share / whole))


def test_gates_start_at_the_finest() -> None:
    gate: Any = GrainedVit(fresh(TINY)).gates[0]
    assert gate.bias.softmax(0)[0].item() == pytest.approx(0.95)
    images = tiny_batch(40).images
    torch.manual_seed(0)
    drawn = torch.stack(GrainedVit(fresh(TINY))(images, noisy=True).gates)
    assert drawn[..., 0].mean().item() == pytest.approx(0.95, abs=0.05)
    assert torch.equal(drawn.sum(-1), torch.ones(drawn.shape[:-1]))


def test_gradients_reach_the_gates_straight_through() -> None:
    found = GrainedVit(fresh(TINY))
    told = found(tiny_batch().images, noisy=True)
    (told.cost.sum() + told.cls.sum()).backward()
    for gate in found.gates:
        assert gate.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]
    for value in torch.stack(told.gates).flatten().tolist():
        assert value == pytest.approx(round(value), abs=1e-6)


def spots(ranker: Dge, images: Tensor, place: tuple[int, int]) -> tuple[int, int]:
    """Where the scores of images differ most once a patch is bright."""
    y, x = place
    bright = images.clone()
    bright[:, :, y * 6 : y * 6 + 6, x * 6 : x * 6 + 6] += 20
    change = (ranker(bright) - ranker(images)).abs().mean(0)
    row, column = divmod(int(change.argmax()), change.shape[1])
    return row, column


def test_what_is_bright_stays_where_it_is() -> None:
    """6 x 6 patches and a ring: 8 x 8 inside the network. `resize` moves the corners inwards."""
    ranker = Dge(network([1.0, 0.0, 0.0]))
    images = torch.randn(4, 3, 36, 36, generator=torch.Generator().manual_seed(4))
    assert ranker.network.ring(images) == (1, 1, 1, 1)
    for place in ((0, 0), (0, 5), (5, 0), (5, 5), (2, 3), (3, 1)):
        assert spots(ranker, images, place) == place
    x, grid = ranker.network.embed(images)
    assert grid == (8, 8)
    assert torch.equal(ranker.network.embed(F.pad(images, (6, 6, 6, 6)))[0], x)
    moved = [spots(Dge(ranker.network, "resize"), images, place) for place in ((0, 0), (5, 5))]
    assert moved != [(0, 0), (5, 5)]


def test_rings_are_as_even_as_possible_and_only_where_needed() -> None:
    found = network()
    for size, ring in (((24, 48), (0, 0, 0, 0)), ((18, 30), (0, 1, 1, 2)), ((6, 12), (1, 2, 1, 1))):
        assert found.ring(torch.zeros(1, 3, *size)) == ring
        assert Dge(found)(torch.randn(1, 3, *size)).shape == (1, size[0] // 6, size[1] // 6)
        assert Dge(found, "resize")(torch.randn(1, 3, *size)).shape == (1, size[0] // 6, size[1] // 6)
    images = tiny_batch().images
    assert torch.equal(Dge(found)(images), Dge(found, "resize")(images))


def test_scores_are_products_of_the_last_keys() -> None:
    found, images = network([0.0, 0.0, 0.0], spread=1.0), tiny_batch().images
    x, grid = found.embed(images)
    for index in range(3):
        x = found.run(index, x, found.choose(index, x, grid), grid)
    block: Any = found.backbone.vit.blocks[3]
    keys = block.attn.qkv(block.norm1(x))[..., 24:48]
    wanted = (keys[:, 1:] * keys[:, :1]).sum(-1) / 2  # two heads
    torch.testing.assert_close(Dge(found)(images), wanted.view(3, 4, 4))


def test_every_number_alone_in_a_batch_and_without_chance() -> None:
    found, images = network([0.3, 0.2, 0.0], spread=0.5), torch.randn(3, 3, 36, 48)
    ranker = Dge(found)
    scores = ranker(images)
    assert scores.shape == (3, 6, 8)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, ranker(images, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(scores[1:2], ranker(images[1:2]), atol=1e-5, rtol=0)
    for number in range(1, 49):
        assert all(len(set(row)) == number for row in select(scores, number).tolist())
    noisy = Dge(found, "resize")
    drawn = [noisy(images, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(noisy(images), noisy(images))


def test_granularities_that_do_not_fit() -> None:
    assert GatesConfig(granularities=(2, 4)).region == 4
    for wrong in ((2, 3), (1, 1), (), (0, 4)):
        with pytest.raises(ConfigError, match="granularities"):
            GatesConfig.parse({"granularities": wrong})


def test_our_file_round_trip(tmp_path: Path) -> None:
    found, images = network([0.3, 0.2, 0.0], spread=0.5), tiny_batch().images
    save_exported(with_part(found.backbone.export(), PART, found.gates, found.config), tmp_path / "x.safetensors")
    ranker = open_ranker("dge", str(tmp_path / "x.safetensors"))
    assert torch.equal(ranker(images), Dge(found)(images))


def test_released_file_round_trip(tmp_path: Path) -> None:
    """Query apart from keys and values, and a gate in each block. 64 wide, so that the heads can be guessed."""
    found = GrainedVit(fresh(TINY.model_copy(update={"embed_dim": 64, "heads": 1, "depth": 2}))).eval()
    state = {"head.weight": torch.randn(4, 64), "head.bias": torch.zeros(4)}
    for name, value in found.backbone.vit.state_dict().items():
        if ".attn.qkv." in name:
            state[name.replace(".qkv.", ".q.")], state[name.replace(".qkv.", ".kv.")] = value[:64], value[64:]
        else:
            state[name] = value
    for index, gate in enumerate(found.gates):
        state[f"blocks.{index}.dge.splits"] = torch.tensor([4, 2, 1])
        state |= {f"blocks.{index}.dge.router.gate.{name}": value for name, value in gate.state_dict().items()}
    torch.save({"model": state}, tmp_path / "dge.pth")
    again = open_network(Source(str(tmp_path / "dge.pth")))
    assert again.backbone.report.layout == "DGE"
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in found.state_dict().items())


def test_a_file_without_gates(tmp_path: Path) -> None:
    save_exported(fresh(TINY).export(), tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="holds no gates beside the backbone"):
        open_ranker("dge", str(tmp_path / "plain.safetensors"))
    with pytest.raises(ValueError, match="the ranker dge needs weights"):
        open_ranker("dge")
