"""LTRP: a model learns to rank patches by how much a masked autoencoder misses each of them.

    z = E(visible patches),  A = D(z),  s_i = mean |A - D(z without i)| over the hidden patches     labels, frozen E, D
    L = -log P(order of s | scores y) = sum over k of [ log sum_{j >= k} exp(y_j) - y_k ],  in the order of falling s

The ranking model sees the visible patches alone (`sparse`); once trained it is given whole images. Labels are those of
`vitrail.nn.patch_removal`, computed as training goes, or read from a folder that `vitrail label` has written.

Source: Luo et al., "Learning to Rank Patches for Unbiased Image Redundancy Reduction" (LTRP), supplement, Algorithm 1
and Table 3.

Deviations from the paper
- The losses that are compared with ListMLE have no published numbers. All but ListMLE look at how far labels lie apart,
  and labels are small: they get labels less their mean and over their deviation, list by list (`standardized`). The
  released code gives them raw ones; there RankNet's margin of 1e-3 may hold most pairs equal.
- Scales of these losses: RankNet is the mean over pairs, in the released code half of that; ListNet is the sum over a
  list, there the mean over its items.
- Fresh ranking models are drawn as MAE's encoders (Xavier's uniform); the supplement does not say how.
- Labels that were made before are of some draws of visible patches an image and of images that are not augmented.
- The ranking model and the autoencoder may want pixels normalized in different ways; each gets its own.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.data.patch_labels import Drawn, PatchLabels
from vitrail.masks import Random, visible
from vitrail.masks.counts import number_of
from vitrail.methods.mae import draw_weights
from vitrail.nn.groups import parameter_groups
from vitrail.nn.patch_removal import PatchRemoval, RemovalConfig
from vitrail.ops.listmle import listmle
from vitrail.ops.patches import grid_of
from vitrail.ops.pixels import Normalization, renormalize
from vitrail.ops.rank_correlation import kendall
from vitrail.ops.ranking_losses import listnet, pointwise, ranknet, top_focused
from vitrail.rankers.ltrp import LtrpRanker


class LtrpConfig(Config):
    """What is learned, and by which loss."""

    hidden: float = Field(0.9, gt=0, lt=1)
    """Share of the patches that is hidden from autoencoder and ranking model: `int(N * (1 - hidden))` stay."""
    head: Literal["cls", "patch"] = "cls"
    """cls: one score for each patch of the grid from the class token, as published; patch: a score from each token."""
    sparse: bool = True
    """The ranking model sees the visible patches alone, as published; false shows it whole images."""
    loss: Literal["listmle", "ranknet", "listnet", "pointwise", "top_focused"] = "listmle"
    """How scores are brought into the order of the labels."""
    top: int | None = Field(None, ge=1)
    """Leaders that listmle and top_focused look at; null: all, and 20 of top_focused."""
    standardized: bool = True
    """Losses other than listmle get labels less their mean and over their deviation, list by list; false: as they are,
    which is how the released code does it."""
    margin: float = Field(1e-3, ge=0)
    """Of ranknet and top_focused: labels that differ by less are equal; in deviations of a list where labels are
    standardized."""
    temperature: float = Field(1.0, gt=0)
    """Of listnet: divides the labels."""
    removal: RemovalConfig = RemovalConfig()
    """What the labels measure."""
    labels: str | None = None
    """Folder that `vitrail label` has written; null computes labels in each step."""
    positions: Literal["fixed", "learned"] = "fixed"
    """Of a ranking model that is a ViT. fixed: sines and cosines, not trained, as published."""
    weight_decay: float = Field(0.06, ge=0)
    """AdamW's decay, on matrices only."""


