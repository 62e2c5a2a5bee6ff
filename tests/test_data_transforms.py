"""Transforms: exact geometry, moved targets, random parts, and light imports."""

from __future__ import annotations

import math
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import python

from vitrail.config import ConfigError
from vitrail.contracts import Sample
from vitrail.data import (
    EvalTransform,
    EvalTransformConfig,
    TrainTransform,
    TrainTransformConfig,
    build_eval_transform,
    build_train_transform,
)
from vitrail.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Geometry, jitter_colors, random_crop

ROOT = Path(__file__).resolve().parents[1]


def picture(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def normalized(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    return ((pixels - mean) / std).float()


def seeded(seed: int = 0) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def test_squash_resizes_both_sides_by_bicubic() -> None:
    image = picture()
    found = build_eval_transform(EvalTransformConfig(image_size=32, mode="squash"))(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, normalized(image.resize((32, 32), Image.Resampling.BICUBIC)))


def test_crop_is_that_of_torchvision() -> None:
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    for size, (height, width) in [(224, (300, 401)), (224, (500, 375)), (96, (200, 121)), (224, (100, 100))]:
        image = picture(height, width)
        shorter = round(size / 0.875) if size >= 128 else size
        expected = CenterCrop(size)(Resize(shorter, InterpolationMode.BICUBIC)(image))
        found = EvalTransform(EvalTransformConfig(image_size=size))(image)
        torch.testing.assert_close(found, normalized(expected))


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    image = picture(48, 48)
    assert torch.equal(
        EvalTransform(EvalTransformConfig(image_size=48))(image),
        EvalTransform(EvalTransformConfig(image_size=48, mode="squash"))(image),
    )
    torch.testing.assert_close(EvalTransform(EvalTransformConfig(image_size=48))(image), normalized(image))


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (17, 90)])
@pytest.mark.parametrize("source", [(40, 60), (60, 40), (3, 100), (100, 3), (1, 1)])
@pytest.mark.parametrize("mode", ["crop", "squash"])
def test_any_image_comes_out_in_the_asked_size(size: tuple[int, int], source: tuple[int, int], mode: str) -> None:
    config = EvalTransformConfig.parse({"image_size": size, "mode": mode})
    assert EvalTransform(config)(picture(*source)).shape == (3, *size)
    assert TrainTransform(TrainTransformConfig(image_size=size))(picture(*source)).shape == (3, *size)
    assert TrainTransform(TrainTransformConfig(image_size=size, scale=None))(picture(*source)).shape == (
        3,
        *size,
    )


