"""A convolutional network of timm as a ranking model sees it."""

from __future__ import annotations

import pytest
import torch

from vitrail.backbones import BackboneConfig
from vitrail.config import ConfigError
from vitrail.rankers.feature_map import FeatureMap

SMALL = BackboneConfig(name="resnet18", image_size=64, patch_size=16)


@pytest.fixture(scope="module")
def network() -> FeatureMap:
    torch.manual_seed(0)
    return FeatureMap(SMALL).eval()


@torch.no_grad()
def test_shapes_and_the_mean_of_the_map(network: FeatureMap) -> None:
    images = torch.randn(2, 3, 64, 96)
    tokens = network(images)
    assert tokens.grid == (4, 6)
    assert tokens.patches.shape == (2, 24, network.embed_dim)
    features = network.network.forward_features(images)  # [2, 512, 2, 3]
    torch.testing.assert_close(tokens.cls, features.mean((2, 3)))
    # Half-pixel centers: the first of the four columns between two cells is the cell itself, clamped.
    torch.testing.assert_close(tokens.patches[:, 0], features[:, :, 0, 0])


@torch.no_grad()
def test_what_is_not_kept_is_not_seen(network: FeatureMap) -> None:
    images, keep = torch.randn(1, 3, 64, 64), torch.tensor([[1, 6, 7]])
    found = network(images, keep=keep)
    assert found.patches.shape == (1, 3, network.embed_dim)
    changed = images.clone()
    changed[..., :16, :16] = 9.0  # patch 0
    assert torch.equal(network(changed, keep=keep).patches, found.patches)
    changed[..., :16, 16:32] = 9.0  # patch 1
    assert not torch.equal(network(changed, keep=keep).patches, found.patches)


def test_export_says_what_rebuilds_it(network: FeatureMap) -> None:
    exported = network.export()
    again = FeatureMap(BackboneConfig.parse(exported.metadata["feature_map"]))
    again.network.load_state_dict(exported.state)
    assert again.patch_size == (16, 16)
    assert again.image_size == (64, 64)


def test_what_only_a_vit_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"resnet18 is no Vision Transformer and has no depth, heads; leave it out"):
        FeatureMap(SMALL.model_copy(update={"depth": 3, "heads": 2}))
    with pytest.raises(ConfigError, match="64 is not a multiple of the patch size 10"):
        FeatureMap(BackboneConfig(name="resnet18", image_size=64, patch_size=10))


def test_a_network_without_a_map_is_refused(network: FeatureMap, monkeypatch: pytest.MonkeyPatch) -> None:
    right = network.network.forward_features
    monkeypatch.setattr(network.network, "forward_features", lambda images: right(images).movedim(1, 3))
    with pytest.raises(ValueError, match=r"resnet18 gives \[1, 2, 2, 512\], not a map \[B, 512, y, x\]"):
        network(torch.zeros(1, 3, 64, 64))
