"""Fine-tuning on kept patches: a frozen ranker chooses k patches of each image, a classifier learns from these alone.

    ids = k best of ranker(image),  tokens = backbone(patches + positions, those of ids alone),  L = loss(head(tokens))

The ranker gets no gradient: ids are numbers. A head reads the class token, the mean of the kept patches, or all tokens
(ML-Decoder). One label an image: cross entropy. Any number of labels: the asymmetric loss, with labels `[B, C]` of
zeros and ones.

Mixup and cutmix are off by default, as among the defaults of MAE's fine-tuning code. They say how much of a mixed image
is of which class by the area of the whole image; a ranker then keeps patches of one of the two more than of the other,
and the shares are wrong. With keep=1 they say what they mean.

Sources: Luo et al., "Learning to Rank Patches for Unbiased Image Redundancy Reduction" (LTRP), supplement, Section A.2
(which patches), and what its released code does (the classifier); Ridnik et al., "ML-Decoder", 2021 (arXiv 2111.12933),
and "Asymmetric Loss For Multi-Label Classification", 2021 (arXiv 2009.14119).

Deviations from the papers
- The patches with the largest scores are kept, as LTRP's text says. The released code takes 70 % of them so and the
  rest by clusters of pixels (`by_score=0.7`), each of which a random member stands for, also when it evaluates; here it
  is the center.
- The asymmetric loss is differentiated as it is written; the authors' code holds its focusing factors fixed
  (`asymmetric.focus_gradient`). It is the sum over classes and the mean over images, theirs is the sum over both.
- ML-Decoder reads the class token beside the kept patches; there was none in its own experiments.
- The ranker runs in the precision of the training step, and so scores that nearly tie may fall otherwise than in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.backbones.parts import with_part
from vitrail.config import Config
from vitrail.contracts import Batch, Exported, Losses, Ranker, Step, Tokens
from vitrail.methods.labels import LabelConfig, Labels, fresh_head
from vitrail.nn.groups import parameter_groups
from vitrail.nn.ml_decoder import MlDecoder, MlDecoderConfig
from vitrail.ops.asymmetric_loss import asymmetric_loss
from vitrail.ops.patches import grid_of, patchify
from vitrail.ops.pixels import Normalization, renormalize
from vitrail.ops.selection import mixed, number_kept, select

PART = "ml_decoder"
"""What an ML-Decoder is called beside an exported backbone."""


class AsymmetricConfig(Config):
    """The asymmetric loss; the published values by default."""

    gamma_negative: float = Field(4.0, ge=0)
    """Focusing exponent of labels that are not there."""
    gamma_positive: float = Field(0.0, ge=0)
    """Focusing exponent of labels that are there."""
    clip: float = Field(0.05, ge=0, lt=1)
    """Taken from the probability of labels that are not there; those below it do not count."""
    focus_gradient: bool = True
    """Differentiate through the focusing factors, as the formula says; false holds them fixed, as the authors' code."""


class KeptPatchesConfig(Config):
    """How many patches are kept, and how labels become a loss."""

    keep: float = 0.5
    """Share of the patches that enter, in (0, 1]: `int(keep * N)`; 1 is the plain classifier, and asks no ranker."""
    by_score: float = Field(1.0, ge=0, le=1)
    """Share of the kept patches that the scores choose; the others are unlike one another, see `mixed`."""
    head: Literal["linear", "ml_decoder"] = "linear"
    """A linear classifier of one vector, or a decoder that reads all tokens."""
    pool: Literal["cls", "mean"] = "cls"
    """What the linear head reads: the class token, or the mean of the kept patches; either after the final norm."""
    decoder: MlDecoderConfig = MlDecoderConfig()
    """Sizes of the ML-Decoder."""
    loss: Literal["cross_entropy", "asymmetric"] = "cross_entropy"
    """cross_entropy: one label an image; asymmetric: any number."""
    labels: LabelConfig = LabelConfig(mixup=0, cutmix=0)
    """Of the cross entropy: smoothing, and mixup and cutmix, which suit whole images alone."""
    asymmetric: AsymmetricConfig = AsymmetricConfig()
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's decay, on matrices only."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Factor on the learning rate per block from the top down; null for one rate."""

    @field_validator("keep")
    @classmethod
    def _is_a_share(cls, value: float) -> float:
        number_kept(value, 1)
        return value

    @model_validator(mode="after")
    def _mixes_single_labels(self) -> Self:
        if self.loss == "asymmetric" and (self.labels.mixup or self.labels.cutmix):
            raise ValueError(
                f"labels.mixup {self.labels.mixup:g} and labels.cutmix {self.labels.cutmix:g} mix images of one label, "
                "and the asymmetric loss is for several; set both to 0"
            )
        return self


