import math

import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet, TinyBackbone, colored_set
from PIL import Image
from torch import Tensor

from vitrail.contracts import Sample, Tokens
from vitrail.data import SyntheticScenes
from vitrail.evaluation import correspondence as module
from vitrail.evaluation.correspondence import (
    FRAMES,
    LATER,
    CorrespondenceConfig,
    crop_pair,
    evaluate,
    judge,
    motion_pair,
    patch_centers,
)
from vitrail.ops.mutual_nearest import Matches

SMALL = CorrespondenceConfig(image_size=48)


class Places(TinyBackbone):
    """A patch's feature is the color of its middle, by which `ramp` says where it is."""

    def forward(self, images: Tensor, **how: object) -> Tokens:  # type: ignore[override]
        tokens = TinyBackbone.forward(self, images)
        x, y = images[:, 0, 3::8, 3::8], images[:, 1, 3::8, 3::8]
        angles = torch.stack([x.cos(), x.sin(), y.cos(), y.sin()], 1)
        return tokens._replace(patches=angles.flatten(2).transpose(1, 2))


def ramp(count: int = 3, size: int = 96) -> ListSet:
    """Red grows to the right, green downwards."""
    level = np.linspace(0, 255, size).round().astype(np.uint8)
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = level, level[:, None]
    return ListSet([Sample(Image.fromarray(pixels))] * count, None, name="ramp")


def test_centers() -> None:
    assert patch_centers((4, 6), (2, 3)).tolist() == [[1, 1], [3, 1], [5, 1], [1, 3], [3, 3], [5, 3]]
    assert patch_centers((8, 8), (1, 1)).tolist() == [[4, 4]]


def test_judged_by_hand() -> None:
    """Four patches of 10 px; everything has moved one patch to the right."""
    truth = patch_centers((10, 40), (1, 4)) + torch.tensor([10.0, 0.0], dtype=torch.float64)
    first, second = torch.tensor([1, 0, 3, 2]), torch.tensor([2, 2, 0, 0])
    counted = torch.ones(4, dtype=torch.bool)
    found = judge(Matches(first, second, torch.zeros(4)), truth, counted, (10, 40), (1, 4), top=1)
    # Visible are 0, 1 and 2. 1 -> 2 is right, 0 -> 2 is one patch beside and right, 2 -> 0 is three beside.
    assert (found.visible, found.matched, found.correct, found.all_matches) == (3, 3, 2, 4)
    assert (found.top, found.top_correct, found.same_place) == (1, 1, 3)
    assert found.random == pytest.approx(3 / 4 + 3 / 4 + 2 / 4)
    strict = judge(Matches(first, second, torch.zeros(4)), truth, counted, (10, 40), (1, 4), tolerance=0.5)
    assert (strict.correct, strict.same_place, strict.random) == (1, 0, 3 / 4)
    assert (found.moved, strict.moved, strict.moved_correct) == (0, 3, 1)
    few = judge(Matches(first, second, torch.zeros(4)), truth, first == 1, (10, 40), (1, 4))
    assert (few.visible, few.matched, few.correct, few.all_matches) == (1, 1, 1, 1)


def test_the_geometry_of_crops() -> None:
    """The color of a place says where it is, so the true place in the second view has the first one's color."""
    image = ramp()[0].image
    for seed in range(20):
        pair = crop_pair(image, (48, 64), (6, 8), 0.0, seed)
        one, other = (np.asarray(view, np.float64) for view in (pair.first, pair.second))
        centers, checked = patch_centers((48, 64), (6, 8)), 0
        for (x, y), (u, v) in zip(centers.tolist(), pair.truth.tolist()):
            if 1 <= u < 63 and 1 <= v < 47:
                # Centers lie between pixels: the mean of the four around them.
                here, there = (
                    view[math.floor(q - 0.5) :, math.floor(p - 0.5) :][:2, :2].mean((0, 1))
                    for view, p, q in ((one, x, y), (other, u, v))
                )
                assert np.abs(here - there).max() < 6
                checked += 1
        assert checked >= 1


def test_the_same_crops_whatever_is_around_them() -> None:
    image = colored_set(1, size=40)[0].image
    one, other = (crop_pair(image, (32, 32), (4, 4), 0.4, 7) for _ in range(2))
    assert torch.equal(one.truth, other.truth)
    assert one.first.tobytes() == other.first.tobytes()
    assert not torch.equal(one.truth, crop_pair(image, (32, 32), (4, 4), 0.4, 8).truth)


def test_where_points_of_a_moving_object_go() -> None:
    """The mask of a later frame is the first one's, moved."""
    scenes = SyntheticScenes(6, image_size=(96, 128), split="val")
    for index in range(6):
        frames = scenes.motion(index, FRAMES)
        masks = [np.asarray(frame.mask) > 0 for frame in frames]
        y, x = np.nonzero(masks[0])
        moved = scenes.motion_of(index, FRAMES, np.stack([x + 0.5, y + 0.5], 1))
        assert np.allclose(moved[0], np.stack([x + 0.5, y + 0.5], 1))
        for mask, points in zip(masks, moved):
            u, v = np.floor(points).astype(int).T
            inside = (u >= 0) & (u < 128) & (v >= 0) & (v < 96)
            assert mask[v[inside], u[inside]].mean() > 0.93
            # As many pixels, and about the same center: the object is the same, turned.
            if inside.all():
                centers = [np.argwhere(mask).mean(0)[::-1] + 0.5, points.mean(0)]
                assert np.abs(centers[0] - centers[1]).max() < 0.5


