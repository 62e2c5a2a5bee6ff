"""Generated scenes: the same bits everywhere, random access, honest masks and boxes, motion."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from processes import python

from vitrail.data import SyntheticScenes, synthetic
from vitrail.data.synthetic import CHUNK, contact_sheet

# Written down once; another machine, NumPy or process that paints other bits fails here.
CHECKSUM = "81d289516283cd28"
WIDE_CHECKSUM = "548ae7b75fed410d"


def checksum(data: SyntheticScenes, count: int) -> str:
    images, labels, masks = data.arrays(0, count)
    return hashlib.sha256(images.tobytes() + labels.tobytes() + masks.tobytes()).hexdigest()[:16]


def test_the_same_bits_on_every_machine() -> None:
    assert checksum(SyntheticScenes(64), 64) == CHECKSUM
    assert checksum(SyntheticScenes(20, image_size=(40, 72), classes=13, seed=5, split="val"), 20) == WIDE_CHECKSUM


def test_the_same_bits_in_another_process() -> None:
    words = (
        "import hashlib; from vitrail.data import SyntheticScenes as S; a, b, c = S(9, seed=4).arrays(0, 9);"
        "print(hashlib.sha256(a.tobytes() + b.tobytes() + c.tobytes()).hexdigest()[:16])"
    )
    found = python("-c", words).stdout
    assert found.strip() == checksum(SyntheticScenes(9, seed=4), 9)


@pytest.mark.parametrize("cache", [False, True])
def test_any_scene_alone_equals_the_scene_among_others(cache: bool) -> None:
    data = SyntheticScenes(300, image_size=24, cache=cache)  # more than one chunk
    images, labels, masks = data.arrays(0, 300)
    for index in (299, 0, CHUNK - 1, CHUNK, 17):
        sample = data[index]
        assert sample.label == labels[index]
        np.testing.assert_array_equal(np.asarray(sample.image), images[index])
        np.testing.assert_array_equal(sample.mask, masks[index])


def test_a_scene_does_not_depend_on_how_many_there_are() -> None:
    np.testing.assert_array_equal(SyntheticScenes(5).arrays(0, 5)[0], SyntheticScenes(5000).arrays(0, 5)[0])


def test_classes_are_balanced_and_named() -> None:
    data = SyntheticScenes(96, image_size=16, classes=12)
    assert len(set(data.classes)) == 12
    assert np.bincount(data.arrays(0, 96)[1]).tolist() == [8] * 12


@pytest.mark.parametrize("size", [48, (32, 80), 97])
def test_mask_and_box_are_those_of_the_object(size: int | tuple[int, int]) -> None:
    data = SyntheticScenes(40, image_size=size)
    for index in range(40):
        sample = data[index]
        assert sample.mask is not None
        assert sample.boxes is not None
        assert sample.image.size == sample.mask.shape[::-1]
        assert set(np.unique(sample.mask)) == {0, 1 + int(sample.label or 0)}
        (x0, y0, x1, y1) = sample.boxes[0].astype(int)
        assert sample.mask[y0:y1, x0:x1].sum() == sample.mask.sum()
        assert sample.mask[y0, x0:x1].any()
        assert sample.mask[y1 - 1, x0:x1].any()
        assert sample.mask[y0:y1, x0].any()
        assert sample.mask[y0:y1, x1 - 1].any()
        assert 0.005 < (sample.mask > 0).mean() < 0.4


def test_the_object_is_painted_where_the_mask_says() -> None:
    """Two classes with the same draws differ inside the union of their masks (and its soft edge) alone."""
    one = SyntheticScenes(1, image_size=64, classes=2)
    painted, _, mask = one.arrays(0, 1)
    two = SyntheticScenes(1, image_size=64, classes=2)
    two_classes = two.arrays
    draws = one._draws(0)[None]
    from vitrail.data.synthetic import _paint

    other, other_mask = _paint(draws, np.array([1]), (64, 64))
    assert two_classes(0, 1)[0].tobytes() == painted.tobytes()
    union = (mask[0] > 0) | (other_mask[0] > 0)
    grown = np.zeros_like(union)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            grown |= np.roll(union, (dy, dx), (0, 1))
    differs = (painted[0] != other[0]).any(-1)
    assert differs[union].mean() > 0.9
    assert not differs[~grown].any()


def test_splits_and_seeds_share_no_scene() -> None:
    sets = [
        SyntheticScenes(200, image_size=16, seed=seed, split=split).arrays(0, 200)[0]
        for seed in (0, 1)
        for split in ("train", "val")
    ]
    seen = [image.tobytes() for images in sets for image in images]
    assert len(set(seen)) == len(seen)


def test_the_digest_tells_different_sets_apart() -> None:
    sets = [
        SyntheticScenes(10),
        SyntheticScenes(11),
        SyntheticScenes(10, image_size=56),
        SyntheticScenes(10, classes=9),
        SyntheticScenes(10, seed=1),
        SyntheticScenes(10, split="val"),
    ]
    assert len({data.digest() for data in sets}) == len(sets)
    assert SyntheticScenes(10).digest() == sets[0].digest()


def test_moving_scenes_move_a_little_at_a_time() -> None:
    frames = SyntheticScenes(4, image_size=64).motion(2, 12)
    assert len(frames) == 12
    assert len({frame.label for frame in frames}) == 1
    centers = []
    for frame in frames:
        assert frame.mask is not None
        rows, columns = np.nonzero(frame.mask)
        centers.append((rows.mean(), columns.mean()))
    steps = np.linalg.norm(np.diff(np.array(centers), axis=0), axis=1)
    assert steps.max() < 6  # pixels
    assert np.linalg.norm(np.subtract(centers[-1], centers[0])) > 1
    again = SyntheticScenes(4, image_size=64).motion(2, 12)
    assert all(np.array_equal(one.image, two.image) for one, two in zip(frames, again))


def test_motion_begins_with_the_scene_and_keeps_the_object_inside() -> None:
    data = SyntheticScenes(20, image_size=(48, 80))
    for index in range(20):
        scene, frames = data[index], data.motion(index, 5)
        assert np.array_equal(frames[0].image, scene.image)
        assert np.array_equal(frames[0].mask, scene.mask)
        assert np.array_equal(data.motion(index, 1)[0].image, scene.image)
        areas = [float((frame.mask > 0).sum()) for frame in frames]
        assert min(areas) > 0.75 * max(areas)  # turning changes how a shape falls on pixels


def test_contact_sheet_shows_each_scene_above_its_mask() -> None:
    data = SyntheticScenes(3, image_size=16)
    sheet = np.asarray(contact_sheet([data[index] for index in range(3)], columns=2))
    assert sheet.shape == (64, 32, 3)
    np.testing.assert_array_equal(sheet[32:48, :16], np.asarray(data[2].image))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "0 scenes.*at least 1"),
        ({"count": 1, "image_size": 8}, "8 x 8.*16 x 16"),
        ({"count": 1, "classes": 1}, "1 classes.*2 to 32"),
        ({"count": 1, "classes": 33}, "33 classes.*2 to 32"),
    ],
)
def test_bad_numbers_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticScenes(**arguments)


def test_an_index_outside_is_an_index_error() -> None:
    with pytest.raises(IndexError, match="scene 5 of 5"):
        SyntheticScenes(5)[5]


@pytest.mark.parametrize("size", [(24, 96), (96, 24)])
def test_distractors_lie_all_over_a_wide_or_tall_scene(size: tuple[int, int]) -> None:
    """What a scene's distractors paint, part by part along its longer side: no part is left to the object alone."""
    data = SyntheticScenes(60, image_size=size)
    draws = np.stack([data._draws(index) for index in range(60)])
    y, x = ((np.arange(side) + 0.5) / 24 for side in size)
    blank = np.zeros((60, *size, 3))
    painted = np.zeros(size)
    for number in range(synthetic.DISTRACTORS):
        part = draws[:, synthetic._BLOB + 9 * number : synthetic._BLOB + 9 * (number + 1)]
        painted += (synthetic._distractor(blank.copy(), part, x[None, :], y[:, None], 24) > 0).any(-1).sum(0)
    quarters = [part.sum() for part in np.array_split(painted.sum(size.index(24)), 4)]
    assert min(quarters) > 0.6 * max(quarters)
