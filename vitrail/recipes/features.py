"""Features of image files, on disk to be read by any program: class tokens and patches, for `vitrail features`.

    OUT/000000.safetensors     `cls [n, D]`, `patches [n, Y * X, D]` in raster order, after the final norm; or
    OUT/000000-cls.npy  -patches.npy
    OUT/000000.json            what the shard holds, with checksums; it is written last
    OUT/images.jsonl           of each image: shard, row, grid (Y, X), box
    OUT/skipped.jsonl          images that cannot be read, and why
    OUT/index.json             weights, settings, sizes

`box` are the corners left, top, right, bottom of what the backbone saw, in pixels of the upright image: patch (y, x)
covers the share x / X to (x + 1) / X of its width, and likewise down. Where images have sizes of their own, the patches
of a shard stand one below the other, `[sum of Y * X, D]`, and those of an image begin at its `first`.

A call that was interrupted goes on at the next shard. Shards that are there are compared with their checksums, and made
again where these differ or an image was edited.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from vitrail import __version__
from vitrail.backbones import AnyBackbone
from vitrail.config import Config
from vitrail.contracts import Crops, Sample
from vitrail.data import EvalTransformConfig, UnreadableImage, build_eval_transform, open_image
from vitrail.data.fingerprint import chosen, fingerprint
from vitrail.data.loader import ordered_batches
from vitrail.data.transforms import EvalTransform, Picture
from vitrail.evaluation.features import Precision, autocast, frozen, weights_digest
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import write_atomically
from vitrail.ops.patches import grid_of, sides_of
from vitrail.recipes.files import image_files
from vitrail.recipes.weights import open_backbone

MOST = 16_384
"""Patches of an image at most where it keeps its own size: attention compares each with each."""

Arrays = dict[str, Tensor]
Line = dict[str, Any]


class FeaturesConfig(Config):
    """What is written, and how images are brought to the backbone."""

    cls: bool = True
    """Write class tokens."""
    patches: bool = False
    """Write the features of all patches."""
    fit: Literal["crop", "squash", "native"] = "crop"
    """crop: the shorter side is resized to size / 0.875 (below 128 pixels to size), the middle is cut out; squash: both
    sides are resized to size, nothing is lost; native: images keep their shape and, without a size, their pixels, but
    for rounding to whole patches."""
    size: int | None = Field(None, ge=1)
    """Pixels a side, or, with native, of the shorter side; null for the backbone's own, with native for the image's."""
    format: Literal["safetensors", "npy"] = "safetensors"
    """Of the shards."""
    numbers: Literal["float32", "float16"] = "float32"
    """What is stored."""
    precision: Precision = "fp32"
    """bf16 runs the backbone under autocast."""
    shard_size: int = Field(512, ge=1)
    """Images of a shard."""
    batch_size: int = Field(32, ge=1)
    """Images at a time; 1 where they keep their own sizes."""
    workers: int = Field(0, ge=0)
    """Processes that decode; 0 does it in the main one."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.cls or self.patches):
            raise ValueError("neither class tokens nor patches are asked for; ask for one of them, --patches or --cls")
        return self


class _Shard(NamedTuple):
    """What one shard holds."""

    arrays: Arrays
    lines: list[Line]
    skipped: list[Line]


def write_features(
    paths: Sequence[Path],
    weights: str,
    out: Path,
    config: FeaturesConfig | None = None,
    *,
    model: str | None = None,
    key: str = "auto",
    device: str = "auto",
) -> Path:
    """Write features of files, and of all images below folders, into OUT; returns its index.json.

    Raises:
        ValueError: no image that can be read, a size that holds no whole patches, features that are not finite, or a
            folder that holds features of other images, by other weights or with other settings.
    """
    files = image_files(paths)
    return extract_files(open_backbone(weights, model=model, key=key, device=device), files, out, config, weights)


def extract_files(
    backbone: AnyBackbone, files: Sequence[Path], out: Path, config: FeaturesConfig | None = None, weights: str = ""
) -> Path:
    """The same for a backbone on its device; `weights` are words for the index alone."""
    config = config or FeaturesConfig()
    frame = _Frame(backbone, config)
    settings = _settings(backbone, files, config, frame)
    _refuse_other(out / "index.json", settings, weights)
    out.mkdir(parents=True, exist_ok=True)
    index = settings | {"weights": weights, "version": __version__, "embed_dim": backbone.embed_dim}
    _write_json(out / "index.json", index | {"finished": False})
    lines: list[Line] = []
    skipped: list[Line] = []
    with frozen(backbone, str(next(backbone.parameters()).device)), progress("features", len(files)) as advance:
        for number, start in enumerate(range(0, len(files), config.shard_size)):
            members = files[start : start + config.shard_size]
            name, marks = f"{number:06d}", _marks(members, start, len(files))
            found = _finished(out, name, members, marks)
            advance(len(members) if found else 0, ready=True)
            if found is None:
                shard = _compute(backbone, _Files(members, frame), config, advance)
                found = _write_shard(out, name, shard, config.format, marks)
            lines += [line | {"shard": name} for line in found["images"]]
            skipped += found["skipped"]
    if not lines:
        raise ValueError(f"none of {len(files)} images can be read; give image files that are there and whole")
    _write_lines(out / "images.jsonl", lines)
    _write_lines(out / "skipped.jsonl", skipped)
    _write_json(out / "index.json", index | {"finished": True, "written": len(lines), "skipped": len(skipped)})
    if skipped:
        warnings.warn(
            f"{len(skipped)} of {len(files)} images cannot be read and are left out, such as {skipped[0]['image']} "
            f"({skipped[0]['reason']}); {out / 'skipped.jsonl'} names all",
            stacklevel=2,
        )
    return out / "index.json"


