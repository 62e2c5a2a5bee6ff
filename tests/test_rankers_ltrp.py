"""LTRP's ranking model: what it scores, and every file it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vitrail.backbones import BackboneConfig, create, load, save_exported
from vitrail.contracts import Ranker
from vitrail.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vitrail.nn.positions import sine_cosine
from vitrail.rankers import open_ranker
from vitrail.rankers.feature_map import FeatureMap
from vitrail.rankers.ltrp import LtrpRanker, ranking_network

TINY = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2)
CNN = BackboneConfig(name="resnet18", image_size=64, patch_size=16)


def tiny(head: Any = "cls") -> LtrpRanker:
    torch.manual_seed(0)
    ranker = LtrpRanker(create(TINY), head)
    torch.nn.init.normal_(ranker.head.weight)
    return ranker.eval()


def images(*size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, *(size or (24, 24)), generator=torch.Generator().manual_seed(1))


def ltrp_file(folder: Path, ranker: LtrpRanker) -> dict[str, Any]:
    save_exported(ranker.export(), folder / "ltrp.safetensors")
    return {"weights": str(folder / "ltrp.safetensors")}


OPENINGS = {
    "cls": lambda folder: ltrp_file(folder, tiny("cls")),
    "patch": lambda folder: ltrp_file(folder, tiny("patch")),
    "convolutional": lambda folder: ltrp_file(folder, LtrpRanker(FeatureMap(CNN), "patch").eval()),
    "another size": lambda folder: ltrp_file(folder, tiny("cls")) | {"image_size": (36, 24)},
}


def test_the_published_size() -> None:
    ranker = LtrpRanker(create(BackboneConfig(name="vit_small_patch16_224")))
    assert round(sum(value.numel() for value in ranker.parameters()) / 1e6, 2) == 21.74
    assert ranker.head.out_features == 196


@pytest.mark.parametrize("head", ["cls", "patch"])
@torch.no_grad()
def test_scores_of_whole_images(head: str) -> None:
    ranker = tiny(head)
    scores = ranker(images())
    assert isinstance(ranker, Ranker)
    assert (scores.shape, scores.dtype) == ((2, 4, 4), torch.float32)
    tokens = ranker.backbone(images())
    expected = ranker.head(tokens.cls) if head == "cls" else ranker.head(tokens.patches)[..., 0]
    torch.testing.assert_close(scores.flatten(1), expected)
    torch.testing.assert_close(ranker(images()[:1]), scores[:1])  # whatever else is in the batch


@pytest.mark.parametrize("head", ["cls", "patch"])
@torch.no_grad()
def test_scores_of_visible_patches_depend_on_these_alone(head: str) -> None:
    ranker, keep = tiny(head), torch.tensor([[0, 5, 9], [2, 3, 15]])
    scores = ranker.scores(images(), keep)
    assert scores.shape == (2, 3)
    changed = images()
    changed[:, :, 6:12, :6] += 3  # patch 4, hidden in both
    torch.testing.assert_close(ranker.scores(changed, keep), scores, rtol=0, atol=1e-6)
    changed[0, :, :6, :6] += 3  # patch 0, seen in the first
    found = ranker.scores(changed, keep)
    assert (found[0] - scores[0]).abs().min() > 1e-3
    torch.testing.assert_close(found[1], scores[1], rtol=0, atol=1e-6)


@torch.no_grad()
def test_another_grid() -> None:
    ranker, large = tiny("cls"), images(24, 48)
    flat = ranker.head(ranker.backbone(large).cls).view(2, 1, 4, 4)
    expected = functional.interpolate(flat, (4, 8), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(ranker(large), expected)
    keep = torch.tensor([[0, 31], [7, 8]])
    assert ranker.scores(large, keep).shape == (2, 2)
    assert tiny("patch")(images(36, 12)).shape == (2, 6, 2)
    with pytest.raises(ValueError, match="25 is not a multiple of the patch size 6"):
        ranker(images(25, 24))


class TestFiles:
    @pytest.mark.parametrize("head", ["cls", "patch"])
    @torch.no_grad()
    def test_ours(self, head: str, tmp_path: Path) -> None:
        ranker = tiny(head)
        ranker.backbone.mean = ranker.mean = (0.1, 0.2, 0.3)
        save_exported(ranker.export(), tmp_path / "exported" / "backbone.safetensors")
        opened = open_ranker("ltrp", str(tmp_path))
        torch.testing.assert_close(opened(images()), ranker(images()))
        assert not any(value.requires_grad for value in opened.parameters())
        assert tuple(opened.mean) == (0.1, 0.2, 0.3)
        backbone = load(weights=tmp_path).eval()
        assert torch.equal(backbone(images()).cls, ranker.backbone(images()).cls)

    @torch.no_grad()
    def test_ours_made_for_another_size(self, tmp_path: Path) -> None:
        for head in ("cls", "patch"):
            save_exported(tiny(head).export(), tmp_path / "w.safetensors")
            opened = open_ranker("ltrp", str(tmp_path / "w.safetensors"), image_size=48)
            assert opened.image_size == (48, 48)
            assert opened(images(48, 48)).shape == (2, 8, 8)
            assert opened.head.out_features == (16 if head == "cls" else 1)

    @pytest.mark.parametrize("head", ["cls", "patch"])
    @torch.no_grad()
    def test_convolutional(self, head: Any, tmp_path: Path) -> None:
        torch.manual_seed(0)
        network = ranking_network(CNN)
        assert isinstance(network, FeatureMap)
        ranker = LtrpRanker(network, head).eval()
        save_exported(ranker.export(), tmp_path / "w.safetensors")
        opened = open_ranker("ltrp", str(tmp_path / "w.safetensors"))
        found = opened(images(64, 64))
        assert found.shape == (2, 4, 4)
        torch.testing.assert_close(found, ranker(images(64, 64)))
        assert opened(images(96, 64)).shape == (2, 6, 4)
        assert open_ranker("ltrp", str(tmp_path / "w.safetensors"), image_size=96).image_size == (96, 96)

    def released(self, rows: int = 16) -> dict[str, Tensor]:
        """A file as the authors' names and shapes are: fixed positions, a head with an output for each patch."""
        torch.manual_seed(3)
        width = 64
        wide = TINY.model_copy(update={"embed_dim": width, "heads": 1})
        state = {name: value.clone() for name, value in create(wide).vit.state_dict().items()}
        state["pos_embed"] = torch.cat((torch.zeros(1, width), sine_cosine((4, 4), width)))[None]
        return state | {"head.weight": torch.randn(rows, width), "head.bias": torch.randn(rows)}

    @pytest.mark.parametrize("nesting", ["plain", "model", "score_net", "beside an autoencoder"])
    @torch.no_grad()
    def test_the_authors_layouts(self, nesting: str, tmp_path: Path) -> None:
        state = self.released()
        named = {f"score_net.{name}": value for name, value in state.items()}
        other = {f"mae.{name}": value + 1 for name, value in state.items() if "head" not in name}
        content = {
            "plain": state,
            "model": {"model": state, "epoch": 400},
            "score_net": {"model": named},
            "beside an autoencoder": {"model": {**other, **named}},
        }[nesting]
        torch.save(content, tmp_path / "ltrp.pth")
        opened = open_ranker("ltrp", str(tmp_path / "ltrp.pth"))
        assert (opened.kind, opened.grid, opened.patch_size) == ("cls", (4, 4), (6, 6))
        assert (tuple(opened.mean), tuple(opened.std)) == (IMAGENET_MEAN, IMAGENET_STD)
        vit = opened.backbone.vit
        assert torch.equal(vit.pos_embed, state["pos_embed"])
        vit.reset_classifier(16)
        vit.head.load_state_dict({"weight": state["head.weight"], "bias": state["head.bias"]})
        expected = vit(images())  # timm's own forward: the class token, normed, through the head
        torch.testing.assert_close(opened(images()).flatten(1), expected)

    def test_a_classifier_is_refused(self, tmp_path: Path) -> None:
        for rows in (25, 10):
            torch.save(self.released(rows), tmp_path / "w.pth")
            with pytest.raises(ValueError, match=rf"its head has {rows} outputs, and its images 4 x 4 patches"):
                open_ranker("ltrp", str(tmp_path / "w.pth"))

    def test_what_holds_no_ranking_model_is_refused(self, tmp_path: Path) -> None:
        save_exported(create(TINY).export(), tmp_path / "w.safetensors")
        with pytest.raises(ValueError, match="holds no ranking model beside its network"):
            open_ranker("ltrp", str(tmp_path / "w.safetensors"))
        with pytest.raises(ValueError, match=r"ltrp needs weights: give a run of LTRP"):
            open_ranker("ltrp")
        with pytest.raises(ValueError, match="timm offers no ranking model"):
            open_ranker("ltrp", "pretrained")
