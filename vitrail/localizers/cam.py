"""CAM: what each place adds to the logit of a class, where a linear classifier reads the mean over places.

    y_c = <w_c, mean over places of A> + b_c               map = <w_c, A>

so the map's mean is the logit, but for the bias. A are a ViT's patches after the final norm, or a convolutional
network's last feature map. A classifier that reads the class token, or whose head does more than to average, has no
CAM; take grad_cam.

Source: Zhou et al. 2016, "Learning deep features for discriminative localization" (arXiv 1512.04150).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitrail.contracts import Located
from vitrail.localizers.labels import check_labels
from vitrail.rankers.convnet import feature_map
from vitrail.rankers.grad_cam import ConvFeatures, VitFeatures, open_features
from vitrail.rankers.source import Source, need_weights, no_variant

WEIGHTS = "a classifier of averages, such as a ResNet's file, or `pretrained` with a model's name"


def from_source(source: Source) -> Cam:
    """A ViT whose linear classifier reads the mean of its patches, or a convolutional classifier of timm's."""
    no_variant(source, "cam", "localizer")
    need_weights(source, "cam", WEIGHTS, "localizer")
    return Cam(open_features(source))


class Cam(nn.Module):
    """Each place's part of a logit, and the logits. Fulfills `vitrail.contracts.Localizer`."""

    def __init__(self, network: VitFeatures | ConvFeatures) -> None:
        """Args: a classifier of averages, in evaluation mode.

        Raises:
            ValueError: for a classifier of the class token, or one whose logits are not linear in the average.
        """
        super().__init__()
        self.network = network.eval()
        self.head = _linear(network)
        self.classes: tuple[str, ...] | None = network.classes
        self.outputs: int = network.outputs
        self.mean, self.std, self.image_size = network.mean, network.std, network.image_size

    @torch.no_grad()
    def forward(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        """Maps `[B, y, x]` of `labels` or of the predicted classes, of any sign, and logits `[B, K]`."""
        check_labels(labels, len(images), self.network.outputs)
        features = self._features(images).float()
        logits = self.head(features.mean((2, 3)))
        rows = self.head.weight[logits.argmax(1) if labels is None else labels]
        return Located(torch.einsum("bc,bcyx->byx", rows.float(), features), logits.float())

    def _features(self, images: Tensor) -> Tensor:
        """A, `[B, C, y, x]`."""
        if isinstance(self.network, ConvFeatures):
            return feature_map(self.network.model, images)
        tokens = self.network.backbone(images)
        return tokens.patches.transpose(1, 2).unflatten(2, tokens.grid)


def _linear(network: VitFeatures | ConvFeatures) -> nn.Linear:
    """The classifier; `ValueError` where it is no linear one of averages."""
    if isinstance(network, VitFeatures):
        if network.pool != "mean":
            raise ValueError(
                "this classifier reads the class token, so no patch has a part of its own in a logit; take grad_cam, "
                "or a classifier of the patches' mean"
            )
        return network.head
    model: Any = network.model
    head = model.get_classifier()
    probe = torch.rand(2, model.num_features, 3, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fits = isinstance(head, nn.Linear) and head.in_features == model.num_features
        said = model.forward_head(probe.to(head.weight))
        fits = fits and torch.allclose(said, head(probe.to(head.weight).mean((2, 3))), atol=1e-3, rtol=1e-3)
    if not fits:
        raise ValueError(
            f"the head of this {type(model).__name__} does more than to average the last map and take a linear layer "
            "of it; take grad_cam, or a network such as resnet50"
        )
    return head
