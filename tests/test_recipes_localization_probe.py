"""Localization between epochs: that it is the protocol's own at the same threshold; that nothing found is a miss."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from object_scenes import squares
from torch import Tensor

from vitrail.contracts import Located
from vitrail.data import EvalTransformConfig
from vitrail.evaluation.localization import LocalizationConfig, evaluate
from vitrail.recipes.localization_probe import box_of, drawing_located, localization_probe


class Noisy(torch.nn.Module):
    """A map of 8 x 8 with the color in it and noise, the same for the same image; or a flat one."""

    mean, std, image_size, classes = (0.5,) * 3, (0.5,) * 3, (32, 32), None
    generator = True

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        self.backbone, self.flat = torch.nn.Linear(1, 1), flat

    def forward(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        small = torch.nn.functional.avg_pool2d(images, 4)
        maps = small.amax(1) - small.amin(1) + 0.6 * (small[:, 0] * 97).sin().abs()
        return Located(torch.ones_like(maps) if self.flat else maps)


@pytest.mark.parametrize("view", ["squash", "crop"])
@pytest.mark.parametrize("threshold", [0.3, 0.4, 0.45])
def test_numbers_are_those_of_the_protocol(view: Literal["squash", "crop"], threshold: float) -> None:
    data, localizer = squares(40), Noisy()
    seen = EvalTransformConfig(image_size=24, mode=view, mean=localizer.mean, std=localizer.std)
    found = localization_probe(localizer, data, seen, threshold)()
    whole: Any = localizer
    measured = evaluate(whole, data, LocalizationConfig(view=view, image_size=24, threshold=threshold)).numbers
    assert found["gt_known_50"] == pytest.approx(measured["gt_known_loc"])
    assert 0 < found["gt_known_50"] < 100
    assert found["floor_whole_50"] == pytest.approx(measured["floor_whole_image"])


def test_a_map_that_finds_nothing_is_a_miss() -> None:
    seen = EvalTransformConfig(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert localization_probe(Noisy(flat=True), squares(6), seen, 0.5)()["gt_known_50"] == 0
    assert box_of(torch.ones(4, 5), 0.5) is None


def test_the_pictures_say_what_is_shown(tmp_path: Path) -> None:
    for mode, words in (("crop", "Held-out images before training, their middle, their maps"), ("squash", "squashed")):
        seen = EvalTransformConfig(image_size=32, mode=mode, mean=(0.5,) * 3, std=(0.5,) * 3)
        draw = drawing_located(Noisy(flat=mode == "squash"), squares(3), seen, 0.5)
        assert draw is not None
        draw(tmp_path, "before", None)
        assert words in (tmp_path / "captions.json").read_text()
