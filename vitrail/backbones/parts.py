"""What stands beside a backbone in a file of weights: MAE's decoder, the heads of DINO, iBOT, Mugs and others.

    our files         any part that was put there by `with_part`: its tensors under `name.`, its configuration in the
                      header, under `parts`
    MAE               "decoder", under the names and in the order of `vitrail.nn.masked_autoencoder`
    DINO, iBOT        "projector": `mlp.N.*`, `last_layer.*`, and iBOT's `last_layer2.*` or `mlp2.*`, as they stand;
                      "patch_projector": of iBOT, `mlp.N.*` and `last_layer2.*` as `last_layer.*`;
                      "centers": `center` of the teacher's outputs, iBOT's patches' `center2`
    Mugs              "projector": of its `group_head`, `projector.N.*` as `mlp.N.*`, and `last_layer.*`
    Leopart           "patch_projector": `projection_head.N.*` as `mlp.N.*`, `prototypes.weight` as `prototypes`
    IA-RED2           "interpreters": `G.qk.*` for each group, queries and keys alone
    DGE               "gates": `N.weight` and `N.bias` for each block, the finest granularity first
    DynamicViT        "score_predictor": `N.in_conv.*` and `N.out_conv.*`, as they stand
    AdaViT            "decisions": `N.token.*`, `N.head.*` and `N.layer.*` of block N, there `*_select.mlp_head.*`
    MoCo-v3           "projector" and "predictor": `N.*`, as they stand (the predictor goes with the base encoder)

A backbone alone is no error: who asks gets None, starts the part fresh, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from vitrail.backbones.layouts import Recognized, recognize
from vitrail.backbones.mae_decoder import misfit, read_decoder
from vitrail.backbones.reading import read_file, weights_file
from vitrail.config import Config
from vitrail.contracts import Exported

_DECISION = re.compile(r"^blocks\.(\d+)\.(?:attn\.)?(token|head|layer)_select\.mlp_head\.(weight|bias)$")


class Part(NamedTuple):
    """A part of a file, its prefix taken off."""

    state: dict[str, Tensor]
    config: dict[str, Any]  # what rebuilds it; empty where the shapes say all that the file says
    source: str  # the file
    notes: tuple[str, ...] = ()  # what was guessed, and what the file does not say
    normalized_targets: bool | None = None  # what a decoder predicts, where the file says it: see `vitrail.methods.mae`

    def fill(self, module: nn.Module) -> None:
        """Copy the tensors into `module`, all of them or none; `ValueError` where a name or a shape differs."""
        reason = misfit(self.state, module.state_dict())
        if reason:
            raise ValueError(f"{self.source} does not fit this {type(module).__name__}: {reason}; set the same sizes")
        module.load_state_dict(self.state)


def load_part(weights: str | Path, name: str, *, checkpoint_key: str = "auto", heads: int | None = None) -> Part | None:
    """A part beside the backbone, or None where the file has none of this name.

    Args:
        weights: a file or a run folder, as `vitrail.load` reads them.
        name: "decoder", "projector", "patch_projector", "predictor", "centers", "interpreters", "gates",
            "score_predictor", "decisions", or a name of our own file's header.
        checkpoint_key: which network's part, as in `vitrail.load`: "teacher", "student", "momentum_encoder", ...
        heads: attention heads of MAE's decoder, which its files do not say; None guesses and notes it.

    Raises:
        ValueError: a file that is missing, unreadable or without a backbone, and half a part or one of shapes that do
            not belong together.
    """
    path = weights_file(weights)
    content, own = read_file(path)
    try:
        if own is not None:
            return _ours(content, own, name, str(path))
        found = recognize(content, checkpoint_key)
        if name == "decoder":
            return _decoder(found, content, heads, str(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    finders = {
        "projector": _projector,
        "patch_projector": _patch_projector,
        "predictor": _predictor,
        "interpreters": _interpreters,
        "gates": _gates,
        "score_predictor": _score_predictor,
        "decisions": _decisions,
    }
    state = _centers(found, content) if name == "centers" else finders.get(name, _nothing)(found)
    return Part(state, {}, str(path), found.notes) if state else None


def need_part(weights: str | Path, name: str, *, checkpoint_key: str = "auto", heads: int | None = None) -> Part:
    """`load_part` for what cannot start fresh, such as a reconstruction: `ValueError`, with the way out, for None."""
    part = load_part(weights, name, checkpoint_key=checkpoint_key, heads=heads)
    if part is not None:
        return part
    path = weights_file(weights)
    if name == "decoder":
        raise ValueError(
            f"{path} holds a backbone without its decoder, and nothing can be reconstructed without one; MAE's "
            "mae_pretrain_vit_*.pth are made for fine-tuning, the published mae_visualize_* and *_full files have a "
            "decoder, and so have run folders of vitrail's own masked autoencoders"
        )
    raise ValueError(
        f"{path} holds no {name} beside the backbone; full checkpoints of a training have one (those with student and "
        "teacher, or base and momentum encoder), and so have run folders of vitrail"
    )


def with_part(exported: Exported, name: str, module: nn.Module, config: Config | Mapping[str, Any]) -> Exported:
    """What a method exports, and one of its other modules: `load` passes it by, `load_part` reads it.

    Args:
        exported: a backbone's or a method's export.
        name: the part's, free of dots: "decoder", "projector", ...
        module: whose state to take.
        config: what rebuilds the module; JSON values.

    Raises:
        ValueError: a name with a dot, or one that the export has already.
    """
    if not name or "." in name or any(key.split(".")[0] == name for key in exported.state):
        raise ValueError(f"{name!r} cannot name a part: it is empty, has a dot, or is in the export already")
    plain = config.plain() if isinstance(config, Config) else dict(config)
    state = {f"{name}.{key}": value.detach().cpu().clone() for key, value in module.state_dict().items()}
    parts = {**exported.metadata.get("parts", {}), name: plain}
    return Exported(exported.state | state, exported.metadata | {"parts": parts})


def set_apart(
    content: Mapping[str, Any], own: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Content without the parts that our header names, the names of the tensors set apart, and a note on them."""
    parts = tuple(own.get("parts", ())) if own is not None else ()
    apart = tuple(name for name in content if name.split(".")[0] in parts)
    kept = {name: value for name, value in content.items() if name not in apart} if apart else content
    note = (f"also there: {', '.join(parts)}; vitrail.backbones.load_part reads it",) if parts else ()
    return kept, apart, note


