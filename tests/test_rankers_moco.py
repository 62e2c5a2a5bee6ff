"""The channel sum of a feature map, and the files that MoCo left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_convnet import NAME, prefixed, saved, tiny_resnet
from torch import Tensor, nn

from vitrail.rankers import open_ranker
from vitrail.rankers.convnet import ConvNet
from vitrail.rankers.moco import Moco

OPENINGS = {
    "patches of 16": lambda folder: {"weights": flat(folder), "model": NAME, "image_size": 64},
    "patches of 32": lambda folder: {"weights": flat(folder), "model": NAME, "image_size": (64, 96), "patch_size": 32},
}
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def flat(folder: Path) -> str:
    return saved(folder, tiny_resnet().state_dict())


class Given(nn.Module):
    """A network whose features are given."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features
        self.num_features = features.shape[1]

    def forward_features(self, images: Tensor) -> Tensor:
        return self.features[: len(images)]


def given(features: Tensor, patch: int = 16) -> Moco:
    return Moco(ConvNet(Given(features), (0, 0, 0), (1, 1, 1), (224, 224), (patch, patch)))


def cubic(old: int, new: int) -> np.ndarray:
    """Weights `[new, old]` of bicubic resizing with a = -0.75, the border repeated."""
    matrix = np.zeros((new, old))
    for i in range(new):
        at = (i + 0.5) * old / new - 0.5
        for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            far = abs(at - tap)
            near = 1.25 * far**3 - 2.25 * far**2 + 1
            weight = near if far <= 1 else -0.75 * (far**3 - 5 * far**2 + 8 * far - 4)
            matrix[i, min(max(tap, 0), old - 1)] += weight
    return matrix


def test_the_sum_resized() -> None:
    features = torch.randn(2, 5, 7, 7, generator=torch.Generator().manual_seed(1))
    scores = given(features)(torch.zeros(2, 3, 224, 224))
    weights = cubic(7, 14)
    expected = weights @ features.double().sum(1).numpy() @ weights.T
    torch.testing.assert_close(scores, torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-5)
    assert torch.equal(given(features, 32)(torch.zeros(2, 3, 224, 224)), features.sum(1))


def test_half_precision_is_summed_wide() -> None:
    features = torch.full((1, 2048, 2, 2), 100.0, dtype=torch.float16)
    assert given(features, 32)(torch.zeros(1, 3, 64, 64)).tolist() == [[[204800.0] * 2] * 2]


def test_features_that_are_no_map() -> None:
    for shape in ((1, 4, 8), (1, 2, 2, 8)):
        network = Given(torch.zeros(shape))
        network.num_features = 8
        ranker = Moco(ConvNet(network, (0, 0, 0), (1, 1, 1), (32, 32), (16, 16)))
        with pytest.raises(
            ValueError, match=r"the features of this Given are .* no map \[B, 8, y, x\]; choose a convol"
        ):
            ranker(torch.zeros(1, 3, 32, 32))


def layouts() -> dict[str, dict[str, Any]]:
    """What is in the files of MoCo's versions, with a network of seed 0 in front and one of seed 1 behind."""
    front, behind = tiny_resnet().state_dict(), tiny_resnet(seed=1).state_dict()
    linear, junk = {"fc.weight": torch.zeros(128, 96), "fc.bias": torch.zeros(128)}, torch.zeros(3)
    mlp = {"fc.0.weight": junk, "fc.0.bias": junk, "fc.2.weight": junk, "fc.2.bias": junk}
    queue = {"module.queue": torch.zeros(128, 8), "module.queue_ptr": torch.zeros(1)}
    v3 = {"fc.0.weight": junk, "fc.1.running_mean": junk, "fc.6.weight": junk}
    return {
        "v1": {
            "arch": "resnet50",
            "state_dict": prefixed(front | linear, "module.encoder_q.")
            | prefixed(behind | linear, "module.encoder_k.")
            | queue,
        },
        "v2": {
            "epoch": 800,
            "optimizer": {"state": {}},
            "state_dict": prefixed(front | mlp, "module.encoder_q.")
            | prefixed(behind | mlp, "module.encoder_k.")
            | queue,
        },
        "v3": {
            "best_acc1": np.float64(74.6),
            "state_dict": prefixed(front | v3, "module.base_encoder.")
            | prefixed(behind | v3, "module.momentum_encoder.")
            | {"module.predictor.0.weight": junk},
        },
        "linear probe": {"state_dict": prefixed(front | {"fc.weight": torch.zeros(1000, 96)}, "module.")},
        "flat": front | linear,
        "model": {"model": front},
        "no counters": {name: value for name, value in front.items() if "num_batches" not in name},
    }


@pytest.mark.parametrize("kind", ["v1", "v2", "v3", "linear probe", "flat", "model", "no counters"])
def test_layouts(kind: str, tmp_path: Path) -> None:
    path = saved(tmp_path, layouts()[kind])
    scores = open_ranker("moco", path, model=NAME)(IMAGES)
    features = tiny_resnet().forward_features(IMAGES)
    expected = nn.functional.interpolate(features.sum(1, keepdim=True), (4, 6), mode="bicubic").squeeze(1)
    torch.testing.assert_close(scores, expected)
    key = {"v1": "encoder_k", "v2": "encoder_k", "v3": "momentum_encoder"}.get(kind)
    if key is not None:
        other = open_ranker("moco", path, model=NAME, key=key)(IMAGES)
        assert not torch.allclose(other, scores)


def test_files_that_are_refused(tmp_path: Path) -> None:
    v3 = saved(tmp_path, layouts()["v3"])
    with pytest.raises(ValueError, match="has no network 'encoder_k'; it has base_encoder, momentum_encoder"):
        open_ranker("moco", v3, model=NAME, key="encoder_k")
    with pytest.raises(ValueError, match="has no network 'student'; it has one network, so leave key out"):
        open_ranker("moco", flat(tmp_path), model=NAME, key="student")
    with pytest.raises(
        ValueError, match=r"v.pth is no plain ResNet; say timm's name .* such as dino. It holds cls_token"
    ):
        open_ranker("moco", saved(tmp_path, {"model": {"cls_token": torch.zeros(1)}}, "v.pth"))
    state = tiny_resnet().state_dict()
    state["layer9.0.weight"] = state.pop("layer4.0.bn1.weight")
    state["layer1.0.conv1.weight"] = torch.zeros(3)
    with pytest.raises(
        ValueError, match=r"not hold the weights of test_resnet: it lacks layer4\.0\.bn1\.weight; it has "
    ):
        open_ranker("moco", saved(tmp_path, state), model=NAME)
    with pytest.raises(ValueError, match=r"timm .* has no model 'resnet_50'; timm.list_models"):
        open_ranker("moco", v3, model="resnet_50")
