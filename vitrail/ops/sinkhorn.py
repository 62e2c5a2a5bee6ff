"""Assign samples to prototypes so that all prototypes are used equally: Sinkhorn-Knopp in the log domain.

The assignment is the matrix closest to exp(logits / temperature) (in relative entropy) whose rows, the samples,
carry equal mass and whose columns, the prototypes, receive equal mass. One iteration scales the columns, then the
rows:

    log Q <- log Q - logsumexp over rows        every prototype receives the same
    log Q <- log Q - logsumexp over columns     every sample gives 1

The published form has the marginals 1/K and 1/B between the steps, K prototypes and B samples, and multiplies by B
at the end. These are factors of the whole matrix, which the next scaling takes out again; so neither the number of
samples on other ranks nor any other count has to be known.

Sources: Sinkhorn and Knopp 1967; Cuturi 2013 (arXiv 1306.0895); its use for assignments and the order of the two
steps in SwAV, Caron et al. 2020 (arXiv 2006.09882), which DINO's and iBOT's successors and Leopart follow.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Combine = Callable[[Tensor], Tensor]
"""Log-sums of this rank -> the logsumexp of those of all ranks, of the same shape."""


def _alone(log_sums: Tensor) -> Tensor:
    return log_sums


@torch.no_grad()
def sinkhorn(
    logits: Tensor,
    temperature: float = 0.05,
    iterations: int = 3,
    *,
    valid: Tensor | None = None,
    combine: Combine = _alone,
) -> Tensor:
    """Soft assignments of samples to prototypes, with prototypes used equally.

    Args:
        logits: `[..., B, K]` of B samples for K prototypes, any batch axes before them; -inf closes a prototype to
            a sample.
        temperature: positive; the logits are divided by it. Also called epsilon.
        iterations: of scaling, at least 1.
        valid: bool `[..., B]`, the samples that count (iBOT: the masked patches); None for all of them. The others
            have no influence and get no assignment.
        combine: joins the samples of several processes. It is called once an iteration, on each rank, with log-sums
            `[..., 1, K]` over this rank's samples, and returns their logsumexp over ranks; `over_ranks` makes one.
            A constant added to all of them changes nothing.

    Returns:
        `[..., B, K]`, float32 or wider, not negative, without gradient. Each valid row sums to 1; over all rows of
        all ranks each column approaches the number of valid rows divided by K as iterations go on. A row that does
        not count, or whose logits are all -inf, is 0; so is a prototype that is closed to all.

    Raises:
        ValueError: for fewer than two axes, a temperature that is not positive, fewer than 1 iteration, a `valid`
            that does not fit; on the CPU for NaN or +inf (looking would wait for a GPU).

    Ranks may have different numbers of samples, none included; all of them call this the same number of times.
    """
    _check(logits, temperature, iterations, valid)
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    if valid is not None:
        scores = scores.masked_fill(~valid[..., None], -torch.inf)
    rows = scores.new_zeros(())
    for _ in range(iterations):
        columns = _finite(combine((scores - rows).logsumexp(-2, keepdim=True)))
        rows = _finite((scores - columns).logsumexp(-1, keepdim=True))
    return (scores - columns - rows).exp_()


def over_ranks(maximum: Combine, total: Combine) -> Combine:
    """A `combine` for `sinkhorn` of two reductions that every library of processes has.

    Args:
        maximum: the elementwise maximum of a tensor over all ranks.
        total: the elementwise sum over all ranks; a mean does as well, as constants change nothing.

    Returns:
        The logsumexp over ranks, computed relative to the largest, so that it neither overflows nor vanishes.
    """

    def combine(log_sums: Tensor) -> Tensor:
        largest = _finite(maximum(log_sums.clone()))
        return largest + total((log_sums - largest).exp()).log()

    return combine


def _finite(log_sums: Tensor) -> Tensor:
    # The sum over nothing has the logarithm -inf, and -inf - -inf is NaN; any number leaves such entries at 0.
    return log_sums.masked_fill(log_sums == -torch.inf, 0)


def _check(logits: Tensor, temperature: float, iterations: int, valid: Tensor | None) -> None:
    if logits.ndim < 2 or not logits.is_floating_point():
        raise ValueError(f"logits are {logits.dtype} {list(logits.shape)}; they must be floating point [..., B, K]")
    if not 0 < temperature < torch.inf:
        raise ValueError(f"temperature is {temperature}; it must be positive and finite, as in 0.05")
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; give at least 1, as in 3")
    if valid is not None and (valid.dtype != torch.bool or valid.shape != logits.shape[:-1]):
        raise ValueError(
            f"valid is {valid.dtype} {list(valid.shape)}, but logits {list(logits.shape)} need bool"
            f" {list(logits.shape[:-1])}"
        )
    if logits.device.type == "cpu" and not (logits < torch.inf).all():
        raise ValueError("the logits hold NaN or +inf; look at the loss of the step before")
