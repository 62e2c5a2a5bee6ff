"""Whose checkpoint is it? From the nesting and the names of other projects' files to timm's names.

    timm                 flat, or {"state_dict", "arch", ...}
    DINO, iBOT           {"student", "teacher", ...}, each with `module.` and `backbone.` before the names
    Mugs                 as DINO, or {"state_dict"} with the backbone alone; `relation_blocks.N.*` beside the blocks
    Leopart              flat or {"state_dict"}, with `model.` and perhaps `teacher.` before the names; its authors
                         measure `model.`; `projection_head.*` and `prototypes.weight` beside the backbone
    MAE, DeiT            {"model": ...}; MAE with a decoder, DeiT with a head and sometimes a distillation token
    MoCo-v3              {"state_dict"} with `module.base_encoder.` and `module.momentum_encoder.`
    DINOv2               flat, with `register_tokens`, positions for the class token but not for the registers
    DynamicViT           {"model"}: a DeiT, and `score_predictor.N.*`
    AdaViT               a DeiT with query, key and value apart, and decisions in its blocks, `blocks.N.*_select.*`
    Hugging Face ViT     `embeddings.*`, `encoder.layer.N.*`, query, key and value apart
    IA-RED2              flat; the blocks stand once more under `groups.G.block_list.*`, beside `groups.G.agent.*`
    DGE                  {"model"} or flat; `blocks.N.attn.q` and `.kv` apart, and `blocks.N.dge.*`
    T2T-ViT              flat, {"state_dict"} or {"state_dict_ema"}; `tokens_to_token.*` embeds the patches
    PVT, CvT             see `vitrail.backbones.staged_files`; their names stay those of the authors

The backbone is found by the name of its patch embedding: what stands before it is the prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitrail.backbones.staged_files import LAYOUTS, under_own_names

_ANCHOR = "patch_embed.proj.weight"
_HF_ANCHOR = "embeddings.patch_embeddings.projection.weight"
_T2T_ANCHOR = "tokens_to_token.project.weight"
_STAGE = re.compile(r"(^|\.)stage\d\.$")  # each stage of CvT has a patch embedding
_CONTAINERS = ("teacher", "model", "state_dict_ema", "state_dict", "student", "model_state_dict")
_NETWORKS = ("base_encoder", "teacher", "student", "momentum_encoder")

_NOT_BACKBONE = re.compile(
    r"(head|head_dist|fc|classifier|cls_classifier|distillation_classifier|pooler|pre_logits|predictor|projector)\."
    r"|(relation_blocks|projection_head|prototypes)\."
    r"|groups\.\d+\.|blocks\.\d+\.dge\."
    r"|decoder|mask_token$|masked_embed$|embeddings\.mask_token$"
    r"|score_predictor\.|blocks\.\d+\.(attn\.token_select|head_select|layer_select)\."
)
_T2T_SCALE = (
    "attention is scaled by the width of a head, as the authors evaluate their files; weights trained with that of the "
    "tokens (their code under pretrained=True) need vitrail.backbones.t2t_vit.fold_scale"
)
_ADA_QUERY = re.compile(r"^(blocks\.\d+\.attn)\.query\.(weight|bias)$")
_HF_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.distillation_token$", "dist_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
        (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
        (r"^encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
        (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
        (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
        (r"^layernorm\.", "norm."),
    )
)
_HF_QUERY = re.compile(r"^encoder\.layer\.(\d+)\.attention\.attention\.query\.(weight|bias)$")


class Recognized(NamedTuple):
    """A backbone's weights under timm's names, and what else the file held."""

    state: dict[str, Tensor]
    layout: str
    head: Mapping[str, Tensor] = MappingProxyType({})  # `weight` and `bias` of a linear classifier, where there is one
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    arch: str | None = None  # timm's name, where the file says it
    prefix: str = ""  # stood before the backbone's names
    inside: Mapping[str, Tensor] = MappingProxyType({})  # under the prefix, taken off, and no part of the backbone
    outside: Mapping[str, Tensor] = MappingProxyType({})  # beside the prefix, whole names


def recognize(content: Mapping[str, Any], key: str = "auto") -> Recognized:
    """Find the backbone in what a checkpoint file holds.

    Args:
        content: nested mappings with tensors at the ends.
        key: which network: a key of the file ("teacher", "student", "model", ...) or a part of the names
            ("base_encoder", "momentum_encoder"). "auto" prefers a teacher, MoCo-v3's base encoder, and Leopart's
            student, `model`.

    Raises:
        ValueError: where there is no ViT, or no such key; names the keys that are there.
    """
    opened, path = _open(content, key)
    tensors = {name: value for name, value in opened.items() if isinstance(value, Tensor)}
    prefix, anchor, others = _prefix(tensors, key, content)
    others = (*others, *_siblings(content, path))
    state = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
    outside = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    layout = _layout(content, path, tensors, prefix, anchor, state)
    head = _head(tensors, prefix)
    if anchor == _HF_ANCHOR:
        state = from_hugging_face(state)
    elif anchor == _T2T_ANCHOR:
        state = _from_t2t(state)
    elif anchor in LAYOUTS:
        state, outside = under_own_names(anchor, state, outside)
    state, folded = _from_meta(_from_dge(_from_ada(state)))
    inside = {name: value for name, value in state.items() if _NOT_BACKBONE.match(name)}
    kept = {name: value for name, value in state.items() if name not in inside}
    notes = [f"read {'.'.join((*path, prefix)).rstrip('.')}"] if path or prefix else []
    notes += [f"the file also holds {', '.join(others)}; choose by checkpoint_key"] if others else []
    notes += folded
    notes += [_T2T_SCALE] if anchor == _T2T_ANCHOR else []
    arch = content.get("arch")
    arch = arch if isinstance(arch, str) else None
    return Recognized(kept, layout, head, (*inside, *outside), tuple(notes), arch, prefix, inside, outside)


def _open(content: Mapping[str, Any], key: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Walk into the nested mappings to the one that holds the weights; returns it and the way."""
    if key != "auto" and isinstance(content.get(key), Mapping):
        return _descend(content[key], (key,))
    return _descend(content, ())


