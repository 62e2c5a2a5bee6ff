"""Ways to hide patches, for methods that drop what is hidden and for those that put a token there.

All fulfill `vitrail.contracts.Mask`, so one can stand in for another. In a loop of your own:

    mask = Dpp(tau=0.5)(images, (14, 14), 0.75)
    tokens = backbone(images, keep=visible(mask))

On a GPU, `visible(mask, 0.75)` saves waiting for the number of visible patches. Numbers that differ from image to
image come from `draw_numbers`.
"""

from vitrail.masks.attention import Amt, AttMask
from vitrail.masks.block import Block
from vitrail.masks.build import MaskConfig, build
from vitrail.masks.dpp import Dpp
from vitrail.masks.ids import restore, visible
from vitrail.masks.inverse_block import InverseBlock
from vitrail.masks.random import Random
from vitrail.masks.ratio import RatioConfig, draw_numbers

__all__ = [
    "Amt",
    "AttMask",
    "Block",
    "Dpp",
    "InverseBlock",
    "MaskConfig",
    "Random",
    "RatioConfig",
    "build",
    "draw_numbers",
    "restore",
    "visible",
]
