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
- SSIM, PSNR and a network's features, which the released code scales by the smallest and largest of a batch, are
  distances of one image by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from vitrail.config import Config
from vitrail.contracts import Backbone
from vitrail.nn.approximate_removal import approximate_labels, others
from vitrail.nn.chunks import chunk_of
from vitrail.nn.masked_autoencoder import MaskedDecoder
from vitrail.nn.open_block import why_closed
from vitrail.nn.partial_decoding import Kept, partial_pass, whole_pass, wide
from vitrail.nn.picture_change import PictureChange


class RemovalConfig(Config):
    """What it means to remove a patch, and how the change is measured."""

    removal: Literal["delete", "mask_token", "reencode"] = "delete"
    """delete: the decoder has no token for the patch; the encoder has seen it. mask_token: the decoder has a mask token
    in its place. reencode: the encoder does not see it either, and the decoder has no token for it; slow."""
    region: Literal["masked", "all"] = "masked"
    """masked: the hidden patches count; all: every patch for which the decoder has a token."""
    metric: Literal["l1", "ssim", "psnr", "perceptual"] = "l1"
    """l1: mean absolute difference, in what the decoder predicts; the others compare pictures: see `PictureChange`."""
    mode: Literal["exact", "approximate"] = "exact"
    """exact: the decoder runs anew on all tokens. approximate: on a few hidden ones, for l1 of deletion; see
    `vitrail.nn.approximate_removal`."""
    groups: int = Field(16, gt=0)
    """For approximate labels: how many hidden patches are decoded anew for each removal; each stands for a group."""
    precision: Literal["as_training", "fp32"] = "as_training"
    """as_training: what autocast says, where the differences still are taken in float32; fp32: all of it in float32."""
    chunk: int | None = Field(None, gt=0)
    """Sequences that are decoded at once; null for as many as fit well into memory."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        asked = (self.removal, self.region, self.metric)
        if self.mode == "approximate" and asked != ("delete", "masked", "l1"):
            raise ValueError(
                "mode approximate is for removal=delete, region=masked and metric=l1, not for "
                f"removal={asked[0]}, region={asked[1]} and metric={asked[2]}; choose mode=exact"
            )
        return self


class Anchor(NamedTuple):
    """What stays the same for all removals from a batch of images."""

    images: Tensor  # [B, 3, H, W]
    visible: Tensor  # [B, V]
    grid: tuple[int, int]
    sequence: Tensor  # [B, 1 + N, W], what the decoder's blocks see
    blank: Tensor  # [B, 1 + N, W], the same with every patch hidden
    counted: Tensor  # [B, M], ids of the patches that are looked at
    features: Tensor  # [B, M, W], what the decoder's last layer reads there
    first: list[Kept]  # the first block's queries, keys and values, where the decoder's blocks are plain ones


class PatchRemoval(nn.Module):
    """Images and their visible patches to a label for each of these. It learns nothing, and stays in evaluation mode.

    Approximate labels, which are not the paper's, are off by default: `vitrail.nn.approximate_removal` says how they
    come about, docs/ltrp.md how well they agree, and `benchmarks/ltrp_labels.py` tells it of weights of your own.

    Attributes: `backbone`, `decoder`, `config`, and `pictures` (a `PictureChange`; None for l1).
    """

    def __init__(
        self,
        backbone: Backbone,
        decoder: MaskedDecoder,
        config: RemovalConfig | None = None,
        perceptual: Backbone | None = None,
        *,
        normalized_targets: bool = False,
    ) -> None:
        """Take a masked autoencoder. Its modules are shared, not copied, and put into evaluation mode.

        Args:
            backbone, decoder: trained together.
            config: see there.
            perceptual: for that metric, the network whose patch features are compared.
            normalized_targets: the decoder predicts pixels normalized within each patch. Metrics of pictures put the
                true patch's mean and spread back; l1 stays in units of what is predicted.

        Raises:
            ValueError: the metric "perceptual" without a network.
        """
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.config = config or RemovalConfig()
        metric = self.config.metric
        self.pictures = None if metric == "l1" else PictureChange(metric, backbone, perceptual, normalized_targets)
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
        find = self._approximate if self.config.mode == "approximate" else self._exact
        enabled = torch.is_autocast_enabled(images.device.type) and self.config.precision == "as_training"
        with torch.autocast(images.device.type, enabled=enabled):
            labels = find(images, visible)
        _check_labels(labels, enabled)
        return labels

    def _exact(self, images: Tensor, visible: Tensor) -> Tensor:
        anchor = self.anchor(images, visible)
        measure = self._by_values if self.pictures is None else self._by_pictures(anchor, self.pictures)
        labels = anchor.features.new_empty(visible.numel())
        for item, image in self._chunks(visible, anchor.sequence, anchor.counted.shape[1]):
            labels[item] = measure(image, self.change(anchor, image, visible.flatten()[item]))
        return labels.view_as(visible)

    def _approximate(self, images: Tensor, visible: Tensor) -> Tensor:
        tokens = self.backbone(images, keep=visible)
        hidden = _hidden(visible, tokens.grid[0] * tokens.grid[1])
        sequence = self.decoder.sequence(tokens.cls, tokens.patches, visible, tokens.grid)
        return approximate_labels(self.decoder, sequence, visible, hidden, self.config.groups, self.config.chunk)

    def _chunks(self, visible: Tensor, sequence: Tensor, predicted: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Which removals of `[B, V]` are decoded at once, counted through, and whose images they are."""
        chunk = self.config.chunk or chunk_of(self.decoder, sequence, sequence.shape[1], 0, predicted)
        for item in torch.arange(visible.numel(), device=visible.device).split(chunk):
            yield item, item // visible.shape[1]

    @torch.no_grad()
    def anchor(self, images: Tensor, visible: Tensor) -> Anchor:
        """Encode images `[B, 3, H, W]` and decode them with all patches that are `visible`, `[B, V]`."""
        _check(images, visible)
        tokens = self.backbone(images, keep=visible)
        patches = tokens.grid[0] * tokens.grid[1]
        sequence = self.decoder.sequence(tokens.cls, tokens.patches, visible, tokens.grid)
        blank = self.decoder.sequence(tokens.cls, tokens.patches[:, :0], visible[:, :0], tokens.grid)
        if self.config.region == "all":
            counted = torch.arange(patches, device=visible.device).expand(len(visible), -1)
        else:
            counted = _hidden(visible, patches)
        if any(why_closed(block) for block in self.decoder.blocks):
            first: list[Kept] = []
            found = self.decoder.features(sequence, counted + 1)
        else:
            whole, first = whole_pass(self.decoder, sequence, blocks=1)
            found = self.decoder.norm(_at(whole, counted + 1))
        return Anchor(images, visible, tokens.grid, sequence, blank, counted, wide(found), first)

    @torch.no_grad()
    def change(self, anchor: Anchor, image: Tensor, removed: Tensor) -> Tensor:
        """What a removal adds to `anchor.features`, `[C, M, W]`; 0 for a patch that has no token any more.

        Args:
            anchor: of a batch.
            image: which of its images, int64 `[C]`.
            removed: id of the patch that each loses, one of the image's visible ones, int64 `[C]`.
        """
        counted = anchor.counted[image]
        if self.config.removal == "mask_token":
            sequence = self._sequences(anchor, image, removed)
            return wide(self.decoder.features(sequence, counted + 1)) - anchor.features[image]
        removed = removed.unsqueeze(1)
        kept = torch.arange(anchor.sequence.shape[1] - 1, device=removed.device)
        kept = kept + (kept > removed)  # the patch stands at 1 + its id
        places = counted + (counted < removed).long()
        if self.config.removal == "delete" and anchor.first:
            found = self.decoder.norm(
                partial_pass(self.decoder, anchor.sequence, anchor.first, image, kept[:, :0], kept, places)
            )
        else:
            found = self.decoder.features(_at(self._sequences(anchor, image, removed.squeeze(1)), kept), places)
        return (wide(found) - anchor.features[image]).masked_fill((counted == removed).unsqueeze(2), 0)

    def _sequences(self, anchor: Anchor, image: Tensor, removed: Tensor) -> Tensor:
        """Of whole length, `[C, 1 + N, W]`; where a patch is to be deleted, it does not matter what stands there."""
        if self.config.removal == "reencode":
            which = (anchor.visible[image] == removed.unsqueeze(1)).int().argmax(1)
            rest = _all_but_one(anchor.visible)[image, which]
            tokens = self.backbone(anchor.images[image], keep=rest)
            return self.decoder.sequence(tokens.cls, tokens.patches, rest, anchor.grid)
        sequence = anchor.sequence[image]
        if self.config.removal == "mask_token":
            row = torch.arange(len(image), device=image.device)
            sequence[row, removed + 1] = anchor.blank[image, removed + 1]
        return sequence

    def _by_values(self, image: Tensor, change: Tensor) -> Tensor:
        """Mean absolute change `[C]` of predicted values."""
        values = wide(functional.linear(change, self.decoder.predict.weight)).abs()
        gone = self.config.region == "all" and self.config.removal != "mask_token"
        return values.mean(2).sum(1) / (values.shape[1] - gone)

    def _by_pictures(self, anchor: Anchor, pictures: PictureChange) -> Callable[[Tensor, Tensor], Tensor]:
        """A function of image and change to `[C]`, the difference of pictures."""
        predictions = wide(self.decoder.predict(anchor.features))
        reference = pictures.seen(pictures.pictures(anchor.images, anchor.counted, predictions, anchor.grid))

        def measure(image: Tensor, change: Tensor) -> Tensor:
            changed = predictions[image] + wide(functional.linear(change, self.decoder.predict.weight))
            drawn = pictures.pictures(anchor.images[image], anchor.counted[image], changed, anchor.grid)
            return pictures(reference[image], pictures.seen(drawn))

        return measure


