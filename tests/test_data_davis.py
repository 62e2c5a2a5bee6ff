from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_trees import moving, write_list, write_sequence

from vitrail.contracts import Video, VideoSet
from vitrail.data import SyntheticScenes, UnreadableImage
from vitrail.data.davis import Davis, is_davis
from vitrail.data.scene_videos import SceneVideos


def tree(root: Path, **how: str) -> Path:
    for name in ("walk", "boat"):
        write_sequence(root, name, moving(), **how)
    return root


def test_2017(tmp_path: Path) -> None:
    write_list(tree(tmp_path), ["walk", "boat"])
    data = Davis(tmp_path)
    assert isinstance(data, VideoSet)
    assert data.names == ("walk", "boat")
    video = data[1]
    assert isinstance(video, Video)
    assert (video.name, len(video), video.objects) == ("boat", 5, (1, 2))
    assert video.frame(3).size == (40, 24)
    assert np.array_equal(np.stack([video.mask(t) for t in range(5)]), moving())
    assert data[-1].name == "boat"
    assert is_davis(tmp_path)
    (tmp_path / "above").mkdir()
    (tmp_path / "JPEGImages").rename(tmp_path / "above" / "JPEGImages")
    assert not is_davis(tmp_path)


def test_2016(tmp_path: Path) -> None:
    tree(tmp_path, kind="binary")
    lines = [f"/JPEGImages/480p/boat/{t:05d}.jpg /Annotations/480p/boat/{t:05d}.png" for t in range(5)]
    write_list(tmp_path, lines, folder="ImageSets/480p")
    data = Davis(tmp_path)
    assert data.names == ("boat",)
    assert data[0].objects == (1,)
    assert np.array_equal(data[0].mask(2), (moving()[2] > 0).astype(np.uint8))


def test_other_places(tmp_path: Path) -> None:
    below = tmp_path / "DAVIS"
    tree(below, resolution="240p", kind="gray")
    data = Davis(tmp_path)  # no list: all of it
    assert (data.root, data.resolution, data.names) == (below, "240p", ("boat", "walk"))
    assert np.array_equal(data.video("walk").mask(0), moving()[0])
    with pytest.raises(ValueError, match="no frames of '480p'; there are 240p"):
        Davis(tmp_path, resolution="480p")
    write_list(below, ["walk"], split="mini", folder=".")
    assert Davis(tmp_path, "mini").names == ("walk",)


def test_void_and_late_objects_are_none(tmp_path: Path) -> None:
    ids = moving()
    ids[:, 20:, 30:] = 255
    ids[2:, 0, 30:] = 3
    write_sequence(tmp_path, "walk", ids)
    video = Davis(tmp_path)[0]
    assert video.objects == (1, 2)
    assert np.array_equal(np.stack([video.mask(t) for t in range(5)]), np.where(ids > 2, 0, ids))


def test_missing_files_are_listed(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "JPEGImages/480p/walk/00001.jpg").unlink()
    (tmp_path / "Annotations/480p/boat/00004.png").unlink()
    with pytest.raises(ValueError, match=r"2 frames or masks .*: mask boat/00004\.png, frame walk/00001\.jpg; put"):
        Davis(tmp_path)
    write_list(tmp_path, ["walk", "car", "train"])
    with pytest.raises(ValueError, match=r"2 sequences of the split 'val' are not in .*: car, train; put them there"):
        Davis(tmp_path)
    with pytest.raises(ValueError, match=r"no list train\.txt in .*; there are val"):
        Davis(tmp_path, "train")
    with pytest.raises(ValueError, match="does not have the DAVIS layout"):
        Davis(tmp_path / "JPEGImages")
    with pytest.raises(ValueError, match="no frames of '1080p'; there are 480p"):
        Davis(tmp_path, resolution="1080p")


