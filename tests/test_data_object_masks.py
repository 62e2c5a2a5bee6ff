from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitrail.contracts import Sample
from vitrail.data.images import UnreadableImage
from vitrail.data.mask_writer import MaskWriter, remove_other_masks
from vitrail.data.object_masks import (
    CUT,
    PLAIN_ALONE,
    UNREADABLE,
    ObjectMasks,
    ObjectMasksConfig,
    WithObjectMasks,
    is_finished,
)


class Gray:
    """Images of several sizes whose true mask is full of twos."""

    classes = ("one", "other")

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        pixels = np.full((20, 10 + index, 3), index, np.uint8)
        return Sample(Image.fromarray(pixels), index % 2, np.full(pixels.shape[:2], 2, np.uint8), path=f"{index}.png")

    def digest(self) -> str:
        return f"gray {self.count}"


def about(count: int = 4, size: int = 5, **more: Any) -> dict[str, Any]:
    return {"images": count, "size": size, "data": f"gray {count}", "weights": "abc", "high": 0.1} | more


def drawn(count: int = 4, size: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (count, 2, size, size), dtype=np.uint8)


def made(folder: Path, count: int = 4, size: int = 5, **more: Any) -> np.ndarray:
    masks = drawn(count, size)
    with MaskWriter(folder, about(count, size, **more)) as writer:
        for index in writer.todo:
            writer.write(index, *masks[index])
    return masks


@pytest.mark.parametrize("size", [5, 8, 16])
def test_comes_back_as_it_was_written(tmp_path: Path, size: int) -> None:
    masks = made(tmp_path / "a" / "masks", size=size)
    read = ObjectMasks.open(tmp_path / "a" / "masks")
    assert (len(read), read.size) == (4, size)
    for index, (enhanced, plain) in enumerate(masks):
        assert np.array_equal(read[index].enhanced, enhanced)
        assert np.array_equal(read[index].plain, plain)
        assert read[index].plain.dtype == bool
    assert np.array_equal(read[-1].plain, masks[3, 1])
    with pytest.raises(IndexError):
        read[4]
    files = sorted(path.name for path in (tmp_path / "a" / "masks").iterdir())
    assert files == ["masks.npy", "object_masks.json", "table.npy"]


def test_numpy_alone_reads_it_as_the_page_says(tmp_path: Path) -> None:
    masks = made(tmp_path, size=5)
    rows = np.load(tmp_path / "masks.npy", mmap_mode="r")
    assert rows.nbytes == 4 * 2 * 4  # 25 pixels are 4 bytes
    assert np.array_equal(np.unpackbits(rows[3], axis=1)[:, :25].reshape(2, 5, 5), masks[3])


def test_goes_on_with_what_is_missing_whichever_process_wrote(tmp_path: Path) -> None:
    masks = drawn()
    with MaskWriter(tmp_path, about()) as first:
        first.write(2, *masks[2])
        other = pickle.loads(pickle.dumps(first))  # as a process of its own has it
        other.write(0, *masks[0], fell_back=True)
        other.__exit__()
    assert not is_finished(tmp_path)
    with pytest.raises(ValueError, match=r"not finished: 2 of 4 are missing; run the same `vitrail object-masks`"):
        ObjectMasks.open(tmp_path)
    with MaskWriter(tmp_path, about(made_by="another version")) as second:
        assert second.todo == [1, 3]
        second.write(1, *masks[1])
        second.lose(3)
    assert is_finished(tmp_path)
    read = ObjectMasks.open(tmp_path)
    assert [read.status(index) for index in range(4)] == [PLAIN_ALONE, CUT, CUT, UNREADABLE]
    assert read.having(PLAIN_ALONE) == [0]
    with pytest.raises(ValueError, match=r"image 3 has no masks in .*: it could not be read then"):
        read[3]
    assert MaskWriter(tmp_path, about()).todo == [3]  # it may be readable now


def test_a_row_without_its_line_is_made_anew(tmp_path: Path) -> None:
    """Killed between the two, an image is not done."""
    masks = drawn()
    with MaskWriter(tmp_path, about()) as writer:
        writer._put("masks.npy", 1, b"\1" * 8)
        writer.write(0, *masks[0])
    assert MaskWriter(tmp_path, about()).todo == [1, 2, 3]


def test_damaged_rows_are_found_and_made_anew(tmp_path: Path) -> None:
    made(tmp_path)
    rows = np.load(tmp_path / "masks.npy", mmap_mode="r+")
    rows[2, 1, 0] ^= 1
    rows.flush()
    read = ObjectMasks.open(tmp_path)
    assert read[1].plain.shape == (5, 5)
    with pytest.raises(ValueError, match=r"masks of image 2 in .* are damaged; run the same"):
        read[2]
    assert MaskWriter(tmp_path, about()).todo == []  # not looked at where nothing is missing
    assert MaskWriter(tmp_path, about(), verify=True).todo == [2]


