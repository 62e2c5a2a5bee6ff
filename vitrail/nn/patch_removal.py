"""How much each visible patch matters to a masked autoencoder: the change of its reconstruction without that patch.

    z = encoder(visible patches),   A = decoder(z),   R_i = decoder(z without i)
    label_i = mean over the hidden patches of mean over their pixels of | A - R_i |

The encoder runs once and the anchor A is decoded once. All removals of all images are then decoded as sequences of one
length, some at a time; each is reduced to its label at once, so memory does not grow with the number of patches.

Source: Luo et al., "Learning to Rank Patches for Unbiased Image Redundancy Reduction" (LTRP), supplement, Algorithm 1.

Deviations from the paper
- Algorithm 1 takes the mean over all patches; by default only those that were hidden count, as in the released code.
- The last layer is linear: A - R_i is that layer, without its bias, of the difference of what it reads. So half
  precision rounds the change, not two predictions that nearly agree.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vitrail.config import Config
from vitrail.contracts import Backbone
from vitrail.nn.masked_autoencoder import MaskedDecoder


class RemovalConfig(Config):
    """What it means to remove a patch, and how the change is measured."""

    removal: Literal["delete"] = "delete"
    """delete: the decoder has no token for the patch; the encoder has seen it."""
    metric: Literal["l1"] = "l1"
    """l1: mean absolute difference, in what the decoder predicts."""
    chunk: int | None = Field(None, gt=0)
    """Sequences that are decoded at once; None for as many as fit well into memory."""


class PatchRemoval(nn.Module):
    """Images and their visible patches to a label for each of these. It learns nothing, and stays in evaluation mode.

    Attributes: `backbone`, `decoder`, `config`.
    """

    def __init__(self, backbone: Backbone, decoder: MaskedDecoder, config: RemovalConfig | None = None) -> None:
        """Take a masked autoencoder. Its modules are shared, not copied, and put into evaluation mode."""
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.config = config or RemovalConfig()
        self.eval()

    def train(self, mode: bool = True) -> PatchRemoval:
        """Stays in evaluation mode: what drop path or dropout changes is no patch's doing."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        """Labels, larger for a patch that matters more.

        Args:
            images: `[B, 3, H, W]`, normalized as the backbone wants them.
            visible: ids of the visible patches, int64 `[B, V]`, raster order, none of them twice, at least one.

        Returns:
            `[B, V]` in the order of `visible`, 0 or more, float32 (float64 for modules of float64), without gradient.

        Raises:
            ValueError: ids of another shape, twice in an image, or outside the grid; no patch that is visible, or none
                that is hidden; labels that are NaN or infinite, as those of images that are.
        """
        _check(images, visible)
        tokens = self.backbone(images, keep=visible)
        hidden = _others(visible, tokens.grid[0] * tokens.grid[1])
        sequence = self.decoder.sequence(tokens.cls, tokens.patches, visible, tokens.grid)
        anchor = wide(self.decoder.features(sequence, hidden + 1))
        batch, count = visible.shape
        labels = anchor.new_empty(batch * count)
        chunk = self.config.chunk or _chunk(self.decoder, sequence, batch * count)
        for start in range(0, batch * count, chunk):
            item = torch.arange(start, min(start + chunk, batch * count), device=images.device)
            image, place = item // count, visible.flatten()[item].unsqueeze(1)
            found = self.decoder.features(*_without(sequence, image, place, hidden))
            labels[start : start + chunk] = self._change(anchor[image], wide(found))
        labels = labels.view(batch, count)
        _check_labels(labels)
        return labels

    def _change(self, anchor: Tensor, found: Tensor) -> Tensor:
        """`[C]` of features `[C, M, W]`."""
        return wide(functional.linear(found - anchor, self.decoder.predict.weight)).abs().mean((1, 2))


def wide(values: Tensor) -> Tensor:
    """Float32, or float64 where it was that."""
    return values if values.dtype == torch.float64 else values.float()


def _without(sequence: Tensor, image: Tensor, removed: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences that lack the token of one patch each, and where the hidden patches stand in them.

    Args:
        sequence: `[B, L, W]`, the class token first.
        image: `[C]`, which of the sequences.
        removed: `[C, 1]`, id of the patch.
        hidden: `[B, M]`.

    Returns:
        `[C, L - 1, W]` and `[C, M]`.
    """
    length = sequence.shape[1]
    kept = torch.arange(length - 1, device=sequence.device)
    kept = kept + (kept > removed)  # the patch stands at 1 + its id
    rest = sequence.flatten(0, 1)[image.unsqueeze(1) * length + kept]
    places = hidden[image]
    return rest, places + 1 - (places > removed).long()


def _others(ids: Tensor, patches: int) -> Tensor:
    """Of N patches those that are not named, ascending: `[B, N - V]` of ids `[B, V]`."""
    if ids.shape[1] >= patches:
        raise ValueError(f"{ids.shape[1]} of {patches} patches are visible; labels look at those that are hidden")
    named = torch.zeros(len(ids), patches, dtype=torch.uint8, device=ids.device).scatter(1, ids, 1)
    return named.argsort(dim=1, stable=True)[:, : patches - ids.shape[1]]


def _chunk(decoder: MaskedDecoder, sequence: Tensor, most: int) -> int:
    return min(most, 16)


def _check(images: Tensor, visible: Tensor) -> None:
    if visible.ndim != 2 or len(visible) != len(images) or not visible.shape[1] or visible.dtype != torch.int64:
        raise ValueError(
            f"visible is {list(visible.shape)} of {visible.dtype}; it holds the ids of the visible patches, int64 "
            f"[B, V] with B = {len(images)} and V from 1 on"
        )


def _check_labels(labels: Tensor) -> None:
    finite = labels.isfinite().all(1)
    if not bool(finite.all()):
        images = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"labels of {len(images)} of {len(labels)} images are NaN or infinite, of image{'s' * (len(images) > 1)} "
            f"{', '.join(map(str, images[:5]))}{' ...' * (len(images) > 5)} of the batch; look at their pixels, and at "
            "the weights"
        )