def test_numbers_that_lack_in_between_are_listed(tmp_path: Path) -> None:
    def left(name: str, numbers: tuple[str, ...]) -> None:
        write_sequence(tmp_path, name, moving(len(numbers)))
        for kind, end in (("JPEGImages", "jpg"), ("Annotations", "png")):
            folder = tmp_path / kind / "480p" / name
            for t, number in reversed([*enumerate(numbers)]):
                (folder / f"{t:05d}.{end}").rename(folder / f"{number}.{end}")

    left("fifth", ("00000", "00005", "00010", "00015"))
    left("named", ("00000", "a", "b"))
    left("times", ("100000", "100007", "300000"))
    assert list(Davis(tmp_path).lengths) == [4, 3, 3]
    left("walk", ("00000", "00002", "00003", "00005"))
    with pytest.raises(ValueError, match=r"2 frames or masks .*: frame and mask walk/00001, frame and mask walk/00004"):
        Davis(tmp_path)


def test_strange_masks_and_frames(tmp_path: Path) -> None:
    tree(tmp_path)
    masks = tmp_path / "Annotations/480p/walk"
    video = Davis(tmp_path).video("walk")
    Image.fromarray(moving()[1]).save(masks / "00001.png")
    with pytest.raises(UnreadableImage, match="a gray mask in a sequence whose first one is palette"):
        video.mask(1)
    Image.open(masks / "00002.png").resize((20, 12)).save(masks / "00002.png")
    with pytest.raises(UnreadableImage, match="a mask of 20 x 12 px in a sequence of 40 x 24 px"):
        video.mask(2)
    Image.new("RGB", (40, 20)).save(tmp_path / "JPEGImages/480p/walk/00003.jpg")
    with pytest.raises(UnreadableImage, match="a frame of 40 x 20 px in a sequence of 40 x 24 px"):
        video.frame(3)
    Image.open(masks / "00000.png").convert("RGB").save(masks / "00000.png")
    with pytest.raises(UnreadableImage, match="palette or gray, this is RGB"):
        Davis(tmp_path).video("walk")
    Image.fromarray(moving()[0] * 38).save(masks / "00000.png")
    with pytest.raises(ValueError, match=r"gray mask with values \[38, 76\], which look like colors"):
        Davis(tmp_path).video("walk")
    Image.fromarray(moving()[0] * 0).save(masks / "00000.png")
    with pytest.raises(ValueError, match="nothing to follow in the sequence 'walk'; give a first mask"):
        Davis(tmp_path).video("walk")
    with pytest.raises(ValueError, match="no sequence 'cat' in the split 'val'; there are boat, walk"):
        Davis(tmp_path).video("cat")


def test_digest_follows_the_content(tmp_path: Path) -> None:
    tree(tmp_path)
    before = Davis(tmp_path).digest()
    assert before == Davis(tmp_path).digest()
    path = tmp_path / "Annotations/480p/walk/00003.png"
    path.write_bytes(path.read_bytes() + b" ")
    assert Davis(tmp_path).digest() != before


def test_the_mini_set(real_data: Callable[[str], Path]) -> None:
    data = Davis(real_data("davis-mini"))
    assert {"blackswan", "bmx-trees", "camel"} <= set(data.names)
    video = data.video("camel")
    assert video.objects == (1,)
    assert video.mask(0).shape == (240, 427)
    assert 0.02 < video.mask(0).mean() < 0.6
    assert video.frame(0).size == (427, 240)


def test_scenes_as_videos() -> None:
    scenes = SyntheticScenes(3, split="val")
    data = SceneVideos(scenes, 5)
    assert isinstance(data, VideoSet)
    video = data[2]
    assert isinstance(video, Video)
    assert (len(data), len(video), video.objects) == (3, 5, (1,))
    mask = scenes[2].mask
    assert mask is not None
    assert np.array_equal(video.mask(0), (mask > 0).astype(np.uint8))
    assert not np.array_equal(video.mask(0), video.mask(4))
    assert data.digest() != SceneVideos(scenes, 6).digest()
    with pytest.raises(ValueError, match="2 frames: the first and the last"):
        SceneVideos(scenes, 2)