def _ours(content: Mapping[str, Any], own: Mapping[str, Any], name: str, source: str) -> Part | None:
    parts = own.get("parts", {})
    if name not in parts:
        return None
    state = _under(content, f"{name}.")
    if not state:
        raise ValueError(f"the header names a part {name!r}, and there are no tensors of it; export again")
    return Part(state, config := dict(parts[name]), source, normalized_targets=config.get("normalized_targets"))


def _decoder(found: Recognized, content: Mapping[str, Any], heads: int | None, source: str) -> Part | None:
    converted = read_decoder(found, heads)
    if converted is None:
        return None
    state, config, notes = converted
    normalized = getattr(content.get("args"), "norm_pix_loss", None)
    return Part(state, config.plain(), source, (*found.notes, *notes, _about_pixels(normalized)), normalized)


def _about_pixels(normalized: bool | None) -> str:
    if normalized is None:
        return (
            "the file does not say what it predicts: pixels normalized within each patch, as MAE's *_full files, or "
            "plain ones, as mae_visualize_*"
        )
    return f"it predicts {'pixels normalized within each patch' if normalized else 'plain pixels'}, as its args say"


def _projector(found: Recognized) -> dict[str, Tensor]:
    if found.layout == "Mugs":
        head = _under(found.outside, f"{_parent(found)}group_head.")
        return {re.sub(r"^projector\.", "mlp.", name): value for name, value in head.items()}
    head = _under(found.outside, f"{_parent(found)}head.") or _under(found.inside, "head.")
    if found.layout == "MoCo-v3":
        return _under(found.inside, "head.")
    projects = any(name.startswith(("mlp.", "last_layer.")) for name in head)  # and does not classify
    return head if found.layout in ("DINO", "iBOT") and projects else {}


def _patch_projector(found: Recognized) -> dict[str, Tensor]:
    if found.layout == "Leopart":
        head = {f"mlp.{name}": value for name, value in _under(found.inside, "projection_head.").items()}
        return _numbered(head) | {"prototypes": found.inside["prototypes.weight"]}
    head = _projector(found) if found.layout == "iBOT" else {}
    own = {f"last_layer.{name}": value for name, value in _under(head, "last_layer2.").items()}
    return own and own | {name: value for name, value in head.items() if name.startswith("mlp.")}


def _numbered(head: dict[str, Tensor]) -> dict[str, Tensor]:
    """An MLP of one layer has no number in its names."""
    return {name.replace("mlp.", "mlp.0.") if name.count(".") == 1 else name: value for name, value in head.items()}


def _predictor(found: Recognized) -> dict[str, Tensor]:
    return _under(found.outside, f"{_parent(found)}predictor.") if found.layout == "MoCo-v3" else {}


def _interpreters(found: Recognized) -> dict[str, Tensor]:
    # A third of the released layer is left over from an attention's values: nothing reads it.
    named = {re.sub(r"^groups\.(\d+)\.agent\.", r"\1.", name): value for name, value in found.inside.items()}
    kept = {name: value for name, value in named.items() if re.fullmatch(r"\d+\.qk\.(weight|bias)", name)}
    return {name: value[: len(value) // 3 * 2] for name, value in kept.items()}


def _gates(found: Recognized) -> dict[str, Tensor]:
    named = {name: re.fullmatch(r"blocks\.(\d+)\.dge\.router\.gate\.(weight|bias)", name) for name in found.inside}
    return {f"{match[1]}.{match[2]}": found.inside[name] for name, match in named.items() if match}


def _centers(found: Recognized, content: Mapping[str, Any]) -> dict[str, Tensor]:
    losses = [content[key] for key in ("dino_loss", "ibot_loss") if isinstance(content.get(key), Mapping)]
    if found.layout not in ("DINO", "iBOT") or not losses:
        return {}
    return {name: value for name, value in losses[0].items() if name in ("center", "center2")}


def _score_predictor(found: Recognized) -> dict[str, Tensor]:
    return _under(found.inside, "score_predictor.")


def _decisions(found: Recognized) -> dict[str, Tensor]:
    matches = ((_DECISION.match(name), value) for name, value in found.inside.items())
    return {f"{match[1]}.{match[2]}.{match[3]}": value for match, value in matches if match}


def _nothing(found: Recognized) -> dict[str, Tensor]:
    return {}


def _parent(found: Recognized) -> str:
    """What stands before the network's own name: `module.` of `module.backbone.`."""
    return re.sub(r"[^.]*\.$", "", found.prefix)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
