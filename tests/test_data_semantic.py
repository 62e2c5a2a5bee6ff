import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet, colored_set
from PIL import Image

from vitrail.contracts import Sample
from vitrail.data import SyntheticScenes
from vitrail.data.semantic import SemanticLabels, resized, semantic_labels
from vitrail.recipes.sources import Part

WITH, WITHOUT = SemanticLabels(("background", "a", "b"), True), SemanticLabels(("a", "b"), False)


def test_what_the_ids_mean() -> None:
    mask = torch.tensor([0, 1, 2, 255], dtype=torch.uint8)
    assert WITH.targets(mask).tolist() == [0, 1, 2, -1]
    assert WITHOUT.targets(mask).tolist() == [-1, 0, 1, -1]
    assert (WITH.classes, WITHOUT.classes) == (3, 2)


def test_masks_of_16_bits_have_another_void() -> None:
    many = SemanticLabels(tuple(map(str, range(300))), False)
    for kind in (torch.int32, torch.uint16):
        assert many.targets(torch.tensor([0, 255, 300, 65535]).to(kind)).tolist() == [-1, 254, 299, -1]


def test_ids_beyond_the_classes_are_named() -> None:
    for labels in (WITH, WITHOUT):
        with pytest.raises(ValueError, match=r"b\.png holds the class id 3, and there are 2 classes, ids 1 to 2"):
            labels.targets(torch.tensor([[1, 3, 255]], dtype=torch.uint8), "b.png")


def test_shares_of_patches() -> None:
    targets = torch.tensor([[0, 0, 1, 1], [0, 2, -1, 1]])
    shares = WITH.shares(targets, (1, 2))
    assert shares.tolist() == [[0.75, 0.0, 0.25], [0.0, 0.75, 0.0]]
    fine = WITH.shares(targets, (2, 4)).reshape(2, 4, 3)
    assert fine[1].tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match="2 x 4 px does not divide into a grid of 1 x 3"):
        WITH.shares(targets, (1, 3))


def test_resized_takes_the_pixel_under_the_center() -> None:
    targets = torch.arange(36).reshape(1, 6, 6) - 1
    assert resized(targets, (2, 2)).tolist() == [[[6, 9], [24, 27]]]
    assert resized(targets, (6, 6)) is targets
    assert torch.equal(resized(resized(targets, (12, 12)), (6, 6)), targets)


def test_labels_of_sets() -> None:
    scenes = SyntheticScenes(4)
    labels = semantic_labels(scenes, Part(scenes, [0, 2]))
    assert labels.background
    assert labels.names[:2] == ("background", "striped red disk")
    assert labels.classes == 9
    plain = colored_set(4)
    assert semantic_labels(plain) == SemanticLabels(plain.classes or (), False)


def test_sets_that_cannot_be_used() -> None:
    scenes = SyntheticScenes(4)
    with pytest.raises(ValueError, match=r"train has 9 classes, background, .* and val 6"):
        semantic_labels(scenes, SyntheticScenes(4, classes=5))
    sample = Sample(Image.new("RGB", (8, 8)), mask=np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="val has no masks of class ids; give a tree"):
        semantic_labels(scenes, ListSet([sample], None))
    without = colored_set(4)
    without.has_masks = False  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="train has no masks"):
        semantic_labels(without)
    with pytest.raises(ValueError, match="train is empty"):
        semantic_labels(ListSet([], ("a",)))
