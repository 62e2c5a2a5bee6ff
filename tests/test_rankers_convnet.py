"""Convolutional networks from files: names by their shapes, pixels, classifiers, downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from tiny_convnet import NAME, prefixed, saved, tiny_resnet

from vitrail.data.transforms import IMAGENET_MEAN
from vitrail.rankers.convnet import network_of, open_convnet, resnet_name
from vitrail.rankers.source import Source


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_resnets_are_told_by_their_names(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    assert resnet_name(state) == name
    files = {"state_dict": prefixed(state, "module.encoder_q.") | prefixed(state, "module.encoder_k.")}
    assert resnet_name(network_of(files)) == name


@pytest.mark.parametrize("name", ["resnet50d", "resnet26", "resnetv2_50", "test_resnet", "densenet121"])
def test_other_networks_need_a_name(name: str) -> None:
    with torch.device("meta"):
        assert resnet_name(timm.create_model(name).state_dict()) is None


def test_a_whole_resnet_without_a_name(tmp_path: Path) -> None:
    """As torchvision and timm save one; in half precision, to be small."""
    state = timm.create_model("resnet18", num_classes=7).half().state_dict()
    path = saved(tmp_path, prefixed(state, "module."))
    found = open_convnet(Source(path), classifier=True)
    assert found.model.num_classes == 7
    assert (found.image_size, found.patch_size, tuple(found.mean)) == ((224, 224), (16, 16), IMAGENET_MEAN)
    assert torch.equal(found.model.fc.weight, state["fc.weight"].float())
    assert open_convnet(Source(path), classifier=False).model.num_classes == 0
    with pytest.raises(ValueError, match=r"weights of resnet34: it lacks layer1\.2\.conv1\.weight, .* and \d+ more"):
        open_convnet(Source(path, "resnet34"), classifier=False)


def test_pixels_and_sizes(tmp_path: Path) -> None:
    path = saved(tmp_path, tiny_resnet().state_dict())
    bare = open_convnet(Source(path, NAME, image_size=96, patch_size=8), classifier=False)
    assert (bare.image_size, bare.patch_size) == ((96, 96), (8, 8))
    assert tuple(bare.mean) == IMAGENET_MEAN
    tagged = open_convnet(Source(path, f"{NAME}.r160_in1k"), classifier=False)
    assert tagged.image_size == (160, 160)
    assert tuple(tagged.mean) == tuple(timm.models.get_pretrained_cfg(f"{NAME}.r160_in1k").mean) != IMAGENET_MEAN
    assert open_convnet(Source(path, NAME, image_size=(32, 64)), classifier=False).image_size == (32, 64)


def test_a_classifier_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"network.pth holds no classifier \(fc.weight\), only a backbone"):
        open_convnet(Source(saved(tmp_path, tiny_resnet().state_dict()), NAME), classifier=True)


def test_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"pretrained weights need a model's name, as in model='resnet50.a1_in1k'"):
        open_convnet(Source("pretrained"), classifier=False)
    with pytest.raises(ValueError, match="has no model 'resnet_50'"):
        open_convnet(Source("pretrained", "resnet_50"), classifier=False)

    real = timm.create_model

    def create(name: str, pretrained: bool = False, **given: Any) -> Any:
        if not pretrained:
            return real(name, **given)
        if name == "resnet18":
            raise ConnectionError("no route to the hub\nand more lines")
        model = tiny_resnet(classes=given.get("num_classes", 9))
        model.pretrained_cfg = model.pretrained_cfg | {"mean": (0.1, 0.2, 0.3)}
        return model

    monkeypatch.setattr(timm, "create_model", create)
    found = open_convnet(Source("pretrained", NAME), classifier=True)
    assert (found.model.num_classes, found.mean) == (9, (0.1, 0.2, 0.3))
    assert open_convnet(Source("pretrained", NAME), classifier=False).model.num_classes == 0
    with pytest.raises(
        ValueError,
        match=r"weights of resnet18 could not be loaded \(ConnectionError: no route to the hub\)\. Without a network:",
    ):
        open_convnet(Source("pretrained", "resnet18"), classifier=False)
