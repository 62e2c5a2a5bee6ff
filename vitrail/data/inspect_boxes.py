"""What is wrong with boxes and masks of objects, each finding with its mend; every line of a file is looked at."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from vitrail.data.box_file import LINE, Box, box_file, parse_folder_line
from vitrail.data.cub import parse_cub_line, read_table
from vitrail.data.finding import Finding, few
from vitrail.data.folders import SPLITS, split_folder
from vitrail.data.images import UnreadableImage, upright_size
from vitrail.data.named_lines import NamedLine, NamedLines, WrongLine, nearest, read_named_lines
from vitrail.data.wsol import Wsol, has_mask_lines, parse_wsol_line, read_sizes, wsol_splits
from vitrail.data.wsol_masks import parse_mask_line

SLACK = 1.0
"""Pixels that a box may reach beyond its image, as rounding makes it."""


class Annotated(NamedTuple):
    """A file of boxes and the images that it should speak of."""

    where: str  # what the images are, for words: "val"
    found: NamedLines[Box]
    names: Collection[str]  # of the images, as lines are to have them
    size: Callable[[str], tuple[float, float] | None]  # width and height that boxes are in; None: cannot be read
    line: str  # what a line is to be
    measured: bool = True  # whether numbers are measured on these images
    several: bool = True  # whether an image may have more than one


def folder_boxes(root: Path, splits: Mapping[str, Any]) -> list[Finding]:
    """Of the files train_boxes.txt and val_boxes.txt beside the folders of splits.

    Args:
        splits: image folders by "train", "val", or "" for a folder without splits.
    """
    findings, read = [], set[Path]()
    for split, data in splits.items():
        path = box_file(root, data.folder.name, split) if split else None
        if path is None:
            continue
        read.add(path)
        home, names = data.folder, [data.relative_path(index) for index in range(len(data))]
        found, measured = read_named_lines(path, parse_folder_line), split != "train"
        findings += box_findings(Annotated(split, found, names, _sizes_below(home), LINE, measured))
    for path in sorted(set(root.glob("*_boxes.txt")) - read):
        findings.append(Finding("warning", f"{path.name}: no split reads it", _renamed(root, path)))
    return findings


def cub_boxes(root: Path) -> list[Finding]:
    """Of CUB's bounding_boxes.txt, for both splits together; `root` holds the tables."""
    path = root / "bounding_boxes.txt"
    if not path.is_file():
        return []
    try:
        paths = {number: " ".join(words) for number, words in read_table(root, "images.txt", 1).items()}
    except ValueError as error:
        return [Finding("error", str(error), "copy the tables anew")]
    below, found = _sizes_below(root / "images"), read_named_lines(path, parse_cub_line)
    line = "`<id> <x> <y> <width> <height>`"
    return box_findings(Annotated("CUB", found, paths, lambda each: below(paths[each]), line, several=False))


def wsol_boxes(root: Path, split: str) -> list[Finding]:
    """Of localization.txt of one split of wsolevaluation's metadata: boxes, or masks."""
    metadata = wsol_splits(root)[split]
    path = metadata / "localization.txt"
    if not path.is_file():
        return []
    names = [line.strip() for line in (metadata / "image_ids.txt").read_text(encoding="utf-8-sig").splitlines()]
    names = [name for name in names if name]
    if has_mask_lines(path):
        return _mask_findings(root, split, path, names)
    sizes: Mapping[str, tuple[float, ...]] = {}
    below: Callable[[str], tuple[float, float] | None] = _unknown
    with suppress(ValueError, OSError):  # has been told when the split was opened; lines are looked at all the same
        sizes = read_sizes(metadata)
        below = _sizes_below(_opened(root, split).folder)
    found, line = read_named_lines(path, parse_wsol_line), "`<path>,<x0>,<y0>,<x1>,<y1>`"
    measured = split != "train"

    def size(name: str) -> tuple[float, float] | None:
        known = sizes.get(name)
        return (known[0], known[1]) if known else below(name)

    return box_findings(Annotated(split, found, names, size, line, measured))


