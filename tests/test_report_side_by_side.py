"""Pages of a run and of what it started from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from run_folders import make_run
from tiny_vit import tiny_vit

from vitrail.backbones import save_exported
from vitrail.report.side_by_side import Side, write_side_by_side


def run(folder: Path, seed: int = 0, **config: object) -> Path:
    """A whole run on generated scenes, with weights."""
    make_run(folder, seed=seed)
    known = yaml.safe_load((folder / "config.yaml").read_text())
    scenes = {"count": 8, "val_count": 8, "image_size": 32, "classes": 4}
    (folder / "config.yaml").write_text(yaml.safe_dump(known | {"data": {"scenes": scenes}} | config))
    save_exported(tiny_vit(seed).export(), folder / "exported" / "backbone.safetensors")
    return folder


def test_a_run_beside_its_start(tmp_path: Path) -> None:
    before, after = run(tmp_path / "dino"), run(tmp_path / "cotap", 1, init_from=str(tmp_path / "dino"))
    side = Side(before=True, pictures=2, device="cpu")
    text = write_side_by_side(tmp_path / "page.html", [after], side).read_text()
    assert text.index(f'<p class="path">{before}</p>') < text.index(f'<p class="path">{after}</p>')
    for title in ("Attention, side by side", "Similarity, side by side", "Patch features, side by side"):
        assert f"<h2>{title}</h2>" in text
    assert "Object-aware" not in text
    plain = write_side_by_side(tmp_path / "plain.html", [after], Side(before=True)).read_text()
    assert "side by side</h2>" not in plain
    assert str(before) in plain


def test_a_start_that_no_run_left_stands_in_the_pictures_alone(tmp_path: Path) -> None:
    save_exported(tiny_vit(2).export(), tmp_path / "vits.safetensors")
    after = run(tmp_path / "cotap", init_from=str(tmp_path / "vits.safetensors"))
    text = write_side_by_side(tmp_path / "page.html", [after], Side(before=True, pictures=2, device="cpu")).read_text()
    assert "vits is a file of weights that no run left" in text
    assert text.count('class="path"') == 1


def test_pictures_of_other_images(tmp_path: Path) -> None:
    one = run(tmp_path / "one")
    write_side_by_side(tmp_path / "page.html", [one], Side(pictures=1, data="scenes", device="cpu"))
    with pytest.raises(ValueError, match="no folder 'nowhere'"):
        write_side_by_side(tmp_path / "page.html", [one], Side(pictures=1, data="nowhere"))


def test_what_has_no_before(tmp_path: Path) -> None:
    one, two = run(tmp_path / "one"), run(tmp_path / "two")
    with pytest.raises(ValueError, match="--before is of one run, and 2 are given"):
        write_side_by_side(tmp_path / "page.html", [one, two], Side(before=True))
    with pytest.raises(ValueError, match="one started with fresh weights"):
        write_side_by_side(tmp_path / "page.html", [one], Side(before=True))
    config = yaml.safe_load((one / "config.yaml").read_text())
    del config["data"]
    (one / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="does not say which images it was trained on; name some with --data"):
        write_side_by_side(tmp_path / "page.html", [one], Side(pictures=1))
    assert not (tmp_path / "page.html").exists()
