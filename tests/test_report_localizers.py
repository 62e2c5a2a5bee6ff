"""The page that compares localizers, and what a run's page shows of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_runs import run
from object_scenes import squares
from PIL import Image
from tiny_vit import vit_file
from typer.testing import CliRunner

from vitrail.cli import app
from vitrail.data import ImageFolder
from vitrail.evaluation.result import Report
from vitrail.recipes.look import keep_sheet
from vitrail.recipes.measure import _draw, measure
from vitrail.report import write_page
from vitrail.report.localizers import Opening, Wanted, compare_localizers

CPU = Opening(device="cpu")


def folder_of(root: Path, count: int = 6) -> Path:
    """Squares in a folder of classes, with boxes of both splits."""
    for part, seed in (("train", 1), ("val", 0)):
        data, lines = squares(count, seed), []
        assert data.classes is not None
        for number, sample in enumerate(data.samples):
            name = f"{data.classes[number % 3]}/{part}{number}.png"
            (root / part / name).parent.mkdir(parents=True, exist_ok=True)
            sample.image.save(root / part / name)
            assert sample.boxes is not None
            left, top, right, bottom = sample.boxes[0]
            lines.append(f"{name} {left:g} {top:g} {right - 1:g} {bottom - 1:g}")
        (root / f"{part}_boxes.txt").write_text("\n".join(lines))
    return root


def maps_of(root: Path, data: Path, parts: tuple[str, ...] = ("train", "val")) -> Path:
    """Maps that show the squares, as another program writes them."""
    for part in parts:
        images = ImageFolder(data, part)
        for number in range(len(images)):
            path = (root / images.relative_path(number)).with_suffix(".npy")
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.ptp(np.asarray(images[number].image).astype(np.float32), axis=2))
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Of heat maps, attention of a run that learned from masks, and a floor."""
    out = tmp_path_factory.mktemp("page")
    trained = run(out / "birds", data={"root": str(photos)})
    maps = maps_of(out / "maps", photos, ("val",))
    texts = [f"heat_maps={maps}", f"attention={trained}", "whole_image"]
    wanted = Wanted(str(photos), ("image_size=32", "threshold=0.5"), images=2, stages=2)
    return compare_localizers(texts, wanted, CPU, out / "out")


def test_what_stands_on_the_page(page: Path) -> None:
    text = page.read_text()
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == [
        "Numbers",
        "Thresholds",
        "heat_maps: hits and misses",
        "attention: hits and misses",
        "whole_image: hits and misses",
        "Masks of birds by GrabCut",
        "Classes",
        "Protocols",
    ]
    assert "floors, without a look at the image" in text
    assert "published" not in text
    assert text.count("<summary>localization, ") == 3
    assert "held-out" not in text.partition('id="protocols"')[0].partition("<main")[2]


def test_numbers_are_those_of_the_reports(page: Path) -> None:
    text = page.read_text()
    for name, value in (("heat_maps", 100.0), ("whole_image", 0.0)):
        report = Report.load(page.parent / f"localization-{name}.json")
        assert report.numbers["gt_known_loc"] == value
        assert report.card["config"]["localizer"] == name
    (row,) = re.findall(r'<tr><th scope="row">heat_maps</th>(.*?)</tr>', text)
    assert 'class="best"><span class="value">100.0' in row
    assert "threshold 0.50, given" in row
    rows = json.loads((page.parent / "localization-attention.json").read_text())["details"]["per_class"]
    for each in rows:
        assert f'<th scope="row">{each["class"]}</th><td>{each["images"]}</td>' in text


def test_a_threshold_of_held_out_images(tmp_path: Path, photos: Path) -> None:
    apart = maps_of(tmp_path / "train_maps", photos, ("train",)), maps_of(tmp_path / "val_maps", photos, ("val",))
    wanted = Wanted(str(photos), ("image_size=32",), images=0, stages=0)
    texts = [f"heat_maps={apart[1]}"]
    with pytest.raises(ValueError, match="--held-out-maps FOLDER"):
        compare_localizers(texts, wanted, CPU, tmp_path / "out")
    text = compare_localizers(texts, wanted._replace(held_out_maps=str(apart[0])), CPU, tmp_path / "out").read_text()
    assert "Dashed: the held-out ones" in text
    assert ", held-out images" in text
    assert "hits and misses" not in text
    with pytest.raises(ValueError, match="belongs to one folder of heat maps"):
        compare_localizers(["whole_image"], wanted._replace(held_out_maps="x"), CPU, tmp_path / "out")


def test_a_threshold_of_the_measured_images_is_said(tmp_path: Path, photos: Path) -> None:
    wanted = Wanted(str(photos), ("image_size=32", "threshold=test_set"), images=0)
    text = compare_localizers(["centered_box"], wanted, CPU, tmp_path).read_text()
    assert "measured numbers are too good" in text
    assert ", the measured images" in text