def _unknown(name: str) -> None:
    return None


def box_findings(annotated: Annotated) -> list[Finding]:
    """Lines that are wrong or name no image, empty boxes, boxes outside of their image, images without any; counts."""
    where, file = annotated.where, annotated.found.path.name
    known = dict.fromkeys(annotated.names)
    kept = [line for line in annotated.found.lines if line.name in known]
    findings = _wrong_lines(annotated.found, known, f"{where}: {file}", annotated.line)
    findings += _misplaced(kept, annotated, f"{where}: {file}")
    counts: dict[str, int] = {}
    for line in kept:
        counts[line.name] = counts.get(line.name, 0) + 1
    many = [name for name, count in counts.items() if count > 1]
    named = set(counts) | _named(annotated.found, known)
    without = [name for name in annotated.names if name not in named]
    if many and not annotated.several:
        what = f"{where}: {file}: {len(many)} images have several lines: {few(many, 5)}"
        findings.append(Finding("warning", what, "leave one of each; the last is taken"))
    if without and annotated.measured:
        what = f"{where}: {file}: {len(without)} of {len(known)} images have no box: {few(without, 5)}"
        findings.append(Finding("warning", what, "localization is measured on the others alone; add lines for them"))
    if annotated.found.wrong:
        return findings  # of which nothing is read
    words = f"{len(kept)} boxes in {len(counts)} of {len(known)} images"
    words += f", {len(many)} of which have several" if many and annotated.several else ""
    mend = "preset=locloc takes the first of them alone, in the order of the file" if many and annotated.several else ""
    return findings + [Finding("ok", f"{where}: {file}: {words}", mend)] * bool(kept)


def _wrong_lines(found: NamedLines[Any], names: dict[str, None], where: str, line: str) -> list[Finding]:
    """Those that could not be read, and those that name no image."""
    findings, total = [], len(found.lines) + len(found.wrong)
    if found.wrong:
        what = (
            f"{where}: {len(found.wrong)} of {total} lines are wrong, by their numbers: {_listed(_told(found.wrong))}"
        )
        findings.append(Finding("error", what, f"lines are {line}; nothing is read from the file until all are"))
    strangers = [each for each in found.lines if each.name not in names]
    if not strangers:
        return findings
    one = strangers[0]
    near = nearest(one.name, names)
    listed = [f"{each.number}: {each.text!r}" for each in strangers]
    what = f"{where}: {len(strangers)} of {total} lines name no image, by their numbers: {_listed(listed)}"
    mend = f"line {one.number} may mean {near}" if near else f"names are like {next(iter(names), 'class/image.jpg')}"
    every = len(strangers) == len(found.lines)
    mend += "; a file without any line of an image is refused" if every else "; these lines are left out"
    return [*findings, Finding("error" if every else "warning", what, mend)]


def _told(wrong: Sequence[WrongLine]) -> list[str]:
    """Each line with what is wrong with it, which is said once for lines that follow each other."""
    told, before = [], None
    for each in wrong:
        told.append(f"{each.number}: {each.text!r}" if each.reason == before else f"{each.number}: {_why(each)}")
        before = each.reason
    return told


def _why(wrong: WrongLine) -> str:
    return f"{wrong.reason}, got {wrong.text!r}"


def _named(found: NamedLines[Any], names: Collection[str]) -> set[str]:
    """The images of lines that cannot be read: what stands before a space or a comma and is an image's name."""
    ends = ((each.text, mark.start()) for each in found.wrong for mark in re.finditer(r"[\s,]", each.text + " "))
    return {text[:end] for text, end in ends} & set(names)


