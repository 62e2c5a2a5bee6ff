"""Trees of ImageNet-C: what is there, what is not, in which order."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from corrupted_trees import WNIDS, imagenet_c
from PIL import Image

from vitrail.contracts import ImageSet
from vitrail.data import inspect_folder, ordered_batches
from vitrail.data.corrupted import CLEAN, Corrupted
from vitrail.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from vitrail.data.imagenet_c import ImageNetC, is_imagenet_c
from vitrail.data.synthetic import SyntheticScenes
from vitrail.data.transforms import EvalTransform, EvalTransformConfig


def test_all_images_in_the_order_of_the_tables(tmp_path: Path) -> None:
    data: ImageSet = ImageNetC(imagenet_c(tmp_path, images=2))
    assert isinstance(data, ImageNetC)
    assert len(data) == 75 * 3 * 2
    assert data.classes == WNIDS
    assert data.variants == tuple((name, severity) for name in CORRUPTIONS for severity in SEVERITIES)
    assert data.missing == () == data.notes
    assert "gaussian_noise/1/n01440764" in data.path(0).replace("\\", "/")
    assert "jpeg_compression/5/n01484850" in data.path(-1).replace("\\", "/")
    found = data.variant_of(np.arange(len(data)))
    assert (np.bincount(found) == 6).all()
    assert (np.diff(found) >= 0).all()
    assert [data[index].label for index in range(6)] == [0, 0, 1, 1, 2, 2]


def test_folders_of_groups_and_extra(tmp_path: Path) -> None:
    flat, nested = ImageNetC(imagenet_c(tmp_path / "flat")), ImageNetC(imagenet_c(tmp_path / "nested", nested=True))
    assert [flat.path(i)[-40:] for i in range(9)] == [nested.path(i)[-40:] for i in range(9)]
    assert flat.variants == nested.variants
    assert "speckle_noise: left out" in nested.notes[0]
    assert is_imagenet_c(tmp_path / "nested")
    assert not is_imagenet_c(tmp_path)


def test_what_is_missing_is_listed(tmp_path: Path) -> None:
    data = ImageNetC(imagenet_c(tmp_path, leave_out={("fog", 3), *(("snow", severity) for severity in SEVERITIES)}))
    assert data.missing == (*(("snow", severity) for severity in SEVERITIES), ("fog", 3))
    assert len(data) == 69 * 3
    what = "\n".join(finding.what for finding in inspect_folder(tmp_path))
    assert "6 of 75 folders are missing: snow 1 to 5, fog 3" in what
    assert "14 of 15 corruptions" in what


def test_empty_folders_are_missing_and_told_with_all_that_is(tmp_path: Path) -> None:
    data = imagenet_c(tmp_path, leave_out={("fog", 3), ("fog", 5), ("pixelate", 1), ("snow", 2)})
    (data / "fog" / "3").mkdir()  # there and empty
    (data / "pixelate" / "1" / WNIDS[0]).mkdir(parents=True)  # with class folders that are empty
    (data / "pixelate" / "1" / WNIDS[0] / ".hidden.png").write_bytes(b"")
    tree = ImageNetC(data)
    assert tree.missing == (("snow", 2), ("fog", 3), ("fog", 5), ("pixelate", 1))
    assert tree.empty == (("fog", 3), ("pixelate", 1))
    assert len(tree) == 71 * 3
    what = "\n".join(finding.what for finding in inspect_folder(data))
    assert "missing: snow 2, fog 3 and 5, pixelate 1; of these are there and empty: fog 3, pixelate 1" in what


def test_folders_that_are_no_corruption_are_named(tmp_path: Path) -> None:
    data = imagenet_c(tmp_path / "tree")
    (data / "fog").rename(data / "fogg")
    tree = ImageNetC(data)
    assert tree.misspelt == {"fogg": "fog"}
    assert len(tree.missing) == 5
    found = [each for each in inspect_folder(data) if each.level == "warning"]
    assert "ImageNet-C: fogg is no corruption, did you mean fog?" in [each.what for each in found]
    alone = tmp_path / "alone"
    alone.mkdir()
    (data / "fogg").rename(alone / "fogg")
    assert is_imagenet_c(alone)
    with pytest.raises(ValueError, match=r"no folder CORRUPTION/SEVERITY.*fogg is no corruption, did you mean fog\?"):
        ImageNetC(alone)
    (alone / "fogg" / "3").rename(alone / "fogg" / "three")
    assert not is_imagenet_c(alone)  # it may as well be a class


def test_some_classes(tmp_path: Path) -> None:
    data = ImageNetC(imagenet_c(tmp_path))
    part = data.of_classes(("n01484850", "n99999999"))
    assert part.classes == ("n01484850",)
    assert len(part) == 75
    assert {part[index].label for index in range(0, 75, 10)} == {0}
    assert part.digest() != data.digest() == ImageNetC(tmp_path).digest()
    assert len(data) == 75 * 3  # the whole stays whole
    with pytest.raises(ValueError, match=r"no images of these classes: it has n01440764"):
        data.of_classes(("n99999999",))


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder CORRUPTION/SEVERITY"):
        ImageNetC(tmp_path)
    (tmp_path / "spatter" / "1").mkdir(parents=True)
    with pytest.raises(ValueError, match="none of the 15 corruptions that are measured, only spatter"):
        ImageNetC(tmp_path)
    (tmp_path / "fog" / "1").mkdir(parents=True)
    (tmp_path / "snow" / "2" / "n01440764").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no image in any folder .*empty are snow 2, fog 1; unpack"):
        ImageNetC(tmp_path)
    for name in ("snow/2/n01440764/1.png", "fog/1/1.png", "frost/5/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"images but no class folders in frost 5, fog 1; ImageNet-C has"):
        ImageNetC(tmp_path)
    assert any(finding.level == "error" for finding in inspect_folder(tmp_path))


def scenes(count: int = 3) -> Corrupted:
    transform = EvalTransform(EvalTransformConfig(image_size=32))
    return Corrupted(SyntheticScenes(count, image_size=40), transform, ("shot_noise", "fog"), (2, 4), seed=3)


def test_every_image_comes_in_every_variant() -> None:
    data: ImageSet = scenes()
    assert isinstance(data, Corrupted)
    assert data.variants == (CLEAN, ("shot_noise", 2), ("shot_noise", 4), ("fog", 2), ("fog", 4))
    assert len(data) == 15
    first = data.transform.framed(data.data[1].image)
    assert np.array_equal(np.asarray(data[5].image), first)
    assert np.array_equal(np.asarray(data[7].image), corrupt(first, "shot_noise", 4, seed=3, index=1))
    assert data[5].label == data[9].label == data.data[1].label
    assert data.variant_of(np.array([0, 4, 5, 14])).tolist() == [0, 4, 0, 4]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    """Nor do they wait for OpenCV's threads, which a forked process does not have."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 5)  # starts them here
    transform = EvalTransform(EvalTransformConfig(image_size=32))
    one, other = (list(ordered_batches(scenes(), transform, 4, count)) for count in (0, workers))
    cv2.setNumThreads(before)
    assert all((a.images == b.images).all() for a, b in zip(one, other, strict=True))


def test_images_of_the_frame_s_size_are_not_resized_again() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    whole = EvalTransform(EvalTransformConfig(image_size=32, keep=1.0))
    assert np.array_equal(whole.framed(Image.fromarray(pixels)), pixels)
    wider = np.pad(pixels, ((0, 0), (4, 4), (0, 0)))  # center crop alone
    assert np.array_equal(whole.framed(Image.fromarray(wider)), pixels)
    assert not np.array_equal(EvalTransform(EvalTransformConfig(image_size=32, keep=0.875)).framed(pixels), pixels)
