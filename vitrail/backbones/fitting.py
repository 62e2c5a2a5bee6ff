"""A file's weights into a backbone: what fits, what is missing, and positions brought to the backbone's grid."""

from __future__ import annotations

import math

from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from vitrail.backbones.architecture import AnyBackbone
from vitrail.backbones.infer import depth_of, infer
from vitrail.backbones.layouts import Recognized
from vitrail.backbones.pvt import Pvt, interpolated
from vitrail.backbones.report import LoadReport
from vitrail.backbones.staged import StagedBackbone, is_staged
from vitrail.backbones.timm_vit import TimmViT


def network_of(backbone: AnyBackbone) -> nn.Module:
    """What holds the weights under the names that they have in files."""
    return backbone.net if isinstance(backbone, StagedBackbone) else backbone.vit


def fill(backbone: AnyBackbone, found: Recognized, grid: tuple[int, int] | None, source: str) -> LoadReport:
    """Copy the weights that fit. Raises `ValueError` where a shape differs."""
    target = network_of(backbone).state_dict()
    if isinstance(backbone, StagedBackbone):
        state, interpolated = _fit_stages(backbone, dict(found.state), grid)
    else:
        state, interpolated = _fit_positions(backbone, dict(found.state), grid, source)
    wrong = [name for name in target if name in state and state[name].shape != target[name].shape]
    if wrong:
        shown = "; ".join(
            f"{name} is {list(state[name].shape)} in the file and {list(target[name].shape)} in the model"
            for name in wrong[:3]
        )
        raise ValueError(
            f"{source} is a checkpoint of another architecture than {_describe(backbone)}: {shown}"
            f"{f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''}.{_advice(found)}"
        )
    network_of(backbone).load_state_dict(state, strict=False)
    return LoadReport(
        matched=tuple(name for name in target if name in state),
        missing=tuple(name for name in target if name not in state),
        unexpected=tuple(name for name in state if name not in target),
        layout=found.layout,
        ignored=found.ignored,
        interpolated=interpolated,
    )


def _describe(backbone: AnyBackbone) -> str:
    name = backbone.config.name if backbone.config else "the model"
    return f"{name} (width {backbone.embed_dim}, {backbone.depth} blocks)"


def _advice(found: Recognized) -> str:
    try:
        config, _ = infer(found.state, found.layout)
    except ValueError:
        return " Give the name of the architecture that it was trained as"
    if is_staged(config.name):
        return (
            f" By its shapes it is a {config.name} with options {config.options}: leave the name out, or give that one"
        )
    width = found.state["cls_token"].shape[-1]
    return (
        f" By its shapes it is a {config.name} with patch {config.patch_size} (width {width}, "
        f"{depth_of(found.state)} blocks): leave the name out, or give that one"
    )


def _fit_stages(
    backbone: StagedBackbone, state: dict[str, Tensor], grid: tuple[int, int] | None
) -> tuple[dict[str, Tensor], str | None]:
    """Bring the positions of PVT's stages to the model's grids; CvT has none.

    `grid` is that of the last stage, where our header says it; other files are of square images.
    """
    net = backbone.net
    positions = state.get("pos_embed4")
    if not isinstance(net, Pvt) or positions is None:
        return state, None
    side = math.isqrt(max(positions.shape[1] - 1, 0))
    old, new = grid or (side, side), net.grid_at(3, backbone.image_size)
    if old == new or positions.shape[1] == new[0] * new[1] + 1:
        return state, None
    resized = dict(state)
    for stage in range(4):
        name, times = f"pos_embed{stage + 1}", 2 ** (3 - stage)
        of_file = (old[0] * times, old[1] * times)
        if name in state and state[name].shape[1] == of_file[0] * of_file[1] + (stage == 3):
            resized[name] = interpolated(state[name], of_file, net.grid_at(stage, backbone.image_size))
    return resized, f"{old[0]}x{old[1]} to {new[0]}x{new[1]} in the last stage"


def _fit_positions(
    backbone: TimmViT, state: dict[str, Tensor], grid: tuple[int, int] | None, source: str
) -> tuple[dict[str, Tensor], str | None]:
    """Bring the file's positions to the model's grid (bicubic, antialiased), where they only differ in it."""
    vit, positions = backbone.vit, state.get("pos_embed")
    if vit.pos_embed is None or positions is None or positions.shape[-1] != vit.pos_embed.shape[-1]:
        return state, None
    new = tuple(vit.patch_embed.grid_size)
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    count = positions.shape[1] - prefix
    side = int(max(count, 0) ** 0.5 + 0.5)
    old = grid if grid is not None and grid[0] * grid[1] == count else (side, side)
    if old[0] * old[1] != count:
        if count == new[0] * new[1]:
            return state, None
        raise ValueError(
            f"{source} has {positions.shape[1]} positions, which are no square grid plus {prefix} tokens; "
            "say the grid: "
            "name=BackboneConfig(name=..., image_size=(height, width)) of the training"
        )
    if old == new:
        return state, None
    resized = resample_abs_pos_embed(
        positions.float(), new_size=list(new), old_size=list(old), num_prefix_tokens=prefix
    )
    return state | {"pos_embed": resized}, f"{old[0]}x{old[1]} to {new[0]}x{new[1]}"
