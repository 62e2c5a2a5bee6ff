"""Pictures of masks and of the order of a greedy choice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.canvas import LEAD
from vitrail.viz.masks import greedy_order, mask_gallery, veiled

IMAGE = Image.effect_noise((90, 60), 80).convert("RGB")
GRID = (4, 6)


def some(batch: int = 2, count: int = 24, hidden: int = 18) -> torch.Tensor:
    order = torch.rand(batch, count, generator=torch.Generator().manual_seed(0)).argsort(1)
    return order < hidden


def test_hidden_patches_are_veiled_and_visible_ones_untouched() -> None:
    mask = torch.zeros(24, dtype=torch.bool)
    mask[[0, 9, 23]] = True
    before, after = np.asarray(IMAGE), np.asarray(veiled(IMAGE, mask, GRID, veil=1))
    for patch in range(24):
        row, column = divmod(patch, 6)
        here = np.s_[15 * row : 15 * row + 15, 15 * column : 15 * column + 15]
        if mask[patch]:
            assert len(np.unique(after[here].reshape(-1, 3), axis=0)) == 1
        else:
            assert np.array_equal(after[here], before[here])


def test_how_thick_the_veil_is() -> None:
    everything = torch.ones(24, dtype=torch.bool)
    spread = [np.asarray(veiled(IMAGE, everything, GRID, veil=veil)).std() for veil in (0.0, 0.5, 0.9)]
    assert spread[0] > spread[1] > spread[2] > 0
    assert np.array_equal(np.asarray(veiled(IMAGE, everything, GRID, veil=0)), np.asarray(IMAGE))


def test_a_gallery_has_a_row_for_each_image_and_a_column_for_each_strategy() -> None:
    masks = {"random": some(), "block": some(hidden=12), "DPP": some(hidden=6)}
    picture = mask_gallery([IMAGE, IMAGE.rotate(90, expand=True)], masks, GRID, cell=100)
    assert picture.mode == "RGB"
    assert picture.width == 10 + 4 * 110
    assert picture.height > 40 + 60
    titled = mask_gallery([IMAGE] * 2, masks, GRID, cell=100, titles=["a", "b"], theme=LEAD)
    assert titled.width > picture.width
    assert titled.getpixel((0, 0)) == LEAD.background


def test_columns_stand_where_they_belong() -> None:
    """With nothing hidden a column repeats the image; with all but one hidden it does not."""
    masks = {"none": torch.zeros(1, 24, dtype=torch.bool), "most": some(1, hidden=23)}
    pixels = np.asarray(mask_gallery([IMAGE], masks, GRID, cell=90))
    first, second, third = (pixels[10:70, x : x + 90] for x in (10, 110, 210))
    assert np.array_equal(first, np.asarray(IMAGE))
    assert np.array_equal(second, first)
    assert (third == first).all(2).mean() < 0.1


@pytest.mark.parametrize("grid", [(4, 6), (1, 24), (24, 1), (1, 1)])
@pytest.mark.parametrize("numbered", [0, 9])
def test_orders_on_any_grid(grid: tuple[int, int], numbered: int) -> None:
    count = grid[0] * grid[1]
    ids = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    for length in (0, count // 2, count):
        assert greedy_order(IMAGE, ids, length, grid, numbered=numbered, cell=120).width == 10 + 3 * 130


def test_earlier_choices_are_brighter_and_chance_is_gray() -> None:
    ids = torch.tensor([5, 14, 20, 3, 8, 11])
    pixels = np.asarray(greedy_order(IMAGE, ids, 4, GRID, numbered=0, cell=180))
    panel = pixels[10:130, 10 + 2 * 190 : 10 + 2 * 190 + 180].astype(float)

    def corner(patch: int) -> np.ndarray:
        row, column = divmod(patch, 6)
        return panel[30 * row + 3, 30 * column + 3]

    light = [corner(int(patch)) @ [0.299, 0.587, 0.114] for patch in ids[:4]]
    assert light == sorted(light, reverse=True)
    assert light[0] > light[3] + 60
    for patch in ids[4:]:
        assert np.ptp(corner(int(patch))) < 10  # gray
        row, column = divmod(int(patch), 6)
        assert panel[30 * row : 30 * row + 30, 30 * column : 30 * column + 30].min() < 60  # its ring


def test_numbers_are_drawn() -> None:
    ids = torch.arange(10)
    plain, numbered = (np.asarray(greedy_order(IMAGE, ids, 10, GRID, numbered=n, cell=180)) for n in (0, 3))
    changed = (plain != numbered).any(2)[10:130, 390:570]
    assert [bool(changed[:30, 30 * n : 30 * n + 30].any()) for n in range(6)] == [True] * 3 + [False] * 3
    assert not changed[30:].any()


def test_the_same_picture_every_time_and_inputs_untouched() -> None:
    masks, before = {"random": some()}, some()
    one, other = (mask_gallery([IMAGE] * 2, masks, GRID).tobytes() for _ in range(2))
    assert one == other
    assert masks["random"].equal(before)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"torch.bool \(20,\); for a 4x6 grid it is bool \(24,\)"):
        veiled(IMAGE, torch.zeros(20, dtype=torch.bool), GRID)
    with pytest.raises(ValueError, match=r"torch.float32"):
        veiled(IMAGE, torch.zeros(24), GRID)
    with pytest.raises(ValueError, match=r"veil is 2"):
        veiled(IMAGE, some()[0], GRID, veil=2)
    with pytest.raises(ValueError, match=r"1 images and 0 masks"):
        mask_gallery([IMAGE], {}, GRID)
    with pytest.raises(ValueError, match=r"'random' has shape \(2, 24\) for 1 images"):
        mask_gallery([IMAGE], {"random": some()}, GRID)
    with pytest.raises(ValueError, match=r"length is 4 of 3 chosen"):
        greedy_order(IMAGE, torch.arange(3), 4, GRID)
    with pytest.raises(ValueError, match=r"different patches, 0 to 23 on a 4x6 grid; got \[1, 1\]"):
        greedy_order(IMAGE, torch.tensor([1, 1]), 1, GRID)
    with pytest.raises(ValueError, match=r"ids are torch.int64 \(1, 2\)"):
        greedy_order(IMAGE, torch.tensor([[1, 2]]), 1, GRID)
