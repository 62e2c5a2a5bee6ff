"""timm's transformer block, opened: the same modules under the same names, and it hands out the CLS scores.

timm's attention runs fused, so its scores are nowhere to be seen. The scores of one query, though, are one small
product of what the block has anyway: S[h, x] = q_cls . k_x / sqrt(d). A block that is asked for them computes
queries and keys once, gives them to the fused attention, and to that product. Nothing else changes, gradients
included, and everything passes through `forward`, so that sharding and checkpointing wrappers work.

The switches are those of SAR's surgery, see `vitrail.nn.surgery`. A block may hold an object-aware filter, see
`vitrail.nn.object_filter`; it works on what the attention gives, and needs to know the grid of the patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from vitrail.nn.object_filter import ObjectFilter

_PARTS = frozenset(("norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2", "object_filter"))
_ATTENTION_PARTS = frozenset(("qkv", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"))


class OpenBlock(nn.Module):
    """z' = MSA(LN1(z)) + z, output = MLP(LN2(z')) + z'; each skip connection and LN2 can be switched off.

    State-dict keys stay timm's; with `norm2=False` those of norm2 are gone. An object-aware filter has its own under
    `object_filter.`.
    """

    object_filter: ObjectFilter | None

    def __init__(self, block: Any, *, msa_skip: bool = True, norm2: bool = True, mlp_skip: bool = True) -> None:
        """Take over the modules of a timm `Block`, or of an opened one; they are shared, not copied.

        A branch without its skip connection loses its drop path too: dropping it would zero the tokens.

        Raises:
            ValueError: for a block or an attention of another kind, and for layer scale on a branch that has
                no skip connection (its 1e-5 would be all that is left of the tokens).
        """
        super().__init__()
        reason = why_closed(block)
        if reason is not None:
            raise ValueError(reason)
        for skip, scale in ((msa_skip, block.ls1), (mlp_skip, block.ls2)):
            if not skip and not isinstance(scale, nn.Identity):
                raise ValueError(
                    "the block has layer scale, which shrinks the tokens to nothing where the skip connection is "
                    "removed; build the model without it (options={'init_values': None}), or keep the skip"
                )
        self.msa_skip = msa_skip
        self.mlp_skip = mlp_skip
        self.norm1 = block.norm1
        self.attn = block.attn
        self.ls1 = block.ls1
        self.drop_path1 = block.drop_path1 if msa_skip else nn.Identity()
        self.norm2 = block.norm2 if norm2 else nn.Identity()
        self.mlp = block.mlp
        self.ls2 = block.ls2
        self.drop_path2 = block.drop_path2 if mlp_skip else nn.Identity()
        self.register_module("object_filter", getattr(block, "object_filter", None))

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        *,
        scores: bool = False,
        grid: tuple[int, int] | None = None,
        through: Callable[[OpenBlock, Tensor], Any] | None = None,
    ) -> Any:
        """Tokens `[B, T, D]` to tokens; with `scores=True` to (tokens, scores).

        Args:
            x: tokens, the class token first.
            attn_mask, is_causal: as timm's block takes them; not together with `scores`.
            scores: also return the first token's scores against all tokens, `[B, H, T]`, see `attend`.
            grid: (Y, X) of the patches, which stand last; a block with an object-aware filter needs it.
            through: another way through this block's parts, called as `through(block, x)`; what it returns is
                returned. Networks that drop tokens inside a block go it, by `join` and `change`.

        Raises:
            ValueError: for `scores` with a mask, and a filter without the grid.
        """
        if through is not None:
            return through(self, x)
        if scores:
            if attn_mask is not None or is_causal:
                raise ValueError("scores of masked attention are not defined here; ask for them without a mask")
            normed = self.norm1(x)
            attended, similarity = attend(self.attn, normed)
            return self._rest(x, self._filtered(normed, attended, grid)), similarity
        masks: dict[str, Any] = {}
        if attn_mask is not None:
            masks["attn_mask"] = attn_mask
        if is_causal:
            masks["is_causal"] = is_causal
        normed = self.norm1(x)
        return self._rest(x, self._filtered(normed, self.attn(normed, **masks), grid))

    def join(self, x: Tensor, attended: Tensor) -> Tensor:
        """Tokens and what the attention made of them, by scale, drop path and skip connection: the block's z'.

        Raises:
            ValueError: where the block has an object-aware filter, which this way passes by.
        """
        if self.object_filter is not None:
            raise ValueError(
                "this way through the block passes by its object-aware filter, which needs all patches on their grid; "
                "take weights without a filter here"
            )
        return self._join(x, attended)

    def change(self, x: Tensor) -> Tensor:
        """The second half, from z' to the block's output."""
        changed = self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x + changed if self.mlp_skip else changed

    def prototype_attention(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """What `object_filter.attention` says of this block's input `[B, T, D]`: `[B, heads, M, Y, X]`.

        Raises:
            ValueError: where the block has no object-aware filter.
        """
        if self.object_filter is None:
            raise ValueError(
                "this block has no object-aware filter; vitrail.backbones.add_object_filter puts one into the last"
            )
        normed = self.norm1(x)
        asking = normed if self.object_filter.config.reads == "input" else self.attn(normed)
        return self.object_filter.attention(asking, grid)

    def _join(self, x: Tensor, attended: Tensor) -> Tensor:
        attended = self.drop_path1(self.ls1(attended))
        return x + attended if self.msa_skip else attended

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        return self.change(self._join(x, attended))

    def _filtered(self, normed: Tensor, attended: Tensor, grid: tuple[int, int] | None) -> Tensor:
        if self.object_filter is None:
            return attended
        if grid is None:
            raise ValueError(
                "this block has an object-aware filter, which needs the grid of the patches; call it as the backbone "
                "does, with grid=(Y, X)"
            )
        filtered: Tensor = self.object_filter(normed, attended, grid)
        return filtered

    @property
    def operated(self) -> bool:
        """Whether anything is switched off."""
        return not (self.msa_skip and self.mlp_skip) or isinstance(self.norm2, nn.Identity)

    def extra_repr(self) -> str:
        """The switches, so that two blocks that differ in them print differently."""
        return f"msa_skip={self.msa_skip}, mlp_skip={self.mlp_skip}"


def attend(attn: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """timm's self-attention, fused, and the scores of its first query.

    Args:
        attn: timm's `Attention`; its own modules and its fused kernel are used.
        x: normalized tokens `[B, T, D]`, the class token first.

    Returns:
        The attention's output `[B, T, D]`, and q_0 . k / sqrt(d) before any softmax, `[B, H, T]`, in float32
        or wider also under autocast; gradients flow to that query and to all keys.
    """
    query, key, value = projections(attn, x)
    dropout = attn.attn_drop.p if attn.training else 0.0
    mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    return gathered(attn, x, mixed), first_row(query, key)


def projections(attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of normalized tokens `[B, T, D]` in timm's `Attention`, each `[B, H, T, d]`."""
    batch, count, _ = x.shape
    qkv = attn.qkv(x).reshape(batch, count, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    return attn.q_norm(query), attn.k_norm(key), value


def gathered(attn: Any, x: Tensor, mixed: Tensor) -> Tensor:
    """The attention's output `[B, T, D]` of its input `x` and of what its heads made, `[B, H, T, d]`."""
    mixed = mixed.transpose(1, 2).flatten(2)
    if hasattr(attn, "norm"):
        mixed = attn.norm(mixed)
    if getattr(attn, "gate", None) is not None:
        mixed = mixed * attn.gate(x).sigmoid()
    return attn.proj_drop(attn.proj(mixed))


def first_row(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """Scores of the first of the queries `[B, H, T, d]` against keys `[B, H, S, d]`: q_0 . k * scale, `[B, H, S]`.

    In float32 or wider also under autocast, before any softmax. The scale is 1 / sqrt(d) where none is given.
    """
    # Rounding the scores to half precision would make cells tie at the mean, where the entropy jumps.
    wide = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(device_type=query.device.type, enabled=False):
        first = query[:, :, :1].to(wide) * (query.shape[-1] ** -0.5 if scale is None else scale)
        return (first @ key.to(wide).transpose(-2, -1)).squeeze(2)


def open_blocks(blocks: nn.Sequential) -> dict[int, str]:
    """Replace each timm `Block` by an `OpenBlock`, in place; returns for the others why they stay closed."""
    closed = {}
    for index, block in enumerate(blocks):
        if isinstance(block, OpenBlock):
            continue
        reason = why_closed(block)
        if reason is None:
            blocks[index] = OpenBlock(block).train(block.training)
        else:
            closed[index] = reason
    return closed


def why_closed(block: Any) -> str | None:
    """Why a block cannot be opened, in words; None where it can."""
    from timm.layers import Attention
    from timm.models.vision_transformer import Block

    if type(block) not in (Block, OpenBlock):
        return (
            f"a block of type {type(block).__name__} cannot be opened to its CLS scores, nor operated on; "
            "models with timm's plain Block can (vit_*_patch16_224, deit_*, dinov2)"
        )
    if type(block.attn) is not Attention:
        return (
            f"attention of type {type(block.attn).__name__} cannot be opened to its CLS scores, nor operated "
            "on; models with timm's plain Attention can (vit_*_patch16_224, deit_*, dinov2)"
        )
    unknown = [
        *_unknown(block.named_children(), _PARTS),
        *(f"attn.{name}" for name in _unknown(block.attn.named_children(), _ATTENTION_PARTS)),
    ]
    if unknown:
        return (
            f"this timm version's block has parts that are unknown here ({', '.join(unknown)}), so its CLS "
            "scores would be a guess; install a timm release that vitrail was tested with"
        )
    return None


def _unknown(children: Any, known: frozenset[str]) -> Sequence[str]:
    return [name for name, _ in children if name not in known]
