import doctest
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_doubles import TinyBackbone
from PIL import Image
from tiny_vit import vit_file
from torch import Tensor
from video_trees import write_sequence

from vitrail.contracts import Tokens, Video
from vitrail.data import SyntheticScenes
from vitrail.data.davis import Davis
from vitrail.data.scene_videos import SceneVideos
from vitrail.evaluation import video as module
from vitrail.evaluation.video import VideoConfig, evaluate, follow, frame_size, mean_curve
from vitrail.metrics.video import video_scores
from vitrail.recipes.measure import measure
from vitrail.recipes.sources import open_data, open_videos, tree_of

SMALL = VideoConfig(image_size=48)


class Colors(TinyBackbone):
    """A patch's feature is its mean color, less gray; calls are counted."""

    def forward(self, images: Tensor, **how: object) -> Tokens:  # type: ignore[override]
        tokens = TinyBackbone.forward(self, images)
        cells = torch.nn.functional.avg_pool2d(images, 8)
        return tokens._replace(patches=torch.cat([cells, torch.full_like(cells[:, :1], 0.05)], 1).flatten(2).mT)


class Videos:
    """Videos in a list."""

    unit, classes = "sequences", None

    def __init__(self, videos: Sequence[Video], broken: int | None = None) -> None:
        self.videos, self.broken = videos, broken
        self.lengths: Sequence[int] = [len(video) for video in videos]

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Video:
        if index == self.broken:
            raise RuntimeError("the power went off")
        return self.videos[index]

    def digest(self) -> str:
        return "videos"


def wide(frames: int = 6, step: int = 8) -> np.ndarray:
    """Two squares of 24 pixels on frames of 96 x 160."""
    ids = np.zeros((frames, 96, 160), np.uint8)
    for t in range(frames):
        ids[t, 16:40, 16 + step * t : 40 + step * t] = 1
        ids[t, 56:80, 96 - step * t : 120 - step * t] = 2
    return ids


def tree(root: Path, step: int = 8) -> Davis:
    for name in ("walk", "boat"):
        write_sequence(root, name, wide(step=step))
    return Davis(root)


def test_objects_in_colors_of_their_own_are_followed(tmp_path: Path) -> None:
    report = evaluate(Colors(), tree(tmp_path), VideoConfig(image_size=96))
    assert report.numbers["video_j"] > 80
    assert report.numbers["video_j"] > report.numbers["floor_first_mask_j"] + 30
    assert report.numbers["video_jf"] == pytest.approx((report.numbers["video_j"] + report.numbers["video_f"]) / 2)
    assert report.numbers["video_j_recall"] == 100
    first = report.details["per_sequence"][0]
    assert (first["name"], first["frames"], first["size"]) == ("boat", 6, [96, 160])
    assert [each["id"] for each in first["objects"]] == [1, 2]
    assert len(first["objects"][0]["j"]) == 4
    assert len(report.details["curve"]["j"]) == len(report.details["curve"]["share"])
    assert report.card["data"]["val"]["unit"] == "sequences"
    assert "96 px on the short side, the long one rounded down to a multiple of 8 px" in report.card["resolution"]
    assert "val: 2 sequences" in "\n".join(report.words())


def test_numbers_are_the_mean_over_objects(tmp_path: Path) -> None:
    data, backbone = tree(tmp_path), TinyBackbone().eval()
    config = VideoConfig(image_size=48)
    report = evaluate(backbone, data, config)
    settings = config.settings((8, 8))
    j, f = [], []
    with torch.no_grad():
        for number in range(2):
            video = data[number]
            transform = module._transform(backbone, config, frame_size((96, 160), 48, 8))
            found = follow(backbone, video, settings, transform)
            truth = np.stack([video.mask(t) for t in range(6)])
            assert np.array_equal(found[0], truth[0])
            scores = video_scores(torch.from_numpy(truth[1:-1]), torch.from_numpy(found[1:-1]), 2)
            j += scores.j.mean(0).tolist()
            f += scores.f.mean(0).tolist()
    assert report.numbers["video_j"] == pytest.approx(100 * np.mean(j))
    assert report.numbers["video_f"] == pytest.approx(100 * np.mean(f))


