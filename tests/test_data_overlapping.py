import random

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.data.overlapping import OverlappingConfig, OverlappingCrops, shared, turned

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
PLAIN = OverlappingConfig(global_size=32, local_size=16, jitter=0, grayscale=0, blur=(0, 0, 0))


def test_views_and_boxes():
    random.seed(0)
    crops = OverlappingCrops(PLAIN)(IMAGE)
    assert [tuple(view.shape) for view in crops.views] == [(3, 32, 32)] * 2 + [(3, 16, 16)] * 4
    assert crops.boxes.shape == (6, 4)
    assert crops.boxes.dtype == torch.float64
    left, top, right, bottom = crops.boxes.unbind(1)
    assert (left >= 0).all()
    assert (right <= 90).all()
    assert (top < bottom).all()
    assert (left < right).all()


@pytest.mark.parametrize("size", [(90, 60), (300, 20), (16, 16), (7, 200)])
def test_crops_share_what_they_must(size):
    random.seed(1)
    crops = OverlappingCrops(PLAIN)
    for _ in range(50):
        first, second, *others = crops.boxes(size)
        area = size[0] * size[1]
        # Boxes that were moved to the overlap of the others hold what they can of it.
        assert shared(first, second) >= min(0.02 * area, 1)
        for other in others:
            assert shared(first, other) >= 1
            assert shared(second, other) >= 1
        for left, top, right, bottom in (first, second, *others):
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]


def test_usual_images_keep_the_published_shares():
    random.seed(2)
    crops = OverlappingCrops(PLAIN)
    for _ in range(200):
        first, second, *others = crops.boxes((500, 375))
        assert shared(first, second) >= 0.02 * 500 * 375
        for other in others:
            assert min(shared(first, other), shared(second, other)) >= 0.01 * 500 * 375


def test_a_flipped_view_says_so_and_shows_the_box_mirrored():
    random.seed(3)
    crops = OverlappingCrops(PLAIN.override(["flip=1.0", "locals=0"]))(IMAGE)
    left, _, right, _ = crops.boxes.unbind(1)
    assert (left > right).all()
    assert turned((1, 2, 5, 6), flipped=True) == (5, 2, 1, 6)


def test_the_companion_is_the_last_view():
    black = Image.fromarray(np.zeros((40, 50, 3), np.uint8))
    config = PLAIN.override(["mean=[0,0,0]", "std=[1,1,1]"])
    random.seed(4)
    with_one = OverlappingCrops(config, companion=True)(IMAGE, black)
    assert len(with_one.views) == 7
    assert with_one.boxes.shape == (7, 4)
    assert with_one.views[-1].abs().max() == 0
    assert with_one.views[0].abs().max() > 0
    without = OverlappingCrops(config, companion=True)(IMAGE)
    assert without.views[-1].shape == (3, 32, 32)
    assert without.views[-1].abs().max() > 0


def test_the_same_state_of_random_gives_the_same_crops():
    seen = []
    for _ in range(2):
        random.seed(5)
        seen.append(OverlappingCrops(OverlappingConfig.tiny(32))(IMAGE))
    assert torch.equal(seen[0].boxes, seen[1].boxes)
    assert all(torch.equal(one, other) for one, other in zip(seen[0].views, seen[1].views))
