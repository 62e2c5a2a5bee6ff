"""What the robustness protocol's numbers are relative to: AlexNet, numbers by hand, or another classifier's report.

A report is taken where it was measured in the same way: mode, severities, seed, number of images, transform, data and
classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.contracts import ImageSet
from vitrail.data.corruptions import CORRUPTIONS, SEVERITIES
from vitrail.data.imagenet_c import ImageNetC
from vitrail.evaluation.result import Report
from vitrail.metrics.robustness import (
    ALEXNET,
    ALEXNET_CLEAN,
    Baseline,
    corruption_errors,
    mean,
    relative_corruption_errors,
)

if TYPE_CHECKING:
    from vitrail.evaluation.robustness import RobustnessConfig

_WRITES = "`vitrail evaluate robustness` on the other weights writes one"
_ALIKE = "measure both classifiers in the same way"


def find_baseline(config: RobustnessConfig, val: ImageSet, classes: Sequence[str]) -> Baseline | None:
    """What numbers are relative to, checked against what is asked for; None for nothing.

    Args:
        config: with the mode decided.
        val: what is measured.
        classes: names of those that are measured.

    Raises:
        ValueError: no such report, one that was measured in another way, or errors that lack a corruption.
    """
    given = config.baseline
    if config.mode == "imagenet_a" or (given is None and config.mode == "generated"):
        return None
    if given is None:
        return Baseline("AlexNet", ALEXNET, ALEXNET_CLEAN)
    names = complete_of(val) if isinstance(val, ImageNetC) else config.corruptions
    if isinstance(given, str):
        found = _reported(Path(given), config, val, classes, names)
    else:
        found = Baseline("baseline", {k: v for k, v in given.items() if k != "clean"}, given.get("clean"))
    if without := [name for name in names if name not in found.errors]:
        raise ValueError(f"the baseline has no error of {', '.join(without)}; give one for each corruption")
    return found


def complete_of(tree: ImageNetC) -> tuple[str, ...]:
    """The corruptions of which a tree has all severities."""
    return tuple(name for name in CORRUPTIONS if all((name, severity) in tree.variants for severity in SEVERITIES))


def _reported(
    path: Path, config: RobustnessConfig, val: ImageSet, classes: Sequence[str], names: Sequence[str]
) -> Baseline:
    """Another classifier's errors on the same images: of a file, or of that report of a run which fits best."""
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"there is no report at {path}; {_WRITES}")
        report = Report.load(path)
        if reason := _other_way(report, config, val):
            raise ValueError(f"{path} {reason}; {_ALIKE}")
        return _baseline_of(path.stem, path, report, classes)
    folder = path / "evaluation"
    files = sorted(folder.glob("robustness*.json"))
    if not files:
        raise ValueError(f"there is no report at {folder / 'robustness.json'}; {_WRITES}")
    fits, reasons = {}, []
    for file in files:
        found = _loaded(file)
        reason = "is not an evaluation report" if found is None else _other_way(found, config, val)
        if found is None or reason:
            reasons.append(f"{file.name} {reason}")
        else:
            fits[file] = found
    if not fits:
        raise ValueError(f"no report in {folder} was measured as is asked for: {'; '.join(reasons)}; {_ALIKE}")
    # What else differs, such as what their own mCE is relative to, changes no error.
    best = max(fits, key=lambda file: _fit(fits[file], classes, names))
    return _baseline_of(path.name, best, fits[best], classes)


def _fit(report: Report, classes: Sequence[str], names: Sequence[str]) -> tuple[bool, int]:
    """Whether a report is of these classes, and of how many of these corruptions it knows the error."""
    known = [row for row in report.details["rows"] if row["corruption"] in names and row["error"] is not None]
    return set(report.details.get("class_names", ())) == set(classes), len(known)


def _loaded(file: Path) -> Report | None:
    try:
        return Report.load(file)
    except ValueError:
        return None


def _other_way(report: Report, config: RobustnessConfig, val: ImageSet) -> str:
    """In words, how a report was measured otherwise than is asked for; empty where it was not."""
    if report.protocol != "robustness" or report.details.get("mode") != config.mode:
        return f"is of {report.protocol}, {report.details.get('mode')}, and this of robustness, {config.mode}"
    own, other = config.plain(), report.card["config"]
    alike = ("severities", "seed", "images", "transform") if config.mode == "generated" else ()
    differ = [name for name in alike if own[name] != other.get(name)]
    if report.card["data"]["val"]["digest"] != val.digest():
        differ.append("data")
    return f"was measured with other {', '.join(differ)}" if differ else ""


def _baseline_of(name: str, file: Path, report: Report, classes: Sequence[str]) -> Baseline:
    _check_classes(file, report.details.get("class_names", ()), classes)
    rows = {row["corruption"]: row["error"] for row in report.details["rows"] if row["error"] is not None}
    return Baseline(name, rows, report.details["clean"])


def _check_classes(file: Path, theirs: Sequence[str], own: Sequence[str]) -> None:
    if set(theirs) == set(own):
        return
    differ = sorted(set(theirs) ^ set(own))
    raise ValueError(
        f"{file} was measured on {len(theirs)} classes ({', '.join(sorted(theirs)[:3])}, ...) and this on {len(own)} "
        f"({', '.join(sorted(own)[:3])}, ...), {len(differ)} of them in one alone ({', '.join(differ[:3])}, ...); "
        "measure both on data with the classes that both classifiers know"
    )


def relative_numbers(
    complete: Mapping[str, Sequence[float]],
    clean: float | None,
    baseline: Baseline,
    details: dict[str, Any],
    notes: list[str],
) -> dict[str, float]:
    """mCE and relative mCE, where they are defined.

    Args:
        complete: by corruption, errors in percent at each severity.
        clean: the error on clean images, percent; None where it is not known.
        details: of the report. Its `rows` get `ce` and `relative_ce`, itself gets `baseline`.
        notes: get a line where a mean is undefined.

    Raises:
        ValueError: a corruption that the baseline lacks.
    """
    rows = {row["corruption"]: row for row in details["rows"]}
    details["baseline"] = {"name": baseline.name, "clean": baseline.clean, "errors": dict(baseline.errors)}
    found = {"ce": corruption_errors(complete, baseline)}
    if clean is not None and baseline.clean is not None:
        found["relative_ce"] = relative_corruption_errors(complete, clean, baseline)
    numbers = {}
    for key, values in found.items():
        for name, value in values.items():
            rows[name][key] = value
        known = [value for value in values.values() if value is not None]
        if len(known) == len(values):
            numbers[f"{'relative_' * (key != 'ce')}mce"] = mean(known)
            continue
        without = ", ".join(name for name, value in values.items() if value is None)
        what = "makes no error with" if key == "ce" else "does not get worse by"
        notes.append(f"{baseline.name} {what} {without}: no {'relative ' * (key != 'ce')}mCE")
    return numbers
