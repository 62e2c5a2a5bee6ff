"""Boxes for image files: that they are the protocol's own, what is written, at which threshold, what is kept."""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from object_scenes import squares
from PIL import Image
from test_localizers_locloc import saved
from torch import Tensor
from typer.testing import CliRunner

from vitrail.cli import app
from vitrail.contracts import Located
from vitrail.evaluation.localization import LocalizationConfig, evaluate
from vitrail.evaluation.result import Report
from vitrail.recipes import localize
from vitrail.recipes.chosen_cut import UNCHOSEN
from vitrail.recipes.folder_lock import FolderLock
from vitrail.recipes.localize import Wanted, localize_files
from vitrail.recipes.localizers import LocalizerWords, open_words
from vitrail.train.run_folder import FolderInUse

WHOLE = LocalizerWords("whole_image", None, None)
AT = Wanted(threshold=0.4)


class Colorful(torch.nn.Module):
    """The map is how far a pixel is from gray; three classes by the color that is strongest."""

    mean, std, image_size = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (32, 32)
    classes: tuple[str, ...] | None = ("red", "green", "blue")

    def forward(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        maps = images.amax(1) - images.amin(1)
        weights = (maps * (maps > 0.4))[:, None]
        return Located(maps, 20 * (images * weights).mean((2, 3)))


@pytest.fixture
def colorful(monkeypatch: pytest.MonkeyPatch) -> Colorful:
    opened = Colorful()
    monkeypatch.setattr(localize, "open_words", lambda *_, **__: opened)
    return opened


def photos(folder: Path, count: int = 5, factor: int = 3) -> list[Path]:
    """Squares, enlarged, as files; the first of them is at (left, top, right, bottom) * factor."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, sample in enumerate(squares(count).samples):
        paths.append(folder / f"{number}.png")
        sample.image.resize((32 * factor, 32 * factor), Image.Resampling.NEAREST).save(paths[-1])
    return paths


def table(out: Path, name: str = "boxes.json") -> Any:
    return json.loads((out / name).read_text())


def test_boxes_are_those_that_the_protocol_measures(colorful: Colorful, tmp_path: Path) -> None:
    data = squares(5)
    report = evaluate(colorful, data, LocalizationConfig(threshold=0.4))
    assert report.numbers["top1_loc"] == 100
    done = localize_files(photos(tmp_path / "in"), WHOLE, AT._replace(batch_size=2), tmp_path / "out")
    assert (done.images, done.without, done.unreadable) == (5, 0, 0)
    for image, measured, sample in zip(
        table(tmp_path / "out")["images"], report.details["per_image"], data.samples, strict=True
    ):
        (found,) = image["boxes"]
        assert found["box"] == [3 * side for side in measured["box"]]
        assert (image["height"], image["width"]) == (96, 96)
        mask = np.asarray(Image.open(tmp_path / "out" / image["mask"]))
        assert mask.shape == (96, 96)
        assert set(np.unique(mask)) == {0, 255}
        assert (mask == 255).sum() == found["area"]
        left, top, right, bottom = map(int, found["box"])
        assert (mask[top:bottom, left:right] == 255).sum() == found["area"]
        assert sample.mask is not None
        truth = np.kron(sample.mask, np.ones((3, 3))) == 1
        assert ((mask == 255) & truth).sum() / ((mask == 255) | truth).sum() > 0.85
        best = image["classes"][0]
        assert (best["class"], best["index"]) == (("red", "green", "blue")[sample.label or 0], sample.label)
        assert sum(each["probability"] for each in image["classes"]) == pytest.approx(1, abs=1e-3)
        assert Image.open(tmp_path / "out" / image["overlay"]).width > 2 * 224


def test_coco_s_format(colorful: Colorful, tmp_path: Path) -> None:
    paths = photos(tmp_path / "in", 4)
    localize_files(paths, WHOLE, AT, tmp_path)
    own, coco = table(tmp_path), table(tmp_path, "coco.json")
    assert [each["name"] for each in coco["categories"]] == ["red", "green", "blue"]
    assert [each["id"] for each in coco["categories"]] == [1, 2, 3]
    assert [each["file_name"] for each in coco["images"]] == [str(path) for path in paths]
    assert [each["id"] for each in coco["annotations"]] == [1, 2, 3, 4]
    assert [each["category_id"] for each in coco["annotations"]] == [1, 2, 3, 1]
    for image, note in zip(own["images"], coco["annotations"], strict=True):
        left, top, right, bottom = image["boxes"][0]["box"]
        assert note["bbox"] == [left, top, right - left, bottom - top]
        assert note["area"] == image["boxes"][0]["area"]
        assert note["score"] == pytest.approx(image["boxes"][0]["score"] * image["classes"][0]["probability"], abs=1e-4)
        assert coco["images"][note["image_id"] - 1]["file_name"] == image["image"]


def test_without_names_or_classes(colorful: Colorful, tmp_path: Path) -> None:
    colorful.classes = None
    paths = photos(tmp_path / "in", 2)
    localize_files(paths, WHOLE, AT, tmp_path / "numbers")
    assert [each["name"] for each in table(tmp_path / "numbers", "coco.json")["categories"]] == ["0", "1"]
    colorful.forward = lambda images, labels=None: Located(images.amax(1) - images.amin(1))  # type: ignore[method-assign]
    localize_files(paths, WHOLE, AT, tmp_path / "none")
    coco = table(tmp_path / "none", "coco.json")
    assert coco["categories"] == [{"id": 1, "name": "object"}]
    assert "classes" not in table(tmp_path / "none")["images"][0]


def test_what_cannot_be_read_or_found_is_told_and_the_rest_is_done(colorful: Colorful, tmp_path: Path) -> None:
    paths = photos(tmp_path / "in", 2)
    (tmp_path / "in" / "00.png").write_bytes(b"broken")
    Image.new("RGB", (40, 20), (9, 9, 9)).save(tmp_path / "in" / "gray.png")
    with pytest.warns(UserWarning, match=r"00.png is left out: no image"):
        done = localize_files([tmp_path / "in", paths[0]], WHOLE, AT, tmp_path / "out")
    assert (done.images, done.without, done.unreadable) == (3, 1, 1)
    own = table(tmp_path / "out")
    assert [each["image"] for each in own["unreadable"]] == [os.path.abspath(tmp_path / "in" / "00.png")]
    gray = own["images"][-1]
    assert (gray["name"], gray["boxes"]) == ("gray", [])
    assert not np.asarray(Image.open(tmp_path / "out" / gray["mask"])).any()
    assert len(table(tmp_path / "out", "coco.json")["annotations"]) == 2
    with pytest.raises(ValueError, match="none of 1 images can be read"), pytest.warns(match="is left out"):
        localize_files([tmp_path / "in" / "00.png"], WHOLE, AT, tmp_path / "other")


def test_earlier_images_stay_and_other_questions_are_refused(colorful: Colorful, tmp_path: Path) -> None:
    first, second = photos(tmp_path / "in", 2)
    out = tmp_path / "out"
    localize_files([first], WHOLE, AT, out)
    before = table(out)["images"]
    localize_files([second], WHOLE, AT, out)
    assert [each["name"] for each in table(out)["images"]] == ["0", "1"]
    assert table(out)["images"][:1] == before
    localize_files([second, first], WHOLE, AT, out)
    assert len(table(out)["images"]) == 2
    (other,) = photos(tmp_path / "elsewhere", 1)
    with pytest.raises(ValueError, match=r"with threshold 0\.4, and now it is 0\.5; give another --out"):
        localize_files([first], WHOLE, Wanted(threshold=0.5), out)
    with pytest.raises(ValueError, match="with localizer whole_image, and now it is lost"):
        localize_files([first], LocalizerWords("lost", None, None), AT, out)
    assert len(table(out)["images"]) == 2
    localize_files([first, other], WHOLE, AT, tmp_path / "both")
    assert [each["name"] for each in table(tmp_path / "both")["images"]] == ["in-0", "elsewhere-0"]


def test_names_stay_and_new_ones_differ_from_all(colorful: Colorful, tmp_path: Path) -> None:
    b, q, a = (photos(tmp_path / name, 1)[0] for name in "bqa")
    out = tmp_path / "out"
    localize_files([b], WHOLE, AT, out)
    localize_files([tmp_path / "q"], WHOLE, AT, out)
    assert localize_files([a, q, b], WHOLE, AT, out).before == 2
    Image.open(b).rotate(90).save(b)
    localize_files([b, q], WHOLE, AT, out)
    assert {each["image"]: each["name"] for each in table(out)["images"]} == {
        str(b): "0",
        str(q): "q-0",
        str(a): "a-0",
    }
    shutil.copy(b, tmp_path / "in.png")
    lines = (out / "boxes.jsonl").read_text().replace('"name": "0"', '"name": "in"')
    (out / "boxes.jsonl").write_text(lines)  # a name that a call of other files chose
    localize_files([tmp_path / "in.png"], WHOLE, AT, out)
    assert table(out)["images"][-1]["name"] == "in-2"
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["0.png", "a-0.png", "in-2.png", "q-0.png"]


def test_the_note_is_that_of_the_first_call(colorful: Colorful, tmp_path: Path) -> None:
    first, second = photos(tmp_path / "in", 2)
    localize_files([first], WHOLE._replace(weights="first.pth"), AT, tmp_path / "out")
    note = table(tmp_path / "out")["note"]
    assert "weights first.pth" in note
    localize_files([second], WHOLE._replace(weights="second.pth"), AT, tmp_path / "out")
    assert table(tmp_path / "out")["note"] == note


@pytest.mark.parametrize("name", ["coco.json", "masks/1.png", "overlays/0.png", "boxes.jsonl"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_are_not_written_over(colorful: Colorful, tmp_path: Path, name: str, overwrite: bool) -> None:
    paths, out = photos(tmp_path / "in", 2), tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"mine": 1}')  # no end of a line
    with pytest.raises(ValueError, match=rf"{name} is there .*ours.*; give another --out"):
        localize_files(paths, WHOLE, AT._replace(overwrite=overwrite), out)
    assert [path for path in out.rglob("*") if path.is_file()] == [out / name]
    assert (out / name).read_text() == '{"mine": 1}'
    (out / name).rename(tmp_path / "away")
    (out / "masks").mkdir(exist_ok=True)
    (out / "masks" / "another.png").write_text("mine")  # in nobody's way
    localize_files(paths, WHOLE, AT, out)
    localize_files(paths, WHOLE, AT._replace(overwrite=True), out)
    assert (out / "masks" / "another.png").read_text() == "mine"


def test_one_call_at_a_time_writes_into_a_folder(colorful: Colorful, tmp_path: Path) -> None:
    first, second = photos(tmp_path / "in", 2)
    out, said = tmp_path / "out", list[str]()

    def another() -> None:
        with pytest.raises(FolderInUse) as error:
            localize_files([second], WHOLE, AT, out)
        said.append(str(error.value))

    stopping(colorful, 1, another)
    with pytest.raises(Stopped):
        localize_files([first, second], WHOLE, AT._replace(batch_size=1), out)
    assert re.search(
        rf"held by a live process \(pid {os.getpid()} on .*\); wait for it, or give another --out", said[0]
    )
    assert not (out / ".localize.lock").exists()
    stopping(colorful, 99)
    assert localize_files([first, second], WHOLE, AT, out).before == 1


def test_a_lock_ends_with_its_process_though_a_worker_outlives_it(tmp_path: Path) -> None:
    holder = multiprocessing.get_context("fork").Process(target=_die_holding, args=(tmp_path,))
    holder.start()
    holder.join(20)
    worker = int((tmp_path / "worker").read_text())
    try:
        assert (tmp_path / ".localize.lock").read_text().startswith(f"pid {holder.pid} ")
        os.kill(worker, 0)
        held = FolderLock(tmp_path)
        with pytest.raises(FolderInUse, match=f"pid {os.getpid()} "):
            FolderLock(tmp_path)
        held.release()
        assert [path.name for path in tmp_path.iterdir()] == ["worker"]
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_lock_is_of_the_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, seen = fcntl.flock, list[int]()

    def flock(descriptor: int, how: int) -> None:
        if not seen:  # between opening and locking, its last holder let it go
            (tmp_path / ".localize.lock").unlink()
        seen.append(descriptor)
        right(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    held = FolderLock(tmp_path)
    with pytest.raises(FolderInUse):
        FolderLock(tmp_path)
    held.release()


def _die_holding(folder: Path) -> None:
    FolderLock(folder)
    ready, done = os.pipe()
    worker = os.fork()
    if not worker:
        os.write(done, b"forked")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 6)
    (folder / "worker").write_text(str(worker))
    os._exit(9)


class Stopped(Exception):
    """In place of whatever ends a process."""


def stopping(colorful: Colorful, at: int, then: Callable[[], object] = lambda: None) -> list[int]:
    """Let it stop at its `at`-th batch; returns the sizes of the batches that it saw, as they come."""
    right, seen = type(colorful).forward, list[int]()

    def forward(images: Tensor, *, labels: Tensor | None = None) -> Located:
        if len(seen) == at:
            then()
            raise Stopped
        seen.append(len(images))
        return right(colorful, images, labels=labels)

    colorful.forward = forward  # type: ignore[method-assign]
    return seen


def test_what_was_done_is_saved_when_it_stops(colorful: Colorful, tmp_path: Path) -> None:
    paths = photos(tmp_path / "in", 3)
    stopping(colorful, 2)
    with pytest.raises(Stopped):
        localize_files(paths, WHOLE, AT._replace(batch_size=1), tmp_path / "out")
    assert [each["name"] for each in table(tmp_path / "out")["images"]] == ["0", "1"]
    assert len(table(tmp_path / "out", "coco.json")["images"]) == 2


def test_a_killed_call_is_gone_on_with(
    colorful: Colorful, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, out, killed = photos(tmp_path / "in", 4), tmp_path / "out", tmp_path / "killed"
    stopping(colorful, 2, lambda: shutil.copytree(out, killed))  # what another process sees in the midst of it
    with pytest.raises(Stopped):
        localize_files(paths, WHOLE, AT._replace(batch_size=1), out)
    assert not (killed / "boxes.json").exists()
    lines = (killed / "boxes.jsonl").read_bytes()
    assert [json.loads(line).get("name") for line in lines.splitlines()] == [None, "0", "1"]
    (killed / "boxes.jsonl").write_bytes(lines + lines.splitlines()[1][:40])  # it died while it wrote a line

    seen = stopping(colorful, 99)
    with caplog.at_level(logging.INFO):
        done = localize_files(paths, WHOLE, AT._replace(batch_size=3), killed)
    assert seen == [2]
    assert (done.images, done.before, done.unreadable) == (4, 2, 0)
    assert f"2 of 4 images in {killed} are finished, with these weights and settings" in caplog.text
    assert "localize 4/4 images (2 from the cache)" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(localize, "open_words", lambda *_, **__: Colorful())
    localize_files(paths, WHOLE, AT, tmp_path / "whole")
    for name in ("boxes.json", "coco.json"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    entries = [json.loads(line) for line in (killed / "boxes.jsonl").read_text().splitlines()]
    assert [each.get("name") for each in entries] == [None, "0", "1", "2", "3"]
    assert {"file", "mark", *table(killed)["images"][0]} == set(entries[1])


def test_what_is_not_finished_any_more_is_done_again(colorful: Colorful, tmp_path: Path) -> None:
    paths, out = photos(tmp_path / "in", 4), tmp_path / "out"
    localize_files(paths, WHOLE, AT, out)
    before = table(out)["images"]
    (out / "masks" / "1.png").unlink()
    Image.open(paths[2]).rotate(90).save(paths[2])
    seen = stopping(colorful, 99)
    assert localize_files(paths, WHOLE, AT, out).before == 2
    assert seen == [2]
    after = table(out)["images"]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False, True]
    assert (out / "masks" / "1.png").is_file()
    assert localize_files(paths, WHOLE, AT, out).before == 4
    assert seen == [2]
    lines = (out / "boxes.jsonl").read_bytes().splitlines(keepends=True)
    (out / "boxes.jsonl").write_bytes(b"".join([lines[0], b"{broken\n", *lines[2:]]))
    with pytest.warns(UserWarning, match=r"1 lines of .*boxes\.jsonl are damaged; their images are done again"):
        localize_files(paths, WHOLE, AT, out)
    assert seen == [2, 1]
    assert sorted(table(out)["images"], key=lambda each: each["name"]) == after


def test_images_that_could_not_be_read_are_tried_again(colorful: Colorful, tmp_path: Path) -> None:
    paths, out = photos(tmp_path / "in", 2), tmp_path / "out"
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:50])
    for _ in range(2):
        with pytest.warns(match=r"1\.png is left out"):
            assert localize_files(paths, WHOLE, AT, out).unreadable == 1
    assert len((out / "boxes.jsonl").read_text().splitlines()) == 3  # it is told once
    paths[1].write_bytes(whole)
    done = localize_files(paths, WHOLE, AT, out)
    assert (done.images, done.before, done.unreadable) == (2, 1, 0)
    assert table(out)["unreadable"] == []


def test_overwrite_begins_anew(colorful: Colorful, tmp_path: Path) -> None:
    paths, out = photos(tmp_path / "in", 3), tmp_path / "out"
    localize_files(paths, WHOLE, AT, out)
    (out / "notes.txt").write_text("mine")
    other = Wanted(threshold=0.6)
    with pytest.raises(ValueError, match=r"3 images with threshold 0\.4, and now it is 0\.6; .* or --overwrite, which"):
        localize_files(paths, WHOLE, other, out)
    done = localize_files(paths[:1], WHOLE, other._replace(overwrite=True), out)
    assert (done.images, done.before, table(out)["threshold"]) == (1, 0, 0.6)
    assert [path.name for path in (out / "masks").iterdir()] == ["0.png"]
    assert (out / "notes.txt").read_text() == "mine"
    (out / "boxes.jsonl").write_text('{"mine": 1}\n')
    with pytest.raises(ValueError, match=r"no table of boxes of ours; give another --out"):
        localize_files(paths, WHOLE, other._replace(overwrite=True), out)
    (out / "boxes.jsonl").unlink()
    with pytest.raises(ValueError, match=r"boxes\.json is there without the boxes\.jsonl that it is made of"):
        localize_files(paths, WHOLE, other, out)


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_deleted_before_it_can_be_replaced(colorful: Colorful, tmp_path: Path) -> None:
    paths, out = photos(tmp_path / "in", 3), tmp_path / "out"
    localize_files(paths[:2], WHOLE, AT, out)
    before, anew = files_in(out), AT._replace(overwrite=True, batch_size=1)
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[:50])
    with pytest.raises(ValueError, match="none of 1 images can be read"), pytest.warns(match="is left out"):
        localize_files(paths[2:], WHOLE, anew, out)
    assert files_in(out) == before
    stopping(colorful, 0)
    with pytest.raises(Stopped):
        localize_files(paths, WHOLE, anew, out)
    assert files_in(out) == before
    stopping(colorful, 99)
    with pytest.warns(match="is left out"):
        done = localize_files([paths[2], paths[0]], WHOLE, anew, out)
    assert (done.images, done.unreadable) == (1, 1)
    assert [each["name"] for each in table(out)["images"]] == ["0"]
    assert len(table(out)["unreadable"]) == 1
    assert [len(json.loads(line)) for line in (out / "boxes.jsonl").read_text().splitlines()[1:2]] == [2]


def test_overwriting_can_be_stopped_anywhere(
    colorful: Colorful, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, out = photos(tmp_path / "in", 2), tmp_path / "out"
    anew, right = AT._replace(overwrite=True), Path.unlink
    for left in range(7):
        localize_files(paths, WHOLE, AT, out)
        deleted = list[Path]()

        def unlink(path: Path, missing_ok: bool = False, deleted: list[Path] = deleted, left: int = left) -> None:
            if path.name != ".localize.lock":
                if len(deleted) == left:
                    raise Stopped
                deleted.append(path)
            right(path, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)
        with pytest.raises(Stopped):
            localize_files(paths, WHOLE, anew, out)
        monkeypatch.setattr(Path, "unlink", right)
        assert localize_files(paths, WHOLE, anew, out).images == 2
        assert len(table(out)["images"]) == 2


def test_nothing_outside_of_the_folder_is_deleted(colorful: Colorful, tmp_path: Path) -> None:
    paths, out = photos(tmp_path / "in", 2), tmp_path / "a" / "out"
    localize_files(paths, WHOLE, AT, out)
    text = (out / "boxes.jsonl").read_text()
    mine = [tmp_path / "x.png", tmp_path / "y.png", tmp_path / "a" / "2.png"]
    for path in mine:
        path.write_text("mine")
    text = text.replace('"masks/0.png"', '"../../x.png"').replace('"overlays/0.png"', json.dumps(str(mine[1])))
    (out / "boxes.jsonl").write_text(text.replace('"name": "1"', '"name": "../../2"'))
    Image.open(paths[1]).rotate(90).save(paths[1])
    with pytest.warns(match="1 lines of .* are damaged"):
        localize_files(paths, WHOLE, AT, out)
    with pytest.warns(match="1 lines of .* are damaged"):
        localize_files(paths, WHOLE, AT._replace(overwrite=True), out)
    assert [path.read_text() for path in mine] == ["mine"] * 3


def test_it_goes_on_from_another_folder(colorful: Colorful, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "in", 2)
    monkeypatch.chdir(tmp_path)
    localize_files(["in"], WHOLE, AT, "out")
    assert table(tmp_path / "out")["images"][0]["image"] == "in/0.png"
    monkeypatch.chdir(tmp_path / "in")
    assert localize_files(["."], WHOLE, AT, "../out").before == 2


def test_texts_are_paths(colorful: Colorful, tmp_path: Path) -> None:
    paths = photos(tmp_path / "in", 2)
    assert localize_files([str(paths[0])], WHOLE, AT, str(tmp_path / "out")).images == 1
    assert localize_files(str(tmp_path / "in"), WHOLE, AT, str(tmp_path / "out")).before == 1
    assert len(table(tmp_path / "out")["images"]) == 2


def test_the_largest_boxes_alone(colorful: Colorful, tmp_path: Path) -> None:
    picture = np.full((100, 100, 3), 128, np.uint8)
    sides = {(5, 5): 4, (30, 5): 30, (5, 50): 10, (60, 60): 20}
    for (left, top), side in sides.items():
        picture[top : top + side, left : left + side] = (255, 0, 0)
    Image.fromarray(picture).save(tmp_path / "four.png")

    def areas(name: str, **more: Any) -> list[int]:
        wanted = Wanted(threshold=0.5, size=100, **more)
        localize_files([tmp_path / "four.png"], WHOLE, wanted, tmp_path / name)
        (image,) = table(tmp_path / name)["images"]
        assert (np.asarray(Image.open(tmp_path / name / image["mask"])) == 255).sum() == sum(
            box["area"] for box in image["boxes"]
        )
        return [box["area"] for box in image["boxes"]]

    assert areas("every", boxes="all") == [900, 400, 100, 16]
    assert areas("percent", boxes="all", min_area=0.01) == [900, 400, 100]
    assert areas("more", boxes="all", min_area=0.0101) == [900, 400]
    assert areas("two", boxes="all", top=2) == [900, 400]
    assert areas("both", boxes="all", min_area=0.05, top=2) == [900]
    assert areas("largest", min_area=0.05) == [900]
    assert areas("none", min_area=0.5) == []
    with pytest.raises(ValueError, match=r"with min_area 0\.5, and now it is 0\.0; give another --out"):
        areas("none")
    for wrong, said in (
        ({"min_area": 1.0}, r"min_area is 1; it is a share of the image, in \[0, 1\)"),
        ({"top": 0, "boxes": "all"}, "top is 0; give a number of boxes"),
        ({"top": 3}, "top 3 is of all boxes, .* add --boxes all"),
    ):
        with pytest.raises(ValueError, match=said):
            areas("wrong", **wrong)


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Callable[..., Report]]:
    """A folder as a run of LocLoc leaves it, and what measures it."""
    folder = tmp_path / "run"
    (folder / "exported").mkdir(parents=True)
    _, path = saved("locloc", tmp_path)
    Path(path).rename(folder / "exported" / "backbone.safetensors")
    (folder / "config.yaml").write_text("recipe: x\n")

    def measured(name: str = "localization.json", **settings: Any) -> Report:
        words = LocalizerWords("locloc", None, str(folder))
        localizer: Any = open_words(words)
        config = LocalizationConfig(**settings)
        report = evaluate(localizer, squares(6), config, held_out=squares(6, seed=1), name="locloc")
        report.save(folder / "evaluation" / name)
        return report

    return folder, measured


def test_the_threshold_and_the_view_are_those_of_the_run_s_evaluation(
    run: tuple[Path, Callable[..., Report]], tmp_path: Path
) -> None:
    folder, measured = run
    words = LocalizerWords("locloc", None, str(folder))
    paths = photos(tmp_path / "in", 2)
    with pytest.warns(UserWarning, match=f"the threshold {UNCHOSEN} was not chosen for locloc; measure it first"):
        localize_files(paths, words, Wanted(), tmp_path / "a")
    assert table(tmp_path / "a")["threshold"] == UNCHOSEN
    report = measured(view="crop", image_size=48)
    Report("localization", {}, {}, {}).save(folder / "evaluation" / "localization-other.json")
    localize_files(paths, words, Wanted(), tmp_path / "b")
    found = table(tmp_path / "b")
    assert found["threshold"] == report.details["chosen"]["loc"]
    assert found["view"] == "crop 48 x 48"
    assert "chosen on 6 held-out images" in found["note"]
    assert found["weights_digest"] == report.card["weights"]
    assert found["images"][0]["classes"][0]["class"] in ("red", "green", "blue")
    localize_files(paths, words, Wanted(threshold=0.2), tmp_path / "c")
    assert (table(tmp_path / "c")["threshold"], table(tmp_path / "c")["view"]) == (0.2, "squash 32 x 32")


def test_an_evaluation_of_other_weights_is_not_used(run: tuple[Path, Callable[..., Report]], tmp_path: Path) -> None:
    folder, measured = run
    report = measured()
    report.card["weights"] = "0" * 16
    report.save(folder / "evaluation" / "localization.json")
    words = LocalizerWords("locloc", None, str(folder))
    with pytest.warns(UserWarning, match="is of other weights than .*run now holds"), pytest.warns(match="not chosen"):
        localize_files(photos(tmp_path / "in", 1), words, Wanted(), tmp_path / "out")
    assert table(tmp_path / "out")["threshold"] == UNCHOSEN


def test_by_command(run: tuple[Path, Callable[..., Report]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, measured = run
    measured()
    photos(tmp_path / "in", 2)
    (tmp_path / "in" / "bad.jpg").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(match=r"bad\.jpg is left out"):
        told = CliRunner().invoke(app, ["localize", "in", "-w", str(folder), "-o", "found", "--device", "cpu"])
    assert told.exit_code == 0, told.output
    assert "written: found/boxes.json and coco.json, 2 images" in told.output
    assert ", 1 left out; masks/ and overlays/" in told.output
    assert table(tmp_path / "found")["localizer"] == "locloc"
    assert sorted(path.name for path in (tmp_path / "found" / "overlays").iterdir()) == ["0.png", "1.png"]


def test_floors_and_every_component(tmp_path: Path) -> None:
    paths = photos(tmp_path / "in", 1)
    localize_files(paths, WHOLE, Wanted(threshold=0.5, boxes="all", size=40), tmp_path / "out")
    (image,) = table(tmp_path / "out")["images"]
    assert image["boxes"][0]["box"] == [0, 0, 96, 96]
    with pytest.raises(ValueError, match="threshold is 1; it is a share"):
        localize_files(paths, WHOLE, Wanted(threshold=1), tmp_path / "no")
    with pytest.raises(ValueError, match="heat_maps is a folder of maps"):
        localize_files(paths, LocalizerWords("heat_maps", None, str(tmp_path)), AT, tmp_path / "no")
    assert not (tmp_path / "no").exists()