def test_pad_adds_the_mean_and_void() -> None:
    image = picture(40, 60)
    sample = Sample(image, mask=np.ones((40, 60), np.uint8), boxes=np.array([[1.0, 2, 60, 40]]))
    found, mask, boxes = EvalTransform(EvalTransformConfig(mode="pad", multiple=16)).with_targets(sample)
    assert found.shape == (3, 48, 64)
    torch.testing.assert_close(found[:, :40, :60], normalized(image))
    assert found[:, 40:].abs().max() < 0.02
    assert mask is not None
    assert boxes is not None
    assert mask.dtype == torch.uint8
    assert (mask[:40, :60] == 1).all()
    assert (mask[40:] == 255).all()
    assert (mask[:, 60:] == 255).all()
    assert boxes.tolist() == [[1, 2, 60, 40]]


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("source", [(90, 140), (140, 90), (64, 64), (30, 44)])
def test_mask_and_boxes_follow_the_image(mode: str, source: tuple[int, int]) -> None:
    height, width = source
    mask = np.zeros(source, np.uint8)
    box = np.array([[0.4 * width, 0.3 * height, 0.7 * width, 0.8 * height]]).round()
    x0, y0, x1, y1 = box[0].astype(int)
    mask[y0:y1, x0:x1] = 7
    image = Image.fromarray(np.repeat((mask[..., None] > 0) * np.uint8(255), 3, axis=2))
    config = EvalTransformConfig.parse({"image_size": 128, "mode": mode, "keep": 0.9})
    pixels, moved, boxes = EvalTransform(config).with_targets(Sample(image, mask=mask, boxes=box))
    assert moved is not None
    assert boxes is not None
    assert moved.shape == pixels.shape[1:] == (128, 128)
    assert set(moved.unique().tolist()) == {0, 7}
    bright = pixels[0] > (0.5 - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
    assert (bright == (moved == 7)).float().mean() > 0.97
    ys, xs = np.nonzero(moved.numpy())
    tight = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert np.abs(boxes.numpy()[0] - tight).max() <= math.ceil(128 / min(source)) + 0.5


def test_squashed_masks_take_the_nearest_pixel() -> None:
    mask = np.arange(16, dtype=np.uint8).reshape(4, 4)
    _, found, _ = EvalTransform(EvalTransformConfig(image_size=8, mode="squash")).with_targets(
        Sample(picture(4, 4), mask=mask)
    )
    assert found is not None
    assert np.array_equal(found, np.kron(mask, np.ones((2, 2), np.uint8)))


def test_boxes_outside_of_the_crop_have_no_area() -> None:
    boxes = np.array([[0.0, 0, 10, 40], [25, 10, 35, 20]])
    _, _, found = EvalTransform(EvalTransformConfig(image_size=40)).with_targets(Sample(picture(40, 60), boxes=boxes))
    assert found is not None
    assert found.tolist() == [[0, 0, 0, 40], [15, 10, 25, 20]]
    _, mask, none = EvalTransform(EvalTransformConfig(image_size=40)).with_targets(
        Sample(picture(), boxes=np.zeros((0, 4)))
    )
    assert mask is None
    assert none is not None
    assert none.shape == (0, 4)


def test_geometry_goes_back() -> None:
    geometry = EvalTransform(EvalTransformConfig(image_size=(96, 64), mode="crop", keep=0.8)).geometry(200, 150)
    boxes = np.array([[60.0, 70, 90, 120]], np.float32)
    np.testing.assert_allclose(geometry.back(geometry.boxes(boxes)), boxes, atol=1e-3)
    assert Geometry((4, 4), (8, 8), (1, 2), (6, 6)).boxes(np.array([[1, 1, 3, 4]])).tolist() == [[0, 1, 4, 6]]


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a\.png: mask \(4, 4\) and image \(40, 60\) differ"):
        EvalTransform(EvalTransformConfig()).with_targets(
            Sample(picture(), mask=np.zeros((4, 4), np.uint8), path="a.png")
        )


def test_arrays_and_images_give_the_same() -> None:
    image = picture(48, 48)
    for transform in (
        EvalTransform(EvalTransformConfig(image_size=48)),
        EvalTransform(EvalTransformConfig(image_size=32)),
        TrainTransform(TrainTransformConfig.flips(48)),
        TrainTransform(TrainTransformConfig(image_size=32, color_jitter=0.3)),  # type: ignore[arg-type]
    ):
        seeded()
        first = transform(image)
        seeded()
        assert torch.equal(transform(np.asarray(image)), first)


def test_other_modes_and_types_are_refused() -> None:
    for transform in (
        TrainTransform(TrainTransformConfig.flips(40)),
        EvalTransform(EvalTransformConfig(image_size=40)),
    ):
        for bad in (Image.new("L", (40, 40)), Image.new("L", (50, 90)), np.zeros((40, 40, 3), np.float32)):
            with pytest.raises(ValueError, match="expected"):
                transform(bad)


def test_flips_happen_as_often_as_asked() -> None:
    image = picture(8, 8)
    straight, turned = normalized(image), normalized(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    for config in (
        TrainTransformConfig.flips(8),
        TrainTransformConfig(image_size=8, scale=(1, 1), ratio=(1, 1)),
    ):
        transform = build_train_transform(config)
        seeded()
        found = [transform(image) for _ in range(400)]
        flips = sum(torch.allclose(each, turned, atol=1e-5) for each in found)
        assert flips + sum(torch.allclose(each, straight, atol=1e-5) for each in found) == 400
        assert 160 < flips < 240


def test_random_crops_cover_the_asked_range() -> None:
    seeded()
    shares, ratios, middles = [], [], []
    for _ in range(4000):
        left, top, right, bottom = random_crop((400, 300), (0.08, 1.0), (3 / 4, 4 / 3))
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 300
        shares.append((right - left) * (bottom - top) / 120_000)
        ratios.append((right - left) / (bottom - top))
        middles.append(left + right)
    assert min(shares) > 0.078
    assert max(shares) > 0.9
    assert 0.74 < min(ratios) < 0.78
    assert 1.30 < max(ratios) < 1.35
    assert abs(np.mean(middles) - 400) < 10
    assert abs(np.mean(np.log(ratios))) < 0.05
    assert 0.42 < np.mean(shares) < 0.56


def test_when_no_crop_fits_the_middle_is_taken() -> None:
    assert random_crop((100, 10), (1, 1), (0.5, 2)) == (40, 0, 60, 10)
    assert random_crop((10, 100), (1, 1), (0.5, 2)) == (0, 40, 10, 60)
    assert random_crop((1, 1), (0.01, 0.02), (1, 1)) == (0, 0, 1, 1)


def test_color_jitter() -> None:
    image = picture()
    seeded()
    assert jitter_colors(image, (0, 0, 0, 0)) is image
    for place in range(4):
        strength = [0.0] * 4
        strength[place] = 0.4
        changed = np.asarray(jitter_colors(image, tuple(strength)), dtype=float)  # type: ignore[arg-type]
        assert np.abs(changed - np.asarray(image)).mean() > 1
    gray = Image.new("RGB", (4, 4), (90, 90, 90))
    assert np.abs(np.asarray(jitter_colors(gray, (0, 0, 0.9, 0.5)), dtype=int) - 90).max() <= 1
    assert TrainTransformConfig.parse({"color_jitter": 0.4}).color_jitter == (0.4, 0.4, 0.4, 0)


def test_a_full_turn_of_hue_is_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    monkeypatch.setattr(random, "uniform", lambda *_: 1 / 3)
    assert np.asarray(jitter_colors(red, (0, 0, 0, 0.5)), dtype=int)[0, 0].argmax() == 1


def test_deit_draws_and_repeats() -> None:
    transform = TrainTransform(TrainTransformConfig.deit(64))
    image = picture(90, 80)
    results = []
    for seed in (0, 0, 1):
        seeded(seed)
        results.append(transform(image))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert all(each.shape == (3, 64, 64) and each.isfinite().all() for each in results)
    again = pickle.loads(pickle.dumps(transform))
    seeded()
    assert torch.equal(again(image), results[0])


def test_erasing_puts_noise_into_a_rectangle() -> None:
    config = TrainTransformConfig(image_size=32, scale=None, flip=0, erase=1.0)
    seeded()
    difference = TrainTransform(config)(picture(32, 32)) - normalized(picture(32, 32))
    changed = (difference.abs() > 1e-3).all(0).float()
    rows, columns = torch.nonzero(changed.amax(1)).flatten(), torch.nonzero(changed.amax(0)).flatten()
    area = len(rows) * len(columns)
    assert 0.01 < area / 1024 < 0.4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scale": [0.5, 0.1]}, "scale is"),
        ({"ratio": [0, 1]}, "ratio is"),
        ({"image_size": 0}, "image_size is at least 1"),
        ({"std": [0.2, 0, 0.2]}, "std is positive"),
        ({"color_jitter": [0, 0, 0, 0.6]}, "hue at most 0.5"),
        ({"rand_augment": "m9"}, "rand-m9-mstd0.5-inc1"),
        ({"flips": 1}, "did you mean 'flip'"),
    ],
)
def test_contradictions_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainTransformConfig.parse(values)


