"""Files of PVT and CvT: Hugging Face's names to the authors', and which configuration the shapes tell.

    PVT                  flat; `patch_embed1` to `4`, `pos_embed1` to `4`, `block1.N` to `block4.N`, `cls_token`
    CvT                  flat; `stage0` to `stage2` with `patch_embed` and `blocks.N`, `stage2.cls_token`
    Hugging Face PVT     `encoder.patch_embeddings.S.*`, `encoder.block.S.N.*`; key and value apart
    Hugging Face CvT     `encoder.stages.S.*`; its final norm stands beside, as `layernorm.*`

The names on the right were read in the authors' code and in transformers' scripts that convert their weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitrail.backbones.config import BackboneConfig
from vitrail.backbones.cvt import CVTS, CvtConfig
from vitrail.backbones.pvt import PVTS, PvtConfig

PVT, CVT = "patch_embed1.proj.weight", "stage0.patch_embed.proj.weight"
HF_PVT = "encoder.patch_embeddings.0.projection.weight"
HF_CVT = "encoder.stages.0.embedding.convolution_embeddings.projection.weight"
LAYOUTS = {PVT: "PVT", CVT: "CvT", HF_PVT: "Hugging Face PVT", HF_CVT: "Hugging Face CvT"}
"""By the name of the first patch embedding."""

_HF_PVT_BLOCK = re.compile(r"^encoder\.block\.(\d+)\.(\d+)\.(.+)\.(weight|bias)$")
_HF_PVT_EMBED = re.compile(r"^encoder\.patch_embeddings\.(\d+)\.(projection|layer_norm)\.(weight|bias)$")
_HF_PVT_POSITIONS = re.compile(r"^encoder\.patch_embeddings\.(\d+)\.position_embeddings$")
_HF_PVT_TOKEN = re.compile(r"^encoder\.patch_embeddings\.\d+\.cls_token$")
_HF_PVT_PARTS = {
    "layer_norm_1": "norm1",
    "layer_norm_2": "norm2",
    "attention.self.query": "attn.q",
    "attention.self.kv": "attn.kv",
    "attention.self.sequence_reduction": "attn.sr",
    "attention.self.layer_norm": "attn.norm",
    "attention.output.dense": "attn.proj",
    "mlp.dense1": "mlp.fc1",
    "mlp.dense2": "mlp.fc2",
}
_HF_CVT_BLOCK = re.compile(r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.(.+)\.(\w+)$")
_HF_CVT_EMBED = re.compile(
    r"^encoder\.stages\.(\d+)\.embedding\.convolution_embeddings\.(projection|normalization)\.(weight|bias)$"
)
_HF_CVT_TOKEN = re.compile(r"^encoder\.stages\.(\d+)\.cls_token$")
_HF_CVT_PARTS = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_HF_CVT_CONV = re.compile(r"^attention\.attention\.convolution_projection_([qkv])\w+\.convolution_projection\.(\w+)$")
_HF_CVT_LINEAR = re.compile(r"^attention\.attention\.projection_([qkv])\w+$")


def under_own_names(
    anchor: str, state: Mapping[str, Tensor], outside: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights under the authors' names, and what is left of `outside`.

    Args:
        anchor: which of `LAYOUTS`.
        state: of the network, without a prefix.
        outside: what else the file holds; Hugging Face's CvT has its final norm there.
    """
    if anchor == HF_PVT:
        return {_pvt_name(name): value for name, value in _joined(state).items()}, dict(outside)
    if anchor == HF_CVT:
        norm = {name: value for name, value in outside.items() if name in ("layernorm.weight", "layernorm.bias")}
        own = {_cvt_name(name): value for name, value in state.items()}
        own |= {name.removeprefix("layer"): value for name, value in norm.items()}
        return own, {name: value for name, value in outside.items() if name not in norm}
    return dict(state), dict(outside)


def is_staged_state(state: Mapping[str, Tensor]) -> bool:
    """Whether weights under their authors' names are those of a network in stages."""
    return PVT in state or CVT in state


