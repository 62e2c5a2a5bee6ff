"""Classifiers of LocLoc and PPD: Table 1's weights, closed forms, and a copy that learns while its model rests."""

from __future__ import annotations

import pytest
import torch
from tiny_vit import images, tiny_vit

from vitrail.backbones import BackboneConfig, create
from vitrail.nn.object_filter import ObjectFilterConfig
from vitrail.nn.token_classifier import ClassTokenProbe, Lfdm, LfdmConfig, TokenClassifier, patch_map, run_blocks


def test_table_1() -> None:
    """24.87 of 2^20 with 1000 outputs, 0.29 of PPD's 200; backbone 20.66."""
    with torch.device("meta"):
        vit = create(BackboneConfig(name="vit_small_patch16_224"))
        counts = [
            sum(value.numel() for value in part.parameters())
            for part in (
                vit,
                Lfdm(LfdmConfig(), vit.vit.blocks, vit.norm, 1, 1000),  # type: ignore[arg-type]
                ClassTokenProbe(384, 200),
            )
        ]
    assert counts == [21_665_664, 26_079_824, 307_400]


def lfdm(backbone: object, classes: int = 5, **config: bool) -> Lfdm:
    vit = backbone
    return Lfdm(LfdmConfig(**config), vit.vit.blocks, vit.norm, vit.prefix_tokens, classes)  # type: ignore[attr-defined]


def test_its_blocks_start_as_the_frozen_ones_and_learn_alone() -> None:
    backbone = tiny_vit()
    made = lfdm(backbone)
    tokens, grid = backbone.embed(images())
    found = made.norm(run_blocks(made.blocks, tokens, grid))
    assert torch.allclose(found[:, 1:], backbone(images()).patches, atol=1e-6)
    made(tokens, grid).sum().backward()
    assert all(value.grad is not None for value in made.parameters())
    assert all(value.grad is None and not value.requires_grad for value in backbone.parameters())


@pytest.mark.parametrize(
    "options", [{"options": {"reg_tokens": 2}}, {"object_filter": ObjectFilterConfig(prototypes=3)}]
)
def test_register_tokens_and_filters(options: dict[str, object]) -> None:
    backbone = tiny_vit(**options)
    tokens, grid = backbone.embed(images())
    found = patch_map(run_blocks(backbone.vit.blocks, tokens, grid), backbone.prefix_tokens, grid)
    expected = backbone(images(), layers=(-1,)).layers[-1][:, 1:].transpose(1, 2).unflatten(2, grid)
    assert torch.allclose(found, expected, atol=1e-6)
    assert lfdm(backbone)(tokens, grid).shape == (3, 5)


def test_the_head_in_closed_form() -> None:
    """Identity convolutions: logits are the map's mean, each cell weighted by how many 3x3 windows it is in, over 9."""
    head = TokenClassifier(2, 2).eval()
    with torch.no_grad():
        for conv in (head.first[0], head.second[0]):
            conv.weight.zero_()
            conv.weight[:, :, 1, 1] = torch.eye(2)
        head.first[0].bias.zero_()
    x = torch.rand(1, 2, 3, 4)
    windows = torch.tensor([2.0, 3, 2])[:, None] * torch.tensor([2.0, 3, 3, 2])[None]
    scale = 1 / (1 + head.second[1].eps) ** 0.5
    assert torch.allclose(head(x), scale * (x * windows / 9).mean((2, 3)), atol=1e-6)


def test_relu_is_an_option() -> None:
    x = torch.randn(8, 4, 3, 3)
    plain, released = (TokenClassifier(4, 3, relu=relu) for relu in (False, True))
    released.load_state_dict(plain.state_dict())
    assert bool((plain(x) < 0).any())
    assert bool((released(x) >= 0).all())


def test_class_tokens_stand_side_by_side() -> None:
    probe = ClassTokenProbe(3, 2, blocks=2)
    tokens = [torch.randn(4, 3), torch.randn(4, 3)]
    expected = tokens[0] @ probe.linear.weight[:, :3].T + tokens[1] @ probe.linear.weight[:, 3:].T
    assert torch.allclose(probe(tokens), expected, atol=1e-6)
    with pytest.raises(ValueError, match="1 class tokens are given, and the classifier reads 2"):
        probe(tokens[:1])
