"""Reconstructions from files and from modules: what is predicted, what the file says of it, and what is left alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_doubles import ListSet
from PIL import Image

from vitrail.backbones import BackboneConfig, create, load_part, save_exported
from vitrail.data import SyntheticScenes
from vitrail.masks import MaskConfig, build
from vitrail.methods.mae import Mae, MaeConfig
from vitrail.nn.masked_autoencoder import DecoderConfig
from vitrail.recipes import reconstructions
from vitrail.recipes.masks import Asked
from vitrail.recipes.reconstructions import (
    Autoencoder,
    draw_reconstructions,
    open_autoencoder,
    reconstruct,
    reconstruction_sheet,
)

MASKS = {"random": MaskConfig(), "guided": MaskConfig(kind="attmask")}


def mae(normalized: bool = True) -> Mae:
    torch.manual_seed(0)
    backbone = create(BackboneConfig(image_size=24, patch_size=6, embed_dim=64, depth=2, heads=1))
    backbone.mean = backbone.std = (0.5, 0.5, 0.5)
    decoder = DecoderConfig(embed_dim=32, depth=1, heads=4)
    return Mae(MaeConfig(decoder=decoder, normalized_targets=normalized), backbone)


def official(method: Mae, path: Path, **about: Any) -> Path:
    """A file as MAE's authors write it, of the same weights; pixels stand row, column, channel."""
    names = {
        "embed.": "decoder_embed.",
        "blocks.": "decoder_blocks.",
        "norm.": "decoder_norm.",
        "predict.": "decoder_pred.",
    }
    state = dict(method.backbone.vit.state_dict())
    for name, value in method.decoder.state_dict().items():
        if name.startswith("predict."):
            value = value.unflatten(0, (3, 6, 6)).movedim(0, 2).flatten(0, 2)
        state[next((new + name[len(old) :] for old, new in names.items() if name.startswith(old)), name)] = value
    torch.save({"model": state, **about}, path)
    return path


def scene(folder: Path) -> Path:
    SyntheticScenes(1, image_size=48, split="val")[0].image.save(folder / "scene.png")
    return folder / "scene.png"


def test_it_predicts_what_the_method_would(tmp_path: Path) -> None:
    method = mae().eval()
    save_exported(method.export(), tmp_path / "w.safetensors")
    found = open_autoencoder(str(tmp_path / "w.safetensors"), device="cpu")
    assert found.normalized
    images = torch.randn(3, 3, 24, 24)
    made = reconstruct(found, images, build(MaskConfig()), 0.75, torch.Generator().manual_seed(0))
    assert (made.hidden.sum(1) == 12).all()
    assert not made.predictions.requires_grad
    with torch.no_grad():
        assert torch.allclose(made.predictions, method.reconstruct(images, made.hidden), atol=1e-5)


@pytest.mark.parametrize("normalized", [True, False])
def test_a_file_of_ours_says_what_it_predicts(normalized: bool, tmp_path: Path) -> None:
    save_exported(mae(normalized).export(), tmp_path / "w.safetensors")
    assert open_autoencoder(str(tmp_path / "w.safetensors")).normalized is normalized
    assert open_autoencoder(str(tmp_path / "w.safetensors"), normalized=normalized).normalized is normalized
    with pytest.raises(ValueError, match="leave --normalized-targets and --plain-targets out"):
        open_autoencoder(str(tmp_path / "w.safetensors"), normalized=not normalized)


def test_a_file_of_the_authors_may_not_say_it(tmp_path: Path) -> None:
    method = mae(False).eval()
    path = str(official(method, tmp_path / "mae.pth"))
    how: dict[str, Any] = {"model": None, "heads": 4}
    with pytest.raises(ValueError, match="does not say what its decoder predicts; give --normalized-targets"):
        open_autoencoder(path, **how)
    found = open_autoencoder(path, normalized=False, **how)
    assert not found.normalized
    for name, value in method.decoder.state_dict().items():
        assert torch.equal(value, found.decoder.state_dict()[name]), name
    for said in (True, False):
        args = argparse.Namespace(norm_pix_loss=said)
        other = str(official(method, tmp_path / f"{said}.pth", args=args))
        part = load_part(other, "decoder", heads=4)
        assert part is not None
        assert part.normalized_targets is said


def test_guessed_heads_are_said_aloud(tmp_path: Path) -> None:
    path = str(official(mae(), tmp_path / "mae.pth"))
    with pytest.warns(UserWarning, match="attention heads in the decoder are a guess"):
        assert open_autoencoder(path, normalized=True).decoder.config.heads == 1  # type: ignore[union-attr]


def test_no_decoder_no_reconstruction(tmp_path: Path) -> None:
    save_exported(mae().backbone.export(), tmp_path / "w.safetensors")
    image = scene(tmp_path)
    with pytest.raises(ValueError, match="holds a backbone without its decoder, and nothing can be reconstructed"):
        draw_reconstructions([image], str(tmp_path / "w.safetensors"), tmp_path, Asked())
    with pytest.raises(ValueError, match="pretrained weights come without a decoder"):
        draw_reconstructions([image], "pretrained", tmp_path, Asked(), model="vit_small_patch16_224")


def test_one_page_of_triplets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_exported(mae().export(), tmp_path / "w.safetensors")
    seen: dict[str, Any] = {}
    gallery = reconstructions.reconstruction_gallery

    def keep(images: Any, found: Any, patch: Any, **how: Any) -> Image.Image:
        seen.update(images=images, found=found, **how)
        return gallery(images, found, patch, **how)

    monkeypatch.setattr(reconstructions, "reconstruction_gallery", keep)
    images = [scene(tmp_path), tmp_path / "none.png"]
    with pytest.warns(UserWarning, match="none.png is left out"):
        paths = draw_reconstructions(
            images, str(tmp_path / "w.safetensors"), tmp_path / "out", Asked(0.5, 0.3), size=36, paste=False
        )
    assert paths == [tmp_path / "out" / "reconstruction.png"]
    assert list(seen["found"]) == ["random", "DPPMask, tau\u00a00.3"]
    assert seen["images"].shape == (1, 3, 36, 36)
    assert all(each.hidden.sum() == 18 for each in seen["found"].values())
    assert not torch.equal(*(each.hidden for each in seen["found"].values()))
    assert (seen["titles"], seen["paste"], seen["untrained"]) == (["scene.png"], False, False)


def test_a_sheet_leaves_modes_and_the_global_generator_alone() -> None:
    method = mae()
    method.decoder.eval()
    found = Autoencoder(method.backbone, method.decoder, True)
    data = SyntheticScenes(6, image_size=24, split="val")
    broken = ListSet([data[index] for index in range(6)], None, broken=(0, 2))
    state = torch.random.get_rng_state()
    sheet = reconstruction_sheet(found, broken, MASKS, count=2)
    assert sheet.tobytes() == reconstruction_sheet(found, broken, MASKS, count=2).tobytes()
    assert torch.equal(state, torch.random.get_rng_state())
    assert method.backbone.training
    assert not method.decoder.training
    assert reconstruction_sheet(found, broken, MASKS, count=4).height > sheet.height + 2 * 160
