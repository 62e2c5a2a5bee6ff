"""AdaViT's blocks say which patches they want to see.

From the second block on, three linear maps decide what the block uses of itself, each by a sigmoid and a threshold:

    tokens    t_j = sigmoid(w . LN1(x_j) + b)      a patch that is not used passes the block by, unseen
    heads     h   = sigmoid(W x_cls + b)           a head that is not used gives nothing
    layers    l   = sigmoid(W x_cls + b), 2        attention and MLP; what is not used leaves the tokens as they are

The class token is always used. A patch may come back in the next block. In training, logistic noise is added to the
logits, which are divided by 5, and hard decisions take the gradient of the soft ones. Images of a batch decide each for
itself, so nothing is saved here by a decision: what is not used is computed and multiplied by zero.

Variants of the ranker
    last_block    (the text of LTRP, the default) patches that the last block uses first, t among equals: the order of t
    summed        (as its released code) how many of the last 6 blocks use a patch, then the sum of t over these blocks;
                  the released code breaks no ties

Sources: Meng et al., "AdaViT: Adaptive Vision Transformers for Efficient Image Recognition", 2022 (arXiv 2111.15668);
the supplement of LTRP, the ranker. Weights: DeiT's names with `attn.query`, `key` and `value` apart, and in a block
`attn.token_select.mlp_head`, `head_select.mlp_head` and `layer_select.mlp_head`. The authors' larger models have a T2T
stem in place of the patch embedding and cannot be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.nn.open_block import OpenBlock
from vitrail.nn.policy_attention import policy_attention
from vitrail.rankers.source import Source, variant_of
from vitrail.rankers.stages import by_level
from vitrail.rankers.vit import open_with_part

VARIANTS = ("last_block", "summed")
WEIGHTS = "a run of `vitrail train folder_ada_vit`, or a released checkpoint of AdaViT on a DeiT"
PART = "decisions"
"""What the decision networks are called in a file."""
RELEASED_THRESHOLD = 0.6
"""Of tokens in the released networks; that of heads and layers is 0.5, as all are in the text."""
SUMMED = 6
TEMPERATURE = 5.0


class Decision(nn.Module):
    """What one block decides by; logits."""

    def __init__(self, width: int, heads: int) -> None:
        """Args: width: D of the tokens; heads: of the block. Starts in favor of using everything."""
        super().__init__()
        self.token, self.head, self.layer = nn.Linear(width, 1), nn.Linear(width, heads), nn.Linear(width, 2)
        for part in (self.token, self.head, self.layer):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.constant_(part.bias, 2.0)


class Used(NamedTuple):
    """A block's decisions, 0 or 1 with the gradients of the soft ones, and their sigmoids without noise."""

    tokens: Tensor  # [B, N]
    heads: Tensor  # [B, H]
    layers: Tensor  # [B, 2], attention and MLP
    soft_tokens: Tensor  # [B, N] in [0, 1]
    soft_heads: Tensor  # [B, H]
    soft_layers: Tensor  # [B, 2]


class Adapted(NamedTuple):
    """What is left of an image, and what was used for it."""

    cls: Tensor  # [B, D] after the final norm
    patches: Tensor  # [B, N, D] after the final norm
    grid: tuple[int, int]  # (Y, X)
    used: tuple[Used, ...]  # one a block that decides


def decisions(backbone: TimmViT, first: int = 1) -> nn.ModuleDict:
    """Fresh decision networks of the blocks from `first` on, by the block's number.

    Raises `ValueError` where no block is left to decide, or one cannot be opened or was operated on.
    """
    if not 0 <= first < backbone.depth:
        raise ValueError(f"blocks from {first} on are to decide, and there are {backbone.depth}; choose a smaller one")
    _check(backbone, range(first, backbone.depth))
    return nn.ModuleDict(
        {str(index): Decision(backbone.embed_dim, backbone.heads) for index in range(first, backbone.depth)}
    )


def adapt(
    backbone: TimmViT,
    parts: nn.ModuleDict,
    images: Tensor,
    *,
    noisy: bool = False,
    threshold: float = 0.5,
    partial_heads: bool = False,
) -> Adapted:
    """Run a ViT whose blocks decide what they use.

    Args:
        backbone: of plain blocks.
        parts: `decisions`, by the block's number.
        images: `[B, 3, H, W]`, normalized.
        noisy: draw the decisions, as in training; chance is torch's global one.
        threshold: of the tokens' sigmoid; that of heads and layers is 0.5.
        partial_heads: a head that is not used hands each token its own value, instead of nothing.
    """
    x, grid = backbone.embed(images)
    found = []
    for index, block in enumerate(backbone.vit.blocks):
        if str(index) not in parts:
            x = backbone.run_block(block, x)
            continue
        way = partial(
            _adapted_block,
            part=parts[str(index)],
            prefix=backbone.prefix_tokens,
            noisy=noisy,
            threshold=threshold,
            partial_heads=partial_heads,
        )
        x, *used = backbone.run_block(block, x, through=way)
        found.append(Used(*used))
    x = backbone.norm(x)
    return Adapted(x[:, 0], x[:, backbone.prefix_tokens :], grid, tuple(found))


