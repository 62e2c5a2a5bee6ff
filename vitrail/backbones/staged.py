"""PVT and CvT behind `vitrail.contracts.Backbone`: what the contract speaks of is their last stage.

The class token exists in the last stage alone, so `depth`, `layers`, `scores`, `patches` and `grid` are those of the
last stage. Images of any size that holds whole patches are taken: PVT's positions are interpolated, CvT has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitrail import __version__
from vitrail.backbones.config import BackboneConfig
from vitrail.backbones.cvt import CVTS, Cvt, CvtConfig
from vitrail.backbones.pvt import PVTS, Pvt, PvtConfig
from vitrail.config import ConfigError
from vitrail.contracts import Exported, Tokens
from vitrail.nn.surgery import surgery
from vitrail.ops.patches import sides_of

NAMES = (*PVTS, *CVTS)
"""What `BackboneConfig.name` may say for a network in stages."""


class StagedBackbone(nn.Module):
    """Images to tokens. Fulfills `vitrail.contracts.Backbone`.

    Attributes: `net` (a `Pvt` or a `Cvt`), `config`, `embed_dim`, `depth`, `heads` and `norm` of the last stage,
    `patch_size`, the pixels between its tokens, and `image_size` as (height, width), `prefix_tokens` (1, the class
    token), `mean` and `std` of the pixels, as the weights want images normalized, and `report` (`LoadReport`, None for
    fresh weights).
    """

    prefix_tokens = 1
    object_filter: None = None
    """CoTAP's filter is for plain ViTs."""

    def __init__(
        self,
        net: Pvt | Cvt,
        config: BackboneConfig,
        *,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        """Args: net: as `build_staged` makes it of `config`; mean, std: of the pixels in [0, 1], per channel."""
        super().__init__()
        self.net = net
        self.config = config
        self.report: Any = None
        self.mean: tuple[float, ...] = tuple(mean)
        self.std: tuple[float, ...] = tuple(std)
        self.embed_dim: int = net.config.embed_dims[-1]
        self.depth: int = net.config.depths[-1]
        self.heads: int = net.config.heads[-1]
        self.patch_size: tuple[int, int] = (net.patch, net.patch)
        self.gradient_checkpointing = config.gradient_checkpointing

    @property
    def closed(self) -> Mapping[int, str]:
        """Blocks whose CLS scores cannot be read, and why: none."""
        return {}

    @property
    def norm(self) -> nn.Module:
        """The final norm."""
        return self.net.norm

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the positions are made for; other sizes are interpolated to."""
        return self.net.image_size

    def forward(
        self,
        images: Tensor,
        *,
        layers: Sequence[int] = (),
        scores: Sequence[int] = (),
        keep: Tensor | None = None,
        hidden: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tokens:
        """Run the network.

        Args:
            images: `[B, 3, H, W]`, normalized by `mean` and `std`; H and W multiples of the patch size.
            layers: blocks of the last stage whose output to keep, 0-based, negative from the last.
            scores: blocks of the last stage whose CLS scores to return: q_cls . k times the network's own scale, over
                the keys, before the softmax, `[B, H, y, x]`, float32 or wider. The scale is 1/sqrt(d) in PVT, d a
                head's width, and 1/sqrt(width) in CvT. PVT has as many keys as tokens, CvT half of them a side.

        Returns:
            `Tokens`, those of the last stage.

        Raises:
            ValueError: image sides that are not whole patches, a block that is not there, and `keep`, `hidden` and
                `mask_token`: convolutions see neighbors, so no patch can be left out.
        """
        self._refuse(keep=keep, hidden=hidden, mask_token=mask_token)
        self._check(images)
        wanted_layers, wanted_scores = self._blocks(layers, "layers"), self._blocks(scores, "scores")
        x, grid = self.net.embed(images, self._run)
        outputs: dict[int, Tensor] = {}
        maps: dict[int, Tensor] = {}
        for index, block in enumerate(self.net.blocks):
            if index in wanted_scores.values():
                x, row = self._run(block, x, grid, scores=True)
                maps[index] = row[:, :, self.prefix_tokens :].unflatten(2, self.net.keys_grid(grid))
            else:
                x = self._run(block, x, grid)
            if index in wanted_layers.values():
                outputs[index] = x
        x = self.norm(x)
        return Tokens(
            x[:, 0],
            x[:, self.prefix_tokens :],
            grid,
            {asked: outputs[index] for asked, index in wanted_layers.items()},
            {asked: maps[index] for asked, index in wanted_scores.items()},
        )

    def resize(self, image_size: tuple[int, int]) -> None:
        """Make the positions for another size (height, width), in place; `ValueError` for no whole patches."""
        self._check(torch.empty(1, 3, *image_size, device="meta"))
        self.net.resize(image_size)

    def export(self) -> Exported:
        """The weights under the authors' names, and what is needed to rebuild the model."""
        state = {name: value.detach().cpu().clone() for name, value in self.net.state_dict().items()}
        config = self.config.model_copy(update={"image_size": self.image_size})
        said = {"backbone": config.plain(), "mean": list(self.mean), "std": list(self.std), "version": __version__}
        return Exported(state, said)

    def _run(self, block: nn.Module, x: Tensor, grid: tuple[int, int], **asked: Any) -> Any:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(partial(block, grid=grid, **asked), x, use_reentrant=False)
        return block(x, grid, **asked)

    def _refuse(self, **given: Tensor | None) -> None:
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{name} was given to {self.config.name}, whose convolutions look at a patch among its neighbors, "
                    "so that none can be left out or covered; take a plain ViT (vit_*, deit_*) for that"
                )

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images are {list(images.shape)}; the backbone takes [B, 3, H, W]")
        for side, size in zip(("height", "width"), images.shape[-2:]):
            patch = self.net.patch
            if size % patch or size < patch:
                lower, upper = size // patch * patch, -(-size // patch) * patch
                sizes = f"{lower} or {upper}" if lower else f"{upper}"
                raise ValueError(
                    f"image {side} {size} is not a multiple of {patch} pixels, a patch of {self.config.name}'s last "
                    f"stage; resize to {sizes}, or pad to {upper}"
                )

    def _blocks(self, asked: Sequence[int], what: str) -> Mapping[int, int]:
        """Asked-for numbers, each with the block's index."""
        for number in asked:
            if not -self.depth <= number < self.depth:
                raise ValueError(
                    f"{what}: there is no block {number} among the {self.depth} of {self.config.name}'s last stage, "
                    f"the only one with a class token; choose {-self.depth} to {self.depth - 1}"
                )
        return {number: number % self.depth for number in asked}


