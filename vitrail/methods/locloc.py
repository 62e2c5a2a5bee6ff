"""LocLoc: a generator learns masks that low-level cues have mended, a classifier learns from what they leave visible.

    L_seg = 1/2 mean (GEG(F) - M)^2        F: patches of a frozen ViT;  M: GrabCut's mask of its attention
    L_cls = CE(LFDM(t), y)                 t: embedding of I * max(M, R);  R: a random rectangle left visible

The two share nothing that learns: they are trained together, or one after the other (`parts`), with the same result but
for chance. The classifier's blocks start as the frozen ones. Masks come with the images
(`vitrail.data.mask_views`), boxes are never seen. `vitrail.localizers.locloc` is what is exported.

Source: Xu et al., "LocLoc: Low-level Cues and Local-area Guides for Weakly Supervised Object Localization", 2023, and
Algorithm 1 of its supplement.

Deviations from the paper
- The U-Net is wired as the text says; `generator.wiring=released` is the released code's, whose deepest level is idle.
- Masks are averaged over the cells of the map. The released code's generator and its targets differ in size.
- Logits have no ReLU, and there are as many as classes, see `vitrail.nn.token_classifier`.
- Trained together, both parts follow one schedule, the generator at `generator_rate` times the rate, and for as long as
  the classifier. The published values belong to two trainings, which the recipes do one after the other.
- Several processes: gradients of both parts are averaged, which the released code leaves out for its generator.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.backbones import TimmViT
from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.localizers.locloc import LocLoc, new_classifier
from vitrail.methods.labels import check_single
from vitrail.nn.deconvolution import Geg, GegConfig
from vitrail.nn.groups import parameter_groups
from vitrail.nn.token_classifier import Lfdm, LfdmConfig
from vitrail.ops.mask_regression import mask_regression


class PartsConfig(Config):
    """Which parts learn, and how."""

    parts: Literal["both", "generator", "classifier"] = "both"
    """What is trained. The other part, where the weights that training starts from have one, is kept as it is."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the label's mass that is spread over all classes."""
    generator_rate: float = Field(1.0, gt=0)
    """The generator's learning rate as a multiple of the classifier's."""
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's decay, on matrices only."""


class LoclocConfig(PartsConfig):
    """LocLoc's two parts."""

    generator: GegConfig = GegConfig()
    classifier: LfdmConfig = LfdmConfig()


class Locloc(nn.Module):
    """A generator and a classifier on a frozen backbone. Fulfills `vitrail.contracts.Method`."""

    def __init__(
        self,
        config: LoclocConfig,
        backbone: TimmViT,
        classes: tuple[str, ...] | None,
        *,
        generator: Geg | None = None,
        classifier: Lfdm | None = None,
    ) -> None:
        """Args:
            config: settings.
            backbone: rests, and gives the classifier's blocks their first weights.
            classes: names of the labels 0, 1, ...; a generator alone needs none.
            generator, classifier: that were trained before; fresh ones where they are to be trained and not given.

        Raises:
            ValueError: fewer than two classes where a classifier is trained.
        """
        super().__init__()
        self.config = config
        needs = needed(config.parts)
        if needs["generator"] and generator is None:
            generator = Geg(config.generator, backbone.embed_dim)
        if needs["classifier"]:
            check_classes(classes)
            classifier = classifier or new_classifier(config.classifier, backbone, len(classes or ()))
        self.localizer = LocLoc(backbone, generator, classifier, classes if classifier is not None else None)
        rest(self.localizer, needs)

    @property
    def backbone(self) -> TimmViT:
        """The frozen network."""
        return self.localizer.backbone

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The sum of the losses of what is trained; parts: `segmentation`, and `cross_entropy` with `top1`."""
        image, mask, view = views_of(batch, self.config.parts)
        losses: dict[str, Tensor] = {}
        if mask is not None:
            with torch.no_grad():
                features = self.localizer.patches(*self.localizer.embed(image))
            assert self.localizer.generator is not None  # made in the constructor
            losses["segmentation"] = mask_regression(self.localizer.generator(features), mask)
        if view is None:
            return summed(losses, {})
        with torch.no_grad():
            tokens, grid = self.localizer.embed(view)
        assert self.localizer.classifier is not None
        logits = self.localizer.classifier(tokens, grid).float()
        losses["cross_entropy"], hits = class_loss(logits, batch.labels, self.config.label_smoothing)
        return summed(losses, hits)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What learns: the classifier at the full rate, the generator at its own; nothing of the backbone."""
        return part_groups(self.localizer, self.config)

    def after_step(self, step: Step) -> None:
        """Nothing moves between steps."""

    def check_batch(self, size: int) -> None:
        """Raise `ValueError` for batches (of one process at a time) of one image, which batch norm cannot take."""
        check_pairs(size)

    def export(self) -> Exported:
        """The frozen backbone under timm's names, generator and classifier beside it."""
        return self.localizer.export()

    def train(self, mode: bool = True) -> Self:
        """As any module; what rests stays in evaluation mode."""
        super().train(mode)
        rest(self.localizer, needed(self.config.parts))
        return self


