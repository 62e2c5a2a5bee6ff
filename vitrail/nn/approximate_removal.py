"""Roughly what the removal of a visible patch changes in MAE's reconstruction, by a few hidden patches of all.

For each removal the decoder runs anew on the class token and K of the M hidden patches; all else is looked at as the
anchor has it. The hidden patches are sorted by how far the removal moves the first block's attention there, which has a
closed form, and cut into K groups, the k-th ending at M (k / K)^2: small where much happens, large where little does.
The middle one of each group is decoded and stands for all of it:

    label ~ 1/M sum over groups of  |group| * change of its middle patch

It is no paper's; how well the order of such labels agrees with the exact one depends on the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vitrail.nn.chunks import chunk_of, images_of
from vitrail.nn.masked_autoencoder import MaskedDecoder
from vitrail.nn.partial_decoding import first_influence, need_plain, partial_pass, whole_pass, wide


def approximate_labels(
    decoder: MaskedDecoder, sequence: Tensor, visible: Tensor, hidden: Tensor, groups: int, chunk: int | None = None
) -> Tensor:
    """Mean absolute change of the hidden patches' predicted values, for the removal of each visible one.

    Args:
        decoder: of timm's plain blocks.
        sequence: `[B, 1 + N, W]`, from `decoder.sequence`.
        visible: ids `[B, V]`.
        hidden: all other ids `[B, M]`.
        groups: K, 1 or more; from M on, each patch stands for itself.
        chunk: removals at once; None for as many as fit well into memory.

    Returns:
        `[B, V]`, float32 (float64 for a decoder of float64).

    Raises:
        ValueError: for a decoder of blocks other than timm's plain ones.
    """
    need_plain(decoder)
    rows = images_of(decoder, sequence)
    parts = zip(sequence.split(rows), visible.split(rows), hidden.split(rows), strict=True)
    return torch.cat([_of_some(decoder, *part, group_ends(hidden.shape[1], groups), chunk) for part in parts])


def group_ends(patches: int, groups: int) -> list[int]:
    """Where each of so many groups ends in a list of patches; none is empty, and there are at most as many as patches.

    `round(patches * (k / groups) ** 2)`, moved up where a group would be empty.
    """
    groups = min(groups, patches)
    ends: list[int] = []
    for number in range(1, groups + 1):
        least, most = (ends[-1] if ends else 0) + 1, patches - (groups - number)
        ends.append(min(max(least, round(patches * (number / groups) ** 2)), most))
    return ends


def _of_some(
    decoder: MaskedDecoder, sequence: Tensor, visible: Tensor, hidden: Tensor, ends: list[int], chunk: int | None
) -> Tensor:
    whole, kept = whole_pass(decoder, sequence)
    looked, sizes = _looked(first_influence(kept[0], visible + 1), hidden, ends)
    anchor = wide(decoder.norm(whole))
    batch, count, groups = looked.shape
    labels = anchor.new_empty(batch * count)
    chunk = chunk or chunk_of(decoder, sequence, 1 + groups, sequence.shape[1], groups)
    for item in torch.arange(batch * count, device=visible.device).split(chunk):
        image, place = item // count, item % count
        at = looked[image, place]
        fresh = torch.cat((torch.zeros_like(at[:, :1]), at), dim=1)
        still = others(torch.cat((fresh, visible[image, place].unsqueeze(1) + 1), dim=1), sequence.shape[1])
        last = torch.arange(1, 1 + groups, device=at.device).expand_as(at)
        found = partial_pass(decoder, sequence, kept, image, still, fresh, last)
        change = wide(decoder.norm(found)) - anchor[image.unsqueeze(1), at]
        values = wide(functional.linear(change, decoder.predict.weight)).abs().mean(2)
        labels[item] = (values * sizes).sum(1)
    return labels.view_as(visible) / hidden.shape[1]


def _looked(influence: Tensor, hidden: Tensor, ends: list[int]) -> tuple[Tensor, Tensor]:
    """Places in the sequence of each group's middle patch, `[B, V, K]`, and the sizes of groups `[K]`.

    `influence` is `[B, V, 1 + N]`, of each removal on each place.
    """
    last = torch.tensor(ends, device=hidden.device)
    first = torch.cat((last.new_zeros(1), last[:-1]))
    places = (hidden + 1).unsqueeze(1).expand(-1, influence.shape[1], -1)
    order = influence.gather(2, places).argsort(dim=2, descending=True, stable=True)
    return places.gather(2, order[:, :, (first + last - 1) // 2]), last - first


def others(ids: Tensor, total: int) -> Tensor:
    """Of `total` ids those that are not named, ascending: `[B, total - V]` of ids `[B, V]`, none of them twice."""
    named = torch.zeros(len(ids), total, dtype=torch.uint8, device=ids.device).scatter(1, ids, 1)
    return named.argsort(dim=1, stable=True)[:, : total - ids.shape[1]]
