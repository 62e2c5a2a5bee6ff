"""Features of a whole data set by a frozen backbone, computed once and kept on disk.

The cache is a folder per (weights, architecture, data, transform, what is read, precision), named by their
digest, with one file per `SHARD` images. Files appear whole or not at all, so an interrupted extraction goes
on at the next shard, and a file that does not match its own checksum is computed again, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vitrail.config import Config
from vitrail.contracts import Backbone, Batch, ImageSet, Sample
from vitrail.data.loader import ordered_batches
from vitrail.data.transforms import EvalTransform, EvalTransformConfig
from vitrail.evaluation.progress import progress
from vitrail.evaluation.result import write_atomically
from vitrail.nn.object_filter import ObjectFilter

SHARD = 8192  # images per cache file
NO_INFLUENCE = ("batch_size", "forward_batch_size", "workers")  # settings that change the speed alone
Precision = Literal["fp32", "bf16"]


class FeatureConfig(Config):
    """Which tokens become the feature of an image."""

    cls_blocks: int = Field(default=1, ge=0)
    """Concatenate the CLS of the last n blocks, each after the final norm; 0 for none, with `mean_patch`."""
    mean_patch: bool = False
    """Append the mean of the last block's patches, after the final norm. Masked autoencoders learn these alone."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.cls_blocks and not self.mean_patch:
            raise ValueError("cls_blocks is 0 and mean_patch is false, which leaves no feature; set one of them")
        return self

    def words(self) -> tuple[str, str]:
        """Layer and token, for the protocol card."""
        layer = "last block" if self.cls_blocks <= 1 else f"last {self.cls_blocks} blocks"
        tokens = [*["CLS"] * (self.cls_blocks > 0), *["mean patch"] * self.mean_patch]
        return f"{layer}, after the final norm", " + ".join(tokens)


class Features(NamedTuple):
    """What `extract` returns, in the data set's order; unreadable images are left out."""

    values: Tensor  # [N, D] float32, on the CPU
    labels: Tensor | None  # [N] int64, or [N, C] for several labels an image; None where no image has a label
    indices: Tensor  # [N] int64, positions in the data set
    notes: tuple[str, ...] = ()  # what went otherwise than planned, in words


def extract(
    backbone: Backbone,
    data: ImageSet,
    transform: EvalTransform,
    config: FeatureConfig | None = None,
    *,
    batch_size: int = 64,
    workers: int = 0,
    precision: Precision = "fp32",
    device: str = "auto",
    cache: Path | None = None,
    title: str = "features",
) -> Features:
    """Run the backbone over a data set, or read what an earlier run left in `cache`.

    Args:
        transform: as `eval_transform` makes it for the backbone.
        batch_size, workers: of the loading alone; they do not change the features' meaning or the cache's
            name.
        precision: "bf16" runs the backbone under autocast; features come back as float32 either way.
        device: a name, or "auto": the backbone's own where that is no CPU, else CUDA where there is one.
        cache: folder to keep features in; None keeps nothing.
        title: stands before the progress.

    Raises:
        ValueError: an empty data set, or features that are not finite.
    """
    config = config or FeatureConfig()
    if not len(data):
        raise ValueError(f"{title}: the data set is empty; an evaluation needs at least one image")
    folder = None
    if cache is not None:
        folder = Path(cache) / cache_name(backbone, data, transform.config, config, precision)
    notes: list[str] = []
    shards: list[dict[str, Tensor]] = []
    with frozen(backbone, device) as place, progress(title, len(data)) as advance:
        for start in range(0, len(data), SHARD):
            stop = min(start + SHARD, len(data))
            path = None if folder is None else folder / f"{start:09d}.safetensors"
            shard = None if path is None else read_shard(path, notes)
            if shard is None:
                batches = ordered_batches(_Slice(data, start, stop), transform, batch_size, workers)
                with autocast(place, precision):
                    shard = _compute(backbone, batches, config, place, start, advance)
                if path is not None:
                    write_shard(path, shard, notes)
            else:
                advance(stop - start, ready=True)
            shards.append(shard)
    return _join(shards, len(data), notes, title)


