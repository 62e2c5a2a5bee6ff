"""TokenCut on planted keys, where the right box is known, and against its own mathematics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from planted_vit import box_of, planted_images, planted_vit
from tiny_vit import images, tiny_vit, vit_file

from vitrail.localizers import open_localizer
from vitrail.localizers.token_cut import TokenCut
from vitrail.ops.token_cut import cut_tokens

OPENINGS = {
    "component": lambda folder: {"weights": vit_file(folder)},
    "soft": lambda folder: {"weights": vit_file(folder), "variant": "soft"},
    "registers, another graph": lambda folder: {
        "weights": vit_file(folder, options={"reg_tokens": 2}),
        "tau": 0.0,
        "epsilon": 1e-3,
    },
    "another size": lambda folder: {"weights": vit_file(folder), "image_size": (40, 24)},
}


def test_a_planted_object_is_found_exactly() -> None:
    planted = planted_images()
    maps = TokenCut(planted_vit())(planted.images).maps
    assert torch.equal(maps, planted.masks.float())
    assert [box_of(each == 1) for each in maps] == planted.boxes
    soft = TokenCut(planted_vit(), "soft")(planted.images).maps
    assert soft.shape == (4, 8, 8)
    assert torch.equal(soft.repeat_interleave(8, 1).repeat_interleave(8, 2) > 0, planted.masks)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_an_image_of_one_color_is_not_cut(value: float) -> None:
    x = torch.full((2, 3, 64, 64), value)
    maps = TokenCut(planted_vit())(x).maps
    assert all(box_of(each == 1) == (0, 0, 64, 64) for each in maps)
    assert (maps == 0).sum() == 2  # a hole each, so that no map is constant
    assert not TokenCut(planted_vit(), "soft")(x).maps.any()


def test_the_keys_of_the_last_block_are_read() -> None:
    backbone, x = tiny_vit(), images(3, 32, 48)
    found = cut_tokens(*backbone.keys(x), tau=0.1, epsilon=1e-4)
    assert torch.equal(TokenCut(backbone, tau=0.1, epsilon=1e-4)(x).maps[:, ::8, ::8], found.mask.float())
    soft = TokenCut(backbone, "soft", 0.1, 1e-4)(x).maps
    torch.testing.assert_close(soft, found.eigenvector.float())


def test_one_patch() -> None:
    maps = TokenCut(tiny_vit(image_size=8))(images(2, 8, 8)).maps
    assert all(box_of(each == 1) == (0, 0, 8, 8) for each in maps)


def test_what_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="variant is 'hard'; known: component, soft"):
        TokenCut(tiny_vit(), "hard")
    with pytest.raises(ValueError, match=r"tau 1.5, epsilon 1e-05; a cosine is in \[-1, 1\]"):
        open_localizer("token_cut", vit_file(tmp_path), tau=1.5)
    backbone = tiny_vit()
    backbone._closed[2] = "no way in"
    with pytest.raises(ValueError, match="the localizer token_cut reads keys of the last block: no way in"):
        TokenCut(backbone)