def _adapted_block(
    block: OpenBlock, x: Tensor, part: Any, prefix: int, noisy: bool, threshold: float, partial_heads: bool
) -> tuple[Tensor, ...]:
    """The block's output and what `Used` holds."""
    normed = block.norm1(x)
    tokens, soft_tokens = decide(part.token(normed[:, prefix:]).squeeze(-1), noisy, threshold)
    heads, soft_heads = decide(part.head(x[:, 0]), noisy)
    layers, soft_layers = decide(part.layer(x[:, 0]), noisy)
    everyone = torch.cat((tokens.new_ones(len(x), prefix), tokens), dim=1)
    attended = policy_attention(block.attn, normed, everyone, heads, as_identity=partial_heads)
    share = (everyone[:, :, None] * layers[:, None, :]).to(attended.dtype)
    x = block.join(x, attended * share[:, :, :1])
    changed = block.mlp(block.norm2(x)) * share[:, :, 1:]
    x = x + block.drop_path2(block.ls2(changed))
    return x, tokens, heads, layers, soft_tokens, soft_heads, soft_layers


def decide(logits: Tensor, noisy: bool, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Hard decisions, 0 or 1 with the gradient of the soft ones, and sigmoids without noise; float32 or wider.

    Noise is the difference of two Gumbel variables, a logistic one; logits with noise are divided by the temperature.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    clean = logits.sigmoid()
    if noisy:
        uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        logits = (logits + uniform.logit()) / TEMPERATURE
    return hardened(logits.sigmoid(), threshold), clean


def hardened(soft: Tensor, threshold: float = 0.5) -> Tensor:
    """1 above the threshold, else 0, with the gradient of `soft`."""
    return (soft > threshold).to(soft.dtype) + (soft - soft.detach())


def _check(backbone: TimmViT, indices: range) -> None:
    for index in indices:
        if index in backbone.closed:
            raise ValueError(backbone.closed[index])
        if backbone.vit.blocks[index].operated:
            raise ValueError(
                f"block {index} has lost a skip connection by SAR's surgery, and a layer that is not used would leave "
                "nothing of the tokens; start from a plain model"
            )


def from_source(source: Source) -> AdaVitRanker:
    """From a run of AdaViT, or from the released file of a DeiT with decisions in its blocks."""
    variant = variant_of(source, "ada_vit", VARIANTS)
    backbone, part = open_with_part(source, "ada_vit", PART, WEIGHTS)
    parts = decisions(backbone, min(int(name.partition(".")[0]) for name in part.state))
    part.fill(parts)
    threshold = part.config.get("threshold", RELEASED_THRESHOLD)
    return AdaVitRanker(backbone, parts, variant, threshold, part.config.get("partial_heads", False))


class AdaVitRanker(nn.Module):
    """Scores by AdaViT's token policies. Fulfills `vitrail.contracts.Ranker`."""

    needs_number = False

    def __init__(
        self,
        backbone: TimmViT,
        parts: nn.ModuleDict,
        variant: str = "last_block",
        threshold: float = 0.5,
        partial_heads: bool = False,
    ) -> None:
        """Args: as of `adapt`; variant: see above."""
        super().__init__()
        self.backbone, self.decisions, self.variant = backbone, parts, variant
        self.threshold, self.partial_heads = threshold, partial_heads
        self.mean, self.std = backbone.mean, backbone.std
        self.image_size, self.patch_size = backbone.image_size, backbone.patch_size

    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Scores `[B, Y, X]`: how many blocks use a patch (of one, or of 6), and a place in [0, 1) by the sigmoids."""
        adapted = adapt(
            self.backbone, self.decisions, images, threshold=self.threshold, partial_heads=self.partial_heads
        )
        blocks = adapted.used[-1:] if self.variant == "last_block" else adapted.used[-SUMMED:]
        return votes(blocks).unflatten(1, adapted.grid)


def votes(blocks: Sequence[Used]) -> Tensor:
    """Scores `[B, N]`: the blocks that use a patch, counted, and the sum of their sigmoids among equals."""
    hard = torch.stack([each.tokens for each in blocks]).sum(0).round()
    return by_level(hard, torch.stack([each.soft_tokens for each in blocks]).sum(0))
