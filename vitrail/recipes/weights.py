"""What `--weights` names: a checkpoint file, a run folder, or `pretrained`."""

from __future__ import annotations

from pathlib import Path

from vitrail.backbones import TimmViT, load


def find_weights(where: str) -> str:
    """The file of weights. Raises `ValueError` where there is none, in words."""
    if where == "pretrained":
        return where
    path = Path(where).expanduser()
    if path.is_dir():
        file = path / "exported" / "backbone.safetensors"
        if not file.is_file():
            raise ValueError(
                f"{path} holds no exported/backbone.safetensors; give a run folder that has finished, or a file"
            )
        return str(file)
    if not path.is_file():
        raise ValueError(f"there is no file {where!r}; give a checkpoint, a run folder, or `pretrained` with --model")
    return str(path)


def run_folder_of(where: str) -> Path | None:
    """The run folder that `--weights` names, if it names one."""
    path = Path(where).expanduser()
    return path if path.is_dir() else None


def open_backbone(where: str, *, model: str | None, key: str, device: str) -> TimmViT:
    """A backbone in evaluation mode on a device (`auto` takes the GPU where there is one)."""
    backbone = load(model, find_weights(where), checkpoint_key=key)
    return backbone.to(pick_device(device)).eval()


def pick_device(device: str) -> str:
    """`auto` resolved to `cuda` or `cpu`."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
