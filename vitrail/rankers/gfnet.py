"""GFNet's last look, the window's center first.

A small view of the whole image (the glance) and then windows of the same size, cut out of the image, go through two
CNNs; a recurrent classifier reads their mean features one after another. Where the next window is, a recurrent policy
says from the last feature map, as an action a = (down, right) in [0, 1]^2. A window of w of Y cells starts at

    floor(a * (Y - w)),   w = 8 and Y = 14 as published with windows of 128 of 224 pixels

and the score of a patch is 1 inside the last window and 0 outside, less its distance from the window's center over the
largest one: every patch inside comes before those outside, and any number of patches is a compact set.

Variants: `window` as said; `indicator`, 1 and 0 alone, as LTRP's released code has it.

Source: Wang et al., "Glance and Focus: a Dynamic Approach to Reducing Spatial Redundancy in Image Classification",
2020; the score: LTRP's supplement. `vitrail.methods.gfnet` trains it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.backbones.reading import read_file, weights_file
from vitrail.config import Config, ConfigError
from vitrail.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vitrail.ops.patches import grid_of
from vitrail.rankers.source import Source, need_weights, variant_of

VARIANTS = ("window", "indicator")
WEIGHTS = "a run of `vitrail train folder_gfnet`, or a released file of GFNet"
Act = Callable[[int, Tensor], Tensor]
"""From a step's number, 1 for the first window, and the policy's action `[B, 2]` to the action that is taken."""


class GfNetConfig(Config):
    """Two CNNs, a policy, a classifier."""

    cnn: str = "resnet50"
    """timm's name of both CNNs."""
    cnn_options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of timm's model, such as `output_stride: 8`."""
    image_size: int = Field(224, gt=0)
    """Side of the images in pixels."""
    window: int = Field(128, gt=0)
    """Side of glance and windows in pixels."""
    looks: int = Field(5, ge=2)
    """The glance and the windows after it, in all."""
    hidden: int = Field(1024, gt=0)
    """Width of the policy's and the classifier's memory."""
    encoder: Literal["linear", "conv"] = "linear"
    """How the policy reads a feature map: as published for ResNets, or through 32 channels as for smaller CNNs."""
    patch_size: int = Field(16, gt=0)
    """Side in pixels of the patches that scores are for; the network has none of its own."""


class Looks(NamedTuple):
    """What `GfNet` returns, T looks in all."""

    logits: Tensor  # [T, B, classes], after each look
    actions: Tensor  # [T - 1, B, 2] in [0, 1], the windows' (down, right)
    means: Tensor  # [T - 1, B, 2] in [0, 1], what the policy said
    maps: tuple[Tensor, ...]  # T - 1 feature maps [B, C, h, w] that the policy saw


