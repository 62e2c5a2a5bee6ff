"""CoTAP: patches of different images that belong together are drawn together, by ranks instead of labels.

    L = w1  * mean over pairs of crops, CE(student's patches, teacher's)             dense alignment, Eq. 5
      + w1' * mean over pairs of crops, CE(student's class token, teacher's)         image alignment, Eq. 5
      + w2  * mean over pairs of images, CoTAP(p, q)                                 correspondences, Eq. 12 and 13
      + w2' * CE(student's class token of x, teacher's of a neighbor of x)           concentration of images, Eq. 7
      + w3  * entropy of the prototypes of the object-aware filter                   Eq. 16

p and q are the similarities of all patches of an image u with all patches of another one v, seen by the student and by
the teacher. Terms of whole images see object-centric images alone, the others all. It goes on from a backbone that was
trained before, by DINO, iBOT, Mugs, Leopart or otherwise; the filter (`vitrail.nn.object_filter`) is new, and begins
as if it were not there.

Source: Wen et al., "Semantic Concentration for Self-Supervised Dense Representations Learning", Sec. 4.

What the paper leaves open is a setting here, and `CotapConfig` says which and what stands in its place.

Deviations from the paper
- Tokens, positions and vectors are not decayed, as everywhere in this library.
- Its Eq. 14 lacks the prototypes' entropy, for which a weight is named; it is added.
- Eq. 8 takes p from the first view and q from the second, the text before it both from the first. The text is followed;
  `correspondence_views` gives the other reading.
- Eq. 4 prints SK(f_o) for the teacher's SK(f_t), and balances what RoI-Align made. Here, as in Leopart, all patches of
  a crop in the batch are balanced, and what comes of it is aligned; every pair of a global and another crop counts.
- Crops are drawn as `vitrail.data.overlapping` says; pairs of images are formed within the batch of one process. The
  prototypes' softmax runs over the object-centric images of all processes, of one micro-batch.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.backbones.parts import with_part
from vitrail.contracts import Batch, Exported, Losses, Step, Tokens
from vitrail.methods.dino import by_size, views_of
from vitrail.methods.leopart import AssignmentConfig, apart, as_map, assigned, boxes_of
from vitrail.nn.across import gathered
from vitrail.nn.groups import parameter_groups
from vitrail.nn.prototype_head import HeadConfig, PrototypeHead
from vitrail.nn.teacher import follow, momentum_at, teacher_of
from vitrail.ops.correspondence import correspondence, correspondence_bce
from vitrail.ops.dense_alignment import aligned, dense_alignment
from vitrail.ops.distillation import view_distillation
from vitrail.ops.overlap import overlap
from vitrail.ops.prototype_entropy import pool_3x3, prototype_entropy
from vitrail.ops.ranking_ap import cotap_loss, sampled_pairs

GLOBAL_VIEWS = 2


class CotapConfig(AssignmentConfig):
    """Weights of the five terms, and what the paper leaves open."""

    head: HeadConfig = HeadConfig(prototypes=300)
    """One for class tokens and patches. The paper names an MLP to 256 entries and no prototypes; Leopart, which it
    follows, has 300. `prototypes: 0` takes the text at its word."""
    dense_alignment: float = Field(1.0, ge=0)
    """Weight of the alignment of patches."""
    image_alignment: float = Field(1.0, ge=0)
    """Weight of the alignment of class tokens."""
    correspondence: float = Field(1.0, ge=0)
    """Weight of the correspondences between images."""
    concentration: float = Field(1.0, ge=0)
    """Weight of the alignment with a neighbor's class token."""
    prototype_entropy: float = Field(1.0, ge=0)
    """Weight of the entropy of the filter's prototypes; without a filter there is none."""
    loss: Literal["cotap", "bce"] = "cotap"
    """How correspondences are learned; "bce" is Eq. 8, binary cross entropy, the alternative that is argued against."""
    correspondence_views: Literal["same_view", "cross_view"] = "same_view"
    """Which views of u and v are compared. "same_view": the first ones for both networks, all patches. "cross_view":
    the first for the student and the second for the teacher, and what both show is brought to `cells` x `cells` by
    RoI-Align. The paper says both."""
    correspondence_features: Literal["head", "trunk"] = "head"
    """What is compared: the head's bottleneck, or the patch tokens. The paper does not say."""
    score_scale: Literal["half", "raw"] = "half"
    """Similarities are cosine / 2 + 1 / 2, as in Eq. 2, or cosines, where tau1 = -0.2 would bind."""
    tau1: float = -0.2
    """Weight of a pair: by how much its q lies above this."""
    tau2: float = Field(0.5, gt=0)
    """Margin, in units of similarity."""
    tau3: float = Field(0.1, gt=0)
    """Temperature of the prototypes' entropy."""
    pairs: int | None = Field(None, ge=2)
    """Pairs of patches to draw of each pair of images, the same for p and q; null takes all."""
    partner: Literal["other", "any"] = "other"
    """Whether the second image of a pair is always another one of the batch, or may be the first itself."""
    local_patches: bool = True
    """Local crops take part in the alignment of patches, as in Leopart; the paper does not say."""
    local_images: bool = True
    """Local crops take part in the alignment of class tokens, as in DINO; the paper does not say."""
    momentum: float = Field(0.9997, ge=0, le=1)
    """Of the teacher at the start; it goes to 1 along half a cosine."""
    weight_decay: float = Field(0.024, ge=0)
    """AdamW's decay at the start, on matrices only."""
    weight_decay_end: float = Field(0.24, ge=0)
    """AdamW's decay at the end."""
    new_rate: float = Field(1.0, gt=0)
    """The learning rate of head and filter, which are new, as a multiple of the backbone's; the paper does not say."""
    exported: Literal["student", "teacher"] = "student"
    """Which network is exported; the paper measures the online branch, which is the student."""

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        if self.loss == "bce" and self.score_scale == "raw":
            raise ValueError(
                "loss is bce, which reads similarities as probabilities in [0, 1], and score_scale is raw, in [-1, 1]; "
                "set score_scale=half"
            )
        return self


