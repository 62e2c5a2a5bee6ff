"""The multilayer perceptron between a backbone and a loss on two views; it is thrown away after training.

    linear -> batch norm -> ReLU, once for each hidden layer, then linear [-> batch norm]

Sources: SimCLR, Chen et al. 2020 (arXiv 2002.05709), which found that features before it are the better ones; Barlow
Twins and SimSiam (arXiv 2103.03230, 2011.10566) for the batch norms; MoCo v2 (arXiv 2003.04297) has none, MoCo-v3
(arXiv 2104.02057) has them everywhere, over the batch of all processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from vitrail.config import Config
from vitrail.nn.whole_batch_norm import WholeBatchNorm


class ProjectionConfig(Config):
    """Sizes of a projection head."""

    layers: int = Field(2, ge=1)
    """Linear layers, the last one included."""
    hidden_dim: int = Field(512, ge=1)
    """Width between them."""
    out_dim: int = Field(128, ge=1)
    """Width of the embeddings."""
    norm: bool = True
    """Batch norm after each hidden layer."""
    last_norm: bool = False
    """Batch norm of the embeddings, too, without a scale or shift that is learned."""
    whole_batch: bool = False
    """Batch norm takes mean and variance of the rows of all processes; false: of those of each process alone."""


class ProjectionHead(nn.Module):
    """Features `[B, width]` to embeddings `[B, out_dim]`."""

    def __init__(self, config: ProjectionConfig, width: int) -> None:
        super().__init__()
        batch_norm = WholeBatchNorm if config.whole_batch else nn.BatchNorm1d
        sizes = [width, *[config.hidden_dim] * (config.layers - 1), config.out_dim]
        layers: list[nn.Module] = []
        for number, (taken, given) in enumerate(itertools.pairwise(sizes), 1):
            last = number == config.layers
            norm = config.last_norm if last else config.norm
            layers.append(nn.Linear(taken, given, bias=not norm))
            if norm:
                layers.append(batch_norm(given, affine=not last))
            if not last:
                layers.append(nn.ReLU())
        self.config = config
        self.mlp = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings of features."""
        return self.mlp(features)

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A head's state under this one's names: of a head like this, or of MoCo-v3's, which has no `mlp.` in front.

        Raises:
            ValueError: for a head that compares with prototypes, as those of DINO and iBOT do. Sizes are not looked at.
        """
        if any(name.startswith(("prototypes", "last_layer")) for name in state):
            raise ValueError(
                "the head compares with prototypes, as DINO's and iBOT's, and ours does not; export the backbone alone "
                "(vitrail export) and start from that, with a fresh head"
            )
        return {name if name.startswith("mlp.") else f"mlp.{name}": value for name, value in state.items()}
