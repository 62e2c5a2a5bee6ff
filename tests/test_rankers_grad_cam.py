"""Grad-CAM against finite differences and a closed form, for ViTs and convolutional networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from tiny_convnet import NAME, prefixed, saved, tiny_resnet
from tiny_vit import classifier_file, images, tiny_head, tiny_vit, vit_file
from torch import Tensor

from vitrail.backbones import TimmViT
from vitrail.rankers import open_ranker
from vitrail.rankers.convnet import ConvNet
from vitrail.rankers.grad_cam import ConvFeatures, GradCam, VitFeatures

OPENINGS = {
    "relu": lambda folder: {"weights": classifier_file(folder)},
    "signed": lambda folder: {"weights": classifier_file(folder), "variant": "signed"},
    "mean of the patches": lambda folder: {"weights": classifier_file(folder, pool="mean")},
    "convolutional": lambda folder: {"weights": conv_file(folder), "model": NAME, "image_size": 64},
}


def conv_file(folder: Path) -> str:
    return saved(folder, {"state_dict": prefixed(tiny_resnet(classes=5).state_dict(), "module.")})


def features_of(backbone: TimmViT, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    norm: Any = backbone.vit.blocks[-1].norm1
    handle = norm.register_forward_hook(lambda module, args, output: found.append(output))
    backbone(x)
    handle.remove()
    return found[0]


def logits_at(backbone: TimmViT, head: Any, pool: str, x: Tensor, features: Tensor) -> Tensor:
    """Logits where the last block's first norm returns `features`."""
    norm: Any = backbone.vit.blocks[-1].norm1
    handle = norm.register_forward_hook(lambda module, args, output: features)
    tokens = backbone(x)
    handle.remove()
    return head(tokens.cls if pool == "cls" else tokens.patches.mean(1))


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("registers", [0, 2])
def test_a_vit_by_finite_differences(pool: str, registers: int) -> None:
    options = {"reg_tokens": registers} if registers else {}
    backbone = tiny_vit(image_size=16, embed_dim=12, depth=2, heads=2, options=options).double()
    head, x = tiny_head(width=12).double(), images(1, 16, 16).double()
    features = features_of(backbone, x)
    predicted = int(logits_at(backbone, head, pool, x, features)[0].argmax())
    slope = torch.zeros_like(features)
    for place in range(slope.numel()):
        step = torch.zeros_like(features)
        step.view(-1)[place] = 1e-5
        above, below = (logits_at(backbone, head, pool, x, features + sign * step)[0, predicted] for sign in (1, -1))
        slope.view(-1)[place] = (above - below) / 2e-5
    patches = slice(1 + registers, None)
    weights = slope[0, patches].mean(0)
    assert weights.abs().max() > 1e-4  # not the trap of the block's output, where patches have no gradient
    expected = (features[0, patches] @ weights).view(2, 2).float()
    ranker = GradCam(VitFeatures(backbone, head, pool), "signed")
    torch.testing.assert_close(ranker(x)[0], expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(GradCam(VitFeatures(backbone, head, pool))(x), ranker(x).relu())


def test_only_the_predicted_class_counts() -> None:
    backbone, head, x = tiny_vit(), tiny_head(), images(4)
    head.bias -= head(backbone(x).cls).mean(0)
    network = VitFeatures(backbone, head, "cls")
    predicted = head(backbone(x).cls).argmax(1)
    assert len(set(predicted.tolist())) > 1
    scores = GradCam(network, "signed")(x)
    for index, each in enumerate(predicted.tolist()):
        alone = tiny_head()
        alone.bias.copy_(head.bias)
        for other in range(5):
            if other != each:
                alone.weight[other], alone.bias[other] = 0, -1e4
        again = GradCam(VitFeatures(backbone, alone, "cls"), "signed")(x[index : index + 1])
        torch.testing.assert_close(again[0], scores[index], atol=1e-5, rtol=1e-4)


def conv_ranker(variant: str, patch: int) -> tuple[GradCam, Any]:
    model = tiny_resnet(classes=5)
    network = ConvNet(model, (0, 0, 0), (1, 1, 1), (64, 64), (patch, patch))
    return GradCam(ConvFeatures(network), variant), model


@pytest.mark.parametrize("variant", ["relu", "signed"])
def test_a_convolutional_network_in_closed_form(variant: str) -> None:
    """Behind a mean and a linear layer the slope is the layer's row, over the number of places."""
    x = images(3, 64, 96)
    ranker, model = conv_ranker(variant, 32)
    features = model.forward_features(x)
    rows = model.fc.weight[model(x).argmax(1)]
    expected = torch.einsum("bc,bcyx->byx", rows, features) / 6
    expected = expected.relu() if variant == "relu" else expected
    torch.testing.assert_close(ranker(x), expected, atol=1e-6, rtol=1e-4)
    finer = conv_ranker(variant, 16)[0](x)
    torch.testing.assert_close(
        finer, torch.nn.functional.interpolate(expected[None], (4, 6), mode="bilinear")[0], atol=1e-6, rtol=1e-4
    )


def test_nothing_is_left_behind() -> None:
    backbone, head, x = tiny_vit(), tiny_head(), images(1)
    ranker = GradCam(VitFeatures(backbone, head, "cls"))
    with torch.no_grad():
        one = ranker(x)
    norm: Any = backbone.vit.blocks[-1].norm1
    assert not norm._forward_hooks
    assert head.weight.grad is None
    with pytest.raises(ValueError, match="images are"):
        ranker(x[:, :1])
    assert not norm._forward_hooks
    assert torch.equal(ranker(x.clone().requires_grad_()), one)


def test_files(tmp_path: Path) -> None:
    backbone, head, x = tiny_vit(), tiny_head(), images(2, 64, 64)
    deit = {name: value for name, value in tiny_vit(embed_dim=64, heads=1).vit.state_dict().items()}
    wide = tiny_head(width=64)
    content = {"model": deit | {f"head.{name}": value for name, value in wide.state_dict().items()}}
    found = open_ranker("grad_cam", saved(tmp_path, content, "deit.pth"))
    expected = GradCam(VitFeatures(tiny_vit(embed_dim=64, heads=1), wide, "cls"))(x)
    assert torch.equal(found(x), expected)
    found = open_ranker("grad_cam", classifier_file(tmp_path), image_size=64)
    assert found.image_size == (64, 64)
    ours = GradCam(VitFeatures(backbone, head, "cls"))
    assert torch.equal(open_ranker("grad_cam", classifier_file(tmp_path))(x), ours(x))
    conv = open_ranker("grad_cam", conv_file(tmp_path), model=NAME)
    torch.testing.assert_close(conv(x), conv_ranker("relu", 16)[0](x))


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no classifier \(head.weight\), only a backbone"):
        open_ranker("grad_cam", vit_file(tmp_path))
    with pytest.raises(ValueError, match=r"holds no classifier \(fc.weight\), only a backbone"):
        open_ranker("grad_cam", saved(tmp_path, tiny_resnet().state_dict()), model=NAME)
    with pytest.raises(ValueError, match="is no plain ResNet; say timm's name"):
        open_ranker("grad_cam", saved(tmp_path, {"fc.weight": torch.zeros(3, 3)}))
    with pytest.raises(ValueError, match="has no variant 'plus'; known: relu, signed"):
        open_ranker("grad_cam", classifier_file(tmp_path), variant="plus")
    with pytest.raises(ValueError, match="variant is 'plus'; known"):
        GradCam(VitFeatures(tiny_vit(), tiny_head(), "cls"), "plus")


class TestPretrained:
    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """timm's models with fresh weights instead of a download."""
        create = timm.create_model

        def fresh(name: str, pretrained: bool = False, **given: Any) -> Any:
            return create(name, **given)

        monkeypatch.setattr(timm, "create_model", fresh)

    def test_a_vit(self) -> None:
        ranker = open_ranker("grad_cam", "pretrained", model="test_vit", image_size=64)
        assert isinstance(ranker.network, VitFeatures)
        assert (ranker.network.pool, ranker.image_size, ranker.patch_size) == ("cls", (64, 64), (16, 16))
        assert ranker(images(1, 64, 64)).shape == (1, 4, 4)
        assert tuple(ranker.mean) == tuple(timm.models.get_pretrained_cfg("test_vit").mean)

    def test_a_convolutional_network(self) -> None:
        for model in (NAME, "test_efficientnet", "test_convnext"):
            ranker = open_ranker("grad_cam", "pretrained", model=model)
            assert ranker.image_size == (160, 160)
            assert ranker(images(1, 64, 64)).shape == (1, 4, 4)

    @pytest.mark.parametrize("model", ["deit_tiny_distilled_patch16_224", "test_vit2"])
    def test_classifiers_of_another_kind(self, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
        create = timm.create_model
        options = {"global_pool": "avg", "fc_norm": True} if model == "test_vit2" else {}
        monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, depth=1, **options))
        with pytest.raises(ValueError, match="classifies by two tokens, or by an average that is normalized once more"):
            open_ranker("grad_cam", "pretrained", model=model)
