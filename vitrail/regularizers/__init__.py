"""Losses on tokens that compose with any method."""

from vitrail.regularizers.build import RegularizerConfig, build
from vitrail.regularizers.drloc import DRLoc
from vitrail.regularizers.several import Regularizers
from vitrail.regularizers.spatial_entropy import SpatialEntropy
from vitrail.regularizers.total_variation import TotalVariation
from vitrail.regularizers.weight import WeightConfig, weight_at
from vitrail.regularizers.weighted import Weighted

__all__ = [
    "DRLoc",
    "RegularizerConfig",
    "Regularizers",
    "SpatialEntropy",
    "TotalVariation",
    "WeightConfig",
    "Weighted",
    "build",
    "weight_at",
]
