"""Features on disk: what stands where, going on after an interruption, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_vit import tiny_vit, vit_file

from vitrail.data import EvalTransformConfig, build_eval_transform
from vitrail.evaluation.features import weights_digest
from vitrail.recipes import features as recipe
from vitrail.recipes.features import FeaturesConfig, extract_files, write_features


def photos(folder: Path, count: int = 5, size: tuple[int, int] = (50, 40)) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        files.append(folder / f"{number}.png")
    return files


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def seen(image: Path, **how: object) -> torch.Tensor:
    backbone = tiny_vit()
    config = EvalTransformConfig(mean=backbone.mean, std=backbone.std, **how)
    return build_eval_transform(config)(Image.open(image))[None]


def test_shards_hold_what_the_backbone_says(tmp_path: Path) -> None:
    files = photos(tmp_path / "in")
    config = FeaturesConfig(patches=True, shard_size=2, batch_size=3)
    index = extract_files(tiny_vit(), files, tmp_path / "out", config, "some/weights")
    about, images = json.loads(index.read_text()), lines_of(tmp_path / "out" / "images.jsonl")
    assert [line["image"] for line in images] == [str(path) for path in files]
    assert [(line["shard"], line["row"]) for line in images] == [
        ("000000", 0),
        ("000000", 1),
        ("000001", 0),
        ("000001", 1),
        ("000002", 0),
    ]
    for line in images:
        with torch.no_grad():
            tokens = tiny_vit()(seen(Path(line["image"]), image_size=32))
        shard = load_file(tmp_path / "out" / f"{line['shard']}.safetensors")
        assert shard["patches"].shape[1:] == (16, 24)
        assert torch.allclose(shard["cls"][line["row"]], tokens.cls[0], atol=1e-5)
        assert torch.allclose(shard["patches"][line["row"]], tokens.patches[0], atol=1e-5)
        assert line["grid"] == [4, 4]
        assert line["box"] == [5.0, 0.0, 45.0, 40.0]  # the middle square of 50 x 40
    assert about["weights"] == "some/weights"
    assert about["weights_digest"] == weights_digest(tiny_vit())
    assert (about["grid"], about["image_size"], about["tokens"]) == ([4, 4], [32, 32], ["cls", "patches"])
    assert (about["finished"], about["written"], about["skipped"]) == (True, 5, 0)


def test_class_tokens_alone_as_npy_in_half_precision(tmp_path: Path) -> None:
    files = photos(tmp_path / "in", 2)
    config = FeaturesConfig(format="npy", numbers="float16", fit="squash", size=48)
    extract_files(tiny_vit(), files, tmp_path / "out", config)
    values = np.load(tmp_path / "out" / "000000-cls.npy")
    assert (values.dtype, values.shape) == (np.float16, (2, 24))
    assert not (tmp_path / "out" / "000000-patches.npy").exists()
    with torch.no_grad():
        expected = tiny_vit()(seen(files[1], image_size=48, mode="squash")).cls[0]
    assert np.allclose(values[1], expected.half().numpy(), atol=2e-3)
    assert lines_of(tmp_path / "out" / "images.jsonl")[0]["box"] == [0, 0, 50, 40]


def test_images_keep_their_own_sizes(tmp_path: Path) -> None:
    wide, tall = photos(tmp_path / "a", 1, (50, 31))[0], photos(tmp_path / "b", 1, (16, 40))[0]
    extract_files(tiny_vit(), [wide, tall], tmp_path / "out", FeaturesConfig(patches=True, fit="native"))
    first, second = lines_of(tmp_path / "out" / "images.jsonl")
    assert (first["grid"], first["first"], second["grid"], second["first"]) == ([4, 6], 0, [5, 2], 24)
    shard = load_file(tmp_path / "out" / "000000.safetensors")
    assert (shard["cls"].shape, shard["patches"].shape) == ((2, 24), (34, 24))
    with torch.no_grad():
        expected = tiny_vit()(seen(tall, image_size=(40, 16), mode="squash")).patches[0]
    assert torch.allclose(shard["patches"][24:], expected, atol=1e-5)
    extract_files(tiny_vit(), [wide, tall], tmp_path / "sized", FeaturesConfig(fit="native", size=16))
    assert [line["grid"] for line in lines_of(tmp_path / "sized" / "images.jsonl")] == [[2, 3], [5, 2]]


def test_folders_are_searched_and_weights_opened(tmp_path: Path) -> None:
    photos(tmp_path / "in" / "cats", 1), photos(tmp_path / "in" / "dogs", 2)
    weights = vit_file(tmp_path)
    write_features([tmp_path / "in"], weights, tmp_path / "out", device="cpu")
    assert [line["image"][-10:] for line in lines_of(tmp_path / "out" / "images.jsonl")] == [
        "cats/0.png",
        "dogs/0.png",
        "dogs/1.png",
    ]
    assert json.loads((tmp_path / "out" / "index.json").read_text())["weights"] == weights


class Counting:
    """A tiny ViT that counts the images that it sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dies_at: int | None = None) -> None:
        self.backbone, self.seen = tiny_vit(), 0
        forward = self.backbone.forward

        def counted(images: torch.Tensor, **more: object) -> object:
            self.seen += len(images)
            if dies_at is not None and self.seen >= dies_at:
                raise KeyboardInterrupt
            return forward(images, **more)

        monkeypatch.setattr(self.backbone, "forward", counted)


