"""A ViT whose last block's keys tell two colors apart, and images of which the right box is known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from tiny_vit import tiny_vit
from torch import Tensor

from vitrail.backbones import TimmViT


def planted_vit(image_size: int = 64) -> TimmViT:
    """One block on patches of 8 pixels, without positions or biases: keys of x and -x are opposite."""
    backbone = tiny_vit(image_size=image_size, depth=1)
    vit = backbone.vit
    for bias in (vit.patch_embed.proj.bias, vit.blocks[0].norm1.bias, vit.blocks[0].attn.qkv.bias):
        bias.zero_()
    vit.pos_embed.zero_()
    return backbone


class Planted(NamedTuple):
    """Dark images with a bright rectangle each."""

    images: Tensor  # [B, 3, 64, 64], -1 and 1
    masks: Tensor  # bool [B, 64, 64]
    boxes: list[tuple[int, int, int, int]]  # half-open x0 y0 x1 y1, pixels


def planted_images() -> Planted:
    """Rectangles of whole patches, each smaller than a half of its image; the second reaches the border."""
    boxes = [(16, 8, 40, 32), (0, 0, 16, 24), (48, 40, 64, 64), (24, 24, 32, 32)]
    masks = torch.zeros(len(boxes), 64, 64, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes):
        mask[top:bottom, left:right] = True
    values = torch.where(masks, 1.0, -1.0)
    return Planted(values[:, None].expand(-1, 3, -1, -1).contiguous(), masks, boxes)


def box_of(mask: Tensor) -> tuple[int, int, int, int]:
    """Half-open x0 y0 x1 y1 around the True cells of `[H, W]`."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
