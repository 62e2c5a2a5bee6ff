"""Where a backbone's class token looks, as masks that are guided by attention read it."""

from __future__ import annotations

import torch
from torch import Tensor

from vitrail.contracts import Backbone


@torch.no_grad()
def cls_attention(backbone: Backbone, images: Tensor, block: int = -1) -> Tensor:
    """Attention of a block's class token to the patches: `[B, N]` float32, not negative, each row sums to 1.

    `ValueError` for a network with fewer keys than patches, whose attention says nothing of single patches.
    """
    tokens = backbone(images, scores=(block,))
    scores = tokens.scores[block]
    if tuple(scores.shape[-2:]) != tuple(tokens.grid):
        rows, columns = scores.shape[-2:]
        raise ValueError(
            f"the class token attends to {rows} x {columns} keys, and there are {tokens.grid[0]} x {tokens.grid[1]} "
            "patches, so its attention is no number for each of them; take a plain ViT, or a PVT"
        )
    return attention_of(scores)


@torch.no_grad()
def attention_of(scores: Tensor) -> Tensor:
    """The same of CLS scores `[B, H, Y, X]`, as backbones return them.

    The softmax runs over the patches alone, then the heads are averaged. What the class token gives to itself is left
    out, which changes the weight of a head in the average, and no head's order of patches.
    """
    return scores.float().flatten(2).softmax(-1).mean(1)
