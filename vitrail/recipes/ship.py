"""A backbone alone to use elsewhere: safetensors under timm's or its authors' names, or ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vitrail.backbones import AnyBackbone, TimmViT, save_exported
from vitrail.nn.surgery import surgery
from vitrail.recipes.weights import find_weights, open_backbone


def ship(weights: str, out: Path, *, model: str | None, key: str, size: int | None, batch: str) -> str:
    """Write `out`, whose ending chooses the format; returns a sentence that says what was written."""
    if out.suffix not in (".safetensors", ".onnx"):
        raise ValueError(f"{out.name} ends in {out.suffix!r}; end it in .safetensors or .onnx to choose the format")
    backbone = open_backbone(weights, model=model, key=key, device="cpu")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".safetensors":
        save_exported(backbone.export(), out)
        warning = _beyond_timm(backbone)
        names = "timm names" if isinstance(backbone, TimmViT) else "its authors' names"
        return f"written: {out}  ({names}; from {find_weights(weights)}{warning})"
    from vitrail.backbones.onnx import export_onnx

    export_onnx(backbone, out, image_size=size, batch=_batch(batch))
    return f"written: {out}  (batch {batch})"


def _beyond_timm(backbone: AnyBackbone) -> str:
    """What timm lacks to run a backbone, in words; empty where it lacks nothing."""
    if not isinstance(backbone, TimmViT):
        return "; timm has no such network, vitrail.load and ONNX do"
    if backbone.object_filter is not None:
        return "; timm alone has no object-aware filter, vitrail.load and ONNX do"
    if backbone.config is not None and surgery(backbone.config.surgery).changes_block:
        return "; timm alone cannot run the operated last block, vitrail.load and ONNX can"
    return ""


def _batch(text: str) -> int | Literal["dynamic"]:
    if text == "dynamic":
        return "dynamic"
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"--batch {text!r} is neither a positive number nor `dynamic`")
    return int(text)
