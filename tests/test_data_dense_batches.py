from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet
from PIL import Image

from vitrail.contracts import Sample
from vitrail.data.dense_batches import as_evaluated, dense_batches, in_chance_order, in_order
from vitrail.data.mask_crop import MaskCrop, MaskCropConfig
from vitrail.data.semantic import SemanticLabels, semantic_labels
from vitrail.data.transforms import EvalTransform, EvalTransformConfig


def tiles(count: int = 5, size: int = 24, broken: tuple[int, ...] = ()) -> ListSet:
    """Images whose red channel is their mask times 40, so that image and mask can be compared; sizes differ."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        mask = np.kron(rng.integers(1, 5, (size // 8, size // 8 + number % 2)), np.ones((8, 8))).astype(np.uint8)
        mask[:2, :2] = 255
        pixels = np.stack([mask % 255 * 40, mask * 0, mask * 0], -1).astype(np.uint8)
        samples.append(Sample(Image.fromarray(pixels), mask=mask, path=f"{number}.png"))
    return ListSet(samples, ("a", "b", "c", "d"), broken=broken)


def labels() -> SemanticLabels:
    return semantic_labels(tiles())


PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}
SQUASH = as_evaluated(EvalTransform(EvalTransformConfig.parse({"image_size": 16, "mode": "squash"} | PLAIN)))


def test_in_order_all_images_once() -> None:
    batches = list(dense_batches(tiles(), labels(), SQUASH, in_order(5, 2)))
    assert [batch.indices for batch in batches] == [[0, 1], [2, 3], [4]]
    assert batches[0].images.shape == (2, 3, 16, 16)
    assert batches[0].targets.shape == (2, 16, 16)
    assert [tuple(truth.shape) for truth in batches[0].truths] == [(24, 24), (24, 32)]
    truth = torch.from_numpy(tiles().samples[0].mask)
    assert torch.equal(batches[0].truths[0], torch.where(truth == 255, -1, truth.long() - 1))


def test_unreadable_images_are_left_out_and_said() -> None:
    skipped: dict[int, str] = {}
    data = tiles(broken=(0, 1, 3))
    batches = list(dense_batches(data, labels(), SQUASH, in_order(5, 2), skipped=skipped))
    assert [batch.indices for batch in batches] == [[2], [4]]
    assert sorted(skipped) == [0, 1, 3]
    assert "truncated" in skipped[3]


def test_chance_orders_cover_every_epoch() -> None:
    batches = in_chance_order(5, 2, 5, seed=3)
    places = [place for batch in batches for place in batch]
    assert [len(batch) for batch in batches] == [2] * 5
    assert [epoch for epoch, _ in places] == [0] * 5 + [1] * 5
    orders = [[index for epoch, index in places if epoch == e] for e in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(5))
    assert batches == in_chance_order(5, 2, 5, seed=3)
    assert batches != in_chance_order(5, 2, 5, seed=4)


def test_crops_move_the_mask_with_the_image() -> None:
    cut = MaskCrop(MaskCropConfig.parse({"image_size": 24, "scale": (0.3, 0.9), "interpolation": "bilinear"} | PLAIN))
    for seed in range(20):
        image, mask = cut(tiles().samples[1], seed)
        known = mask != 255
        said = (image[0] * 255 / 40).round()
        # Bilinear interpolation blurs the borders of tiles; inside they agree to the last pixel.
        assert (said == mask)[known].float().mean() > 0.7
        assert image.shape == (3, 24, 24)
    flipped = [bool(torch.equal(cut(tiles().samples[0], 1)[1], cut(tiles().samples[0], s)[1])) for s in range(1, 9)]
    assert flipped[0]
    assert not all(flipped)


def test_a_flip_turns_both() -> None:
    whole = {"image_size": 24, "scale": (1, 1), "ratio": (1, 1)} | PLAIN
    plain, turned = (MaskCrop(MaskCropConfig.parse(whole | {"flip": flip})) for flip in (0, 1))
    sample = tiles().samples[0]
    (image, mask), (other, moved) = plain(sample, 0), turned(sample, 0)
    assert torch.equal(mask, torch.from_numpy(sample.mask))
    assert torch.equal(image.flip(-1), other)
    assert torch.equal(mask.flip(-1), moved)


@pytest.mark.parametrize("workers", [0, 1])
def test_crops_depend_on_seed_epoch_and_index_alone(workers: int) -> None:
    cut = MaskCrop(MaskCropConfig.parse({"image_size": 16}))
    requests = in_chance_order(5, 2, 5, seed=0)
    first = list(dense_batches(tiles(), labels(), cut, requests, seed=7))
    again = list(dense_batches(tiles(), labels(), cut, requests[::-1], seed=7, workers=workers))[::-1]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
    other_seed = next(iter(dense_batches(tiles(), labels(), cut, requests, seed=8)))
    assert not torch.equal(first[0].images, other_seed.images)


def test_what_is_wrong_with_a_sample() -> None:
    image = Image.new("RGB", (8, 8))
    for mask, words in ((None, r"x\.png has no mask"), (np.zeros((4, 8), np.uint8), r"\(4, 8\) and image \(8, 8\)")):
        data = ListSet([Sample(image, mask=mask, path="x.png")], ("a",))
        for cut in (SQUASH, MaskCrop(MaskCropConfig())):
            with pytest.raises(ValueError, match=words):
                list(dense_batches(data, SemanticLabels(("a",), False), cut, in_order(1, 1)))
    data = ListSet([Sample(image, mask=np.full((8, 8), 9, np.uint8), path="x.png")], ("a",))
    with pytest.raises(ValueError, match="holds the class id 9"):
        list(dense_batches(data, SemanticLabels(("a",), False), SQUASH, in_order(1, 1)))


def test_settings_of_crops() -> None:
    with pytest.raises(ValueError, match="scale"):
        MaskCropConfig.parse({"scale": (0.9, 0.5)})
    with pytest.raises(ValueError, match="ratio"):
        MaskCropConfig.parse({"ratio": (0, 1)})


def test_masks_of_16_bits_stay_whole(tmp_path: Path) -> None:
    mask = np.full((8, 8), 300, np.uint16)
    mask[0] = 65535
    data = ListSet([Sample(Image.new("RGB", (8, 8)), mask=mask)], tuple(map(str, range(300))))
    for cut in (SQUASH, MaskCrop(MaskCropConfig.parse({"scale": (1, 1), "ratio": (1, 1)}))):
        batch = next(iter(dense_batches(data, semantic_labels(data), cut, in_order(1, 1))))
        assert batch.targets.unique().tolist() == batch.truths[0].unique().tolist() == [-1, 299]
