from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.viz.attention import attention_overlays
from vitrail.viz.blobs import blob_overlays
from vitrail.viz.canvas import fit
from vitrail.viz.heads_side_by_side import heads_of_images, heads_side_by_side
from vitrail.viz.regions import region_overlays

IMAGE = Image.effect_noise((90, 60), 60).convert("RGB")
ALL = [attention_overlays, partial(region_overlays, mass=0.6), blob_overlays]


def cells(sheet: Image.Image, picture: Image.Image) -> int:
    """How often a picture stands in a sheet."""
    whole, part = np.asarray(sheet), np.asarray(picture)
    height, width = part.shape[:2]
    corners = np.argwhere((whole[: -height + 1, : -width + 1] == part[0, 0]).all(2))
    return sum(np.array_equal(whole[y : y + height, x : x + width], part) for y, x in corners)


@pytest.mark.parametrize("overlays", ALL, ids=["attention", "regions", "blobs"])
def test_every_head_of_every_network_on_its_own_grid(overlays):
    """A network with 7 x 7 keys beside one with 14 x 14 patches, and another number of heads."""
    torch.manual_seed(0)
    scores = {"vit": torch.randn(3, 14, 14), "cvt": torch.randn(2, 7, 7)}
    sheet = heads_side_by_side(IMAGE, scores, overlays, cell=120)
    small = fit(IMAGE, 120)
    assert cells(sheet, small) == 1  # once, left of the first network
    for found in scores.values():
        pictures, words = overlays(small, found)
        assert len(pictures) == len(words) >= len(found)
        assert [cells(sheet, picture) for picture in pictures] == [1] * len(pictures)


def test_a_row_for_each_network_and_a_column_for_each_head():
    torch.manual_seed(0)
    one, two = torch.randn(3, 4, 4), torch.randn(5, 4, 4)
    sizes = [
        heads_side_by_side(IMAGE, scores, attention_overlays, cell=100).size
        for scores in ({"a": one}, {"a": one, "a ": one}, {"a": one, "a ": two})
    ]
    assert sizes[0][0] == sizes[1][0] == sizes[2][0] - 2 * 110
    assert sizes[1][1] > sizes[0][1] + 67


def test_means_stand_below_each_other_and_grids_are_told(monkeypatch: pytest.MonkeyPatch):
    """Networks of three heads, of one, which has no mean, and of two."""
    from vitrail.viz import heads_side_by_side as module

    given: dict[str, list] = {}
    right = module.sheet
    monkeypatch.setattr(module, "sheet", lambda rows, **more: given.update(more, rows=rows) or right(rows, **more))
    scores = {"vit": torch.randn(3, 14, 14), "one": torch.randn(1, 2, 2), "cvt": torch.randn(2, 7, 9)}
    heads_side_by_side(IMAGE, scores, attention_overlays)
    drawn = [[cell is not None for cell in row] for row in given["rows"]]
    assert drawn == [[True] * 5, [False, True, False, False], [False, True, True, False, True]]
    words = [[text.split(",")[0] for text in row] for row in given["captions"]]
    assert words[0] == ["image", "head 0", "head 1", "head 2", "mean of 3 heads"]
    assert words[2] == ["", "head 0", "head 1", "", "mean of 2 heads"]
    titles = [text.replace("\u00a0", " ") for text in given["row_titles"]]
    assert titles == ["vit\nmaps of 14 x 14", "one\nmaps of 2 x 2", "cvt\nmaps of 7 x 9"]


def test_several_images_stand_below_each_other():
    torch.manual_seed(0)
    tall = Image.new("RGB", (20, 100), "gray")
    scores = {"a": [torch.randn(2, 4, 4)] * 2, "b": [torch.randn(2, 4, 4)] * 2}
    both = heads_of_images([IMAGE, tall], scores, blob_overlays, cell=100)
    apart = [
        heads_side_by_side(image, {name: found[0] for name, found in scores.items()}, blob_overlays, cell=100)
        for image in (IMAGE, tall)
    ]
    assert both.height == sum(each.height for each in apart)
    assert both.width == max(each.width for each in apart)
    assert apart[1].width >= 3 * 100  # words have room below a tall image


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="at least one network"):
        heads_side_by_side(IMAGE, {}, blob_overlays)
    with pytest.raises(ValueError, match="'a' has seen 1 of 2 images"):
        heads_of_images([IMAGE] * 2, {"a": [torch.zeros(1, 2, 2)]}, blob_overlays)
