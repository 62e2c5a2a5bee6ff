"""`vitrail show removal`: which patches are taken away, and what the decoder makes of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vitrail.backbones import BackboneConfig, create, save_exported
from vitrail.data import SyntheticScenes
from vitrail.methods.mae import Mae, MaeConfig
from vitrail.nn.masked_autoencoder import DecoderConfig
from vitrail.nn.patch_removal import PatchRemoval
from vitrail.recipes import removal
from vitrail.recipes.masks import Asked
from vitrail.recipes.reconstructions import Autoencoder
from vitrail.recipes.removal import draw_removals, removal_sheet


@pytest.fixture
def method() -> Mae:
    torch.manual_seed(0)
    backbone = create(BackboneConfig(image_size=24, patch_size=6, embed_dim=64, depth=2, heads=1))
    return Mae(MaeConfig(decoder=DecoderConfig(embed_dim=32, depth=1, heads=4)), backbone).eval()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the gallery is given."""
    seen: dict[str, Any] = {}
    gallery = removal.removal_gallery

    def keep(images: Any, anchor: Any, removed: Any, patch: Any, **how: Any) -> Image.Image:
        seen.update(images=images, anchor=anchor, removed=removed, **how)
        return gallery(images, anchor, removed, patch, **how)

    monkeypatch.setattr(removal, "removal_gallery", keep)
    return seen


@torch.no_grad()
def test_the_largest_two_and_the_smallest(method: Mae, drawn: dict[str, Any]) -> None:
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    removal_sheet(Autoencoder(method.backbone, method.decoder, True), images, Asked(0.6))
    hidden = drawn["anchor"].hidden
    ids = (~hidden).nonzero()[:, 1].view(2, 6)
    labels = PatchRemoval(method.backbone, method.decoder)(images, ids)
    ordered = labels.sort(dim=1, descending=True)
    for column, place in zip(drawn["removed"], (0, 1, 5), strict=True):
        assert torch.equal(column.patch, ids.gather(1, ordered.indices)[:, place])
        torch.testing.assert_close(column.change, ordered.values[:, place])
        change = (column.predictions - drawn["anchor"].predictions)[hidden].view(2, -1).abs().mean(1)
        torch.testing.assert_close(change, column.change, atol=1e-6, rtol=1e-4)
        assert column.name == {0: "largest", 1: "second largest", 5: "smallest"}[place]
    tokens = method.backbone(images, keep=ids)
    expected = method.decoder(tokens.cls, tokens.patches, ids, tokens.grid)
    torch.testing.assert_close(drawn["anchor"].predictions[hidden], expected[hidden], atol=1e-6, rtol=1e-5)


def test_a_single_visible_patch_makes_one_column(method: Mae, drawn: dict[str, Any]) -> None:
    removal_sheet(Autoencoder(method.backbone, method.decoder, False), torch.randn(1, 3, 24, 24), Asked(0.93))
    assert [column.name for column in drawn["removed"]] == ["only"]


def test_one_page(method: Mae, tmp_path: Path, drawn: dict[str, Any]) -> None:
    save_exported(method.export(), tmp_path / "w.safetensors")
    SyntheticScenes(1, image_size=48, split="val")[0].image.save(tmp_path / "scene.png")
    images = [tmp_path / "scene.png", tmp_path / "none.png"]
    with pytest.warns(UserWarning, match="none.png is left out"):
        paths = draw_removals(images, str(tmp_path / "w.safetensors"), tmp_path / "out", Asked(0.9), size=36)
    assert paths == [tmp_path / "out" / "removal.png"]
    assert paths[0].is_file()
    assert drawn["images"].shape == (1, 3, 36, 36)
    assert int((~drawn["anchor"].hidden).sum()) == 3
    assert (drawn["normalized"], drawn["titles"]) == (True, ["scene.png"])
    with pytest.raises(ValueError, match="pretrained weights come without a decoder"):
        draw_removals(images[:1], "pretrained", tmp_path, Asked(), model="vit_small_patch16_224")
