"""Losses on two views of each image: contrast with other images, decorrelation, and agreement alone.

    NT-Xent           - log  exp(<a, b> / T) / sum over all other views c of exp(<a, c> / T)
    InfoNCE, queue    - log  exp(<q, k> / T) / (exp(<q, k> / T) + sum over the queue n of exp(<q, n> / T))
    InfoNCE, batch    - log  exp(<q, k> / T) / sum over the keys n of the batch of exp(<q, n> / T)
    Barlow Twins      sum_i (1 - C_ii)^2 + w sum_{i != j} C_ij^2,   C the correlation of both views over the batch
    negative cosine   - <p, stop(z)>

a, b, c, q, k, n, p and z have length 1 here, whatever length they are given in.

Sources: NT-Xent of SimCLR, Chen et al. 2020 (arXiv 2002.05709); InfoNCE of van den Oord et al. 2018 (arXiv 1807.03748)
with the queue of MoCo, He et al. 2020 (arXiv 1911.05722), and without it as in MoCo-v3, Chen et al. 2021 (arXiv
2104.02057); Barlow Twins, Zbontar et al. 2021 (arXiv 2103.03230); the stopped gradient of SimSiam, Chen and He 2021
(arXiv 2011.10566).

All is computed in float32 or wider, also inside of autocast.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Gather = Callable[[Tensor], tuple[Tensor, int]]
"""Rows `[B, D]` of this rank -> those of all ranks `[M, D]`, with gradient, and the place of this rank's first one."""


def _alone(rows: Tensor) -> tuple[Tensor, int]:
    return rows, 0


def nt_xent(one: Tensor, two: Tensor, temperature: float = 0.5, *, gather: Gather = _alone) -> Tensor:
    """SimCLR's loss: each view looks for the other one of its image among all views of the batch.

    Args:
        one, two: embeddings `[B, D]` of two views, row by row of the same images.
        temperature: positive.
        gather: joins the ranks, each of which has as many rows. The mean over ranks is then the loss of the whole
            batch, and so is its gradient where that of `gather` sums over ranks and ranks are averaged.

    Returns:
        `[]`, the mean over the 2 B views of this rank, in nats; log(2 M - 1) for embeddings that are all alike.

    Raises:
        ValueError: for shapes that differ, fewer than two images, or a temperature that is not positive.
    """
    _check_pair(one, two)
    _check_temperature(temperature)
    with torch.autocast(one.device.type, enabled=False):
        one, two = _unit(one), _unit(two)
        (all_one, first), (all_two, _) = gather(one), gather(two)
        count, images = len(one), len(all_one)
        _check_several(images)
        logits = torch.cat((one, two)) @ torch.cat((all_one, all_two)).T / temperature
        own = first + torch.arange(count, device=one.device)
        itself, other = torch.cat((own, own + images)), torch.cat((own + images, own))
        logits = logits.scatter(1, itself[:, None], -torch.inf)
        return functional.cross_entropy(logits, other)


def queue_contrast(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float = 0.2) -> Tensor:
    """MoCo's loss: each query looks for its key among that and the keys of earlier images.

    Args:
        queries: `[B, D]`.
        keys: `[B, D]` of the same images; they get no gradient.
        queue: `[K, D]` keys of other images; they get no gradient.
        temperature: positive.

    Returns:
        `[]`, the mean over queries, in nats; log(K + 1) where everything is alike.

    Raises:
        ValueError: for shapes that do not fit, an empty queue, or a temperature that is not positive.
    """
    _check_pair(queries, keys)
    _check_temperature(temperature)
    if queue.ndim != 2 or not len(queue) or queue.shape[1] != queries.shape[1]:
        raise ValueError(
            f"the queue is {list(queue.shape)} and queries are {list(queries.shape)}; it holds at least one key, "
            f"[K, {queries.shape[1]}]"
        )
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys, queue = _unit(queries), _unit(keys.detach()), _unit(queue.detach())
        logits = torch.cat(((queries * keys).sum(1, keepdim=True), queries @ queue.T), 1) / temperature
        return functional.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))


