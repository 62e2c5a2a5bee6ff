"""PVT, the Pyramid Vision Transformer (version 1): four stages, a class token in the last.

    stage        1     2     3     4
    tokens of    4     8     16    32 pixels
    keys         1/8   1/4   1/2   all, a side

Each stage cuts its map into patches, adds learned positions, and runs transformer blocks. Attention of the first three
looks at keys and values of a map that a convolution has made smaller. The last stage begins with a class token, and its
keys are all tokens, so its CLS scores are a map as those of a plain ViT: 7 x 7 at 224 pixels.

Source: Wang et al., "Pyramid Vision Transformer", 2021 (arXiv 2102.12122), Table 1; names of weights and the epsilons
of the norms are those of the authors' code (github.com/whai362/PVT): 1e-6 in blocks and at the end, 1e-5 in patch
embeddings and reductions. Hugging Face's copy has 1e-6 everywhere; `inner_eps=1e-6` does that.

Deviations
- Positions of another grid are interpolated (bilinear) whenever the grid differs. The authors' code keeps them as they
  are where a later grid has as many cells as the first stage had in training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from vitrail.config import Config
from vitrail.nn.grid_block import ConvEmbed, GridBlock, draw_weights, laid_out, of_heads
from vitrail.nn.surgery import SurgeryConfig

PATCH = 32
"""Pixels between tokens of the last stage."""
_Count = Annotated[int, Field(ge=1)]
_Four = tuple[_Count, _Count, _Count, _Count]


class PvtConfig(Config):
    """What differs between PVTs, one number for each stage."""

    embed_dims: _Four = (64, 128, 320, 512)
    """Width of the tokens."""
    depths: _Four = (2, 2, 2, 2)
    """Number of blocks."""
    heads: _Four = (1, 2, 5, 8)
    """Attention heads."""
    mlp_ratios: _Four = (8, 8, 4, 4)
    """Channels inside of the MLP, as a multiple of the width."""
    reductions: _Four = (8, 4, 2, 1)
    """How many tokens, a side, become one key; the last stage, which has a class token, reduces nothing."""
    inner_eps: Annotated[float, Field(gt=0)] = 1e-5
    """Of the norms in patch embeddings and reductions: 1e-5 as in the authors' code, 1e-6 as in Hugging Face's."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        for width, heads in zip(self.embed_dims, self.heads):
            if width % heads:
                raise ValueError(f"embed_dims {width} is not a multiple of heads {heads}; change one of them")
        if self.reductions[-1] != 1:
            raise ValueError(f"reductions ends with {self.reductions[-1]}; the stage of the class token reduces by 1")
        return self


PVTS = {
    "pvt_tiny": PvtConfig(),
    "pvt_small": PvtConfig(depths=(3, 4, 6, 3)),
    "pvt_medium": PvtConfig(depths=(3, 4, 18, 3)),
    "pvt_large": PvtConfig(depths=(3, 8, 27, 3)),
}
"""Table 1 of the paper. Parameters with a classifier of 1000 classes: 13.2, 24.5, 44.2 and 61.4 M."""


