"""Masks from a tiny ViT's attention, end to end; scenes of 32 pixels."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vit import tiny_vit, vit_file
from typer.testing import CliRunner

from vitrail.backbones import TimmViT
from vitrail.cli import app
from vitrail.data import ImageFolder, SyntheticScenes, TooManyUnreadable, WorkerCrashed
from vitrail.data import cutters as cutting
from vitrail.data.mask_writer import MaskWriter
from vitrail.data.object_masks import (
    LINE,
    PLAIN_ALONE,
    UNREADABLE,
    Masks,
    ObjectMasks,
    ObjectMasksConfig,
    WithObjectMasks,
)
from vitrail.evaluation.features import weights_digest
from vitrail.ops.grabcut import grabcut_mask
from vitrail.ops.mean_attention import mean_attention
from vitrail.rankers.dino import Dino
from vitrail.recipes.object_masks import (
    await_object_masks,
    make_object_masks,
    masks_by,
    object_attention,
    stages_of,
    tell_coverage,
)

CONFIG = ObjectMasksConfig(size=48)
LARGE = ObjectMasksConfig(size=192)


def scenes(count: int = 12) -> SyntheticScenes:
    return SyntheticScenes(count, image_size=32, seed=1)


def make(
    path: Path, backbone: TimmViT | None = None, data: Any = None, config: ObjectMasksConfig = CONFIG, **how: Any
) -> ObjectMasks:
    how = {"processes": 1, "device": "cpu", "batch_size": 5} | how
    return make_object_masks(backbone or tiny_vit(), data or scenes(), path, config, **how)


def content(masks: ObjectMasks) -> np.ndarray:
    return np.stack([np.stack(masks[index]) for index in range(len(masks))])


def test_is_grabcut_by_the_attention_of_each_image(tmp_path: Path) -> None:
    masks, backbone, data = make(tmp_path / "masks"), tiny_vit(), scenes()
    assert (len(masks), masks.size) == (12, 48)
    for index in (0, 7, 11):
        image = data[index].image
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
        scores = Dino(backbone).attention(((pixels - mean) / std)[None])
        attention = mean_attention(scores, (0, 1, 2))[0].numpy()
        found = grabcut_mask(np.array(image.resize((48, 48), Image.Resampling.BILINEAR)), attention)
        assert np.array_equal(masks[index].enhanced, found.enhanced)
        assert np.array_equal(masks[index].plain, found.plain)
    both = content(masks)
    assert 0 < both.mean() < 1
    assert (both[:, 0] != both[:, 1]).any()
    assert masks.about["weights"] == weights_digest(backbone)
    assert masks.about["heads"] == [0, 1, 2]
    masks.check(data, weights_digest(backbone))
    assert WithObjectMasks(data, masks)[3].mask.shape == (32, 32)  # type: ignore[union-attr]


def test_processes_and_batches_change_nothing(tmp_path: Path) -> None:
    one = make(tmp_path / "one")
    two = make(tmp_path / "two", processes=2)
    with_workers = make(tmp_path / "three", processes=3, workers=1, batch_size=12)
    assert np.array_equal(content(one), content(two))
    assert np.array_equal(content(one), content(with_workers))
    assert one.digest() == two.digest()


def test_read_again_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = make(tmp_path / "masks")
    monkeypatch.setattr(cutting, "grabcut_mask", None)
    with caplog.at_level(logging.INFO, "vitrail"):
        assert make(tmp_path / "masks").digest() == first.digest()
    assert f"object masks: read from {tmp_path / 'masks'}" in caplog.text


def test_what_was_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def counted(*values: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return grabcut_mask(*values, **more)

    monkeypatch.setattr(cutting, "grabcut_mask", counted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut")
    with caplog.at_level(logging.INFO, "vitrail"):
        resumed = make(tmp_path / "cut")
    assert len(calls) == 6 + 7  # five were done
    assert "object masks 12/12 images (5 from the cache), " in caplog.text
    assert "% of the time waiting for images" in caplog.text
    monkeypatch.undo()
    assert np.array_equal(content(resumed), content(make(tmp_path / "whole")))


def statuses(folder: Path) -> np.ndarray:
    try:
        return np.load(folder / "table.npy")["status"]
    except (OSError, ValueError):
        return np.zeros(1, LINE)["status"]


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def make_apart(path: Path) -> None:
    os.setsid()  # a group of its own, with those that cut
    make(path, data=scenes(60), config=LARGE, processes=2)


def test_goes_on_after_sigkill_and_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "masks"
    process = multiprocessing.get_context("fork").Process(target=make_apart, args=(out,))
    process.start()
    assert process.pid is not None
    while (statuses(out) > 0).sum() < 4:
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    limit = time.monotonic() + 60
    while is_alive(process.pid) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not is_alive(process.pid)  # those that cut have seen that they are alone
    done = np.flatnonzero(statuses(out))
    assert 4 <= len(done) < 60
    kept, written = np.load(out / "masks.npy")[done], []
    right = MaskWriter.write

    def noted(writer: MaskWriter, index: int, *masks: np.ndarray, **more: bool) -> None:
        written.append(index)
        right(writer, index, *masks, **more)

    monkeypatch.setattr(MaskWriter, "write", noted)
    make(out, data=scenes(60), config=LARGE)
    assert sorted([*written, *done]) == list(range(60))
    assert np.array_equal(np.load(out / "masks.npy")[done], kept)
    assert (statuses(out) > 0).all()


def test_a_process_that_dies_is_told_and_what_is_done_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.array(scenes()[0].image.resize((48, 48), Image.Resampling.BILINEAR))

    def fatal(image: np.ndarray, *values: Any, **more: Any) -> Any:
        if not np.array_equal(image, first):
            time.sleep(0.5)  # the first is written before
            os._exit(3)
        return grabcut_mask(image, *values, **more)

    monkeypatch.setattr(cutting, "grabcut_mask", fatal)
    with pytest.raises(WorkerCrashed, match=r"a process that cuts objects died.*fewer processes than 2"):
        make(tmp_path / "masks", processes=2)
    monkeypatch.undo()
    assert (statuses(tmp_path / "masks") > 0).tolist() == [True, *[False] * 11]
    assert np.array_equal(content(make(tmp_path / "masks")), content(make(tmp_path / "whole")))


def test_masks_of_something_else_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "masks")
    with pytest.raises(ValueError, match=r"holds other masks: weights '\w{16}', wanted '\w{16}'; choose"):
        make(tmp_path / "masks", tiny_vit(seed=1))
    with pytest.raises(ValueError, match=r"images 12, wanted 13; data '\w+', wanted '\w+'"):
        make(tmp_path / "masks", data=scenes(13))
    for name, value in {"heads": (0, 1), "high": 0.2, "low": 0.01, "threshold": 0.2, "iterations": 2}.items():
        with pytest.raises(ValueError, match=f"holds other masks: {name} "):
            make(tmp_path / "masks", config=CONFIG.model_copy(update={name: value}))
    with pytest.raises(ValueError, match=r"image_size \[32, 32\], wanted \[64, 64\]"):
        make(tmp_path / "masks", config=CONFIG.model_copy(update={"image_size": 64}))


def test_settings_that_do_not_fit_the_backbone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"heads \[5\] are not there; the block has 3, 0 to 2"):
        make(tmp_path / "masks", config=CONFIG.model_copy(update={"heads": (0, 5)}))
    with pytest.raises(ValueError, match="image height 36 is not a multiple of the patch size 8"):
        make(tmp_path / "masks", config=CONFIG.model_copy(update={"image_size": 36}))
    with pytest.raises(ValueError, match="processes is 0; at least one cuts"):
        cutting.Cutters(None, CONFIG, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the data set is empty"):
        make_object_masks(tiny_vit(), ImageSetOfNone(), tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


class ImageSetOfNone:
    classes = None

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise IndexError

    def digest(self) -> str:
        return "none"


def test_heads_and_the_size_that_the_backbone_sees(tmp_path: Path) -> None:
    all_heads = make(tmp_path / "all", config=CONFIG.model_copy(update={"heads": None}))
    assert all_heads.about["heads"] == [0, 1, 2]
    assert np.array_equal(content(all_heads), content(make(tmp_path / "usual")))
    last = make(tmp_path / "last", config=CONFIG.model_copy(update={"heads": (-1,)}))
    assert last.about["heads"] == [2]
    large = make(tmp_path / "large", config=CONFIG.model_copy(update={"image_size": (48, 64)}))
    assert not np.array_equal(content(last), content(all_heads))
    assert not np.array_equal(content(large), content(all_heads))


def test_attention_that_says_nothing_leaves_empty_masks_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = tiny_vit()
    last: Any = backbone.vit.blocks[-1]
    last.attn.qkv.weight.zero_()
    last.attn.qkv.bias.zero_()
    assert not object_attention(backbone, torch.rand(2, 3, 32, 32), None).any()
    masks = make(tmp_path / "masks", backbone)
    assert masks.having(PLAIN_ALONE) == list(range(12))
    assert not content(masks).any()
    words = (
        "12 of 12 images have the plain mask alone, since attention left GrabCut nothing to tell apart: images 0, 1,"
    )
    assert words in caplog.text


def test_attention_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    backbone = tiny_vit()
    next(backbone.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match=r"images 0 to 4 of the data set: attention of images \[0, 1, 2.* NaN"):
        make(tmp_path / "masks", backbone)


def photos(folder: Path, broken: int, count: int) -> ImageFolder:
    for number in range(count):
        place = folder / f"{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (12 + number % 7, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:03d}.png")
    for path in sorted(folder.rglob("*.png"))[:broken]:
        path.write_bytes(b"no image")
    return ImageFolder(folder)


def test_unreadable_images_are_left_out_and_tried_again(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos", broken=1, count=100)
    config = CONFIG.model_copy(update={"size": 16})
    masks = make(tmp_path / "masks", data=data, config=config)
    assert masks.having(UNREADABLE) == [0]
    assert masks[1].plain.shape == (16, 16)
    assert make(tmp_path / "masks", data=data, config=config).having(UNREADABLE) == [0]
    bad = photos(tmp_path / "bad", broken=2, count=100)
    with pytest.raises(TooManyUnreadable, match=r"000\.png"):
        make(tmp_path / "others", data=bad, config=config)


def test_another_process_waits_for_all_masks(tmp_path: Path) -> None:
    waiting = threading.Thread(target=await_object_masks, args=(tmp_path / "masks", False), daemon=True)
    waiting.start()
    waiting.join(0.7)  # longer than it sleeps between two looks
    assert waiting.is_alive()
    make(tmp_path / "masks")
    waiting.join(30)
    assert not waiting.is_alive()
    await_object_masks(tmp_path / "none", main=True)  # the first process makes them and would wait for itself
    assert not (tmp_path / "none").exists()


def test_gray_and_tiny_images(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("L", (1, 1), 80).save(tmp_path / "photos" / "a.png")
    Image.new("L", (300, 2), 80).save(tmp_path / "photos" / "b.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)).save(tmp_path / "photos/c.png")
    data = ImageFolder(tmp_path / "photos", labels="none")
    masks = make(tmp_path / "masks", data=data)
    assert all(masks.status(index) != UNREADABLE for index in range(3))
    shapes = [WithObjectMasks(data, masks)[index].mask.shape for index in range(3)]  # type: ignore[union-attr]
    assert shapes == [(1, 1), (2, 300), (40, 30)]


def test_stages_are_those_of_the_masks(tmp_path: Path) -> None:
    masks, data = make(tmp_path / "masks"), scenes()
    stages = stages_of(tiny_vit(), data[4].image, CONFIG)
    assert np.array_equal(stages.found.enhanced, masks[4].enhanced)
    assert np.array_equal(stages.found.plain, masks[4].plain)
    assert stages.marks.shape == (48, 48)
    assert stages.image.size == (32, 32)


class Counted:
    """Masks of so many images whose mask covers all, or nothing."""

    folder = Path("masks")

    def __init__(self, count: int, covered: float = 1.0, missing: Sequence[int] = ()) -> None:
        self.count, self.covered, self.missing, self.read = count, covered, list(missing), list[int]()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Masks:
        assert index not in self.missing
        self.read.append(index)
        full = np.zeros((10, 10), bool)
        full.flat[: round(100 * self.covered)] = True
        return Masks(full, ~full)

    def having(self, status: int) -> list[int]:
        assert status == UNREADABLE
        return self.missing


class TestCoverage:
    def told(self, caplog: pytest.LogCaptureFixture, masks: Any, *which: Any) -> list[tuple[str, str]]:
        caplog.clear()
        with caplog.at_level(logging.INFO, "vitrail"):
            tell_coverage(masks, *which)
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    @pytest.mark.parametrize(
        ("covered", "warned"), [(1.0, True), (0.96, True), (0.95, False), (0.3, False), (0.01, False), (0.0, True)]
    )
    def test_of_the_mean_and_of_masks_that_teach_little(self, covered: float, warned: bool, caplog: Any) -> None:
        told = self.told(caplog, Counted(7, covered))
        assert told[0] == ("INFO", f"enhanced masks in masks cover {100 * covered:.0f} % of their image on average")
        assert [level for level, _ in told[1:]] == ["WARNING"] * warned
        if warned:
            all_of, none_of = (100, 0) if covered > 0.5 else (0, 100)
            said = (
                f"{all_of} % of the enhanced masks in masks cover nearly all of their image and {none_of} % nearly no"
            )
            assert told[1][1].startswith(said)
            assert "choose other heads, high and low, or other weights" in told[1][1]

    def test_of_the_plain_ones(self, caplog: Any) -> None:
        info, warning = self.told(caplog, Counted(7, 1.0), "plain")
        assert info[1] == "plain masks in masks cover 0 % of their image on average"
        assert "choose other heads, threshold, or other weights" in warning[1]

    def test_a_million_images_are_told_of_by_a_few(self, caplog: Any) -> None:
        many = Counted(1_000_000, 0.5)
        assert len(self.told(caplog, many)) == 1
        assert (len(many.read), many.read[0], many.read[-1]) == (256, 0, 999_999)
        assert {round(gap / 100) for gap in np.diff(many.read)} == {39}
        few = Counted(300, 0.5, missing=range(100, 200))
        self.told(caplog, few)
        assert few.read == [*range(100), *range(200, 300)]

    def test_images_that_cannot_be_read_are_left_out(self, caplog: Any) -> None:
        assert self.told(caplog, Counted(3, missing=[0, 1, 2])) == []

    def test_masks_of_images_that_fell_back_are_those_that_are_learned_from(self, tmp_path: Path, caplog: Any) -> None:
        about = {"images": 4, "size": 8, "data": "x", "weights": "y"}
        full = np.ones((8, 8), bool)
        with MaskWriter(tmp_path, about) as writer:
            for index in range(3):
                writer.write(index, full, full, fell_back=True)
            writer.lose(3)
        info, warning = self.told(caplog, ObjectMasks.open(tmp_path))
        assert "cover 100 % of their image on average" in info[1]
        assert "100 % of the enhanced masks" in warning[1]

    def test_the_command_tells_of_both_also_where_nothing_is_made(self, tmp_path: Path, caplog: Any) -> None:
        photos(tmp_path / "photos", broken=0, count=12)
        words = (vit_file(tmp_path), str(tmp_path / "photos"), ["size=16"], tmp_path / "out")
        for _ in range(2):
            caplog.clear()
            with caplog.at_level(logging.INFO, "vitrail"):
                masks_by(*words, processes=1, device="cpu")
            said = [record.getMessage() for record in caplog.records if "of their image on average" in record.msg]
            assert [text.split(" masks in ")[0] for text in said] == ["enhanced", "plain"]
        assert "object masks: read from" in caplog.text


class TestCommands:
    def test_makes_masks_of_a_folder(self, tmp_path: Path) -> None:
        photos(tmp_path / "photos", broken=0, count=12)
        out = tmp_path / "masks"
        arguments = ["object-masks", "heads=0,1", "size=16", "--weights", vit_file(tmp_path), "--processes", "1"]
        arguments += ["--data", str(tmp_path / "photos"), "--out", str(out), "--device", "cpu"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert f"written: {out}   look at how masks come about with: vitrail show grabcut" in result.output
        about = json.loads((out / "object_masks.json").read_text())
        assert (about["heads"], about["size"], about["images"]) == ([0, 1], 16, 11)  # one is held out
        assert about["made_by"].startswith("OpenCV ")
        assert CliRunner().invoke(app, [*arguments, "--split", "val", "--out", str(tmp_path / "val")]).exit_code == 0
        assert len(ObjectMasks.open(tmp_path / "val")) == 1

    def test_damaged_masks_are_mended(self, tmp_path: Path) -> None:
        whole = make(tmp_path / "masks")
        rows = np.load(tmp_path / "masks" / "masks.npy", mmap_mode="r+")
        before = content(whole)
        rows[2] ^= 255
        rows.flush()
        assert np.array_equal(content(make(tmp_path / "masks", verify=True)), before)

    def test_explains_itself(self) -> None:
        output = CliRunner().invoke(app, ["object-masks", "--help"]).output
        assert "vitrail object-masks --weights" in output

    def test_wrong_words(self, tmp_path: Path) -> None:
        for arguments, words in (
            (["--weights", str(tmp_path / "none.pth"), "--data", "scenes"], "none.pth"),
            (["--weights", vit_file(tmp_path), "--data", str(tmp_path / "none")], "there is no folder"),
            (["hihg=0.2", "--weights", vit_file(tmp_path), "--data", "scenes"], "did you mean 'high'?"),
        ):
            error = CliRunner().invoke(app, ["object-masks", *arguments, "--out", str(tmp_path / "out")]).exception
            assert isinstance(error, ValueError)
            assert words in str(error)
        assert not (tmp_path / "out").exists()

    def test_shows_how_masks_come_about(self, tmp_path: Path) -> None:
        data, weights = scenes(), vit_file(tmp_path)
        for number in range(2):
            data[number].image.resize((90, 60)).save(tmp_path / f"{number}.png")
        files = [str(tmp_path / f"{number}.png") for number in range(2)]
        arguments = ["show", "grabcut", *files, "--weights", weights, "--set", "high=0.3", "--out", str(tmp_path / "p")]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert result.output.split() == [str(tmp_path / "p" / f"{number}-grabcut.png") for number in range(2)]
        with Image.open(tmp_path / "p" / "0-grabcut.png") as picture:
            assert picture.width > 6 * 224
        error = CliRunner().invoke(app, [*arguments, "--set", "heads=9"]).exception
        assert "heads [9] are not there" in str(error)
