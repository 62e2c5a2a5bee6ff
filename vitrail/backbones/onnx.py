"""A backbone as an ONNX file: images in, class token and patch tokens out."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitrail.backbones.architecture import AnyBackbone
from vitrail.backbones.staged import StagedBackbone

TOLERANCE = 1e-4


class _Flat(nn.Module):
    """Tensors in and tensors out, which is all that ONNX knows."""

    def __init__(self, backbone: AnyBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.backbone(images)
        return tokens.cls, tokens.patches


def export_onnx(
    backbone: AnyBackbone,
    path: str | Path,
    image_size: int | tuple[int, int] | None = None,
    batch: int | Literal["dynamic"] = 1,
) -> float | None:
    """Write ONNX with the input `images` [batch, 3, height, width] and the outputs `cls` and `patches`.

    Args:
        backbone: is left as it is; a copy in evaluation mode, in float32 on the CPU, is written.
        path: of the file, written whole or not at all.
        image_size: pixels, one side or (height, width); the positions for it are baked in. None takes the
            model's own.
        batch: images per call, or "dynamic".

    Returns:
        The largest difference between onnxruntime's outputs and the backbone's; None without onnxruntime.

    Raises:
        ValueError: a size that is not whole patches, a batch under 1, outputs that differ by more than 1e-4,
            or a missing library (`pip install vitrail[onnx]`).
    """
    if batch != "dynamic" and (not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch {batch!r} is neither a positive number nor 'dynamic'")
    for library in ("onnx", "onnxscript"):
        try:
            __import__(library)
        except ImportError as error:
            raise ValueError(
                f"ONNX export needs {library}, which is not installed: pip install 'vitrail[onnx]'"
            ) from error
    path = Path(path)
    baked = _baked(backbone, image_size)
    count = 2 if batch == "dynamic" else batch  # an example of 1 would be taken for a constant
    channels = 3 if isinstance(baked, StagedBackbone) else baked.vit.in_chans
    images = torch.randn(count, channels, *baked.image_size, generator=torch.Generator().manual_seed(0))
    shapes = {"images": {0: torch.export.Dim("batch")}} if batch == "dynamic" else None
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        _write(_Flat(baked), images, partial, shapes)
        difference = _difference(baked, partial, images, dynamic=batch == "dynamic")
        if difference is not None and not difference <= TOLERANCE:
            raise ValueError(
                f"onnxruntime's outputs differ from the backbone's by {difference:.2g}, more than {TOLERANCE:g}"
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return difference


def _baked(backbone: AnyBackbone, image_size: int | tuple[int, int] | None) -> AnyBackbone:
    """A copy for one size: bicubic interpolation at run time is what exporters stumble over."""
    baked = copy.deepcopy(backbone).float().cpu().eval()
    size = (image_size, image_size) if isinstance(image_size, int) else image_size or backbone.image_size
    if isinstance(baked, StagedBackbone):
        baked.resize(size)
        return baked
    baked._grid(torch.empty(1, baked.vit.in_chans, *size, device="meta"))  # complains about sizes in words
    baked.vit.set_input_size(img_size=size)
    baked.vit.dynamic_img_size = False  # type: ignore[misc]
    baked.vit.patch_embed.flatten = True
    return baked


def _write(module: nn.Module, images: Tensor, path: Path, shapes: Any) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (images,),
            str(path),
            dynamo=True,
            external_data=False,
            input_names=["images"],
            output_names=["cls", "patches"],
            dynamic_shapes=shapes,
            verbose=False,
        )


def _difference(backbone: AnyBackbone, path: Path, images: Tensor, *, dynamic: bool) -> float | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch in (images, images[:1]) if dynamic else (images,):
        with torch.no_grad():
            tokens = backbone(batch)
        for expected, found in zip(
            (tokens.cls, tokens.patches), session.run(["cls", "patches"], {"images": batch.numpy()})
        ):
            largest = max(largest, float((expected - torch.from_numpy(found)).abs().max()))
    return largest
