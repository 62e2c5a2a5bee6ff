"""A masked autoencoder with fresh weights in a file, and settings of scenes_ltrp that fit it."""

from __future__ import annotations

from pathlib import Path

import torch

from vitrail.backbones import BackboneConfig, create, save_exported
from vitrail.methods.mae import Mae, MaeConfig
from vitrail.nn.masked_autoencoder import DecoderConfig

SETTINGS = [
    "data.scenes.count=50",
    "data.scenes.val_count=12",
    "data.scenes.image_size=24",
    "augment.image_size=24",
    "backbone.embed_dim=24",
    "backbone.depth=2",
    "method.hidden=0.7",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "train.global_batch_size=10",
    "train.device=cpu",
    "autoencoder.backbone.embed_dim=24",
    "autoencoder.backbone.depth=1",
    "autoencoder.method.decoder.embed_dim=16",
    "autoencoder.train.epochs=1",
    "autoencoder.train.warmup_epochs=0",
    "autoencoder.train.global_batch_size=10",
]


def autoencoder(path: Path, seed: int = 0, *, normalized: bool = False, patch: int = 6) -> Path:
    """Write one for images of 24 pixels."""
    torch.manual_seed(seed)
    backbone = create(BackboneConfig(image_size=24, patch_size=patch, embed_dim=24, depth=1, heads=2))
    backbone.mean = backbone.std = (0.5, 0.5, 0.5)
    decoder = DecoderConfig(embed_dim=16, depth=1, heads=4)
    save_exported(Mae(MaeConfig(hidden=0.7, normalized_targets=normalized, decoder=decoder), backbone).export(), path)
    return path
