"""One page that compares rankers: recall, accuracy on kept patches, speed, and what they keep of the same images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from vitrail.config import Config
from vitrail.contracts import ImageSet
from vitrail.evaluation.patch_recall import PatchRecallConfig
from vitrail.evaluation.result import Report
from vitrail.evaluation.selection_accuracy import SelectionAccuracyConfig
from vitrail.recipes.look import different
from vitrail.recipes.measure import data_of, measure
from vitrail.recipes.rank import Shown, gallery_of, shared_shape
from vitrail.recipes.rankers import RankerWords, titled
from vitrail.recipes.sources import Splits, open_data
from vitrail.recipes.weights import run_folder_of
from vitrail.report.page import Section, write_sections
from vitrail.viz.curves import Curve
from vitrail.viz.patches import rankers_gallery
from vitrail.viz.recall_curve import recall_curve
from vitrail.viz.selection_curve import selection_curve

_CONFIGS: tuple[type[Config], ...] = (PatchRecallConfig, SelectionAccuracyConfig)


class Wanted(NamedTuple):
    """What is compared."""

    data: str  # as for `vitrail evaluate`
    classifier: str | None = None  # weights of a backbone with its linear head, for accuracy on kept patches
    keep: float = 0.25  # of the pictures
    images: int = 6  # in the pictures; 0 for none
    settings: Sequence[str] = ()  # of both protocols, `keeps=0.1,0.5`


def compare_rankers(texts: Sequence[str], wanted: Wanted, shown: Shown, out: Path) -> Path:
    """Measure rankers on one data set and write OUT/rankers.html; the numbers stand beside it as JSON.

    All are measured on the same images: those that the classifier was not trained on, where it was trained on some of
    them. `center` and `random` get the grid of the other rankers, where these have one and the same.

    Patch recall where the data mark objects; accuracy on kept patches where there is a classifier. A ranker that was
    measured already, on the same data in the same way, is measured again: what it rests on may have changed.

    Args:
        texts: `NAME[:VARIANT][=WEIGHTS]` each.
        wanted: see there.
        shown: how rankers are opened.
        out: folder.

    Raises:
        ValueError: no ranker, the same one twice, data without marked objects and no classifier.
    """
    words = titled(texts)
    if not words:
        raise ValueError("nothing to compare: name rankers with --ranker NAME or NAME=WEIGHTS, once or more")
    trained = data_of(run_folder_of(wanted.classifier)) if wanted.classifier else None
    of_images = [setting.removeprefix("data.") for setting in wanted.settings if setting.startswith("data.")]
    splits = open_data(wanted.data, trained, of_images)
    data, shown = splits.val, shown._replace(like=shared_shape(words, shown))
    marked = has_objects(data)
    if not marked and wanted.classifier is None:
        raise ValueError(
            f"the images in {wanted.data} have neither boxes nor masks, and there is no --classifier: nothing can be "
            "measured; give a tree of VOC, COCO or ADE20K, `scenes`, or weights of a classifier of these images"
        )
    sections = [_pictures(words, data, wanted, shown)] if wanted.images else []
    reports: dict[str, Report] = {}
    if marked:
        found = _recall(words, wanted, splits, shown, out)
        sections.append(recall_section(found))
        reports |= {f"patch recall, {title}": report for title, report in found.items()}
    if wanted.classifier is not None:
        report = _accuracy(texts, wanted, splits, shown, out)
        sections.append(Section("Accuracy on kept patches", accuracy_table(report), _accuracy_pictures(report)))
        reports["selection accuracy"] = report
    return write_sections(out / "rankers.html", sections, title="Rankers", reports=reports)


def has_objects(data: ImageSet) -> bool:
    """Whether a set's samples mark objects, by its first one."""
    sample = data[0]
    return sample.mask is not None or (sample.boxes is not None and bool(getattr(data, "has_boxes", True)))


def _recall(
    words: Mapping[str, RankerWords], wanted: Wanted, splits: Splits, shown: Shown, out: Path
) -> dict[str, Report]:
    settings = _of(wanted.settings, PatchRecallConfig)
    reports = {}
    for title, each in words.items():
        text = each.title if each.weights is None else f"{each.title}={each.weights}"
        path = out / f"patch_recall-{re.sub(r'[^a-zA-Z0-9_.-]+', '-', title)}.json"
        more: dict[str, Any] = {"model": shown.model, "key": shown.key, "device": shown.device, "out": path}
        more |= {"splits": splits, "like": shown.like}
        reports[title], _ = measure("patch_recall", None, wanted.data, settings, rankers=[text], **more)
    return reports


