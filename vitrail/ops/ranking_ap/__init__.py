"""CoTAP: average precision for continuous targets, as a differentiable loss that ranks p as q does.

Source: the CoTAP paper, Eq. 9 to 12. Of one row of N items, scores p (trained) and targets q (constants):

    l(x) = 1 - 2x/tau2 for x < 0,  (1 - x/tau2)^2 for 0 <= x < tau2,  0 beyond
    A_i = sum over {j: q_j < q_i} of l(p_i - p_j),  R_i = #{j: q_j >= q_i, p_j >= p_i} >= 1 (i itself)
    L = (1/N) sum_i max(q_i - tau1, 0) A_i / (A_i + R_i),     0 <= L <= mean of max(q - tau1, 0)

R is a count, so that its derivative is 0 wherever it has one, and q takes no gradient. With D_i = dA_i/dp_i and
w_i = max(q_i - tau1, 0) R_i / ((A_i + R_i)^2 N)

    dL/dp_k = w_k D_k - sum over {i: q_i > q_k} of w_i l'(p_i - p_k)

All N^2 pairs count, and no pair is looked at: l(x) = 1 - 2x/tau2 + ([x]_+^2 - [x - tau2]_+^2) / tau2^2, so that A, D
and the gradient are sums of powers of p over {q_j < q_i, p_j < y}, which divide and conquer finds in O(N log N) time
and O(N) memory. Loss and gradient come in one go; the backward pass is one multiplication. `cpu` (numba), `levels`
(plain torch), `cuda` (Triton; it cuts into blocks instead of halves) and `reference` (autograd, [N, N]) agree to
rounding.

Deviations from the text of the paper: Eq. 11 prints p_i <= p_j for p_i - p_j in its square, and Eq. 12 prints <= for =.
Its loss is the mean over image pairs; here each row keeps its own.
"""

from __future__ import annotations

from importlib.util import find_spec
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vitrail.ops.correspondence import correspondence

if TYPE_CHECKING:
    from vitrail.ops.ranking_ap.batched import Sum

__all__ = ["correspondence", "cotap_loss", "cotap_moments", "sampled_pairs"]

_TRITON = find_spec("triton") is not None


def cotap_loss(p: Tensor, q: Tensor, tau1: float = -0.2, tau2: float = 0.5) -> Tensor:
    """CoTAP loss of each row: low where p ranks the items as q does, with gaps of tau2.

    Args:
        p: `[..., N]` floating point, the scores that are trained; N items, such as the N = (HW)^2 pairs of patches of
            two images.
        q: `[..., N]` floating point, the targets. They take no gradient.
        tau1: an item's weight is max(q - tau1, 0); for q in [0, 1] the -0.2 of the paper leaves none out.
        tau2: the gap of p from which an item counts as above another, positive.

    Returns:
        `[...]`, float64 for float64 p and float32 otherwise. Differentiable by p, once; the gradient has the type of
        p and sums to 0 over each row.

    Raises:
        ValueError: for shapes or devices that differ, no items, scores that are not floating point, a tau1 that is not
            finite, or a tau2 that is not positive and finite.

    Corners: items of equal q do not rank each other; where all of a row are equal, and where N is 1, the loss and the
    gradient are 0. The loss of different targets is never 0 unless each lies tau2 of p from the next. A row that holds
    inf or NaN has the loss NaN and the gradient NaN in each of its items, and leaves the other rows alone: a guard on
    the loss sees it, and nothing here waits for the device to look.

    Half types are widened first, which does not bring back what they have lost: of 38,416 pairs, float16 leaves 1,378
    different targets and bfloat16 203, which moves a loss of 0.372 by -0.001 and -0.006 and its gradient by 0.5% and
    4%. Compute scores in float32, as `correspondence` does.

    Rows are independent: a batch gives the numbers of its rows, bit for bit, and the same ones on every run.
    """
    _check(p, q, tau2)
    if not isfinite(tau1):
        raise ValueError(
            f"tau1 is {tau1}; the weight of an item is max(q - tau1, 0): give a finite number, such as -0.2"
        )
    if torch.compiler.is_compiling():
        return _compiled_loss(p, q, tau1, tau2)[0]
    wanted = p.requires_grad and torch.is_grad_enabled()
    return _Loss.apply(p, q.detach(), tau1, tau2, wanted)[0]


def cotap_moments(p: Tensor, q: Tensor, tau2: float = 0.5) -> tuple[Tensor, Tensor]:
    """What the loss is made of: A, by how much lower targets are misranked, and R, how many are ranked ahead.

    Args and errors: as `cotap_loss`.

    Returns:
        A `[..., N]` float64 (float32 on a device without it), without gradient, and R `[..., N]` int64. A row that
        holds inf or NaN: NaN and -1.
    """
    _check(p, q, tau2)
    p, q, _ = _widened(p, q)
    if p.numel() == 0:
        return p.new_zeros(p.shape, dtype=torch.float64), p.new_zeros(p.shape, dtype=torch.int64)
    if p.device.type == "cpu":
        from vitrail.ops.ranking_ap import cpu

        return cpu.moments(p, q, tau2)
    from vitrail.ops.ranking_ap import batched

    return batched.moments(p, q, tau2, _sum_for(p))


