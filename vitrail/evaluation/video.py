"""Video object segmentation: the first frame's objects followed by the likeness of patches (DAVIS), J and F.

Definition: frames are resized to 480 px on the short side, the long one rounded down to a multiple of 64. Nothing is
trained. Each patch of a frame takes the labels of the 5 patches most similar to it (patches of the last block after the
final norm, cosine, softmax at temperature 0.1) out of the first frame and the 7 frames before, at most 12 patches away
in rows and columns. Labels are shares: the first frame's are those of its mask at the patches' places, nearest; later
ones are handed on as they are. For the masks they are enlarged bilinearly by the patch size, each object's map is
stretched to [0, 1], the largest wins, and the winner is brought to the frame's own size, nearest.

`video_j` is region similarity, `video_f` outline accuracy (`vitrail.metrics.video`), `video_jf` their mean. The first
and the last frame do not count; the mean is over frames, then over the objects of all sequences. Beside them stand
recall (share of frames above 0.5) and decay (first quarter less last quarter), and the floor of a first mask that is
kept where it is: what a video that hardly moves gives away. Percent.

Presets:
    default  the backbone's own normalization of pixels
    dino     as released: ImageNet's mean and spread, but red is divided by 0.228 in place of 0.229

Source: Caron et al. 2021, DINO (arXiv 2104.14294), after Jabri et al. 2020 (arXiv 2006.14613); measures of Perazzi et
al. 2016, several objects as in Pont-Tuset et al. 2017 (arXiv 1704.00675).
Expected on DAVIS 2017 val (30 sequences), J&F (J, F): DINO ViT-S/16 61.8 (60.2, 63.4), ViT-B/16 62.3 (60.7, 63.9),
ViT-B/8 71.4 (67.9, 74.9). CoTAP's table, ViT-S/16: DINO 62.3, with CoTAP 64.8 (63.1, 66.4); iBOT 62.4 and 64.6; Mugs
63.1 and 64.5.

Deviations: frames are resized by Pillow, whose bilinear filter averages where it shrinks, the published script's does
not. Exactly five patches give labels; the script takes more where the fifth is tied. Resolution and the way positions
are interpolated move the number by tens of points, so the card has both sides of what was asked for. A sequence with a
frame that cannot be read is left out, and said.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections import deque
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vitrail.config import Config
from vitrail.contracts import Backbone, Video, VideoSet
from vitrail.data.davis import write_masks
from vitrail.data.images import UnreadableImage
from vitrail.data.transforms import EvalTransform, EvalTransformConfig
from vitrail.evaluation.attention import Pixels
from vitrail.evaluation.features import (
    Precision,
    architecture_digest,
    autocast,
    device_of,
    eval_transform,
    frozen,
    weights_digest,
)
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import Report, changes, make_card, write_atomically
from vitrail.metrics.video import TOLERANCE, VideoScores, statistics, video_scores
from vitrail.ops.label_propagation import enlarged, propagate, resized_ids
from vitrail.ops.patches import grid_of, sides_of

VIDEO = True
"""The data are sequences."""

SOURCES = {
    "default": "DINO, Caron et al. 2021, arXiv 2104.14294, pixels normalized as the backbone's",
    "dino": "DINO, Caron et al. 2021, arXiv 2104.14294",
}
RELEASED = {"mean": (0.485, 0.456, 0.406), "std": (0.228, 0.224, 0.225)}
POINTS = 11  # of the mean curve over a sequence's length


class Settings(NamedTuple):
    """What a preset decides."""

    image_size: int | tuple[int, int]  # pixels; the smaller one is the short side
    multiple: int  # the long side is rounded down to it, pixels
    context: int  # frames before, besides the first
    radius: int  # patches
    temperature: float
    topk: int


PRESETS = {name: Settings(480, 64, 7, 12, 0.1, 5) for name in SOURCES}


class VideoConfig(Config):
    """A preset, and what differs from it (null: as the preset says)."""

    preset: Literal["default", "dino"] = "default"
    image_size: Pixels | tuple[Pixels, Pixels] | None = None
    """Short side of a frame in pixels; of two sides the smaller one."""
    multiple: Pixels | None = None
    """Pixels that the long side is rounded down to a multiple of; where image_size is given, the patch size."""
    context: int | None = Field(default=None, ge=0)
    """How many of the last frames give labels, besides the first one."""
    radius: int | None = Field(default=None, ge=0)
    """How many patches away a patch may take labels from."""
    temperature: float | None = Field(default=None, gt=0)
    topk: int | None = Field(default=None, ge=1)
    """How many patches give their labels."""
    tolerance: float = Field(default=TOLERANCE, ge=0)
    """Of outlines: below 1 a share of the diagonal, else pixels."""
    masks: str | None = None
    """Folder to write the found masks into, as palette PNGs SEQUENCE/00000.png; null writes none."""
    precision: Precision = "fp32"
    """Of the backbone: fp32 or bf16 autocast."""

    def settings(self, patch_size: tuple[int, int]) -> Settings:
        """The preset with the fields that were given."""
        given = {name: getattr(self, name) for name in Settings._fields}
        if self.image_size is not None and self.multiple is None:
            given["multiple"] = max(patch_size)
        return PRESETS[self.preset]._replace(**{name: value for name, value in given.items() if value is not None})


def frame_size(size: tuple[int, int], short: int, multiple: int) -> tuple[int, int]:
    """Height and width that a frame is resized to: the short side, the long one rounded down to a multiple.

    >>> frame_size((480, 854), 480, 64), frame_size((1080, 1920), 480, 64), frame_size((100, 100), 48, 8)
    ((480, 832), (480, 832), (48, 48))
    """
    height, width = size
    long = max(max(height, width) * short // min(height, width) // multiple * multiple, short)
    return (short, long) if height <= width else (long, short)


def follow(
    backbone: Backbone, video: Video, settings: Settings, transform: EvalTransform, precision: Precision = "fp32"
) -> np.ndarray:
    """Masks of all frames from the first one's, uint8 `[T, H, W]` of object ids; the first is as it was given.

    Args:
        backbone: on its device, in evaluation mode, with gradients off.
        transform: to the size of `frame_size`, mode "squash".
    """
    device = device_of(backbone)
    first = video.mask(0)
    numbers = np.array([0, *video.objects], np.uint8)
    place = np.zeros(256, np.int64)
    place[numbers] = np.arange(len(numbers))
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.context)
    masks = [first]
    for index in range(len(video)):
        pixels = transform(video.frame(index))[None].to(device)
        with autocast(device, precision):
            tokens = backbone(pixels)
        features = functional.normalize(tokens.patches[0].float(), dim=1).unflatten(0, tokens.grid)
        if not features.isfinite().all():
            raise ValueError(f"{video.name}, frame {index}: patches are not finite; check the weights, or use fp32")
        if index == 0:
            ids = torch.from_numpy(place[resized_ids(first, tokens.grid)]).to(device)
            start = features, functional.one_hot(ids, len(numbers)).float()
            continue
        known = [start, *recent]
        sources, labels = (torch.stack([each[part] for each in known]) for part in (0, 1))
        given = propagate(
            features, sources, labels, radius=settings.radius, temperature=settings.temperature, topk=settings.topk
        )
        recent.append((features, given))
        winner = enlarged(given, (pixels.shape[2] // tokens.grid[0], pixels.shape[3] // tokens.grid[1])).cpu().numpy()
        masks.append(numbers[resized_ids(winner, first.shape)])
    return np.stack(masks)


def evaluate(
    backbone: Backbone,
    data: VideoSet,
    config: VideoConfig | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Follow the objects of every sequence of `data` and measure how well.

    Args:
        cache: folder for the result of each sequence, so that a run that was stopped goes on after its last whole one.

    Returns:
        A report in percent: `video_jf`, `video_j`, `video_f`, recall and decay of both, and `floor_first_mask`,
        `floor_first_mask_j`, `floor_first_mask_f`. Details: each sequence's objects with their curves over frames, and
        the mean curve.

    Raises:
        ValueError: no sequence, one of fewer than three frames or without an object, or a size that the patch size does
            not divide.
    """
    config = config or VideoConfig()
    settings = config.settings(backbone.patch_size)
    grid_of(min(sides_of(settings.image_size)), settings.multiple, backbone.patch_size)
    if not len(data):
        raise ValueError("video: there is no sequence; an evaluation needs at least one")
    notes: list[str] = []
    rows: list[dict[str, Any]] = []
    with frozen(backbone, device), progress("video", sum(data.lengths), "frames") as advance:
        folder = None if cache is None else Path(cache) / _cache_name(backbone, data, config, settings)
        for index, length in enumerate(data.lengths):
            path = None if folder is None else folder / f"{index:05d}.json"
            row = None if path is None or config.masks else _read(path, notes)
            ready = row is not None
            if row is None:
                row = _measured(backbone, data, index, config, settings, notes)
                _keep(path, row, notes)
            advance(length, ready=ready)
            rows += [row] if row else []
    if not rows:
        raise ValueError(f"none of {len(data)} sequences could be read; the first trouble: {notes[0]}")
    details = {"per_sequence": rows, "curve": mean_curve(rows), "notes": notes}
    return Report("video", _numbers(rows), _card(backbone, data, config, settings), details)


