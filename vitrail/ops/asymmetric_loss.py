"""The asymmetric loss: binary cross entropy for many labels an image, of which few are there.

p = sigmoid(logit), m the clip, p_m = max(p - m, 0):

    label there      -(1 - p)^gamma+  log p
    label not there  -p_m^gamma-      log(1 - p_m)

Negatives that are easy weigh little (gamma-), and those below m nothing at all. Source: Ridnik et al., "Asymmetric
Loss For Multi-Label Classification", 2021 (arXiv 2009.14119), Eq. 4 to 6.

The focusing factors (1 - p)^gamma+ and p_m^gamma- depend on the logits, so the gradient of the formula has a term that
goes through them: this is the default. The authors' training holds the factors fixed while it differentiates;
`focus_gradient=False` does so. The values are the same, the gradients are not.

Powers are taken in the log domain, so that loss and gradient are finite wherever the logits are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Reduction = Literal["none", "mean", "sum", "image"]


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_negative: float = 4.0,
    gamma_positive: float = 0.0,
    clip: float = 0.05,
    known: Tensor | None = None,
    focus_gradient: bool = True,
    reduction: Reduction = "image",
) -> Tensor:
    """The loss of logits `[B, C]`, in nats; computed in float32, or float64 where the logits are.

    Args:
        logits: one for each image and class.
        targets: `[B, C]`, 1 or True where the label is there, 0 where it is not.
        gamma_negative, gamma_positive: focusing exponents, at least 0; 0 leaves the term unfocused.
        clip: m, in [0, 1): what is taken from the probability of labels that are not there.
        known: bool `[B, C]`, False where nobody knows whether the label is there: no part in loss and gradient.
        focus_gradient: differentiate through the focusing factors, too.
        reduction: "none" gives `[B, C]`, "mean" the mean over what is known, "sum" the sum over all, as the authors'
            code; "image" the sum over the classes and the mean over the images, which no batch size changes.

    Raises:
        ValueError: shapes that differ, a negative gamma, a clip outside [0, 1), or another reduction.
    """
    _check(logits, targets, known, gamma_negative, gamma_positive, clip)
    logits = logits.double() if logits.dtype == torch.float64 else logits.float()
    positive = _focused(F.logsigmoid(logits), gamma_positive * F.logsigmoid(-logits), focus_gradient)
    negative = _negative(logits, gamma_negative, clip, focus_gradient)
    there = targets.to(torch.bool)
    losses = torch.where(there, positive, negative)
    if known is not None:
        losses = losses.masked_fill(~known, 0.0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction == "image":
        return losses.sum() / max(len(losses), 1)
    if reduction == "mean":
        return losses.mean() if known is None else losses.sum() / known.sum().clamp(min=1)
    raise ValueError(f"reduction is {reduction!r}; choose none, mean, sum or image")


def _negative(logits: Tensor, gamma: float, clip: float, focus_gradient: bool) -> Tensor:
    if not clip:
        return _focused(F.logsigmoid(-logits), gamma * F.logsigmoid(logits), focus_gradient)
    left = logits.sigmoid() - clip
    counts = left > 0
    # Where nothing counts, 0.5 stands in: the slope of log and power at 0 must not meet the mask's 0.
    probability = torch.where(counts, left, 0.5)
    losses = _focused(torch.log1p(-probability), gamma * probability.log(), focus_gradient)
    return torch.where(counts, losses, 0.0)


def _focused(log_likelihood: Tensor, log_factor: Tensor, focus_gradient: bool) -> Tensor:
    return -(log_factor if focus_gradient else log_factor.detach()).exp() * log_likelihood


def _check(
    logits: Tensor, targets: Tensor, known: Tensor | None, gamma_negative: float, gamma_positive: float, clip: float
) -> None:
    if logits.ndim != 2 or targets.shape != logits.shape:
        raise ValueError(
            f"logits are {list(logits.shape)} and targets {list(targets.shape)}; both are [B, C], a column for each "
            "class"
        )
    if known is not None and (known.shape != logits.shape or known.dtype != torch.bool):
        raise ValueError(f"known is {list(known.shape)} of {known.dtype}; it is bool {list(logits.shape)}")
    if gamma_negative < 0 or gamma_positive < 0:
        raise ValueError(f"gamma_negative {gamma_negative} and gamma_positive {gamma_positive} are at least 0")
    if not 0 <= clip < 1:
        raise ValueError(f"clip {clip} is not inside [0, 1); 0.05 is usual, 0 switches it off")
