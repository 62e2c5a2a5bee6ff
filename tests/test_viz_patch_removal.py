"""Pictures of removals: what stands where, the red patch, the words, and parts that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail.viz.canvas as canvas
from vitrail.viz.patch_removal import RED, Removed, removal_gallery
from vitrail.viz.reconstruction import Reconstructed

IMAGES = torch.full((2, 3, 16, 24), 0.25)
HIDDEN = torch.tensor([[True, False, True, True, False, True], [False, True, True, True, True, False]])


def removed(patches: list[int], value: float) -> Removed:
    name = "largest" if value == 1 else "smallest"
    return Removed(torch.tensor(patches), torch.tensor([0.5, 0.25]) * value, torch.full((2, 6, 192), value), name)


def gallery(normalized: bool = False, **how: object) -> Image.Image:
    anchor = Reconstructed(HIDDEN, torch.zeros(2, 6, 192))
    columns = [removed([1, 0], 1.0), removed([4, 5], 0.5)]
    return removal_gallery(IMAGES, anchor, columns, (8, 8), normalized=normalized, cell=240, **how)  # type: ignore[arg-type]


def test_every_patch_of_every_picture() -> None:
    values = np.asarray(gallery())
    # Two images, two removals of each, and their maps; a patch is 80 pixels wide.
    assert int((values == RED).all(2).sum()) == 8 * 80 * 80

    def centers(column: int) -> list[int]:
        return [int(values[50 + 80 * y, 10 + 250 * column + 40 + 80 * x, 1]) for y in (0, 1) for x in (0, 1, 2)]

    veil, red = 120, RED[1]  # the second channel
    assert centers(0) == [64] * 6  # 0.25
    assert centers(1) == [veil, 64, veil, veil, 64, veil]
    assert centers(2) == [0, 64, 0, 0, 64, 0]
    assert centers(3) == [255, red, 255, 255, 64, 255]
    assert centers(4) == [128, 64, 128, 128, red, 128]


def test_the_first_image_loses_the_named_patch() -> None:
    values = np.asarray(gallery())
    columns = np.flatnonzero((values == RED).all(2)[:180].any(0))
    starts = [int(column) for column in columns if column - 1 not in columns]
    # Pictures start every 250 pixels, from 10 on; patch 1 is the second of the first row, patch 4 of the second.
    assert starts == [10 + 3 * 250 + 80, 10 + 4 * 250 + 80]


def test_maps_of_where_it_changes() -> None:
    """Patch by patch, on one scale for an image; visible patches gray, the one that is gone red."""
    predictions = torch.zeros(2, 6, 192)
    predictions[0, 2] = torch.linspace(0, 2, 192)  # 1 in the mean
    predictions[0, [3, 4]] = 0.5  # 4 is visible, and does not count
    columns = [Removed(torch.tensor([1, 0]), torch.tensor([0.4, 0.0]), predictions, "largest"), removed([4, 5], 0.5)]
    anchor = Reconstructed(HIDDEN, torch.zeros(2, 6, 192))
    values = np.asarray(removal_gallery(IMAGES, anchor, columns, (8, 8), normalized=False, cell=240))
    top = int(np.flatnonzero((values[180:, 800] != 255).any(1))[0]) + 180  # below the captions, in column 3
    start = next(y for y in range(top, len(values)) if (values[y, 10 + 3 * 250 + 120] == RED).all())

    def centers(column: int) -> list[tuple[int, ...]]:
        place = 10 + 250 * column + 40
        return [tuple(map(int, values[start + 40 + 80 * y, place + 80 * x])) for y in (0, 1) for x in (0, 1, 2)]

    none, half, most = (
        (*map(int, np.asarray(canvas.paint(np.array([[v]]), "viridis"))[0, 0]),) for v in (0.0, 0.5, 1.0)
    )
    gray = (116, 120, 128)
    assert centers(3) == [none, RED, most, half, gray, none]
    assert centers(4) == [half, gray, half, half, RED, half]


@pytest.mark.parametrize("normalized", [True, False])
def test_words(normalized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    paragraph = canvas._paragraph

    def listen(text: str, *where: object) -> Image.Image:
        said.append(text.replace("\u00a0", " "))
        return paragraph(text, *where)  # type: ignore[arg-type]

    monkeypatch.setattr(canvas, "_paragraph", listen)
    gallery(normalized, titles=["one.png", "two.png"])
    assert {"image", "2 visible patches", "from them", "one.png"} <= set(said)
    assert "without one: largest change 0.5000" in said
    assert "without one: smallest change 0.1250" in said
    assert {"where: up to 1.0000", "where: up to 0.5000"} <= set(said)
    assert "patch by patch, dark for none" in said[-1]
    assert ("own mean and spread" in said[-1]) == normalized


def test_errors() -> None:
    anchor = Reconstructed(HIDDEN, torch.zeros(2, 6, 192))
    with pytest.raises(ValueError, match="patch 2 is to be removed, and it is not visible"):
        removal_gallery(IMAGES, anchor, [removed([1, 2], 1.0)], (8, 8), normalized=False)
    with pytest.raises(ValueError, match="0 images"):
        removal_gallery(IMAGES[:0], anchor, [], (8, 8), normalized=False)
    with pytest.raises(ValueError, match="predictions are"):
        removal_gallery(IMAGES, anchor._replace(predictions=torch.zeros(2, 6, 3)), [], (8, 8), normalized=False)
