"""Boxes of many images in two files: boxes.json, which says all that is known, and coco.json in COCO's format.

A folder holds what one localizer found at one threshold. Called again with other images, it keeps the earlier ones; for
another localizer, other weights or another threshold it is refused, so that no file mixes two.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from vitrail.evaluation.result import write_atomically

BOXES, COCO = "boxes.json", "coco.json"
SAVED_EVERY = 60.0  # seconds
_OBJECT: dict[str, Any] = {"class": "object", "index": 0, "probability": 1.0}


class BoxTable:
    """What was found, image by image. Use it in a `with`: it is saved when that ends, however it does."""

    def __init__(self, folder: Path, how: Mapping[str, Any], files: Mapping[str, Path], names: Sequence[str] | None):
        """Read what is there.

        Args:
            folder: for both files.
            how: what found the boxes; what is told of it but `note` must not change.
            files: images that will be added, by the names of what is made of them.
            names: of the classes in the order of the logits; None where nothing classifies.

        Raises:
            ValueError: the folder holds boxes that were found otherwise, of another image under one of the names, or
                another program's file.
        """
        self.folder, self.how, self.names = folder, dict(how), names
        self.images: dict[str, dict[str, Any]] = {}
        self.unreadable: dict[str, str] = {}
        self._saved = time.monotonic()
        if (folder / BOXES).is_file():
            self._go_on(folder / BOXES, files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.save()

    def add(self, path: Path, entry: dict[str, Any]) -> None:
        """One image: `name`, `height`, `width`, `boxes`, and what else is to be told."""
        key = os.path.abspath(path)
        self.unreadable.pop(key, None)
        self.images[key] = {"image": str(path)} | entry
        if time.monotonic() - self._saved > SAVED_EVERY:
            self.save()

    def leave_out(self, path: Path, why: str) -> None:
        """An image that cannot be read; what was found in it before is kept."""
        self.unreadable[os.path.abspath(path)] = why

    def save(self) -> None:
        """Write both files, each whole or not at all."""
        left_out = [{"image": path, "why": why} for path, why in self.unreadable.items()]
        lists = {"images": list(self.images.values()), "unreadable": left_out}
        write_atomically(self.folder / BOXES, _lines(self.how, lists).encode())
        write_atomically(self.folder / COCO, json.dumps(self.coco(), ensure_ascii=False).encode())
        self._saved = time.monotonic()

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

    def _go_on(self, path: Path, files: Mapping[str, Path]) -> None:
        try:
            before = json.loads(path.read_text())
            images = {os.path.abspath(each["image"]): each for each in before["images"]}
            unreadable = {each["image"]: each["why"] for each in before["unreadable"]}
            names = {each["name"]: key for key, each in images.items()}
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is there and no table of boxes of ours; give another --out") from None
        for name, value in self.how.items():
            if name != "note" and before.get(name) != value:
                held = f"boxes of {len(images)} images with {name} {before.get(name)}"
                raise ValueError(f"{path} holds {held}, and now it is {value}; give another --out")
        for name, file in files.items():
            if names.get(name, os.path.abspath(file)) != os.path.abspath(file):
                raise ValueError(
                    f"{path} holds {name} of {images[names[name]]['image']}, and {file} would take its place; give "
                    "another --out"
                )
        self.images, self.unreadable = images, unreadable


def _lines(words: Mapping[str, Any], lists: Mapping[str, Sequence[Any]]) -> str:
    """JSON with a line for each word and for each element of a list, so that people can read it, too."""
    said = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in words.items()]
    for name, values in lists.items():
        rows = ",\n  ".join(json.dumps(value, ensure_ascii=False) for value in values)
        said.append(f"{json.dumps(name)}: [\n  {rows}\n ]" if rows else f"{json.dumps(name)}: []")
    return "{\n " + ",\n ".join(said) + "\n}\n"
