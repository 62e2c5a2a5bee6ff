"""PPD: a generator on the patches of one view of the image, a linear classifier on the class tokens of another.

    map = generator(patches of the last block, before the final norm)               the whole image, 256 x 256
    logits = linear(class tokens of the last four blocks, each normalized)          its middle, 224 x 224

Four computations, since the two views go through the backbone one after the other: class tokens, classifier, patches,
generator.

Source: Xu et al., "Proxy Probing Decoder for Weakly Supervised Object Localization: A Baseline Investigation", 2022, as
the supplement of "LocLoc" describes it in Sec. B.1. `vitrail.methods.ppd` trains it.

Deviations from the paper
- Its classifier gets an image that keeps its aspect ratio, its generator one that does not. A localizer is given one
  tensor, so here the classifier's view is the middle of that, `crop` of its sides.
- Its generator reads the patches after the final norm (supplement, Sec. B.3, and the released script), here before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitrail.backbones import TimmViT, load, load_part, need_vit
from vitrail.backbones.parts import with_part
from vitrail.contracts import Exported, Located
from vitrail.localizers.trained import classes_of, generator_of, without
from vitrail.nn.deconvolution import PpdGenerator, PpdGeneratorConfig
from vitrail.nn.token_classifier import ClassTokenProbe, patch_map
from vitrail.rankers.source import Source

WEIGHTS = "a run of PPD (vitrail train folder_ppd)"
PART = "ppd_generator"
CLASSIFIER = "ppd_classifier"
CROP = 0.875


class Ppd(nn.Module):
    """A frozen backbone, a generator and a classifier. Fulfills `vitrail.contracts.Localizer`."""

    def __init__(
        self,
        backbone: TimmViT,
        generator: PpdGenerator | None,
        classifier: ClassTokenProbe | None = None,
        classes: tuple[str, ...] | None = None,
        crop: float = CROP,
    ) -> None:
        """Args:
        backbone, generator, classifier: shared, not copied.
        classes: names in the order of the logits.
        crop: share of the image's sides that the classifier sees, rounded to whole patches.
        """
        super().__init__()
        self.backbone, self.generator, self.classifier = backbone, generator, classifier
        self.classes, self.crop = classes, crop
        self.mean: Sequence[float] = backbone.mean
        self.std: Sequence[float] = backbone.std
        self.image_size = backbone.image_size

    @torch.no_grad()
    def forward(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        """Maps `[B, 8 ceil(Y / 2), 8 ceil(X / 2)]` and logits `[B, C]`, float32; they do not depend on `labels`.

        Raises:
            ValueError: for weights without a generator.
        """
        logits = self.class_logits(images)
        return Located(self.locate(images).float(), None if logits is None else logits.float())

    def middle(self, images: Tensor) -> Tensor:
        """The classifier's view."""
        rows, columns = (
            max(round(size * self.crop / patch), 1) * patch
            for size, patch in zip(images.shape[-2:], self.backbone.patch_size)
        )
        top, left = (images.shape[-2] - rows) // 2, (images.shape[-1] - columns) // 2
        return images[..., top : top + rows, left : left + columns]

    def class_tokens(self, images: Tensor) -> list[Tensor]:
        """Normalized class tokens `[B, D]` of the last blocks, the last one last."""
        assert self.classifier is not None  # who asks has looked
        wanted = range(-self.classifier.blocks, 0)
        layers = self.backbone(images, layers=tuple(wanted)).layers
        return [self.backbone.norm(layers[block][:, :1])[:, 0] for block in wanted]

    @torch.no_grad()
    def class_logits(self, images: Tensor) -> Tensor | None:
        """Logits `[B, C]` alone, also of weights without a generator; None without a classifier."""
        return None if self.classifier is None else self.classifier(self.class_tokens(self.middle(images)))

    def patches(self, images: Tensor) -> Tensor:
        """The last block's patches before the final norm, as a map `[B, D, Y, X]`."""
        tokens = self.backbone(images, layers=(-1,))
        return patch_map(tokens.layers[-1], 1, tokens.grid)

    def locate(self, images: Tensor) -> Tensor:
        """Maps of whole images. Raises `ValueError` without a generator."""
        if self.generator is None:
            raise ValueError(
                "these weights hold PPD's classifier without its generator, which makes the maps; train one on them: "
                "vitrail train folder_ppd method.parts=generator --init-from RUN"
            )
        return self.generator(self.patches(images))

    def export(self) -> Exported:
        """The backbone under timm's names, generator and classifier beside it where they are there."""
        exported = self.backbone.export()
        if self.generator is not None:
            about = self.generator.config.plain() | {"features": self.backbone.embed_dim, "crop": self.crop}
            exported = with_part(exported, PART, self.generator, about)
        if self.classifier is not None:
            about = {"classes": len(self.classes or ()), "blocks": self.classifier.blocks}
            exported = with_part(exported, CLASSIFIER, self.classifier, about)
            exported = exported._replace(metadata=exported.metadata | {"classes": list(self.classes or ())})
        return Exported(exported.state, exported.metadata | {"localizer": "ppd"})


def from_source(source: Source) -> Ppd:
    """A run of PPD.

    Raises:
        ValueError: no weights, a file without PPD's generator, or parts that do not fit it.
    """
    path, part = generator_of(source, "ppd", PART, WEIGHTS)
    backbone = need_vit(load(path, image_size=source.image_size), "PPD")
    config = PpdGeneratorConfig.parse(without(part, "features", "crop"), source=part.source)
    generator = PpdGenerator(config, backbone.embed_dim)
    part.fill(generator)
    classifier, classes = open_classifier(path, backbone)
    return Ppd(backbone, generator, classifier, classes, float(part.config["crop"]))


def open_classifier(weights: str, backbone: TimmViT) -> tuple[ClassTokenProbe | None, tuple[str, ...] | None]:
    """PPD's classifier and its classes beside a backbone; None where the file holds none."""
    part = load_part(weights, CLASSIFIER)
    if part is None:
        return None, None
    made = ClassTokenProbe(backbone.embed_dim, int(part.config["classes"]), int(part.config["blocks"]))
    part.fill(made)
    return made, classes_of(weights)
