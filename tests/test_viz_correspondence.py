from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vit import vit_file
from typer.testing import CliRunner

from vitrail.cli import app
from vitrail.viz.correspondence import GAP, match_lines, query_heat

GRAY = Image.new("RGB", (80, 40), (120, 120, 120)), Image.new("RGB", (40, 80), (120, 120, 120))
GRIDS = (2, 4), (4, 2)


def test_lines_join_the_patches() -> None:
    picture = np.array(match_lines(GRAY, GRIDS, [(0, 7)], cell=80)).astype(int)
    assert picture.shape == (80, 80 + GAP + 40, 3)
    red = (picture[..., 0] > 180) & (picture[..., 1] < 90)
    rows, columns = np.nonzero(red)
    assert (rows.min(), columns.min()) == pytest.approx((10, 10), abs=4)
    assert (rows.max(), columns.max()) == pytest.approx((70, 80 + GAP + 30), abs=4)
    middle = (10 + 80 + GAP + 30) // 2
    assert red[:, middle].any()


def test_right_and_wrong() -> None:
    wrong, right = (np.array(match_lines(GRAY, GRIDS, [(1, 1)], right=[each])).astype(int) for each in (False, True))
    assert ((wrong[..., 0] > 200) & (wrong[..., 1] < 90)).any()
    assert not ((right[..., 0] > 200) & (right[..., 1] < 90)).any()
    assert ((right[..., 1] > 170) & (right[..., 0] < 70)).any()
    assert match_lines(GRAY, GRIDS, []).size == match_lines(GRAY, GRIDS, [(0, 0)]).size


def test_heat_is_over_the_second_image() -> None:
    first, second = torch.eye(8), torch.eye(8).flip(0)
    sheet = query_heat(GRAY, (first, second), GRIDS, [(0, 1), (1, 3)], cell=160)
    assert sheet.height > 2 * 160
    assert sheet.width == 160 + 160 - 80 + 3 * 10
    with pytest.raises(ValueError, match="lies outside the grid of 2 x 4"):
        query_heat(GRAY, (first, second), GRIDS, [(2, 0)])
    with pytest.raises(ValueError, match="choose at least one patch"):
        query_heat(GRAY, (first, second), GRIDS, [])


def test_errors() -> None:
    with pytest.raises(ValueError, match="place 8 lies outside of a grid of 4 x 2"):
        match_lines(GRAY, GRIDS, [(0, 8)])
    with pytest.raises(ValueError, match="1 matches, but 2 words"):
        match_lines(GRAY, GRIDS, [(0, 0)], right=[True, True])


def test_by_the_command(tmp_path: Path) -> None:
    weights, runner = vit_file(tmp_path), CliRunner()
    for number, name in enumerate(("a.png", "b.png")):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    a, b = (str(tmp_path / name) for name in ("a.png", "b.png"))
    how = ["-w", weights, "-o", str(tmp_path / "out"), "--device", "cpu"]
    done = runner.invoke(app, ["show", "correspondence", a, b, *how])
    assert done.exit_code == 0, done.exception
    assert [path.name for path in (tmp_path / "out").glob("*")] == ["a-b-correspondence.png"]
    assert runner.invoke(app, ["show", "correspondence", a, a, *how, "--patch", "0,1"]).exit_code == 0
    one = runner.invoke(app, ["show", "correspondence", a, *how])
    assert "compares two images, and 1 are given" in str(one.exception)
