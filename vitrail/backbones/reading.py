"""Read a file of weights without running code in it, and say in words what is wrong with one."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def weights_file(where: str | Path) -> Path:
    """The file of weights: `where` itself, or what the run folder `where` exported. `ValueError` where none is, and
    for an image."""
    path = Path(where).expanduser()
    if path.is_dir():
        file = path / "exported" / "backbone.safetensors"
        if not file.is_file():
            raise ValueError(
                f"{path} holds no exported/backbone.safetensors; give a run folder that has finished, or a file"
            )
        return file
    if not path.is_file():
        raise ValueError(f"there is no file of weights at {path}; give a checkpoint, a run folder, or 'pretrained'")
    picture = _picture(path)
    if picture:
        raise ValueError(f"{path} is an image ({picture}), not weights; give a checkpoint or a run folder")
    return path


def _picture(path: Path) -> str:
    """The format of a file that is an image, by its first bytes, which no weights begin with; empty for others."""
    with path.open("rb") as file:
        start = file.read(12)
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "WebP"
    marks = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF"}
    return next((name for mark, name in marks.items() if start.startswith(mark)), "")


def read_file(path: Path) -> tuple[Mapping[str, Any], dict[str, Any] | None]:
    """The content of a file, and the metadata where it is one of ours.

    Raises:
        ValueError: an empty, truncated or foreign file, one that holds more than weights, or Flax weights.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); copy or download it again")
    if path.suffix == ".npz":
        raise ValueError(f"{path} holds Flax weights; load them by timm's name, weights='pretrained', instead")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    import torch  # takes seconds; whether a file is there at all is told before

    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise ValueError(_needs_code(path, error)) from error
        raise ValueError(_broken(path, error)) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(_broken(path, error)) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content, None


def parts_in(path: Path) -> tuple[str, ...]:
    """Names of what stands beside the backbone in one of our files, read from its header alone; none for others."""
    return tuple((own_header(path) or {}).get("parts", ()))


def own_header(path: Path) -> dict[str, Any] | None:
    """What the header of one of our files says; None for others. Raises `ValueError` for a file that is cut short."""
    if path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return _own(file.metadata())
    except (SafetensorError, OSError) as error:
        raise ValueError(_broken(path, error)) from error


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            own = _own(file.metadata())
            content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(_broken(path, error)) from error
    return content, own


def _own(header: Mapping[str, str] | None) -> dict[str, Any] | None:
    """What our header says; None for another's."""
    return json.loads(header["vitrail"]) if header and "vitrail" in header else None


# Found in well-known checkpoints and without any behavior: command-line arguments and numpy numbers.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
]


def _needs_code(path: Path, error: Exception) -> str:
    blocked = str(error).split("Unsupported", 1)
    detail = blocked[1].strip(" :").splitlines()[0][:120] if len(blocked) == 2 else "objects of other libraries"
    return (
        f"{path} is a pickle that holds more than weights ({detail}); such files can run any code, so they "
        "are not "
        'opened here. If you trust its origin, convert it once: python -c "import torch; c = '
        f"torch.load('{path}', map_location='cpu', weights_only=False); c = c.get('state_dict', "
        "c.get('model', c)); "
        "torch.save({k: v for k, v in c.items() if torch.is_tensor(v)}, 'weights.pth')\""
    )


def _broken(path: Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    return f"{path} cannot be read: it is truncated, or no checkpoint ({reason}); copy or download it again"