def recall_section(reports: Mapping[str, Report]) -> Section:
    """Recall in percent, a row for each share and a column for each ranker, and as curves; floors stand beside.

    Rankers whose networks cut images into different numbers of patches look for different ones: each number then stands
    in the columns' names, and has floors of its own.
    """
    first = next(iter(reports.values())).details
    counts = {title: report.details["patches"] for title, report in reports.items()}
    several = len(set(counts.values())) > 1
    marks = {count: f", {count} patches" if several else "" for count in counts.values()}
    table: dict[str, list[float]] = {}
    floors: dict[str, list[float]] = {}
    for title, report in reports.items():
        curves, mark = report.details["curves"], marks[counts[title]]
        table[f"{title}{mark}"] = curves["recall"]
        floors.setdefault(f"random, expected{mark}", curves["random"])
        if title != "center":
            floors.setdefault(f"center{mark}", curves["center"])
    lines = table | {name: values for name, values in floors.items() if name.startswith("center")}
    table |= {name: values for name, values in floors.items() if name not in table}
    keeps = first["curves"]["keep"]
    rows = [[f"{keep:g}", *(f"{values[row]:.1f}" for values in table.values())] for row, keep in enumerate(keeps)]
    caption = f"{first['images']} images, by {first['labels']}"
    if several:
        caption += "; numbers of different grids are not comparable, since their patches are of different sizes"
    picture = recall_curve({title: Curve(keeps, values) for title, values in lines.items()})
    return Section("Patch recall", table_html(["kept", *table], rows), [(caption, picture)])


def _accuracy(texts: Sequence[str], wanted: Wanted, splits: Splits, shown: Shown, out: Path) -> Report:
    settings = _of(wanted.settings, SelectionAccuracyConfig)
    more: dict[str, Any] = {"model": shown.model, "key": shown.key, "device": shown.device, "splits": splits}
    path = out / "selection_accuracy.json"
    report, _ = measure(
        "selection_accuracy", wanted.classifier, wanted.data, settings, rankers=list(texts), out=path, **more
    )
    return report


def accuracy_table(report: Report) -> str:
    """Top-1, operations and speed, a row for each ranker and keep ratio."""
    rows, full = report.details["rows"], report.details["full"]
    heads = ["ranker", "kept", "top-1, %", "GFLOPs", "of them the ranker's", "images/s", "images/s with the ranker"]
    lines = [
        ["full image", "1", f"{full['top1']:.1f}", f"{full['gflops']:.2f}", "", _speed(full["images_per_second"]), ""]
    ]
    for row in rows:
        own, total = row["gflops_ranker"], row["gflops"] + row["gflops_ranker"]
        speeds = [_speed(row["images_per_second"]), _speed(row["images_per_second_with_ranker"])]
        lines.append([row["ranker"], f"{row['keep']:g}", f"{row['top1']:.1f}", f"{total:.2f}", f"{own:.2f}", *speeds])
    return table_html(heads, lines)


def _accuracy_pictures(report: Report) -> list[tuple[str, Image.Image | Path]]:
    rows, full = report.details["rows"], report.details["full"]
    words = f"{report.details['images']} images"
    found: list[tuple[str, Image.Image | Path]] = [(words, selection_curve(rows, full))]
    if full["images_per_second"] is not None:
        found.append((words, selection_curve(rows, full, over="speed")))
    return found


def _pictures(words: Mapping[str, RankerWords], data: ImageSet, wanted: Wanted, shown: Shown) -> Section:
    chosen = different(data, wanted.images)
    images = [data[index].image for index in chosen]
    gallery = rankers_gallery(
        images, gallery_of(images, words, shown, wanted.keep), titles=[f"image {n}" for n in chosen]
    )
    caption = f"The {100 * wanted.keep:g} % of the patches that each ranker keeps, and its scores below"
    return Section("What they keep", "", [(caption, gallery)])


def table_html(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "words") -> str:
    """A table whose first column names its rows; `kind` is words or numbers, which stand to the right."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    lines = []
    for name, *cells in rows:
        inside = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{inside}</tr>')
    inside = f"<thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll" tabindex="0"><table class="{kind}">{inside}</table></div>'


def _speed(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _of(settings: Sequence[str], config: type[Config]) -> list[str]:
    """Those of the settings that a protocol has. Raises `ValueError` for one that neither has, but for the images'."""
    key_of = {each: each.partition("=")[0].partition(".")[0] for each in settings if not each.startswith("data.")}
    known = {name for each in _CONFIGS for name in each.model_fields}
    for text, key in key_of.items():
        if key not in known:
            raise ValueError(
                f"{text!r} is no setting of patch_recall or selection_accuracy: {', '.join(sorted(known))}"
            )
    return [text for text, key in key_of.items() if key in config.model_fields]