class KeptPatches(nn.Module):
    """A ranker that rests, a backbone that sees what it keeps, and a head. Fulfills `vitrail.contracts.Method`."""

    def __init__(
        self,
        config: KeptPatchesConfig,
        backbone: TimmViT,
        ranker: Ranker | None,
        classes: tuple[str, ...],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Args:
            config: settings.
            backbone: what learns.
            ranker: says which patches matter; None where nothing is ever left out.
            classes: names of the labels 0, 1, ...; at least two, with the asymmetric loss at least one.
            about: what the exported file is to say about the ranker; JSON values.

        Raises:
            ValueError: too few classes, no ranker where there is a choice, or one with patches of another size.
        """
        super().__init__()
        several = config.loss == "asymmetric"
        if several and not classes:
            raise ValueError("a classifier needs at least 1 class, the data has none")
        self.labels = None if several else Labels(config.labels, len(classes))
        _check_ranker(ranker, backbone, config.keep)
        self.config, self.backbone, self.classes, self.about = config, backbone, classes, dict(about or {})
        self.ranker: Any = ranker.requires_grad_(False).eval() if isinstance(ranker, nn.Module) else ranker
        decodes = config.head == "ml_decoder"
        width, count = backbone.embed_dim, len(classes)
        self.head: nn.Module = MlDecoder(config.decoder, width, count) if decodes else fresh_head(width, count)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """Cross entropy or asymmetric loss, by that name among the parts; beside cross entropy `top1` where unmixed."""
        if self.labels is None:
            loss = asymmetric_loss(self(batch.images), _several(batch), **self.config.asymmetric.plain())
            return Losses(loss, {"asymmetric": loss.detach()})
        images, targets = self.labels.mix(batch)
        logits = self(images)
        loss = self.labels.loss(logits, targets)
        return Losses(loss, {"cross_entropy": loss.detach()} | self.labels.top1(logits, targets))

    def forward(self, images: Tensor, keep: float | None = None) -> Tensor:
        """Logits `[B, classes]` of images `[B, 3, H, W]`, normalized for the backbone.

        Args:
            images: of any size of whole patches.
            keep: another share of the patches than the one trained with.
        """
        return self.classify(self.backbone(images, keep=self.kept(images, keep)))

    # Which patches are kept is read off the scores, which no graph can hold.
    @torch.compiler.disable
    @torch.no_grad()
    def kept(self, images: Tensor, keep: float | None = None) -> Tensor | None:
        """Ids int64 `[B, k]` of the patches that enter, ascending; None for all of them."""
        share = self.config.keep if keep is None else keep
        grid = grid_of(images.shape[-2], images.shape[-1], self.backbone.patch_size)
        number = number_kept(share, grid[0] * grid[1])
        if number == grid[0] * grid[1]:
            return None
        _check_ranker(self.ranker, self.backbone, share)
        mine, theirs = (Normalization(each.mean, each.std) for each in (self.backbone, self.ranker))
        scores = self.ranker(renormalize(images, mine, theirs), number=number)
        if scores.shape != (len(images), *grid):
            raise ValueError(
                f"the ranker's scores are {list(scores.shape)}, and {len(images)} images have {grid[0]} x {grid[1]} "
                "patches; choose a ranker that takes images of this size"
            )
        if self.config.by_score == 1:
            return select(scores, number)
        return mixed(scores, patchify(images.float(), self.backbone.patch_size), number, self.config.by_score)

    def classify(self, tokens: Tokens) -> Tensor:
        """Logits `[B, classes]` of what the backbone says."""
        if self.config.head == "ml_decoder":
            return self.head(torch.cat((tokens.cls[:, None], tokens.patches), 1))
        return self.head(tokens.patches.mean(1) if self.config.pool == "mean" else tokens.cls)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone groups by layer, the head at the full rate; biases and norms undecayed; nothing of the ranker."""
        config = self.config
        groups = parameter_groups(self.backbone, weight_decay=config.weight_decay, layer_decay=config.layer_decay)
        return groups + parameter_groups(self.head, weight_decay=config.weight_decay)

    def after_step(self, step: Step) -> None:
        """Nothing moves between steps."""

    def check_batch(self, size: int) -> None:
        """Raise `ValueError` where images cannot be trained on in batches (of one process at a time) of this size."""
        if self.labels is not None:
            self.labels.check_batch(size)

    def export(self) -> Exported:
        """Backbone and head under timm's names, and in `kept` the ranker's words and the share of patches.

        A linear head is `head.*`, as any classifier's; an ML-Decoder stands beside the backbone under `ml_decoder.`.
        """
        exported = self.backbone.export()
        said = {"classes": list(self.classes), "kept": {"keep": self.config.keep, "ranker": self.about}}
        exported = exported._replace(metadata=exported.metadata | said)
        if self.config.head == "ml_decoder":
            about = self.config.decoder.plain() | {"classes": len(self.classes), "features": self.backbone.embed_dim}
            return with_part(exported, PART, self.head, about)
        state = exported.state | {f"head.{key}": value for key, value in self.head.state_dict().items()}
        return Exported(state, exported.metadata | {"pool": self.config.pool})

    def train(self, mode: bool = True) -> Self:
        """As any module; the ranker stays as it is used elsewhere, in evaluation mode."""
        super().train(mode)
        if isinstance(self.ranker, nn.Module):
            self.ranker.eval()
        return self


def _several(batch: Batch) -> Tensor:
    """Rows of zeros and ones `[B, C]`."""
    if batch.labels is None:
        raise ValueError("a classifier needs labels; write a table labels.csv beside the images")
    if batch.labels.ndim != 2:
        raise ValueError(
            "the asymmetric loss is for any number of labels an image, and these have one each; set "
            "method.loss=cross_entropy, or write a table labels.csv"
        )
    return batch.labels


def _check_ranker(ranker: Ranker | None, backbone: TimmViT, keep: float) -> None:
    if keep == 1:
        return
    if ranker is None:
        raise ValueError(f"keep is {keep:g}, and there is no ranker to choose by; give one, or keep all patches (1)")
    if tuple(ranker.patch_size) != tuple(backbone.patch_size):
        theirs, ours = ("x".join(map(str, each)) for each in (ranker.patch_size, backbone.patch_size))
        raise ValueError(
            f"the ranker scores patches of {theirs} pixels and the backbone has patches of {ours}, so its scores "
            "choose none of them; take a ranker and a backbone with patches of one size"
        )
