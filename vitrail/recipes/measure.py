"""A protocol by its name, on weights and data by theirs."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from torch import nn

from vitrail import catalog
from vitrail.backbones import AnyBackbone, TimmConvNet
from vitrail.backbones.reading import read_file, weights_file
from vitrail.config import Config, read_yaml
from vitrail.contracts import ImageSet, Ranker
from vitrail.evaluation.result import Report
from vitrail.recipes.heads import open_classifier
from vitrail.recipes.localization import Measured, held_out_of, localization, open_measured
from vitrail.recipes.localizers import check_localizers
from vitrail.recipes.rankers import Shape, check_protocol, name_of_weights, open_rankers, titled
from vitrail.recipes.sources import DataConfig, Splits, open_data, open_labeled, open_segmented, open_videos, open_whole
from vitrail.recipes.weights import find_weights, open_encoder, pick_device, run_folder_of

log = logging.getLogger("vitrail")


def measure(
    protocol: str,
    weights: str | None,
    data: str,
    settings: Sequence[str],
    *,
    rankers: Sequence[str] = (),
    localizers: Sequence[str] = (),
    held_out_maps: str | None = None,
    model: str | None = None,
    key: str = "auto",
    device: str = "auto",
    out: Path | None = None,
    cache: Path | None = None,
    splits: Splits | None = None,
    held_out: ImageSet | None = None,
    like: Shape | None = None,
) -> tuple[Report, Path]:
    """Run a protocol and save its report.

    The file is PROTOCOL.json in the folder `evaluation` of the run whose weights are measured, or in evaluation/NAME of
    the current folder for other weights of that name; see `out` and `_place`. A protocol that has curves leaves them,
    too: among the run's pictures, where the page finds them, or as a PNG beside the JSON.

    Args:
        weights: of the backbone or classifier that is measured; of the ranker, for a protocol that measures one.
        settings: of the protocol; those that begin with `data.` are of the images, see `DataConfig`.
        rankers: `NAME[:VARIANT][=WEIGHTS]` each, for protocols that need them; where they may be left out, that of the
            run stands for them.
        localizers: `NAME[:VARIANT][=WEIGHTS]` or `heat_maps=FOLDER`, at most one, for the protocol that measures one;
            without it, what the weights were trained to be.
        held_out_maps: folder of heat maps of the held-out images, where they do not lie with the others.
        out: a file, where it ends in .json, or another folder.
        splits: the images, where they have been opened; `data` and settings of `data.` are not looked at then.
        held_out: images to choose a threshold with, beside `splits`.
        like: sizes of a measured ranker that reads no weights.
    """
    entry = catalog.find(catalog.protocols(), protocol, "protocol")
    module: Any = importlib.import_module(entry.module)
    evaluate = module.evaluate
    how: dict[str, Any] = {"model": model, "key": key, "device": device}
    subject = _subject(protocol, evaluate, weights, rankers, localizers, like, **how)
    of_images = [setting for setting in settings if setting.startswith("data.")]
    config = _config(evaluate, subject, [setting for setting in settings if setting not in of_images])
    folder = run_folder_of(subject.weights) if subject.weights is not None else None
    of_images = [setting.removeprefix("data.") for setting in of_images]
    opened: tuple[Any, Any] = splits or _open(module, data, folder, of_images)
    if subject.localizer is not None:
        held_out = held_out if splits else held_out_of(config, data, data_of(folder), of_images)
        report = localization(subject.localizer, opened[1], config, held_out, held_out_maps, pick_device(device))
    else:
        report = _run(evaluate, subject, *opened, config, cache, pick_device(device))
    if out is not None:
        path = out if out.suffix == ".json" else _place(out, report, of_weights=True)
    elif folder is not None:
        path = _place(folder / "evaluation", report)
    else:
        own = "-".join(subject.rankers) if subject.localizer is None else subject.localizer.name
        own = own if subject.weights is None else name_of_weights(subject.weights)
        path = _place(Path("evaluation") / own, report, of_weights=True)
    report.save(path)
    drawn_in = folder if folder and out is None else None
    _draw(report, path, drawn_in, opened[1], _located(report, subject.localizer, opened[1], pick_device(device)))
    if report.protocol == "video" and report.card["config"]["masks"]:
        from vitrail.recipes.look import video_pictures

        log.info(
            "pictures: %s", video_pictures(opened[1], report.details["per_sequence"], report.card["config"]["masks"])
        )
    return report, path


def open_images(protocol: str, data: str) -> None:
    """Open what a protocol would measure with, and measure nothing. Raises as `measure` does for these images."""
    module = importlib.import_module(catalog.find(catalog.protocols(), protocol, "protocol").module)
    _open(module, data, None, ())


def _open(module: Any, data: str, folder: Path | None, settings: Sequence[str]) -> tuple[Any, Any]:
    """The images to train on and to measure with, as a protocol's module wants them; of videos None and the set."""
    if getattr(module, "VIDEO", False):
        return None, open_videos(data, data_of(folder), settings)
    opening = open_labeled if getattr(module, "SEVERAL", False) else open_data
    if getattr(module, "WHOLE", False):
        opening = open_whole
    if getattr(module, "SEGMENTS", False):
        opening = open_segmented
    return opening(data, data_of(folder), settings)