@pytest.mark.parametrize("name", ["masks.npy", "table.npy"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    made(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-7])
    with pytest.raises(ValueError, match=rf"{name} cannot be read .*; remove .* and make masks anew"):
        ObjectMasks.open(tmp_path)
    np.save(tmp_path / name, np.zeros(3))
    with pytest.raises(ValueError, match=rf"{name} holds float64 \[3\] and should hold"):
        ObjectMasks.open(tmp_path)
    (tmp_path / "object_masks.json").write_text('{"images": 4}')
    with pytest.raises(ValueError, match=r"object_masks\.json cannot be read"):
        ObjectMasks.open(tmp_path)


def test_masks_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no object masks in .*make some with `vitrail object-masks`"):
        ObjectMasks.open(tmp_path)
    made(tmp_path)
    with pytest.raises(ValueError, match=r"holds other masks: weights 'abc', wanted 'xyz'; high 0\.1, wanted 0\.2;"):
        MaskWriter(tmp_path, about(weights="xyz", high=0.2))
    read = ObjectMasks.open(tmp_path)
    read.check(Gray(4), "abc")
    with pytest.raises(ValueError, match=r"other images \(4, digest gray 4\) than these \(5, digest gray 5\)"):
        read.check(Gray(5))
    with pytest.raises(ValueError, match="a network with the digest abc, and this one has xyz; make them again"):
        read.check(Gray(4), "xyz")


def test_masks_of_another_size_are_not_written(tmp_path: Path) -> None:
    with (
        MaskWriter(tmp_path, about()) as writer,
        pytest.raises(ValueError, match=r"masks are \[4, 5\], and the folder holds 5 x 5"),
    ):
        writer.write(0, np.zeros((4, 5)), np.zeros((4, 5)))


class TestSamples:
    def test_have_the_made_mask_at_the_size_of_the_image(self, tmp_path: Path) -> None:
        masks = made(tmp_path)
        for number, which in enumerate(("enhanced", "plain")):
            data = WithObjectMasks(Gray(4), ObjectMasks.open(tmp_path), which)
            for index in range(4):
                sample = data[index]
                assert sample.mask is not None
                assert sample.mask.dtype == np.uint8
                rows, columns = np.arange(20) * 5 // 20, ((np.arange(10 + index) + 0.5) * 5 / (10 + index)).astype(int)
                assert np.array_equal(sample.mask, masks[index, number][np.ix_(rows, columns)])
                assert sample.label == index % 2
        assert np.array_equal(data[-1].mask, data[3].mask)
        assert (len(data), data.classes, data.has_masks) == (4, ("one", "other"), True)

    def test_the_ground_truth_is_never_shown(self, tmp_path: Path) -> None:
        with MaskWriter(tmp_path, about()) as writer:
            for index in range(3):
                writer.write(index, np.zeros((5, 5)), np.zeros((5, 5)))
            writer.lose(3)
        data = WithObjectMasks(Gray(4), ObjectMasks.open(tmp_path))
        assert not any(data[index].mask.any() for index in range(3))  # type: ignore[union-attr]
        with pytest.raises(UnreadableImage, match=r"3\.png: has no mask in .*: it could not be read then; run"):
            data[3]

    def test_the_digest_is_of_images_masks_and_kind(self, tmp_path: Path) -> None:
        made(tmp_path / "one")
        made(tmp_path / "same", made_by="another version")
        made(tmp_path / "settings", high=0.3)
        with MaskWriter(tmp_path / "masks", about()) as writer:
            for index, mask in enumerate(drawn(seed=1)):
                writer.write(index, *mask)
        digests = {
            name: WithObjectMasks(Gray(4), ObjectMasks.open(tmp_path / name)).digest()
            for name in ("one", "same", "settings", "masks")
        }
        assert digests["one"] == digests["same"]
        plain = WithObjectMasks(Gray(4), ObjectMasks.open(tmp_path / "one"), "plain").digest()
        assert len({*digests.values(), plain}) == 4

    def test_go_to_processes_of_their_own(self, tmp_path: Path) -> None:
        made(tmp_path, count=4, size=64)
        data = WithObjectMasks(Gray(4), ObjectMasks.open(tmp_path))
        kept = data[1].mask
        content = pickle.dumps(data)
        assert len(content) < 3000  # the masks stay on the disk
        assert np.array_equal(pickle.loads(content)[1].mask, kept)

    def test_what_is_refused(self, tmp_path: Path) -> None:
        made(tmp_path)
        masks = ObjectMasks.open(tmp_path)
        with pytest.raises(ValueError, match="are of other images"):
            WithObjectMasks(Gray(5), masks)
        with pytest.raises(ValueError, match=r'which is "enhanced" or "plain", not \'true\''):
            WithObjectMasks(Gray(4), masks, "true")  # type: ignore[arg-type]


def test_settings() -> None:
    config = ObjectMasksConfig().override(["heads=0,2", "high=0.2"])
    assert (config.heads, config.high, config.low, config.threshold) == ((0, 2), 0.2, 0.03, 0.05)
    assert ObjectMasksConfig().override(["heads=null"]).heads is None
    assert json.loads(json.dumps(config.plain()))["size"] == 256
    with pytest.raises(ValueError, match=r"low is 0\.03 and high 0\.01"):
        ObjectMasksConfig().override(["high=0.01"])


def test_other_masks_are_removed_and_the_same_stay(tmp_path: Path) -> None:
    masks = made(tmp_path, made_by="OpenCV 1")
    (tmp_path / "mine.txt").write_text("mine")
    remove_other_masks(tmp_path, about(made_by="OpenCV 2"))
    assert np.array_equal(ObjectMasks.open(tmp_path)[1].plain, masks[1, 1])
    remove_other_masks(tmp_path, about(high=0.2))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    remove_other_masks(tmp_path, about())  # none are there
    assert MaskWriter(tmp_path, about(high=0.2)).todo == [0, 1, 2, 3]
