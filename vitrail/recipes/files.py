"""Files and folders by the words of a command line, found without torch, which takes seconds to import."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from vitrail.data.fetched import fetch_hint
from vitrail.data.images import EXTENSIONS

FILES = (".html", ".json", ".jsonl", ".md", ".npy", ".pdf", ".pt", ".safetensors", ".svg")
"""Endings besides those of images that no folder has."""


def image_files(paths: Sequence[str | Path] | str | Path) -> list[Path]:
    """The files, and for a folder the images below it in the order of their names; each once, where it comes first.

    Raises `ValueError` for an empty folder, and where none of the files is there.
    """
    files: list[Path] = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if not path.is_dir():
            files.append(path)
            continue
        files += images_below(path)
    need_some(files)
    once: dict[str, Path] = {}
    for path in files:
        once.setdefault(os.path.abspath(path), path)
    return list(once.values())


def shown_files(paths: Sequence[Path], most: int) -> list[Path]:
    """The files, and in place of folders the images below them, at most `most` of all these, or all where that is 0.

    Those that are taken are evenly spaced in the order of their names, so that folders of classes are all among them;
    a warning says how many are not. Files that are named are all taken. Raises `ValueError` for an empty folder.
    """
    inside = {path: images_below(path) for path in paths if path.is_dir()}
    every = [image for path in paths for image in inside.get(path, ())]
    if not most or len(every) <= most:
        return [image for path in paths for image in inside.get(path, [path])]
    taken = {every[place * len(every) // most] for place in range(most)}
    named = ", ".join(map(str, list(inside)[:3])) + " ..." * (len(inside) > 3)
    warnings.warn(
        f"{most} of {len(every):,} images below {named} are shown, evenly spaced; --limit N shows more, --limit 0 all",
        stacklevel=2,
    )
    return [image for path in paths for image in inside.get(path, [path]) if path not in inside or image in taken]


def images_below(folder: Path) -> list[Path]:
    """Image files in a folder and its folders, in the order of their names. Raises `ValueError` where there is none."""
    inside = sorted(each for each in folder.rglob("*") if each.suffix.lower() in EXTENSIONS and each.is_file())
    if not inside:
        raise ValueError(f"there is no image below {folder}; give image files, or a folder that holds some")
    return inside


def need_some(files: Sequence[Path]) -> None:
    """`ValueError` where none of the files is there."""
    if not any(path.exists() for path in files):
        named = ", ".join(map(str, files[:5])) + (" ..." if len(files) > 5 else "")
        raise ValueError(f"none of {len(files)} images can be read: {named}; give image files that are there and whole")


def told_apart(paths: Sequence[Path]) -> list[str]:
    """Names of files, with as many of their folders as tell each from all others: `x.jpg`, but `cats/x.jpg`."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    lengths = [1] * len(parts)
    while True:
        names = ["/".join(each[-length:]) for each, length in zip(parts, lengths)]
        often = Counter(names)
        longer = [place for place, name in enumerate(names) if often[name] > 1 and lengths[place] < len(parts[place])]
        if not longer:
            return names
        for place in longer:
            lengths[place] += 1


def stems(paths: Sequence[Path]) -> list[str]:
    """A name for what is made of each file: `x`, `cats-x` where folders must tell, `x.jpg` where endings must.

    Different files have different names.
    """
    bare = [path.with_suffix("") for path in paths]
    often = Counter(os.path.abspath(path) for path in bare)
    names = told_apart([path if often[os.path.abspath(short)] > 1 else short for path, short in zip(paths, bare)])
    for dashes in count(1):  # one, unless folders have dashes in just the wrong places
        joined = [name.strip("/").replace("/", "-" * dashes) for name in names]
        if len(set(joined)) == len(set(names)):
            break
    return joined


def existing(where: str) -> Path:
    """The folder as a path. Raises `ValueError` where it is none."""
    root = Path(where).expanduser()
    if not root.is_dir():
        raise ValueError(
            f"there is no folder {where!r}; give a folder of images, a tree of VOC, COCO, ADE20K, ..., or `scenes`"
            f"{fetch_hint(root.name)}"
        )
    return root


def check_root(settings: Sequence[str]) -> None:
    """Raise `ValueError` for `data.root=FOLDER` where there is none and none is to be downloaded."""
    said = dict(text.split("=", 1) for text in settings if "=" in text)
    root, wanted = said.get("data.root", "null"), said.get("data.download", "false")
    if root not in ("null", "") and wanted.lower() in ("false", "no", "off", "0", "null"):
        existing(root)


def check_out(out: Path) -> None:
    """Raise `ValueError` where no folder `out` can be made or written into, or its name is a file's; makes none."""
    if out.suffix.lower() in (*EXTENSIONS, *FILES) and not out.exists():
        raise ValueError(f"{out} is to be a folder, into which files are written; call it {out.with_suffix('')}")
    place = Path(os.path.abspath(out.expanduser()))
    while not place.exists() and not place.is_symlink():
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"{out} cannot be a folder: {place} is a file; choose another one, or move the file away")
    if not os.access(place, os.W_OK):
        raise ValueError(f"{out} cannot be written: you may not write into {place}; choose another folder")