def test_an_interrupted_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, config = photos(tmp_path / "in"), FeaturesConfig(patches=True, shard_size=2)
    extract_files(tiny_vit(), files, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        extract_files(Counting(monkeypatch, dies_at=4).backbone, files, tmp_path / "out", config)
    assert json.loads((tmp_path / "out" / "index.json").read_text())["finished"] is False
    counting = Counting(monkeypatch)
    extract_files(counting.backbone, files, tmp_path / "out", config)
    assert counting.seen == 3  # the first shard of two stays
    for name in ("000000.safetensors", "000001.safetensors", "000002.safetensors", "images.jsonl", "index.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_broken_shards_and_edited_images_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, config = photos(tmp_path / "in"), FeaturesConfig(shard_size=2)
    extract_files(tiny_vit(), files, tmp_path / "out", config)
    shard = tmp_path / "out" / "000001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"x")
    (tmp_path / "out" / "000002.json").write_text("{")
    counting = Counting(monkeypatch)
    with pytest.warns(UserWarning, match="made again") as told:
        extract_files(counting.backbone, files, tmp_path / "out", config)
    assert [str(each.message).split(": ")[1][:20] for each in told] == ["000001.safetensors d", "000002.json (Expecti"]
    assert counting.seen == 3
    assert shard.read_bytes() == whole
    photos(tmp_path / "other", 1)[0].rename(files[1])
    with pytest.warns(UserWarning, match="shard 000000 .* images were edited"):
        extract_files(counting.backbone, files, tmp_path / "out", config)
    assert counting.seen == 5


def test_what_cannot_be_read_is_listed_and_left_out(tmp_path: Path) -> None:
    files = photos(tmp_path / "in", 3)
    files[1].write_bytes(b"no image")
    files.append(tmp_path / "gone.png")
    with pytest.warns(UserWarning, match=r"2 of 4 images cannot be read and are left out, such as .*1\.png \(no image"):
        extract_files(tiny_vit(), files, tmp_path / "out", FeaturesConfig(shard_size=2))
    assert [line["image"] for line in lines_of(tmp_path / "out" / "skipped.jsonl")] == [str(files[1]), str(files[3])]
    images = lines_of(tmp_path / "out" / "images.jsonl")
    assert [(line["image"], line["shard"], line["row"]) for line in images] == [
        (str(files[0]), "000000", 0),
        (str(files[2]), "000001", 0),
    ]
    assert load_file(tmp_path / "out" / "000000.safetensors")["cls"].shape == (1, 24)
    with pytest.raises(ValueError, match="none of 1 images can be read"):
        extract_files(tiny_vit(), files[1:2], tmp_path / "none")


def test_a_folder_of_others_is_refused_with_both_values(tmp_path: Path) -> None:
    files = photos(tmp_path / "in", 3)
    extract_files(tiny_vit(), files, tmp_path / "out", weights="a.pth")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    mine, other = weights_digest(tiny_vit()), weights_digest(tiny_vit(seed=1))
    with pytest.raises(ValueError, match=rf"weights_digest {mine} of a.pth, and {other} of b.pth is asked for"):
        extract_files(tiny_vit(seed=1), files, tmp_path / "out", weights="b.pth")
    with pytest.raises(ValueError, match=r"fit crop, and squash is asked for; give another --out"):
        extract_files(tiny_vit(), files, tmp_path / "out", FeaturesConfig(fit="squash"))
    with pytest.raises(ValueError, match="images 3, and 2 is asked for"):
        extract_files(tiny_vit(), files[:2], tmp_path / "out")
    with pytest.raises(ValueError, match="images_digest"):
        extract_files(tiny_vit(), files[::-1], tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "out" / "index.json").write_text("[]")
    with pytest.raises(ValueError, match="is no index of features"):
        extract_files(tiny_vit(), files, tmp_path / "out")


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither class tokens nor patches"):
        FeaturesConfig(cls=False)
    with pytest.raises(ValueError, match="size 50 does not hold whole patches of 8 pixels; give 48"):
        extract_files(tiny_vit(), [], tmp_path, FeaturesConfig(size=50))


def test_images_of_too_many_patches_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "MOST", 20)
    small, large = photos(tmp_path / "a", 1, (32, 32))[0], photos(tmp_path / "b", 1, (64, 32))[0]
    with pytest.warns(UserWarning, match="64 x 32 pixels are 32 patches, more than 20; give a size"):
        extract_files(tiny_vit(), [small, large], tmp_path / "out", FeaturesConfig(fit="native"))
    assert [line["image"] for line in lines_of(tmp_path / "out" / "images.jsonl")] == [str(small)]


def test_numbers_that_are_not_finite_are_no_features(tmp_path: Path) -> None:
    files = photos(tmp_path / "in", 1)
    large = tiny_vit()
    large.norm.weight.fill_(1e5)
    with pytest.raises(ValueError, match=r"0.png are not finite in float16; use float32"):
        extract_files(large, files, tmp_path / "out", FeaturesConfig(numbers="float16"))
    large.norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite in float32; check the weights"):
        extract_files(large, files, tmp_path / "nan")
