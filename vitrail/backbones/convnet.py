"""A convolutional network of timm's behind `vitrail.contracts.Backbone`: its last map are the patches.

The class token is the pooled vector. There are no blocks to look into, no attention and no token that could be left
out, so `layers`, `scores`, `keep`, `hidden` and `mask_token` are refused.

The small stem is the usual one for CIFAR: timm's ResNet begins with a convolution of 7 x 7 in steps of two and a
pooling, which would leave one cell of an image of 32 pixels; in their place stands a convolution of 3 x 3 in steps of
one, with as many channels as the first stage (He et al. 2016, arXiv 1512.03385, Sec. 4.2; SimCLR, arXiv 2002.05709,
appendix B.9).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import timm
from pydantic import Field, model_validator
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from vitrail import __version__
from vitrail.backbones.mae_decoder import misfit
from vitrail.backbones.parts import set_apart
from vitrail.backbones.reading import read_file, weights_file
from vitrail.config import Config, ConfigError
from vitrail.contracts import Exported, Tokens
from vitrail.ops.patches import sides_of


class ConvNetConfig(Config):
    """A convolutional network of timm's, and its stem."""

    name: str = "resnet18"
    """timm's name."""
    stem: Literal["small", "plain"] = "small"
    """small: 3 x 3 in steps of one and no pooling, for ResNets on images of up to about 64 pixels; plain: timm's."""
    width: int | None = Field(None, ge=1)
    """Channels of a ResNet's first stage, which the other three double; null for the name's own, 64."""
    blocks: tuple[int, int, int, int] | None = None
    """Blocks of a ResNet's four stages; null for the name's own, 2 each in resnet18."""
    image_size: int | tuple[int, int] = 32
    """Pixels, one side or (height, width), that it is trained at; others are taken, too."""
    options: dict[str, bool | int | float | str | None] = Field(default_factory=dict)
    """Further arguments of timm's model, such as `zero_init_last: false`."""

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if min(sides_of(self.image_size)) < 1:
            raise ValueError(f"image_size {self.image_size} is not positive")
        return self