class _Subject(NamedTuple):
    """What is measured."""

    backbone: AnyBackbone | TimmConvNet | None
    head: nn.Module | None = None
    classes: tuple[str, ...] | None = None
    pool: str = "cls"
    rankers: Mapping[str, Ranker] = {}
    weights: str | None = None  # whose result it is; None for a ranker that reads none
    keep: float | None = None  # the share of the patches that a classifier was trained with, if its ranker is used
    localizer: Measured | None = None  # of the protocol that measures one


def _subject(
    protocol: str,
    evaluate: Any,
    weights: str | None,
    rankers: Sequence[str],
    localizers: Sequence[str],
    like: Shape | None,
    **how: Any,
) -> _Subject:
    check_protocol(protocol, weights, rankers)
    check_localizers(protocol, weights, localizers)
    how |= {"device": pick_device(how["device"])}
    wanted = inspect.signature(evaluate).parameters
    if "ranker" in wanted:
        (words,) = titled(rankers, weights).values()
        own = words.weights if words.reads_weights else None
        return _Subject(None, rankers=open_rankers(rankers, weights, like=like, **how), weights=own)
    if "source" in wanted:
        measured = open_measured(localizers, weights, **how)
        return _Subject(None, weights=measured.weights, localizer=measured)
    assert weights is not None  # has been checked
    subject = _Subject(*_model(evaluate, weights, **how), weights=weights)
    if not rankers and "rankers" in wanted:
        return _with_own_ranker(subject, weights, how["device"])
    if not rankers or subject.backbone is None:
        return subject
    shape: dict[str, Any] = {"image_size": subject.backbone.image_size, "patch_size": subject.backbone.patch_size[0]}
    return subject._replace(rankers=open_rankers(rankers, device=how["device"], **shape))


def _config(evaluate: Any, subject: _Subject, settings: Sequence[str]) -> Config:
    """The protocol's settings: its own at the model's size, with the model's own share, and what the user says."""
    config = config_of(evaluate)
    if subject.backbone is not None:
        config = native(config, subject.backbone, preset=any(setting.startswith("preset=") for setting in settings))
    if subject.keep is not None:
        config = config.override([f"keeps={sorted({*config.plain()['keeps'], subject.keep})}"])
    return config.override(settings)


def _with_own_ranker(subject: _Subject, weights: str, device: str) -> _Subject:
    """The ranker and the share that a run on kept patches was trained with; of other weights, the subject as it is."""
    from vitrail.recipes.kept_patches import RankerConfig

    kept = (read_file(weights_file(find_weights(weights)))[1] or {}).get("kept")
    if not kept or not kept["ranker"] or subject.backbone is None:
        return subject
    ranker = RankerConfig.parse(kept["ranker"], source=weights)
    try:
        opened = ranker.open(subject.backbone.patch_size).to(device)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{weights} was trained on what the ranker {ranker.name} keeps, which cannot be opened ({error}); name "
            "rankers as --ranker NAME=WEIGHTS"
        ) from None
    return subject._replace(rankers={ranker.name: opened}, keep=float(kept["keep"]))


