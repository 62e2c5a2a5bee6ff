"""Convolutional networks behind the backbone's contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitrail.backbones import (
    BackboneConfig,
    ConvNetConfig,
    TimmConvNet,
    create,
    create_convnet,
    load,
    load_convnet,
    load_part,
    save_exported,
    with_part,
)
from vitrail.backbones.reading import own_header
from vitrail.config import ConfigError
from vitrail.contracts import Backbone, Exported
from vitrail.data import SyntheticScenes
from vitrail.evaluation import knn
from vitrail.evaluation.features import FeatureConfig, read_features

TINY = ConvNetConfig(width=4, blocks=(1, 1, 1, 1))


def tiny(seed: int = 0, **changes: Any) -> TimmConvNet:
    torch.manual_seed(seed)
    return create_convnet(TINY.model_copy(update=changes)).eval()


def images(side: int = 32, batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_the_last_map_are_the_patches_and_their_mean_the_class_token() -> None:
    backbone = tiny()
    assert isinstance(backbone, Backbone)
    tokens = backbone(images())
    assert (backbone.embed_dim, backbone.patch_size, tokens.grid) == (32, (8, 8), (4, 4))
    cells = backbone.net.forward_features(images())  # type: ignore[operator]
    assert torch.equal(tokens.patches[:, 6], cells[:, :, 1, 2])  # raster order
    torch.testing.assert_close(tokens.cls, tokens.patches.mean(1))
    assert tokens.layers == tokens.scores == {}
    assert backbone(images(48)).grid == (6, 6)


@pytest.mark.parametrize(
    ("config", "stem", "width"),
    [(ConvNetConfig(), 64, 512), (ConvNetConfig(width=8), 8, 64), (ConvNetConfig(name="resnet50", width=8), 8, 256)],
)
def test_the_small_stem(config: ConvNetConfig, stem: int, width: int) -> None:
    backbone = create_convnet(config)
    first: Any = backbone.net.conv1
    assert (first.kernel_size, first.stride, first.out_channels) == ((3, 3), (1, 1), stem)
    assert isinstance(backbone.net.maxpool, nn.Identity)
    assert backbone(images(16)).patches.shape == (3, 4, width)
    if config.name == "resnet18":  # no projection where nothing has to be projected
        assert backbone.net.layer1[0].downsample is None  # type: ignore[index,union-attr]


def test_resnet18_for_cifar_has_the_weights_it_is_known_for() -> None:
    """torchvision's ResNet-18 without classifier has 11,176,512; the stem saves 3 * 64 * (49 - 9)."""
    assert sum(value.numel() for value in create_convnet().parameters()) == 11_176_512 - 7_680


def test_a_plain_stem_is_timms() -> None:
    config = ConvNetConfig(name="resnet18", stem="plain", image_size=64)
    torch.manual_seed(0)
    backbone = create_convnet(config).eval()
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", num_classes=0).eval()
    assert torch.equal(backbone(images(64)).cls, theirs(images(64)))
    assert backbone.patch_size == (32, 32)


@pytest.mark.parametrize("asked", [{"layers": (-1,)}, {"scores": (-1,)}, {"keep": torch.zeros(3, 2).long()}])
def test_what_it_does_not_have_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(asked))} was asked of resnet18.*no blocks.*Vision Transformer"):
        tiny()(images(), **asked)
    with pytest.raises(ValueError, match="hidden was asked"):
        tiny()(images(), hidden=torch.zeros(3, 16, dtype=torch.bool), mask_token=torch.zeros(32))


def test_sizes_that_are_no_whole_cells_are_refused() -> None:
    with pytest.raises(ValueError, match=r"height 20 is not a multiple of 8 pixels.*resize to 16"):
        tiny()(images(20))
    with pytest.raises(ValueError, match=r"images are \[3, 1, 32, 32\]"):
        tiny()(images()[:, :1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "resnet17"}, "no model 'resnet17'"),
        ({"name": "resnet10t", "width": None, "blocks": None}, "no plain ResNet stem.*stem=plain"),
        ({"options": {"nonsense": 1}}, "timm cannot build resnet18"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        create_convnet(TINY.model_copy(update=changes))
    with pytest.raises(ConfigError, match="image_size 0 is not positive"):
        ConvNetConfig().override(["image_size=0"])


def saved(folder: Path, backbone: TimmConvNet) -> Path:
    path = folder / "run" / "exported" / "backbone.safetensors"
    save_exported(with_part(backbone.export(), "projector", nn.Linear(3, 2), {"wide": 2}), path)
    return path


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    backbone = tiny(image_size=48)
    backbone.mean, backbone.std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    path = saved(tmp_path, backbone)
    for where in (path, tmp_path / "run"):
        found = load_convnet(where).eval()
        assert torch.equal(found(images()).cls, backbone(images()).cls)
    assert (found.mean, found.std, found.image_size) == (backbone.mean, backbone.std, (48, 48))
    assert found.config == backbone.config
    part = load_part(path, "projector")
    assert part is not None
    assert part.state["weight"].shape == (2, 3)
    header = own_header(path)
    assert header is not None
    assert header["convnet"]["width"] == 4


def test_files_of_the_other_kind_are_told_apart(tmp_path: Path) -> None:
    path = saved(tmp_path, tiny())
    with pytest.raises(
        ValueError, match=r"holds a convolutional network, resnet18, and this needs a Vision Transf.*knn"
    ):
        load(None, path)
    vit = tmp_path / "vit.safetensors"
    save_exported(create(BackboneConfig(image_size=16, patch_size=8, embed_dim=12, depth=1, heads=2)).export(), vit)
    with pytest.raises(ValueError, match=r"holds no convolutional network of vitrail's; vitrail.load opens"):
        load_convnet(vit)
    exported = tiny().export()
    save_exported(Exported({**exported.state, "more": torch.zeros(2)}, exported.metadata), path)
    with pytest.raises(ValueError, match="does not fit the resnet18 of its header: it has besides more"):
        load_convnet(path)


def test_knn_runs_on_it_and_blocks_are_refused() -> None:
    data = SyntheticScenes(24, 32, 3, 0, "train"), SyntheticScenes(9, 32, 3, 0, "val")
    report = knn.evaluate(tiny(), *data, knn.KnnConfig(k=(5,)).override(["transform.image_size=32"]))
    assert set(report.numbers) == {"knn5_top1", "best_top1"}
    with pytest.raises(ValueError, match="cls_blocks = 4, but the backbone has 1 blocks"):
        read_features(tiny(), images(), FeatureConfig(cls_blocks=4))
    assert read_features(tiny(), images(), FeatureConfig(mean_patch=True)).shape == (3, 64)