def _at(sequence: Tensor, places: Tensor) -> Tensor:
    return sequence.gather(1, places.unsqueeze(2).expand(-1, -1, sequence.shape[2]))


def _all_but_one(ids: Tensor) -> Tensor:
    """`[B, V, V - 1]` of ids `[B, V]`: each row lacks another one."""
    count = ids.shape[1]
    row, column = torch.arange(count, device=ids.device).unsqueeze(1), torch.arange(count - 1, device=ids.device)
    return ids[:, column + (column >= row)]


def _hidden(visible: Tensor, patches: int) -> Tensor:
    """Of N patches those that are not visible, ascending: `[B, N - V]`."""
    count = visible.shape[1]
    if count >= patches:
        raise ValueError(
            f"{count} of {patches} patches are visible; labels look at those that are hidden: hide some, or choose "
            "region=all with mode=exact"
        )
    return others(visible, patches)


def _check(images: Tensor, visible: Tensor) -> None:
    if visible.ndim != 2 or len(visible) != len(images) or not visible.shape[1] or visible.dtype != torch.int64:
        raise ValueError(
            f"visible is {list(visible.shape)} of {visible.dtype}; it holds the ids of the visible patches, int64 "
            f"[B, V] with B = {len(images)} and V from 1 on"
        )
    if bool((visible.sort(dim=1).values.diff(dim=1) == 0).any()) or bool((visible < 0).any()):
        raise ValueError("visible names a patch twice in one image, or one below 0; each has one token")


def _check_labels(labels: Tensor, half: bool) -> None:
    finite = labels.isfinite().all(1)
    if not bool(finite.all()):
        images = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"labels of {len(images)} of {len(labels)} images are NaN or infinite, of image{'s' * (len(images) > 1)} "
            f"{', '.join(map(str, images[:5]))}{' ...' * (len(images) > 5)} of the batch; look at their pixels, and at "
            "the weights" + ", or set method.removal.precision=fp32, for half precision may overflow" * half
        )
