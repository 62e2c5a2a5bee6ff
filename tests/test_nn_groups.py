"""Optimizer groups: everything once, decay on matrices alone, rates by distance from the classifier."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from vitrail.backbones import BackboneConfig, create
from vitrail.nn.groups import parameter_groups

SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "heads": 3}


class Classifier(nn.Module):
    def __init__(self, **values: object) -> None:
        super().__init__()
        self.backbone = create(BackboneConfig(**{**SIZES, **values}))
        self.head = nn.Linear(24, 5)


def by_name(module: nn.Module, **asked: object) -> dict[str, tuple[float, float]]:
    """(weight decay, rate) of each parameter; fails where one is in two groups."""
    names = {id(value): name for name, value in module.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in parameter_groups(module, **asked):
        assert group["params"]
        for value in group["params"]:
            name = names[id(value)]
            assert name not in found
            found[name] = (group["weight_decay"], group["lr_scale"])
    return found


def test_every_trained_parameter_once_and_only_matrices_decay() -> None:
    model = Classifier()
    found = by_name(model, weight_decay=0.05)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, value in model.named_parameters():
        special = name.endswith(("cls_token", "pos_embed"))
        assert found[name] == (0.0 if value.ndim == 1 or special else 0.05, 1.0), name


def test_two_groups_without_layer_decay() -> None:
    assert len(parameter_groups(Classifier(), weight_decay=0.05)) == 2
    assert len(parameter_groups(Classifier(), weight_decay=0.0)) == 1


def test_frozen_parameters_are_left_out() -> None:
    model = Classifier()
    model.backbone.vit.patch_embed.requires_grad_(False)
    assert not any("patch_embed" in name for name in by_name(model, weight_decay=0.05))
    model.requires_grad_(False)
    assert parameter_groups(model, weight_decay=0.05) == []


@pytest.mark.parametrize("surgery", [None, "F"])
def test_rates_fall_from_the_classifier_down(surgery: str | None) -> None:
    found = by_name(Classifier(surgery=surgery), weight_decay=0.05, layer_decay=0.5)
    expected = {
        "head.weight": 1.0,
        "backbone.vit.norm.weight": 0.5,
        "backbone.vit.blocks.2.attn.qkv.weight": 0.5,
        "backbone.vit.blocks.1.attn.qkv.weight": 0.25,
        "backbone.vit.blocks.0.mlp.fc1.bias": 0.125,
        "backbone.vit.patch_embed.proj.weight": 0.0625,
        "backbone.vit.cls_token": 0.0625,
        "backbone.vit.pos_embed": 0.0625,
    }
    for name, rate in expected.items():
        assert found[name][1] == pytest.approx(rate), name
    assert len(found) == len(list(Classifier(surgery=surgery).parameters()))


def test_a_backbone_alone_and_a_timm_model_with_its_own_head() -> None:
    alone = by_name(Classifier().backbone, weight_decay=0.05, layer_decay=0.5)
    assert alone["vit.blocks.2.attn.qkv.weight"][1] == 0.5
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=3, num_heads=3, num_classes=5)
    own = by_name(vit, weight_decay=0.05, layer_decay=0.5)
    assert own["head.weight"][1] == 1.0
    assert own["blocks.2.attn.qkv.weight"][1] == 0.5


def test_tokens_of_other_models() -> None:
    model = Classifier(name="deit_tiny_distilled_patch16_224")
    found = by_name(model, weight_decay=0.05, layer_decay=0.5)
    assert found["backbone.vit.dist_token"] == (0.0, 0.0625)
    registers = by_name(Classifier(options={"reg_tokens": 2}), weight_decay=0.05)
    assert registers["backbone.vit.reg_token"][0] == 0.0


def test_modules_without_layers() -> None:
    head = nn.Linear(3, 2)
    assert {group["lr_scale"] for group in parameter_groups(head, weight_decay=0.1)} == {1.0}
    assert parameter_groups(nn.Identity(), weight_decay=0.1) == []
    with pytest.raises(ValueError, match="Linear neither is nor holds one"):
        parameter_groups(head, weight_decay=0.1, layer_decay=0.5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"weight_decay": -0.1}, "weight_decay -0.1"),
        ({"weight_decay": 0.1, "weight_decay_end": -0.4}, "weight_decay_end -0.4"),
        ({"weight_decay": 0.1, "layer_decay": 0.0}, "layer_decay 0.0"),
        ({"weight_decay": 0.1, "layer_decay": 1.5}, "layer_decay 1.5"),
    ],
)
def test_errors(values: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parameter_groups(nn.Linear(2, 2), **values)


def test_an_optimizer_takes_them() -> None:
    model = Classifier()
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.05, layer_decay=0.75), lr=1e-3)
    taken = [value for group in optimizer.param_groups for value in group["params"]]
    assert len(taken) == len(set(taken)) == len(list(model.parameters()))


def test_only_what_decays_goes_to_another_decay() -> None:
    groups = parameter_groups(Classifier(), weight_decay=0.04, weight_decay_end=0.4)
    assert {(group["weight_decay"], group.get("weight_decay_end")) for group in groups} == {(0.04, 0.4), (0.0, None)}
