"""Grad-CAM of labels and of predicted classes; the map itself is checked in `test_rankers_grad_cam.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_rankers_grad_cam import conv_file
from tiny_convnet import NAME
from tiny_vit import classifier_file, images, tiny_head, tiny_vit

from vitrail.localizers import open_localizer
from vitrail.localizers.grad_cam import GradCamMaps
from vitrail.rankers import open_ranker
from vitrail.rankers.grad_cam import GradCam, VitFeatures

NAMES = ["ant", "bee", "cat", "dog", "eel"]
OPENINGS = {
    "relu": lambda folder: {"weights": classifier_file(folder, names=NAMES)},
    "signed": lambda folder: {"weights": classifier_file(folder), "variant": "signed"},
    "mean of the patches": lambda folder: {"weights": classifier_file(folder, pool="mean")},
    "convolutional": lambda folder: {"weights": conv_file(folder), "model": NAME, "image_size": 64},
}


@pytest.mark.parametrize("variant", ["relu", "signed"])
def test_without_labels_it_is_the_rankers_map(variant: str, tmp_path: Path) -> None:
    x, weights = images(3, 32, 48), classifier_file(tmp_path, names=NAMES)
    found = open_localizer("grad_cam", weights, variant=variant)
    maps, logits = found(x)
    assert torch.equal(maps, open_ranker("grad_cam", weights, variant=variant)(x))
    torch.testing.assert_close(logits, tiny_head()(tiny_vit()(x).cls))
    assert found.classes == tuple(NAMES)


def test_the_map_of_a_label_is_that_of_a_classifier_which_always_predicts_it() -> None:
    backbone, x = tiny_vit(), images(4)
    labels = torch.tensor([3, 0, 4, 1])
    signed = GradCamMaps(VitFeatures(backbone, tiny_head(), "cls"), "signed")
    maps, logits = signed(x, labels=labels)
    assert torch.equal(logits, signed(x).logits)
    for index, label in enumerate(labels.tolist()):
        certain = tiny_head()
        certain.bias[label] += 1e3
        expected = GradCam(VitFeatures(backbone, certain, "cls"), "signed")(x[index : index + 1])[0]
        torch.testing.assert_close(maps[index], expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(maps, signed(x, labels=labels.flip(0)).maps)


def test_a_convolutional_network_keeps_the_places_of_its_map(tmp_path: Path) -> None:
    x = images(2, 64, 96)
    weights = conv_file(tmp_path)
    maps = open_localizer("grad_cam", weights, model=NAME)(x).maps
    assert maps.shape == (2, 2, 3)
    assert torch.equal(maps, open_ranker("grad_cam", weights, model=NAME, patch_size=32)(x))


def test_labels_that_are_refused() -> None:
    found, x = GradCamMaps(VitFeatures(tiny_vit(), tiny_head(), "cls")), images(2)
    with pytest.raises(
        ValueError, match=r"labels are 2 to 5, and the classifier has 0 to 4; is it of another data set"
    ):
        found(x, labels=torch.tensor([2, 5]))
    with pytest.raises(ValueError, match=r"labels are -1 to 0, and"):
        found(x, labels=torch.tensor([0, -1]))
    for wrong in (torch.tensor([1]), torch.tensor([1.0, 2.0])):
        with pytest.raises(ValueError, match=r"give int64 \[2\], or None for the predicted classes"):
            found(x, labels=wrong)
    with pytest.raises(ValueError, match="variant is 'plus'; known: relu, signed"):
        GradCamMaps(VitFeatures(tiny_vit(), tiny_head(), "cls"), "plus")