def cache_name(
    backbone: Backbone,
    data: ImageSet,
    transform: EvalTransformConfig,
    config: FeatureConfig,
    precision: Precision,
) -> str:
    """The folder's name: 24 hex digits over everything that decides the features."""
    parts = {
        "weights": weights_digest(backbone),
        "architecture": architecture_digest(backbone),
        "data": data.digest(),
        "transform": transform.plain(),
        "features": config.plain(),
        "precision": precision,
    }
    return "features-" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def weights_digest(module: object) -> str:
    """16 hex digits of the SHA-256 over names, types, shapes and bytes of a module's state; "none" where there is no
    state, or no module."""
    state = module.state_dict() if isinstance(module, nn.Module) else {}
    if not state:
        return "none"
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if not isinstance(value, Tensor):
            digest.update(f"{name} {value!r}".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()[:16]


def _bytes(value: Tensor) -> Any:
    # numpy knows no bfloat16, so the bytes are taken as uint8; a 0-d tensor must be reshaped first.
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def architecture_digest(backbone: Backbone) -> str:
    """Hex digits over what a backbone is, besides its weights."""
    # Switches that hold no weights (a skipped residual, another image size) change features too: the config
    # names them where there is one, the module's repr shows most of the others.
    config = getattr(backbone, "config", None)
    plain = config.plain() if isinstance(config, Config) else str(config)
    return hashlib.sha256(f"{type(backbone).__qualname__} {plain} {backbone!r}".encode()).hexdigest()


def pick_device(device: str, backbone: object) -> torch.device:
    """A device by name; "auto" is the backbone's own where that is no CPU, else CUDA where there is one."""
    if device != "auto":
        return torch.device(device)
    own = device_of(backbone)
    if own.type == "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    return own


def device_of(backbone: object) -> torch.device:
    """Where the module's first parameter lies; the CPU for one without parameters."""
    first = next(backbone.parameters(), None) if isinstance(backbone, nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def eval_transform(config: EvalTransformConfig, backbone: object) -> EvalTransform:
    """The transform, with the pixels' mean and std that the backbone was trained with where it knows them.

    Normalization belongs to the weights: a backbone's own `mean` and `std` win over the configuration's.
    """
    return EvalTransform(config.model_copy(update=pixel_statistics(backbone)))


def pixel_statistics(backbone: object) -> dict[str, tuple[float, ...]]:
    """The `mean` and `std` that a backbone knows, three numbers each; empty where it knows none."""
    known = {name: getattr(backbone, name, None) for name in ("mean", "std")}
    return {name: tuple(float(value) for value in values) for name, values in known.items() if values is not None}


def require_labels(features: Features, role: str) -> Tensor:
    """The labels `[N]`. Raises `ValueError` where images have none, or several each."""
    if features.labels is not None and features.labels.ndim > 1:
        raise ValueError(
            f"images of {role} have any number of labels each, of {features.labels.shape[1]} classes, and this "
            "protocol wants one; give class folders"
        )
    if features.labels is None or bool((features.labels < 0).any()):
        without = "all" if features.labels is None else int((features.labels < 0).sum())
        raise ValueError(f"{without} of {role}'s {len(features.values)} images have no label; give class folders")
    return features.labels


def shared_classes(train: ImageSet, val: ImageSet) -> int:
    """How many classes both sets have. Raises `ValueError` where their lists differ or one has none."""
    for role, data in (("train", train), ("val", val)):
        if not data.classes:
            raise ValueError(f"{role} has no class list; give class folders, or use a protocol without labels")
    known, asked = tuple(train.classes or ()), tuple(val.classes or ())
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(
            f"val has {len(unknown)} classes that train lacks ({', '.join(unknown[:5])}); "
            "remove them, or add training images"
        )
    if known != asked:
        raise ValueError(
            f"train has {len(known)} classes, val {len(asked)} in another list: the same number would mean "
            "another class; build val with classes=train.classes"
        )
    return len(known)


@contextmanager
def frozen(backbone: object, device: str = "auto") -> Iterator[torch.device]:
    """Evaluation mode, no gradients, on the device; training flags and device are as before afterwards.

    What depends on the weights alone is computed once: an object-aware filter's prototypes are constants inside.
    """
    place = pick_device(device, backbone)
    with torch.no_grad():
        if not isinstance(backbone, nn.Module):
            yield place
            return
        home = device_of(backbone)
        training = [module for module in backbone.modules() if module.training]
        backbone.eval()
        if home != place:
            backbone.to(place)
        try:
            with ExitStack() as constants:
                for part in backbone.modules():
                    if isinstance(part, ObjectFilter):
                        constants.enter_context(part.held())
                yield place
        finally:
            for module in training:
                module.training = True
            if home != place:
                backbone.to(home)


def autocast(place: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The context that `precision` asks for on a device."""
    return torch.autocast(place.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def read_features(backbone: Backbone, images: Tensor, config: FeatureConfig) -> Tensor:
    """Features `[B, D']` float32 of a normalized batch `[B, 3, H, W]`, as `config` says.

    Raises:
        ValueError: more blocks asked for than there are, or a backbone without `norm` when blocks are joined.
    """
    blocks = config.cls_blocks
    if blocks > backbone.depth:
        raise ValueError(f"cls_blocks = {blocks}, but the backbone has {backbone.depth} blocks; ask for fewer")
    earlier = tuple(range(-blocks, -1))
    tokens = backbone(images, layers=earlier)
    parts: list[Tensor] = []
    if earlier:
        norm = getattr(backbone, "norm", None)
        if norm is None:
            raise ValueError(
                f"cls_blocks = {blocks} needs `backbone.norm`, the final norm; add it, or use cls_blocks=1"
            )
        parts = [norm(tokens.layers[block][:, 0]) for block in earlier]
    if blocks:
        parts.append(tokens.cls)
    if config.mean_patch:
        parts.append(tokens.patches.mean(1))
    return torch.cat([part.float() for part in parts], dim=1)


class _Slice:
    """Samples start to stop of a data set."""

    def __init__(self, data: ImageSet, start: int, stop: int) -> None:
        self.data, self.start, self.stop = data, start, stop
        self.classes = data.classes

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Sample:
        return self.data[self.start + index]

    def digest(self) -> str:
        return f"{self.data.digest()}[{self.start}:{self.stop}]"


def _compute(
    backbone: Backbone,
    batches: Iterable[Batch],
    config: FeatureConfig,
    place: torch.device,
    start: int,
    advance: Callable[..., None],
) -> dict[str, Tensor]:
    values, labels, indices = [], [], []
    for batch in batches:
        found = read_features(backbone, batch.images.to(place, non_blocking=True), config).cpu()
        if not found.isfinite().all():
            bad = batch.indices[~found.isfinite().all(1)] + start
            raise ValueError(f"features of images {bad.tolist()[:8]} are not finite; check the weights, or use fp32")
        values.append(found)
        labels.append(torch.full((len(found),), -1) if batch.labels is None else batch.labels.cpu())
        indices.append(batch.indices.cpu() + start)
        advance(len(found))
    if not values:
        empty = torch.zeros(0, dtype=torch.int64)
        return {"values": torch.zeros(0, 0), "labels": empty, "indices": empty}
    return {"values": torch.cat(values), "labels": torch.cat(labels), "indices": torch.cat(indices)}


def _join(shards: list[dict[str, Tensor]], count: int, notes: list[str], title: str) -> Features:
    kept = [shard for shard in shards if len(shard["indices"])]
    if not kept:
        raise ValueError(f"{title}: none of the {count} images could be read; run `vitrail doctor` on the folder")
    values, labels, indices = (torch.cat([shard[key] for shard in kept]) for key in ("values", "labels", "indices"))
    if len(indices) < count:
        notes.append(f"{title}: {count - len(indices)} of {count} images could not be read and were left out")
    return Features(values, None if bool((labels < 0).all()) else labels, indices, tuple(notes))


def read_shard(path: Path, notes: list[str]) -> dict[str, Tensor] | None:
    """A shard from disk; None where there is none, or (with a warning and a note) where the file is
    broken."""
    if not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get("sha256", "")
            shard = {name: file.get_tensor(name) for name in ("values", "labels", "indices")}
        if said != _checksum(shard):
            raise ValueError("its checksum does not match")
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        _warn(f"the cached features in {path} are broken ({error}) and are computed again", notes)
        return None
    return shard


def write_shard(path: Path, shard: dict[str, Tensor], notes: list[str]) -> None:
    """Write a shard atomically; a full disk costs the cache, not the evaluation (with a warning and a
    note)."""
    from safetensors.torch import save

    content = save({name: value.contiguous() for name, value in shard.items()}, {"sha256": _checksum(shard)})
    try:
        write_atomically(path, content)
    except OSError as error:
        _warn(f"features could not be kept in {path.parent} ({error}); the evaluation goes on without", notes)


def _checksum(shard: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(shard):
        digest.update(f"{name} {shard[name].dtype} {tuple(shard[name].shape)}".encode())
        digest.update(_bytes(shard[name]))
    return digest.hexdigest()


def _warn(text: str, notes: list[str]) -> None:
    notes.append(text)
    warnings.warn(text, stacklevel=3)