def _run(
    evaluate: Any, subject: _Subject, train: Any, val: Any, config: Config, cache: Path | None, device: str
) -> Report:
    backbone, head, classes, pool, rankers, *_ = subject
    if backbone is not None:
        return call(evaluate, backbone, train, val, config, head, classes, cache, device, pool, rankers)
    name, ranker = next(iter(rankers.items()))
    return evaluate(ranker, val, config, name=name, device=device)


_ENDS = {"localization": ("", "-all", "-hits", "-misses"), "selection_accuracy": ("", "-speed")}
"""What the names of pictures end in, of protocols that draw some of them only where there is something to show."""


def _draw(report: Report, path: Path, folder: Path | None, val: Any, more: Sequence[tuple[str, Any, str]] = ()) -> None:
    """The curves or label maps of a report that has some, and `more` of them.

    What is left of an earlier measurement whose report this one replaces goes: no hits, no picture of hits.
    """
    from vitrail.recipes.look import drop_sheet, keep_sheet

    place = path.parent if folder is None else folder / "pictures"
    drawn = [*_curves(report), *_maps(report, val), *more]
    for suffix in {*_ENDS.get(report.protocol, ())} - {suffix for suffix, _, _ in drawn}:
        drop_sheet(place, f"{path.stem}{suffix}.png")
    preset = report.card["preset"]
    settings = f"; preset {preset}" if preset not in (None, "default") else ""
    settings += "".join(f"; {words}" for words in report.card["deviations"])
    for suffix, picture, caption in drawn:
        name = f"{path.stem}{suffix}.png"
        if folder is not None:
            keep_sheet(place, name, picture, f"{caption}{settings}.")
        else:
            picture.save(place / name)
        log.info("picture: %s", place / name)


def _curves(report: Report) -> list[tuple[str, Any, str]]:
    """Of each picture: what is added to the file's name, the pixels, the caption."""
    details = report.details
    if report.protocol == "alignment_diversity":
        from vitrail.viz.alignment_curve import alignment_curve

        caption = f"Alignment and diversity of masks on {details['images']} images, bars of two standard errors"
        drawn = alignment_curve(details["strategies"], floor=report.numbers.get("floor_other_image"))
        return [("", drawn, caption)]
    if report.protocol == "positive_rate":
        from vitrail.viz.positive_rate import positive_rate_curve

        caption = (
            f"Positive rate against similarity, {details['pairs']:,} pairs of patches of {details['images']} images"
        )
        drawn = positive_rate_curve({"positive rate": details["curve"]}, floor=report.numbers["floor_positive_rate"])
        return [("", drawn, caption)]
    if report.protocol == "video":
        from vitrail.viz.video import video_curve

        curve, count = details["curve"], sum(len(row["objects"]) for row in details["per_sequence"])
        caption = f"J and F of {count} objects of {len(details['per_sequence'])} sequences over time, the mean"
        lines = {f"mean of {count} objects": curve}
        return [("", video_curve(lines, x=curve["share"], x_label="share of the sequence"), caption)]
    if report.protocol == "patch_recall":
        from vitrail.viz.recall_curve import lines_of, recall_curve

        caption = (
            f"Patch recall of the ranker {details['ranker']} on {details['images']} images, by {details['labels']}"
        )
        return [("", recall_curve(lines_of(details["curves"], details["ranker"])), caption)]
    if report.protocol == "selection_accuracy":
        from vitrail.viz.selection_curve import selection_curve

        caption = f"Top-1 of a classifier that sees the patches a ranker keeps, {details['images']} images"
        rows, full = details["rows"], details["full"]
        found = [("", selection_curve(rows, full), f"{caption}, against the share that is kept")]
        if full["images_per_second"] is not None:
            found.append(("-speed", selection_curve(rows, full, over="speed"), f"{caption}, against speed"))
        return found
    if report.protocol == "robustness" and details.get("rows"):
        from vitrail.viz.robustness import corruption_bars

        name = Path(str(report.card["data"]["val"]["name"])).name
        caption = f"Top-1 on corrupted images, {details['images']} of {name}, bars the mean over severities, dots each"
        return [("", corruption_bars(*_compared(details)), caption)]
    return []


def _compared(details: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float | None]]:
    """Rows and errors on clean images, of a classifier and of what it was compared with."""
    rows, clean = {"this classifier": details["rows"]}, {"this classifier": details["clean"]}
    other = details.get("baseline")
    if other is not None:
        known = other["errors"]
        rows[other["name"]] = [{"corruption": name, "error": error} for name, error in known.items()]
        clean[other["name"]] = other["clean"]
    return rows, clean