def test_nothing_moves(tmp_path: Path) -> None:
    report = evaluate(Colors(), tree(tmp_path, step=0), VideoConfig(image_size=96))
    assert report.numbers["floor_first_mask"] == 100
    assert report.numbers["video_j"] > 85  # of squares of 3 x 3 patches, whose corners become round


def test_context_is_the_first_frame_and_the_last_ones(tmp_path: Path) -> None:
    """With features that are the same everywhere, a patch takes the labels of the first source alone."""
    seen: list[int] = []
    real = module.propagate

    def watched(target: Tensor, sources: Tensor, labels: Tensor, **how: object) -> Tensor:
        seen.append(len(sources))
        return real(target, sources, labels, **how)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "propagate", watched)
        evaluate(Colors(), Videos([tree(tmp_path)[0]]), VideoConfig(image_size=96, context=2))  # type: ignore[arg-type]
    assert seen == [1, 2, 3, 3, 3]


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    videos = [tree(tmp_path / "tree")[index] for index in (0, 1)]
    backbone, cache = Colors(), tmp_path / "cache"
    with pytest.raises(RuntimeError, match="power"):
        evaluate(backbone, Videos(videos, broken=1), SMALL, cache=cache)
    before = backbone.calls
    report = evaluate(backbone, Videos(videos), SMALL, cache=cache)
    assert backbone.calls == before + 6  # the second sequence alone
    again = evaluate(backbone, Videos(videos), SMALL, cache=cache)
    assert backbone.calls == before + 6
    assert again.numbers == report.numbers == evaluate(backbone, Videos(videos), SMALL).numbers
    files = sorted(cache.glob("video-*/*.json"))
    assert [path.name for path in files] == ["00000.json", "00001.json"]
    files[0].write_text(files[0].read_text()[:50])
    with pytest.warns(UserWarning, match="the cached sequence in .* is broken"):
        assert evaluate(backbone, Videos(videos), SMALL, cache=cache).numbers == report.numbers
    evaluate(backbone, Videos(videos), SMALL.override(["radius=1"]), cache=cache)
    assert len(list(cache.glob("video-*"))) == 2


