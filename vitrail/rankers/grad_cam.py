"""Grad-CAM of the class that a classifier predicts.

    c = the class of the largest logit y_c          each image's own
    w = mean over places of dy_c / dA               A: features, [D] at each place
    S = max(0, <w, A>)                              signed: without max

In a ViT, A is what the last block's first norm returns, of the patches alone. The last block's output would be in
vain: the classifier reads the class token, and no gradient goes to the patches. In a convolutional network A is the
last feature map, and S is resized to the grid of patches (bilinear).

Variants: `relu` is the text and the released code. It leaves all that speaks against the class at 0, often half of the
patches, among which `select` then takes those of smaller id; `signed` ranks them, too.

Sources: Selvaraju et al., "Grad-CAM", 2017; Luo et al., "LTRP", supplement A.2.

Deviations: the released code maps scores to [0, 1], and to the pixels and back, neither of which is needed to rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from vitrail.backbones import TimmViT, load_classifier, need_vit
from vitrail.backbones.layouts import recognize
from vitrail.backbones.reading import read_file, weights_file
from vitrail.ops.patches import grid_of, sides_of
from vitrail.rankers.convnet import ConvNet, described, feature_map, open_convnet, pretrained_model
from vitrail.rankers.source import Source, need_weights, variant_of

VARIANTS = ("relu", "signed")
WEIGHTS = "a classifier, such as deit_small_patch16_224.pth, a run folder, or `pretrained` with a model's name"


def from_source(source: Source) -> GradCam:
    """A ViT with a linear classifier (`vitrail.load_classifier`), or a convolutional classifier of timm's."""
    variant = variant_of(source, "grad_cam", VARIANTS)
    need_weights(source, "grad_cam", WEIGHTS)
    return GradCam(open_features(source), variant)


def open_features(source: Source) -> VitFeatures | ConvFeatures:
    """A classifier that hands out its features, of `weights`, which are needed.

    Raises:
        ValueError: for weights of another kind, and as `load_classifier` and `open_convnet`.
    """
    assert source.weights is not None
    if source.weights == "pretrained":
        model = pretrained_model(source.model, classifier=True)
        if isinstance(model, VisionTransformer):
            return _of_vit(model, source.image_size)
        return ConvFeatures(described(model, source))
    if not _holds_vit(source.weights):
        return ConvFeatures(open_convnet(source, classifier=True))
    found = load_classifier(source.weights, source.model, image_size=source.image_size, checkpoint_key=source.key)
    return VitFeatures(need_vit(found.backbone, "Grad-CAM"), found.head, found.pool, found.classes)