def batch_contrast(queries: Tensor, keys: Tensor, temperature: float = 0.2, *, gather: Gather = _alone) -> Tensor:
    """MoCo-v3's loss of one direction: each query looks for its key among the keys of the batch.

    Args:
        queries: `[B, D]` of one view.
        keys: `[B, D]` of the other view, row by row of the same images; they get no gradient.
        temperature: positive. MoCo-v3 multiplies the loss by twice the temperature, which is not done here.
        gather: joins the ranks, each of which has as many rows. The mean over ranks is then the loss of the whole
            batch, and the mean over ranks of the gradient is its gradient, for keys have none.

    Returns:
        `[]`, the mean over the B queries of this rank, in nats; log(M) where all M images are alike.

    Raises:
        ValueError: for shapes that differ, fewer than two images, or a temperature that is not positive.
    """
    _check_pair(queries, keys)
    _check_temperature(temperature)
    with torch.autocast(queries.device.type, enabled=False):
        every, first = gather(_unit(keys.detach()))
        _check_several(len(every))
        own = first + torch.arange(len(queries), device=queries.device)
        return functional.cross_entropy(_unit(queries) @ every.T / temperature, own)


def cross_correlation(one: Tensor, two: Tensor, *, gather: Gather = _alone, epsilon: float = 1e-5) -> Tensor:
    """Correlation `[D, D]` over the batch between each feature of one view and each of the other.

    Args:
        one, two: embeddings `[B, D]` of two views, row by row of the same images.
        gather: joins the ranks, as in `nt_xent`; the correlation is that of all rows.
        epsilon: added to the variances, so that a feature that is constant has no correlation.

    Raises:
        ValueError: for shapes that differ, or fewer than two images.
    """
    _check_pair(one, two)
    with torch.autocast(one.device.type, enabled=False):
        one, two = (gather(_wide(each))[0] for each in (one, two))
        if len(one) < 2:
            raise ValueError(f"there is {len(one)} image in the batch; a correlation needs at least 2")
        return _standard(one, epsilon).T @ _standard(two, epsilon) / len(one)


def barlow_twins(one: Tensor, two: Tensor, redundancy: float = 0.005, *, gather: Gather = _alone) -> Tensor:
    """Barlow Twins' loss: a feature agrees between views and tells nothing of the others.

    Args:
        one, two: embeddings `[B, D]` of two views, row by row of the same images.
        redundancy: weight of what is off the diagonal, not negative.
        gather: joins the ranks. Every rank has the loss of the whole batch then.

    Returns:
        `[]`, a sum over D + D (D - 1) terms; D for embeddings without any correlation, 0 at best.

    Raises:
        ValueError: as `cross_correlation`; and for a negative weight.
    """
    if redundancy < 0:
        raise ValueError(f"redundancy is {redundancy}; it must not be negative, 0.005 is usual")
    correlation = cross_correlation(one, two, gather=gather)
    diagonal = correlation.diagonal()
    off = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + redundancy * off


def negative_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """SimSiam's loss of one direction: `[]` in [-1, 1], the mean of -cos over rows `[B, D]`; targets get no gradient.

    Raises:
        ValueError: for shapes that differ.
    """
    _check_pair(predictions, targets)
    with torch.autocast(predictions.device.type, enabled=False):
        return -(_unit(predictions) * _unit(targets.detach())).sum(1).mean()


@torch.no_grad()
def spread(embeddings: Tensor) -> Tensor:
    """Whether embeddings `[B, D]` collapse: `[]`, 0 where all point the same way, 1 where they point everywhere.

    The standard deviation of each entry over the batch, at length 1, times the square root of D, on average
    (Chen and He 2021, Sec. 4.1).
    """
    unit = _unit(embeddings)
    return unit.std(0, correction=0).mean() * unit.shape[1] ** 0.5


def _standard(rows: Tensor, epsilon: float) -> Tensor:
    centered = rows - rows.mean(0)
    return centered / (centered.square().mean(0) + epsilon).sqrt()


def _unit(rows: Tensor) -> Tensor:
    return functional.normalize(_wide(rows), dim=1)


def _wide(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _check_pair(one: Tensor, two: Tensor) -> None:
    if one.ndim != 2 or one.shape != two.shape:
        raise ValueError(
            f"the embeddings of two views are {list(one.shape)} and {list(two.shape)}; both are [B, D], row by row of "
            "the same images"
        )


def _check_several(images: int) -> None:
    if images < 2:
        raise ValueError(f"there is {images} image in the batch, and nothing to tell it from; take at least 2")


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; it must be positive and finite, as in 0.5")