class Ltrp(nn.Module):
    """A ranking model in training. Fulfills `vitrail.contracts.Method`.

    The autoencoder behind the labels is no part of this module: it is neither trained, nor saved, nor exported.
    """

    def __init__(
        self,
        config: LtrpConfig,
        ranker: LtrpRanker,
        labeler: PatchRemoval | None,
        labels: PatchLabels | None = None,
        *,
        fresh: bool = True,
    ) -> None:
        """Args:
            config: settings.
            ranker: what learns.
            labeler: an autoencoder; its backbone has `mean` and `std` where these are not the ranking model's. None
                where there are `labels`.
            labels: made before, read instead.
            fresh: the ranking model's weights are to be drawn; False leaves their values alone.

        Raises:
            ValueError: for grids that differ, less than two visible patches, or neither labeler nor labels.
        """
        super().__init__()
        self.config, self.ranker, self.labels = config, ranker, labels
        self._labeler = (labeler,)  # a tuple hides it from torch
        self.mask = Random()
        rows, columns = ranker.grid
        self.visible = rows * columns - number_of(config.hidden, rows * columns)
        if self.visible < 2:
            raise ValueError(
                f"method.hidden {config.hidden:g} leaves {self.visible} of {rows * columns} patches visible, and one "
                f"has no order; set it to {1 - 2 / (rows * columns):.3g} or less"
            )
        if config.loss == "top_focused" and (config.top or 20) >= self.visible:
            warnings.warn(
                f"method.loss top_focused looks at the first {config.top or 20} of {self.visible} visible patches, so "
                "it is listmle; set method.top to fewer",
                stacklevel=2,
            )
        _check_labels(labels, ranker, self.visible) if labels is not None else _check_grids(labeler, ranker)
        network = ranker.backbone
        if isinstance(network, TimmViT):
            if fresh:
                draw_weights(network, config.positions)
            if config.positions == "fixed" and network.vit.pos_embed is not None:
                network.vit.pos_embed.requires_grad_(False)
        if labeler is not None:
            labeler.requires_grad_(False).eval()
        self._loss = loss_of(config)

    @property
    def backbone(self) -> Any:
        """The ranking model's network."""
        return self.ranker.backbone

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The ranking loss; parts: `kendall`, the mean of Kendall's tau between scores and labels."""
        ids, labels = self.labeled(batch)
        if self.config.sparse:
            scores = self.ranker.scores(batch.images, keep=ids)
        else:
            scores = self.ranker.scores(batch.images).gather(1, ids)
        return Losses(self._loss(scores, labels), {"kendall": kendall(scores, labels).mean()})

    def labeled(self, batch: Batch) -> Drawn:
        """Which patches of each image are visible, and what they are worth; chance is torch's global one."""
        images = batch.images
        if self.labels is not None:
            found = self.labels.draw(batch.indices)
            return Drawn(found.ids.to(images.device), found.labels.to(images.device))
        (labeler,) = self._labeler
        assert labeler is not None  # checked when this was made
        if next(labeler.parameters()).device != images.device:
            labeler.to(images.device)
        hidden = self.mask(images, self.ranker.grid, self.config.hidden)
        ids = visible(hidden, self.config.hidden)
        ours = Normalization(self.ranker.mean, self.ranker.std)
        return Drawn(ids, labeler(renormalize(images, ours, pixels_of(labeler, ours)), ids))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The ranking model at one rate; biases, norms and tokens undecayed."""
        return parameter_groups(self.ranker, weight_decay=self.config.weight_decay)

    def after_step(self, step: Step) -> None:
        """Nothing moves between steps."""

    def export(self) -> Exported:
        """The ranking model, which `vitrail.rankers.open_ranker("ltrp", ...)` opens."""
        return self.ranker.export()


def pixels_of(labeler: PatchRemoval, otherwise: Normalization) -> Normalization:
    """How an autoencoder wants pixels; `otherwise` for one that does not say."""
    backbone: Any = labeler.backbone
    return Normalization(getattr(backbone, "mean", otherwise.mean), getattr(backbone, "std", otherwise.std))


def loss_of(config: LtrpConfig) -> Any:
    """The loss of scores `[B, V]` and labels `[B, V]`."""
    margin, top = config.margin, config.top
    losses: dict[str, Any] = {
        "listmle": partial(listmle, top=top),
        "ranknet": partial(ranknet, margin=margin),
        "listnet": partial(listnet, temperature=config.temperature),
        "pointwise": pointwise,
        "top_focused": partial(top_focused, margin=margin, top=20 if top is None else top),
    }
    found = losses[config.loss]
    if config.loss == "listmle" or not config.standardized:  # ListMLE reads the order alone
        return found
    return lambda scores, labels: found(scores, standardized(labels))


def standardized(labels: Tensor) -> Tensor:
    """Labels `[B, V]` less the mean of their list and over its deviation; 0 where all are equal."""
    variance, mean = torch.var_mean(labels, dim=-1, keepdim=True, correction=0)
    return (labels - mean) / variance.sqrt().clamp(min=torch.finfo(labels.dtype).tiny)


def _check_grids(labeler: PatchRemoval | None, ranker: LtrpRanker) -> None:
    if labeler is None:
        raise ValueError("LTRP needs an autoencoder that labels patches, or labels that were made before; give one")
    patch = labeler.backbone.patch_size
    grid = tuple(side // step for side, step in zip(ranker.image_size, patch))
    if grid != tuple(ranker.grid) or tuple(patch) != tuple(ranker.patch_size):
        tall, wide = ranker.image_size
        raise ValueError(
            f"images of {tall} x {wide} pixels are {_by(grid)} patches of {_by(patch)} to the autoencoder and "
            f"{_by(ranker.grid)} patches of {_by(ranker.patch_size)} to the ranking model; labels of one have to be "
            f"the patches of the other: set backbone.patch_size to {_by(patch)}, or take another autoencoder"
        )
    grid_of(*ranker.image_size, patch)


def _check_labels(labels: PatchLabels, ranker: LtrpRanker, count: int) -> None:
    grid, drawn = tuple(labels.about["grid"]), labels.ids.shape[2]
    if grid != tuple(ranker.grid):
        raise ValueError(
            f"the labels in {labels.folder} are of {_by(grid)} patches, the ranking model scores {_by(ranker.grid)}; "
            "set image and patch size as they were, or make labels anew"
        )
    if drawn != count:
        raise ValueError(
            f"the labels in {labels.folder} are of {drawn} visible patches, and method.hidden leaves {count}; set "
            f"method.hidden to {labels.about['hidden']:g}, or make labels anew"
        )


def _by(sides: Any) -> str:
    return f"{sides[0]}x{sides[1]}"
