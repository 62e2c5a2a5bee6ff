from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet, TinyBackbone, object_set
from PIL import Image

from vitrail.contracts import Sample
from vitrail.data import ImageFolder
from vitrail.evaluation.pointing import PointingConfig, evaluate, point_at

SMALL = PointingConfig(image_size=48)


def test_the_arithmetic_of_one_image() -> None:
    scores = torch.zeros(2, 3, 4)
    scores[0, 1, 2] = 5.0  # row 1, column 2: center (25, 15) in an image of 30 x 40
    scores[1, 0, 0] = 1.0  # center (5, 5)
    inside = point_at(scores, torch.tensor([[24.0, 14.0, 26.0, 16.0]]), (30, 40))
    assert inside.point == (25.0, 15.0)
    assert inside.mean
    assert inside.heads.tolist() == [True, False]
    assert inside.anywhere == pytest.approx(1 / 12)
    assert not inside.center
    assert point_at(scores, torch.tensor([[20.0, 15.0, 21.0, 16.0]]), (30, 40)).center
    beside = torch.tensor([[26.0, 14.0, 30.0, 16.0]])
    assert not point_at(scores, beside, (30, 40)).mean
    assert point_at(scores, beside, (30, 40), tolerance=1.5).mean


def test_attention_on_the_object_scores_100_and_off_it_0() -> None:
    good = evaluate(TinyBackbone(), object_set(), SMALL)
    assert good.details["per_head"][0] == 100
    assert good.details["per_head"][1] == 0
    assert good.numbers["pointing"] == 100
    assert good.numbers["pointing_best_head"] == 100
    assert good.numbers["floor_anywhere"] < 30
    constant = evaluate(TinyBackbone(sign=0.0), object_set(), SMALL)
    assert constant.numbers["pointing"] < 50


def test_boxes_move_with_the_squash() -> None:
    pixels = np.zeros((96, 24, 3), np.uint8)
    pixels[64:80, 12:16] = 255  # squashed to 48 x 48: rows 32 to 40, columns 24 to 32
    sample = Sample(Image.fromarray(pixels), 0, None, np.array([[12.0, 64.0, 16.0, 80.0]], np.float32), "tall.png")
    report = evaluate(TinyBackbone(), ListSet([sample], None), SMALL)
    assert report.numbers["pointing"] == 100
    assert report.details["per_image"][0]["point"] == [28.0, 36.0]
    assert report.numbers["floor_anywhere"] == pytest.approx(100 / 36)


def test_images_without_boxes_are_left_out_and_counted() -> None:
    data = object_set(5, empty=(1,))
    report = evaluate(TinyBackbone(), data, SMALL)
    assert report.details["without_boxes"] == [1]
    assert report.details["notes"] == ["1 of 5 images have no box and were left out"]
    assert report.card["deviations"] == ["image_size = 48 (standard 224)"]
    nothing = ListSet([sample._replace(boxes=None) for sample in data.samples], None)
    with pytest.raises(ValueError, match="none of 5 images has a box"):
        evaluate(TinyBackbone(), nothing, SMALL)


def test_a_folder_without_a_boxes_file_is_told_so_before_anything_is_read(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of 2 images has a box; .* val_boxes.txt"):
        evaluate(TinyBackbone(), ImageFolder(tmp_path), SMALL)
