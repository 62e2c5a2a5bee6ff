"""The doctor: what it finds on this machine, and that each finding has a mend."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vitrail import doctor
from vitrail.cli import app

runner = CliRunner()


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def folder_of(root: Path, sizes: list[tuple[int, int]]) -> Path:
    for number, size in enumerate(sizes):
        place = root / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return root


def test_a_good_folder_passes(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "photos", [(256, 256)] * 8)
    result = runner.invoke(app, ["doctor", str(root), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    for word in ("torch", "timm", "CPU cores", "free", "8 images"):
        assert word in result.output


def test_everything_that_is_not_fine_has_a_mend(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "photos", [(30, 500), (256, 256), (256, 256)])
    (root / "class0" / "broken.png").write_bytes(b"")
    found = doctor.findings(root, patch_size=16, image_size=224, out=tmp_path, every=True)
    assert {finding.level for finding in found} >= {"ok", "error"}
    assert all(finding.mend for finding in found if finding.level != "ok")
    assert any("broken.png" in finding.what + finding.mend for finding in found)


def test_an_image_size_that_the_patch_does_not_divide(tmp_path: Path) -> None:
    result = runner.invoke(app, ["doctor", "--image-size", "100", "--patch-size", "16", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "100" in result.output
    assert "16" in result.output
    assert "96" in result.output  # the way out: the sizes beside it
    assert "112" in result.output


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(100, 100, 2**28))
    found = doctor.findings(None, out=tmp_path / "not" / "there" / "yet")
    (disk,) = [finding for finding in found if "GiB free" in finding.what and str(tmp_path) in finding.what]
    assert disk.level == "error"
    assert "0.25" in disk.what


def test_an_old_library_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "version", lambda package: "1.0.2")
    found = [finding for finding in doctor.findings(None, out=tmp_path) if "older than" in finding.what]
    assert [finding.level for finding in found] == ["error", "error"]
    assert "pip install 'torch>=2.11'" in found[0].mend
