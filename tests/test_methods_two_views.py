"""What the methods on two views share; and that each of them takes a ViT and a convolutional network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from two_view_training import make

from vitrail.backbones import BackboneConfig, ConvNetConfig, create, create_convnet
from vitrail.contracts import Batch, Step
from vitrail.methods.two_views import two_views

METHODS = ("simclr", "barlow_twins", "moco", "simsiam")


def batch(views: int = 2) -> Batch:
    found = torch.randn(views, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Batch(found[0], None, torch.arange(4), tuple(found[1:]))


def encoder(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "vit":
        return create(BackboneConfig(image_size=16, patch_size=8, embed_dim=12, depth=1, heads=2))
    return create_convnet(ConvNetConfig(width=4, blocks=(1, 1, 1, 1), image_size=16))


@pytest.mark.parametrize("kind", ["vit", "convnet"])
@pytest.mark.parametrize("name", METHODS)
def test_every_weight_learns_on_any_backbone(name: str, kind: str) -> None:
    method = make(name, encoder(kind))
    found = method.training_step(batch(), Step(0, 1))
    found.total.backward()
    silent = [each for each, value in method.named_parameters() if value.requires_grad and value.grad is None]
    assert silent == []
    held = {id(value) for group in method.parameter_groups() for value in group["params"]}
    assert held == {id(value) for value in method.parameters() if value.requires_grad}
    exported = method.export()
    assert ("convnet" in exported.metadata) == (kind == "convnet")
    assert ("backbone" in exported.metadata) == (kind == "vit")
    method.after_step(Step(0, 1))


def test_two_views_are_wanted() -> None:
    assert torch.equal(two_views(batch())[1], batch().views[0])
    for views in (1, 3):
        with pytest.raises(ValueError, match=rf"holds {views} views? of each image, and two are compared.*TwoViews"):
            two_views(batch(views))
