"""Ranking image files: what is written, for which files, and that it is what the ranker says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail import __version__
from vitrail.backbones import BackboneConfig, create, save_exported
from vitrail.evaluation.features import weights_digest
from vitrail.ops.selection import select
from vitrail.rankers import open_ranker
from vitrail.rankers.center import Center
from vitrail.recipes import rank as recipe
from vitrail.recipes.rank import Shown, draw_patches, gallery_of, rank, rank_files
from vitrail.recipes.rankers import RankerWords

CENTER = RankerWords("center", None, None)
SMALL = Shown(size=64)


def photo(path: Path, size: tuple[int, int] = (90, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 80).convert("RGB").save(path)
    return path


def test_scores_ids_and_picture_of_each_image(tmp_path: Path) -> None:
    files = [photo(tmp_path / "c" / "a.png"), photo(tmp_path / "b" / "a.png", (60, 90))]
    written = list(rank_files([*files, files[0]], CENTER, SMALL, 0.25, tmp_path / "out"))
    assert [path.name for path in written] == ["c-a-center.png", "b-a-center.png"]
    scores = np.load(tmp_path / "out" / "c-a-center.npy")
    about = json.loads((tmp_path / "out" / "c-a-center.json").read_text())
    assert scores.shape == (4, 6)
    assert scores.dtype == np.float32
    assert about["grid"] == [4, 6]
    assert about["resized"] == [64, 96]
    assert about["number"] == 6
    assert about["ids"] == select(torch.from_numpy(scores)[None], 6)[0].tolist()
    assert np.load(tmp_path / "out" / "b-a-center.npy").shape == (6, 4)
    assert Image.open(written[0]).width > 300


def test_another_image_or_other_weights_take_no_file_s_place(tmp_path: Path) -> None:
    first, second = photo(tmp_path / "c" / "a.png"), photo(tmp_path / "b" / "a.png")
    out = tmp_path / "out"
    list(rank_files([first], CENTER, SMALL, 0.25, out))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match=r"a-center.json is of .*c.a\.png, and .*b.a\.png would take its place"):
        list(rank_files([photo(tmp_path / "z.png"), second], CENTER, SMALL, 0.25, out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before  # nor was z ranked
    list(rank_files([first], CENTER, SMALL, 0.5, out))
    assert json.loads((out / "a-center.json").read_text())["keep"] == 0.5
    files = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = create(BackboneConfig(image_size=32, patch_size=8, embed_dim=24, depth=1, heads=2))
        (tmp_path / str(seed)).mkdir()
        save_exported(network.export(), tmp_path / str(seed) / "vit.safetensors")
        files.append(str(tmp_path / str(seed) / "vit.safetensors"))
    list(rank_files([first], RankerWords("dino", None, files[0]), Shown(), 0.25, out))
    with pytest.raises(ValueError, match=r"a-dino-vit.json is of .* by weights .*0.vit.* and .* by weights .*1.vit"):
        list(rank_files([first], RankerWords("dino", None, files[1]), Shown(), 0.25, out))


def test_the_ranker_is_shown_the_whole_image_in_its_own_normalization() -> None:
    seen = []

    class Bright(Center):
        def forward(self, images, **more):  # type: ignore[no-untyped-def]
            seen.append(images)
            return images.mean(1)[:, ::16, ::16]

    ranker = Bright()
    ranker.mean, ranker.std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    image = Image.new("RGB", (32, 32), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 16, 32))
    fitted, found = rank(ranker, image, 0.5, 32)
    assert fitted.size == (32, 32)
    assert seen[0].min() == pytest.approx(-2)
    assert seen[0].max() == pytest.approx(2)
    assert found.ids.tolist() == [1, 3]


def test_a_ranker_that_prunes_to_a_number_is_told_it() -> None:
    told = []

    class Told(Center):
        def forward(self, images, *, number=None, generator=None):  # type: ignore[no-untyped-def]
            told.append(number)
            return super().forward(images)

    rank(Told(), Image.new("RGB", (64, 64)), 0.25, 64)
    assert told == [4]


def test_files_say_which_weights_scored(tmp_path: Path) -> None:
    network = create(BackboneConfig(image_size=32, patch_size=8, embed_dim=24, depth=1, heads=2))
    weights = tmp_path / "runs" / "vits" / "exported" / "backbone.safetensors"
    save_exported(network.export(), weights)
    image = photo(tmp_path / "a.png")
    digests = []
    for where in (weights.parents[1], weights):
        asked = RankerWords("dino", None, str(where))
        list(rank_files([image, image], asked, Shown(), 0.25, tmp_path / "out"))
        about = json.loads((tmp_path / "out" / "a-dino-vits.json").read_text())
        assert (about["ranker"], about["variant"], about["weights"]) == ("dino", "sum_attention", str(where))
        assert (about["model"], about["key"], about["version"]) == (None, "auto", __version__)
        digests.append(about["weights_digest"])
    assert digests == [weights_digest(open_ranker("dino", str(weights)))] * 2
    assert len(list((tmp_path / "out").iterdir())) == 3
    list(rank_files([image], RankerWords("dino", "mass_vote", str(weights)), Shown(), 0.25, tmp_path / "out"))
    assert (tmp_path / "out" / "a-dino-mass_vote-vits.npy").is_file()


def test_a_ranker_that_reads_no_weights_names_none(tmp_path: Path) -> None:
    asked = CENTER._replace(weights="runs/ltrp")
    with pytest.warns(UserWarning, match="center reads no weights: runs/ltrp is passed by"):
        list(rank_files([photo(tmp_path / "a.png")], asked, SMALL, 0.25, tmp_path / "out"))
    about = json.loads((tmp_path / "out" / "a-center.json").read_text())
    assert [about[key] for key in ("variant", "weights", "weights_digest", "model", "key")] == [None] * 5


def test_what_cannot_be_read_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    good = photo(tmp_path / "good.png")
    with pytest.warns(UserWarning, match="bad.png is left out"):
        assert len(list(rank_files([tmp_path / "bad.png", good], CENTER, SMALL, 0.5, tmp_path / "out"))) == 1
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="none of 1 images"):
        list(rank_files([tmp_path / "bad.png"], CENTER, SMALL, 0.5, tmp_path / "out"))


def test_images_that_are_all_length_are_left_out_and_said(tmp_path: Path) -> None:
    """20 x 900 pixels would be 14 x 630 patches at the usual size."""
    narrow, tall = photo(tmp_path / "narrow.png", (20, 900)), photo(tmp_path / "tall.png", (40, 400))
    words = r"narrow.png is left out: 20 x 900 pixels, one side over 10 times the other.* cut it into parts"
    with pytest.warns(UserWarning, match=words):
        written = list(rank_files([narrow, tall], CENTER, SMALL, 0.25, tmp_path / "out"))
    assert [path.name for path in written] == ["tall-center.png"]
    with Image.open(written[0]) as picture:
        assert picture.size[0] == 10 + 3 * (128 + 10)  # captions have room beside pictures of 32 pixels
    with pytest.warns(UserWarning, match=words):
        draw_patches([narrow, tall], {"center": CENTER}, SMALL, 0.25, tmp_path / "out")


def test_pictures_of_equal_names_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    gallery = recipe.rankers_gallery
    monkeypatch.setattr(recipe, "rankers_gallery", lambda *a, **how: told.extend(how["titles"]) or gallery(*a, **how))
    files = [photo(tmp_path / "cats" / "x.png"), photo(tmp_path / "dogs" / "x.png"), photo(tmp_path / "y.png")]
    draw_patches(files, {"center": CENTER}, SMALL, 0.25, tmp_path / "out")
    assert told == ["cats/x.png", "dogs/x.png", "y.png"]


def test_a_wrong_share_is_told_before_anything_is_opened(tmp_path: Path) -> None:
    for keep in (0.0, 1.01, -1.0):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            list(rank_files([tmp_path / "none.png"], CENTER._replace(name="no such ranker"), SMALL, keep, tmp_path))
    with pytest.raises(ValueError, match="did you mean 'center'"):
        list(rank_files([photo(tmp_path / "a.png")], CENTER._replace(name="centre"), SMALL, 0.5, tmp_path))


def test_rankers_stand_side_by_side(tmp_path: Path) -> None:
    files = [photo(tmp_path / "a.png"), photo(tmp_path / "b.png", (60, 90))]
    both = {"one": CENTER, "other": CENTER}
    found = gallery_of([Image.open(path) for path in files], both, SMALL, 0.25)
    assert [len(entries) for entries in found.values()] == [2, 2]
    one = Image.open(draw_patches(files, {"one": CENTER}, SMALL, 0.25, tmp_path)[0]).width
    two = Image.open(draw_patches(files, both, SMALL, 0.25, tmp_path)[0]).width
    assert two == one + 170


def test_sizes_are_pixels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="patch_size is 0"):
        Shown(patch_size=0).open(CENTER)