def _misplaced(kept: Sequence[NamedLine[Box]], annotated: Annotated, where: str) -> list[Finding]:
    """Boxes that are empty, lie outside of their image or reach beyond it."""
    sizes = {name: annotated.size(name) for name in dict.fromkeys(line.name for line in kept)}
    empty, outside, beyond = [], [], []
    for line in kept:
        x0, y0, x1, y1 = line.value
        words, size = f"{line.number}: {line.text!r}", sizes[line.name]
        if x1 <= x0 or y1 <= y0:
            empty.append(words)
        elif size is None:
            continue  # that the image cannot be read is a finding of its own
        elif x1 <= 0 or y1 <= 0 or x0 >= size[0] or y0 >= size[1]:
            outside.append(f"{words} of {size[0]:g} x {size[1]:g}")
        elif min(x0, y0) < -SLACK or x1 > size[0] + SLACK or y1 > size[1] + SLACK:
            beyond.append(f"{words} of {size[0]:g} x {size[1]:g}")
    told = (
        (empty, "boxes are empty", f"they are left out when localization is measured; lines are {annotated.line}"),
        (outside, "boxes lie outside of their image", "they are left out; are they of an image of another size?"),
        (beyond, "boxes reach beyond their image", "they are cut to it; are they of an image of another size?"),
    )
    return [
        Finding("warning", f"{where}: {len(some)} of {len(kept)} {words}, by line: {_listed(some)}", mend)
        for some, words, mend in told
        if some
    ]


def _mask_findings(root: Path, split: str, path: Path, names: Sequence[str]) -> list[Finding]:
    """Of a localization.txt that names masks."""
    found, where, known = read_named_lines(path, parse_mask_line), f"{split}: {path.name}", dict.fromkeys(names)
    line = "`<path>,<mask>,<ignore mask or nothing>`"
    findings = _wrong_lines(found, known, where, line)
    try:
        folder = _opened(root, split).mask_folder
    except (ValueError, OSError):
        return findings  # has been told when the split was opened
    kept = [each for each in found.lines if each.name in known]
    files = [name for each in kept for part in each.value for name in part]
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        what = f"{where}: {len(absent)} of {len(files)} masks are not in {folder}: {few(absent, 5)}"
        findings.append(Finding("error", what, "unpack them there again; images without their masks cannot be read"))
    seen = {each.name for each in kept}
    written = seen | _named(found, known)
    without = [name for name in names if name not in written]
    if without:
        what = f"{where}: {len(without)} of {len(names)} images have no mask: {few(without, 5)}"
        findings.append(Finding("warning", what, "PxAP is measured on the others alone; add lines for them"))
    if found.wrong:
        return findings
    ignoring = sum(bool(each.value.ignored) for each in kept)
    what = f"{where}: {len(kept)} masks in {len(seen)} of {len(names)} images, {ignoring} ignore masks"
    return [*findings, Finding("ok", what, "")]


def _opened(root: Path, split: str) -> Wsol:
    """The images of a split. What it tells of lines is told here with all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Wsol(root, split)


def _sizes_below(folder: Path) -> Callable[[str], tuple[float, float] | None]:
    def size(name: str) -> tuple[float, float] | None:
        try:
            return upright_size(folder / name)
        except UnreadableImage:
            return None

    return size


def _renamed(root: Path, path: Path) -> str:
    """What to do about a box file that no split reads."""
    split = path.name.removesuffix("_boxes.txt")
    part = next((part for part, names in SPLITS.items() if split in names), None)
    folder = None if part is None else split_folder(root, part)
    if folder is not None:
        return f"{folder.name}_boxes.txt or {part}_boxes.txt is read for {folder.name}/; rename it, or remove it"
    return "boxes are read for train/ and val/, from train_boxes.txt and val_boxes.txt beside them; make these folders"


def _listed(lines: Sequence[str], most: int = 5) -> str:
    return "; ".join(lines[:most]) + (f"; and {len(lines) - most} more" if len(lines) > most else "")
