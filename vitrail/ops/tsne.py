"""Points in two dimensions that keep the neighbors which they have in many: exact t-SNE.

    p_j|i = exp(-b_i |x_i - x_j|^2) / sum over k != i of exp(-b_i |x_i - x_k|^2)    b_i gives row i the perplexity
    P     = (p_j|i + p_i|j) / 2N                                                    entropy of row i: ln perplexity
    w_ij  = 1 / (1 + |y_i - y_j|^2) for i != j,   Q = w / sum of w
    C     = sum of P ln (P / Q),   dC/dy_i = 4 sum over j of (P - Q)_ij w_ij (y_i - y_j)

C is minimized by gradient descent with momentum and a gain for each coordinate. In the first third of the steps P is
multiplied by 12, so that clusters form before they are spread. All pairs are computed: N x N numbers, for up to some
2,000 points.

Source: van der Maaten and Hinton, "Visualizing Data using t-SNE", 2008. The start along principal components is that
of Kobak and Berens, "The art of using t-SNE for single-cell transcriptomics", 2019; the step size N / 48, but at least
50, follows Belkina et al., 2019. Positions and distances between clusters mean little; who is beside whom does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOST = 5000
"""Points at most: an N x N table of them has 100 MB."""

_WIDEST = 30.0  # ln b lies within plus and minus this, in units of the mean squared distance
_ROUNDS = 100
_EXACT = 1e-10  # of the entropy, in nats, or of ln b
_EXAGGERATION = 12.0
_START = 1e-4  # deviation of the first layout
_LEAST = 1e-12  # below, an affinity counts as 0


def tsne(points: Tensor, *, perplexity: float = 30.0, steps: int = 750, seed: int = 0) -> Tensor:
    """A layout of points in the plane.

    Args:
        points: `[N, D]`, finite.
        perplexity: about how many neighbors a point has, in [1, N - 1).
        steps: of gradient descent.
        seed: of a small disturbance of the start, which parts points that are equal. The same points and seed give the
            same layout on one machine.

    Returns:
        `[N, 2]` float32, centered at 0, on the device of the points.

    Raises:
        ValueError: another shape, NaN or infinite points, more than `MOST`, a perplexity that does not fit, no step.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; give at least 1")
    affinity = affinities(points, perplexity).float()
    layout = _start(points.detach().double(), seed).float()
    rate = max(len(layout) / _EXAGGERATION / 4, 50.0)
    velocity, gains = torch.zeros_like(layout), torch.ones_like(layout)
    early = steps // 3
    for step in range(steps):
        pulled = affinity * _EXAGGERATION if step < early else affinity
        slope = gradient(pulled, layout)
        against = slope * velocity < 0  # the way goes downhill still
        gains = torch.where(against, gains + 0.2, gains * 0.8).clamp_(min=0.01)
        velocity = (0.5 if step < early else 0.8) * velocity - rate * gains * slope
        layout = layout + velocity
        layout = layout - layout.mean(0)
    return layout


def affinities(points: Tensor, perplexity: float) -> Tensor:
    """P, symmetric, float64 `[N, N]`, 0 on the diagonal, of sum 1. Arguments and errors as for `tsne`."""
    _check(points, perplexity)
    values = points.detach().double()
    values = values - values.mean(0)
    size = values.abs().max()
    distances = _distances(values / size if size > 0 else values)
    count = len(distances)
    itself = torch.eye(count, dtype=torch.bool, device=points.device)
    nearest = distances.masked_fill(itself, math.inf).amin(1, keepdim=True)
    apart = distances - nearest  # of no influence on p, and exp cannot vanish for all neighbors
    scale = apart.masked_fill(itself, 0).sum(1, keepdim=True) / (count - 1)
    apart = torch.where(scale > 0, apart / scale.clamp(min=1e-300), torch.zeros_like(apart)).fill_diagonal_(0)
    rows = _rows(apart, _sharpness(apart, math.log(perplexity)))
    return (rows + rows.T) / (2 * count)