class Policy(nn.Module):
    """Where to look next, by a feature map and what was seen before. State-dict keys are those of released files."""

    def __init__(self, channels: int, side: int, hidden: int, encoder: str) -> None:
        """Args: channels and side of the feature map, width of the memory, "linear" or "conv"."""
        super().__init__()
        if encoder == "conv":
            layers = [nn.Conv2d(channels, 32, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(32 * side**2, hidden)]
        else:
            layers = [nn.Linear(channels * side**2, 2048), nn.ReLU(), nn.Linear(2048, hidden)]
        self.flat = encoder != "conv"
        self.state_encoder = nn.Sequential(*layers, nn.ReLU())
        self.gru = nn.GRU(hidden, hidden)
        self.actor = nn.Sequential(nn.Linear(hidden, 2), nn.Sigmoid())
        self.critic = nn.Sequential(nn.Linear(hidden, 1))

    def forward(self, features: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Action `[B, 2]`, value `[B]` and the memory after a feature map `[B, C, h, w]`; None starts afresh."""
        state = self.state_encoder(features.flatten(1) if self.flat else features)
        out, memory = self.gru(state[None], memory)
        return self.actor(out[0]), self.critic(out[0])[:, 0], memory

    def over(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Actions `[T, B, 2]` and values `[T, B]` of feature maps in the order in which they were seen."""
        actions, values, memory = [], [], None
        for features in maps:
            action, value, memory = self(features, memory)
            actions.append(action)
            values.append(value)
        return torch.stack(actions), torch.stack(values)


class Classifier(nn.Module):
    """Class scores of what was seen so far. State-dict keys are those of released files."""

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        """Args: channels of the features, width of the memory, number of classes."""
        super().__init__()
        self.rnn = nn.GRU(channels, hidden)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, features: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits `[B, classes]` and the memory after mean features `[B, C]`; None starts afresh."""
        out, memory = self.rnn(features[None], memory)
        return self.fc(out[0]), memory


class GfNet(nn.Module):
    """`glance`, `focus`, `policy` and `classifier`. It has no tokens, so it is no `vitrail.contracts.Backbone`."""

    def __init__(
        self,
        config: GfNetConfig,
        classes: int,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        pretrained: bool = False,
    ) -> None:
        """Fresh weights; with `pretrained` timm downloads those of the CNNs.

        Raises `ConfigError` for a window above the image, or a CNN that timm does not have.
        """
        super().__init__()
        if config.window > config.image_size:
            raise ConfigError(f"window {config.window} is larger than image_size {config.image_size}; make it smaller")
        self.config = config
        self.mean, self.std = tuple(mean), tuple(std)
        self.image_size = (config.image_size, config.image_size)
        self.patch_size = (config.patch_size, config.patch_size)
        self.glance, self.focus = _cnn(config, pretrained), _cnn(config, pretrained)
        with torch.no_grad():
            found = _quietly(self.glance, torch.zeros(1, 3, config.window, config.window))
        channels, side = found.shape[1], found.shape[-1]
        self.policy = Policy(channels, side, config.hidden, config.encoder)
        self.classifier = Classifier(channels, config.hidden, classes)

    def forward(self, images: Tensor, act: Act | None = None, *, policy: Policy | None = None) -> Looks:
        """Look at images.

        Args:
            images: `[B, 3, H, W]`, normalized.
            act: changes the policy's actions; None takes them.
            policy: another one than the network's own.
        """
        features = self.see(self.glance, self.whole(images))
        logits, seen = self.classifier(features.mean((2, 3)), None)
        told, memory, policy = [logits], None, policy or self.policy
        actions: list[Tensor] = []
        means: list[Tensor] = []
        maps: list[Tensor] = []
        for step in range(1, self.config.looks):
            maps.append(features.detach())
            mean, _, memory = policy(maps[-1], memory)
            actions.append(mean.detach() if act is None else act(step, mean.detach()))
            means.append(mean)
            features = self.see(self.focus, self.cut(images, actions[-1]))
            logits, seen = self.classifier(features.mean((2, 3)), seen)
            told.append(logits)
        return Looks(torch.stack(told), torch.stack(actions), torch.stack(means), tuple(maps))

    def see(self, cnn: Any, pixels: Tensor) -> Tensor:
        """A CNN's feature map `[B, C, h, w]`."""
        found: Tensor = cnn.forward_features(pixels)
        return found

    def whole(self, images: Tensor) -> Tensor:
        """The glance: images `[B, 3, H, W]` made as small as a window, by the interpolation of the released code."""
        return F.interpolate(images, (self.config.window,) * 2, mode="bicubic", align_corners=True)

    def cut(self, images: Tensor, actions: Tensor) -> Tensor:
        """Windows `[B, 3, w, w]` at actions `[B, 2]`, whole pixels; of images of another size resized to it."""
        height, width = images.shape[-2:]
        share = self.config.window / self.config.image_size
        tall, wide = max(round(share * height), 1), max(round(share * width), 1)
        tops, lefts = top_left(actions, (height, width), (tall, wide)).unbind(1)
        rows = tops[:, None] + torch.arange(tall, device=images.device)
        columns = lefts[:, None] + torch.arange(wide, device=images.device)
        number = torch.arange(len(images), device=images.device)[:, None, None]
        found = images.permute(0, 2, 3, 1)[number, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
        if (tall, wide) == (self.config.window,) * 2:
            return found
        return self.whole(found)


def top_left(actions: Tensor, grid: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """First row and column of windows, int64 `[B, 2]`: floor(a * (grid - window)) of actions `[B, 2]` in [0, 1].

    Raises:
        ValueError: for actions that are NaN.
    """
    if bool(actions.isnan().any()):
        images = actions.isnan().any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"GFNet's policy says NaN of images {images[:5]} of the batch; look at their pixels and at the weights"
        )
    space = actions.new_tensor([grid[0] - window[0], grid[1] - window[1]])
    return (actions.clamp(0, 1) * space).floor().long()


def window_scores(actions: Tensor, grid: tuple[int, int], window: tuple[int, int], ties: bool = False) -> Tensor:
    """Scores of the cells of a grid by a window in it.

    Args:
        actions: `[B, 2]` in [0, 1], down and right.
        grid: (Y, X).
        window: its height and width in cells.
        ties: 1 and 0 alone, without the distance.

    Returns:
        `[B, Y, X]`: 1 inside and 0 outside, less the distance from the window's center, in cells, over one more than
        the grid's diagonal; so inside is above 0 and outside is below.
    """
    start = top_left(actions, grid, window)
    y = torch.arange(grid[0], device=actions.device) - start[:, :1]
    x = torch.arange(grid[1], device=actions.device) - start[:, 1:]
    inside = ((y >= 0) & (y < window[0]))[:, :, None] & ((x >= 0) & (x < window[1]))[:, None]
    if ties:
        return inside.float()
    away = torch.hypot(y[:, :, None] - (window[0] - 1) / 2, x[:, None] - (window[1] - 1) / 2)
    return inside.float() - away / (torch.tensor(grid).float().norm().item() + 1)


def _cnn(config: GfNetConfig, pretrained: bool) -> Any:
    import timm

    if not timm.is_model(config.cnn):
        raise ConfigError(
            f"timm {timm.__version__} has no model {config.cnn!r}; timm.list_models('resnet*') names some"
        )
    cnn = timm.create_model(config.cnn, pretrained=pretrained, num_classes=0, **config.cnn_options)
    with torch.no_grad():
        found = _quietly(cnn, torch.zeros(1, 3, config.window, config.window))
    if found.ndim != 4:
        raise ConfigError(f"{config.cnn} gives no feature map [B, C, h, w] but {list(found.shape)}; choose a CNN")
    return cnn


def _quietly(cnn: Any, pixels: Tensor) -> Tensor:
    """A feature map that leaves the running means of the CNN's norms alone."""
    training = cnn.training
    found: Tensor = cnn.eval().forward_features(pixels)
    cnn.train(training)
    return found


_RELEASED = {
    "model_prime_state_dict": "glance",
    "model_state_dict": "focus",
    "policy": "policy",
    "fc": "classifier",
}  # keys of a released file and whose weights they hold


def open_network(weights: str | Path, *, image_size: int | tuple[int, int] | None = None) -> GfNet:
    """The network of a file: ours, or a released one (four state dictionaries and `model_name`, `patch_size`).

    Raises `ValueError` for a file of another kind, or one whose weights do not fit.
    """
    path = weights_file(weights)
    content, own = read_file(path)
    if own is not None:
        about = own.get("ranker", {})
        if about.get("name") != "gfnet":
            raise ValueError(f"{path} holds no GFNet; train one by `vitrail train folder_gfnet`")
        config = GfNetConfig.parse(about["config"], source=f"the header of {path}")
        network = GfNet(config, int(about["classes"]), mean=own["mean"], std=own["std"])
        state = dict(content)
    else:
        config, state = _released(content, str(path), image_size)
        network = GfNet(config, len(state["classifier.fc.bias"]))
    wrong = _misfit(state, network.state_dict())
    if wrong:
        raise ValueError(f"{path} does not fit GFNet with {config.cnn} and windows of {config.window} pixels: {wrong}")
    network.load_state_dict(state)
    return network


def _released(
    content: Mapping[str, Any], path: str, image_size: int | tuple[int, int] | None
) -> tuple[GfNetConfig, dict[str, Tensor]]:
    lacking = [key for key in _RELEASED if not isinstance(content.get(key), Mapping)]
    if lacking:
        raise ValueError(f"{path} is no file of GFNet: it has no {', '.join(lacking)}")
    state = {
        f"{part}.{re.sub('^module[.]', '', name)}": value
        for key, part in _RELEASED.items()
        for name, value in content[key].items()
    }
    # The CNNs were trained with classifiers of their own, which nothing reads.
    state = {name: value for name, value in state.items() if not re.match(r"(glance|focus)\.(fc|classifier)\.", name)}
    side = image_size if isinstance(image_size, int) else image_size[0] if image_size else 224
    values: dict[str, Any] = {"cnn": content.get("model_name", "resnet50"), "image_size": side}
    if "policy.state_encoder.0.weight" in state and state["policy.state_encoder.0.weight"].ndim == 4:
        values["encoder"] = "conv"
    if "classifier.rnn.weight_hh_l0" not in state:
        raise ValueError(f"{path} has a classifier without memory, as released for small CNNs; only GRUs are read here")
    values["hidden"] = int(state["classifier.rnn.weight_hh_l0"].shape[1])
    if content.get("patch_size") is not None:
        values["window"] = int(content["patch_size"])
    if isinstance(content.get("flops"), list):
        values["looks"] = len(content["flops"])  # one for each number of looks
    return GfNetConfig(**values), state


def _misfit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    names = [f"{name} is not there" for name in wanted if name not in state]
    names += [f"{name} is too much" for name in state if name not in wanted]
    names += [
        f"{name} is {list(state[name].shape)} and not {list(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    return "; ".join(names[:3]) + f"; and {len(names) - 3} more" * (len(names) > 3)


def from_source(source: Source) -> Gfnet:
    """Weights of GFNet, ours or released ones; variants `window` and `indicator`."""
    variant = variant_of(source, "gfnet", VARIANTS)
    weights = need_weights(source, "gfnet", WEIGHTS)
    return Gfnet(open_network(weights, image_size=source.image_size), variant, patch_size=source.patch_size)


class Gfnet(nn.Module):
    """Scores by the last window. Fulfills `vitrail.contracts.Ranker`."""

    needs_number = False

    def __init__(self, network: GfNet, variant: str = "window", *, patch_size: int | None = None) -> None:
        """`variant` is one of `VARIANTS`; `patch_size` in pixels, by default as the network is configured."""
        super().__init__()
        self.network = network
        self.variant = variant
        self.mean: Sequence[float] = network.mean
        self.std: Sequence[float] = network.std
        self.image_size = network.image_size
        self.patch_size = network.patch_size if patch_size is None else (patch_size, patch_size)

    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Scores `[B, Y, X]` in (-1, 1]."""
        grid = grid_of(images.shape[-2], images.shape[-1], self.patch_size)
        share = self.network.config.window / self.network.config.image_size
        window = max(round(share * grid[0]), 1), max(round(share * grid[1]), 1)
        action = self.network(images).actions[-1].float()
        return window_scores(action, grid, window, ties=self.variant == "indicator")
