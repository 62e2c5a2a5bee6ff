"""Dense relative localization: guess from two patch embeddings how far apart their patches lie.

Source: Liu et al., "Efficient Training of Visual Transformers with Small Datasets" (2021), the comparator of
SAR's supplement C.3. Pairs of positions (i, j), (p, q) are drawn at random from the grid of final patch
embeddings e; an MLP f sees both embeddings side by side, and

    L = mean over pairs of | f(e_ij, e_pq) - (|i - p| / Y, |j - q| / X) |_1

Deviations: distances are divided by the rows and columns of the grid, which need not be square; both members
of a pair are drawn with replacement, so a pair may meet itself (distance 0, one in Y * X); the MLP's form
(two hidden layers of 512 with ReLU) and the 64 pairs per image are defaults of this file, since the SAR paper
states neither, and no weight
of this loss: tune it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail.contracts import Tokens


class DRLoc(nn.Module):
    """The localization loss, >= 0, in grid widths. Holds the MLP, which trains along and is not exported."""

    def __init__(self, embed_dim: int, pairs: int = 64, block: int = -1, hidden: int = 512) -> None:
        """Build the MLP.

        Args:
            embed_dim: width of the patch embeddings.
            pairs: drawn per image and step, from torch's global random numbers.
            block: -1 takes the final patch embeddings (after the norm); another block its output.
            hidden: width of both hidden layers.
        """
        super().__init__()
        if pairs < 1:
            raise ValueError(f"pairs is {pairs}; DRLoc needs one pair per image at least")
        self.layers: tuple[int, ...] = () if block == -1 else (block,)
        self.scores: tuple[int, ...] = ()
        self.pairs = pairs
        self.mlp = nn.Sequential(
            nn.Linear(2 * embed_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2),
        )

    def forward(self, tokens: Tokens) -> Tensor:
        """A scalar in float32. ValueError where patches were dropped: a kept subset has no grid."""
        patches = self._patches(tokens)
        rows, columns = tokens.grid
        batch, count, width = patches.shape
        if count != rows * columns:
            raise ValueError(
                f"tokens hold {count} patches of a {rows}x{columns} grid; DRLoc needs all {rows * columns}"
            )
        places = torch.randint(count, (batch, 2 * self.pairs), device=patches.device)
        drawn = patches.gather(1, places.unsqueeze(-1).expand(-1, -1, width))
        one, other = drawn.chunk(2, dim=1)
        guess = self.mlp(torch.cat([one, other], dim=-1)).float()
        place, place_of_other = places.chunk(2, dim=1)
        down = (place // columns - place_of_other // columns).abs() / rows
        across = (place % columns - place_of_other % columns).abs() / columns
        return functional.l1_loss(guess, torch.stack([down, across], -1), reduction="none").sum(-1).mean()

    def _patches(self, tokens: Tokens) -> Tensor:
        if not self.layers:
            return tokens.patches
        (block,) = self.layers
        if block not in tokens.layers:
            raise ValueError(
                f"tokens hold the outputs of the blocks {sorted(tokens.layers)}, not of {block};"
                f" call backbone(images, layers=({block},))"
            )
        return tokens.layers[block][:, 1:]
