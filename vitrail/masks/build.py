"""One setting that names a mask, for recipes that switch between them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from vitrail.config import Config
from vitrail.contracts import Mask
from vitrail.masks.attention import Amt, AttMask
from vitrail.masks.block import Block
from vitrail.masks.dpp import Dpp
from vitrail.masks.inverse_block import InverseBlock
from vitrail.masks.random import Random

_FIELDS = {
    "random": (),
    "block": ("least", "aspect"),
    "inverse_block": ("least", "aspect"),
    "dpp": ("tau", "kernel", "bandwidth", "randomness", "first"),
    "attmask": ("hints", "order"),
    "amt": (),
}


class MaskConfig(Config):
    """Which mask, and how it is set. A field that the kind does not read keeps its default."""

    kind: Literal["random", "block", "inverse_block", "dpp", "attmask", "amt"] = "random"
    least: float = Field(16, gt=0, allow_inf_nan=False, description="smallest rectangle, patches of a 14x14 grid")
    aspect: float = Field(0.3, gt=0, le=1, description="rectangles' height / width lies in [aspect, 1 / aspect]")
    tau: float = Field(0.5, ge=0, le=1, description="chance in the search for unlike patches: 0 none, 1 random masking")
    kernel: Literal["gaussian", "cosine"] = Field("gaussian", description="how alike patches are")
    bandwidth: float | Literal["median"] = Field("median", description="of the Gaussian, squared normalized pixels")
    randomness: Literal["stop", "mix"] = Field("stop", description="what tau does: end the search, or mix each choice")
    first: Literal["random", "argmax"] = Field("random", description="first visible patch; argmax: no chance in it")
    hints: float = Field(0.0, ge=0, lt=1, description="share of the most attended patches that is shown nevertheless")
    order: Literal["high", "low"] = Field("high", description="hide the most attended patches, or the least")

    @model_validator(mode="after")
    def _only_what_is_read(self) -> Self:
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name == "kind" or name in _FIELDS[self.kind] or value == field.default:
                continue
            readers = " and ".join(kind for kind, names in _FIELDS.items() if name in names)
            raise ValueError(
                f'{name} is {value!r}, but kind "{self.kind}" does not read it ({readers} does); '
                f"leave it at {field.default!r}, or choose another kind"
            )
        return self

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        build(self)  # the masks' own words for what does not go together
        return self


def build(config: MaskConfig) -> Mask:
    """The mask that a configuration asks for."""
    if config.kind == "block":
        return Block(config.least, config.aspect)
    if config.kind == "inverse_block":
        return InverseBlock(config.least, config.aspect)
    if config.kind == "dpp":
        return Dpp(config.tau, config.kernel, config.bandwidth, config.randomness, config.first)
    if config.kind == "attmask":
        return AttMask(config.hints, config.order)
    return Amt() if config.kind == "amt" else Random()
