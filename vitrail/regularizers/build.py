"""One setting that names a regularizer, for recipes that switch between them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vitrail.config import Config, ConfigError
from vitrail.contracts import Backbone, Regularizer
from vitrail.regularizers.drloc import DRLoc
from vitrail.regularizers.spatial_entropy import SpatialEntropy
from vitrail.regularizers.total_variation import TotalVariation
from vitrail.regularizers.weight import WeightConfig
from vitrail.regularizers.weighted import Weighted


class RegularizerConfig(Config):
    """Which regularizer, on which block, how strongly.

    kind: "spatial_entropy" (SAR), "total_variation" or "drloc".
    block: 0-based, negative from the last.
    weight: its schedule.
    pairs: drawn per image, for "drloc" alone, as is
    hidden: the width of its MLP.
    """

    kind: Literal["spatial_entropy", "total_variation", "drloc"] = "spatial_entropy"
    block: int = -1
    weight: WeightConfig = WeightConfig()
    pairs: int = Field(default=64, ge=1)
    hidden: int = Field(default=512, ge=1)


def build(config: RegularizerConfig, backbone: Backbone) -> Weighted:
    """The regularizer that a configuration asks for; `ConfigError` for a block that is not there."""
    if not -backbone.depth <= config.block < backbone.depth:
        raise ConfigError(
            f"regularizer.block is {config.block}, but the backbone has {backbone.depth} blocks;"
            f" choose {-backbone.depth} to {backbone.depth - 1}, -1 is the last"
        )
    regularizer: Regularizer
    if config.kind == "spatial_entropy":
        regularizer = SpatialEntropy(config.block)
    elif config.kind == "total_variation":
        regularizer = TotalVariation(config.block)
    else:
        regularizer = DRLoc(backbone.embed_dim, config.pairs, config.block, config.hidden)
    return Weighted(regularizer, config.weight, name=config.kind)