class TimmConvNet(nn.Module):
    """Images to a map and its mean. Fulfills `vitrail.contracts.Backbone`.

    Attributes: `net` (timm's model without a classifier), `config`, `embed_dim`, `patch_size` (pixels between cells of
    the map), `image_size`, `mean` and `std` of the pixels. `depth` is 1 and `heads` is 0: there is nothing inside that
    could be asked for.
    """

    depth = 1
    heads = 0

    def __init__(
        self,
        net: Any,
        config: ConvNetConfig,
        *,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        """Args: net: as `create_convnet` builds it from `config`; mean, std: of the pixels in [0, 1], per channel."""
        super().__init__()
        self.net = net
        self.config = config
        self.report: Any = None
        self.mean, self.std = tuple(mean), tuple(std)
        self.embed_dim: int = net.num_features
        self.patch_size = (_step(net, config),) * 2
        self.image_size = sides_of(config.image_size)

    @property
    def closed(self) -> dict[int, str]:
        """Why no scores can be read, as `TimmViT.closed` says it of blocks."""
        return {0: f"{self.config.name} is a convolutional network without attention"}

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

        Returns:
            `Tokens`: `patches [B, Y * X, D]`, the cells of the last map, and `cls [B, D]`, what timm pools of them.

        Raises:
            ValueError: image sides that are not whole cells, and whatever else is asked for.
        """
        asked = {"layers": layers, "scores": scores, "keep": keep, "hidden": hidden, "mask_token": mask_token}
        for name, value in asked.items():
            if value is not None and len(value):
                raise ValueError(
                    f"{name} was asked of {self.config.name}, a convolutional network, which has no blocks, no "
                    "attention and no tokens to leave out; take a Vision Transformer for that"
                )
        self._check(images)
        net: Any = self.net
        cells: Tensor = net.forward_features(images)
        pooled = net.forward_head(cells, pre_logits=True)
        return Tokens(pooled, cells.flatten(2).transpose(1, 2), (cells.shape[2], cells.shape[3]))

    def export(self) -> Exported:
        """The weights under timm's names, and what is needed to rebuild the model."""
        state = {name: value.detach().cpu().clone() for name, value in self.net.state_dict().items()}
        said = {"convnet": self.config.plain(), "mean": list(self.mean), "std": list(self.std)}
        return Exported(state, said | {"version": __version__})

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images are {list(images.shape)}; the backbone takes [B, 3, H, W]")
        for side, size, step in zip(("height", "width"), images.shape[-2:], self.patch_size):
            if size % step or size < step:
                raise ValueError(
                    f"image {side} {size} is not a multiple of {step} pixels, a cell of {self.config.name}'s map; "
                    f"resize to {max(round(size / step), 1) * step}"
                )


def create_convnet(config: ConvNetConfig | None = None) -> TimmConvNet:
    """A network with fresh weights, drawn from torch's global random numbers.

    Raises:
        ConfigError: for a name that timm lacks, arguments that it does not take, a small stem or a width of what is no
            ResNet, or a network without a map.
    """
    config = config or ConvNetConfig()
    if not timm.is_model(config.name):
        raise ConfigError(
            f"timm {timm.__version__} has no model {config.name!r}; timm.list_models('resnet*') names some"
        )
    given: dict[str, Any] = dict(config.options)
    if config.width is not None:
        given["channels"] = tuple(config.width * 2**stage for stage in range(4))
    if config.blocks is not None:
        given["layers"] = config.blocks
    try:
        net: Any = timm.create_model(config.name, num_classes=0, **given)
    except (TypeError, RuntimeError) as error:
        raise ConfigError(f"timm cannot build {config.name} with {given}: {error}") from error
    if config.stem == "small":
        _shrink_stem(net, config)
    if not hasattr(net, "forward_head") or not getattr(net, "feature_info", None):
        raise ConfigError(f"{config.name} says nothing of its maps; choose a convolutional network, such as resnet18")
    return TimmConvNet(net, config)


def load_convnet(weights: str | Path) -> TimmConvNet:
    """A network that one of our runs or files holds, in training mode, on the CPU.

    Raises:
        ValueError: for a file of another kind, or one that does not fit what its header says.
    """
    path = weights_file(weights)
    content, own = read_file(path)
    if own is None or "convnet" not in own:
        raise ValueError(f"{path} holds no convolutional network of vitrail's; vitrail.load opens Vision Transformers")
    backbone = create_convnet(ConvNetConfig.parse(own["convnet"], source=f"the header of {path}"))
    state = dict(set_apart(content, own)[0])
    reason = misfit(state, backbone.net.state_dict())
    if reason:
        raise ValueError(f"{path} does not fit the {backbone.config.name} of its header: {reason}")
    backbone.net.load_state_dict(state)
    backbone.mean, backbone.std = tuple(own["mean"]), tuple(own["std"])
    return backbone


def _shrink_stem(net: Any, config: ConvNetConfig) -> None:
    first = getattr(net, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not isinstance(getattr(net, "maxpool", None), nn.MaxPool2d):
        raise ConfigError(
            f"{config.name} has no plain ResNet stem that could be made small; set stem=plain, or take resnet18"
        )
    width = config.width or first.out_channels
    net.conv1 = _conv(first.in_channels, width, 3)
    net.maxpool = nn.Identity()
    if width == first.out_channels:
        return
    net.bn1 = type(net.bn1)(width)  # and the first block takes as many channels; timm always gives it 64
    block = net.layer1[0]
    block.conv1 = _conv(width, block.conv1.out_channels, block.conv1.kernel_size[0])
    given = block.downsample[0].out_channels
    block.downsample = None if given == width else nn.Sequential(_conv(width, given, 1), block.downsample[1])


def _conv(taken: int, given: int, side: int) -> nn.Conv2d:
    conv = nn.Conv2d(taken, given, side, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _step(net: Any, config: ConvNetConfig) -> int:
    """Pixels between cells of the last map; the small stem takes two halvings out."""
    reduction = int(net.feature_info[-1]["reduction"])
    return reduction // 4 if config.stem == "small" else reduction