def mean_curve(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """J and F against the share of the sequence that lies behind, the mean over all objects, in percent.

    Args:
        rows: `details["per_sequence"]`.
    """
    shares = np.linspace(0, 1, POINTS)
    objects = [each for row in rows for each in row["objects"]]
    curve = {"share": shares.tolist()}
    for name in ("j", "f", "floor_j", "floor_f"):
        lines = [np.interp(shares, np.linspace(0, 1, len(each[name])), each[name]) for each in objects]
        curve[name] = np.mean(lines, axis=0).tolist()
    return curve


def _measured(
    backbone: Backbone, data: VideoSet, index: int, config: VideoConfig, settings: Settings, notes: list[str]
) -> dict[str, Any] | None:
    """One sequence's values; None, with a note, where a frame of it cannot be read."""
    try:
        video = data[index]
        if len(video) < 3:
            raise ValueError(
                f"{video.name} has {len(video)} frames; the first and the last do not count: give 3 or more"
            )
        first = video.mask(0)
        size = frame_size((first.shape[0], first.shape[1]), min(sides_of(settings.image_size)), settings.multiple)
        found = follow(backbone, video, settings, _transform(backbone, config, size), config.precision)
        truth = np.stack([video.mask(t) for t in range(len(video))])
    except UnreadableImage as error:
        notes.append(f"a sequence was left out, for a frame or a mask could not be read: {error}")
        return None
    if config.masks:
        write_masks(config.masks, video.name, found)
    scores, floor = (
        _scores(truth, masks, max(video.objects), config.tolerance)
        for masks in (found, np.broadcast_to(first, found.shape))
    )
    objects = []
    for number in video.objects:
        lines = {"j": scores.j, "f": scores.f, "floor_j": floor.j, "floor_f": floor.f}
        percent = {name: (100 * values[:, number - 1]).tolist() for name, values in lines.items()}
        objects.append({"id": number, **percent})
    return {"name": video.name, "frames": len(video), "size": list(size), "objects": objects}


def _scores(truth: np.ndarray, found: np.ndarray, objects: int, tolerance: float) -> VideoScores:
    """Of the frames that count, all but the first and the last."""
    target, masks = (torch.from_numpy(each[1:-1].copy()) for each in (truth, found))
    return video_scores(target, masks, objects, tolerance)


def _numbers(rows: list[dict[str, Any]]) -> dict[str, float]:
    objects = [each for row in rows for each in row["objects"]]

    def mean_of(name: str, part: str) -> float:
        values = [getattr(statistics(torch.tensor(each[name], dtype=torch.float64) / 100), part) for each in objects]
        return 100 * math.fsum(value.item() for value in values) / len(values)

    numbers = {f"video_{name}": mean_of(name, "mean") for name in ("j", "f")}
    numbers = {"video_jf": (numbers["video_j"] + numbers["video_f"]) / 2, **numbers}
    numbers |= {f"video_{name}_{part}": mean_of(name, part) for part in ("recall", "decay") for name in ("j", "f")}
    floors = {f"floor_first_mask_{name}": mean_of(f"floor_{name}", "mean") for name in ("j", "f")}
    return numbers | {"floor_first_mask": sum(floors.values()) / 2} | floors


def _transform(backbone: Backbone, config: VideoConfig, size: tuple[int, int]) -> EvalTransform:
    plain = EvalTransformConfig(image_size=size, mode="squash", interpolation="bilinear")
    if config.preset == "dino":
        return EvalTransform(plain.model_copy(update=RELEASED))
    return eval_transform(plain, backbone)


def _card(backbone: Backbone, data: VideoSet, config: VideoConfig, settings: Settings) -> dict[str, Any]:
    short = min(sides_of(settings.image_size))
    card = make_card(
        protocol="video",
        source=SOURCES[config.preset],
        data={"val": data},
        transform=_transform(backbone, config, (short, short)).config,
        layer="last block, after the final norm",
        token=f"patches; labels of the first frame and the {settings.context} before",
        averaging="frames but the first and the last, then objects of all sequences; percent",
        weights=weights_digest(backbone),
        config={**config.plain(), **settings._asdict()},
        backbone=backbone,
        preset=config.preset,
        deviations=changes(
            PRESETS[config.preset]._asdict() | {"tolerance": TOLERANCE},
            settings._asdict() | {"tolerance": config.tolerance},
        ),
        precision=config.precision,
    )
    words = f"{short} px on the short side, the long one rounded down to a multiple of {settings.multiple} px"
    return card | {"resolution": words, "resize": "bilinear; masks nearest"}


def _cache_name(backbone: Backbone, data: VideoSet, config: VideoConfig, settings: Settings) -> str:
    parts = {
        "weights": weights_digest(backbone),
        "architecture": architecture_digest(backbone),
        "data": data.digest(),
        "settings": settings._asdict(),
        "transform": _transform(backbone, config, (1, 1)).config.plain(),
        "tolerance": config.tolerance,
        "precision": config.precision,
    }
    return "video-" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _read(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """A sequence's values from the cache; None where there are none, or (with a warning and a note) broken ones."""
    if not path.is_file():
        return None
    try:
        row = json.loads(path.read_text())
        if not row["objects"]:
            raise KeyError("objects")
        return dict(row)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        _warn(f"the cached sequence in {path} is broken ({error!r}) and is computed again", notes)
        return None


def _keep(path: Path | None, row: dict[str, Any] | None, notes: list[str]) -> None:
    if path is None or row is None:
        return
    try:
        write_atomically(path, json.dumps(row, allow_nan=False).encode())
    except OSError as error:
        _warn(f"a sequence could not be kept in {path.parent} ({error}); the evaluation goes on without", notes)


def _warn(text: str, notes: list[str]) -> None:
    notes.append(text)
    warnings.warn(text, stacklevel=3)
