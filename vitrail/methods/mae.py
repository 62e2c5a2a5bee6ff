"""Masked autoencoders: hide most patches, encode the rest, reconstruct what was hidden.

    L = mean over hidden patches of mean over pixels of (prediction - target)^2

The encoder sees the visible patches alone; a light decoder sees them and a mask token in each hidden place. A target
is the pixels of a patch, by default less their mean and over their standard deviation, patch by patch.
How patches are hidden is a `Mask`: uniform as published, or by a determinantal point process (DPPMask), which hides
no part of the image whole.

Sources: He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022 (arXiv 2111.06377); the supplement of
DPPMask; `throw` is the second half of Liu et al.'s attention-driven masking and throwing (2023).

Deviations from the papers
- Tokens are not decayed, as everywhere in this library; the released code decays them.
- `throw` takes patches out of the hidden ones uniformly at random; its paper lets the attention choose them.
- A mask that is guided by attention asks the encoder itself, on whole images, in each step: one more forward pass, as
  the encoder is in training, drop path included.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.backbones.parts import with_part
from vitrail.backbones.t2t_vit import TokensToToken
from vitrail.config import Config, ConfigError
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.masks import MaskConfig, build, visible
from vitrail.masks.counts import number_of
from vitrail.masks.ranking import hide_lowest, uniform
from vitrail.nn.cls_attention import cls_attention
from vitrail.nn.groups import parameter_groups
from vitrail.nn.masked_autoencoder import DecoderConfig, MaskedDecoder
from vitrail.nn.positions import sine_cosine
from vitrail.ops.patches import grid_of, patchify


class MaeConfig(Config):
    """How images are hidden and reconstructed."""

    mask: MaskConfig = MaskConfig()
    """Which patches are hidden."""
    hidden: float = Field(0.75, gt=0, lt=1)
    """Share of the patches that is hidden: `int(N * (1 - hidden))` stay."""
    throw: float = Field(0.0, ge=0, lt=1)
    """Share of the hidden patches that do not count in the loss either: `int(throw * hidden)`, never all of them."""
    normalized_targets: bool = True
    """Reconstruct each patch less its mean and over its standard deviation, instead of raw pixels."""
    positions: Literal["fixed", "learned"] = "fixed"
    """Of the encoder. fixed: not trained, sines and cosines where weights are fresh, as published; or learned ones."""
    decoder: DecoderConfig = DecoderConfig()
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's decay, on matrices only."""


class Mae(nn.Module):
    """An encoder and a decoder that reconstructs. Fulfills `vitrail.contracts.Method`."""

    def __init__(self, config: MaeConfig, backbone: TimmViT, *, fresh: bool = True) -> None:
        """Args: fresh: the backbone's weights are to be drawn as the paper does; False leaves their values alone."""
        super().__init__()
        if isinstance(backbone.vit.patch_embed, TokensToToken):
            raise ConfigError(
                "a T2T-ViT embeds each patch together with the others, so that nothing is hidden from the patches that "
                "MAE leaves; choose a vit_* model, or another method, such as DINO"
            )
        self.config = config
        self.backbone = backbone
        self.mask = build(config.mask)
        grid = grid_of(*backbone.image_size, backbone.patch_size)
        number_of(config.hidden, grid[0] * grid[1])  # leaves a patch visible, or says so before training starts
        self.decoder = MaskedDecoder(config.decoder, backbone.embed_dim, backbone.patch_size, grid)
        if fresh:
            draw_weights(backbone, config.positions)
        if config.positions == "fixed" and backbone.vit.pos_embed is not None:
            backbone.vit.pos_embed.requires_grad_(False)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The mean squared error of the hidden patches; parts: what the mask has to tell."""
        images = batch.images
        hidden = self.hide(images)
        predictions = self.reconstruct(images, hidden)
        counted = thrown(hidden, self.config.throw) if self.config.throw else hidden
        errors = (predictions.float() - self.targets(images)).square().mean(-1)
        return Losses((errors * counted).sum() / counted.sum(), _told(self.mask))

    def hide(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Bool `[B, N]`, True is hidden: a new draw of the mask."""
        attention = cls_attention(self.backbone, images) if self.mask.needs_attention else None
        grid = grid_of(images.shape[-2], images.shape[-1], self.backbone.patch_size)
        return self.mask(images, grid, self.config.hidden, attention=attention, generator=generator)

    def reconstruct(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Predictions of all patches, `[B, N, P]` in units of the targets, P ordered channel, row, column."""
        ids = visible(hidden, self.config.hidden)
        tokens = self.backbone(images, keep=ids)
        return self.decoder(tokens.cls, tokens.patches, ids, tokens.grid)

    def targets(self, images: Tensor) -> Tensor:
        """What is to be predicted, `[B, N, P]`."""
        return targets(images, self.backbone.patch_size, self.config.normalized_targets)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Encoder and decoder at one rate; biases, norms and tokens undecayed."""
        decay = self.config.weight_decay
        return parameter_groups(self.backbone, weight_decay=decay) + parameter_groups(self.decoder, weight_decay=decay)

    def after_step(self, step: Step) -> None:
        """Nothing moves between steps."""

    def export(self) -> Exported:
        """The encoder under timm's names, and the decoder under `decoder.`."""
        about = {"decoder": self.config.decoder.plain(), "normalized_targets": self.config.normalized_targets}
        return with_part(self.backbone.export(), "decoder", self.decoder, about)


def thrown(hidden: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Of the hidden patches, bool `[B, N]`, those that still count: all but `int(share * hidden)`, drawn uniformly."""
    count = hidden.sum(1)
    gone = (count.double() * share).long().minimum((count - 1).clamp(min=0))
    keys = uniform(hidden.shape, hidden.device, generator).masked_fill(~hidden, 2.0)
    return hide_lowest(keys, count - gone)


def targets(images: Tensor, patch: tuple[int, int], normalized: bool) -> Tensor:
    """Patches `[B, N, P]` of images `[B, 3, H, W]`; normalized: (pixel - mean) / sqrt(variance + 1e-6) in each patch.

    The variance is the unbiased one, as in the released code.
    """
    patches = patchify(images.float(), patch)
    if not normalized:
        return patches
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def _told(mask: Any) -> dict[str, Tensor]:
    return mask.logged() if hasattr(mask, "logged") else {}


def draw_weights(backbone: TimmViT, positions: Literal["fixed", "learned"]) -> None:
    """MAE's initial weights: Xavier's uniform for every matrix, small normal tokens, positions of sines and cosines.

    `positions` "learned" leaves these as they are.
    """
    vit = backbone.vit
    for part in vit.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    kernel = vit.patch_embed.proj.weight
    nn.init.xavier_uniform_(kernel.view(kernel.shape[0], -1))
    assert vit.cls_token is not None  # the wrapper has checked
    nn.init.normal_(vit.cls_token, std=0.02)
    if positions == "learned" or vit.pos_embed is None:
        return
    with torch.no_grad():
        fixed, grid = torch.zeros_like(vit.pos_embed), grid_of(*backbone.image_size, backbone.patch_size)
        fixed[0, -grid[0] * grid[1] :] = sine_cosine(grid, backbone.embed_dim)
        vit.pos_embed.copy_(fixed)
