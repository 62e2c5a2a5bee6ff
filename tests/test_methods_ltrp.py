"""LTRP's method: whose gradient, whose pixels, which loss, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vitrail.backbones import BackboneConfig, TimmViT, create
from vitrail.contracts import Batch, Method, Step
from vitrail.data.patch_labels import PatchLabels, begin, write_shard
from vitrail.methods.ltrp import Ltrp, LtrpConfig, loss_of, standardized
from vitrail.nn.masked_autoencoder import DecoderConfig, MaskedDecoder
from vitrail.nn.patch_removal import PatchRemoval
from vitrail.ops.listmle import listmle
from vitrail.ops.ranking_losses import listnet, pointwise, ranknet, top_focused
from vitrail.rankers.ltrp import LtrpRanker, ranking_network

TINY = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2)
HALF = (0.5, 0.5, 0.5)
LOSSES = ("listmle", "ranknet", "listnet", "pointwise", "top_focused")


def labeler(patch: int = 6) -> PatchRemoval:
    torch.manual_seed(1)
    backbone = create(TINY.model_copy(update={"patch_size": patch}))
    backbone.mean = backbone.std = HALF
    side = 24 // patch
    return PatchRemoval(
        backbone, MaskedDecoder(DecoderConfig(embed_dim=16, depth=1, heads=2), 24, (patch, patch), (side, side))
    )


def make(network: Any = None, labels: PatchLabels | None = None, **settings: Any) -> Ltrp:
    torch.manual_seed(0)
    network = network or create(TINY)
    network.mean = network.std = HALF
    config = LtrpConfig(**{"hidden": 0.6, **settings})
    return Ltrp(config, LtrpRanker(network, config.head), labeler() if labels is None else None, labels)


def batch(count: int = 3, **changes: Any) -> Batch:
    images = torch.randn(count, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    return Batch(images, None, torch.arange(count))._replace(**changes)


def step(method: Ltrp, seed: int = 5, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return method.training_step(batch(**changes), Step(0, 10))


class TestTraining:
    @pytest.mark.parametrize("head", ["cls", "patch"])
    def test_gradients_flow_into_the_ranking_model_alone(self, head: str) -> None:
        method = make(head=head)
        assert isinstance(method, Method)
        losses = step(method)
        losses.total.backward()
        (teacher,) = method._labeler
        assert teacher is not None
        assert all(value.grad is None for value in teacher.parameters())
        assert not any(value.requires_grad for value in teacher.parameters())
        assert not teacher.training
        trained = {name for name, value in method.named_parameters() if value.grad is not None and value.grad.any()}
        assert trained == {name for name, value in method.named_parameters() if value.requires_grad}
        assert -1 <= losses.parts["kendall"] <= 1

    def test_the_autoencoder_is_no_part_of_what_is_saved_and_trained(self) -> None:
        method = make()
        names = {name.split(".")[0] for name in method.state_dict()}
        assert names == {"ranker"}
        held = {id(value) for group in method.parameter_groups() for value in group["params"]}
        assert held == {id(value) for value in method.parameters() if value.requires_grad}
        assert not method.train()._labeler[0].training  # type: ignore[union-attr]
        assert set(method.export().metadata["parts"]) == {"ranker"}
        assert not any("decoder" in name for name in method.export().state)

    @pytest.mark.parametrize("sparse", [True, False])
    def test_the_loss_is_that_of_visible_scores_and_labels(self, sparse: bool) -> None:
        method = make(sparse=sparse)
        losses = step(method)
        torch.manual_seed(5)
        ids, labels = method.labeled(batch())
        assert ids.shape == (3, 6)  # int(16 * 0.4)
        assert (ids.diff(dim=1) > 0).all()
        seen = method.ranker.scores(batch().images, keep=ids if sparse else None)
        expected = listmle(seen if sparse else seen.gather(1, ids), labels)
        torch.testing.assert_close(losses.total, expected)

    def test_labels_are_those_of_patch_removal_in_the_autoencoders_pixels(self) -> None:
        method = make()
        method.ranker.mean, method.ranker.std = (0.2, 0.3, 0.4), (0.1, 0.2, 0.3)
        ids, labels = method.labeled(batch())
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (method.ranker.mean, method.ranker.std))
        pixels = batch().images * std + mean
        (teacher,) = method._labeler
        assert teacher is not None
        torch.testing.assert_close(labels, teacher((pixels - 0.5) / 0.5, ids))

    def test_chance_is_torchs(self) -> None:
        method = make()
        assert step(method).total == step(method).total
        assert step(method, seed=6).total != step(method).total

    def test_a_convolutional_ranking_model(self) -> None:
        config = BackboneConfig(name="resnet18", image_size=24, patch_size=6)
        for head in ("cls", "patch"):
            method = make(ranking_network(config), head=head)
            step(method).total.backward()
            assert method.backbone.network.conv1.weight.grad.any()
            assert method.ranker.head.weight.grad.any()

    def test_positions(self) -> None:
        fixed, learned = make(), make(positions="learned")
        assert isinstance(fixed.backbone, TimmViT)
        assert not fixed.backbone.vit.pos_embed.requires_grad  # type: ignore[union-attr]
        assert learned.backbone.vit.pos_embed.requires_grad
        torch.manual_seed(0)
        ranker = LtrpRanker(create(TINY))
        before = ranker.backbone.vit.blocks[0].attn.qkv.weight.clone()
        Ltrp(LtrpConfig(hidden=0.6), ranker, labeler(), fresh=False)
        assert torch.equal(ranker.backbone.vit.blocks[0].attn.qkv.weight, before)


class TestLosses:
    @pytest.mark.parametrize("loss", LOSSES)
    def test_each_is_trained_by(self, loss: Any) -> None:
        method = make(loss=loss)
        optimizer = torch.optim.SGD(method.ranker.head.parameters(), 0.01)
        before = step(method).total
        before.backward()
        optimizer.step()
        assert step(method).total < before

    def test_each_is_the_one_of_its_name_with_its_settings(self) -> None:
        scores, labels = torch.randn(2, 7), torch.rand(2, 7)
        for given, seen in ((True, standardized(labels)), (False, labels)):
            wanted: dict[str, Tensor] = {
                "listmle": listmle(scores, labels, top=3),
                "ranknet": ranknet(scores, seen, margin=0.2),
                "listnet": listnet(scores, seen, temperature=0.5),
                "pointwise": pointwise(scores, seen),
                "top_focused": top_focused(scores, seen, top=3, margin=0.2),
            }
            for name, expected in wanted.items():
                values: dict[str, Any] = {"top": 3, "margin": 0.2, "temperature": 0.5, "standardized": given}
                assert loss_of(LtrpConfig(loss=name, **values))(scores, labels) == expected  # type: ignore[arg-type]
        plain = loss_of(LtrpConfig(loss="top_focused"))(scores, labels)
        assert plain == top_focused(scores, standardized(labels), top=20)

    @pytest.mark.parametrize("name", ["ranknet", "top_focused"])
    def test_the_margin_does_not_hold_small_labels_equal(self, name: Any) -> None:
        """A thousandth of the labels, as those of a good autoencoder: the same loss, where raw ones tell no pair."""
        scores, labels = torch.randn(2, 7), torch.rand(2, 7)
        config = LtrpConfig(loss=name, top=1)
        torch.testing.assert_close(loss_of(config)(scores, labels * 1e-3), loss_of(config)(scores, labels))
        raw = loss_of(config.model_copy(update={"standardized": False}))
        torch.testing.assert_close(raw(scores, labels * 1e-3), raw(scores, labels * 1e-6))
        assert not torch.isclose(raw(scores, labels * 1e-3), raw(scores, labels))

    def test_standardized(self) -> None:
        found = standardized(torch.tensor([[1.0, 2, 3, 6], [4, 4, 4, 4]]))
        torch.testing.assert_close(found[0].mean(), torch.tensor(0.0))
        torch.testing.assert_close(found[0].square().mean(), torch.tensor(1.0))
        assert not found[1].any()


class TestKeptLabels:
    def kept(self, folder: Path, patches: int = 6, **about: Any) -> PatchLabels:
        words = {"images": 3, "grid": [4, 4], "hidden": 0.6, **about}
        begin(folder, words)
        write_shard(folder, 0, torch.arange(patches).expand(3, 2, -1), torch.rand(3, 2, patches))
        return PatchLabels(folder)

    def test_they_are_what_is_trained_on(self, tmp_path: Path) -> None:
        labels = self.kept(tmp_path)
        method = make(labels=labels)
        losses = step(method, indices=torch.tensor([2, 0, 1]))
        torch.manual_seed(5)
        ids, values = labels.draw(torch.tensor([2, 0, 1]))
        torch.testing.assert_close(losses.total, listmle(method.ranker.scores(batch().images, keep=ids), values))

    def test_those_of_another_grid_or_number_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="are of 8x8 patches, the ranking model scores 4x4; set image"):
            make(labels=self.kept(tmp_path / "a", grid=[8, 8]))
        with pytest.raises(ValueError, match=r"of 5 visible patches, and method\.hidden leaves 6; set .* to 0\.65"):
            make(labels=self.kept(tmp_path / "b", 5, hidden=0.65))


class TestRefused:
    def test_grids_that_differ(self) -> None:
        with pytest.raises(
            ValueError, match=r"are 2x2 patches of 12x12 to the autoencoder and 4x4 patches of 6x6 to the ranking model"
        ):
            Ltrp(LtrpConfig(hidden=0.6), LtrpRanker(create(TINY)), labeler(12))

    def test_too_few_visible_patches(self) -> None:
        with pytest.raises(ValueError, match=r"hidden 0\.9 leaves 1 of 16 patches .* set it to 0\.875 or less"):
            make(hidden=0.9)

    def test_nothing_that_labels(self) -> None:
        with pytest.raises(ValueError, match="LTRP needs an autoencoder that labels patches, or labels"):
            Ltrp(LtrpConfig(hidden=0.6), LtrpRanker(create(TINY)), None)
