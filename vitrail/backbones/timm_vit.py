"""Any timm VisionTransformer behind `vitrail.contracts.Backbone`.

timm embeds the patches and adds the positions; the blocks run one by one, so that outputs of asked-for blocks
can be kept and CLS scores read from asked-for blocks while fused attention stays on (`vitrail.nn.open_block`).
Images of any size that holds whole patches are taken: positions are interpolated (bicubic, antialiased) to
their grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Format
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitrail import __version__
from vitrail.backbones.config import CHOICES, BackboneConfig
from vitrail.contracts import Exported, Tokens
from vitrail.nn.object_filter import ObjectFilter
from vitrail.nn.open_block import OpenBlock, open_blocks, projections


class TimmViT(nn.Module):
    """Images to tokens. Fulfills `vitrail.contracts.Backbone`.

    Attributes: `vit` (timm's model, its classifier taken off), `config` (None for a model of your own),
    `embed_dim`, `depth`, `heads`, `patch_size` and `image_size` as (height, width) in pixels, `prefix_tokens`
    (class, distillation and register tokens before the patches), `norm` (the final one), `mean` and `std` of
    the pixels, as the weights want images normalized, and `report` (`LoadReport`, None for fresh weights).
    """

    def __init__(
        self,
        vit: VisionTransformer,
        config: BackboneConfig | None = None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Take over a timm model: its classifier is removed and its blocks are opened, in place.

        Args:
            vit: timm's VisionTransformer or a subclass, with a class token.
            config: what it was built from; `export` needs it.
            mean, std: of the pixels in [0, 1], per channel; by default what timm says about the model.

        Raises:
            ValueError: for a model without a class token, with attention pooling, or that drops patches at
                random.
        """
        super().__init__()
        _check(vit)
        if vit.num_classes:
            vit.reset_classifier(0)
        self._closed = open_blocks(vit.blocks)
        _let_sizes_vary(vit)
        pixels = _about(vit)
        self.vit = vit
        self.config = config
        self.report: Any = None
        self.mean: tuple[float, ...] = tuple(mean or pixels.get("mean") or IMAGENET_DEFAULT_MEAN)
        self.std: tuple[float, ...] = tuple(std or pixels.get("std") or IMAGENET_DEFAULT_STD)
        self.embed_dim: int = vit.embed_dim
        self.depth: int = len(vit.blocks)
        self.heads: int = next(  # type: ignore[assignment]
            part.num_heads for part in vit.blocks[0].modules() if hasattr(part, "num_heads")
        )
        self.patch_size: tuple[int, int] = tuple(vit.patch_embed.feat_ratio(as_scalar=False))
        self.prefix_tokens: int = vit.num_prefix_tokens
        self.gradient_checkpointing = bool(config and config.gradient_checkpointing)

    @property
    def closed(self) -> Mapping[int, str]:
        """Blocks, counted from 0, whose CLS scores cannot be read, and why; empty for timm's plain ViTs."""
        return self._closed

    @property
    def object_filter(self) -> ObjectFilter | None:
        """CoTAP's object-aware filter in the last block; None where there is none."""
        return getattr(self.vit.blocks[-1], "object_filter", None)

    @property
    def norm(self) -> nn.Module:
        """The final norm. Average-pooling models of timm keep it under another name, `fc_norm`."""
        return self.vit.fc_norm if isinstance(self.vit.norm, nn.Identity) else self.vit.norm

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the positions are made for; other sizes are interpolated to."""
        return tuple(self.vit.patch_embed.img_size)

    def forward(
        self,
        images: Tensor,
        *,
        layers: Sequence[int] = (),
        scores: Sequence[int] = (),
        keep: Tensor | None = None,
        hidden: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tokens:
        """Run the model.

        Args:
            images: `[B, 3, H, W]`, normalized by `mean` and `std`; H and W multiples of the patch size.
            layers: blocks whose output to keep, 0-based, negative from the last.
            scores: blocks whose CLS scores to return: q_cls . k / sqrt(d) over the patches, before the
                softmax, `[B, H, Y, X]`, float32 or wider; class, distillation and register tokens are no
                patches.
            keep: patch ids `[B, K]` (int64, raster order) to process, chosen after the positions are added;
                the others are dropped before the first block. `grid` stays that of the whole image.
            hidden: bool `[B, N]`; True where `mask_token` (`[D]`) takes the place of the patch's embedding, before
                the positions are added (as in BEiT and iBOT).

        Returns:
            `Tokens`. Prefix tokens other than the class token are in none of its parts.

        Raises:
            ValueError: image sides that are not whole patches, a block that is not there, ids of another
                shape, `scores` with `keep`, since a subset of patches makes no map, `keep` where an object-aware
                filter looks at neighbors, or only one of `hidden` and `mask_token`.
        """
        grid = self._grid(images)
        wanted_layers, wanted_scores = self._blocks(layers, "layers"), self._blocks(scores, "scores")
        if wanted_scores and keep is not None:
            raise ValueError(
                f"scores of blocks {tuple(scores)} were asked together with keep: a subset of patches makes "
                "no [Y, X] map; ask for the scores of the whole image in a call without keep"
            )
        if self.object_filter is not None and keep is not None:
            raise ValueError(
                "keep was given to a backbone with an object-aware filter, which looks at each patch among its 3 x 3 "
                "neighbors: a subset has none; leave keep out, or take weights without a filter"
            )
        x = self._embed(images, keep, hidden, mask_token)
        outputs: dict[int, Tensor] = {}
        maps: dict[int, Tensor] = {}
        for index, block in enumerate(self.vit.blocks):
            if index in wanted_scores.values():
                x, row = self.run_block(block, x, **_asks(block, grid), scores=True)
                maps[index] = row[:, :, self.prefix_tokens :].unflatten(2, grid)
            else:
                x = self.run_block(block, x, **_asks(block, grid))
            if index in wanted_layers.values():
                outputs[index] = x
        x = self.norm(x)
        return Tokens(
            x[:, 0],
            x[:, self.prefix_tokens :],
            grid,
            {asked: self._without_extras(outputs[index]) for asked, index in wanted_layers.items()},
            {asked: maps[index] for asked, index in wanted_scores.items()},
        )

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """What the first block sees, `[B, T, D]` with `prefix_tokens` before the patches, and the grid (Y, X)."""
        grid = self._grid(images)
        return self._embed(images, None, None, None), grid

    def keys(self, images: Tensor, block: int = -1) -> tuple[Tensor, tuple[int, int]]:
        """Keys of a block's attention at the patches, as the features of LOST and TokenCut; later blocks are not run.

        Args:
            images: as `forward` takes them.
            block: 0-based, negative from the last.

        Returns:
            `[B, N, D]`, heads side by side, raster order, and the grid (Y, X).

        Raises:
            ValueError: a block that is not there or that cannot be opened.
        """
        index = self._blocks((block,), "keys")[block]
        x, grid = self.embed(images)
        for earlier in self.vit.blocks[:index]:
            x = self.run_block(earlier, x, **_asks(earlier, grid))
        keys: Tensor = self.run_block(self.vit.blocks[index], x, through=_keys)
        return keys[:, :, self.prefix_tokens :].transpose(1, 2).flatten(2), grid

    def prototype_attention(self, images: Tensor) -> Tensor:
        """How much each patch takes of each prototype of the object-aware filter: `[B, heads, M, Y, X]`.

        Over the M prototypes it sums to 1. `ValueError` for a backbone without a filter.
        """
        last = self._filtering_block()
        x, grid = self.embed(images)
        for block in self.vit.blocks[:-1]:
            x = self.run_block(block, x)
        attention: Tensor = last(x, through=partial(OpenBlock.prototype_attention, grid=grid))
        return attention

    def object_prototypes(self) -> Tensor:
        """The object-aware filter's prototypes `[M, D, 3, 3]`, for their loss; gradients reach them.

        They come through the block's `forward`, outside of which sharded weights (FSDP2) are not whole.
        `ValueError` for a backbone without a filter.
        """
        prototypes: Tensor = self._filtering_block()(self.vit.cls_token, through=_prototypes)
        return prototypes

    def _filtering_block(self) -> OpenBlock:
        last = self.vit.blocks[-1]
        if not isinstance(last, OpenBlock) or last.object_filter is None:
            raise ValueError(
                "this backbone has no object-aware filter, and so no prototypes; take weights that were trained with "
                "one, or put a fresh one in by vitrail.backbones.add_object_filter"
            )
        return last

    def export(self) -> Exported:
        """The weights under timm's names, and what is needed to rebuild the model."""
        if self.config is None:
            raise ValueError(
                "this backbone wraps a module of your own, and nothing says how to rebuild it; pass "
                "config=BackboneConfig(...) to TimmViT, or build it with vitrail.backbones.create"
            )
        state = {name: value.detach().cpu().clone() for name, value in self.vit.state_dict().items()}
        config = self.config.model_copy(update={"image_size": self.image_size})
        return Exported(
            state,
            {
                "backbone": config.plain(),
                "mean": list(self.mean),
                "std": list(self.std),
                "version": __version__,
            },
        )

    def _grid(self, images: Tensor) -> tuple[int, int]:
        channels = self.vit.in_chans
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"images are {list(images.shape)}; the backbone takes [B, {channels}, H, W]")
        grid = []
        for side, size, patch in zip(("height", "width"), images.shape[-2:], self.patch_size):
            if size % patch or size < patch:
                lower, upper = size // patch * patch, -(-size // patch) * patch
                sizes = f"{lower} or {upper}" if lower else f"{upper}"
                raise ValueError(
                    f"image {side} {size} is not a multiple of the patch size {patch}; resize to {sizes}, "
                    f"or pad to {upper}"
                )
            grid.append(size // patch)
        return grid[0], grid[1]

    def _blocks(self, asked: Sequence[int], what: str) -> Mapping[int, int]:
        """Asked-for numbers, each with the block's index."""
        found = {}
        for number in asked:
            if not -self.depth <= number < self.depth:
                raise ValueError(
                    f"{what}: there is no block {number} among {self.depth}; choose {-self.depth} to {self.depth - 1}"
                )
            found[number] = number % self.depth
            if what != "layers" and found[number] in self._closed:
                raise ValueError(f"{what} of block {number}: {self._closed[found[number]]}")
        return found

    def _embed(self, images: Tensor, keep: Tensor | None, hidden: Tensor | None, mask_token: Tensor | None) -> Tensor:
        x = self.vit.patch_embed(images)  # [B, Y, X, D]
        if hidden is not None or mask_token is not None:
            x = _masked(x, hidden, mask_token)
        x = self.vit._pos_embed(x)
        if keep is not None:
            prefix = self.prefix_tokens
            _check_keep(keep, len(images), x.shape[1] - prefix)
            ids = (keep + prefix).unsqueeze(-1).expand(-1, -1, x.shape[2])
            x = torch.cat((x[:, :prefix], x.gather(1, ids)), dim=1)
        return self.vit.norm_pre(x)

    def run_block(self, block: nn.Module, x: Tensor, **asked: Any) -> Any:
        """One block of `vit.blocks` on tokens `[B, T, D]`, asked as `OpenBlock` is; checkpointed where wanted."""
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(partial(block, **asked), x, use_reentrant=False)
        return block(x, **asked)

    def _without_extras(self, x: Tensor) -> Tensor:
        prefix = self.prefix_tokens
        return x if prefix == 1 else torch.cat((x[:, :1], x[:, prefix:]), dim=1)


def _asks(block: nn.Module, grid: tuple[int, int]) -> dict[str, Any]:
    """What a block must be told beyond its tokens."""
    return {"grid": grid} if getattr(block, "object_filter", None) is not None else {}


def _prototypes(block: OpenBlock, _: Tensor) -> Tensor:
    assert block.object_filter is not None
    return block.object_filter.prototypes.clone()  # what it is cloned from may be freed after the forward


def _keys(block: OpenBlock, x: Tensor) -> Tensor:
    return projections(block.attn, block.norm1(x))[1]


def _about(vit: nn.Module) -> Mapping[str, Any]:
    """What timm says about a model's weights; empty for one built by hand."""
    about = getattr(vit, "pretrained_cfg", None) or {}
    return about if isinstance(about, Mapping) else vars(about)


def _check(vit: VisionTransformer) -> None:
    name = _about(vit).get("architecture") or type(vit).__name__
    if not isinstance(vit, VisionTransformer):
        raise ValueError(f"{name} is no timm VisionTransformer; choose {CHOICES}")
    if not vit.has_class_token:
        raise ValueError(
            f"{name} has no class token (it pools by {vit.global_pool!r}), and the contract's `cls` and CLS scores "
            "need one; choose a model that has: vit_*_patch16_224, vit_*_patch14_reg4_dinov2, deit_*, deit3_*, "
            "t2t_vit_*, pvt_tiny to pvt_large (version 1), cvt_13, cvt_21"
        )
    if vit.attn_pool is not None:
        raise ValueError(f"{name} pools by attention, which tokens pass by; build it with global_pool='token'")
    if not isinstance(vit.patch_drop, nn.Identity):
        raise ValueError(f"{name} drops patches at random; build it with patch_drop_rate=0 and pass `keep` instead")


def _let_sizes_vary(vit: VisionTransformer) -> None:
    # What timm's dynamic_img_size=True does when it builds a model, so that one built without it works too.
    vit.dynamic_img_size = True  # type: ignore[misc]
    vit.patch_embed.strict_img_size = False
    vit.patch_embed.flatten = False
    vit.patch_embed.output_fmt = Format.NHWC


def _masked(x: Tensor, hidden: Tensor | None, mask_token: Tensor | None) -> Tensor:
    batch, rows, columns, width = x.shape
    if hidden is None or mask_token is None:
        raise ValueError("hidden and mask_token belong together; give both or neither")
    if hidden.shape != (batch, rows * columns) or hidden.dtype != torch.bool:
        raise ValueError(
            f"hidden is {list(hidden.shape)} of {hidden.dtype}; it is bool [{batch}, {rows * columns}] for a grid of "
            f"{rows} x {columns}"
        )
    if mask_token.shape != (width,):
        raise ValueError(f"mask_token is {list(mask_token.shape)}; tokens are [{width}] wide")
    return torch.where(hidden.view(batch, rows, columns, 1), mask_token.to(x.dtype), x)


def _check_keep(keep: Tensor, batch: int, patches: int) -> None:
    if keep.ndim != 2 or keep.shape[0] != batch or keep.dtype != torch.int64:
        raise ValueError(
            f"keep is {list(keep.shape)} of {keep.dtype}; it holds patch ids, int64 [B, K] with B = {batch}"
        )
    on_host = keep.device.type == "cpu" and not torch.compiler.is_compiling()  # looking waits for a GPU
    if on_host and keep.numel() and not 0 <= int(keep.min()) <= int(keep.max()) < patches:
        raise ValueError(f"keep names patches {int(keep.min())} to {int(keep.max())}; there are 0 to {patches - 1}")