def needed(parts: str) -> dict[str, bool]:
    """Which of `generator` and `classifier` are trained."""
    return {name: parts in ("both", name) for name in ("generator", "classifier")}


def rest(localizer: Any, learns: dict[str, bool]) -> None:
    """Put the backbone, and a part that does not learn, to rest: no gradients, evaluation mode."""
    localizer.backbone.requires_grad_(False).eval()
    for name, trained in learns.items():
        part = getattr(localizer, name)
        if part is not None and not trained:
            part.requires_grad_(False).eval()


def views_of(batch: Batch, parts: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Image `[B, 3, H, W]`, mask `[B, H, W]` and the classifier's view, None where that part is not trained.

    Raises:
        ValueError: for a batch that holds other views.
    """
    given = (batch.images, *batch.views)
    wanted = {"both": 3, "generator": 2, "classifier": 1}[parts]
    masked = parts == "classifier" or (len(given) > 1 and given[1].shape[1] == 1)
    if len(given) != wanted or not masked:
        raise ValueError(
            f"a batch of {len(given)} views, of shapes {[list(view.shape) for view in given]}, is not what parts="
            f"{parts} learns from; give the loader vitrail.data.mask_views.MaskViews(config, {parts!r})"
        )
    if parts == "classifier":
        return batch.images, None, batch.images
    return batch.images, given[1][:, 0], given[2] if wanted == 3 else None


def class_loss(logits: Tensor, labels: Tensor | None, smoothing: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross entropy, and `top1` in percent. Raises `ValueError` for images without labels, or with several each."""
    if labels is None:
        raise ValueError(
            "the classifier needs labels; put the images into one folder per class, or set method.parts=generator"
        )
    check_single(labels)
    top1 = (logits.argmax(1) == labels).float().mean() * 100
    return F.cross_entropy(logits, labels, label_smoothing=smoothing), {"top1": top1}


def summed(losses: dict[str, Tensor], more: dict[str, Tensor]) -> Losses:
    """The sum, and all by name."""
    return Losses(torch.stack(list(losses.values())).sum(), {k: v.detach() for k, v in losses.items()} | more)


def part_groups(localizer: Any, config: PartsConfig) -> list[dict[str, Any]]:
    """Optimizer groups of the parts that learn, the generator's with its rate."""
    groups = []
    for name, trained in needed(config.parts).items():
        if trained:
            scale = config.generator_rate if name == "generator" else 1.0
            found = parameter_groups(getattr(localizer, name), weight_decay=config.weight_decay)
            groups += [group | {"lr_scale": group["lr_scale"] * scale} for group in found]
    return groups


def check_classes(classes: tuple[str, ...] | None) -> None:
    """Raise `ValueError` for less than two classes."""
    if classes is None or len(classes) < 2:
        raise ValueError(
            f"a classifier needs at least 2 classes, and the images have {len(classes or ())}; put them into one "
            "folder per class, or set method.parts=generator to locate alone"
        )


def check_pairs(size: int) -> None:
    """Raise `ValueError` for batches of one image."""
    if size < 2:
        raise ValueError(
            f"a batch of {size} image per device cannot be normalized over; raise train.global_batch_size, or lower "
            "train.accumulate or devices"
        )