def test_what_cannot_be_compared_is_told(tmp_path: Path, photos: Path) -> None:
    for texts, settings, words in (
        ([], (), "name localizers with --localizer"),
        (["whole_image", "whole_image"], (), "named twice"),
        (["whole_image"], ("tresholds=4",), "tresholds"),
    ):
        with pytest.raises(ValueError, match=words):
            compare_localizers(texts, Wanted(str(photos), settings), CPU, tmp_path)
    assert not (tmp_path / "localizers.html").exists()


def test_the_command(tmp_path: Path, photos: Path) -> None:
    def called(*words: str) -> Any:
        return CliRunner().invoke(app, ["compare", "--data", str(photos), *words])

    done = called("threshold=0.5", "-l", "whole_image", "-o", str(tmp_path / "out"), "--images", "1", "--device", "cpu")
    assert done.exit_code == 0
    assert done.output.endswith(f"written: {tmp_path / 'out' / 'localizers.html'}\n")
    assert "1 of 6 misses" in (tmp_path / "out" / "localizers.html").read_text()
    for words, said in (
        ((), "--ranker or --localizer"),
        (("-l", "whole_image", "-r", "center"), "not both"),
        (("-l", "whole_image", "--keep", "0.5"), "are of rankers"),
        (("-r", "center", "--held-out-maps", "x"), "is of localizers"),
        (("-l", "whole_imge"), "did you mean 'whole_image'"),
    ):
        assert said in str(called(*words).exception)


def test_a_run_page_shows_curves_hits_and_misses(tmp_path: Path, photos: Path) -> None:
    folder = run(tmp_path / "birds", data={"root": str(photos)})
    settings = ["image_size=32"]
    measure("localization", str(folder), str(photos), settings, device="cpu")
    names = {path.name for path in (folder / "pictures").glob("*.png")}
    assert {"localization.png", "localization-all.png"} < names
    assert names & {"localization-hits.png", "localization-misses.png"}
    text = write_page(tmp_path / "page.html", [folder]).read_text()
    for name in names:
        assert f"<h3>{name}</h3>" in text
    assert "dashed: the held-out images" in text
    report, path = measure(
        "localization",
        None,
        str(photos),
        ["threshold=0.5"],
        localizers=["whole_image"],
        device="cpu",
        out=tmp_path / "o",
    )
    assert {each.name for each in path.parent.glob("*.png")} == {
        f"localization{end}.png" for end in ("", "-all", "-misses")
    }
    assert report.details["held_out_curves"] is None


def test_pictures_of_an_earlier_measurement_go(tmp_path: Path, photos: Path) -> None:
    """All hits, then all misses, into the same file; a run's page tells of neither any more."""
    maps, black = maps_of(tmp_path / "maps", photos, ("val",)), tmp_path / "black"
    folder = run(tmp_path / "birds", data={"root": str(photos)})
    for path in maps.rglob("*.npy"):
        (black / path.relative_to(maps)).parent.mkdir(parents=True, exist_ok=True)
        np.save(black / path.relative_to(maps), 1 - np.load(path))

    def ends(source: Path, out: Path) -> set[str]:
        more: dict[str, Any] = {"localizers": [f"heat_maps={source}"], "device": "cpu", "out": out}
        measure("localization", None, str(photos), ["threshold=0.5", "image_size=32"], **more)
        return {path.stem.removeprefix("numbers") for path in out.parent.glob("numbers*.png")}

    out = tmp_path / "o" / "numbers.json"
    assert ends(maps, out) == {"", "-all", "-hits"}
    (out.parent / "numbers-hits-of-mine.png").touch()
    assert ends(black, out) == {"", "-all", "-misses", "-hits-of-mine"}
    pictures = folder / "pictures"
    keep_sheet(pictures, "localization-hits.png", Image.new("RGB", (4, 4)), "old ones")
    keep_sheet(pictures, "other.png", Image.new("RGB", (4, 4)), "not of localization")
    saved = Report.load(out)
    _draw(saved, folder / "evaluation" / "localization.json", folder, None)
    assert not (pictures / "localization-hits.png").exists()
    assert list(json.loads((pictures / "captions.json").read_text())) == ["other.png"]


def test_a_fixed_box_says_how_large_it_is(tmp_path: Path, photos: Path) -> None:
    wanted = Wanted(str(photos), ("threshold=0.5",), images=0)
    text = compare_localizers(["centered_box", "whole_image"], wanted, CPU, tmp_path).read_text().replace("\u00a0", " ")
    assert '<td class="about">70 % of both sides; threshold 0.50, given</td>' in text
    assert "100 % of both sides" in text


def test_weights_of_a_file_have_no_masks(tmp_path: Path, photos: Path) -> None:
    wanted = Wanted(str(photos), ("threshold=0.5",), images=0)
    text = compare_localizers([f"attention={vit_file(tmp_path)}"], wanted, CPU, tmp_path).read_text()
    assert "by GrabCut" not in text
