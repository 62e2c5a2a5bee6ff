"""Labels on disk: whole shards, what they are of, and draws of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vitrail.data import patch_labels
from vitrail.data.patch_labels import PatchLabels, Share, begin, differing, shard_file, shards, write_shard


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_labels, "SHARD", 4)


def write(folder: Path, number: int, count: int, draws: int = 3) -> None:
    first = torch.arange(number * 4, number * 4 + count).float()
    labels = first[:, None, None] + torch.arange(draws)[:, None] / 10 + torch.tensor([0.0, 0.01])
    write_shard(folder, number, torch.tensor([[[0, 2], [1, 2], [3, 5]]]).expand(count, -1, -1), labels)


def test_what_is_written_is_drawn(tmp_path: Path) -> None:
    assert begin(tmp_path, {"images": 6}) == [0, 1]
    write(tmp_path, 0, 4)
    assert begin(tmp_path, {"images": 6}) == [1]
    with pytest.raises(ValueError, match="are not finished: 1 of 2 shards are missing; run the same"):
        PatchLabels(tmp_path)
    write(tmp_path, 1, 2)
    labels = PatchLabels(tmp_path)
    assert (len(labels), labels.draws) == (6, 3)
    found = labels.draw(torch.tensor([5, 0, 5]), torch.Generator().manual_seed(0))
    assert (found.ids.dtype, found.labels.dtype) == (torch.int64, torch.float32)
    ids = {0: [0, 2], 1: [1, 2], 2: [3, 5]}
    for image, row, values in zip((5, 0, 5), found.ids.tolist(), found.labels.tolist()):
        draw = next(number for number, expected in ids.items() if expected == row)
        assert values == pytest.approx([image + draw / 10, image + draw / 10 + 0.01])


def test_every_draw_comes_up(tmp_path: Path) -> None:
    begin(tmp_path, {"images": 4})
    write(tmp_path, 0, 4)
    found = PatchLabels(tmp_path).draw(torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert {tuple(row) for row in found.ids.tolist()} == {(0, 2), (1, 2), (3, 5)}


def test_other_labels_are_not_written_over(tmp_path: Path) -> None:
    begin(tmp_path, {"images": 4, "hidden": 0.9})
    with pytest.raises(ValueError, match=r"holds other labels: hidden 0\.9, wanted 0\.75; choose another folder"):
        begin(tmp_path, {"images": 4, "hidden": 0.75})
    assert json.loads((tmp_path / "labels.json").read_text())["hidden"] == 0.9


def test_a_shard_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path, {"images": 4})

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(patch_labels.os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            write(tmp_path, 0, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.json"]
    write(tmp_path, 0, 4)
    shard_file(tmp_path, 0).write_bytes(shard_file(tmp_path, 0).read_bytes()[:50])
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors cannot be read .*; remove it and run the same"):
        PatchLabels(tmp_path)


def test_images_without_labels(tmp_path: Path) -> None:
    begin(tmp_path, {"images": 2})
    write_shard(tmp_path, 0, torch.tensor([[[0, 1]], [[-1, -1]]]), torch.zeros(2, 1, 2))
    labels = PatchLabels(tmp_path)
    assert labels.draw(torch.tensor([0])).ids.tolist() == [[0, 1]]
    with pytest.raises(ValueError, match=r"images \[1\] have no labels in .*: they could not be read then"):
        labels.draw(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="are of images 0 to 1, and image 2 was asked for"):
        labels.draw(torch.tensor([2]))


def test_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there are no labels in .*\(labels\.json is missing\); make some with"):
        PatchLabels(tmp_path)


def test_words() -> None:
    assert differing({"a": 1, "b": 2}, {"a": 1}) is None
    assert differing({"a": 1}, {"a": 2, "c": [3]}) == "a 1, wanted 2; c None, wanted [3]"
    assert [shards(number) for number in (1, 4, 5)] == [1, 1, 2]


@pytest.mark.parametrize(("of", "world"), [(1, 1), (3, 1), (1, 4), (2, 3)])
def test_shares_take_every_shard_once(of: int, world: int) -> None:
    parts = [Share.parse(f"{number}/{of}").split(rank, world) for number in range(1, of + 1) for rank in range(world)]
    for number in range(20):
        assert sum(part.takes(number) for part in parts) == 1
    sizes = [sum(part.takes(number) for number in range(20)) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_a_share_without_a_shard_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_labels, "SHARD", 512)
    for text, images, words in (
        (
            "3/4",
            1000,
            "1,000 images are 2 shards of 512 images, which 1/4 to 2/4 do; use --shard I/2 at most, or leave",
        ),
        ("2/2", 8, "8 images are 1 shard of 512 images, which 1/2 does; leave --shard out"),
        ("2/2", 512, "512 images are 1 shard of 512 images"),
    ):
        with pytest.raises(ValueError, match=f"--shard {text} has nothing to do: {words}"):
            Share.parse(text).check(images)
    for text, images in (("2/4", 1000), ("2/2", 513), ("1/2", 8), ("1/1", 0)):
        Share.parse(text).check(images)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/2", "1/", "-1/2", "1/0"])
def test_other_words_are_no_share(text: str) -> None:
    with pytest.raises(ValueError, match=f"the shard '{text}' is not I/N with I from 1 to N"):
        Share.parse(text)
