"""One page that compares localizers: numbers beside floors and published ones, thresholds, hits and misses, classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from vitrail.contracts import ImageSet
from vitrail.evaluation.heat_maps import HeatMaps
from vitrail.evaluation.localization import LocalizationConfig
from vitrail.evaluation.result import Report
from vitrail.localizers.centered_box import CenteredBox
from vitrail.recipes.localization import Measured, held_out_of, localization
from vitrail.recipes.localizers import HEAT_MAPS, LocalizerWords, open_words, titled
from vitrail.recipes.located_examples import BY, Gallery, galleries
from vitrail.recipes.mask_steps import mask_steps
from vitrail.recipes.measure import data_of
from vitrail.recipes.sources import DataConfig, open_data
from vitrail.recipes.weights import pick_device, run_folder_of
from vitrail.report.localizer_tables import class_table, number_table
from vitrail.report.page import Section, write_sections
from vitrail.report.published import benchmark_of
from vitrail.viz.percent import percent
from vitrail.viz.threshold_curve import Line, lines_of, threshold_curve

Picture = tuple[str, Image.Image | Path]
FOLDED = 15
"""Classes from which on their table is folded."""


class Wanted(NamedTuple):
    """What is compared."""

    data: str  # as for `vitrail evaluate`
    settings: Sequence[str] = ()  # of the protocol; those that begin with `data.` are of the images
    images: int = 8  # hits, and as many misses, of each localizer; 0 for no pictures
    stages: int = 4  # images whose masks are made step by step, for each run that learned from masks
    held_out_maps: str | None = None  # where heat maps of the held-out images lie, if not with the others


class Opening(NamedTuple):
    """How localizers are opened."""

    model: str | None = None
    key: str = "auto"
    device: str = "auto"


def compare_localizers(texts: Sequence[str], wanted: Wanted, opening: Opening, out: Path) -> Path:
    """Measure localizers on one data set and write OUT/localizers.html; the numbers stand beside it as JSON.

    All are measured on the same images in the same way; the threshold of each is chosen on the same held-out ones.
    Images are split as for the first run among them. A localizer that was measured already is measured again: what it
    rests on may have changed. One at a time is in memory.

    Args:
        texts: `NAME[:VARIANT][=WEIGHTS]` or `heat_maps=FOLDER` each.
        wanted, opening: see there.
        out: folder.

    Raises:
        ValueError: no localizer, the same one twice, settings that the protocol does not have, and as `evaluate`.
    """
    if not texts:
        raise ValueError("nothing to compare: name localizers with --localizer NAME=WEIGHTS, once or more")
    words = titled(texts)
    if wanted.held_out_maps is not None and sum(each.name == HEAT_MAPS for each in words.values()) != 1:
        raise ValueError("--held-out-maps belongs to one folder of heat maps; compare one, as heat_maps=FOLDER")
    of_images = [each for each in wanted.settings if each.startswith("data.")]
    config = LocalizationConfig().override([each for each in wanted.settings if each not in of_images])
    trained, settings = _trained(words.values()), [each.removeprefix("data.") for each in of_images]
    data = open_data(wanted.data, trained, settings).val
    held = held_out_of(config, wanted.data, trained, settings)
    reports: dict[str, Report] = {}
    shown: list[Section] = []
    about: dict[str, str] = {}
    for title, each in words.items():
        source = open_words(each, **opening._asdict())
        measured, maps = Measured(source, title, title, None), None
        if isinstance(source, HeatMaps):
            maps = wanted.held_out_maps
        if isinstance(source, CenteredBox):
            about[title] = f"{percent(source.share)} of both sides"
        reports[title] = localization(measured, data, config, held, maps, pick_device(opening.device))
        reports[title].save(out / f"localization-{re.sub(r'[^a-zA-Z0-9_.-]+', '-', title)}.json")
        shown += _galleries(title, galleries(source, data, reports[title], wanted.images, device=opening.device))
    sections = [_numbers(reports, data, about), *_thresholds(reports), *shown]
    sections += [*_masks(words, data, wanted.stages, opening.device), *_classes(reports)]
    cards = {f"localization, {title}": report for title, report in reports.items()}
    return write_sections(out / "localizers.html", sections, title="Localizers", reports=cards)


def _trained(words: Iterable[LocalizerWords]) -> DataConfig | None:
    """The images that the first of them that is a run was trained on."""
    folders = (run_folder_of(each.weights) for each in words if each.weights and each.reads_weights)
    return next((found for folder in folders if (found := data_of(folder)) is not None), None)


def _numbers(reports: Mapping[str, Report], data: ImageSet, about: Mapping[str, str]) -> Section:
    benchmark = benchmark_of(data)
    first = next(iter(reports.values()))
    told = [f"{len(data):,} images, preset {first.card['preset']}."]
    told[0] += f" {_sentence(first.card['averaging'])} {_sentence(first.card['token'])}"
    if first.card["config"]["threshold"] == "test_set":
        told.append("Thresholds are the best ones on the measured images, so that measured numbers are too good.")
    if benchmark is not None:
        told.append(
            f"Published numbers are of all {benchmark.images:,} test images of {benchmark.name}, measured ones of "
            f"{len(data):,}. Most papers choose the threshold on the images that they measure, and conventions differ."
        )
    table = number_table(reports, benchmark, about)
    return Section("Numbers", table + "".join(f"<p>{escape(words)}</p>" for words in told))


def _thresholds(reports: Mapping[str, Report]) -> list[Section]:
    """All localizers in one picture, and the IoUs of each in one of its own."""
    drawn = {title: report for title, report in reports.items() if _located(report)}
    if not drawn:
        return []
    pictures: list[Picture] = []
    together: dict[str, Line] = {}
    for title, report in drawn.items():
        details, config = report.details, report.card["config"]
        lines = lines_of(details, config, config["contour"])
        together[title] = lines["IoU 0.5"]
        pictures.append((title, threshold_curve(details["thresholds"], lines, title=BY[config["contour"]])))
        if config["contour"] != "all":
            lines = lines_of(details, config, "all")
            pictures.append(
                (f"{title}, as in MaxBoxAccV2", threshold_curve(details["thresholds"], lines, title=BY["all"]))
            )
    first = next(iter(drawn.values())).details
    if len(drawn) > 1:
        title = "GT-known Loc, IoU 0.5"
        pictures.insert(0, ("all localizers", threshold_curve(first["thresholds"], together, title=title)))
    words = "Solid: the measured images. Dashed: the held-out ones that thresholds were chosen with. Dots: chosen ones."
    if first["held_out_curves"] is None:
        words = "Dots: the thresholds that count."
    return [Section("Thresholds", f"<p>{words}</p>", pictures)]


def _galleries(title: str, found: Sequence[Gallery]) -> list[Section]:
    if not found:
        return []
    return [Section(f"{title}: hits and misses", "", [(each.caption, each.picture) for each in found])]


def _masks(words: Mapping[str, LocalizerWords], data: ImageSet, count: int, device: str) -> list[Section]:
    """Masks step by step, once for each run that learned from some."""
    named = (run_folder_of(each.weights) for each in words.values() if each.weights and each.reads_weights)
    sections = []
    for folder in dict.fromkeys(each.resolve() for each in named if each is not None):
        steps = mask_steps(str(folder), data, count, device=device)
        if steps is not None:
            sections.append(Section(f"Masks of {folder.name} by GrabCut", "", [(steps.caption, steps.picture)]))
    return sections


def _classes(reports: Mapping[str, Report]) -> list[Section]:
    rows = {title: report.details.get("per_class", []) for title, report in reports.items()}
    if not any(rows.values()):
        return []
    count, first = max(map(len, rows.values())), next(iter(rows))
    words = f"<p>Worst classes of {escape(first)} first; percent of a class's images, but for the mean IoU.</p>"
    table = class_table(rows)
    if count >= FOLDED:
        table = f"<details><summary>{count} classes</summary>{table}</details>"
    return [Section("Classes", words + table)]


def _located(report: Report) -> bool:
    """Whether there were boxes to find, and not only masks."""
    return "chosen" in report.details


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."