def infer_staged(state: Mapping[str, Tensor], layout: str) -> tuple[BackboneConfig, tuple[str, ...]]:
    """The configuration that these weights fit, and what was guessed.

    Args:
        state: weights under the authors' names.
        layout: of the file; Hugging Face's networks compute a little differently.

    Raises:
        ValueError: for widths that are no multiples of 64, which leave the number of heads open, and positions of
            images that are not square.
    """
    found = _pvt_sizes(state) if PVT in state else _cvt_sizes(state)
    known: Mapping[str, PvtConfig | CvtConfig] = PVTS if PVT in state else CVTS
    if any(width % 64 for width in found["embed_dims"]):
        raise ValueError(
            f"the number of heads cannot be read from the shapes of this file, whose widths are {found['embed_dims']}; "
            f"say it: name=BackboneConfig(name={next(iter(known))!r}, options={{'heads': ..., ...}})"
        )
    found["heads"] = [width // 64 for width in found["embed_dims"]]
    plain = {name: config.plain() for name, config in known.items()}
    name = next((name for name, own in plain.items() if own | found == own), next(iter(known)))
    options = {key: tuple(value) for key, value in found.items() if plain[name][key] != value}
    side = _side(state) if PVT in state else 224
    made: dict[str, Any] = {"name": name, "image_size": side, "options": options | library_options(layout, name)}
    words = f"widths {found['embed_dims']}, blocks {found['depths']}, heads of 64 channels, image {side}"
    return BackboneConfig(**made), (f"no name was given; by its shapes this is {name}: {words}",)


def _side(state: Mapping[str, Tensor]) -> int:
    """Pixels of the square images that PVT's positions were made for."""
    count = state["pos_embed1"].shape[1]
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(
            f"its {count} positions of the first stage are no square grid; say the size that it was trained at: "
            "name=BackboneConfig(name='pvt_small', image_size=(height, width))"
        )
    return 4 * side


def library_options(layout: str, name: str) -> dict[str, Any]:
    """The option that makes a network of that name compute as the library does whose file it is.

    Empty for files of the authors, and for a network that is not the file's.
    """
    if layout == LAYOUTS[HF_CVT] and name in CVTS:
        return {"activation": "gelu"}
    return {"inner_eps": 1e-6} if layout == LAYOUTS[HF_PVT] and name in PVTS else {}


def _pvt_sizes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    blocks = [f"block{stage}" for stage in range(1, 5)]
    widths = [state[f"patch_embed{stage}.proj.weight"].shape[0] for stage in range(1, 5)]
    reductions = [state[name].shape[-1] if (name := f"{each}.0.attn.sr.weight") in state else 1 for each in blocks]
    return _sizes(state, blocks, widths) | {"reductions": reductions}


def _cvt_sizes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    widths = [state[f"stage{stage}.patch_embed.proj.weight"].shape[0] for stage in range(3)]
    return _sizes(state, [f"stage{stage}.blocks" for stage in range(3)], widths)


def _sizes(state: Mapping[str, Tensor], blocks: list[str], widths: list[int]) -> dict[str, list[int]]:
    ratios = [state[f"{each}.0.mlp.fc1.weight"].shape[0] // width for each, width in zip(blocks, widths)]
    return {"embed_dims": widths, "depths": [_count(state, each) for each in blocks], "mlp_ratios": ratios}


def _count(state: Mapping[str, Tensor], stem: str) -> int:
    pattern = re.compile(rf"^{re.escape(stem)}\.(\d+)\.")
    return max((int(found[1]) for name in state if (found := pattern.match(name))), default=-1) + 1


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's key and value of each block as the one `kv` of the authors."""
    joined = dict(state)
    for name in state:
        value = name.replace(".attention.self.key.", ".attention.self.value.")
        if value != name and value in state:
            kv = name.replace(".attention.self.key.", ".attention.self.kv.")
            joined[kv] = torch.cat((joined.pop(name), joined.pop(value)))
    return joined


def _pvt_name(name: str) -> str:
    if (found := _HF_PVT_BLOCK.match(name)) and found[3] in _HF_PVT_PARTS:
        return f"block{int(found[1]) + 1}.{found[2]}.{_HF_PVT_PARTS[found[3]]}.{found[4]}"
    if found := _HF_PVT_EMBED.match(name):
        return f"patch_embed{int(found[1]) + 1}.{'proj' if found[2] == 'projection' else 'norm'}.{found[3]}"
    if found := _HF_PVT_POSITIONS.match(name):
        return f"pos_embed{int(found[1]) + 1}"
    return "cls_token" if _HF_PVT_TOKEN.match(name) else name.replace("encoder.layer_norm.", "norm.")


def _cvt_name(name: str) -> str:
    if (found := _HF_CVT_BLOCK.match(name)) and (part := _cvt_part(found[3])):
        return f"stage{found[1]}.blocks.{found[2]}.{part}.{found[4]}"
    if found := _HF_CVT_EMBED.match(name):
        return f"stage{found[1]}.patch_embed.{'proj' if found[2] == 'projection' else 'norm'}.{found[3]}"
    return f"stage{found[1]}.cls_token" if (found := _HF_CVT_TOKEN.match(name)) else name


def _cvt_part(part: str) -> str | None:
    if found := _HF_CVT_CONV.match(part):
        return f"attn.conv_proj_{found[1]}.{'conv' if found[2] == 'convolution' else 'bn'}"
    if found := _HF_CVT_LINEAR.match(part):
        return f"attn.proj_{found[1]}"
    return _HF_CVT_PARTS.get(part)
