"""MAE's decoder: the hidden patches' pixels from the tokens of the visible ones.

    tokens   = embed(visible) at the places of the visible patches, one mask token at all others
    tokens   = blocks([embed(class token), tokens + positions])
    patches  = predict(norm(tokens))

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022, Section 3 and Appendix A.1; the sizes are
the default ones of Table 1. Positions are fixed, see `vitrail.nn.positions`; the class token has none.

Deviations from the paper
- Predicted patches hold channel, row, column, as `vitrail.ops.patches.patchify` cuts them; in the authors' files it is
  row, column, channel. `vitrail.backbones.load_part` reorders.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vitrail.config import Config
from vitrail.nn.positions import sine_cosine


class DecoderConfig(Config):
    """Sizes of the decoder; the defaults are those of MAE's published models."""

    embed_dim: int = Field(512, gt=0, multiple_of=4)
    """Width of the decoder's tokens; a multiple of 4, for the positions, and of `heads`."""
    depth: int = Field(8, gt=0)
    """Number of transformer blocks."""
    heads: int = Field(16, gt=0)
    """Attention heads per block."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.embed_dim % self.heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of heads {self.heads}; change one of them")
        return self


class MaskedDecoder(nn.Module):
    """Tokens of visible patches to the values of all patches.

    Attributes: `config`, `embed`, `mask_token` (`[1, 1, W]`), `blocks` (timm's), `norm`, `predict`, and the buffer
    `positions` (`[Y * X, W]`, not in the state: it follows from the grid).
    """

    positions: Tensor

    def __init__(
        self, config: DecoderConfig, width: int, patch_size: tuple[int, int], grid: tuple[int, int] = (14, 14)
    ) -> None:
        """Fresh weights: linear layers Xavier-uniform with zero biases, the mask token normal(0, 0.02).

        Args:
            config: sizes.
            width: D, of the backbone's tokens.
            patch_size: (height, width) in pixels; a patch has height * width * 3 values.
            grid: `(Y, X)` whose positions are kept ready; those of another are made when it is asked for.
        """
        super().__init__()
        from timm.models.vision_transformer import Block  # takes seconds to import

        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.config = config
        wide = config.embed_dim
        self.grid = (grid[0], grid[1])
        self.embed = nn.Linear(width, wide)
        self.mask_token = nn.Parameter(torch.empty(1, 1, wide))
        self.register_buffer("positions", sine_cosine(self.grid, wide), persistent=False)
        self.blocks = nn.ModuleList(
            Block(wide, config.heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=norm) for _ in range(config.depth)
        )
        self.norm = norm(wide)
        self.predict = nn.Linear(wide, patch_size[0] * patch_size[1] * 3)
        nn.init.normal_(self.mask_token, std=0.02)
        self.apply(_start)

    def forward(
        self, cls: Tensor, patches: Tensor, visible: Tensor, grid: tuple[int, int], wanted: Tensor | None = None
    ) -> Tensor:
        """Predict patches.

        Args:
            cls: the class token `[B, D]` after the backbone's final norm.
            patches: visible tokens `[B, K, D]` after the final norm, in any order.
            visible: their patch ids `[B, K]`, int64, raster order, none of them twice.
            grid: `(Y, X)` of the whole image.
            wanted: patch ids `[B, M]`, int64, to predict; None for all.

        Returns:
            `[B, N, P]` with N = Y * X in raster order, or `[B, M, P]` in the order of `wanted`;
            P = patch_height * patch_width * 3: channel, row, column, as `vitrail.ops.patches.patchify` cuts.

        Raises:
            ValueError: tokens and ids of different shapes, ids outside the grid, or an id twice among `visible`.
        """
        at = None if wanted is None else wanted + 1
        x = self.sequence(cls, patches, visible, grid, wanted)
        return self.predict(self.features(x)[:, 1:] if at is None else self.features(x, at))

    def sequence(
        self, cls: Tensor, patches: Tensor, visible: Tensor, grid: tuple[int, int], wanted: Tensor | None = None
    ) -> Tensor:
        """What the blocks see, `[B, 1 + N, W]`: the class token, then a token in each patch's place, with positions.

        Arguments and errors are those of `forward`; `wanted` is only checked.
        """
        _check(cls, patches, visible, grid, wanted)
        tokens = self._place(self.embed(patches), visible, grid[0] * grid[1]) + self._positions(grid)
        return torch.cat((self.embed(cls).unsqueeze(1).to(tokens.dtype), tokens), dim=1)

    def features(self, sequence: Tensor, at: Tensor | None = None) -> Tensor:
        """What `predict` reads, after the blocks and the norm.

        Args:
            sequence: `[B, L, W]`, from `sequence`, or some of its tokens: what is left out is there for none of the
                blocks.
            at: places in it, int64 `[B, M]`; None for all.

        Returns:
            `[B, L, W]` or `[B, M, W]`.
        """
        for block in self.blocks:
            sequence = block(sequence)
        if at is not None:
            sequence = sequence.gather(1, at.unsqueeze(2).expand(-1, -1, sequence.shape[2]))
        return self.norm(sequence)

    def _place(self, visible_tokens: Tensor, visible: Tensor, patches: int) -> Tensor:
        """`[B, N, W]`: visible tokens at their places, the mask token everywhere else."""
        batch, _, wide = visible_tokens.shape
        masked = self.mask_token.to(visible_tokens.dtype).expand(batch, patches, wide)
        return masked.scatter(1, visible.unsqueeze(2).expand(-1, -1, wide), visible_tokens)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if tuple(grid) == self.grid:
            return self.positions
        return sine_cosine(grid, self.config.embed_dim, device=self.positions.device).to(self.positions.dtype)


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(cls: Tensor, patches: Tensor, visible: Tensor, grid: tuple[int, int], wanted: Tensor | None) -> None:
    if patches.ndim != 3 or cls.shape != (patches.shape[0], patches.shape[2]):
        raise ValueError(f"cls is {list(cls.shape)} and patches {list(patches.shape)}; they are [B, D] and [B, K, D]")
    if visible.shape != patches.shape[:2] or visible.dtype != torch.int64:
        raise ValueError(
            f"visible is {list(visible.shape)} of {visible.dtype}; it holds one patch id for each of the "
            f"tokens {list(patches.shape)}: int64 {list(patches.shape[:2])}"
        )
    if wanted is not None and (wanted.ndim != 2 or len(wanted) != len(patches) or wanted.dtype != torch.int64):
        raise ValueError(
            f"wanted is {list(wanted.shape)} of {wanted.dtype}; it holds patch ids, int64 [B, M] with B = "
            f"{len(patches)}"
        )
    if visible.device.type != "cpu" or torch.compiler.is_compiling():  # looking waits for a GPU
        return
    count = grid[0] * grid[1]
    for name, ids in (("visible", visible), ("wanted", wanted)):
        if ids is not None and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < count:
            raise ValueError(
                f"{name} names patches {int(ids.min())} to {int(ids.max())}; a grid of {grid[0]}x{grid[1]} has 0 to "
                f"{count - 1}"
            )
    if not bool((visible.sort(dim=1).values.diff(dim=1) > 0).all()):
        raise ValueError("visible names a patch twice in one image; each has one token")
