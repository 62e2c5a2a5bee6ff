"""A file of boxes beside the folder of a split: `val_boxes.txt` beside `val/`, `train_boxes.txt` beside `train/`.

Lines are `<path below that folder> x0 y0 x1 y1`: pixels of the upright image counted from 0, the last ones still inside
the box, as in Tiny-ImageNet; several lines for several boxes. The tables of CUB and of wsolevaluation have lines of
their own, see `vitrail.data.cub` and `vitrail.data.wsol`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Box = tuple[float, float, float, float]
"""Half-open x0 y0 x1 y1, pixels."""
LINE = "`class/image.jpg x0 y0 x1 y1`, pixels from 0, both ends inside the box"
"""A line, in words."""
FAR = 1e9
"""Pixels; no box reaches so far."""


def parse_folder_line(line: str) -> tuple[str, Box]:
    """`a/1.png 0 0 7 5` -> `a/1.png` and (0, 0, 8, 6). Raises `ValueError`."""
    parts = line.rsplit(maxsplit=4)
    x0, y0, x1, y1 = four_numbers(parts[1:], "`<path> x0 y0 x1 y1`")
    if x1 < x0 or y1 < y0:
        wrong = f"x1 {parts[3]} is left of x0 {parts[1]}" if x1 < x0 else f"y1 {parts[4]} is above y0 {parts[2]}"
        raise ValueError(f"the box {' '.join(parts[1:])} ends before it begins: {wrong}")
    return parts[0].replace("\\", "/"), (x0, y0, x1 + 1, y1 + 1)


def four_numbers(words: Sequence[str], line: str) -> Box:
    """Four finite numbers. Raises `ValueError` otherwise, with what a line is to be."""
    try:
        x0, y0, x1, y1 = (float(word) for word in words)
    except ValueError:
        raise ValueError(f"expected {line}") from None
    if not all(abs(value) < FAR for value in (x0, y0, x1, y1)):  # NaN is not, either
        raise ValueError(f"expected finite numbers of pixels, as in {line}; write the box anew or remove the line")
    return x0, y0, x1, y1


def box_file(root: Path, folder: str, split: str) -> Path | None:
    """The box file of a split: FOLDER_boxes.txt, or train_boxes.txt and val_boxes.txt whatever its folder is called.

    None where there is neither.
    """
    paths = (root / f"{name}_boxes.txt" for name in (folder, split))
    return next((path for path in paths if path.is_file()), None)