def is_staged(name: str) -> bool:
    """Whether a name is that of a network in stages."""
    return name in NAMES


def build_staged(config: BackboneConfig) -> StagedBackbone:
    """A PVT or a CvT with fresh weights, drawn from torch's global random numbers.

    Raises:
        ConfigError: for what only a plain ViT has, options that there are not, and a size of no whole patches.
    """
    _check_plain(config)
    size = config.image_size or 224
    sides = sides_of(size)
    source = f"options of {config.name}"
    how: dict[str, Any] = {"drop_path": config.drop_path, "cut": surgery(config.surgery)}
    net: Pvt | Cvt
    if config.name in PVTS:
        _check_sides(config, sides, Pvt.patch)
        net = Pvt(PvtConfig.parse(PVTS[config.name].plain() | config.options, source=source), sides, **how)
    else:
        _check_sides(config, sides, Cvt.patch)
        net = Cvt(CvtConfig.parse(CVTS[config.name].plain() | config.options, source=source), sides, **how)
    return StagedBackbone(net, config)


def _check_plain(config: BackboneConfig) -> None:
    options = {"embed_dim": "embed_dims", "depth": "depths", "heads": "heads"}
    fields = ("patch_size", *options, "object_filter")
    given = {field: getattr(config, field) for field in fields if getattr(config, field) is not None}
    if given:
        own, patch = PVTS.get(config.name) or CVTS[config.name], Pvt.patch if config.name in PVTS else Cvt.patch
        told = [field if field == "object_filter" else f"{field} = {value}" for field, value in given.items()]
        hints = [
            f"options.{options[field]} is {list(getattr(own, options[field]))}" for field in given if field in options
        ]
        stages = f"; of its stages {', '.join(hints)}, a number for each" if hints else ""
        raise ConfigError(
            f"{', '.join(told)} {'are' if len(told) > 1 else 'is'} for plain ViTs (vit_*, deit_*), and {config.name} "
            f"always has {patch} pixels between the patches of its last stage{stages}: set "
            f"{' '.join(f'backbone.{field}=null' for field in given)}"
        )
    if config.name in CVTS and config.gradient_checkpointing:
        raise ConfigError(
            f"gradient_checkpointing runs each block twice, and {config.name}'s batch norms would count each batch "
            "twice; leave it out"
        )


def _check_sides(config: BackboneConfig, sides: tuple[int, int], patch: int) -> None:
    for side, size in zip(("height", "width"), sides):
        if size % patch or size < patch:
            raise ConfigError(
                f"{config.name}: image {side} {size} is not a multiple of {patch}, the pixels between the patches of "
                f"its last stage; set image_size to {max(size // patch, 1) * patch}"
            )
