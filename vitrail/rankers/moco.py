"""Activity of a ResNet's last feature map, as of MoCo's.

    S = resize(sum over channels of A, to the grid of patches)          A: the last feature map, [C, H / 32, W / 32]

It is resized bicubically (a = -0.75, no antialiasing; 7 x 7 becomes 14 x 14), so a score can lie a little below zero.

Sources: He et al., "Momentum contrast", 2020; Luo et al., "LTRP", supplement A.2.

Deviations: the released code maps scores to [0, 1] by least and greatest of the batch, which changes no image's order
and is left out here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail.ops.patches import grid_of
from vitrail.rankers.convnet import ConvNet, feature_map, open_convnet
from vitrail.rankers.source import Source, need_weights, no_variant

WEIGHTS = "a file of MoCo's ResNet-50, or of another ResNet, or `pretrained` with a model's name"


def from_source(source: Source) -> Moco:
    """MoCo's own files, and any ResNet of timm's or torchvision's; see `vitrail.rankers.convnet`."""
    need_weights(source, "moco", WEIGHTS)
    no_variant(source, "moco")
    return Moco(open_convnet(source, classifier=False))


class Moco(nn.Module):
    """The activity of a convolutional network at each patch. Fulfills `vitrail.contracts.Ranker`."""

    needs_number = False

    def __init__(self, network: ConvNet) -> None:
        """Args: a network whose `forward_features` returns `[B, C, Y, X]`."""
        super().__init__()
        self.model = network.model
        self.mean, self.std = network.mean, network.std
        self.image_size, self.patch_size = network.image_size, network.patch_size

    @torch.no_grad()
    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Scores `[B, Y, X]`."""
        grid = grid_of(images.shape[-2], images.shape[-1], self.patch_size)
        activity = feature_map(self.model, images).float().sum(1, keepdim=True)
        return functional.interpolate(activity, grid, mode="bicubic", align_corners=False).squeeze(1)