def sampled_pairs(p: Tensor, q: Tensor, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """The same `count` items of p and of q, drawn without repeats, one draw for all rows.

    A / R does not depend on how many items there are, so that the loss of a sample is nearly that of the whole: 0.3713
    +- 0.0015 for 1,024 of 38,416 pairs whose loss is 0.3722.

    Args:
        p, q: `[..., N]`.
        count: of items, 1 to N; N keeps all, in their order.
        generator: on the CPU; None: torch's own.

    Returns:
        `[..., count]` of each, with the gradient of p.

    Raises:
        ValueError: for shapes that differ, or a count that is not in 1 to N.
    """
    if p.shape != q.shape or p.ndim == 0:
        raise ValueError(f"p is {list(p.shape)} and q {list(q.shape)}; both are [..., N]")
    items = p.shape[-1]
    if not 1 <= count <= items:
        raise ValueError(f"{count} of {items} items cannot be drawn; count is 1 to {items}")
    if count == items:
        return p, q
    chosen = torch.randperm(items, generator=generator)[:count].to(p.device)
    return p.index_select(-1, chosen), q.index_select(-1, chosen)


def loss_and_slope(p: Tensor, q: Tensor, tau1: float, tau2: float, slope: bool = True) -> tuple[Tensor, Tensor]:
    """Loss `[...]` and its gradient `[..., N]`, empty where not wanted; both in the type of p, float32 or wider."""
    p, q, result = _widened(p, q)
    if p.numel() == 0:
        return p.new_zeros(p.shape[:-1], dtype=result), p.new_zeros(p.shape, dtype=result)
    if p.device.type == "cpu":
        from vitrail.ops.ranking_ap import cpu

        loss, gradient = cpu.loss_and_slope(p, q, tau1, tau2, slope)
    else:
        from vitrail.ops.ranking_ap import batched

        loss, gradient = batched.loss_and_slope(p, q, tau1, tau2, _sum_for(p), slope)
    return loss.to(result), gradient.to(result)


def _sum_for(scores: Tensor) -> Sum:
    if scores.is_cuda and _TRITON:
        from vitrail.ops.ranking_ap import cuda

        return cuda.dominated
    from vitrail.ops.ranking_ap import levels

    return levels.dominated


def _check(p: Tensor, q: Tensor, tau2: float) -> None:
    if p.shape != q.shape or p.ndim == 0 or p.shape[-1] == 0:
        raise ValueError(f"p is {list(p.shape)} and q {list(q.shape)}; both are [..., N] with N from 1 on")
    if p.device != q.device:
        raise ValueError(f"p is on {p.device} and q on {q.device}; move one, as in `q.to(p.device)`")
    if not (p.is_floating_point() and q.is_floating_point()):
        raise ValueError(f"p is {p.dtype} and q {q.dtype}; both are floating point, as in `scores.float()`")
    if not 0 < tau2 < float("inf"):
        raise ValueError(f"tau2 is {tau2}; it is a gap between scores, positive and finite, such as 0.5")


def _widened(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    """Both in one type, float32 or wider, and the type of the result, which q does not widen."""
    result = torch.promote_types(p.dtype, torch.float32)
    wide = torch.promote_types(result, q.dtype)
    return p.detach().to(wide), q.detach().to(wide), result


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(p: Tensor, q: Tensor, tau1: float, tau2: float, wanted: bool) -> tuple[Tensor, Tensor]:
        return loss_and_slope(p, q, tau1, tau2, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        _keep(ctx, inputs, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return *_backward(ctx, *grad_outputs), None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, *grad_outputs: Any) -> Any:
    (slope,) = ctx.saved_tensors
    upstream = grad_outputs[0]
    return (None if upstream is None else (upstream[..., None] * slope).to(ctx.dtype)), None, None, None


def _operator(p: Tensor, q: Tensor, tau1: float, tau2: float) -> tuple[Tensor, Tensor]:
    return loss_and_slope(p, q, tau1, tau2)


def _shapes(p: Tensor, q: Tensor, tau1: float, tau2: float) -> tuple[Tensor, Tensor]:
    result = torch.promote_types(p.dtype, torch.float32)
    return p.new_empty(p.shape[:-1], dtype=result), p.new_empty(p.shape, dtype=result)


# The same as an operator, for torch.compile alone: opaque, so that nothing traces into numba or Triton.
_compiled_loss = torch.library.custom_op("vitrail::cotap_loss", _operator, mutates_args=())
_compiled_loss.register_fake(_shapes)
_compiled_loss.register_autograd(_backward, setup_context=_keep)