def test_masks_are_written_for_the_official_tool(tmp_path: Path) -> None:
    data, out = tree(tmp_path / "tree"), tmp_path / "masks"
    evaluate(Colors(), data, VideoConfig(image_size=96, masks=str(out)))
    assert sorted(path.name for path in (out / "walk").iterdir()) == [f"{t:05d}.png" for t in range(6)]
    with Image.open(out / "walk" / "00000.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
        assert np.array_equal(np.array(image), wide()[0])
    (tmp_path / "tree" / "Annotations").rename(tmp_path / "truth")
    out.rename(tmp_path / "tree" / "480p")
    (tmp_path / "tree" / "Annotations").mkdir()
    (tmp_path / "tree" / "480p").rename(tmp_path / "tree" / "Annotations" / "480p")
    assert Davis(tmp_path / "tree")[0].objects == (1, 2)


def test_what_cannot_be_read_is_left_out_and_said(tmp_path: Path) -> None:
    data = tree(tmp_path)
    (tmp_path / "JPEGImages/480p/boat/00002.jpg").write_bytes(b"no image")
    report = evaluate(Colors(), data, SMALL)
    assert [row["name"] for row in report.details["per_sequence"]] == ["walk"]
    assert "a sequence was left out" in report.details["notes"][0]
    (tmp_path / "JPEGImages/480p/walk/00002.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="none of 2 sequences could be read; the first trouble: "):
        evaluate(Colors(), data, SMALL)


def test_errors_name_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no sequence"):
        evaluate(Colors(), Videos([]), SMALL)  # type: ignore[arg-type]
    write_sequence(tmp_path, "short", wide(frames=2))
    with pytest.raises(ValueError, match="short has 2 frames; the first and the last do not count"):
        evaluate(Colors(), Davis(tmp_path), SMALL)
    with pytest.raises(ValueError, match="50 is not a multiple of the patch size 8"):
        evaluate(Colors(), Davis(tmp_path), VideoConfig(image_size=50))
    broken = TinyBackbone()
    broken.norm.weight.data.fill_(float("nan"))
    write_sequence(tmp_path / "other", "walk", wide())
    with pytest.raises(ValueError, match="walk, frame 0: patches are not finite"):
        evaluate(broken, Davis(tmp_path / "other"), SMALL)


def test_presets() -> None:
    backbone = TinyBackbone()
    transform = module._transform(backbone, VideoConfig(preset="dino"), (480, 832))
    assert transform.config.std == (0.228, 0.224, 0.225)
    assert module._transform(backbone, VideoConfig(), (480, 832)).config.std == (0.5, 0.5, 0.5)
    assert VideoConfig().settings((16, 16)) == (480, 64, 7, 12, 0.1, 5)
    assert VideoConfig(image_size=224).settings((16, 16))[:2] == (224, 16)
    assert VideoConfig(image_size=(224, 448), multiple=32).settings((16, 16))[:2] == ((224, 448), 32)
    assert frame_size((854, 480), 480, 64) == (832, 480)
    assert frame_size((100, 101), 480, 64) == (480, 480)
    assert doctest.testmod(module).failed == 0


def test_mean_curve() -> None:
    line = {"id": 1, "f": [100.0, 0.0], "floor_j": [50.0], "floor_f": [0.0, 50.0, 100.0]}
    curve = mean_curve([{"objects": [line | {"j": [0.0, 100.0]}, line | {"j": [100.0, 100.0]}]}])
    assert curve["j"] == pytest.approx(np.linspace(50, 100, 11).tolist())
    assert curve["floor_j"] == [50.0] * 11
    assert curve["floor_f"][5] == 50


def test_trees_and_scenes_by_their_names(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    assert tree_of(tmp_path / "tree") == "DAVIS"
    assert len(open_videos(str(tmp_path / "tree"))) == 2
    scenes = open_videos("scenes", None, ["count=4", "frames=5", "image_size=32"])
    assert (len(scenes), len(scenes[0]), scenes[0].frame(0).size) == (4, 5, (32, 32))
    with pytest.raises(ValueError, match="is a tree of videos; measure with `vitrail evaluate video`"):
        open_data(str(tmp_path / "tree"))
    with pytest.raises(ValueError, match=r"data\.split is 'test'"):
        open_videos("scenes", None, ["split=test"])


def test_by_the_command(tmp_path: Path) -> None:
    report, path = measure(
        "video", vit_file(tmp_path), "scenes", ["data.count=2", "data.frames=4"], device="cpu", out=tmp_path / "out"
    )
    assert json.loads(path.read_text())["numbers"] == report.numbers
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.size == (640, 380)
    assert report.card["deviations"] == ["image_size = 32 (standard 480)", "multiple = 8 (standard 64)"]
    assert [row["name"] for row in report.details["per_sequence"]] == ["scene-00000", "scene-00001"]


def test_pictures_beside_masks(tmp_path: Path) -> None:
    settings = ["data.count=2", "data.frames=5", f"masks={tmp_path / 'masks'}"]
    measure("video", vit_file(tmp_path), "scenes", settings, device="cpu", out=tmp_path / "out")
    with Image.open(tmp_path / "masks" / "scene-00001.png") as picture:
        assert picture.width > 640
        assert picture.height > 2 * 240 + 380


def test_scenes_that_move_are_followed_by_color() -> None:
    data = SceneVideos(SyntheticScenes(4, image_size=64, split="val"), 6)
    report = evaluate(Colors(patch=8), data, VideoConfig(image_size=64))
    assert report.numbers["video_j"] > 20


def test_the_mini_set(real_data: Callable[[str], Path]) -> None:
    whole = Davis(real_data("davis-mini"))
    camel = whole.video("camel")
    short = [camel.frames[:6], camel.masks[:6]]
    video = type(camel)("camel", *short)
    report = evaluate(Colors(), Videos([video]), VideoConfig(image_size=96))  # type: ignore[list-item]
    assert report.details["per_sequence"][0]["size"] == [96, 168]
    assert report.numbers["video_j"] > 40