class _Frame:
    """An image to the pixels that the backbone sees, and where in the image they are."""

    def __init__(self, backbone: AnyBackbone, config: FeaturesConfig) -> None:
        self.native, self.size, self.patch = config.fit == "native", config.size, backbone.patch_size
        own: int | tuple[int, int] = config.size or backbone.image_size
        mode: Literal["crop", "squash"] = "crop" if config.fit == "crop" else "squash"
        self.config = EvalTransformConfig(image_size=own, mode=mode, mean=backbone.mean, std=backbone.std)
        if not self.native and config.size is not None:
            for step in self.patch:
                if config.size % step:
                    raise ValueError(
                        f"size {config.size} does not hold whole patches of {step} pixels; give "
                        f"{max(config.size // step, 1) * step}, or fit=native, which rounds"
                    )

    def __call__(self, image: Picture, companion: Picture | None = None) -> Crops:
        """Normalized pixels `[3, H, W]` with their box."""
        assert isinstance(image, Image.Image)
        transform = self._transform(image)
        pixels = transform(image)
        frame = np.array([[0, 0, pixels.shape[2], pixels.shape[1]]])
        box = transform.geometry(image.height, image.width).back(frame)
        return Crops((pixels,), torch.from_numpy(box.astype(np.float64)))

    def check(self, path: Path, image: Image.Image) -> None:
        """Raise `UnreadableImage` for one that makes too many patches."""
        if not self.native:
            return
        height, width = self._native(image)
        count = height // self.patch[0] * (width // self.patch[1])
        if count > MOST:
            reason = f"{width} x {height} pixels are {count:,} patches, more than {MOST:,}; give a size"
            raise UnreadableImage(path, reason)

    def _transform(self, image: Image.Image) -> EvalTransform:
        if not self.native:
            return build_eval_transform(self.config)
        return build_eval_transform(self.config.model_copy(update={"image_size": self._native(image)}))

    def _native(self, image: Image.Image) -> tuple[int, int]:
        """(height, width) of whole patches."""
        scale = 1.0 if self.size is None else self.size / min(image.size)
        sides = (max(round(side * scale / step), 1) * step for side, step in zip(image.size[::-1], self.patch))
        height, width = sides
        return height, width


class _Files:
    """Image files. Fulfills `vitrail.contracts.ImageSet`."""

    classes = None

    def __init__(self, paths: Sequence[Path], frame: _Frame) -> None:
        self.paths, self.frame = list(paths), frame

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        image = open_image(self.paths[index])
        self.frame.check(self.paths[index], image)
        return Sample(image, path=str(self.paths[index]))

    def digest(self) -> str:
        return _digest(map(str, self.paths))


def _settings(backbone: AnyBackbone, files: Sequence[Path], config: FeaturesConfig, frame: _Frame) -> Line:
    """All that decides what is written, and where."""
    size = None if frame.native else list(sides_of(frame.config.image_size))
    grid = None if size is None else list(grid_of(size[0], size[1], backbone.patch_size))
    return {
        "weights_digest": weights_digest(backbone),
        "tokens": [name for name in ("cls", "patches") if getattr(config, name)],
        **{name: getattr(config, name) for name in ("fit", "size", "format", "numbers", "precision", "shard_size")},
        "image_size": size,
        "grid": grid,
        "patch_size": list(backbone.patch_size),
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "images": len(files),
        "images_digest": _digest(os.path.abspath(path) for path in files),
    }


def _refuse_other(path: Path, settings: Line, weights: str) -> None:
    """Raise where a folder holds features that the settings do not lead to."""
    try:
        known = json.loads(path.read_text())
        assert isinstance(known, dict)
    except FileNotFoundError:
        return
    except (OSError, ValueError, AssertionError):
        raise ValueError(f"{path} is no index of features; give another --out") from None
    for name, value in settings.items():
        if known.get(name) != value:
            of = (f" of {known.get('weights')}", f" of {weights}") if name == "weights_digest" else ("", "")
            raise ValueError(
                f"{path.parent} holds features with {name} {known.get(name)}{of[0]}, and {value}{of[1]} is asked for; "
                "give another --out, or ask for the same"
            )


