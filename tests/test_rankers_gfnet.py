"""GFNet's ranker: where windows are, what is cut out, scores by distance, files of both kinds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vitrail
from vitrail.backbones import save_exported
from vitrail.config import ConfigError
from vitrail.methods.gfnet import Gfnet as Method
from vitrail.methods.gfnet import GfnetConfig
from vitrail.ops.selection import select
from vitrail.rankers import open_ranker
from vitrail.rankers.gfnet import GfNet, Gfnet, GfNetConfig, open_network, top_left, window_scores

TINY = GfNetConfig(
    cnn="resnet10t",
    cnn_options={"channels": [8, 8, 16, 16], "stem_width": 8, "output_stride": 8},
    image_size=28,
    window=16,
    looks=3,
    hidden=12,
    encoder="conv",
    patch_size=2,
)


def network(config: GfNetConfig = TINY) -> GfNet:
    torch.manual_seed(0)
    found = GfNet(config, 3)
    torch.nn.init.normal_(found.policy.actor[0].weight, std=3.0)
    return found.eval().requires_grad_(False)


def focusing_file(folder: Path, **more: str) -> dict[str, str]:
    method = Method(GfnetConfig(network=TINY), network(), ("a", "b", "c"))
    save_exported(method.export(), folder / "x.safetensors")
    return {"weights": str(folder / "x.safetensors")} | more


OPENINGS = {"window": focusing_file, "indicator": lambda folder: focusing_file(folder, variant="indicator")}


def batch(size: int = 3) -> Tensor:
    return torch.randn(size, 3, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("action", "start"),
    [((0, 0), (0, 0)), ((1, 1), (6, 6)), ((0, 1), (0, 6)), ((0.5, 0.999), (3, 5)), ((0.1666, 0.1667), (0, 1))],
)
def test_windows_of_8_in_14(action: tuple[float, float], start: tuple[int, int]) -> None:
    """floor(a * 6), down and right; the window lies inside at every corner."""
    actions = torch.tensor([action])
    assert top_left(actions, (14, 14), (8, 8)).tolist() == [list(start)]
    inside = window_scores(actions, (14, 14), (8, 8))[0] > 0
    ids = inside.nonzero()
    assert ids.min(0).values.tolist() == list(start)
    assert ids.max(0).values.tolist() == [start[0] + 7, start[1] + 7]
    assert torch.equal(window_scores(actions, (14, 14), (8, 8), ties=True)[0], inside.float())


def test_scores_by_hand() -> None:
    """A window of 1 x 2 at the upper right of 2 x 3: its center lies between two cells; the diagonal is sqrt(13)."""
    scores = window_scores(torch.tensor([[0.0, 1.0]]), (2, 3), (1, 2))
    span = math.sqrt(13) + 1
    away = [[1.5, 0.5, 0.5], [math.hypot(1, 1.5), math.hypot(1, 0.5), math.hypot(1, 0.5)]]
    wanted = torch.tensor([[[-away[0][0], span - 0.5, span - 0.5], [-each for each in away[1]]]]) / span
    torch.testing.assert_close(scores, wanted)


def test_kept_patches_are_around_the_center_and_then_around_the_window() -> None:
    scores = window_scores(torch.tensor([[1.0, 0.0]]), (14, 14), (8, 8))
    assert {divmod(patch, 14) for patch in select(scores, 4)[0].tolist()} == {(9, 3), (9, 4), (10, 3), (10, 4)}
    within = {(y, x) for y in range(6, 14) for x in range(8)}
    assert {divmod(patch, 14) for patch in select(scores, 64)[0].tolist()} == within
    more = {divmod(patch, 14) for patch in select(scores, 70)[0].tolist()} - within
    assert more <= {(5, x) for x in range(8)} | {(y, 8) for y in range(6, 14)}


def test_what_is_cut_out() -> None:
    found = network()
    images = torch.arange(2 * 3 * 28 * 28.0).view(2, 3, 28, 28)
    cut = found.cut(images, torch.tensor([[0.0, 1.0], [0.5, 0.25]]))
    assert torch.equal(cut[0], images[0, :, :16, 12:])
    assert torch.equal(cut[1], images[1, :, 6:22, 3:19])
    assert found.cut(torch.randn(2, 3, 56, 42), torch.zeros(2, 2)).shape == (2, 3, 16, 16)


def test_looks_by_hand() -> None:
    """One look after another: glance, then windows where the policy says from the last map."""
    found, images = network(), batch()
    told = found(images)
    features = found.glance.forward_features(found.whole(images))
    seen, memory = None, None
    for number in range(3):
        out, seen = found.classifier.rnn(features.mean((2, 3))[None], seen)
        torch.testing.assert_close(told.logits[number], found.classifier.fc(out[0]))
        if number < 2:
            action, _, memory = found.policy(features, memory)
            torch.testing.assert_close(told.actions[number], action)
            features = found.focus.forward_features(found.cut(images, action))
    means, values = found.policy.over(told.maps)
    torch.testing.assert_close(means, told.means)
    assert values.shape == (2, 3)


def test_the_last_action_is_scored() -> None:
    found, images = network(), batch()
    ranker = Gfnet(found)
    action = found(images).actions[-1]
    assert action.std() > 0.05
    assert torch.equal(ranker(images), window_scores(action, (14, 14), (8, 8)))
    assert torch.equal(Gfnet(found, "indicator")(images).sum((1, 2)), torch.full((3,), 64.0))


def test_every_number_alone_in_a_batch_and_other_sizes() -> None:
    ranker, images = Gfnet(network(), patch_size=4), torch.randn(3, 3, 28, 56)
    scores = ranker(images)
    assert scores.shape == (3, 7, 14)
    assert scores.dtype == torch.float32
    assert (scores > 0).sum((1, 2)).tolist() == [4 * 8] * 3
    assert torch.equal(scores, ranker(images))
    torch.testing.assert_close(scores[1:2], ranker(images[1:2]))
    for number in range(1, 99):
        assert all(len(set(row)) == number for row in select(scores, number).tolist())


@pytest.mark.parametrize("encoder", ["conv", "linear"])
def test_our_file_round_trip(encoder: str, tmp_path: Path) -> None:
    found, images = network(TINY.model_copy(update={"encoder": encoder})), batch()
    found.mean = (0.5, 0.4, 0.3)
    save_exported(
        Method(GfnetConfig(network=found.config), found, ("a", "b", "c")).export(), tmp_path / "x.safetensors"
    )
    ranker: Any = open_ranker("gfnet", str(tmp_path / "x.safetensors"))
    assert ranker.mean == (0.5, 0.4, 0.3)
    assert (ranker.image_size, ranker.patch_size) == ((28, 28), (2, 2))
    assert torch.equal(ranker(images), Gfnet(found)(images))
    with pytest.raises(
        ValueError, match=r"no Vision Transformer, for the ranker gfnet: name it by --ranker gfnet=.*open_ranker"
    ):
        vitrail.load(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("encoder", ["conv", "linear"])
def test_released_file_round_trip(encoder: str, tmp_path: Path) -> None:
    """Four state dictionaries; CNNs trained in parallel, with classifiers of their own."""
    options = {"cnn": "lcnet_035", "cnn_options": {}, "image_size": 224, "window": 32, "patch_size": 16}
    found = network(TINY.model_copy(update={**options, "encoder": encoder}))

    def cnn(part: Any) -> dict[str, Tensor]:
        state = {f"module.{name}": value for name, value in part.state_dict().items()}
        return state | {"module.fc.weight": torch.randn(3, 8), "module.fc.bias": torch.zeros(3)}

    content = {
        "model_name": "lcnet_035",
        "patch_size": 32,
        "flops": [1.0, 2.0, 3.0],
        "model_prime_state_dict": cnn(found.glance),
        "model_state_dict": cnn(found.focus),
        "policy": found.policy.state_dict(),
        "fc": found.classifier.state_dict(),
    }
    torch.save(content, tmp_path / "gfnet.pth.tar")
    again = open_network(tmp_path / "gfnet.pth.tar")
    assert again.config == found.config
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in found.state_dict().items())
    del content["policy"]
    torch.save(content, tmp_path / "half.pth.tar")
    with pytest.raises(ValueError, match="no file of GFNet: it has no policy"):
        open_network(tmp_path / "half.pth.tar")
    content["policy"] = {"gru.weight_ih_l0": torch.zeros(36, 12)}
    torch.save(content, tmp_path / "other.pth.tar")
    with pytest.raises(ValueError, match="does not fit GFNet with lcnet_035 and windows of 32 pixels"):
        open_network(tmp_path / "other.pth.tar")


def test_what_cannot_be_built() -> None:
    with pytest.raises(ConfigError, match="window 30 is larger than image_size 28"):
        network(TINY.model_copy(update={"window": 30}))
    with pytest.raises(ConfigError, match="has no model 'resnet51'"):
        network(TINY.model_copy(update={"cnn": "resnet51"}))
    with pytest.raises(ConfigError, match="gives no feature map"):
        network(TINY.model_copy(update={"cnn": "vit_tiny_patch16_224", "cnn_options": {"img_size": 16}}))
    with pytest.raises(ValueError, match="the ranker gfnet needs weights"):
        open_ranker("gfnet")