def _descend(content: Mapping[str, Any], path: tuple[str, ...]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    if _anchors(content):
        return content, path
    for key in _CONTAINERS:
        if len(path) < 3 and isinstance(content.get(key), Mapping):
            found, way = _descend(content[key], (*path, key))
            if _anchors(found):
                return found, way
    return content, path


def _anchors(names: Iterable[str]) -> list[tuple[str, str]]:
    """(prefix, anchor) of each patch embedding."""
    return [
        (name[: -len(anchor)], anchor)
        for name in names
        for anchor in (_ANCHOR, _HF_ANCHOR, _T2T_ANCHOR, *LAYOUTS)
        if isinstance(name, str)
        and (name == anchor or name.endswith(f".{anchor}"))
        and not (anchor == _ANCHOR and _STAGE.search(name[: -len(anchor)]))
    ]


def _prefix(tensors: Mapping[str, Tensor], key: str, content: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """The prefix of the chosen backbone, its anchor, and the other networks that could have been chosen."""
    found = _anchors(tensors)
    if not found:
        shown = ", ".join(repr(name) for name in list(content)[:8]) or "nothing"
        raise ValueError(
            f"there is no Vision Transformer in this file: no `{_ANCHOR}` and no `{_HF_ANCHOR}`; it holds {shown}"
            f"{', ...' if len(content) > 8 else ''}"
        )
    if key != "auto" and key not in content:
        found = [each for each in found if key in each[0].split(".")]
        if not found:
            parts = {part for prefix, _ in _anchors(tensors) for part in prefix.split(".") if part}
            known = sorted({*_siblings(content, ()), *parts})
            raise ValueError(f"checkpoint_key {key!r} is not in this file; it has {', '.join(known) or 'no keys'}")
    chosen = min(found, key=lambda each: (not _is_leoparts_student(tensors, each[0]), *_rank(each[0])))
    return *chosen, tuple(prefix.rstrip(".") for prefix, _ in found if prefix != chosen[0])


def _siblings(content: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Keys of the file, other than the one that was opened, that hold a Vision Transformer."""
    return [
        name
        for name, value in content.items()
        if isinstance(value, Mapping) and name not in path[:1] and _anchors(_descend(value, (name,))[0])
    ]


def _rank(prefix: str) -> tuple[int, int]:
    parts = prefix.split(".")
    network = next((index for index, name in enumerate(_NETWORKS) if name in parts), len(_NETWORKS))
    return network, len(prefix)


def _is_leoparts_student(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return f".{prefix}".endswith(".model.") and f"{prefix}prototypes.weight" in tensors


def _layout(
    content: Mapping[str, Any],
    path: tuple[str, ...],
    tensors: Mapping[str, Tensor],
    prefix: str,
    anchor: str,
    state: Mapping[str, Tensor],
) -> str:
    if anchor in LAYOUTS:
        return LAYOUTS[anchor]
    everywhere = list(_names(content))
    rules = (
        ("Hugging Face ViT", anchor == _HF_ANCHOR),
        ("T2T-ViT", anchor == _T2T_ANCHOR),
        ("MoCo-v3", "base_encoder" in prefix or "momentum_encoder" in prefix),
        ("Mugs", any("relation_blocks." in name for name in everywhere)),
        ("Leopart", "prototypes.weight" in state and any(name.startswith("projection_head.") for name in state)),
        ("iBOT", any(name.endswith(("masked_embed", "last_layer2.weight_v")) for name in everywhere)),
        ("IA-RED2", "groups.0.agent.qk.weight" in state),
        ("DGE", "blocks.0.dge.router.gate.weight" in state),
        ("DINO", bool({"teacher", "student"} & {*content, *path})),
        ("DINOv2", "register_tokens" in state or ("mask_token" in state and "blocks.0.ls1.gamma" in state)),
        ("MAE", any(name.startswith("decoder") for name in state)),
        ("DynamicViT", any(name.startswith("score_predictor.") for name in state)),
        ("AdaViT", any(re.match(r"blocks\.\d+\.(attn\.token|head|layer)_select\.", name) for name in state)),
        ("DeiT", path == ("model",) and ("head.weight" in state or "dist_token" in state)),
        ("MAE", path == ("model",)),
    )
    return next((name for name, fits in rules if fits), "timm")


def _names(content: Mapping[str, Any], depth: int = 0) -> Iterable[str]:
    for name, value in content.items():
        if isinstance(value, Mapping) and depth < 2:
            yield from _names(value, depth + 1)
        elif isinstance(name, str):
            yield name


def _head(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    for name in (f"{prefix}head.", "classifier.", "head."):
        weight = tensors.get(f"{name}weight")
        if weight is not None and weight.ndim == 2:
            bias = tensors.get(f"{name}bias")
            return {"weight": weight, "bias": torch.zeros(len(weight)) if bias is None else bias}
    return {}


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's names for those of transformers' ViT (`encoder.layer.N.*` and so on), and one qkv instead of three."""
    renamed: dict[str, Tensor] = {}
    joined: set[str] = set()
    for name in state:
        query = _HF_QUERY.match(name)
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if query and all(part in state for part in parts):
            renamed[f"blocks.{query[1]}.attn.qkv.{query[2]}"] = torch.cat([state[part] for part in parts])
            joined.update(parts)
    for name, value in state.items():
        if name not in joined:
            new = next((pattern.sub(to, name) for pattern, to in _HF_NAMES if pattern.match(name)), name)
            renamed[new] = value
    return renamed


def _from_t2t(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of `vitrail.backbones.t2t_vit` for those of T2T-ViT's authors."""
    return {
        name.replace("tokens_to_token.project.", "patch_embed.proj.").replace("tokens_to_token.", "patch_embed."): value
        for name, value in state.items()
    }


def _from_dge(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's one qkv for the `attn.q` and `attn.kv` of DGE's blocks; other names stay."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if re.fullmatch(r"blocks\.\d+\.attn\.kv\.(weight|bias)", name):
            continue
        rest = state.get(name.replace(".attn.q.", ".attn.kv."))
        if re.fullmatch(r"blocks\.\d+\.attn\.q\.(weight|bias)", name) and rest is not None:
            renamed[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat((value, rest))
        else:
            renamed[name] = value
    return renamed


def _from_ada(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One qkv in a block, where AdaViT has three."""
    joined = dict(state)
    for name in state:
        query = _ADA_QUERY.match(name)
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if query and all(part in state for part in parts):
            joined[f"{query[1]}.qkv.{query[2]}"] = torch.cat([joined.pop(part) for part in parts])
    return joined


def _from_meta(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """DeiT-III's and DINOv2's own names for layer scale and registers."""
    renamed = {
        re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name).replace("register_tokens", "reg_token"): value
        for name, value in state.items()
    }
    if "register_tokens" not in state or "cls_token" not in renamed or "pos_embed" not in renamed:
        return renamed, []
    # timm gives positions to the patches alone where there are registers; the class token's own joins the
    # token.
    positions = renamed["pos_embed"]
    renamed["cls_token"] = renamed["cls_token"] + positions[:, :1]
    renamed["pos_embed"] = positions[:, 1:]
    return renamed, ["the class token's position was added to the class token, as timm's model wants it"]
