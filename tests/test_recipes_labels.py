"""`vitrail label`: what is kept, going on after a kill, and trainings that read it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_autoencoder import SETTINGS, autoencoder

from vitrail.config import ConfigError
from vitrail.data import TooManyUnreadable, patch_labels
from vitrail.data.patch_labels import PatchLabels, Share
from vitrail.nn.patch_removal import PatchRemoval, RemovalConfig
from vitrail.recipes import labels as made
from vitrail.recipes.labels import label_by, open_labeler
from vitrail.recipes.ltrp import build, scenes_ltrp
from vitrail.train import Ranks


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_labels, "SHARD", 20)


@pytest.fixture(scope="module")
def mae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return autoencoder(tmp_path_factory.mktemp("mae") / "w.safetensors")


def label(mae: Path, out: Path, *settings: str, draws: int = 2, name: str = "scenes_ltrp") -> tuple[Path, str]:
    return label_by(name, [*SETTINGS, f"mae={mae}", *settings], out, draws, device="cpu")


def recipe(mae: Path, out: Path, *settings: str) -> Any:
    return scenes_ltrp().override([*SETTINGS, f"mae={mae}", f"method.labels={out}", *settings, "augment.flip=0"])


def content(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(path) for path in sorted(folder.glob("*.safetensors"))]


def test_labels_are_those_that_training_would_compute(mae: Path, tmp_path: Path) -> None:
    out, words = label(mae, tmp_path / "labels")
    assert words == f"train with: method.labels={out} augment.flip=0.0"
    labels = PatchLabels(out)
    assert labels.ids.shape == (50, 2, 4)
    assert (labels.ids.diff(dim=2) > 0).all()
    assert len({tuple(row) for row in labels.ids.flatten(0, 1).tolist()}) > 80  # every draw is another
    parts = build(recipe(mae, out), 0, 1)
    (batch,) = next(iter(parts.loader.batches(0, 1)))
    torch.manual_seed(0)
    ids, values = parts.method.labeled(batch)
    found = open_labeler(str(mae))
    expected = PatchRemoval(found.backbone, found.decoder)(batch.images, ids)  # type: ignore[arg-type]
    torch.testing.assert_close(values, expected)


def test_pictures_may_be_compared_by_a_network_s_features(mae: Path, tmp_path: Path) -> None:
    words = ["method.removal.metric=perceptual", f"perceptual={mae}"]
    out, _ = label(mae, tmp_path / "labels", *words, draws=1)
    parts = build(recipe(mae, out, *words), 0, 1)
    (batch,) = next(iter(parts.loader.batches(0, 1)))
    ids, values = parts.method.labeled(batch)
    found = open_labeler(str(mae))
    config = RemovalConfig(metric="perceptual")
    expected = PatchRemoval(found.backbone, found.decoder, config, found.backbone)(batch.images, ids)  # type: ignore[arg-type]
    torch.testing.assert_close(values, expected)
    with pytest.raises(ValueError, match="of something else: perceptual"):
        build(recipe(mae, out, words[0], f"perceptual={autoencoder(tmp_path / 'other.safetensors', seed=1)}"), 0, 1)
    for wrong in (words[:1], words[1:]):
        with pytest.raises(ConfigError, match=r"method\.removal\.metric is .* and perceptual is"):
            label(mae, tmp_path / "wrong", *wrong)


def test_after_a_kill_it_goes_on_and_ends_in_the_same_bits(
    mae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(label(mae, tmp_path / "whole")[0])
    right, calls = made.write_shard, []

    def killed(folder: Path, number: int, *values: Any) -> None:
        calls.append(number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        right(folder, number, *values)

    monkeypatch.setattr(made, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        label(mae, tmp_path / "cut")
    assert len(content(tmp_path / "cut")) == 1
    label(mae, tmp_path / "cut")
    assert calls == [0, 1, 1, 2]  # the first was not labeled again
    for one, two in zip(whole, content(tmp_path / "cut"), strict=True):
        assert torch.equal(one["ids"], two["ids"])
        assert torch.equal(one["labels"], two["labels"])


def test_parts_are_the_whole_bit_by_bit(mae: Path, tmp_path: Path) -> None:
    whole = content(label(mae, tmp_path / "whole")[0])
    common: dict[str, Any] = {"device": "cpu", "draws": 2}
    settings = [*SETTINGS, f"mae={mae}"]
    for number, (there, left) in enumerate(((2, "1 of 3 shards are not there yet"), (3, "train with")), start=1):
        share = Share.parse(f"{number}/2")
        out, words = label_by("scenes_ltrp", settings, tmp_path / "one", share=share, **common)
        assert left in words
        assert len(content(out)) == there
        label_by("scenes_ltrp", settings, tmp_path / f"own{number}", share=share, **common)
        (tmp_path / "put").mkdir(exist_ok=True)
        for path in (tmp_path / f"own{number}").iterdir():
            shutil.copy(path, tmp_path / "put" / path.name)
    assert PatchLabels(tmp_path / "one").about == PatchLabels(tmp_path / "whole").about
    for folder in ("one", "put"):
        for one, two in zip(whole, content(tmp_path / folder), strict=True):
            assert torch.equal(one["ids"], two["ids"])
            assert torch.equal(one["labels"], two["labels"])
    with pytest.raises(ValueError, match=r"2 of 3 shards are missing; .* put the files of all its parts here"):
        PatchLabels(tmp_path / "own2")


def test_a_part_without_a_shard_is_refused_before_anything_is_run(
    mae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*SETTINGS, f"mae={mae}"]
    monkeypatch.setattr(PatchRemoval, "forward", None)
    with pytest.raises(ValueError, match="--shard 4/4 has nothing to do: 50 images are 3 shards of 20 images"):
        label_by("scenes_ltrp", settings, tmp_path / "labels", 1, device="cpu", share=Share.parse("4/4"))
    assert not (tmp_path / "labels").exists()


def test_ranks_share_the_work(mae: Path, tmp_path: Path) -> None:
    """Each process of a launcher labels its own shards of the part, and hears what the others could not read."""
    recipe = scenes_ltrp().override([*SETTINGS, f"mae={mae}"])
    wanted = made.Wanted(made.open_splits(recipe.data).train, recipe.augment, recipe.method)
    found, seen = open_labeler(str(mae)), []

    class Told(Ranks):
        def gather(self, value: Any) -> list[Any]:
            seen.append(self.rank)
            return [value, {}]

    for rank, there in ((1, [1]), (0, [0, 1, 2])):
        ranks = Told(rank, 2, torch.device("cpu"))
        made.make_labels(found, wanted, tmp_path / "labels", 2, ranks=ranks)
        assert [path.name for path in sorted((tmp_path / "labels").glob("*.safetensors"))] == [
            f"shard-{number:05d}.safetensors" for number in there
        ]
    assert seen == [1, 0]
    whole = content(label(mae, tmp_path / "whole")[0])
    for one, two in zip(whole, content(tmp_path / "labels"), strict=True):
        assert torch.equal(one["labels"], two["labels"])


def test_what_the_labels_are_of_is_kept(mae: Path, tmp_path: Path) -> None:
    out, _ = label(mae, tmp_path / "labels")
    about = json.loads((out / "labels.json").read_text())
    assert (about["images"], about["draws"], about["hidden"], about["grid"]) == (50, 2, 0.7, [4, 4])
    assert about["removal"]["removal"] == "delete"
    for settings, words in (
        (["data.scenes.seed=3"], r"holds other labels: data '\w+', wanted '\w+'"),
        (["method.hidden=0.5"], r"hidden 0\.7, wanted 0\.5"),
        (["train.seed=4"], r"seed 0, wanted 4"),
    ):
        with pytest.raises(ValueError, match=words):
            label(mae, out, *settings)
    with pytest.raises(ValueError, match="draws 2, wanted 3"):
        label(mae, out, draws=3)


class TestTraining:
    def test_of_another_autoencoder(self, mae: Path, tmp_path: Path) -> None:
        out, _ = label(mae, tmp_path / "labels")
        other = autoencoder(tmp_path / "other.safetensors", seed=1)
        with pytest.raises(ValueError, match=r"are of something else: autoencoder '\w{16}', wanted '\w{16}'"):
            build(recipe(other, out), 0, 1)
        assert build(recipe(other, out, "mae=null"), 0, 1).method.labels is not None  # the labels say all

    def test_of_other_images(self, mae: Path, tmp_path: Path) -> None:
        out, _ = label(mae, tmp_path / "labels")
        with pytest.raises(ValueError, match=r"are of something else: data '\w{16}', wanted '\w{16}'"):
            build(recipe(mae, out, "data.scenes.seed=3"), 0, 1)

    def test_of_augmented_images(self, mae: Path, tmp_path: Path) -> None:
        words = (
            r"not augmented, and here they are \(scale \(0\.2, 1\.0\), color_jitter .*set "
            r"augment\.scale=null augment\.color_jitter=\[0\.0,0\.0,0\.0,0\.0\], or leave"
        )
        with pytest.raises(ConfigError, match=words):
            recipe(mae, tmp_path, "augment.scale=[0.2, 1.0]", "augment.color_jitter=0.1")
        with pytest.raises(ConfigError, match=r"set augment\.flip=0\.0, or leave"):
            scenes_ltrp().override(["method.labels=x"])


def photos(folder: Path, count: int = 12) -> Path:
    for number in range(count):
        place = folder / f"{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (30, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.numpy()).save(place / f"{number:02d}.png")
    return folder


def test_unreadable_images_are_refused_above_one_percent(mae: Path, tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    out, _ = label(mae, tmp_path / "labels", f"data.root={root}")
    assert (PatchLabels(out).ids >= 0).all()
    (root / "0" / "02.png").write_bytes(b"no image")
    with pytest.raises(TooManyUnreadable, match=r"02\.png"):
        label(mae, tmp_path / "again", f"data.root={root}")
    with pytest.raises(TooManyUnreadable, match=r"when shard-00000\.safetensors was made; mend it and"):
        label(mae, tmp_path / "again", f"data.root={root}")  # finished shards are counted, too


def test_what_cannot_be_labeled(mae: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scenes_mae is no recipe of LTRP"):
        label_by("scenes_mae", [], tmp_path, 1)
    with pytest.raises(ConfigError, match="set mae=RUN"):
        label_by("scenes_ltrp", [], tmp_path, 1)
    with pytest.raises(ValueError, match="draws is 0"):
        label(mae, tmp_path, draws=0)
    with pytest.raises(ValueError, match=r"no whole patches of the autoencoder.*set augment\.image_size="):
        label(mae, tmp_path / "odd", "augment.image_size=37")