def gradient(affinity: Tensor, layout: Tensor) -> Tensor:
    """dC/dy of a layout `[N, 2]` for affinities `[N, N]`, which need not sum to 1."""
    weight = _weights(layout)
    force = (affinity - weight / weight.sum()) * weight
    return 4 * (force.sum(1, keepdim=True) * layout - force @ layout)


def divergence(affinity: Tensor, layout: Tensor) -> Tensor:
    """C, the Kullback-Leibler divergence of the layout's neighbors from P, in nats, `[]`."""
    weight = _weights(layout)
    seen = affinity > _LEAST
    wanted, found = affinity[seen], (weight / weight.sum())[seen]
    return (wanted * (wanted.log() - found.clamp(min=_LEAST).log())).sum()


def _start(points: Tensor, seed: int) -> Tensor:
    """The first two principal components at a deviation of 1e-4, disturbed by a hundredth of it."""
    centered = points - points.mean(0)
    size = centered.abs().max()
    if size > 0:
        centered = centered / size
    _, _, axes = torch.linalg.svd(centered, full_matrices=False)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    plane = centered @ (axes * largest.sign())[:2].T
    plane = torch.nn.functional.pad(plane, (0, 2 - plane.shape[1]))
    spread = plane[:, 0].std()
    noise = torch.randn(len(points), 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return _START * ((plane / spread if spread > 0 else plane) + 0.01 * noise.to(points.device))


def _rows(apart: Tensor, sharpness: Tensor) -> Tensor:
    """p_j|i, `[N, N]`."""
    rows = (-apart * sharpness).exp_().fill_diagonal_(0)
    return rows / rows.sum(1, keepdim=True)


def _sharpness(apart: Tensor, entropy: float) -> Tensor:
    """b of each row, `[N, 1]`: Newton's steps on ln b, and the middle of what is left where these lead outside.

    A row with more copies of its point than the perplexity has no b; the largest is taken.
    """
    low = torch.full((len(apart), 1), -_WIDEST, dtype=torch.float64, device=apart.device)
    high, place = -low, torch.zeros_like(low)
    for _ in range(_ROUNDS):
        sharpness = place.exp()
        rows = (-apart * sharpness).exp_().fill_diagonal_(0)
        total = rows.sum(1, keepdim=True)
        rows *= apart
        mean = rows.sum(1, keepdim=True) / total
        rows *= apart
        variance = rows.sum(1, keepdim=True) / total - mean.square()
        above = sharpness * mean + total.log() - entropy
        low, high = torch.where(above > 0, place, low), torch.where(above > 0, high, place)
        if float(torch.minimum(above.abs(), high - low).max()) < _EXACT:
            break
        guess = place + above / (sharpness.square() * variance)
        place = torch.where((guess > low) & (guess < high), guess, (low + high) / 2)
    return place.exp()


def _weights(layout: Tensor) -> Tensor:
    weight = 1 / (1 + _distances(layout))
    return weight * (1 - torch.eye(len(layout), dtype=layout.dtype, device=layout.device))


def _distances(points: Tensor) -> Tensor:
    """Squared, `[N, N]`."""
    lengths = points.square().sum(1)
    return (lengths[:, None] + lengths[None] - 2 * points @ points.T).clamp(min=0)


def _check(points: Tensor, perplexity: float) -> None:
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"points have shape {list(points.shape)}, not [N, D]; give a row for each point")
    if not points.isfinite().all():
        raise ValueError("points hold NaN or infinite values; check the weights, or use fp32")
    if len(points) > MOST:
        raise ValueError(f"{len(points)} points, and exact t-SNE takes {MOST} at most; draw some of them")
    if not 1 <= perplexity < len(points) - 1:
        raise ValueError(
            f"perplexity {perplexity:g} and {len(points)} points: it is at least 1 and below the number of other "
            f"points, {len(points) - 1}; usual is 30, and at most a third of the points"
        )
