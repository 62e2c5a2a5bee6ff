"""What `--weights` names: a checkpoint file, a run folder, or `pretrained`."""

from __future__ import annotations

from pathlib import Path

from vitrail.backbones import AnyBackbone, TimmConvNet, load, load_convnet, weights_file
from vitrail.backbones.reading import own_header


def find_weights(where: str) -> str:
    """The file of weights. Raises `ValueError` where there is none, in words."""
    if where == "pretrained":
        return where
    return str(weights_file(where))


def run_folder_of(where: str) -> Path | None:
    """The run folder that `--weights` names, itself or by the file that the run exported; None for other files."""
    path = Path(where).expanduser()
    if path.is_dir():
        return path
    above = path.parent.parent
    return above if path.parent.name == "exported" and (above / "config.yaml").is_file() else None


def open_backbone(where: str, *, model: str | None, key: str, device: str) -> AnyBackbone:
    """A backbone in evaluation mode on a device (`auto` takes the GPU where there is one)."""
    if where == "pretrained" and model is None:
        raise ValueError("pretrained weights need a name, as in --model vit_small_patch16_224.dino")
    backbone = load(model, find_weights(where), checkpoint_key=key)
    return backbone.to(pick_device(device)).eval()


def open_encoder(where: str, *, model: str | None, key: str, device: str) -> AnyBackbone | TimmConvNet:
    """`open_backbone`, and the convolutional networks of our own runs, for what asks for features alone."""
    if where != "pretrained" and "convnet" in (own_header(Path(find_weights(where))) or {}):
        return load_convnet(where).to(pick_device(device)).eval()
    return open_backbone(where, model=model, key=key, device=device)


def pick_device(device: str) -> str:
    """`auto` resolved to `cuda` or `cpu`."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
