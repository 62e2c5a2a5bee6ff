"""The class token's attention of chosen heads, stretched to [0, 1]."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_vit import images, tiny_vit, vit_file

from vitrail.localizers import open_localizer
from vitrail.localizers.attention import Attention
from vitrail.rankers.dino import Dino

OPENINGS = {
    "all_heads": lambda folder: {"weights": vit_file(folder)},
    "first_three": lambda folder: {"weights": vit_file(folder, heads=4), "variant": "first_three"},
    "one head": lambda folder: {"weights": vit_file(folder), "heads": [1]},
    "registers": lambda folder: {"weights": vit_file(folder, options={"reg_tokens": 2})},
}


@pytest.mark.parametrize("heads", [(0,), (2, 0), (0, 1, 2), None])
def test_the_mean_of_the_heads(heads: tuple[int, ...] | None) -> None:
    backbone, x = tiny_vit(), images(3, 32, 48)
    attention = Dino(backbone).attention(x)
    maps = Attention(backbone, heads)(x).maps
    for found, each in zip(maps, attention):
        mean = sum(each[head] for head in heads or (0, 1, 2)) / len(heads or (0, 1, 2))
        torch.testing.assert_close(found, (mean - mean.min()) / (mean.max() - mean.min()))
        assert (found.min(), found.max()) == (0, 1)


def test_attention_that_is_the_same_everywhere_becomes_zero() -> None:
    backbone = tiny_vit()
    backbone.vit.blocks[-1].attn.qkv.weight[24:48] = 0  # keys are their bias alone
    assert not Attention(backbone)(images(2)).maps.any()


def test_variants_say_heads(tmp_path: Path) -> None:
    weights = vit_file(tmp_path, heads=4)
    assert open_localizer("attention", weights).heads == (0, 1, 2, 3)
    assert open_localizer("attention", weights, variant="first_three").heads == (0, 1, 2)
    assert open_localizer("attention", weights, heads=[3, 1]).heads == (3, 1)
    with pytest.raises(ValueError, match=r"heads \(1,\) and the variant first_three both say which heads"):
        open_localizer("attention", weights, variant="first_three", heads=[1])
    with pytest.raises(ValueError, match=r"heads are \(0, 1, 2\); this backbone has 0 to 1"):
        open_localizer("attention", vit_file(tmp_path, heads=2), variant="first_three")


@pytest.mark.parametrize("heads", [(), (3,), (-1,), (1, 1)])
def test_heads_that_are_refused(heads: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="this backbone has 0 to 2: name at least one, and each once"):
        Attention(tiny_vit(), heads)


def test_a_block_that_stays_closed() -> None:
    backbone = tiny_vit()
    backbone._closed[2] = "no way in"
    with pytest.raises(ValueError, match="the localizer attention reads the last block's attention: no way in"):
        Attention(backbone)
