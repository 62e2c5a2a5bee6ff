"""What an evaluation leaves: numbers, and the card without which numbers mean nothing.

Half of what users report as "cannot reproduce" is a protocol left unsaid: another resolution, another layer,
student for teacher. So every report carries a card with the same keys, and an unknown stands there as null.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from vitrail import __version__
from vitrail.contracts import ImageSet, VideoSet
from vitrail.data.transforms import EvalTransformConfig
from vitrail.ops.patches import sides_of

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow")
CARD_KEYS = (
    "protocol",
    "source",
    "preset",
    "deviations",
    "data",
    "resolution",
    "resize",
    "crop",
    "layer",
    "token",
    "normalization",
    "averaging",
    "branch",
    "seed",
    "precision",
    "weights",
    "config",
    "versions",
    "date",
)


class Report(NamedTuple):
    """The outcome of one protocol.

    `numbers` are what one compares (percent unless the name says otherwise), `card` says how they came about
    (every key of `CARD_KEYS`), `details` hold what explains them: per head, per image, per learning rate,
    notes.
    """

    protocol: str
    numbers: dict[str, float]
    card: dict[str, Any]
    details: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write JSON atomically: the file at `path` is the old one or the new one, never half of one.

        Raises:
            ValueError: a number that is NaN or infinite, or a value that JSON cannot hold.
        """
        text = json.dumps(self._asdict(), indent=2, allow_nan=False, ensure_ascii=False)
        write_atomically(Path(path), text.encode())

    def words(self) -> list[str]:
        """The card in a few lines for a terminal: data, sizes, deviations from the protocol, notes."""
        card = self.card
        sets = "; ".join(
            f"{role}: {entry['images']:,} {entry.get('unit', 'images')}"
            + (f" in {entry['classes']} classes" if entry["classes"] else "")
            for role, entry in card["data"].items()
        )
        size = card["resolution"]
        lines = [
            f"{card['protocol']} ({card['source']})",
            f"data       {sets}",
            f"images     {size if isinstance(size, str) else ' x '.join(map(str, size)) + ' px'}, {card['resize']}",
            f"features   {card['layer']}; {card['token']}",
            f"preset     {card['preset'] or 'none'}; digest of the weights {card['weights']}",
        ]
        lines += [f"deviation  {line}" for line in card["deviations"]]
        return lines + [f"note       {line}" for line in self.details.get("notes", ())]

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read what `save` wrote. Raises `ValueError` where the file is no report."""
        try:
            values = json.loads(Path(path).read_text())
            return cls(**{name: values[name] for name in cls._fields})
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not an evaluation report ({error!r}); evaluate again") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside `path`, flush it to disk, and move it into place. Makes the folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # No tempfile: it makes files that only their owner may read, and caches are shared.
    waiting = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with waiting.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        waiting.replace(path)
    except BaseException:
        waiting.unlink(missing_ok=True)
        raise


def describe_data(data: ImageSet | VideoSet) -> dict[str, Any]:
    """Name, split, size and digest of a data set; the name is its `name`, else its folder's, else its
    type. What is counted under `images` is what `unit` says, where that is not images."""
    root = getattr(data, "root", None)
    unit = getattr(data, "unit", None)
    return {
        "name": str(getattr(data, "name", None) or (Path(root).name if root else type(data).__name__)),
        "split": getattr(data, "split", None),
        "images": len(data),
        "classes": None if data.classes is None else len(data.classes),
        "digest": data.digest(),
    } | ({"unit": unit} if unit else {})


def describe_transform(config: EvalTransformConfig) -> dict[str, Any]:
    """Resolution `[height, width]` in pixels, resize, crop and normalization, in words and numbers."""
    size = config.image_size
    height, width = sides_of(size)
    resize = {
        "crop": f"shorter side to {round(min(height, width) / config.kept)} px, {config.interpolation}",
        "squash": f"squashed to {height} x {width} px, {config.interpolation}; masks nearest",
        "pad": "none",
    }
    crop = {
        "crop": f"center {height} x {width} px",
        "squash": "none",
        "pad": f"padded right and below to multiples of {config.multiple} px",
    }
    return {
        "resolution": "each image's own" if config.mode == "pad" else [height, width],
        "resize": resize[config.mode],
        "crop": crop[config.mode],
        "normalization": {"mean": list(config.mean), "std": list(config.std)},
    }


def make_card(
    *,
    protocol: str,
    source: str,
    data: Mapping[str, ImageSet | VideoSet],
    transform: EvalTransformConfig,
    layer: str,
    token: str,
    averaging: str,
    weights: str,
    config: Mapping[str, Any],
    backbone: object,
    preset: str | None = None,
    deviations: Sequence[str] = (),
    seed: int | None = None,
    precision: str = "fp32",
) -> dict[str, Any]:
    """The protocol card: every key of `CARD_KEYS`, JSON values only.

    Args:
        data: role ("train", "val") -> data set.
        transform: the configuration that was really used, with the backbone's mean and std.
        weights: digest of the weights.
        backbone: asked for `branch` ("teacher" or "student") where it knows it.
    """
    card = {
        "protocol": protocol,
        "source": source,
        "preset": preset,
        "deviations": list(deviations),
        "data": {role: describe_data(entry) for role, entry in data.items()},
        **describe_transform(transform),
        "layer": layer,
        "token": token,
        "averaging": averaging,
        "branch": getattr(backbone, "branch", None),
        "seed": seed,
        "precision": precision,
        "weights": weights,
        "config": dict(config),
        "versions": library_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return json.loads(json.dumps({key: card[key] for key in CARD_KEYS}, allow_nan=False))


def library_versions() -> dict[str, str | None]:
    """Versions of Python, of this library and of those that decide a number; None for one that is not
    installed."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "vitrail": __version__}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _shown(value: Any) -> Any:
    """None is what settings call null."""
    return "null" if value is None else value


def changes(standard: Mapping[str, Any], actual: Mapping[str, Any], silent: Sequence[str] = ()) -> list[str]:
    """What differs from a standard, in words: `epochs = 10 (standard 100)`. Keys in `silent` do not
    matter."""
    words = []
    for key, value in actual.items():
        usual = standard.get(key)
        if key in silent or value == usual:
            continue
        if isinstance(value, Mapping) and isinstance(usual, Mapping):
            words += [f"{key}.{line}" for line in changes(usual, value)]
        else:
            words.append(f"{key} = {_shown(value)} (standard {_shown(usual)})")
    return words
