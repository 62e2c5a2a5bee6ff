"""Files by words: which there are, each once, and names that tell them apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from processes import python

from vitrail.recipes.files import existing, image_files, need_some, shown_files, stems, told_apart


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_a_folder_stands_for_its_images(tmp_path: Path) -> None:
    inside = [made(tmp_path / "x" / name) for name in ("b.png", "a.jpg", "c/d.PNG")]
    made(tmp_path / "x" / "notes.txt")
    assert image_files([tmp_path / "x"]) == sorted(inside)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no image below .*empty"):
        image_files([tmp_path / "empty"])


def test_folders_are_shown_up_to_a_limit_that_is_told(tmp_path: Path) -> None:
    cats = [made(tmp_path / "photos" / "cats" / f"{n}.png") for n in range(6)]
    dogs = [made(tmp_path / "photos" / "dogs" / f"{n}.png") for n in range(6)]
    own = [made(tmp_path / f"own{n}.png") for n in range(5)]
    both = tmp_path / "photos"
    for most in (0, 12, 50):
        assert shown_files([both, *own], most) == [*cats, *dogs, *own]
    with pytest.warns(UserWarning, match=r"4 of 12 images below .*photos are shown, evenly spaced; --limit N"):
        assert shown_files([own[0], both, *own[1:]], 4) == [own[0], cats[0], cats[3], dogs[0], dogs[3], *own[1:]]
    with pytest.warns(UserWarning, match="3 of 12 images"):
        assert len(shown_files([both / "cats", both / "dogs"], 3)) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no image below .*empty"):
        shown_files([tmp_path / "empty"], 4)


def test_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made(Path("x/a.png"))
    made(Path("x/b.png"))
    named = [Path("x/b.png"), Path("x"), Path("./x/../x/b.png"), Path("x/b.png"), tmp_path / "x" / "a.png"]
    assert image_files(named) == [Path("x/b.png"), Path("x/a.png")]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    there = made(tmp_path / "a.png")
    assert image_files([tmp_path / "no.png", there]) == [tmp_path / "no.png", there]  # said when it is read
    with pytest.raises(ValueError, match=r"none of 2 images can be read: .*no.png, .*nor.png; give image files"):
        image_files([tmp_path / "no.png", tmp_path / "nor.png"])
    with pytest.raises(ValueError, match="none of 1 images"):
        need_some([tmp_path / "no.png"])
    with pytest.raises(ValueError, match="no folder 'nowhere'; give a folder"):
        existing("nowhere")


def test_names_tell_files_apart_by_their_folders() -> None:
    assert told_apart([Path("a/x.jpg"), Path("b/y.jpg")]) == ["x.jpg", "y.jpg"]
    assert told_apart([Path("a/x.jpg"), Path("b/x.jpg"), Path("b/y.jpg")]) == ["a/x.jpg", "b/x.jpg", "y.jpg"]
    assert told_apart([Path("1/a/x.jpg"), Path("2/a/x.jpg"), Path("2/b/x.jpg")]) == [
        "1/a/x.jpg",
        "2/a/x.jpg",
        "b/x.jpg",
    ]


def test_names_of_what_is_made_of_files() -> None:
    assert stems([Path("a/x.jpg"), Path("b/x.png"), Path("b/y.jpg")]) == ["a-x", "b-x", "y"]
    assert stems([Path("a/x.jpg"), Path("a/x.png"), Path("a/y.z.png")]) == ["x.jpg", "x.png", "y.z"]
    assert stems([Path("a-b/c.png"), Path("d/c.png"), Path("a-b-c.png")]) == ["a-b--c", "d--c", "a-b-c"]
    for paths in (["/x.png", "/a/x.png"], ["a/b-x.png", "a-b/x.png", "b/x.png", "b-x.png"]):
        assert len(set(stems([Path(path) for path in paths]))) == len(paths)
        assert not any(os.sep in name for name in stems([Path(path) for path in paths]))


def test_words_are_looked_up_without_torch() -> None:
    code = (
        "import sys, vitrail.recipes.files, vitrail.recipes.rankers, vitrail.ops.shares; print('torch' in sys.modules)"
    )
    done = python("-c", code)
    assert done.stdout.strip() == "False"
