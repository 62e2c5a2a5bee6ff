"""CvT, the Convolutional vision Transformer: three stages, a class token in the last, and no positions.

    stage        0     1     2
    tokens of    4     8     16 pixels, by convolutions that overlap (7 x 7, then 3 x 3 twice)

Queries, keys and values come of a depth-wise convolution of 3 x 3 with batch norm, then of a linear layer. The
convolutions of keys and values go in steps of two, so that 14 x 14 tokens have 7 x 7 keys. The class token passes by
the convolutions.

Source: Wu et al., "CvT: Introducing Convolutions to Vision Transformers", 2021 (arXiv 2103.15808), Table 2; names of
weights, the scale and the activation are those of the authors' code (github.com/microsoft/CvT):

- Attention divides q . k by the square root of the stage's width (384), not by that of a head's (64). Hugging Face's
  copy does so, too. The CLS scores that a backbone hands out are what this softmax sees.
- The MLP's activation is x * sigmoid(1.702 x), "quick_gelu". Hugging Face's copy computes the exact GELU with the same
  weights; `activation="gelu"` does that.

Drop path is as released, too: it grows over the blocks of the last stage, and the first two have none.

Deviation
- The MLP's hidden width is a whole multiple of the width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from vitrail.config import Config
from vitrail.nn.grid_block import ConvEmbed, GridBlock, draw_weights, laid_out, of_heads
from vitrail.nn.surgery import SurgeryConfig

PATCH = 16
"""Pixels between tokens of the last stage."""
_Count = Annotated[int, Field(ge=1)]
_Three = tuple[_Count, _Count, _Count]


class CvtConfig(Config):
    """What differs between CvTs, one number for each stage."""

    embed_dims: _Three = (64, 192, 384)
    """Width of the tokens."""
    depths: _Three = (1, 2, 10)
    """Number of blocks."""
    heads: _Three = (1, 3, 6)
    """Attention heads."""
    mlp_ratios: _Three = (4, 4, 4)
    """Channels inside of the MLP, as a multiple of the width."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """Of the MLP: as in the authors' code, or as in Hugging Face's."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        for width, heads in zip(self.embed_dims, self.heads):
            if width % heads:
                raise ValueError(f"embed_dims {width} is not a multiple of heads {heads}; change one of them")
        return self


CVTS = {"cvt_13": CvtConfig(), "cvt_21": CvtConfig(depths=(1, 4, 16))}
"""Table 2 of the paper. Parameters with a classifier of 1000 classes: 20.0 and 31.6 M."""


class Cvt(nn.Module):
    """The network without its classifier, under the authors' names of weights.

    Attributes: `config`, `image_size` (height, width), which nothing is made for, `norm`, and `blocks`, those of the
    last stage. `vitrail.backbones.staged` runs these.
    """

    patch = PATCH

    def __init__(
        self,
        config: CvtConfig,
        image_size: tuple[int, int],
        *,
        drop_path: float = 0.0,
        cut: SurgeryConfig | None = None,
    ) -> None:
        """Args:
        config: sizes.
        image_size: (height, width) in pixels, multiples of 16.
        drop_path: chance that the very last block is skipped; it grows linearly from 0 over the last stage's blocks.
        cut: what the very last block does without.
        """
        super().__init__()
        self.config, self.image_size = config, image_size
        for number, depth in enumerate(config.depths):
            own = torch.linspace(0, drop_path if number == 2 else 0, depth, device="cpu").tolist()
            self.add_module(f"stage{number}", CvtStage(config, number, own, cut if number == 2 else None))
        self.norm = nn.LayerNorm(config.embed_dims[-1])
        draw_weights(self)

    @property
    def blocks(self) -> nn.ModuleList:
        """Those of the last stage."""
        return self._stage(2).blocks

    def embed(self, images: Tensor, run: Callable[..., Tensor]) -> tuple[Tensor, tuple[int, int]]:
        """What the last stage's first block sees, `[B, 1 + Y * X, D]`, and the grid (Y, X).

        Args:
            images: `[B, 3, H, W]`, H and W multiples of 16.
            run: how earlier blocks are run, `run(block, x, grid)`.

        Raises:
            ValueError: in training, a single image so small that batch norm sees one value.
        """
        x = images
        for number in range(2):
            stage = self._stage(number)
            x, grid = stage.patch_embed(x)
            for block in stage.blocks:
                x = run(block, x, grid)
            x = laid_out(x, grid)
        last = self._stage(2)
        x, grid = last.patch_embed(x)
        if self.training and len(x) == 1 and self.keys_grid(grid) == (1, 1):
            raise ValueError(
                f"one image of {images.shape[-2]} x {images.shape[-1]} pixels leaves a single key in CvT's last stage, "
                "and batch norm cannot be trained on one value; take larger images or batches"
            )
        return torch.cat((last.cls_token.expand(len(x), -1, -1), x), dim=1), grid

    def keys_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Of the last stage's keys, for a grid of its tokens: half of them a side, rounded up."""
        return (grid[0] + 1) // 2, (grid[1] + 1) // 2

    def resize(self, image_size: tuple[int, int]) -> None:
        """Note another size, (height, width): there are no positions."""
        self.image_size = image_size

    def _stage(self, number: int) -> Any:
        return getattr(self, f"stage{number}")


