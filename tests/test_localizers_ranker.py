"""Rankers as localizers: the map is the score."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranker_doubles import Brightness
from tiny_vit import images, vit_file

from vitrail.localizers import open_localizer
from vitrail.localizers.ranker import Ranked
from vitrail.rankers import open_ranker

OPENINGS = {
    "center": lambda folder: {"variant": "center", "image_size": 64, "patch_size": 8},
    "dino": lambda folder: {"weights": vit_file(folder), "variant": "dino"},
    "votes": lambda folder: {"weights": vit_file(folder), "variant": "dino:mass_vote", "keep": 0.5},
}


def test_the_map_is_the_score(tmp_path: Path) -> None:
    weights, x = vit_file(tmp_path), images(2)
    assert torch.equal(open_localizer("ranker", weights, variant="dino")(x).maps, open_ranker("dino", weights)(x))
    votes = open_ranker("dino", weights, variant="mass_vote")
    for keep, number in ((0.25, 4), (0.5, 8)):
        found = open_localizer("ranker", weights, variant="dino:mass_vote", keep=keep)
        assert torch.equal(found(x).maps, votes(x, number=number))


def test_only_those_that_need_a_number_are_asked_for_one() -> None:
    for needs, number in ((True, 9), (False, None)):
        ranker = Brightness(needs_number=needs)
        Ranked(ranker)(images(1, 48, 48))
        assert ranker.numbers == [number]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"the localizer ranker needs the name of one: .* `vitrail list rankers` names"
    ):
        open_localizer("ranker", vit_file(tmp_path))
    with pytest.raises(ValueError, match="there is no ranker 'dyno'; did you mean 'dino'"):
        open_localizer("ranker", vit_file(tmp_path), variant="dyno")
    with pytest.raises(ValueError, match="the ranker dino needs weights: give"):
        open_localizer("ranker", variant="dino")
    for keep in (0.0, 1.5):
        with pytest.raises(ValueError, match="it is the share of the patches that stay, above 0 and at most 1"):
            Ranked(Brightness(), keep)
    x = images(2)
    x[1] = torch.nan
    with pytest.raises(ValueError, match="the map of image 1 of the batch is NaN or infinite"):
        open_localizer("ranker", vit_file(tmp_path), variant="dino")(x)