class Pvt(nn.Module):
    """The network without its classifier, under the authors' names of weights.

    Attributes: `config`, `image_size` (height, width) that the positions are made for, `norm`, and `blocks`, those of
    the last stage. `vitrail.backbones.staged` runs these.
    """

    patch = PATCH

    def __init__(
        self,
        config: PvtConfig,
        image_size: tuple[int, int],
        *,
        drop_path: float = 0.0,
        cut: SurgeryConfig | None = None,
    ) -> None:
        """Args:
        config: sizes.
        image_size: (height, width) in pixels, multiples of 32.
        drop_path: chance that the very last block is skipped; it grows linearly from 0 over the blocks of all stages.
        cut: what the very last block does without.
        """
        super().__init__()
        self.config, self.image_size = config, image_size
        rates = torch.linspace(0, drop_path, sum(config.depths), device="cpu").tolist()
        channels = 3
        for stage in range(4):
            width, depth, last = config.embed_dims[stage], config.depths[stage], stage == 3
            side = 2 if stage else 4
            blocks = [
                _block(config, stage, rates.pop(0), cut if last and n == depth - 1 else None) for n in range(depth)
            ]
            rows, columns = self.grid_at(stage, image_size)
            embed = ConvEmbed(channels, width, kernel=side, stride=side, eps=config.inner_eps)
            self.add_module(f"patch_embed{stage + 1}", embed)
            positions = nn.init.trunc_normal_(torch.empty(1, rows * columns + last, width), std=0.02)
            self.register_parameter(f"pos_embed{stage + 1}", nn.Parameter(positions))
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
            channels = width
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, channels), std=0.02))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        draw_weights(self)

    @property
    def blocks(self) -> nn.ModuleList:
        """Those of the last stage."""
        return self._part("block", 3)

    def embed(self, images: Tensor, run: Callable[..., Tensor]) -> tuple[Tensor, tuple[int, int]]:
        """What the last stage's first block sees, `[B, 1 + Y * X, D]`, and the grid (Y, X).

        Args:
            images: `[B, 3, H, W]`, H and W multiples of 32.
            run: how earlier blocks are run, `run(block, x, grid)`.
        """
        x = images
        grid = (0, 0)
        for stage in range(4):
            x, grid = self._part("patch_embed", stage)(x)
            if stage == 3:
                x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
            x = x + self._positions(stage, grid)
            if stage < 3:
                for block in self._part("block", stage):
                    x = run(block, x, grid)
                x = laid_out(x, grid)
        return x, grid

    def keys_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Of the last stage's keys, for a grid of its tokens: the same."""
        return grid

    def resize(self, image_size: tuple[int, int]) -> None:
        """Make the positions for another size, (height, width), in place, by interpolation."""
        for stage in range(4):
            positions = self._positions(stage, self.grid_at(stage, image_size)).detach().clone()
            setattr(self, f"pos_embed{stage + 1}", nn.Parameter(positions))
        self.image_size = image_size

    def no_weight_decay(self) -> set[str]:
        """Positions and the class token."""
        return {"cls_token", *(f"pos_embed{stage + 1}" for stage in range(4))}

    @staticmethod
    def grid_at(stage: int, image_size: tuple[int, int]) -> tuple[int, int]:
        """(Y, X) of a stage's tokens, counted from 0."""
        side = 4 * 2**stage
        return image_size[0] // side, image_size[1] // side

    def _part(self, name: str, stage: int) -> Any:
        return getattr(self, f"{name}{stage + 1}")

    def _positions(self, stage: int, grid: tuple[int, int]) -> Tensor:
        return interpolated(self._part("pos_embed", stage), self.grid_at(stage, self.image_size), grid)


class ReducedAttention(nn.Module):
    """Self-attention whose keys and values are those of a map that was made smaller."""

    def __init__(self, width: int, heads: int, reduction: int, eps: float) -> None:
        """Args:
        width, heads: of the tokens.
        reduction: how many tokens, a side, become one key; 1 for all, and for tokens with a class token.
        eps: of the norm of a reduced map.
        """
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.sr = nn.Conv2d(width, width, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width, eps=eps) if reduction > 1 else None

    def forward(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Normalized tokens `[B, T, D]`; returns output, queries and keys, see `GridBlock`."""
        query = of_heads(self.q(x), self.heads)
        if self.sr is not None and self.norm is not None:
            x = self.norm(self.sr(laid_out(x, grid)).flatten(2).transpose(1, 2))
        key, value = (of_heads(part, self.heads) for part in self.kv(x).chunk(2, dim=2))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2)), query, key


def interpolated(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positions `[1, P + Y * X, D]` of a grid (Y, X), brought to another one (bilinear); the first P stay."""
    if old == new:
        return positions
    prefix = positions.shape[1] - old[0] * old[1]
    laid = laid_out(positions[:, prefix:].float(), old)
    resized = functional.interpolate(laid, new, mode="bilinear", align_corners=False)
    return torch.cat((positions[:, :prefix], resized.flatten(2).transpose(1, 2).to(positions.dtype)), dim=1)


def _block(config: PvtConfig, stage: int, drop_path: float, cut: SurgeryConfig | None) -> GridBlock:
    width = config.embed_dims[stage]
    attn = ReducedAttention(width, config.heads[stage], config.reductions[stage], config.inner_eps)
    switches = {} if cut is None else cut.model_dump(exclude={"entropy"})
    return GridBlock(attn, width, width * config.mlp_ratios[stage], drop_path=drop_path, eps=1e-6, **switches)
