"""The whole image as a map that is not constant."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from planted_vit import box_of

from vitrail.localizers import open_localizer

OPENINGS = {"default": lambda folder: {}, "wide": lambda folder: {"image_size": (24, 40)}}


@pytest.mark.parametrize("size", [(2, 2), (2, 5), (3, 3), (17, 30), (224, 224)])
def test_the_box_is_the_image_at_every_threshold(size: tuple[int, int]) -> None:
    (found,) = open_localizer("whole_image", image_size=size)(torch.randn(1, 3, *size)).maps
    assert found.sum() == found.numel() - 1
    assert box_of(found == 1) == (0, 0, size[1], size[0])
    for threshold in (1, 128, 255):
        seen = (found.numpy() * 255 >= threshold).astype(np.uint8)
        outlines, _ = cv2.findContours(seen, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        assert [cv2.boundingRect(each) for each in outlines] == [(0, 0, size[1], size[0])]