class GradCam(nn.Module):
    """What speaks for the predicted class. Fulfills `vitrail.contracts.Ranker`."""

    needs_number = False

    def __init__(self, network: VitFeatures | ConvFeatures, variant: str = "relu") -> None:
        """Args: a classifier that hands out its features; one of `VARIANTS`."""
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}; known: {', '.join(VARIANTS)}")
        self.network = network
        self.variant = variant
        self.mean, self.std = network.mean, network.std
        self.image_size, self.patch_size = network.image_size, network.patch_size

    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Scores `[B, Y, X]`, not negative but in `signed`."""
        grid = grid_of(images.shape[-2], images.shape[-1], self.patch_size)
        scores, _ = class_maps(self.network, images)
        if self.variant == "relu":
            scores = scores.relu()
        if scores.shape[-2:] != grid:
            scores = functional.interpolate(scores[:, None], grid, mode="bilinear", align_corners=False).squeeze(1)
        return scores


def class_maps(
    network: VitFeatures | ConvFeatures, images: Tensor, labels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Grad-CAM without max, at the places of the features, and the classifier's logits.

    Args:
        network: in evaluation mode, where images of a batch do not meet.
        images: `[B, 3, H, W]`, normalized.
        labels: int64 `[B]`, whose class's map; None for the predicted one.

    Returns:
        `[B, y, x]` and `[B, classes]`, both float32.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf, logits = network(images.clone())
        chosen = logits.argmax(1) if labels is None else labels.clone()
        # Images do not meet in evaluation mode, so one sum has each image's own gradient.
        (slope,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), leaf)
    size = (images.shape[-2], images.shape[-1])
    features, slope = network.map_of(leaf.detach(), size), network.map_of(slope, size)
    maps = (slope.float().mean((2, 3), keepdim=True) * features.float()).sum(1)
    return maps, logits.detach().float()


class VitFeatures(nn.Module):
    """A ViT with a linear classifier, cut at the last block's first norm."""

    def __init__(self, backbone: TimmViT, head: nn.Linear, pool: str, classes: tuple[str, ...] | None = None) -> None:
        """Args: the head; what it reads after the final norm, "cls" or "mean" of the patches; its classes' names."""
        super().__init__()
        if not isinstance(getattr(backbone.vit.blocks[-1], "norm1", None), nn.Module):
            raise ValueError(f"the last block, a {type(backbone.vit.blocks[-1]).__name__}, has no norm1 to look at")
        self.backbone, self.head, self.pool, self.classes = backbone, head, pool, classes
        self.outputs = head.out_features
        self.mean, self.std = backbone.mean, backbone.std
        self.image_size, self.patch_size = backbone.image_size, backbone.patch_size

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, P + N, D]`, a leaf, and logits `[B, classes]` that depend on it."""
        last: Any = self.backbone.vit.blocks[-1]
        with _cut(last.norm1) as leaves:
            tokens = self.backbone(images)
        return leaves[0], self.head(tokens.cls if self.pool == "cls" else tokens.patches.mean(1))

    def map_of(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """`[B, D, Y, X]` of what has a value at each token of images of this (height, width)."""
        grid = grid_of(*size, self.patch_size)
        return tokens[:, self.backbone.prefix_tokens :].transpose(1, 2).unflatten(2, grid)


class ConvFeatures(nn.Module):
    """A convolutional classifier of timm's, cut at its last feature map."""

    classes = None  # no file of timm's or torchvision's names them

    def __init__(self, network: ConvNet) -> None:
        """Args: a network whose `forward_features` returns `[B, C, Y, X]`, with a classifier."""
        super().__init__()
        self.model = network.model
        self.outputs: int = network.model.num_classes
        self.mean, self.std = network.mean, network.std
        self.image_size, self.patch_size = network.image_size, network.patch_size

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The last feature map `[B, C, y, x]`, a leaf, and logits `[B, classes]` that depend on it."""
        leaf = feature_map(self.model, images).detach().requires_grad_()
        return leaf, self.model.forward_head(leaf.clone())  # a head may work in place

    def map_of(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """The features as they are."""
        return features


@contextmanager
def _cut(module: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, what `module` returns starts a graph of its own; the list has these leaves."""
    leaves: list[Tensor] = []

    def start_anew(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = module.register_forward_hook(start_anew)
    try:
        yield leaves
    finally:
        handle.remove()


def _holds_vit(weights: str) -> bool:
    try:
        recognize(read_file(weights_file(weights))[0])
    except ValueError as error:
        if "no Vision Transformer" in str(error):
            return False
        raise
    return True


def _of_vit(vit: VisionTransformer, image_size: int | tuple[int, int] | None) -> VitFeatures:
    """A pretrained model of timm's, whose classifier the backbone would take off."""
    if hasattr(vit, "head_dist") or not isinstance(vit.fc_norm, nn.Identity):
        raise ValueError(
            "this model classifies by two tokens, or by an average that is normalized once more (fc_norm), and only "
            "class tokens and means of normalized patches are read here; choose deit_small_patch16_224.fb_in1k, say"
        )
    if image_size is not None:
        vit.set_input_size(img_size=sides_of(image_size))
    head: Any = vit.head
    pool = "cls" if vit.global_pool == "token" else "mean"
    return VitFeatures(TimmViT(vit), head, pool)
