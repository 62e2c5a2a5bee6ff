"""How strongly a regularizer counts over training: the two schedules of SAR's lambda.

The paper's text keeps lambda at 0.01. The released code warms it up linearly over the first 10 epochs and
lets it fall to 0 on a cosine, one value per epoch, which gives half of that on average (0.00505 over 100
epochs).
"""

from __future__ import annotations

from math import cos, pi
from typing import Literal, Self

from pydantic import Field, model_validator

from vitrail.config import Config


class WeightConfig(Config):
    """Weight of a regularizer.

    kind: "constant" (the paper's text) or "warmup_cosine" (the released code).
    peak: the constant value, or the highest one; >= 0, a factor on the loss.
    epochs: length of training in epochs; read by "warmup_cosine" alone, as is warmup_epochs. A recipe fills in its
        own where this is null.
    warmup_epochs: epochs that rise from 0 to peak, both ends included.
    """

    kind: Literal["constant", "warmup_cosine"] = "constant"
    peak: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    epochs: int | None = Field(default=None, ge=1)
    warmup_epochs: int = Field(default=10, ge=0)

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.kind == "warmup_cosine" and self.epochs is not None and self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} is more than epochs {self.epochs}; shorten the warm-up"
            )
        return self


def weight_at(config: WeightConfig, progress: float) -> float:
    """The weight after the share `progress` of training, in [0, 1).

    "warmup_cosine" changes once per epoch e = floor(progress * epochs): peak * e / (warmup_epochs - 1) while
    e < warmup_epochs, then peak * (1 + cos(pi * (e - warmup_epochs) / (epochs - warmup_epochs))) / 2.

    Raises:
        ValueError: for a progress outside [0, 1], or a "warmup_cosine" of unknown length.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is {progress}; it must lie in [0, 1], as Step.progress does")
    if config.kind == "constant":
        return config.peak
    if config.epochs is None:
        raise ValueError(
            "a warmup_cosine weight needs epochs, the length of training; null is filled in by recipes alone"
        )
    # The first step of an epoch may come out of its division a rounding error below the whole number.
    epoch = min(int(progress * config.epochs + 1e-9), config.epochs - 1)
    warmup = config.warmup_epochs
    if epoch < warmup:
        return config.peak * epoch / max(warmup - 1, 1)
    return config.peak * (1 + cos(pi * (epoch - warmup) / (config.epochs - warmup))) / 2
