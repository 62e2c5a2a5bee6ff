"""The learning rate and the weight decay as pure functions of the step."""

from __future__ import annotations

import math

from vitrail.train.config import TrainConfig


def learning_rate_at(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Linear warm-up from `warmup_learning_rate`, then half a cosine from the peak to `min_learning_rate`.

    Step 0 is the first; the peak stands at step `warmup_epochs * steps_per_epoch`; the minimum would be
    reached at step `epochs * steps_per_epoch`, one after the last. A run that is extended keeps its steps and
    takes this curve for the new number of epochs: the rate jumps once, to where the longer cosine stands.
    """
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.warmup_learning_rate + (config.learning_rate - config.warmup_learning_rate) * step / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    height = config.learning_rate - config.min_learning_rate
    return config.min_learning_rate + height * (1 + math.cos(math.pi * progress)) / 2


def weight_decay_at(step: int, total: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end`, which would be reached at step `total`, one after the last."""
    return end + (start - end) * (1 + math.cos(math.pi * step / max(total, 1))) / 2
