import json
from pathlib import Path

import pytest
from evaluation_doubles import TinyBackbone, colored_set

from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation import result
from vitrail.evaluation.result import (
    CARD_KEYS,
    Report,
    changes,
    describe_transform,
    make_card,
    write_atomically,
)


def report(**numbers: float) -> Report:
    return Report("knn", numbers or {"top1": 12.5}, {"protocol": "knn"}, {"notes": ["é"], "deep": {"a": [1, None]}})


def test_a_report_survives_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "evaluation" / "knn.json"
    report().save(path)
    assert Report.load(path) == report()
    assert [entry.name for entry in path.parent.iterdir()] == ["knn.json"]


def test_a_failed_save_leaves_the_old_report_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "knn.json"
    report(top1=1.0).save(path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(result.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        report(top1=2.0).save(path)
    assert Report.load(path).numbers == {"top1": 1.0}
    assert len(list(tmp_path.iterdir())) == 1


def test_nan_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        report(top1=float("nan")).save(tmp_path / "x.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"protocol": "knn"}', b"\xff\xfe"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, content)
    with pytest.raises(ValueError, match=r"x\.json is not an evaluation report"):
        Report.load(path)


def test_a_card_has_every_key_and_says_what_is_unknown() -> None:
    data = colored_set(8)
    card = make_card(
        protocol="knn",
        source="somewhere",
        data={"val": data},
        transform=EvalTransformConfig(image_size=16),
        layer="last",
        token="CLS",
        averaging="mean",
        weights="abc",
        config={"k": [1]},
        backbone=TinyBackbone(),
    )
    assert tuple(card) == CARD_KEYS
    assert card["branch"] is None
    assert card["data"]["val"] == {
        "name": "colors0",
        "split": "val",
        "images": 8,
        "classes": 4,
        "digest": data.digest(),
    }
    assert card["versions"]["torch"]
    json.dumps(card)


def test_changes_are_said_in_words() -> None:
    standard = {"epochs": 100, "batch_size": 8, "transform": {"size": 224, "mode": "crop"}}
    actual = {"epochs": 10, "batch_size": 9, "transform": {"size": 48, "mode": "crop"}}
    assert changes(standard, actual, ("batch_size",)) == [
        "epochs = 10 (standard 100)",
        "transform.size = 48 (standard 224)",
    ]
    assert changes(standard, standard) == []


def test_the_transform_in_words() -> None:
    published = describe_transform(EvalTransformConfig())
    assert published["resolution"] == [224, 224]
    assert published["resize"] == "shorter side to 256 px, bicubic"
    assert published["crop"] == "center 224 x 224 px"
    assert describe_transform(EvalTransformConfig(image_size=(32, 48), mode="squash"))["resize"].startswith(
        "squashed to 32 x 48"
    )
    assert "multiples of 16" in describe_transform(EvalTransformConfig(mode="pad"))["crop"]
