"""A protocol by its name, on weights and data by theirs."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from torch import nn

from vitrail import catalog
from vitrail.backbones import TimmViT, load_classifier
from vitrail.config import Config, read_yaml
from vitrail.evaluation.result import Report
from vitrail.recipes.sources import DataConfig, open_data
from vitrail.recipes.weights import find_weights, open_backbone, pick_device, run_folder_of

log = logging.getLogger("vitrail")


def measure(
    protocol: str,
    weights: str,
    data: str,
    settings: Sequence[str],
    *,
    model: str | None = None,
    key: str = "auto",
    device: str = "auto",
    out: Path | None = None,
    cache: Path | None = None,
) -> tuple[Report, Path]:
    """Run a protocol and save its report.

    The file is `out`, or `evaluation/PROTOCOL.json` in the run folder that `weights` names, or PROTOCOL.json
    beside the weights' name in the current folder. A protocol that compares masks leaves their curves, too: among the
    run's pictures, where the page finds them, or as a PNG beside the JSON.
    """
    entry = catalog.find(catalog.protocols(), protocol, "protocol")
    evaluate = importlib.import_module(entry.module).evaluate
    backbone, head, classes, pool = _model(evaluate, weights, model, key, device)
    named = any(setting.startswith("preset=") for setting in settings)
    config = native(config_of(evaluate), backbone, preset=named).override(settings)
    folder = run_folder_of(weights)
    splits = open_data(data, data_of(folder))
    place = pick_device(device)
    report = call(evaluate, backbone, splits.train, splits.val, config, head, classes, cache, place, pool)
    path = out or _place(folder / "evaluation" if folder else Path("evaluation") / Path(weights).stem, report)
    report.save(path)
    _draw(report, path, folder if folder and out is None else None)
    return report, path


def _draw(report: Report, path: Path, folder: Path | None) -> None:
    """The curves of a report that compares masks."""
    if report.protocol != "alignment_diversity":
        return
    from vitrail.recipes.look import keep_sheet
    from vitrail.viz.alignment_curve import alignment_curve

    picture = alignment_curve(report.details["strategies"], floor=report.numbers.get("floor_other_image"))
    if folder is not None:
        settings = "".join(f"; {words}" for words in report.card["deviations"])
        caption = f"Alignment and diversity of masks on {report.details['images']} images, bars of two standard errors"
        caption += f"{settings}."
        keep_sheet(folder / "pictures", f"{path.stem}.png", picture, caption)
        log.info("curve: %s", folder / "pictures" / f"{path.stem}.png")
    else:
        picture.save(path.with_suffix(".png"))
        log.info("curve: %s", path.with_suffix(".png"))


def _place(folder: Path, report: Report) -> Path:
    """PROTOCOL.json; a name of its own where that holds a result on other data or with other settings."""
    path = folder / f"{report.protocol}.json"
    if not path.is_file():
        return path
    try:
        before = _question(Report.load(path))
    except ValueError:
        return path
    asked = _question(report)
    if before == asked:
        return path
    words = [report.protocol, report.card["preset"], report.card["data"]["val"]["name"]]
    mark = hashlib.sha256(asked.encode()).hexdigest()[:6]
    return folder / ("-".join(re.sub(r"\W+", "_", word) for word in words if word) + f"-{mark}.json")


def _question(report: Report) -> str:
    """What was measured on, and how: all but the weights."""
    digests = {role: entry["digest"] for role, entry in report.card["data"].items()}
    return json.dumps([digests, report.card["config"]], sort_keys=True)


def call(
    evaluate: Any,
    backbone: TimmViT,
    train: Any,
    val: Any,
    config: Config,
    head: nn.Module | None = None,
    classes: Sequence[str] | None = None,
    cache: Path | None = None,
    device: str = "auto",
    pool: str = "cls",
) -> Report:
    """Give a protocol what it asks for by name: `train`, `val` or `data`, `head`, `classes`, `pool`."""
    offers = {
        "backbone": backbone,
        "train": train,
        "val": val,
        "data": val,
        "config": config,
        "head": head,
        "classes": classes,
        "pool": pool,
        "cache": cache,
        "device": device,
    }
    wanted = inspect.signature(evaluate).parameters
    return evaluate(**{name: offers[name] for name in wanted if name in offers})


def config_of(evaluate: Any) -> Config:
    """The default configuration of a protocol, found by the type of its parameter `config`."""
    hint = get_type_hints(evaluate)["config"]
    kind = next(each for each in (hint, *get_args(hint)) if isinstance(each, type) and issubclass(each, Config))
    return kind()


def native(config: Config, backbone: TimmViT, *, preset: bool = False) -> Config:
    """The same protocol at the model's own image size, where that is not 224: published sizes are for models of 224.

    With a `preset` asked for by name, a size that the preset itself sets (480 pixels of the attention Jaccard) stays.
    """
    if backbone.image_size == (224, 224):
        return config
    height, width = backbone.image_size
    side: Any = height if height == width else (height, width)
    plain = config.plain()
    changes: dict[str, Any] = {}
    for name in ("transform", "train_transform"):
        if name in plain:
            changes[name] = plain[name] | {"image_size": side}
    if "image_size" in plain and not (preset and plain["image_size"] is None):
        changes["image_size"] = side
    return type(config).parse(plain | changes)


def data_of(folder: Path | None) -> DataConfig | None:
    """The images that a run was trained on; None where the folder is no run of ours."""
    if folder is None or not (folder / "config.yaml").is_file():
        return None
    values = read_yaml(folder / "config.yaml").get("data")
    return DataConfig.parse(values, source=str(folder / "config.yaml")) if isinstance(values, dict) else None


def _model(
    evaluate: Any, weights: str, model: str | None, key: str, device: str
) -> tuple[TimmViT, nn.Module | None, tuple[str, ...] | None, str]:
    if "head" not in inspect.signature(evaluate).parameters:
        return open_backbone(weights, model=model, key=key, device=device), None, None, "cls"
    if weights == "pretrained":
        raise ValueError(
            "this protocol needs a classifier of the data's own classes, and pretrained weights come without one here; "
            "train or fine-tune first, or measure features with knn or linear"
        )
    found = load_classifier(find_weights(weights), model, checkpoint_key=key)
    place = pick_device(device)
    return found.backbone.to(place).eval(), found.head.to(place).eval(), found.classes, found.pool
