"""Recipes of LTRP: values, the autoencoder that comes first, what a run leaves, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_autoencoder import SETTINGS, autoencoder

from vitrail.backbones import load, load_part
from vitrail.config import ConfigError
from vitrail.rankers import open_ranker
from vitrail.rankers.center import Center
from vitrail.recipes import ltrp
from vitrail.recipes import run as running
from vitrail.recipes.ltrp import build, folder_ltrp, ltrp_small, scenes_ltrp, touching
from vitrail.recipes.run import Verbs, describe, prepare, resolve, run
from vitrail.recipes.sources import open_splits


def tiny(*settings: str) -> Any:
    return scenes_ltrp().override([*SETTINGS, *settings])


@pytest.fixture(scope="module")
def mae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return autoencoder(tmp_path_factory.mktemp("mae") / "w.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained its autoencoder first."""
    folder = tmp_path_factory.mktemp("runs") / "ltrp"
    run(tiny(), Verbs(), folder)
    return folder


class TestARun:
    @torch.no_grad()
    def test_what_it_leaves(self, trained: Path) -> None:
        ranker = open_ranker("ltrp", str(trained))
        assert (ranker.grid, tuple(ranker.mean)) == ((4, 4), (0.5, 0.5, 0.5))
        assert ranker(torch.randn(2, 3, 24, 24)).shape == (2, 4, 4)
        assert load(weights=trained).embed_dim == 24
        assert load_part(trained / "mae", "decoder") is not None
        captions = json.loads((trained / "pictures" / "captions.json").read_text())
        assert set(captions) == {"ranking_before.png", "ranking_after.png"}
        lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
        assert all(-1 <= line["train/kendall"] <= 1 for line in lines if "train/kendall" in line)
        (told,) = [line for line in lines if "val/recall_0.25" in line]
        assert 0 < told["val/recall_0.25"] < 100
        assert told["val/floor_random_0.25"] == 25
        held_out, center = open_splits(tiny().data).val, Center((24, 24), (6, 6))
        assert told["val/floor_center_0.25"] == pytest.approx(ltrp.recall(center, held_out, 24, 0.25))
        state = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)["method"]
        assert {name.split(".")[0] for name in state} == {"ranker"}

    def test_it_goes_on_with_the_same_autoencoder(self, trained: Path, tmp_path: Path) -> None:
        before = (trained / "mae" / "checkpoints" / "last.pt").stat().st_mtime_ns
        config, _ = prepare("scenes_ltrp", [], Verbs(resume=True), trained)
        assert run(config, Verbs(resume=True), trained).steps == 5
        config, _ = prepare("scenes_ltrp", [], Verbs(extend=2), trained)
        assert run(config, Verbs(extend=2), trained).steps == 10
        assert (trained / "mae" / "checkpoints" / "last.pt").stat().st_mtime_ns == before

    def test_stopped_while_the_autoencoder_learns(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        right, seen = running.train_here, []

        def stopped(config: Any, verbs: Verbs, out: Path) -> Any:
            seen.extend([(out.name, verbs.resume)] if out.name == "mae" else [])
            if out.name == "mae" and len(seen) == 1:
                right(config, verbs, out)
                raise KeyboardInterrupt
            return right(config, verbs, out)

        monkeypatch.setattr(running, "train_here", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tiny(), Verbs(), tmp_path / "run")
        with pytest.raises(ConfigError, match="is not empty; go on with --resume"):
            run(tiny(), Verbs(), tmp_path / "run")
        config, _ = prepare("scenes_ltrp", [], Verbs(resume=True), tmp_path / "run")
        assert run(config, Verbs(resume=True), tmp_path / "run").steps == 5
        assert seen == [("mae", False), ("mae", True)]
        made = tmp_path / "run" / "mae"
        weights = (made / "exported" / "backbone.safetensors").read_bytes()
        (made / "checkpoints" / "last.pt").unlink()  # for space: its weights stay, and do for a run that has begun
        config, _ = prepare("scenes_ltrp", [], Verbs(resume=True), tmp_path / "run")
        assert run(config, Verbs(resume=True), tmp_path / "run").steps == 5
        (tmp_path / "run" / "checkpoints" / "last.pt").unlink()
        with pytest.raises(ConfigError, match=r"mae has weights and no checkpoint .* or begin anew with --overwrite"):
            run(config, Verbs(resume=True), tmp_path / "run")
        assert (made / "exported" / "backbone.safetensors").read_bytes() == weights
        run(tiny("train.seed=1"), Verbs(overwrite=True), tmp_path / "run")
        assert seen[2:] == [("mae", False)]
        assert resolve(str(tmp_path / "run" / "mae" / "config.yaml")).train.seed == 1  # type: ignore[attr-defined]

    def test_from_a_run_the_ranking_model_is_taken_over(self, trained: Path, mae: Path, tmp_path: Path) -> None:
        method = build(tiny(f"init_from={trained}", f"mae={mae}"), 0, 1).method
        opened = open_ranker("ltrp", str(trained))
        for name, value in method.ranker.state_dict().items():
            assert torch.equal(value, opened.state_dict()[name]), name
        with pytest.raises(ConfigError, match=r"has the head 'cls', and method\.head is 'patch'"):
            build(tiny(f"init_from={trained}", f"mae={mae}", "method.head=patch"), 0, 1)

    def test_from_a_backbone_its_head_starts_fresh_and_says_so(
        self, mae: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("WARNING", logger="vitrail")
        method = build(tiny(f"init_from={mae}", f"mae={mae}"), 0, 1).method
        assert "brings no head of a ranking model: it starts fresh" in caplog.text
        given = load(weights=mae).vit.blocks[0].attn.qkv.weight
        assert torch.equal(method.backbone.vit.blocks[0].attn.qkv.weight, given)

    def test_a_convolutional_ranking_model(self, mae: Path, tmp_path: Path) -> None:
        settings = ["backbone.name=resnet18", "backbone.embed_dim=null", "backbone.depth=null", "backbone.heads=null"]
        run(tiny(*settings, f"mae={mae}", "method.head=patch"), Verbs(), tmp_path)
        ranker = open_ranker("ltrp", str(tmp_path))
        assert ranker(torch.zeros(1, 3, 24, 36)).shape == (1, 4, 6)
        assert (tmp_path / "pictures" / "ranking_after.png").is_file()


class TestRefused:
    def test_no_autoencoder(self) -> None:
        with pytest.raises(ConfigError, match=r"none is given; set mae=RUN, a run of folder_mae with"):
            prepare("folder_ltrp", ["data.scenes.image_size=64"], Verbs())
        with pytest.raises(ValueError, match="there is no file of weights at nowhere"):
            prepare("scenes_ltrp", ["mae=nowhere"], Verbs())

    def test_an_autoencoder_without_its_decoder(self, tmp_path: Path, trained: Path) -> None:
        with pytest.raises(ValueError, match="holds a backbone without its decoder"):
            build(tiny(f"mae={trained}"), 0, 1)

    def test_patches_that_differ(self, tmp_path: Path) -> None:
        other = autoencoder(tmp_path / "w.safetensors", patch=12)
        with pytest.raises(ValueError, match="are 2x2 patches of 12x12 to the autoencoder and 4x4 patches of 6x6 to"):
            build(tiny(f"mae={other}"), 0, 1)

    def test_normalized_pixels_are_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("WARNING", logger="vitrail")
        build(tiny(f"mae={autoencoder(tmp_path / 'w.safetensors', normalized=True)}"), 0, 1)
        assert "predicts pixels normalized within each patch; LTRP's labels are of plain pixels" in caplog.text


def test_table_3() -> None:
    recipe = ltrp_small()
    train, method = recipe.train, recipe.method
    assert (method.hidden, method.weight_decay, method.loss, method.head) == (0.9, 0.06, "listmle", "cls")
    assert (method.sparse, method.positions) == (True, "fixed")
    assert (train.epochs, train.warmup_epochs, train.betas, train.global_batch_size) == (400, 40, (0.9, 0.95), 4096)
    assert train.learning_rate == pytest.approx(1.5e-4 * 16)
    assert recipe.augment.scale == (0.2, 1.0)
    assert recipe.backbone.name == "vit_small_patch16_224"
    assert 196 - math.ceil(0.9 * 196) == 19


@pytest.mark.parametrize("make", [scenes_ltrp, folder_ltrp, ltrp_small])
def test_every_recipe_survives_its_yaml_and_says_its_command(make: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(make().yaml())
    assert resolve(str(tmp_path / "recipe.yaml")) == make()
    assert "Command:" in make.__doc__


def test_a_run_in_words_trains_nothing(tmp_path: Path) -> None:
    words = describe(tiny(), 1)
    assert "50 images, 1 epoch of 5 steps of 10: 5 steps; 24 x 24 px in 16 patches" in words


def test_touching() -> None:
    mask = torch.zeros(8, 12, dtype=torch.uint8)
    mask[3, 4] = 7  # the last row of the first patch row, the first column of the second patch column
    mask[7, 11] = 255
    expected = torch.tensor([[False, True, False], [False, False, False]])
    assert torch.equal(touching(mask, (4, 4)), expected)
