"""Views of images with the masks of their objects: what is shown, joint crops, the loader, refusals."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet
from PIL import Image

from vitrail.config import ConfigError
from vitrail.contracts import Sample
from vitrail.data import Loader, TrainTransformConfig
from vitrail.data.mask_views import MaskViews, MaskViewsConfig, binary_mask, masked_view, visible_box

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SMALL = MaskViewsConfig(image_size=16, resize=20, augment=TrainTransformConfig.flips(16), **PLAIN)  # type: ignore[arg-type]


def sample(width: int = 24, height: int = 20, seed: int = 0) -> Sample:
    """Its green channel is its mask."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[4:15, 5:18] = 1
    pixels[..., 1] = 255 * mask
    return Sample(Image.fromarray(pixels), 1, mask, path=f"{seed}.png")


def test_masked_view_in_closed_form() -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (6, 8, 3), dtype=np.uint8)
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 2:5] = 1
    box = np.zeros((6, 8), np.uint8)
    box[2:6, 4:8] = 1
    found = masked_view(pixels, mask, (4, 2, 8, 6))
    assert np.array_equal(found, pixels * np.maximum(mask, box)[..., None])
    assert np.array_equal(masked_view(pixels, mask, (3, 3, 3, 3)), pixels * mask[..., None])
    assert np.array_equal(masked_view(pixels, mask, (0, 0, 8, 6)), pixels)
    assert mask.sum() == 6  # it is not changed


def test_visible_boxes_are_those_of_cutmix() -> None:
    random.seed(0)
    boxes = np.array([visible_box((200, 100)) for _ in range(4000)])
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 200
    assert boxes[:, 3].max() <= 100
    inside = boxes[(boxes[:, 0] > 0) & (boxes[:, 1] > 0) & (boxes[:, 2] < 200) & (boxes[:, 3] < 100)]
    widths, heights = inside[:, 2] - inside[:, 0], inside[:, 3] - inside[:, 1]
    assert np.abs(widths - 2 * heights).max() <= 4  # of the picture's shape
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 20000
    # E of the area: share lam uniform; a box with sides s = sqrt(1 - lam) keeps s (1 - s / 4) of each side on average.
    share = np.sqrt(1 - (np.arange(10000) + 0.5) / 10000)
    assert areas.mean() == pytest.approx(float(((share * (1 - share / 4)) ** 2).mean()), abs=0.02)


def test_image_and_mask_are_cropped_and_flipped_together() -> None:
    views = MaskViews(SMALL.model_copy(update={"resize": 20}), "generator")
    flips = set()
    for seed in range(20):
        random.seed(seed)
        image, mask = views(sample())
        assert image.shape == (3, 16, 16)
        assert mask.shape == (1, 16, 16)
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal((image[1:2] > 0.5).float(), mask)
        flips.add(bool(mask[0, :, :8].sum() > mask[0, :, 8:].sum()))
    assert flips == {False, True}


def test_the_classifiers_view_shows_mask_and_box_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMALL.model_copy(update={"image_size": 20, "resize": None})
    config = config.model_copy(update={"augment": TrainTransformConfig(image_size=20, scale=None, flip=0)})
    monkeypatch.setattr("vitrail.data.mask_views.visible_box", lambda _: (0, 0, 4, 4))
    whole = sample(20, 20)
    (view,) = MaskViews(config, "classifier")(whole)
    shown = whole.mask.copy()
    shown[:4, :4] = 1
    assert torch.allclose(
        view, torch.from_numpy(np.asarray(whole.image) * shown[..., None] / 255).permute(2, 0, 1).float()
    )
    (unmasked,) = MaskViews(config.model_copy(update={"masked": False}), "classifier")(whole._replace(mask=None))
    assert torch.allclose(unmasked, torch.from_numpy(np.asarray(whole.image) / 255).permute(2, 0, 1).float())


def test_both_are_normalized_alike() -> None:
    config = SMALL.normalized((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert config.augment.mean == config.mean == (0.5, 0.5, 0.5)
    black = Sample(Image.new("RGB", (20, 20)), 0, np.zeros((20, 20), np.uint8))
    image, mask, view = MaskViews(config)(black)
    assert image.eq(-2).all()
    assert view.eq(-2).all()
    assert mask.sum() == 0


@pytest.mark.parametrize("size", [(40, 20), (20, 47), (16, 16), (3, 9), (1, 1)])
def test_any_image_fits(size: tuple[int, int]) -> None:
    whole = sample(*size) if min(size) > 16 else Sample(Image.new("RGB", size), 0, np.ones(size[::-1], np.uint8))
    for squash in (False, True):
        image, mask, view = MaskViews(SMALL.model_copy(update={"squash": squash}))(whole)
        assert (image.shape, mask.shape, view.shape) == ((3, 16, 16), (1, 16, 16), (3, 16, 16))


def test_squashed_without_a_crop_is_the_whole_image() -> None:
    config = SMALL.model_copy(update={"squash": True, "resize": None, "flip": 0.0})
    image, mask = MaskViews(config, "generator")(sample(40, 20))
    picture = sample(40, 20).image.resize((16, 16), Image.Resampling.BICUBIC)
    assert torch.allclose(image, torch.from_numpy(np.asarray(picture) / 255).permute(2, 0, 1).float())
    assert mask.sum() > 0


def test_batches_hold_masks_and_depend_on_the_seed_alone() -> None:
    data = ListSet([sample(seed=number) for number in range(8)], ("a", "b"))
    first, again, fresh = (
        next(Loader(data, MaskViews(SMALL), global_batch_size=4, seed=seed).batches(0, 1))[0] for seed in (0, 0, 1)
    )
    assert first.images.shape == (4, 3, 16, 16)
    assert [view.shape for view in first.views] == [(4, 1, 16, 16), (4, 3, 16, 16)]
    assert torch.equal((first.images[:, 1:2] > 0.5).float(), first.views[0])
    assert torch.equal(first.views[1], again.views[1])
    assert not torch.equal(first.images, fresh.images)


def test_refusals() -> None:
    good = sample()
    with pytest.raises(ValueError, match=r"0\.png has no mask of its object; make masks by `vitrail object-masks`"):
        MaskViews(SMALL)(good._replace(mask=None))
    with pytest.raises(ValueError, match=r"mask \(20, 23\) and image \(20, 24\) differ in size"):
        binary_mask(good._replace(mask=good.mask[:, 1:]))
    with pytest.raises(ValueError, match="the mask holds the value 3, and masks of an object hold 0 and 1"):
        binary_mask(good._replace(mask=3 * good.mask))
    with pytest.raises(ConfigError, match="resize 200 is less than image_size 224"):
        MaskViewsConfig().override(["resize=200"])
