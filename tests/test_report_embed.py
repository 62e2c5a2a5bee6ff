from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image
from run_folders import picture

from vitrail.report.embed import WORDS, _originals, embed


def _decode(uri):
    head, _, data = uri.partition(",")
    return head, Image.open(io.BytesIO(base64.b64decode(data)))


def test_small_pictures_go_in_as_they_are(tmp_path):
    picture(tmp_path / "a.png")
    found, words = embed([tmp_path / "a.png", Image.new("RGBA", (8, 4))], 1_000_000)
    assert words == ""
    head, image = _decode(found[0].uri)
    assert head == "data:image/png;base64"
    assert image.size == (60, 40) == (found[0].width, found[0].height)
    assert _decode(found[1].uri)[1].size == (8, 4)


def test_over_budget_all_are_scaled_alike_and_it_is_said(tmp_path):
    for name in "ab":
        picture(tmp_path / f"{name}.png", seed=ord(name), size=(900, 600))
    found, words = embed([tmp_path / "a.png", tmp_path / "b.png"], 300_000)
    assert sum(len(one.uri) for one in found) <= 300_000
    assert "scaled down" in words
    assert "left out" not in words
    sizes = {_decode(one.uri)[1].size for one in found}
    assert len(sizes) == 1
    assert {(one.width, one.height) for one in found} == sizes


def test_what_does_not_fit_at_all_is_left_out_from_the_end(tmp_path):
    for name in "abc":
        picture(tmp_path / f"{name}.png", seed=ord(name), size=(400, 400))
    found, words = embed([tmp_path / f"{name}.png" for name in "abc"], 120_000)
    assert sum(len(one.uri) for one in found) <= 120_000
    assert found[0].uri
    assert found[-1].problem.startswith("left out")
    assert "left out" in words


def test_where_the_originals_lie(tmp_path):
    """Not in run folders, where pictures come from elsewhere; nowhere, where they were drawn for the page."""
    drawn, nowhere = Image.new("RGB", (4, 4)), "drawn for this page and are kept nowhere else."
    one, two, three, four = (Path(folder, "x.png") for folder in ("runs/a/pictures", "b", "c" * 90, "d"))
    assert _originals([one, one]) == " The originals lie in runs/a/pictures."
    assert _originals([one, two]) == " The originals lie in runs/a/pictures and b."
    assert _originals([two, three, one, four]) == f" The originals lie in b, ...{'c' * 77} and 2 more."
    assert _originals([drawn]) == f" They were {nowhere}"
    assert _originals([one, drawn]) == f" The originals lie in runs/a/pictures. Those that were {nowhere}".replace(
        "page and are", "page are"
    )
    picture(tmp_path / "x.png")
    words = embed([tmp_path / "x.png", drawn], 10)[1]
    assert f"quality 60). The originals lie in {_originals([tmp_path / 'x.png']).split(' in ')[1]} Those" in words
    assert "2 of 2 pictures did not fit" in words
    assert len(words) <= WORDS


def test_transparency_survives(tmp_path):
    noise = Image.effect_noise((600, 600), 90)
    Image.merge("RGBA", (noise, noise, noise, Image.new("L", (600, 600), 128))).save(tmp_path / "a.png")
    found, _ = embed([tmp_path / "a.png"], 200_000)
    assert _decode(found[0].uri)[1].convert("RGBA").getpixel((5, 5))[3] == 128


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n broken"])
def test_broken_files_have_a_reason(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    found, _ = embed([tmp_path / "a.png", tmp_path / "absent.png"], 1000)
    assert all(not one.uri and "cannot be read" in one.problem for one in found)
    assert "0x" not in found[0].problem  # no memory address: the page is the same every time