class CvtStage(nn.Module):
    """One stage: `patch_embed`, `blocks`, and in the last one `cls_token`."""

    def __init__(self, config: CvtConfig, number: int, drop_path: list[float], cut: SurgeryConfig | None) -> None:
        """Args: number: 0, 1 or 2; drop_path: of each block; cut: what the last block does without."""
        super().__init__()
        width, channels = config.embed_dims[number], config.embed_dims[number - 1] if number else 3
        kernel, stride, padding = (3, 2, 1) if number else (7, 4, 2)
        self.patch_embed = ConvEmbed(channels, width, kernel=kernel, stride=stride, padding=padding)
        last = len(drop_path) - 1
        self.blocks = nn.ModuleList(
            _block(config, number, rate, cut if place == last else None) for place, rate in enumerate(drop_path)
        )
        token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02)) if number == 2 else None
        self.register_parameter("cls_token", token)


class ConvAttention(nn.Module):
    """Self-attention on what depth-wise convolutions make of the tokens; the class token passes by these."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, width**-0.5
        for part, stride in (("q", 1), ("k", 2), ("v", 2)):
            self.add_module(f"conv_proj_{part}", _depthwise(width, stride))
            self.add_module(f"proj_{part}", nn.Linear(width, width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Normalized tokens `[B, T, D]`; returns output, queries and keys, see `GridBlock`."""
        prefix = x.shape[1] - grid[0] * grid[1]
        first, laid = x[:, :prefix], laid_out(x[:, prefix:], grid)
        query, key, value = (self._projected(part, first, laid) for part in "qkv")
        mixed = functional.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return self.proj(mixed.transpose(1, 2).flatten(2)), query, key

    def _projected(self, part: str, first: Tensor, laid: Tensor) -> Tensor:
        cells = getattr(self, f"conv_proj_{part}")(laid).flatten(2).transpose(1, 2)
        return of_heads(getattr(self, f"proj_{part}")(torch.cat((first, cells), dim=1)), self.heads)


def _depthwise(width: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(width)))


def _block(config: CvtConfig, stage: int, drop_path: float, cut: SurgeryConfig | None) -> GridBlock:
    from timm.layers import QuickGELU

    width = config.embed_dims[stage]
    activation: type[nn.Module] = QuickGELU if config.activation == "quick_gelu" else nn.GELU
    switches = {} if cut is None else cut.model_dump(exclude={"entropy"})
    attn = ConvAttention(width, config.heads[stage])
    return GridBlock(
        attn, width, width * config.mlp_ratios[stage], drop_path=drop_path, activation=activation, **switches
    )