def _located(report: Report, measured: Measured | None, val: Any, device: str) -> list[tuple[str, Any, str]]:
    """Curves, hits and misses of a localizer, as `_curves` returns pictures."""
    if measured is None:
        return []
    from vitrail.recipes.located_examples import report_pictures

    found = report_pictures(measured.source, val, report, device=device)
    return [("-" * bool(each.name) + each.name, each.picture, each.caption) for each in found]


def _maps(report: Report, val: Any) -> list[tuple[str, Any, str]]:
    """Label maps of some images, as `_curves` returns pictures."""
    details = report.details
    if not details.get("examples"):
        return []
    from vitrail.recipes.label_maps import label_maps

    shown, miou = len(details["examples"]), report.numbers[details["examples_of"]]
    caption = f"{shown} of {details['images']} images, {report.protocol}, mIoU {miou:.1f} on all"
    return [("", label_maps(details, val), caption)]


def _place(folder: Path, report: Report, *, of_weights: bool = False) -> Path:
    """PROTOCOL.json; a name of its own where that holds another result, with the preset, what was measured on which
    data, and for a localizer where its threshold comes from.

    Another one is on other data, with other settings, of another ranker or localizer; with `of_weights`, in a folder
    that belongs to no run, also of other weights.
    """
    path = folder / f"{report.protocol}.json"
    if not path.is_file():
        return path
    try:
        before = _question(Report.load(path), of_weights)
    except ValueError:
        return path
    asked = _question(report, of_weights)
    if before == asked:
        return path
    data = report.card["data"]["val"]["name"]
    subject = report.details.get("ranker") or report.card["config"].get("localizer")
    words = [report.protocol, report.card["preset"], _threshold(report), subject, data]
    mark = hashlib.sha256(asked.encode()).hexdigest()[:6]
    return folder / ("-".join(re.sub(r"\W+", "_", word) for word in words if word) + f"-{mark}.json")


def _threshold(report: Report) -> str | None:
    """Of a localizer, where its threshold comes from if not from held-out images: `test_set` or `threshold0.5`."""
    config = report.card["config"]
    if "localizer" not in config or config["threshold"] == "held_out":
        return None
    return config["threshold"] if isinstance(config["threshold"], str) else f"threshold{config['threshold']:g}"


def _question(report: Report, of_weights: bool) -> str:
    """What was measured on, and how, and where asked for, the digest of the weights."""
    digests = {role: entry["digest"] for role, entry in report.card["data"].items()}
    weights = report.card["weights"] if of_weights else None
    return json.dumps([digests, report.card["config"], weights], sort_keys=True)


def call(
    evaluate: Any,
    backbone: AnyBackbone | TimmConvNet,
    train: Any,
    val: Any,
    config: Config,
    head: nn.Module | None = None,
    classes: Sequence[str] | None = None,
    cache: Path | None = None,
    device: str = "auto",
    pool: str = "cls",
    rankers: Mapping[str, Ranker] | None = None,
) -> Report:
    """Give a protocol what it asks for by name: `train`, `val` or `data`, `head`, `classes`, `pool`, `rankers`."""
    offers = {
        "backbone": backbone,
        "train": train,
        "val": val,
        "data": val,
        "config": config,
        "head": head,
        "classes": classes,
        "pool": pool,
        "rankers": rankers or {},
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


def native(config: Config, backbone: AnyBackbone | TimmConvNet, *, preset: bool = False) -> Config:
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
    evaluate: Any, weights: str, *, model: str | None, key: str, device: str
) -> tuple[AnyBackbone | TimmConvNet, nn.Module | None, tuple[str, ...] | None, str]:
    if "head" not in inspect.signature(evaluate).parameters:
        return open_encoder(weights, model=model, key=key, device=device), None, None, "cls"
    if weights == "pretrained":
        raise ValueError(
            "this protocol needs a classifier of the data's own classes, and pretrained weights come without one here; "
            "train or fine-tune first, or measure features with knn or linear"
        )
    found = open_classifier(weights, model, key=key)
    return found.backbone.to(device).eval(), found.head.to(device).eval(), found.classes, found.pool