class Seen(NamedTuple):
    """What one network makes of a crop."""

    patches: Tensor  # [B, N, D] tokens
    embedded: Tensor  # [B, N, W] in the head's bottleneck, of length 1
    cls: Tensor  # [B, K] the head's logits of the class token
    grid: tuple[int, int]


class Cotap(nn.Module):
    """A student `backbone`, with a filter or without, and its teacher. Fulfills `vitrail.contracts.Method`."""

    def __init__(self, config: CotapConfig, backbone: TimmViT) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.head = PrototypeHead(config.head, backbone.embed_dim)
        self.teacher = teacher_of(backbone)
        self.teacher_head = teacher_of(self.head)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        """The weighted sum of the terms that have a weight; parts: each of them, unweighted."""
        config = self.config
        if not (config.dense_alignment or config.correspondence):
            batch = _chosen(batch, objects_of(batch))  # nothing looks at the others
        views, companion = self._views(batch)
        objects = objects_of(batch).to(batch.images.device)
        teacher = self._teach(views[:GLOBAL_VIEWS])
        student = self._study(views)
        terms: dict[str, Tensor] = {}
        if config.dense_alignment:
            terms["dense_alignment"] = self._align_patches(student, teacher, batch)
        if config.image_alignment and len(objects):
            terms["image_alignment"] = self._align_images(student, teacher, objects)
        if config.correspondence:
            terms["correspondence"] = self._correspond(student, teacher, batch)
        if config.concentration and companion is not None and len(objects):
            terms["concentration"] = self._concentrate(student[0].cls[objects], companion[objects])
        if self.backbone.object_filter is not None and config.prototype_entropy and len(objects):
            pooled = gathered(pool_3x3(teacher[0].patches[objects], teacher[0].grid))
            terms["prototype_entropy"] = prototype_entropy(self.backbone.object_prototypes(), pooled, config.tau3)
        total = batch.images.new_zeros((), dtype=torch.float32)
        for name, term in terms.items():
            total = total + getattr(config, name) * term
        return Losses(total, {name: term.detach() for name, term in terms.items()})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The backbone at the full rate, head and filter at theirs; the decay of matrices rises."""
        decay = {"weight_decay": self.config.weight_decay, "weight_decay_end": self.config.weight_decay_end}
        filter_ = self.backbone.object_filter
        new = {id(value) for value in filter_.parameters()} if filter_ is not None else set()
        groups = []
        for group in parameter_groups(self.backbone, **decay):
            for values, rate in (
                ([value for value in group["params"] if id(value) not in new], 1.0),
                ([value for value in group["params"] if id(value) in new], self.config.new_rate),
            ):
                groups.append(group | {"params": values, "lr_scale": group["lr_scale"] * rate})
        for group in parameter_groups(self.head, **decay):
            groups.append(group | {"lr_scale": group["lr_scale"] * self.config.new_rate})
        return [group for group in groups if group["params"]]

    def after_step(self, step: Step) -> None:
        """The teacher follows."""
        momentum = momentum_at(step.progress, self.config.momentum)
        follow(self.teacher, self.backbone, momentum)
        follow(self.teacher_head, self.head, momentum)

    def export(self) -> Exported:
        """The backbone, its filter in it, under timm's names; the head under `projector.`."""
        student = self.config.exported == "student"
        backbone, head = (self.backbone, self.head) if student else (self.teacher, self.teacher_head)
        exported = with_part(backbone.export(), "projector", head, head.config)
        return Exported(exported.state, exported.metadata | {"network": self.config.exported})

    def check_batch(self, size: int) -> None:
        """Raise `ValueError` where a batch (of one process at a time) of this size has no pairs of images."""
        if self.config.correspondence and self.config.partner == "other" and size < 2:
            raise ValueError(
                f"correspondences are learned between images of a batch, and a batch of {size} has no pair; choose at "
                "least 2 per device (train.global_batch_size / devices / train.accumulate), or set "
                "method.correspondence=0"
            )

    def _views(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The views that are compared, and the neighbors' views where they are needed."""
        views = views_of(batch, GLOBAL_VIEWS)
        if not self.config.concentration:
            return views, None
        if len(views) <= GLOBAL_VIEWS or views[-1].shape != views[0].shape:
            raise ValueError(
                f"method.concentration is {self.config.concentration:g} and the batch holds {len(views)} views, the "
                f"last of {views[-1].shape[-1]} pixels, the first of {views[0].shape[-1]}, so none of a neighbor; crop "
                "with OverlappingCrops(config, companion=True), or set the weight to 0"
            )
        return views[:-1], views[-1]

    @torch.no_grad()
    def _teach(self, crops: tuple[Tensor, ...]) -> list[Seen]:
        tokens = apart(self.teacher(torch.cat(crops)), len(crops))
        return [_seen(self.teacher_head, each) for each in tokens]

    def _study(self, views: tuple[Tensor, ...]) -> list[Seen]:
        config = self.config
        small = (config.local_patches and config.dense_alignment) or (config.local_images and config.image_alignment)
        groups = by_size(views if small else views[:GLOBAL_VIEWS], GLOBAL_VIEWS)
        return [
            _seen(self.head, tokens)
            for group in groups
            for tokens in apart(self.backbone(torch.cat(group)), len(group))
        ]

    def _align_patches(self, student: list[Seen], teacher: list[Seen], batch: Batch) -> Tensor:
        config = self.config
        crops = student if config.local_patches else student[:GLOBAL_VIEWS]
        scores = [as_map(self.head.compare(each.embedded), each.grid) for each in crops]
        targets = [as_map(assigned(self.teacher_head.compare(each.embedded), config), each.grid) for each in teacher]
        return dense_alignment(
            scores, targets, boxes_of(batch), cells=config.cells, temperature=config.student_temperature
        )

    def _align_images(self, student: list[Seen], teacher: list[Seen], objects: Tensor) -> Tensor:
        crops = student if self.config.local_images else student[:GLOBAL_VIEWS]
        target = torch.stack([assigned(each.cls[objects], self.config) for each in teacher])
        logits = torch.stack([each.cls[objects] for each in crops])
        return view_distillation(logits, target, self.config.student_temperature)

    def _concentrate(self, logits: Tensor, neighbors: Tensor) -> Tensor:
        with torch.no_grad():
            target = assigned(self.teacher_head(self.teacher(neighbors).cls), self.config)
        logs = (logits.float() / self.config.student_temperature).log_softmax(-1)
        return -(target * logs).sum(-1).mean()

    def _correspond(self, student: list[Seen], teacher: list[Seen], batch: Batch) -> Tensor:
        config = self.config
        other = partners(len(batch.images), config.partner).to(batch.images.device)
        if config.correspondence_views == "same_view":
            mine, theirs = self._compared(student[0]), self._compared(teacher[0])
        else:
            at = boxes_of(batch)
            box = overlap(at[:, 0], at[:, 1])
            mine = self._compared_in(student[0], box, at[:, 0])
            theirs = self._compared_in(teacher[1], box, at[:, 1])
        p = correspondence(mine, mine[other], score_scale=config.score_scale)
        q = correspondence(theirs, theirs[other], score_scale=config.score_scale).detach()
        if config.pairs is not None and config.pairs < p.shape[-1]:
            p, q = sampled_pairs(p, q, config.pairs)
        if config.loss == "bce":
            return correspondence_bce(p, q).mean()
        return cotap_loss(p, q, config.tau1, config.tau2).mean()

    def _compared(self, seen: Seen) -> Tensor:
        return seen.embedded if self.config.correspondence_features == "head" else seen.patches

    def _compared_in(self, seen: Seen, box: Tensor, crop: Tensor) -> Tensor:
        maps = as_map(self._compared(seen), seen.grid)
        return aligned(maps, box, crop, self.config.cells).flatten(2).transpose(1, 2)


def objects_of(batch: Batch) -> Tensor:
    """Rows of the object-centric images, int64 on the host; all of them where the batch knows of one kind alone."""
    if batch.sources is None:
        return torch.arange(len(batch.images))
    return (batch.sources == 0).nonzero()[:, 0]


def partners(count: int, which: Literal["other", "any"]) -> Tensor:
    """For each of `count` images the one it is compared with, int64 on the host, by torch's global generator.

    "other" gives no image to itself; raises `ValueError` where there is only one.
    """
    order = torch.randperm(count)
    if which == "any":
        return order
    if count < 2:
        raise ValueError("a batch of 1 image has no other one to compare patches with; take larger batches")
    found = torch.empty_like(order)
    found[order] = order.roll(1)
    return found


def _seen(head: PrototypeHead, tokens: Tokens) -> Seen:
    return Seen(tokens.patches, head.embed(tokens.patches), head(tokens.cls), tokens.grid)


def _chosen(batch: Batch, rows: Tensor) -> Batch:
    """Some images of a batch."""
    if len(rows) == len(batch.images):
        return batch
    there = rows.to(batch.images.device)
    return Batch(
        batch.images[there],
        None if batch.labels is None else batch.labels[there],
        batch.indices[rows],
        tuple(view[there] for view in batch.views),
        None if batch.boxes is None else batch.boxes[rows],
        None if batch.sources is None else batch.sources[rows],
    )
