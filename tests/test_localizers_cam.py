"""CAM: the map's mean is the logit, and it is Grad-CAM where both are defined."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from test_rankers_grad_cam import conv_file
from tiny_convnet import NAME, tiny_resnet
from tiny_vit import classifier_file, images, tiny_head, tiny_vit

from vitrail.localizers import open_localizer
from vitrail.localizers.cam import Cam
from vitrail.rankers.convnet import ConvNet
from vitrail.rankers.grad_cam import ConvFeatures, VitFeatures

OPENINGS = {
    "mean of the patches": lambda folder: {"weights": classifier_file(folder, pool="mean")},
    "convolutional": lambda folder: {"weights": conv_file(folder), "model": NAME, "image_size": 64},
}


@pytest.mark.parametrize("labels", [None, [4, 0, 2]])
def test_the_mean_of_the_map_is_the_logit(labels: list[int] | None) -> None:
    backbone, head, x = tiny_vit(), tiny_head(), images(3, 32, 48)
    given = None if labels is None else torch.tensor(labels)
    maps, logits = Cam(VitFeatures(backbone, head, "mean"))(x, labels=given)
    torch.testing.assert_close(logits, head(backbone(x).patches.mean(1)))
    chosen = logits.argmax(1) if given is None else given
    expected = logits.gather(1, chosen[:, None]).squeeze(1) - head.bias[chosen]
    torch.testing.assert_close(maps.mean((1, 2)), expected, atol=1e-5, rtol=1e-5)
    by_place = backbone(x).patches @ head.weight[chosen][:, :, None]
    torch.testing.assert_close(maps.flatten(1), by_place.squeeze(2), atol=1e-5, rtol=1e-5)


def test_in_a_resnet_it_is_grad_cam_but_for_a_factor(tmp_path: Path) -> None:
    x, given = images(2, 64, 96), {"weights": conv_file(tmp_path), "model": NAME}
    maps, logits = open_localizer("cam", **given)(x)
    other = open_localizer("grad_cam", variant="signed", **given)(x)
    torch.testing.assert_close(maps, other.maps * 6, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits, other.logits)


def test_classifiers_that_have_no_cam() -> None:
    with pytest.raises(
        ValueError, match="reads the class token, so no patch has a part of its own in a logit; take grad_"
    ):
        Cam(VitFeatures(tiny_vit(), tiny_head(), "cls"))
    sizes = ((0, 0, 0), (1, 1, 1), (64, 64), (16, 16))
    Cam(ConvFeatures(ConvNet(tiny_resnet(classes=5), *sizes)))
    norms = timm.create_model("test_convnext", num_classes=5).eval()
    with pytest.raises(ValueError, match=r"the head of this ConvNeXt does more than to average the last map"):
        Cam(ConvFeatures(ConvNet(norms, *sizes)))
