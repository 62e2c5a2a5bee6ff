"""The page of masks: which are on it, and that the order of choice is the mask's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vitrail.backbones import BackboneConfig, create, save_exported
from vitrail.data import SyntheticScenes
from vitrail.recipes import masks
from vitrail.recipes.masks import Asked, draw_masks, masks_page


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the gallery and the heat maps were given."""
    given: dict[str, Any] = {"orders": []}
    gallery, order = masks.mask_gallery, masks.greedy_order

    def keep_gallery(images: Any, found: Any, grid: Any, **how: Any) -> Image.Image:
        given.update(masks=found, grid=grid, titles=how["titles"])
        return gallery(images, found, grid, **how)

    def keep_order(image: Any, ids: Any, length: Any, grid: Any, **how: Any) -> Image.Image:
        given["orders"].append((ids, length))
        return order(image, ids, length, grid, **how)

    monkeypatch.setattr(masks, "mask_gallery", keep_gallery)
    monkeypatch.setattr(masks, "greedy_order", keep_order)
    return given


def files(folder: Path, count: int = 2, size: int = 48) -> list[Path]:
    data = SyntheticScenes(count, image_size=size, split="val")
    for number in range(count):
        data[number].image.save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(count)]


def weights(folder: Path) -> Path:
    torch.manual_seed(0)
    config = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2)
    save_exported(create(config).export(), folder / "w.safetensors")
    return folder / "w.safetensors"


def test_one_page_without_weights(tmp_path: Path, drawn: dict[str, Any]) -> None:
    asked = Asked(ratio=0.5, tau=0.2, seed=3)
    paths = draw_masks(files(tmp_path), tmp_path / "out", asked, size=40, patch_size=8)
    assert paths == [tmp_path / "out" / "masks.png"]
    assert drawn["grid"] == (5, 5)
    assert drawn["titles"] == ["0.png", "1.png"]
    assert list(drawn["masks"]) == ["random", "block", "inverse block", "DPPMask, tau\u00a00.2"]
    assert all((mask.sum(1) == 13).all() for mask in drawn["masks"].values())


def test_the_order_of_choice_is_that_of_the_mask_above_it(tmp_path: Path, drawn: dict[str, Any]) -> None:
    draw_masks(files(tmp_path, 3), tmp_path, Asked(tau=0.9), size=48, patch_size=6)
    for mask, (ids, length) in zip(drawn["masks"]["DPPMask, tau\u00a00.9"], drawn["orders"], strict=True):
        assert sorted(ids.tolist()) == (~mask).nonzero()[:, 0].tolist()
        assert 1 <= length <= len(ids) == 16


def test_weights_bring_their_patches_size_and_attention(tmp_path: Path, drawn: dict[str, Any]) -> None:
    images = files(tmp_path)
    draw_masks(images, tmp_path, Asked(), weights=str(weights(tmp_path)))
    assert drawn["grid"] == (4, 4)
    assert list(drawn["masks"])[4:] == ["AttMask", "AMT"]
    draw_masks(images, tmp_path, Asked(), weights=str(weights(tmp_path)), size=36)
    assert drawn["grid"] == (6, 6)


def test_a_seed_gives_the_same_page_and_leaves_the_global_generator_alone() -> None:
    pixels = torch.rand(1, 3, 48, 48)
    images = [Image.radial_gradient("L").convert("RGB")]
    state = torch.random.get_rng_state()
    first, again, other = (masks_page(images, pixels, (6, 6), Asked(seed=seed)).tobytes() for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    images = files(tmp_path)
    with pytest.raises(ValueError, match="an image of 48 pixels holds no whole patches of 7; --size 42"):
        draw_masks(images, tmp_path, Asked(), size=48, patch_size=7)
    with pytest.raises(ValueError, match="--patch-size 8 and --weights exclude each other"):
        draw_masks(images, tmp_path, Asked(), weights="x", patch_size=8)
    with pytest.raises(ValueError, match=r"--ratio 1\.5 lies inside \(0, 1\)"):
        draw_masks(images, tmp_path, Asked(ratio=1.5), size=48)
    with pytest.warns(UserWarning, match="none.png is left out"):
        draw_masks([*images, tmp_path / "none.png"], tmp_path, Asked(), size=48)


def test_each_kind_has_chance_of_its_own(tmp_path: Path, drawn: dict[str, Any]) -> None:
    """An untrained network's attention is nearly flat: with equal chance AMT would be the picture of random masks."""
    draw_masks(files(tmp_path), tmp_path, Asked(), weights=str(weights(tmp_path)))
    same = drawn["masks"]["random"] == drawn["masks"]["AMT"]
    assert same.float().mean() < 0.85
