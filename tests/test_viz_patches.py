"""Kept patches and score maps: what is veiled, what stands where."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.ops.selection import select
from vitrail.viz.patches import Ranked, kept_patches, ranked_picture, rankers_gallery

IMAGE = Image.effect_noise((90, 60), 80).convert("RGB")
GRID = (4, 6)


def ranked(number: int = 6, seed: int = 0, grid: tuple[int, int] = GRID) -> Ranked:
    scores = torch.rand(grid, generator=torch.Generator().manual_seed(seed))
    return Ranked(scores, select(scores[None], number)[0])


def test_kept_patches_are_untouched_and_all_others_veiled() -> None:
    found = ranked()
    before, after = np.asarray(IMAGE), np.asarray(kept_patches(IMAGE, found, veil=1))
    for patch in range(24):
        row, column = divmod(patch, 6)
        here = np.s_[15 * row : 15 * row + 15, 15 * column : 15 * column + 15]
        same = np.array_equal(after[here], before[here])
        assert same == (patch in found.ids.tolist())


def test_a_gallery_has_a_column_for_each_ranker_and_two_rows_for_each_image() -> None:
    both = {"a": [ranked(), ranked(3, 1)], "b": [ranked(24, 2), ranked(5, 3, (3, 3))]}
    full = rankers_gallery([IMAGE, IMAGE.rotate(90, expand=True)], both, cell=60)
    assert full.width == 10 + 3 * 70
    half = rankers_gallery([IMAGE, IMAGE.rotate(90, expand=True)], both, cell=60, maps=False)
    assert half.height < full.height - 80
    pixels = np.asarray(rankers_gallery([IMAGE], {"all": [ranked(24)], "few": [ranked(1)]}, cell=90, maps=False))
    first, second, third = (pixels[10:70, x : x + 90] for x in (10, 110, 210))
    assert np.array_equal(first, np.asarray(IMAGE))
    assert np.array_equal(second, first)
    assert (third == first).all(2).mean() < 0.15


def test_words_have_room_below_narrow_pictures() -> None:
    narrow = IMAGE.resize((12, 120))
    picture = ranked_picture(narrow, ranked(), cell=120)
    assert picture.width == 10 + 3 * (48 + 10)
    assert np.array_equal(np.asarray(picture)[10:130, 10:22], np.asarray(narrow))
    assert (np.asarray(picture)[10:130, 22:58] == 255).all()
    assert rankers_gallery([narrow], {"a": [ranked()]}, cell=120).width == 10 + 2 * (48 + 10)


def test_the_brightest_part_of_a_map_is_the_largest_score() -> None:
    scores = torch.zeros(4, 6)
    scores[1, 4] = 1
    picture = np.asarray(ranked_picture(IMAGE, Ranked(scores, torch.tensor([10])), cell=90)).astype(float)
    shown = picture[10:70, 210:300].mean(2).reshape(4, 15, 6, 15).mean((1, 3))
    assert np.unravel_index(shown.argmax(), shown.shape) == (1, 4)


@pytest.mark.parametrize(
    ("images", "entries", "words"),
    [
        ([], {"a": []}, "0 images and 1 rankers"),
        ([IMAGE], {}, "1 images and 0 rankers"),
        ([IMAGE], {"a": []}, "'a' has 0 entries for 1 images"),
        ([IMAGE], {"a": [Ranked(torch.full((2, 2), torch.nan), torch.tensor([0]))]}, "NaN"),
        ([IMAGE], {"a": [Ranked(torch.zeros(2, 2), torch.tensor([4]))]}, "patches 0 to 3"),
    ],
)
def test_what_cannot_be_drawn_is_told(images: list, entries: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rankers_gallery(images, entries)
