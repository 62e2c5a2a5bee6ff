"""Grad-CAM of a class: of the image's label, or of the class that the classifier predicts.

    w   = mean over places of dy_c / dA               A: features, [D] at each place; y_c: logit of the class
    map = max(0, <w, A>)                              signed: without max

What A is in a ViT and in a convolutional network stands in `vitrail.rankers.grad_cam`, whose parts these are. In the
latter the map has the places of the last feature map.

Source: Selvaraju et al. 2017 (arXiv 1610.02391).

With labels this is what weakly supervised localization calls a map of the known class; a Top-1 number needs the class
to be right, too, by `logits`.
"""

from __future__ import annotations

from torch import Tensor, nn

from vitrail.contracts import Located
from vitrail.localizers.labels import check_labels
from vitrail.rankers.grad_cam import ConvFeatures, VitFeatures, class_maps, open_features
from vitrail.rankers.source import Source, need_weights, variant_of

VARIANTS = ("relu", "signed")
WEIGHTS = "a classifier, such as deit_small_patch16_224.pth, a run folder, or `pretrained` with a model's name"


def from_source(source: Source) -> GradCamMaps:
    """A ViT with a linear classifier (`vitrail.load_classifier`), or a convolutional classifier of timm's."""
    variant = variant_of(source, "grad_cam", VARIANTS, "localizer")
    need_weights(source, "grad_cam", WEIGHTS, "localizer")
    return GradCamMaps(open_features(source), variant)


class GradCamMaps(nn.Module):
    """What speaks for a class, and the logits. Fulfills `vitrail.contracts.Localizer`."""

    def __init__(self, network: VitFeatures | ConvFeatures, variant: str = "relu") -> None:
        """Args: a classifier that hands out its features; one of `VARIANTS`."""
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}; known: {', '.join(VARIANTS)}")
        self.network, self.variant = network, variant
        self.classes: tuple[str, ...] | None = network.classes
        self.outputs: int = network.outputs
        self.mean, self.std, self.image_size = network.mean, network.std, network.image_size

    def forward(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        """Maps `[B, y, x]` of `labels` or of the predicted classes, not negative but in `signed`; logits `[B, K]`."""
        check_labels(labels, len(images), self.network.outputs)
        maps, logits = class_maps(self.network, images, labels)
        return Located(maps.relu() if self.variant == "relu" else maps, logits)
