"""LOST on planted keys, where the right box is known, and against its own mathematics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from planted_vit import box_of, planted_images, planted_vit
from tiny_vit import images, tiny_vit, vit_file

from vitrail.localizers import open_localizer
from vitrail.localizers.lost import Lost
from vitrail.ops.lost import expand_seed

OPENINGS = {
    "component": lambda folder: {"weights": vit_file(folder)},
    "soft": lambda folder: {"weights": vit_file(folder), "variant": "soft"},
    "registers, few join": lambda folder: {"weights": vit_file(folder, options={"reg_tokens": 2}), "k": 3},
    "another size": lambda folder: {"weights": vit_file(folder), "image_size": (40, 24)},
}


def test_a_planted_object_is_found_exactly() -> None:
    planted = planted_images()
    for k in (1, 4, 100):
        maps = Lost(planted_vit(), k=k)(planted.images).maps
        assert torch.equal(maps, planted.masks.float())
    assert [box_of(each == 1) for each in maps] == planted.boxes
    soft = Lost(planted_vit(), "soft")(planted.images).maps
    assert soft.shape == (4, 8, 8)
    assert torch.equal(soft.repeat_interleave(8, 1).repeat_interleave(8, 2) >= 0, planted.masks)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_an_image_of_one_color_is_an_object_as_a_whole(value: float) -> None:
    maps = Lost(planted_vit())(torch.full((2, 3, 64, 64), value)).maps
    assert all(box_of(each == 1) == (0, 0, 64, 64) for each in maps)
    assert (maps == 0).sum() == 2  # a hole each, so that no map is constant


def test_the_keys_of_the_last_block_are_read() -> None:
    backbone, x = tiny_vit(), images(3, 32, 48)
    found = expand_seed(*backbone.keys(x), k=5)
    assert torch.equal(Lost(backbone, k=5)(x).maps[:, ::8, ::8], found.mask.float())
    torch.testing.assert_close(Lost(backbone, "soft", 5)(x).maps, found.likeness.float())


def test_one_patch() -> None:
    maps = Lost(tiny_vit(image_size=8))(images(2, 8, 8)).maps
    assert all(box_of(each == 1) == (0, 0, 8, 8) for each in maps)


def test_what_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="variant is 'hard'; known: component, soft"):
        Lost(tiny_vit(), "hard")
    with pytest.raises(ValueError, match="k is 0; it is at least 1"):
        open_localizer("lost", vit_file(tmp_path), k=0)
    backbone = tiny_vit()
    backbone._closed[2] = "no way in"
    with pytest.raises(ValueError, match="the localizer lost reads keys of the last block: no way in"):
        Lost(backbone)
    with pytest.raises(ValueError, match="is not a multiple of the patch size"):
        Lost(tiny_vit())(images(1, 30, 32))