def _marks(members: Sequence[Path], start: int, total: int) -> list[str]:
    """What tells each file from an edited one."""
    return [fingerprint(path, chosen(start + place, total)) for place, path in enumerate(members)]


def _finished(out: Path, name: str, members: Sequence[Path], marks: list[str]) -> Line | None:
    """What a shard says of itself, where all of it is there and as it was written; else None."""
    try:
        found: Line = json.loads((out / f"{name}.json").read_text())
        of = sorted(line["image"] for line in found["images"] + found["skipped"])
        changed = found["marks"] != marks or len(of) != len(members)
        wrong = [file for file, digest in found["files"].items() if _file_digest(out / file) != digest]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        changed, wrong = False, [f"{name}.json ({error})"]
    if not (changed or wrong):
        return found
    why = "images were edited" if changed else f"{', '.join(wrong)} does not match its checksum"
    warnings.warn(f"shard {name} in {out} is made again: {why}", stacklevel=3)
    return None


def _compute(backbone: AnyBackbone, data: _Files, config: FeaturesConfig, advance: Any) -> _Shard:
    """Run the backbone over the images of a shard."""
    place = next(backbone.parameters()).device
    lines: list[Line] = []
    parts: dict[str, list[Tensor]] = {"cls": [], "patches": []}
    skipped: dict[int, tuple[str, str]] = {}
    batch_size, first, told = 1 if data.frame.native else config.batch_size, 0, 0
    for batch in ordered_batches(data, data.frame, batch_size, config.workers, skipped=skipped):
        with autocast(place, config.precision):
            tokens = backbone(batch.images.to(place, non_blocking=True))
        paths = [str(data.paths[index]) for index in batch.indices.tolist()]
        for name in ("cls", "patches"):
            if getattr(config, name):
                parts[name].append(_stored(getattr(tokens, name), config.numbers, paths))
        assert batch.boxes is not None
        for path, box in zip(paths, batch.boxes[:, 0].tolist(), strict=True):
            rounded = [round(corner, 2) for corner in box]
            own = {"first": first} if data.frame.native and config.patches else {}
            lines.append({"image": path, "row": len(lines), "grid": list(tokens.grid), "box": rounded} | own)
            first += tokens.grid[0] * tokens.grid[1]
        advance(len(lines) + len(skipped) - told)
        told = len(lines) + len(skipped)
    advance(len(data) - told)
    left_out = [{"image": path, "reason": reason} for _, (path, reason) in sorted(skipped.items())]
    flat = data.frame.native
    arrays = {
        name: torch.cat([part.flatten(0, 1) if flat and name == "patches" else part for part in found])
        for name, found in parts.items()
        if found
    }
    return _Shard(arrays, lines, left_out)


def _stored(values: Tensor, numbers: str, paths: Sequence[str]) -> Tensor:
    """On the host in the type that is stored. Raises `ValueError` for what is not finite there."""
    kept = values.float().cpu().to(getattr(torch, numbers))
    if kept.isfinite().all():
        return kept
    bad = [path for path, each in zip(paths, kept) if not each.isfinite().all()]
    mend = "use float32" if values.isfinite().all() else "check the weights, or use fp32"
    raise ValueError(f"features of {', '.join(bad[:5])} are not finite in {numbers}; {mend}")


def _write_shard(out: Path, name: str, shard: _Shard, form: str, marks: list[str]) -> Line:
    """The arrays first, then what they are: a shard without the second counts as not there."""
    files = {}
    for file, content in _contents(name, shard.arrays, form):
        write_atomically(out / file, content)
        files[file] = hashlib.sha256(content).hexdigest()
    about = {"images": shard.lines, "skipped": shard.skipped, "marks": marks, "files": files}
    _write_json(out / f"{name}.json", about)
    return about


def _contents(name: str, arrays: Arrays, form: str) -> list[tuple[str, bytes]]:
    if form == "safetensors":
        from safetensors.torch import save

        return [(f"{name}.safetensors", save({key: value.contiguous() for key, value in arrays.items()}))]
    found = []
    for key, value in arrays.items():
        stream = io.BytesIO()
        np.save(stream, value.numpy())
        found.append((f"{name}-{key}.npy", stream.getvalue()))
    return found


def _write_json(path: Path, values: Line) -> None:
    write_atomically(path, f"{json.dumps(values, allow_nan=False)}\n".encode())


def _write_lines(path: Path, lines: Sequence[Line]) -> None:
    write_atomically(path, "".join(f"{json.dumps(line)}\n" for line in lines).encode())


def _digest(words: Any) -> str:
    return hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()[:16]


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
