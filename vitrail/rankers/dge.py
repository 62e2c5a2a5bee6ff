"""DGE's keys, patches like the class token first.

Each block of a ViT gets a gate. The patches x, on their grid, stand in regions of 4 x 4. A region's gate chooses a
granularity g of 1, 2 or 4 by its mean patch: it asks one query for each cell of g x g patches, which is their mean q.
Keys and values stay those of all tokens, and what the block changes of a cell is added to all patches of it:

    g = argmax (W mean(region) + b)          in training with Gumbel noise, and straight through
    y = q + MSA(LN1(q); LN1(x))              y = y + MLP(LN2(y))
    x' = x + unpool(y - q)

Granularity 1 everywhere is the plain block. Prefix tokens are queries of their own.

The score of patch j is mean over heads of k_cls,h . k_j,h, the keys of the last block. Grids that whole regions do not
fill get a ring of zeros, the mean color, as even as possible (14 x 14 to 16 x 16 for 224 pixels).

Variants: `crop` leaves the scores of the ring out, so that each score stays at its patch; `resize` squeezes map and
ring together to the grid of the image, bicubic, as LTRP's released code does, which shifts scores by up to a patch, and
there a generator brings Gumbel noise into the gates.

Source: Song et al., "Dynamic Grained Encoder for Vision Transformers", 2021; the score: LTRP's supplement.
`vitrail.methods.dge` trains it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.backbones import TimmViT
from vitrail.config import Config
from vitrail.nn.open_block import projections
from vitrail.ops.patches import grid_of
from vitrail.rankers.source import Source, variant_of
from vitrail.rankers.vit import open_with_part

VARIANTS = ("crop", "resize")
WEIGHTS = "a run of `vitrail train folder_dge`, or a released file of DGE's DeiT"
PART = "gates"
FINEST = 0.95
"""Chance of the first granularity where gates are fresh."""


class GatesConfig(Config):
    """What rebuilds the gates beside a backbone."""

    granularities: tuple[int, ...] = (1, 2, 4)
    """Sides of a query's cell in patches, in the order of the gates' outputs; the largest is the side of a region."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        region = max(self.granularities, default=0)
        if region < 1 or len(set(self.granularities)) < len(self.granularities):
            raise ValueError(f"granularities {list(self.granularities)} must differ, each at least 1")
        if any(each < 1 or region % each for each in self.granularities):
            raise ValueError(f"granularities {list(self.granularities)} must each divide the largest, {region}")
        return self

    @property
    def region(self) -> int:
        """Side of a region in patches."""
        return max(self.granularities)


class Grained(NamedTuple):
    """What `GrainedVit` returns."""

    cls: Tensor  # [B, D] after the final norm
    gates: tuple[Tensor, ...]  # of each block, [B, RY, RX, S], one 1 in each region
    cost: Tensor  # [B] multiplications of the blocks, as a share of those of plain ones; carries gradient to the gates


