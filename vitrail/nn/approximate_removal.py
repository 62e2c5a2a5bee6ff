"""Roughly what the removal of a visible patch changes in MAE's reconstruction, from a few tokens instead of all.

For each removal the decoder runs anew on the class token, on those visible patches and hidden ones that the removal
concerns most in the first block (by the length of that block's step, in closed form), and on some of the other hidden
ones. All else is looked at as the anchor has it. What the others change in sum is told from the sample by the ratio of
change to that length:

    sum over the others of change  ~  sum over the others of length * (sum over the sample of change / of length)

It is no paper's; how well the order of such labels agrees with the exact one depends on the weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vitrail.nn.chunks import chunk_of, images_of
from vitrail.nn.masked_autoencoder import MaskedDecoder
from vitrail.nn.partial_decoding import first_influence, need_plain, partial_pass, whole_pass


class Few(NamedTuple):
    """How many tokens are decoded anew for each removal, where there are so many."""

    companions: int
    """Other visible patches, those that it concerns most."""
    strongest: int
    """Hidden patches, those that it concerns most."""
    sample: int
    """Of the other hidden patches, spread evenly from the most to the least concerned."""


class Looked(NamedTuple):
    """Which tokens, by their places in the sequence, and what a sampled one stands for."""

    companions: Tensor  # [B, V, C]
    hidden: Tensor  # [B, V, K], the strongest first
    factor: Tensor  # [B, V], the other hidden patches' summed length over that of the sample


def approximate_labels(
    decoder: MaskedDecoder, sequence: Tensor, visible: Tensor, hidden: Tensor, few: Few, chunk: int | None = None
) -> Tensor:
    """Mean absolute change of the hidden patches' predicted values, for the removal of each visible one.

    Args:
        decoder: of timm's plain blocks.
        sequence: `[B, 1 + N, W]`, from `decoder.sequence`.
        visible: ids `[B, V]`.
        hidden: all other ids `[B, N - V]`.
        few: how many tokens.
        chunk: removals at once; None for as many as fit well into memory.

    Returns:
        `[B, V]`, float32 (float64 for a decoder of float64).

    Raises:
        ValueError: for a decoder of blocks other than timm's plain ones.
    """
    need_plain(decoder)
    rows = images_of(decoder, sequence)
    parts = zip(sequence.split(rows), visible.split(rows), hidden.split(rows), strict=True)
    return torch.cat([_of_some(decoder, *part, few, chunk) for part in parts])


def _of_some(
    decoder: MaskedDecoder, sequence: Tensor, visible: Tensor, hidden: Tensor, few: Few, chunk: int | None
) -> Tensor:
    whole, kept = whole_pass(decoder, sequence)
    looked = _looked(first_influence(kept[0], visible + 1), visible, hidden, few)
    anchor = _wide(decoder.norm(whole))
    batch, count, wanted = looked.hidden.shape
    tokens = 1 + looked.companions.shape[2] + wanted
    labels = anchor.new_empty(batch * count)
    strongest = min(few.strongest, hidden.shape[1])
    chunk = chunk or chunk_of(decoder, sequence, tokens, sequence.shape[1], wanted)
    for item in torch.arange(batch * count, device=visible.device).split(chunk):
        image, place = item // count, item % count
        at = looked.hidden[image, place]
        fresh = torch.cat((torch.zeros_like(at[:, :1]), looked.companions[image, place], at), dim=1)
        gone = torch.cat((fresh, visible[image, place].unsqueeze(1) + 1), dim=1)
        last = torch.arange(tokens - wanted, tokens, device=at.device).expand_as(at)
        found = partial_pass(decoder, sequence, kept, image, others(gone, sequence.shape[1]), fresh, last)
        change = _wide(decoder.norm(found)) - anchor[image.unsqueeze(1), at]
        values = _wide(functional.linear(change, decoder.predict.weight)).abs().mean(2)
        sampled = values[:, strongest:].sum(1) * looked.factor[image, place]
        labels[item] = values[:, :strongest].sum(1) + sampled
    return labels.view_as(visible) / hidden.shape[1]


def _looked(influence: Tensor, visible: Tensor, hidden: Tensor, few: Few) -> Looked:
    """By the influence `[B, V, 1 + N]` of each removal."""
    batch, count, _ = influence.shape
    total = hidden.shape[1]
    row = torch.arange(batch, device=visible.device).view(-1, 1, 1)
    each = torch.arange(count, device=visible.device)
    near = influence.gather(2, (visible + 1).unsqueeze(1).expand(-1, count, -1))
    near[:, each, each] = -1  # the patch itself
    companions = near.topk(min(few.companions, count - 1), dim=2).indices
    here = influence.gather(2, (hidden + 1).unsqueeze(1).expand(-1, count, -1))
    length, order = here.sort(dim=2, descending=True, stable=True)
    strongest = min(few.strongest, total)
    rest = total - strongest
    sample = min(few.sample, rest)
    spread = (2 * torch.arange(sample, device=visible.device) + 1) * rest // (2 * max(sample, 1)) + strongest
    picked = torch.cat((order[:, :, :strongest], order[:, :, spread]), dim=2)
    ratio = length[:, :, strongest:].sum(2) / length[:, :, spread].sum(2)
    # Where nobody is concerned the sample stands for all alike; no patch stands for more than there are.
    factor = ratio.nan_to_num(rest / max(sample, 1)).clamp(max=rest)
    return Looked(visible[row, companions] + 1, hidden[row, picked] + 1, factor)


def others(ids: Tensor, total: int) -> Tensor:
    """Of `total` ids those that are not named, ascending: `[B, total - V]` of ids `[B, V]`, none of them twice."""
    named = torch.zeros(len(ids), total, dtype=torch.uint8, device=ids.device).scatter(1, ids, 1)
    return named.argsort(dim=1, stable=True)[:, : total - ids.shape[1]]


def _wide(values: Tensor) -> Tensor:
    """Float32, or float64 where it was that."""
    return values if values.dtype == torch.float64 else values.float()
