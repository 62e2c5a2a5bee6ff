"""At which threshold a localizer's maps are cut, and in which view: what its saved evaluation chose."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import NamedTuple

from vitrail.contracts import Localizer
from vitrail.evaluation.features import weights_digest
from vitrail.evaluation.located import Enlarge, View, level_of, threshold_words
from vitrail.evaluation.result import Report
from vitrail.recipes.localizers import LocalizerWords
from vitrail.recipes.weights import run_folder_of

log = logging.getLogger("vitrail")
UNCHOSEN = 0.5
"""The threshold where none was chosen or given."""


class Cut(NamedTuple):
    """How a map becomes boxes, and who says so."""

    threshold: float
    image_size: int | tuple[int, int]
    note: str
    view: View = "squash"
    enlarge: Enlarge = "bilinear"

    @property
    def level(self) -> int:
        """The threshold as a whole number, as the protocol counts it."""
        return level_of(self.threshold)


def cut_of(words: LocalizerWords, localizer: Localizer, threshold: float | None = None, size: int | None = None) -> Cut:
    """The threshold that is asked for, else that of the saved evaluation of this localizer with these weights, and the
    view that it was chosen in, which a line of the log says; else `UNCHOSEN`, with a warning unless every threshold
    gives the same box.

    Args:
        threshold: as asked for.
        size: of the view, pixels a side; None for that of the evaluation, or the localizer's.
    """
    own = size or localizer.image_size
    if threshold is not None:
        return Cut(threshold, own, "the threshold was given")
    report, path = saved_evaluation(words, weights_digest(localizer))
    if report is None and getattr(localizer, "any_threshold", False):
        return Cut(UNCHOSEN, own, "the box is the same at every threshold")
    if report is None:
        warnings.warn(
            f"the threshold {UNCHOSEN} was not chosen for {words.title}; measure it first with `vitrail evaluate "
            "localization`, or give --threshold",
            stacklevel=3,
        )
        return Cut(UNCHOSEN, own, "the threshold was not chosen")
    config, (height, width) = report.card["config"], report.card["resolution"]
    note = f"{_trust(report)}; {path}"
    cut = Cut(report.details["chosen"]["loc"], size or (height, width), note, config["view"], config["enlarge"])
    log.info("threshold %s in the view %s %s x %s: %s", threshold_words(cut.threshold), cut.view, height, width, note)
    return cut


def saved_evaluation(words: LocalizerWords, digest: str) -> tuple[Report | None, Path | None]:
    """The report of the protocol `localization` on this localizer that tells most of its threshold, see `_rank`.

    They lie where `vitrail evaluate` leaves them: in the run's folder evaluation/, or for other weights in
    evaluation/NAME here. (None, None) where there is none.
    """
    if words.weights is None:
        return None, None
    run = run_folder_of(words.weights)
    folder = Path("evaluation") / words.weights_name if run is None else run / "evaluation"
    found: list[tuple[Path, Report]] = []
    others = 0
    for path in folder.glob("localization*.json"):
        try:
            report = Report.load(path)
            fits = report.card["config"]["localizer"] == words.title and "chosen" in report.details
            if fits and report.card["weights"] == digest:
                _rank(report)  # raises for none of ours
                found.append((path, report))
            others += fits and report.card["weights"] != digest
        except (ValueError, KeyError, TypeError):
            continue  # none of ours
    if not found:
        if others:
            warnings.warn(
                f"the evaluation in {folder} is of other weights than {words.weights} now holds", stacklevel=3
            )
        return None, None
    path, report = max(found, key=lambda each: (*_rank(each[1]), each[0].name))
    return report, path


def _rank(report: Report) -> tuple[bool, bool, str]:
    """Of two reports the one that chose on held-out images goes before, then the one without deviations from the
    protocol, then the newer one."""
    return _held_out(report), not report.card["deviations"], report.card["date"]


def _held_out(report: Report) -> bool:
    return bool(report.card["config"]["threshold"] == "held_out")


def _trust(report: Report) -> str:
    """Where its threshold comes from, and what is to be known of it."""
    words = str(report.details["chosen"]["words"])
    deviations = [each for each in report.card["deviations"] if not each.startswith("threshold = ")]
    if deviations:
        words += f"; by an evaluation that deviates from the preset {report.card['preset']}: {', '.join(deviations)}"
    if not _held_out(report):
        words += "; no evaluation chose one on held-out images, which `vitrail evaluate localization` does by default"
    return words
