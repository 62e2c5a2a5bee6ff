"""The same images as several networks see them: which weights, which places, what a run keeps."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vit import tiny_vit

from vitrail.backbones import add_object_filter, save_exported
from vitrail.contracts import Sample
from vitrail.data import SyntheticScenes
from vitrail.nn.object_filter import ObjectFilterConfig
from vitrail.recipes.look import see
from vitrail.recipes.side_by_side import (
    draw_heads,
    draw_side_by_side,
    drawing_change,
    keep_looks,
    kept_looks,
    look,
    object_point,
    start_of,
)
from vitrail.recipes.sources import Splits
from vitrail.viz.attention import attention_overlays
from vitrail.viz.blobs import blob_overlays
from vitrail.viz.heads_side_by_side import heads_side_by_side
from vitrail.viz.regions import region_overlays

SCENES = SyntheticScenes(8, image_size=32, classes=4, split="val")


def weights(folder: Path, name: str, seed: int = 0, prototypes: int = 0) -> str:
    backbone = tiny_vit(seed)
    if prototypes:
        add_object_filter(backbone, ObjectFilterConfig(prototypes=prototypes))
    save_exported(backbone.export(), folder / f"{name}.safetensors")
    return str(folder / f"{name}.safetensors")


def test_pictures_of_two_networks(tmp_path: Path) -> None:
    named = {"dino": weights(tmp_path, "a"), "cotap": weights(tmp_path, "b", 1, prototypes=8)}
    drawn = draw_side_by_side(named, SCENES, 3, device="cpu")
    assert [each.title for each in drawn] == [
        "Attention, side by side",
        "Attention of each head",
        "60 % of each head's attention",
        "Blobs of each head",
        "Similarity, side by side",
        "Patch features, side by side",
        "Object-aware filter of cotap",
    ]
    alone = draw_side_by_side({"dino": named["dino"]}, SCENES, 3, device="cpu")
    assert len(alone) == 6
    assert all(two.picture.height > one.picture.height for one, two in zip(alone, drawn))
    with pytest.raises(ValueError, match="no file of weights"):
        draw_side_by_side({"x": str(tmp_path / "none.pth")}, SCENES, 3)


@pytest.mark.parametrize("picture", ["attention", "regions", "blobs"])
def test_heads_of_two_networks_an_image_a_picture(picture: str, tmp_path: Path) -> None:
    """The second network has other heads and patches; each map is that which the network gives."""
    plain, other = tiny_vit(), tiny_vit(1, heads=2, patch_size=4)
    files = [tmp_path / "a" / "w.safetensors", tmp_path / "b" / "w.safetensors"]
    for backbone, path in zip((plain, other), files):
        path.parent.mkdir()
        save_exported(backbone.export(), path)
    images = [tmp_path / "x.png", tmp_path / "broken.png", tmp_path / "y.png"]
    SCENES[0].image.save(images[0])
    SCENES[1].image.resize((64, 40)).save(images[2])
    images[1].write_bytes(b"")
    with pytest.warns(UserWarning, match=r"broken\.png is left out"):
        paths = draw_heads(picture, images, [str(path) for path in files], tmp_path / "out", mass=0.5, device="cpu")
    assert paths == [tmp_path / "out" / f"{name}-{picture}.png" for name in "xy"]
    scores = {name: see(each, SCENES[0].image).tokens.scores[-1][0] for name, each in (("a/w", plain), ("b/w", other))}
    assert [tuple(found.shape) for found in scores.values()] == [(3, 4, 4), (2, 8, 8)]
    overlays = {
        "attention": attention_overlays,
        "regions": partial(region_overlays, mass=0.5),
        "blobs": blob_overlays,
    }[picture]
    with Image.open(paths[0]) as found:
        assert found.tobytes() == heads_side_by_side(SCENES[0].image, scores, overlays).tobytes()


def test_networks_that_cannot_stand_side_by_side(tmp_path: Path) -> None:
    SCENES[0].image.save(tmp_path / "x.png")
    named = weights(tmp_path, "a")
    with pytest.raises(ValueError, match=r"a\.safetensors are named twice"):
        draw_heads("blobs", [tmp_path / "x.png"], [named, named], tmp_path)
    deep = tmp_path / "deep.safetensors"
    save_exported(tiny_vit(depth=5).export(), deep)
    with pytest.raises(ValueError, match=r"^a: .*no block 4 among 3"):
        draw_heads("blobs", [tmp_path / "x.png"], [str(deep), named], tmp_path, block=4, device="cpu")


def test_a_look_is_what_the_backbone_says() -> None:
    backbone, image = tiny_vit(), SCENES[0].image
    found = look(backbone, image)
    assert (found.grid, found.patches.shape, found.scores.shape) == ((4, 4), (16, 24), (3, 4, 4))
    backbone._closed[2] = "its attention is of another kind"
    hidden = look(backbone, image)
    assert hidden.scores is None
    assert torch.allclose(hidden.patches, found.patches, atol=1e-5)


def test_the_place_that_is_compared_lies_on_the_largest_object() -> None:
    mask = np.zeros((10, 20), np.uint8)
    image = Image.new("RGB", (20, 10))
    assert object_point(Sample(image)) == (0.5, 0.5)
    assert object_point(Sample(image, mask=mask)) == (0.5, 0.5)
    mask[0, 0], mask[8:, :] = 3, 255
    mask[2:5, 10:13] = 1
    mask[3, 11] = 0  # a ring: its middle is no part of it
    down, right = object_point(Sample(image, mask=mask))
    assert mask[int(down * 10), int(right * 20)] == 1
    wide = mask.astype(np.uint16)
    wide[wide == 255] = 65535
    assert object_point(Sample(image, mask=wide)) == (down, right)
    for index in range(8):
        sample = SCENES[index]
        down, right = object_point(sample)
        assert sample.mask[int(down * 32), int(right * 32)] > 0


def test_what_a_run_started_from(tmp_path: Path) -> None:
    run, other = tmp_path / "cotap", tmp_path / "dino"
    (run / "stage1").mkdir(parents=True)
    (other / "exported").mkdir(parents=True)
    (other / "config.yaml").write_text("init_from: null\n")
    (run / "config.yaml").write_text("init_from: null\n")
    assert start_of(run) == str(run / "stage1")
    (run / "config.yaml").write_text(f"init_from: {other}/exported/backbone.safetensors\n")
    assert start_of(run) == str(other)
    (run / "config.yaml").write_text("init_from: /far/dino.pth\n")
    assert start_of(str(run)) == "/far/dino.pth"
    with pytest.raises(ValueError, match="dino started with fresh weights: no run came before"):
        start_of(other)
    (run / "config.yaml").write_text("init_from: pretrained\n")
    with pytest.raises(ValueError, match="started with pretrained weights"):
        start_of(run)
    with pytest.raises(ValueError, match=r"is no run folder with a config.yaml"):
        start_of(tmp_path)


def test_a_run_keeps_its_features_to_compare(tmp_path: Path) -> None:
    looks = [look(tiny_vit(), SCENES[index].image) for index in (0, 5)]
    keep_looks(tmp_path / "p" / "patches.safetensors", looks, [0, 5])
    again = kept_looks(tmp_path / "p" / "patches.safetensors", [0, 5])
    assert [each.grid for each in again] == [(4, 4), (4, 4)]
    assert all(torch.equal(one.patches, two.patches) for one, two in zip(looks, again))
    assert kept_looks(tmp_path / "p" / "patches.safetensors", [0, 6]) is None
    assert kept_looks(tmp_path / "none.safetensors", [0, 5]) is None


def test_a_run_is_drawn_before_and_after(tmp_path: Path) -> None:
    plain, changed = tiny_vit(), tiny_vit(1)
    add_object_filter(changed, ObjectFilterConfig(prototypes=8))
    changed.train()
    draw = drawing_change(Splits(SCENES, SCENES))
    draw(tmp_path, "before", plain)
    with Image.open(tmp_path / "pca.png") as picture:
        first = picture.height
    draw(tmp_path, "after", changed)
    assert changed.training
    with Image.open(tmp_path / "pca.png") as picture:
        assert picture.height > first  # a row more
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "attention_after.png",
        "attention_before.png",
        "filter_after.png",
        "pca.png",
    ]
