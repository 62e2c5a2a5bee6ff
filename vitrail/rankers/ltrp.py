"""LTRP's ranking model, which has learned what a masked autoencoder misses without a patch.

    scores = W norm(class token) + b,  one for each patch of the grid that it was trained with          head "cls"
    score of a patch = w . norm(its token) + b                                                            head "patch"

Source: Luo et al., "Learning to Rank Patches for Unbiased Image Redundancy Reduction" (LTRP), supplement A.1; the
scores come from the class token as in the released code. ViT-S/16 at 224 pixels has 21.74 M weights.

Deviations from the paper
- The paper's head has one output for each patch of one grid. For images of another grid, its map of scores is resized
  (bilinear, half-pixel centers). The head "patch" has one output for all patches, and fits any grid as it is.
- A convolutional ranking model that is to see some patches alone sees the others' pixels as the mean color.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import timm
from torch import Tensor, nn
from torch.nn import functional

from vitrail.backbones import BackboneConfig, TimmViT, create, load, load_classifier, load_part, need_vit
from vitrail.backbones.architecture import check_name
from vitrail.backbones.mae_decoder import misfit
from vitrail.backbones.parts import Part, with_part
from vitrail.backbones.reading import read_file, weights_file
from vitrail.backbones.staged import is_staged
from vitrail.contracts import Exported
from vitrail.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vitrail.ops.patches import grid_of
from vitrail.rankers.feature_map import FeatureMap
from vitrail.rankers.source import Source, need_weights, no_variant

Head = Literal["cls", "patch"]
WEIGHTS = "a run of LTRP (vitrail train folder_ltrp), or the authors' checkpoint"
PART = "ranker"  # of our own files
RELEASED = "score_net"  # what the authors' checkpoints call the ranking model


class LtrpRanker(nn.Module):
    """A network and its scores. Fulfills `vitrail.contracts.Ranker`.

    Attributes: `backbone` (a `TimmViT`, or a `FeatureMap` of a convolutional network), `head` (linear), `kind` of it,
    and `grid`, (Y, X), that it was made for.
    """

    needs_number = False

    def __init__(self, backbone: TimmViT | FeatureMap, head: Head = "cls", grid: tuple[int, int] | None = None) -> None:
        """A fresh head: weights normal(0, 0.02), cut at two, biases 0.

        Args:
            backbone: whose tokens are read; it is shared, not copied.
            head: see the top of this file.
            grid: (Y, X) of the scores of "cls"; that of the backbone's image size by default.
        """
        super().__init__()
        self.backbone, self.kind = backbone, head
        self.mean: Sequence[float] = backbone.mean
        self.std: Sequence[float] = backbone.std
        self.image_size, self.patch_size = backbone.image_size, backbone.patch_size
        self.grid = grid or grid_of(*backbone.image_size, backbone.patch_size)
        self.head = nn.Linear(backbone.embed_dim, self.grid[0] * self.grid[1] if head == "cls" else 1)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, *, number: int | None = None, generator: Any = None) -> Tensor:
        """Scores `[B, Y, X]`, float32, of whole images."""
        grid = grid_of(images.shape[-2], images.shape[-1], self.patch_size)
        return self.scores(images).float().view(len(images), *grid)

    def scores(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Scores as they are trained: of what is seen.

        Args:
            images: `[B, 3, H, W]`, normalized, of whole patches.
            keep: ids of the patches that the network sees, int64 `[B, K]`; None for all.

        Returns:
            `[B, N]` in raster order or `[B, K]` in the order of `keep`.
        """
        tokens = self.backbone(images, keep=keep)
        if self.kind == "patch":
            return self.head(tokens.patches).squeeze(2)
        scores = self._laid(self.head(tokens.cls), tokens.grid)
        return scores if keep is None else scores.gather(1, keep)

    def export(self) -> Exported:
        """The network under timm's names, and the head under `ranker.`: `vitrail.load` reads a ViT of it."""
        about = {"head": self.kind, "grid": list(self.grid)}
        return with_part(self.backbone.export(), PART, self.head, about)

    def _laid(self, scores: Tensor, grid: tuple[int, int]) -> Tensor:
        """`[B, N]` on the grid of the image, of scores on the grid of the training."""
        if tuple(grid) == tuple(self.grid):
            return scores
        laid = scores.float().view(len(scores), 1, *self.grid)
        return functional.interpolate(laid, grid, mode="bilinear", align_corners=False).flatten(1)


