"""Boxes of many images in three files: boxes.jsonl, to which a line is added once an image is done, and what is made of
it when a call ends: boxes.json, with all that is known, and coco.json in COCO's format.

A folder holds what one localizer found in one way; the first line of boxes.jsonl says which. Called again, it goes on:
images that are finished are not done again. For another localizer, other weights or another threshold it is refused, so
that no file mixes two. However a process dies, the lines that it wrote are there; half a line at the end is taken off.
One process at a time holds the folder.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import IO, Any, Self

from vitrail.evaluation.result import write_atomically
from vitrail.recipes.files import stems
from vitrail.recipes.folder_lock import FolderLock

LINES, BOXES, COCO = "boxes.jsonl", "boxes.json", "coco.json"
PICTURES = {"mask": "masks", "overlay": "overlays"}
"""Keys of an image's entry that name files, and the folders in which these are."""
_OURS = "made_by"  # of the first line alone
_FIRST = b'{"made_by": "vitrail localize"'  # how the first line begins
_WITHIN = ("file", "mark")  # of a line of boxes.jsonl, for the next call: the whole path, and what tells an edited one
_OBJECT: dict[str, Any] = {"class": "object", "index": 0, "probability": 1.0}


class BoxTable:
    """What was found, image by image. Use it in a `with`: both tables are written when that ends, however it does.

    With `overwrite` what was there before stays until `begin`, and for good where that is never called.
    """

    def __init__(
        self,
        folder: Path,
        how: Mapping[str, Any],
        files: Sequence[Path],
        names: Sequence[str] | None,
        overwrite: bool = False,
    ):
        """Hold the folder and read what is there.

        Args:
            folder: for all files; made where absent.
            how: what found the boxes; what is told of it but `note` must not change. The first call's note stays.
            files: images that will be added, each once.
            names: of the classes in the order of the logits; None where nothing classifies.
            overwrite: forget what is there, with its masks and overlays.

        Raises:
            FolderInUse: another call writes into the folder.
            ValueError: the folder holds boxes that were found otherwise, or files that are not ours.
        """
        self.folder, self.how, self.names = folder, dict(how), names
        self.images: dict[str, dict[str, Any]] = {}
        self.unreadable: dict[str, str] = {}
        self._file: IO[str] | None = None
        self._waiting: list[Mapping[str, Any]] = []  # lines before `begin`
        self._old: list[Path] | None = None  # what `begin` deletes
        self._whole = 0  # bytes of boxes.jsonl up to the end of its last line
        self._lock = FolderLock(folder)
        try:
            before = self._read()
            if overwrite:
                self._old = self._made()
                self.images, self.unreadable, self._whole = {}, {}, 0
            elif before is not None:
                self._compare(before)
                self.how["note"] = before.get("note", self.how.get("note"))
            self._named = self._choose_names(files)
            if before is None:
                self._check_free()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        try:
            if self._old is None:
                self.begin()
        except BaseException:
            self._lock.release()
            raise
        return self

    def begin(self) -> None:
        """Delete what `overwrite` is to, and make ready to write; call it before a mask is written.

        Called again, it does nothing.
        """
        if self._file is not None:
            return
        if self._old is not None:
            self._forget(self._old)
        for folder in PICTURES.values():
            (self.folder / folder).mkdir(exist_ok=True)
        self._file = (self.folder / LINES).open("a", encoding="utf-8")
        self._file.truncate(self._whole)
        if not self._whole:
            self._write({_OURS: "vitrail localize"} | self.how)
        for entry in self._waiting:
            self._write(entry)

    def __exit__(self, *error: object) -> None:
        try:
            if self._file is not None:
                self._file.close()
                self.save()
        finally:
            self._lock.release()

    def name_of(self, path: Path) -> str:
        """What the mask and the overlay of an image are called: as before, where it is in the table."""
        return self._named[os.path.abspath(path)]

    def of(self, path: Path) -> dict[str, Any] | None:
        """What is told of an image; None where nothing is."""
        return self.images.get(os.path.abspath(path))

    def finished(self, path: Path, mark: str) -> bool:
        """Whether an image is in the table with its mask and overlay, and is still what it was by its `mark`."""
        entry = self.of(path)
        if entry is None or entry.get("mark") != mark:
            return False
        return all((self.folder / entry[key]).is_file() for key in PICTURES if key in entry)

    def add(self, path: Path, mark: str, entry: dict[str, Any]) -> None:
        """One image: `name`, `height`, `width`, `boxes`, and what else is to be told. What it names has to be written.

        Args:
            mark: what tells the file from an edited one, see `vitrail.data.fingerprint`.
        """
        key = os.path.abspath(path)
        self.unreadable.pop(key, None)
        self.images[key] = {"image": str(path)} | entry | {"file": key, "mark": mark}
        self._write(self.images[key])

    def leave_out(self, path: Path, why: str) -> None:
        """An image that cannot be read; what was found in it before is kept."""
        key = os.path.abspath(path)
        if self.unreadable.get(key) != why:
            self.unreadable[key] = why
            self._write({"image": key, "why": why})

    def save(self) -> None:
        """Write both tables, each whole or not at all."""
        left_out = [{"image": path, "why": why} for path, why in self.unreadable.items()]
        images = [{name: value for name, value in each.items() if name not in _WITHIN} for each in self.images.values()]
        text = _lines(self.how, {"images": images, "unreadable": left_out})
        for name, content in ((BOXES, text), (COCO, json.dumps(self.coco(), ensure_ascii=False))):
            write_atomically(self.folder / name, content.encode(errors="surrogateescape"))

    def coco(self) -> dict[str, Any]:
        """Images, annotations and categories as COCO's instances have them, numbered from 1.

        A category is the predicted class, or "object" where nothing classifies. The score of a box is that of its map
        times the probability of the class.
        """
        annotations: list[dict[str, Any]] = []
        categories = dict(enumerate(self.names or (), start=1))
        for number, image in enumerate(self.images.values(), start=1):
            best = image["classes"][0] if image.get("classes") else _OBJECT
            categories.setdefault(best["index"] + 1, best["class"])
            for found in image["boxes"]:
                left, top, right, bottom = found["box"]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": best["index"] + 1,
                        "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
                        "area": found["area"],
                        "score": round(found["score"] * best["probability"], 4),
                        "iscrowd": 0,
                    }
                )
        return {
            "info": {"description": f"boxes by the localizer {self.how.get('localizer')} of vitrail"},
            "images": [
                {"id": number, "file_name": image["image"], "width": image["width"], "height": image["height"]}
                for number, image in enumerate(self.images.values(), start=1)
            ],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in sorted(categories.items())],
        }

    def _write(self, entry: Mapping[str, Any]) -> None:
        """Hand a line to the system, which keeps it however this process ends."""
        if self._file is None:
            self._waiting.append(entry)
            return
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def _read(self) -> dict[str, Any] | None:
        """Take over the lines that are there, and return what the first one says; None where there is none."""
        path = self.folder / LINES
        if not path.is_file():
            if (self.folder / BOXES).exists():
                raise ValueError(f"{self.folder / BOXES} is there without the {LINES} that it is made of; {_OTHER}")
            return None
        content = path.read_bytes()
        self._whole = content.rfind(b"\n") + 1
        lines = content[: self._whole].splitlines()
        if not lines and _FIRST.startswith(content[: len(_FIRST)]):  # stopped before the first one was whole
            return None
        first = _parsed(lines[0]) if lines else None
        if first is None or _OURS not in first:
            raise ValueError(f"{path} is there and no table of boxes of ours; {_OTHER}")
        broken = 0
        for line in lines[1:]:
            entry = _parsed(line)
            if entry is not None and set(entry) == {"image", "why"}:
                self.unreadable[entry["image"]] = entry["why"]
            elif entry is not None and {"image", "name", "boxes", *_WITHIN} <= set(entry) and _plain(entry["name"]):
                self.unreadable.pop(entry["file"], None)
                self.images[entry["file"]] = entry
            else:
                broken += 1
        if broken:
            warnings.warn(f"{broken} lines of {path} are damaged; their images are done again", stacklevel=4)
        return first

    def _made(self) -> list[Path]:
        """Masks and overlays of earlier calls."""
        return [self.folder / each[key] for each in self.images.values() for key in PICTURES if key in each]

    def _forget(self, made: Sequence[Path]) -> None:
        """Delete what earlier calls wrote, last of all what says so: stopped in between, it can be done again."""
        home = self.folder.resolve()
        for path in (*made, self.folder / BOXES, self.folder / COCO, self.folder / LINES):
            if path.resolve().is_relative_to(home):
                path.unlink(missing_ok=True)

    def _choose_names(self, files: Sequence[Path]) -> dict[str, str]:
        """Names by the files' whole paths: those of the table, and for other files such as no other has."""
        named = {key: str(each["name"]) for key, each in self.images.items()}
        new = [file for file in files if os.path.abspath(file) not in named]
        taken = set(named.values())
        wished = stems([*map(Path, named), *new])[len(named) :]
        for file, wish in zip(new, wished, strict=True):
            more = (f"{wish}-{number}" for number in count(2))
            name = next(name for name in chain([wish], more) if name not in taken)
            named[os.path.abspath(file)] = name
            taken.add(name)
        return named

    def _check_free(self) -> None:
        """Refuse to write over files where nothing says that they are ours."""
        masks = (self.folder / place / f"{name}.png" for name in self._named.values() for place in PICTURES.values())
        for path in (self.folder / COCO, *masks):
            if os.path.lexists(path):
                raise ValueError(
                    f"{path} is there without a {LINES} that says it is ours, and would be written over; {_OTHER}"
                )

    def _compare(self, before: Mapping[str, Any]) -> None:
        for name, value in self.how.items():
            if name != "note" and before.get(name) != value:
                held = f"boxes of {len(self.images)} images with {name} {before.get(name)}"
                raise ValueError(
                    f"{self.folder / LINES} holds {held}, and now it is {value}; give another --out, or the same "
                    "settings, or --overwrite, which begins anew"
                )


_OTHER = "give another --out"


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _plain(name: object) -> bool:
    """Whether it names a file without leading elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _lines(words: Mapping[str, Any], lists: Mapping[str, Sequence[Any]]) -> str:
    """JSON with a line for each word and for each element of a list, so that people can read it, too."""
    said = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in words.items()]
    for name, values in lists.items():
        rows = ",\n  ".join(json.dumps(value, ensure_ascii=False) for value in values)
        said.append(f"{json.dumps(name)}: [\n  {rows}\n ]" if rows else f"{json.dumps(name)}: []")
    return "{\n " + ",\n ".join(said) + "\n}\n"