def test_an_unknown_policy_is_refused_when_built() -> None:
    with pytest.raises(ValueError, match="timm cannot read the RandAugment policy 'rand-q9'"):
        TrainTransform(TrainTransformConfig(rand_augment="rand-q9"))


def test_configs_go_through_yaml(tmp_path: Path) -> None:
    for config in (
        TrainTransformConfig.deit((96, 64)),
        EvalTransformConfig(image_size=(96, 64), mode="squash"),
    ):
        config.save(tmp_path / "c.yaml")
        assert type(config).load(tmp_path / "c.yaml") == config


def test_plain_training_imports_no_torchvision() -> None:
    code = (
        "import sys, numpy\n"
        "from vitrail.data import TrainTransform, TrainTransformConfig, EvalTransform, EvalTransformConfig\n"
        "image = numpy.zeros((50, 60, 3), numpy.uint8)\n"
        "TrainTransform(TrainTransformConfig(image_size=48, color_jitter=0.4))(image)\n"
        "EvalTransform(EvalTransformConfig(image_size=48))(image)\n"
        "assert not {'torchvision', 'timm'} & set(sys.modules), 'heavy'"
    )
    python("-c", code, cwd=ROOT)


def test_flips_are_fast() -> None:
    transform = TrainTransform(TrainTransformConfig.flips(48))
    image = picture(48, 48)
    took = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(200):
            transform(image)
        took.append((time.process_time() - started) / 200)
    assert min(took) < 1e-3  # measured 40e-6; the bound is for busy machines


def test_real_masks_follow(real_data: Callable[[str], Path]) -> None:
    from vitrail.data import VocSegmentation

    data = VocSegmentation(real_data("voc-mini"), "val")
    transform = EvalTransform(EvalTransformConfig(image_size=480, mode="squash"))
    for index in range(0, 68, 23):
        image, mask, boxes = transform.with_targets(data[index])
        assert mask is not None
        assert boxes is not None
        assert image.shape == (3, 480, 480)
        assert mask.shape == (480, 480)
        assert set(mask.unique().tolist()) <= set(np.unique(data[index].mask).tolist())
        objects = data.objects(index)
        for (x0, y0, x1, y1), name, difficult in zip(boxes.int().tolist(), objects.classes, objects.difficult):
            if not difficult:
                assert (mask[y0 : y1 + 1, x0 : x1 + 1] == name).any()