def from_source(source: Source) -> LtrpRanker:
    """A run of LTRP, or a released checkpoint: a ViT whose `head` has one output for each patch.

    The released one may stand under `model`, and its names may begin with `score_net.`; its pixels are normalized as
    ImageNet's.

    Raises:
        ValueError: no weights, a file of another kind, or a head that does not fit the patches.
    """
    no_variant(source, "ltrp")
    path = weights_file(_given(source))
    content, own = read_file(path)
    if own is None:
        return _released(path, content, source)
    if PART not in own.get("parts", {}):
        raise ValueError(
            f"{path} holds no ranking model beside its network; a run of `vitrail train folder_ltrp` leaves one, and "
            "for attention of a backbone there are rankers such as dino: see `vitrail list rankers`"
        )
    part = load_part(path, PART) if "backbone" in own else _part(content, own, str(path))
    assert part is not None  # the header names it
    network = _convolutional(content, own, source, str(path))
    kind: Head = part.config["head"]
    grid = tuple(part.config["grid"]) if kind == "cls" else None  # a score a token fits any grid
    ranker = LtrpRanker(network or need_vit(load(weights=path, image_size=source.image_size), "LTRP"), kind, grid)
    part.fill(ranker.head)
    return ranker


def ranking_network(config: BackboneConfig) -> TimmViT | FeatureMap:
    """A fresh network by timm's name: a Vision Transformer, or a convolutional network."""
    check_name(config.name)
    if is_staged(config.name):
        return need_vit(create(config), "LTRP")
    family = timm.models.model_entrypoint(config.name.partition(".")[0]).__module__.rsplit(".", 1)[1]
    return need_vit(create(config), "LTRP") if family in ("vision_transformer", "deit") else FeatureMap(config)


def _given(source: Source) -> str:
    where = need_weights(source, "ltrp", WEIGHTS)
    if where == "pretrained":
        raise ValueError("timm offers no ranking model of LTRP; give a run of LTRP, or the authors' checkpoint")
    return where


def _released(path: Path, content: Mapping[str, Any], source: Source) -> LtrpRanker:
    key = RELEASED if source.key == "auto" and _names_score_net(content) else source.key
    found = load_classifier(path, source.model, image_size=source.image_size, checkpoint_key=key)
    backbone = need_vit(found.backbone, "LTRP")
    rows = found.head.out_features
    side = math.isqrt(rows)
    grid = (side, side) if side * side == rows else (0, 0)
    trained = grid_of(*backbone.image_size, backbone.patch_size)
    if grid == (0, 0) or (source.image_size is None and grid != trained):
        raise ValueError(
            f"{path}: its head has {rows} outputs, and its images {trained[0]} x {trained[1]} patches; a ranking model "
            "has one output for each patch. Is it a classifier?"
        )
    backbone.mean, backbone.std = IMAGENET_MEAN, IMAGENET_STD
    ranker = LtrpRanker(backbone, "cls", grid)
    ranker.head.load_state_dict(found.head.state_dict())
    return ranker


def _names_score_net(content: Mapping[str, Any], depth: int = 0) -> bool:
    return any(
        isinstance(name, str)
        and (RELEASED in name.split(".") or (isinstance(value, Mapping) and depth < 2 and _names_score_net(value, 1)))
        for name, value in content.items()
    )


def _convolutional(content: Mapping[str, Any], own: Mapping[str, Any], source: Source, where: str) -> FeatureMap | None:
    """The convolutional network of our file; None where it holds a Vision Transformer."""
    if "feature_map" not in own:
        return None
    config = BackboneConfig.parse(own["feature_map"], source=where)
    if source.image_size is not None:
        config = config.model_copy(update={"image_size": source.image_size})
    made = FeatureMap(config, mean=own["mean"], std=own["std"])
    state = {name: value for name, value in content.items() if name.split(".")[0] != PART}
    reason = misfit(state, made.network.state_dict())
    if reason:
        raise ValueError(f"{where} does not fit timm's {config.name}: {reason}")
    made.network.load_state_dict(state)
    return made


def _part(content: Mapping[str, Any], own: Mapping[str, Any], where: str) -> Part:
    state = {name.partition(".")[2]: value for name, value in content.items() if name.split(".")[0] == PART}
    return Part(state, dict(own["parts"][PART]), where)