def test_colors_follow_the_motion() -> None:
    """Beyond the mask: what a point of the object looks like stays, too."""
    scenes = SyntheticScenes(4, image_size=128, split="val")
    for index in range(4):
        frames = scenes.motion(index, FRAMES)
        y, x = np.nonzero(np.asarray(frames[0].mask))
        points = scenes.motion_of(index, FRAMES, np.stack([x + 0.5, y + 0.5], 1))[LATER]
        u, v = np.floor(points).astype(int).T
        inside = (u >= 0) & (u < 128) & (v >= 0) & (v < 128)
        one, other = (np.asarray(frames[t].image, np.float64) for t in (0, LATER))
        true = np.abs(one[y, x] - other[np.clip(v, 0, 127), np.clip(u, 0, 127)])[inside].mean()
        still = np.abs(one[y, x] - other[y, x]).mean()
        assert true < 0.5 * still


def test_a_motion_pair_counts_the_object() -> None:
    scenes = SyntheticScenes(3, image_size=48)
    pair = motion_pair(scenes, 1, (96, 96), (12, 12))
    assert pair.first.size == (96, 96)
    assert 3 <= int(pair.counted.sum()) < 60
    shift = (pair.truth - patch_centers((96, 96), (12, 12)))[pair.counted]
    assert shift.norm(dim=1).max() > 2


def test_patches_that_know_their_place_are_right() -> None:
    report = evaluate(Places(), ramp(), SMALL.override(["colors=0"]))
    assert report.numbers["crops_correct"] > 95
    assert report.numbers["crops_correct"] > report.numbers["crops_floor_same_place"] + 20
    assert report.numbers["crops_floor_random"] < 30
    assert report.numbers["crops_moved_correct"] > 95
    assert report.numbers["crops_found"] == pytest.approx(
        report.numbers["crops_correct"] * report.numbers["crops_matched"] / 100
    )
    assert report.details["pairs"] == {"crops": 3}
    assert all(0 <= value <= 100 for value in report.numbers.values())
    assert "motion_correct" not in report.numbers


def test_scenes_have_both_kinds_and_the_batch_does_not_matter() -> None:
    scenes = SyntheticScenes(10, split="val")
    one, many = (evaluate(TinyBackbone(), scenes, SMALL.override([f"batch_size={size}"])) for size in (1, 32))
    assert one.numbers == pytest.approx(many.numbers)
    assert one.details["pairs"] == {"crops": 10, "motion": 10}
    assert "motion_outside" not in one.numbers
    few = evaluate(TinyBackbone(), scenes, SMALL.override(["images=5"]))
    assert few.details["pairs"] == {"crops": 5, "motion": 5}
    assert few.details["notes"] == ["5 of 10 images, evenly spaced; images=null takes all"]


def test_equal_patches_earn_no_more_than_one_match() -> None:
    """With features that are the same everywhere each pair has a single match."""
    report = evaluate(TinyBackbone(), ListSet([Sample(Image.new("RGB", (48, 48)))] * 4, None), SMALL)
    assert report.details["counts"]["crops"]["all_matches"] == 4
    assert report.numbers["crops_matched"] < 10


def test_random_floor_is_what_chance_earns() -> None:
    pair = crop_pair(ramp()[0].image, (48, 48), (6, 6), 0.0, 3)
    everything = torch.ones(36, dtype=torch.bool)
    ids = torch.arange(36)
    found = [
        judge(Matches(ids, torch.randint(0, 36, (36,)), torch.zeros(36)), pair.truth, everything, (48, 48), (6, 6))
        for _ in range(300)
    ]
    expected = found[0].random / found[0].visible
    assert sum(each.correct for each in found) / (300 * found[0].visible) == pytest.approx(expected, rel=0.1)


def test_errors_name_the_way_out() -> None:
    with pytest.raises(ValueError, match="50 is not a multiple of the patch size 8"):
        evaluate(TinyBackbone(), ramp(), CorrespondenceConfig(image_size=50))
    with pytest.raises(ValueError, match="the data set is empty"):
        evaluate(TinyBackbone(), ListSet([], None), SMALL)
    broken = ramp(2)
    broken.broken = (0, 1)
    with pytest.raises(ValueError, match="none of 2 images could be read"):
        evaluate(TinyBackbone(), broken, SMALL)
    broken.broken = (1,)
    assert evaluate(TinyBackbone(), broken, SMALL).details["notes"] == [
        "1 of 2 images could not be read and were left out"
    ]
    with pytest.raises(ValueError, match="no patch of any pair of crops is visible"):
        module._numbers(module.Judged(0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0), "crops")
