"""Blocks of networks in stages: their attention looks at the grid of the tokens, and hands out the CLS scores.

    z' = MSA(LN1(z)) + z       output = MLP(LN2(z')) + z'

The switches are those of SAR's surgery, see `vitrail.nn.surgery`. Attention runs fused; the scores of the first token
are one small product beside it, as in `vitrail.nn.open_block`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vitrail.nn.open_block import first_row


class GridBlock(nn.Module):
    """norm1, attention, norm2 and MLP; each skip connection and norm2 can be switched off.

    The attention is called as `attn(x, grid)` with tokens `[B, T, D]` and gives its output `[B, T, D]`, queries
    `[B, H, T, d]` and keys `[B, H, S, d]`. `attn.scale` is what its softmax multiplies q . k by; without it 1/sqrt(d).
    """

    def __init__(
        self,
        attn: nn.Module,
        width: int,
        hidden: int,
        *,
        drop_path: float = 0.0,
        activation: type[nn.Module] = nn.GELU,
        eps: float = 1e-5,
        msa_skip: bool = True,
        norm2: bool = True,
        mlp_skip: bool = True,
    ) -> None:
        """Args:
        attn: as above.
        width, hidden: channels of the tokens, and inside the MLP.
        drop_path: chance in [0, 1) that a branch is skipped in training. A branch without its skip connection has
            none: dropping it would zero the tokens.
        activation: of the MLP.
        eps: of both norms.
        msa_skip, norm2, mlp_skip: what a block of SAR's does without.
        """
        from timm.layers import DropPath, Mlp  # takes seconds to import

        super().__init__()
        self.msa_skip, self.mlp_skip = msa_skip, mlp_skip
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = attn
        self.drop_path1 = DropPath(drop_path) if drop_path and msa_skip else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=eps) if norm2 else nn.Identity()
        self.mlp = Mlp(width, hidden, act_layer=activation)
        self.drop_path2 = DropPath(drop_path) if drop_path and mlp_skip else nn.Identity()

    def forward(self, x: Tensor, grid: tuple[int, int], *, scores: bool = False) -> Any:
        """Tokens `[B, T, D]` to tokens; with `scores=True` to (tokens, scores).

        Args:
            x: tokens, a class token first where there is one, then those of the grid.
            grid: (Y, X).
            scores: also return the first token's scores against all keys: q_0 . k times the attention's own scale,
                before any softmax, `[B, H, S]`, float32 or wider.
        """
        attended, query, key = self.attn(self.norm1(x), grid)
        attended = self.drop_path1(attended)
        x = x + attended if self.msa_skip else attended
        changed = self.drop_path2(self.mlp(self.norm2(x)))
        x = x + changed if self.mlp_skip else changed
        return (x, first_row(query, key, getattr(self.attn, "scale", None))) if scores else x

    @property
    def operated(self) -> bool:
        """Whether anything is switched off."""
        return not (self.msa_skip and self.mlp_skip) or isinstance(self.norm2, nn.Identity)

    def extra_repr(self) -> str:
        """The switches, so that two blocks that differ in them print differently."""
        return f"msa_skip={self.msa_skip}, mlp_skip={self.mlp_skip}"


class ConvEmbed(nn.Module):
    """A convolution that makes tokens of an image or of a map, and their norm."""

    def __init__(
        self, channels: int, width: int, *, kernel: int, stride: int, padding: int = 0, eps: float = 1e-5
    ) -> None:
        """Args: channels that come in; width of the tokens; kernel, stride, padding in cells; eps of the norm."""
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel, stride=stride, padding=padding)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """A map `[B, C, H, W]` to tokens `[B, Y * X, D]` in raster order, and the grid (Y, X)."""
        x = self.proj(x)
        grid = (x.shape[2], x.shape[3])
        return self.norm(x.flatten(2).transpose(1, 2)), grid


def of_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, T, D]` cut into heads, `[B, H, T, d]`."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def laid_out(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens `[B, Y * X, D]` in raster order as a map `[B, D, Y, X]`."""
    return x.transpose(1, 2).unflatten(2, grid)


def draw_weights(module: nn.Module) -> None:
    """Linear layers anew as both families start them: std 0.02, cut at +-2, biases 0. The others stay."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
