"""LocLoc: a generator says where the object is, a transformer of its own what it is; one frozen embedding.

    t = embedding of the image;   F = patches after the frozen blocks, before the final norm          one preprocessed
    map = GEG(F)   8 times as large as the grid, in (0, 1);   logits = LFDM(t)                        image

Three computations: tokens, generator, classifier. Either part may be missing in a file: without the classifier there
are no logits, without the generator there is nothing to locate with.

Source: Xu et al., "LocLoc: Low-level Cues and Local-area Guides for Weakly Supervised Object Localization", 2023,
Sec. B.1 and Algorithm 1 of its supplement. `vitrail.methods.locloc` trains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.backbones import TimmViT, load, load_part, need_vit
from vitrail.backbones.parts import with_part
from vitrail.contracts import Exported, Located
from vitrail.localizers.trained import classes_of, generator_of, without
from vitrail.nn.deconvolution import Geg, GegConfig
from vitrail.nn.token_classifier import Lfdm, LfdmConfig, patch_map, run_blocks
from vitrail.rankers.source import Source

WEIGHTS = "a run of LocLoc (vitrail train folder_locloc)"
PART = "locloc_generator"
CLASSIFIER = "locloc_classifier"


class LocLoc(nn.Module):
    """A frozen backbone, a generator and a classifier. Fulfills `vitrail.contracts.Localizer`."""

    def __init__(
        self,
        backbone: TimmViT,
        generator: Geg | None,
        classifier: Lfdm | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        """Args: the parts, shared, not copied; names of the classes in the order of the logits."""
        super().__init__()
        self.backbone, self.generator, self.classifier, self.classes = backbone, generator, classifier, classes
        self.mean: Sequence[float] = backbone.mean
        self.std: Sequence[float] = backbone.std
        self.image_size = backbone.image_size

    @torch.no_grad()
    def forward(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        """Maps `[B, 8Y, 8X]` in (0, 1) and logits `[B, C]`, float32; they do not depend on `labels`.

        Raises:
            ValueError: for weights without a generator.
        """
        tokens, grid = self.embed(images)
        logits = None if self.classifier is None else self.classifier(tokens, grid).float()
        return Located(self.locate(tokens, grid).float(), logits)

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """What both parts start from: embedded tokens `[B, T, D]` and the grid (Y, X)."""
        return self.backbone.embed(images)

    @torch.no_grad()
    def class_logits(self, images: Tensor) -> Tensor | None:
        """Logits `[B, C]` alone, also of weights without a generator; None without a classifier."""
        tokens, grid = self.embed(images)
        return None if self.classifier is None else self.classifier(tokens, grid)

    def patches(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The frozen blocks' patches before the final norm, as a map `[B, D, Y, X]`."""
        return patch_map(run_blocks(self.backbone.vit.blocks, tokens, grid), self.backbone.prefix_tokens, grid)

    def locate(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Maps `[B, 8Y, 8X]` of embedded tokens. Raises `ValueError` without a generator."""
        if self.generator is None:
            raise ValueError(
                "these weights hold LocLoc's classifier without its generator, which makes the maps; train one on "
                "them: vitrail train folder_locloc method.parts=generator --init-from RUN"
            )
        return self.generator(self.patches(tokens, grid))

    def export(self) -> Exported:
        """The backbone under timm's names, generator and classifier beside it where they are there."""
        exported = self.backbone.export()
        if self.generator is not None:
            about = self.generator.config.plain() | {"features": self.backbone.embed_dim}
            exported = with_part(exported, PART, self.generator, about)
        if self.classifier is not None:
            about = self.classifier.config.plain() | {"classes": len(self.classes or ())}
            exported = with_part(exported, CLASSIFIER, self.classifier, about)
            said = {"classes": list(self.classes or ())}
            exported = exported._replace(metadata=exported.metadata | said)
        return Exported(exported.state, exported.metadata | {"localizer": "locloc"})


def from_source(source: Source) -> LocLoc:
    """A run of LocLoc.

    Raises:
        ValueError: no weights, a file without LocLoc's generator, or parts that do not fit it.
    """
    path, generator = generator_of(source, "locloc", PART, WEIGHTS)
    backbone = need_vit(load(path, image_size=source.image_size), "LocLoc")
    made = Geg(GegConfig.parse(without(generator, "features"), source=generator.source), backbone.embed_dim)
    generator.fill(made)
    classifier, classes = open_classifier(path, backbone)
    return LocLoc(backbone, made, classifier, classes)


def open_classifier(weights: str, backbone: TimmViT) -> tuple[Lfdm | None, tuple[str, ...] | None]:
    """LocLoc's classifier and its classes beside a backbone; None where the file holds none."""
    part = load_part(weights, CLASSIFIER)
    if part is None:
        return None, None
    config = LfdmConfig.parse(without(part, "classes"), source=part.source)
    made = Lfdm(config, _blocks(backbone), backbone.norm, backbone.prefix_tokens, int(part.config["classes"]))
    part.fill(made)
    return made, classes_of(weights)


def new_classifier(config: LfdmConfig, backbone: TimmViT, classes: int) -> Lfdm:
    """A classifier whose blocks start as the backbone's."""
    return Lfdm(config, _blocks(backbone), backbone.norm, backbone.prefix_tokens, classes)


def _blocks(backbone: TimmViT) -> nn.Sequential:
    blocks: Any = backbone.vit.blocks
    return blocks
