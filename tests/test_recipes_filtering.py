"""Pictures of the object-aware filter of files and of held-out images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_vit import tiny_vit

from vitrail.backbones import add_object_filter, save_exported
from vitrail.data import SyntheticScenes
from vitrail.nn.object_filter import ObjectFilterConfig
from vitrail.recipes.filtering import draw_filter, filter_page, filtered
from vitrail.recipes.look import pixels_of


def with_filter(prototypes: int = 8):
    backbone = tiny_vit()
    add_object_filter(backbone, ObjectFilterConfig(prototypes=prototypes))
    for value in backbone.object_filter.parameters():
        value.requires_grad_(False).add_(torch.randn_like(value) * 0.3)
    return backbone.eval()


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, size in zip(files, ((60, 40), (40, 60))):
        Image.effect_noise(size, 80).convert("RGB").save(path)
    return files


def test_one_picture_an_image(photos: list[Path], tmp_path: Path) -> None:
    weights = tmp_path / "cotap.safetensors"
    save_exported(with_filter().export(), weights)
    written = draw_filter(photos, str(weights), tmp_path / "out", device="cpu")
    assert [path.name for path in written] == ["a-filter.png", "b-filter.png"]
    few = draw_filter(photos, str(weights), tmp_path / "few", prototypes="3, 1", device="cpu")
    one = draw_filter(photos, str(weights), tmp_path / "one", prototypes="3", device="cpu")
    with Image.open(written[0]) as six, Image.open(few[0]) as two, Image.open(one[0]) as single:
        assert round((six.height - two.height) / (two.height - single.height)) == 4  # captions may be a line longer
    for words in ("8", "1,x", "-1", ""):
        with pytest.raises(ValueError, match="are not numbers from 0 to 7"):
            draw_filter(photos, str(weights), tmp_path / "none", prototypes=words, device="cpu")


def test_weights_without_a_filter_are_refused_in_words(photos: list[Path], tmp_path: Path) -> None:
    weights = tmp_path / "dino.safetensors"
    save_exported(tiny_vit().export(), weights)
    with pytest.raises(ValueError, match=r"dino.safetensors has no object-aware filter, .*vitrail show attention"):
        draw_filter(photos, str(weights), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_what_is_drawn_is_what_the_filter_says() -> None:
    backbone, image = with_filter(), Image.effect_noise((48, 32), 80).convert("RGB")
    found = filtered(backbone, image)
    assert found.seen.image.size == (48, 32)
    assert found.attention.shape == (3, 8, 4, 6)
    assert torch.allclose(found.attention.sum(1), torch.ones(3, 4, 6))
    assert torch.equal(found.attention, backbone.prototype_attention(pixels_of(backbone, found.seen.image))[0])


def test_a_page_of_held_out_images() -> None:
    backbone = with_filter().train()
    data = SyntheticScenes(8, image_size=32, classes=4)
    page = filter_page(backbone, data, count=2)
    assert backbone.training
    assert page.height == 2 * filter_page(backbone, data, count=1).height
