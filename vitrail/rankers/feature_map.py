"""A convolutional network of timm as a ranking model sees it: one feature for the image, one for each patch.

A convolution cannot leave patches out. Where only some are to be seen, the others' pixels become 0, the mean color.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm import create_model
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional

from vitrail import __version__
from vitrail.backbones import BackboneConfig
from vitrail.config import ConfigError
from vitrail.contracts import Exported, Tokens
from vitrail.ops.patches import grid_of, sides_of

NAMED = ("name", "image_size", "patch_size", "options")
"""What of a `BackboneConfig` says something about a convolutional network."""


class FeatureMap(nn.Module):
    """Images to `Tokens`: `cls` is the mean over the last feature map, `patches` that map, resized to the grid.

    Attributes: `network` (timm's, without classifier), `config`, `embed_dim`, `image_size` and `patch_size` as (height,
    width) in pixels, `mean` and `std` of the pixels.
    """

    def __init__(
        self, config: BackboneConfig, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        """Fresh weights, as timm draws them.

        Args:
            config: timm's name, image size (224) and patch size (16, the side of a cell of the grid).
            mean, std: of the pixels in [0, 1]; ImageNet's by default.

        Raises:
            ConfigError: for what only a Vision Transformer has, sides that are not whole patches, or a network that
                timm cannot build.
        """
        super().__init__()
        odd = sorted(name for name in config.model_fields_set - set(NAMED) if _says_something(config, name))
        if odd:
            raise ConfigError(f"{config.name} is no Vision Transformer and has no {', '.join(odd)}; leave it out")
        self.config = config
        self.image_size, self.patch_size = sides_of(config.image_size or 224), sides_of(config.patch_size or 16)
        self.mean: Sequence[float] = tuple(mean or IMAGENET_DEFAULT_MEAN)
        self.std: Sequence[float] = tuple(std or IMAGENET_DEFAULT_STD)
        try:
            grid_of(*self.image_size, self.patch_size)
            network: Any = create_model(config.name, num_classes=0, global_pool="", **dict[str, Any](config.options))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"timm cannot build {config.name} with {config.plain()}: {error}") from error
        self.network = network
        self.embed_dim: int = network.num_features

    def forward(self, images: Tensor, *, keep: Tensor | None = None) -> Tokens:
        """Args:
            images: `[B, 3, H, W]`, normalized by `mean` and `std`, of whole patches.
            keep: patch ids, int64 `[B, K]`; the pixels of the others become 0, and `patches` holds these alone.

        Raises:
            ValueError: for a side of no whole patches, or a network without a feature map `[B, D, y, x]`.
        """
        grid = grid_of(images.shape[-2], images.shape[-1], self.patch_size)
        if keep is not None:
            images = images * _seen(keep, grid, self.patch_size).to(images.dtype)
        features: Tensor = self.network.forward_features(images)
        if features.ndim != 4 or features.shape[1] != self.embed_dim:
            raise ValueError(
                f"{self.config.name} gives {list(features.shape)}, not a map [B, {self.embed_dim}, y, x]; choose a "
                "convolutional network, or a vit_* or deit_* model"
            )
        large = functional.interpolate(features.float(), grid, mode="bilinear", align_corners=False)
        patches = large.flatten(2).transpose(1, 2)
        if keep is not None:
            patches = patches.gather(1, keep.unsqueeze(2).expand(-1, -1, patches.shape[2]))
        return Tokens(features.mean((2, 3)), patches.to(features.dtype), grid)

    def export(self) -> Exported:
        """The weights under timm's names, and what is needed to rebuild the network."""
        state = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
        plain = self.config.model_copy(update={"image_size": self.image_size, "patch_size": self.patch_size}).plain()
        said = {"mean": list(self.mean), "std": list(self.std), "version": __version__}
        return Exported(state, {"feature_map": {name: plain[name] for name in NAMED}, **said})


def _says_something(config: BackboneConfig, name: str) -> bool:
    return getattr(config, name) != type(config).model_fields[name].get_default(call_default_factory=True)


def _seen(keep: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """Which pixels are seen, bool `[B, 1, H, W]`."""
    flat = torch.zeros(len(keep), grid[0] * grid[1], dtype=torch.bool, device=keep.device).scatter(1, keep, True)
    laid = flat.view(len(keep), 1, *grid)
    return laid.repeat_interleave(patch[0], 2).repeat_interleave(patch[1], 3)