class GrainedVit(nn.Module):
    """A backbone with a gate at each block; `backbone` and `gates` are its parts."""

    def __init__(self, backbone: TimmViT, config: GatesConfig | None = None) -> None:
        """Raises `ValueError` for blocks that take no mask."""
        super().__init__()
        if backbone.closed:
            raise ValueError(f"queries cannot be added to this backbone: {next(iter(backbone.closed.values()))}")
        self.config = config or GatesConfig()
        self.backbone = backbone
        count = len(self.config.granularities)
        self.gates = nn.ModuleList(nn.Linear(backbone.embed_dim, count) for _ in range(backbone.depth))
        for gate in self.gates:
            _draw(gate)

    def forward(self, images: Tensor, *, noisy: bool = False, generator: torch.Generator | None = None) -> Grained:
        """Run the network on images `[B, 3, H, W]`, normalized; `noisy` draws the gates, from `generator`."""
        x, grid = self.embed(images)
        gates: list[Tensor] = []
        for index in range(self.backbone.depth):
            gates.append(self.choose(index, x, grid, noisy, generator))
            x = self.run(index, x, gates[-1], grid)
        return Grained(self.backbone.norm(x)[:, 0], tuple(gates), self.cost(gates, grid))

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """What enters the first block, with the ring where it is needed, and the grid, ring included."""
        top, bottom, left, right = self.ring(images)
        tall, wide = self.backbone.patch_size
        return self.backbone.embed(F.pad(images, (left * wide, right * wide, top * tall, bottom * tall)))

    def ring(self, images: Tensor) -> tuple[int, int, int, int]:
        """Patches that are missing to whole regions: top, bottom, left, right; the larger half at the end."""
        rows, columns = grid_of(images.shape[-2], images.shape[-1], self.backbone.patch_size)
        y, x = -rows % self.config.region, -columns % self.config.region
        return y // 2, y - y // 2, x // 2, x - x // 2

    def choose(
        self,
        index: int,
        x: Tensor,
        grid: tuple[int, int],
        noisy: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """A block's gates `[B, RY, RX, S]`: 1 for the chosen granularity and 0 elsewhere, straight through."""
        means = F.avg_pool2d(self._map(x, grid), self.config.region).permute(0, 2, 3, 1)
        logits = self.gates[index](means).float()
        if noisy:
            uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
            logits = logits - (-uniform.clamp(1e-9, 1 - 1e-7).log()).log()
        soft = logits.softmax(-1)
        hard = torch.zeros_like(soft).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
        return hard + (soft - soft.detach())

    def run(self, index: int, x: Tensor, gates: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens `[B, P + N, D]` through a block, each region by its gate.

        Queries of all granularities stand behind the tokens, where nobody attends to them; all are computed, and the
        gates choose among the results. So no time is saved here.
        """
        prefix, plain, patches = self.backbone.prefix_tokens, x.shape[1], self._map(x, grid)
        sides = [side for side in self.config.granularities if side > 1]
        queries = [F.avg_pool2d(patches, side) for side in sides]
        sequence = torch.cat([x, *(each.flatten(2).transpose(1, 2) for each in queries)], dim=1)
        mask = x.new_zeros(sequence.shape[1])
        mask[plain:] = -torch.inf
        seen = mask.expand(len(x), 1, sequence.shape[1], -1)
        out = self.backbone.run_block(self.backbone.vit.blocks[index], sequence, attn_mask=seen)
        changed = (out - sequence)[:, prefix:].transpose(1, 2)
        changes = changed.split([plain - prefix, *(each.shape[-2] * each.shape[-1] for each in queries)], dim=2)
        added = torch.zeros_like(patches)
        for side, change in zip((1, *sides), changes, strict=True):
            if side not in self.config.granularities:
                continue
            share = gates[..., self.config.granularities.index(side)].unsqueeze(1)
            cells = change.unflatten(2, (grid[0] // side, grid[1] // side))
            added = added + _spread(share.to(cells.dtype), self.config.region) * _spread(cells, side)
        return torch.cat((out[:, :prefix], x[:, prefix:] + added.flatten(2).transpose(1, 2)), dim=1)

    def cost(self, gates: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Multiplications of the blocks as a share of those of plain blocks: `[B]` in (0, 1]."""
        prefix, width = self.backbone.prefix_tokens, self.backbone.embed_dim
        block: Any = self.backbone.vit.blocks[0]
        hidden, tokens = block.mlp.fc1.out_features, prefix + grid[0] * grid[1]
        queries = prefix + self.queries(gates)
        plain = multiplications(tokens, queries.new_tensor(tokens), width, hidden)
        return (multiplications(tokens, queries, width, hidden) / plain).mean(0)

    def queries(self, gates: Sequence[Tensor]) -> Tensor:
        """How many queries the gates of each block ask for the patches, `[blocks, B]`."""
        each = gates[0].new_tensor([(self.config.region // side) ** 2 for side in self.config.granularities])
        return torch.stack([(gate * each).sum((1, 2, 3)) for gate in gates])

    def _map(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """The patches of tokens as `[B, D, Y, X]`."""
        return x[:, self.backbone.prefix_tokens :].transpose(1, 2).unflatten(2, grid)


def multiplications(tokens: int, queries: Tensor, width: int, hidden: int) -> Tensor:
    """Of one block and image: keys and values of all tokens; query, attention, projection and MLP of the queries."""
    return 2 * tokens * width**2 + queries * (2 * width**2 + 2 * tokens * width + 2 * width * hidden)


def _draw(gate: Any) -> None:
    """Nearly every region starts with the first granularity."""
    nn.init.trunc_normal_(gate.weight, std=0.01)
    nn.init.zeros_(gate.bias)
    others = gate.out_features - 1
    if others:
        with torch.no_grad():
            gate.bias[0] = math.log(FINEST * others / (1 - FINEST))


def _spread(maps: Tensor, side: int) -> Tensor:
    """`[B, D, Y, X]` to `[B, D, Y * side, X * side]`, each value in its cell."""
    return maps if side == 1 else maps.repeat_interleave(side, -2).repeat_interleave(side, -1)


def open_network(source: Source) -> GrainedVit:
    """Backbone and gates from a file: ours, or in the layout of the released one (`blocks.N.dge.*`).

    Raises `ValueError` as `open_with_part`.
    """
    backbone, part = open_with_part(source, "dge", PART, WEIGHTS)
    config = GatesConfig.parse(part.config, source=part.source) if part.config else GatesConfig()
    network = GrainedVit(backbone, config)
    part.fill(network.gates)
    return network


def from_source(source: Source) -> Dge:
    """Weights of DGE, ours or released ones; variants `crop` and `resize`."""
    variant = variant_of(source, "dge", VARIANTS)
    return Dge(open_network(source), variant)


class Dge(nn.Module):
    """Scores by the last block's keys. Fulfills `vitrail.contracts.Ranker`.

    `image_size` is without the ring: that of weights for 256 pixels and patches of 16 is 256, and images of 224 pixels
    get a ring that makes them as large.
    """

    needs_number = False

    def __init__(self, network: GrainedVit, variant: str = "crop") -> None:
        """`variant` is one of `VARIANTS`."""
        super().__init__()
        self.network = network
        self.variant = variant
        self.mean: Sequence[float] = network.backbone.mean
        self.std: Sequence[float] = network.backbone.std
        self.image_size = network.backbone.image_size
        self.patch_size = network.backbone.patch_size

    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Scores `[B, Y, X]`, products of keys."""
        network = self.network
        noisy = self.variant == "resize" and generator is not None
        x, grid = network.embed(images)
        for index in range(network.backbone.depth - 1):
            x = network.run(index, x, network.choose(index, x, grid, noisy, generator), grid)
        scores = self.keys(x).unflatten(1, grid)
        top, bottom, left, right = network.ring(images)
        inner = grid[0] - top - bottom, grid[1] - left - right
        if self.variant == "resize" and inner != grid:
            return F.interpolate(scores[:, None], inner, mode="bicubic")[:, 0]
        return scores[:, top : top + inner[0], left : left + inner[1]]

    def keys(self, x: Tensor) -> Tensor:
        """mean_h k_cls,h . k_j,h, `[B, N]` float32, of what enters the last block."""
        block: Any = self.network.backbone.vit.blocks[-1]
        _, key, _ = projections(block.attn, block.norm1(x))
        return alike(key, self.network.backbone.prefix_tokens)


def alike(key: Tensor, prefix: int = 1) -> Tensor:
    """The mean over heads of the first key's products with those of the patches: `[B, H, P + N, d]` to `[B, N]`."""
    key = key.float()
    return (key[:, :, prefix:] @ key[:, :, :1].transpose(-2, -1)).squeeze(-1).mean(1)
