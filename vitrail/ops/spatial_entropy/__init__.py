"""Spatial entropy of similarity maps: low where a map's high values gather in few large regions.

Source: Peruzzo et al., "Spatial Entropy as an Inductive Bias for Vision Transformers", Eq. 5 to 8. For one
map S of n cells with mean m:

    B = max(S - m, 0),  T = sum of B,  C_1..C_r = 8-connected components of {S > m}
    P_j = (sum of B over C_j) / T,     H = - sum_j P_j ln P_j nats, 0 <= H <= ln r

The components are constants of the differentiation, so the gradient is known in closed form. With c(x) the
component of cell x and G_x = (-ln P_c(x) - H) / T inside the components, 0 outside:

    dH/dS_x = G_x - (1/n) sum_y G_y

One kernel computes both; the backward pass is one multiplication. `cpu` (numba), `cuda` (Triton) and
`reference` (plain torch and autograd) agree to rounding. H jumps where a component appears, merges or splits.

Deviations from the released code: no 1e-9 is added to B (it moves H by about 1e-8); sums and logarithms are
taken in float64 whatever the input; a map that is constant has entropy 0 instead of being dropped from the
mean.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vitrail.ops.components import has_gpu_kernel

__all__ = ["spatial_entropy"]


def spatial_entropy(scores: Tensor) -> Tensor:
    """Spatial entropy of each map, in nats.

    Args:
        scores: `[..., Y, X]` floating point, similarities before the softmax; any leading axes, any grid.

    Returns:
        `[...]`, float64 for float64 scores and float32 otherwise, in [0, ln(ceil(Y/2) * ceil(X/2))].
        Differentiable once; the gradient has the type of `scores`.

    Raises:
        ValueError: for scores that are not floating point or have fewer than two axes.

    Corners: a constant map (its part above the mean sums to under 2^-100; 2^-1000 in float64) and a map
    without cells have entropy 0 and gradient 0. A map that holds inf or NaN has entropy NaN and gradient NaN
    in each of its cells, and leaves the other maps alone: a guard on the loss sees it, and nothing here waits
    for the device to look.

    Scaling a map (a > 0) or shifting it leaves its entropy unchanged and divides its gradient by a.
    On a GPU with Triton, maps of up to 64x64 take one kernel and no host sync; larger ones, and other
    devices, take the plain torch way.
    """
    if not scores.is_floating_point():
        raise ValueError(f"scores are {scores.dtype}; spatial entropy needs floating point, as in `scores.float()`")
    if scores.ndim < 2:
        raise ValueError(f"scores have shape {tuple(scores.shape)}; they need two axes at least, [..., Y, X]")
    if scores.device.type == "cpu" or has_gpu_kernel(scores):
        if torch.compiler.is_compiling():
            return _compiled_entropy(scores)[0]
        try:
            return _Entropy.apply(scores)
        except RuntimeError as error:
            if "setup_context" not in str(error):  # that is how torch.func refuses the quick way
                raise
            return _Transformable.apply(scores)[0]
    from vitrail.ops.spatial_entropy import reference

    return reference.spatial_entropy(scores, _floor(scores.dtype))


def _floor(dtype: torch.dtype) -> float:
    # The gradient grows as 1/T: under this it would leave the range of its type.
    return 2.0**-1000 if dtype == torch.float64 else 2.0**-100


def entropy_and_slope(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy `[...]` and its gradient `[..., Y, X]`, both float32, or float64 for float64 scores."""
    if scores.numel() == 0:
        result = torch.promote_types(scores.dtype, torch.float32)
        return scores.new_zeros(scores.shape[:-2], dtype=result), scores.new_zeros(scores.shape, dtype=result)
    if scores.is_cuda:
        from vitrail.ops.spatial_entropy import cuda

        return cuda.entropy_and_slope(scores, _floor(scores.dtype))
    from vitrail.ops.spatial_entropy import cpu

    return cpu.entropy_and_slope(scores, _floor(scores.dtype))


def _shapes(scores: Tensor) -> tuple[Tensor, Tensor]:
    result = torch.promote_types(scores.dtype, torch.float32)
    return scores.new_empty(scores.shape[:-2], dtype=result), scores.new_empty(scores.shape, dtype=result)


class _Entropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:  # one method: a `setup_context` of its own takes twice the time
        entropy, slope = entropy_and_slope(scores)
        _keep(ctx, (scores,), (entropy, slope))
        return entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _backward(ctx, *grad_outputs)


class _Transformable(torch.autograd.Function):
    """The same for torch.func."""

    forward = staticmethod(entropy_and_slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        _keep(ctx, inputs, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _backward(ctx, *grad_outputs)


def _keep(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, *grad_outputs: Any) -> Any:
    (slope,) = ctx.saved_tensors
    upstream = grad_outputs[0]
    return None if upstream is None else (upstream[..., None, None] * slope).to(ctx.dtype)


# The same as an operator, for torch.compile alone: opaque, so that nothing traces into numba or Triton. Its
# first eager call would import the compiler (seconds), which is why eager code takes the function above.
_compiled_entropy = torch.library.custom_op("vitrail::spatial_entropy", entropy_and_slope, mutates_args=())
_compiled_entropy.register_fake(_shapes)
_compiled_entropy.register_autograd(_backward, setup_context=_keep)
