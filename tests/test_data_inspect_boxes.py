"""What the doctor says of boxes: every line of the file counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from test_data_cub import IMAGES, cub, wsol

from vitrail.data import Finding, inspect_folder


def photos(root: Path, *, val: str = "val") -> Path:
    """Two classes; images of val are 40 x 30, one of them 30 x 40 as it is stored and turned by EXIF."""
    for name in ("train/a/1.png", "train/b/2.png", f"{val}/a/3.png", f"{val}/b/4.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (len(name), 9, 9)).save(path)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 40)).save(root / val / "b" / "5.jpg", exif=turned)
    return root


def of_boxes(root: Path) -> list[Finding]:
    found = inspect_folder(root, patch_size=8, image_size=16)
    return [each for each in found if "boxes.txt" in each.what or "localization.txt" in each.what]


def levels(root: Path) -> list[tuple[str, str]]:
    return [(each.level, each.what) for each in of_boxes(root)]


def test_a_good_file_is_counted(tmp_path: Path) -> None:
    root = photos(tmp_path)
    assert of_boxes(root) == []
    (root / "val_boxes.txt").write_text("a/3.png 0 0 39 29\nb/4.png 1 1 2 2\nb/4.png 3 3 9 9\nb/5.jpg 30 0 39 29\n")
    (root / "train_boxes.txt").write_text("a/1.png 0 0 5 5\n")
    assert levels(root) == [
        ("ok", "train: train_boxes.txt: 1 boxes in 1 of 2 images"),
        ("ok", "val: val_boxes.txt: 4 boxes in 3 of 3 images, 1 of which have several"),
    ]


@pytest.mark.parametrize(
    ("lines", "level", "what", "mend"),
    [
        ("a/3.png 1 2 3", "error", "1 of 2 lines are wrong, by their numbers: 2: ", "lines are `class/image"),
        ("a/3.png 1 nan 3 9", "error", "2: expected finite numbers", "nothing is read from the file until all are"),
        ("b/4.jpg 1 1 2 2", "warning", "1 of 2 lines name no image, by their numbers: 2: ", "may mean b/4.png"),
        ("b/4.png 40 5 50 9", "warning", "1 of 2 boxes lie outside of their image, by line: 2: ", "of another size"),
        ("b/4.png -9 -9 -5 -1", "ok", "2 boxes in 2 of 3 images", ""),  # its last pixel is -1, half-open 0: outside
        ("b/4.png -9 -9 -5 -1", "warning", "1 of 2 boxes lie outside", "of another size"),
        ("b/4.png 1 1 41 9", "warning", "reach beyond their image, by line: 2: 'b/4.png 1 1 41 9' of 40 x 30", ""),
        ("b/4.png 1 1 2 2", "warning", "1 of 3 images have no box: b/5.jpg", "on the others alone"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file(tmp_path: Path, lines: str, level: str, what: str, mend: str) -> None:
    root = photos(tmp_path)
    (root / "val_boxes.txt").write_text(f"a/3.png 0 0 39 29\n{lines}\n")
    assert any(each.level == level and what in each.what and mend in each.mend for each in of_boxes(root)), of_boxes(
        root
    )


def test_a_broken_file_is_told_without_contradiction(tmp_path: Path) -> None:
    """Images of broken lines have lines; nothing is read, so nothing is counted; what is wrong alike is said once."""
    root = photos(tmp_path)
    (root / "val_boxes.txt").write_text("a/3.png 4 4 1 1\nb/4.png 1 2\nb/4.png 1\n")
    wrong, without = of_boxes(root)
    assert "1: the box 4 4 1 1 ends before it begins: x1 1 is left of x0 4, got 'a/3.png 4 4 1 1'" in wrong.what
    assert "2: expected `<path> x0 y0 x1 y1`, got 'b/4.png 1 2'; 3: 'b/4.png 1'" in wrong.what
    assert without.what.endswith("1 of 3 images have no box: b/5.jpg")


def test_a_file_without_any_line_of_an_image(tmp_path: Path) -> None:
    root = photos(tmp_path)
    (root / "val_boxes.txt").write_text("val/a/3.png 0 0 39 29\nval/b/4.png 0 0 39 29\n")
    first = of_boxes(root)[0]
    assert (first.level, "2 of 2 lines name no image" in first.what) == ("error", True)
    assert "line 1 may mean a/3.png" in first.mend


def test_a_file_that_no_split_reads(tmp_path: Path) -> None:
    root = photos(tmp_path, val="validation")
    (root / "val_boxes.txt").write_text("a/3.png 0 0 9 9\n")  # is read for validation/, too
    assert [level for level, _ in levels(root)] == ["warning", "ok"]
    (root / "validation_boxes.txt").write_text("a/3.png 0 0 9 9\nb/4.png 1 1 2 2\nb/5.jpg 1 1 2 2\n")
    (root / "extra_boxes.txt").write_text("")
    found = {each.what: each.mend for each in of_boxes(root) if each.level == "warning"}
    assert found["val_boxes.txt: no split reads it"].startswith("validation_boxes.txt or val_boxes.txt is read for")
    assert "from train_boxes.txt and val_boxes.txt" in found["extra_boxes.txt: no split reads it"]


def test_boxes_of_cub(tmp_path: Path) -> None:
    root = cub(tmp_path)
    assert levels(root) == [("ok", "CUB: bounding_boxes.txt: 4 boxes in 4 of 4 images")]
    lines = ["1 4 6 20 0", "2 4 6 20 3", "3 90 6 20 3", "4 4 6 20 4", "4 4 6 20 5", "77 1 1 2 2"]
    (root / "bounding_boxes.txt").write_text("\n".join(lines))
    found = "\n".join(each.what for each in of_boxes(root))
    for words in (
        "1 of 6 lines name no image, by their numbers: 6: '77 1 1 2 2'",
        "1 of 5 boxes are empty, by line: 1: ",
        "1 of 5 boxes lie outside of their image, by line: 3: '3 90 6 20 3' of 40 x 30",
        "1 images have several lines: 4",
    ):
        assert words in found
    (root / "bounding_boxes.txt").write_text("1 4 6 20 nan\n")
    assert ("error", True) in [
        (level, "bounding_boxes.txt: 1 of 1 lines are wrong" in what) for level, what in levels(root)
    ]


def test_boxes_of_metadata_are_in_its_own_sizes(tmp_path: Path) -> None:
    root = wsol(tmp_path)  # 80 x 60 by image_sizes.txt
    found = levels(root)
    assert found[-1] == ("ok", "test: localization.txt: 3 boxes in 2 of 4 images, 1 of which have several")
    assert any("2 of 4 images have no box: 001.Gull/b.jpg" in what for _, what in found)
    path = root / "metadata" / "test" / "localization.txt"
    path.write_text(
        f"{IMAGES[0]},8,12,20,40\n{IMAGES[1]},10,10,10,20\n{IMAGES[2]},90,1,95,9\n001.Gull/dd.jpg,1,1,2,2\n"
    )
    what = "\n".join(what for _, what in levels(root))
    for words in (
        "1 of 3 boxes are empty, by line: 2",
        "1 of 3 boxes lie outside",
        "lines name no image",
        "have no box",
    ):
        assert words in what


def test_all_lines_of_metadata_are_looked_at_where_it_does_not_open(tmp_path: Path) -> None:
    root = wsol(tmp_path)
    path = root / "metadata" / "test" / "localization.txt"
    path.write_text(f"{IMAGES[0]},8,12,nan,40\n{IMAGES[1]},1,1,x,2\n{IMAGES[2]},90,1,95,9\n")
    what = "\n".join(what for _, what in levels(root))
    assert "2 of 3 lines are wrong" in what
    assert "1 of 1 boxes lie outside" in what
