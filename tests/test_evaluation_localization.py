"""The localization protocol: closed forms, each convention against a plain loop, thresholds, and bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet, object_set
from PIL import Image
from torch import Tensor

from vitrail.contracts import Localizer, Located, Sample
from vitrail.data import Cub, Wsol
from vitrail.evaluation.heat_maps import HeatMaps, UnusableMap, check_shape
from vitrail.evaluation.localization import PRESETS, LocalizationConfig, evaluate
from vitrail.evaluation.located import enlarged, level_of, threshold_words
from vitrail.recipes.sources import Part

FIXED = LocalizationConfig(threshold=0.5)
SWEPT = LocalizationConfig(threshold="test_set")


class Bright:
    """The map is the image's brightness; logits, where there are any, come from a function of brightness and labels."""

    def __init__(
        self,
        size: int = 48,
        classes: tuple[str, ...] | None = None,
        logits: Callable[[Tensor, Tensor | None], Tensor] | None = None,
        change: Callable[[Tensor], Tensor] = lambda maps: maps,
    ) -> None:
        self.mean = self.std = (0.5, 0.5, 0.5)
        self.image_size, self.classes, self.logits, self.change = (size, size), classes, logits, change
        self.labels: list[Tensor | None] = []

    def __call__(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        self.labels.append(labels)
        maps = self.change(images.mean(1))
        return Located(maps, None if self.logits is None else self.logits(maps, labels))


def rectangle(
    box: tuple[int, int, int, int],
    size: tuple[int, int] = (48, 48),
    value: int = 255,
    truth: Any = None,
    label: int | None = 0,
    path: str = "",
) -> Sample:
    """A filled rectangle on black; its truth is the rectangle itself."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = value
    boxes = np.array([box] if truth is None else truth, np.float32).reshape(-1, 4)
    return Sample(Image.fromarray(pixels), label, None, boxes, path)


def numbers_of(source: Localizer, data: ListSet, **settings: Any) -> dict[str, float]:
    return evaluate(source, data, LocalizationConfig(**{"threshold": 0.5, **settings})).numbers


def test_perfect_maps_give_100_percent() -> None:
    data, held_out = object_set(12), object_set(9, seed=1)
    perfect = Bright(logits=lambda _, labels: torch.eye(8)[labels])
    assert isinstance(perfect, Localizer)
    report = evaluate(perfect, data, held_out=held_out)
    found = {name: value for name, value in report.numbers.items() if not name.startswith("floor")}
    assert set(found) == {
        *("gt_known_loc", "top1_loc", "top5_loc", "top1_cls", "top5_cls", "max_box_acc", "pxap"),
        *("max_box_acc_v2", "max_box_acc_v2_30", "max_box_acc_v2_50", "max_box_acc_v2_70"),
    }
    assert set(found.values()) == {100.0}
    assert report.numbers["floor_whole_image"] == 0
    for image, sample in zip(report.details["per_image"], data.samples, strict=True):
        assert sample.boxes is not None
        assert [image["box"]] == image["truth"] == sample.boxes.tolist()
        assert (image["iou"], image["hit"], image["top1"]) == (1, True, True)


def test_a_filled_rectangle_returns_its_rectangle_at_every_threshold() -> None:
    data = ListSet([rectangle((50, 60, 100, 160), (224, 224))], None)
    report = evaluate(Bright(224), data, SWEPT)
    assert report.details["per_image"][0]["box"] == [50, 60, 100, 160]
    assert all(set(curve) == {100.0} for curve in report.details["curves"]["largest"].values())
    assert len(report.details["thresholds"]) == 100


def test_boxes_come_back_in_pixels_of_the_image() -> None:
    data = ListSet([rectangle((20, 16, 60, 80), (96, 192))], None)
    image = evaluate(Bright(), data, FIXED).details["per_image"][0]
    assert image["box"] == pytest.approx([20, 16, 60, 80], abs=4)
    assert image["truth"] == [[20, 16, 60, 80]]


def noisy(seed: int = 0, count: int = 40, classes: int = 10) -> tuple[ListSet, Bright]:
    """Rectangles whose maps have noise, and logits that are right for some."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        x, y, width, height = rng.integers(2, 20, 4)
        samples.append(rectangle((x, y, x + width + 4, y + height + 4), label=number % classes))
    generator = torch.Generator().manual_seed(seed)

    def noise(maps: Tensor) -> Tensor:
        small = torch.rand(len(maps), 1, 8, 8, generator=generator)
        return maps + 3.0 * torch.nn.functional.interpolate(small, maps.shape[-2:], mode="bilinear")[:, 0]

    def logits(maps: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        return torch.eye(classes)[labels] + torch.randn(len(maps), classes, generator=generator)

    return ListSet(samples, tuple(f"c{number}" for number in range(classes)), name=f"noisy{seed}"), Bright(
        logits=logits, change=noise
    )


def test_order_of_the_numbers() -> None:
    data, localizer = noisy()
    numbers = evaluate(localizer, data, SWEPT).numbers
    assert 0 < numbers["top1_loc"] <= numbers["top5_loc"] <= numbers["gt_known_loc"] < 100
    assert numbers["top1_loc"] <= numbers["top1_cls"]
    apart = [numbers[f"max_box_acc_v2_{iou}"] for iou in (30, 50, 70)]
    assert apart == sorted(apart, reverse=True)
    assert apart[0] > apart[2]
    assert numbers["max_box_acc_v2"] == pytest.approx(sum(apart) / 3)
    assert numbers["max_box_acc"] <= apart[1]  # all contours, not the largest alone


def test_shuffled_labels_leave_a_tenth_of_gt_known() -> None:
    data, _ = noisy(count=600)
    shuffled = np.random.default_rng(1).permutation(600) % 10
    data.samples = [sample._replace(label=int(label)) for sample, label in zip(data.samples, shuffled)]
    order = iter(range(600))
    guess = Bright(logits=lambda maps, _: torch.eye(10)[[next(order) % 10 for _ in maps]])
    numbers = evaluate(guess, data, FIXED).numbers
    assert numbers["gt_known_loc"] == 100
    assert numbers["top1_loc"] == pytest.approx(10, abs=4)


def plain_loop(
    maps: list[np.ndarray], truths: list[np.ndarray], thresholds: list[int], wider: int, whole: bool, holes: bool
) -> tuple[float, float]:
    """MaxBoxAcc and MaxBoxAccV2 with OpenCV, image by image and threshold by threshold."""
    right = np.zeros((4, len(thresholds)))
    for map_, truth in zip(maps, truths, strict=True):
        for t, threshold in enumerate(thresholds):
            _, mask = cv2.threshold(map_, threshold, 255, cv2.THRESH_BINARY)
            contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
            if not contours:
                continue
            counted = [each for each, place in zip(contours, tree[0]) if holes or place[3] < 0]  # no parent: no hole
            fits = []
            for contour in (max(contours, key=cv2.contourArea), *counted):
                x, y, width, height = cv2.boundingRect(contour)
                right_end, lower_end = x + width, y + height
                if whole:
                    right_end, lower_end = min(right_end, map_.shape[1] - 1), min(lower_end, map_.shape[0] - 1)
                best = 0.0
                for x0, y0, x1, y1 in truth:
                    both = max(0, min(right_end, x1) - max(x, x0) + wider) * max(
                        0, min(lower_end, y1) - max(y, y0) + wider
                    )
                    own = (right_end - x + wider) * (lower_end - y + wider)
                    best = max(best, both / (own + (x1 - x0 + wider) * (y1 - y0 + wider) - both))
                fits.append(best)
            right[0, t] += fits[0] >= 0.5
            for row, iou in enumerate((0.3, 0.5, 0.7), start=1):
                right[row, t] += max(fits[1:]) >= iou
    most = 100 * right.max(axis=1) / len(maps)
    return most[0], most[1:].mean()


@pytest.mark.parametrize(
    ("preset", "enlarge", "truths", "wider", "whole", "holes"),
    [
        ("default", "bilinear", 2, 0, False, False),
        ("wsolevaluation", "bicubic", 2, 1, True, True),
        ("locloc", "bilinear", 1, 0, False, False),
        ("ppd", "bilinear", 2, 1, False, False),
    ],
)
def test_conventions_equal_a_plain_loop_with_opencv(
    preset: str, enlarge: str, truths: int, wider: int, whole: bool, holes: bool
) -> None:
    rng = np.random.default_rng(3)
    samples, maps = [], list[Tensor]()
    for _ in range(12):
        map_ = cv2.resize(rng.random((6, 6)).astype(np.float32), (40, 32), interpolation=cv2.INTER_CUBIC)
        pixels = (255 * (map_ - map_.min()) / np.ptp(map_)).astype(np.uint8)
        corner = rng.uniform(0, 18, (2, 2))
        boxes = np.hstack([corner, corner + rng.uniform(3, 14, (2, 2))])
        samples.append(Sample(Image.fromarray(np.stack([pixels] * 3, 2)), 0, None, boxes.astype(np.float32), ""))
    settings: dict[str, Any] = {"image_size": (32, 40), "threshold": "test_set", "thresholds": 100}
    config = LocalizationConfig(preset=preset, **settings)

    def small(each: Tensor) -> Tensor:
        found = torch.nn.functional.avg_pool2d(each, 4)
        maps.extend(torch.nn.functional.interpolate(found[:, None], (32, 40), mode=enlarge)[:, 0])
        return found

    numbers = evaluate(Bright(change=small), ListSet(samples, None), config).numbers
    values = [(255 * ((each - each.min()) / (each.max() - each.min()))).to(torch.uint8).numpy() for each in maps]
    boxes_of = [np.floor(each.boxes) if whole else each.boxes.astype(np.float64) for each in samples]
    levels = sorted({255 * number // 100 for number in range(100)})
    largest, every = plain_loop(values, [each[:truths] for each in boxes_of], levels, wider, whole, holes)
    assert numbers["max_box_acc"] == pytest.approx(largest)
    assert numbers["max_box_acc_v2"] == pytest.approx(every)


def test_presets_are_those_of_the_table() -> None:
    assert {name: tuple(each) for name, each in PRESETS.items()} == {
        "default": (None, "squash", "bilinear", "largest", "any", "half_open", False, False, 100),
        "wsolevaluation": (224, "squash", "bicubic", "largest", "any", "inclusive", True, True, 1000),
        "locloc": (224, "crop", "bilinear", "largest", "first", "half_open", False, False, 100),
        "ppd": (256, "squash", "bilinear", "largest", "any", "inclusive", False, False, 100),
    }


def test_wsolevaluation_ends_boxes_at_the_last_pixel_of_the_view() -> None:
    """Found [8, 8, 48, 48] in a view of 48: 40 pixels wide with "+1" where it ends at 47, else 41; truth 28 x 29."""
    data = ListSet([rectangle((8, 8, 48, 48), truth=[[8, 8, 35, 36]])], None)
    config = LocalizationConfig(preset="wsolevaluation", image_size=48, threshold=0.5)
    for given, iou in ((config, 28 * 29 / 40**2), (config.override(["whole_pixels=false"]), 28 * 29 / 41**2)):
        report = evaluate(Bright(), data, given)
        assert report.details["per_image"][0]["iou"] == pytest.approx(iou)
        assert report.numbers["gt_known_loc"] == report.numbers["max_box_acc_v2_50"] == 100 * (iou > 0.5)


def test_larger_maps_are_made_smaller_without_aliasing() -> None:
    """Of four columns the middle two are 1: their mean is 0.5, the two that lie next to a new center have 1."""
    striped = torch.tensor([0.0, 1.0, 1.0, 0.0]).repeat(64, 16)
    for how in ("bilinear", "bicubic"):
        assert enlarged(striped, (64, 16), how)[:, 3:-3].sub(0.5).abs().max() < 0.1


def two_levels(seed: int, truth: str) -> ListSet:
    """A gray halo around a white core; the truth is one of them."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(8):
        x, y = rng.integers(0, 20, 2)
        halo, core = (x, y, x + 24, y + 24), (x + 6, y + 6, x + 16, y + 16)
        pixels = np.zeros((48, 48, 3), np.uint8)
        pixels[halo[1] : halo[3], halo[0] : halo[2]] = 100
        pixels[core[1] : core[3], core[0] : core[2]] = 255
        box = np.array([halo if truth == "halo" else core], np.float32)
        samples.append(Sample(Image.fromarray(pixels), 0, None, box, ""))
    return ListSet(samples, None, name=f"{truth}{seed}")


def test_the_threshold_comes_from_the_held_out_images_alone() -> None:
    data, held_out = two_levels(0, "core"), two_levels(1, "halo")
    report = evaluate(Bright(), data, held_out=held_out)
    assert report.numbers["gt_known_loc"] == report.numbers["max_box_acc_v2"] == 0
    assert 0 < report.details["chosen"]["loc"] < 100 / 255
    assert "chosen on 8 held-out images" in report.details["notes"][-1]
    assert set(report.card["data"]) == {"val", "held_out"}
    fair = evaluate(Bright(), data, held_out=two_levels(2, "core"))
    assert fair.numbers["gt_known_loc"] == 100
    assert numbers_of(Bright(), data, threshold=0.7)["gt_known_loc"] == 100
    assert numbers_of(Bright(), data, threshold=0.2)["gt_known_loc"] == 0


def test_the_measured_images_choose_only_where_it_is_asked_for_and_it_is_said() -> None:
    data, held_out = two_levels(0, "core"), two_levels(1, "halo")
    report = evaluate(Bright(), data, SWEPT, held_out=held_out)
    assert report.numbers["gt_known_loc"] == 100
    assert "numbers are too good" in report.details["notes"][-1]
    assert "threshold = test_set (standard held_out)" in report.card["deviations"]
    assert "threshold test_set" in report.card["averaging"]
    with pytest.raises(ValueError, match=r"no held-out images.*threshold=0.5.*threshold=test_set"):
        evaluate(Bright(), data)
    with pytest.raises(ValueError, match="held-out images are those that are measured"):
        evaluate(Bright(), data, held_out=two_levels(0, "core"))
    with pytest.raises(ValueError, match=r"none of 8 held-out images has a box; .*train_boxes\.txt"):
        evaluate(Bright(), data, held_out=ListSet([each._replace(boxes=None) for each in held_out.samples], None))


def test_largest_and_all_contours_and_several_truths() -> None:
    pixels = np.zeros((48, 48, 3), np.uint8)
    pixels[2:12, 2:12] = 255
    pixels[20:44, 20:44] = 255
    boxes = np.array([[2, 2, 12, 12], [30, 2, 40, 12]], np.float32)
    data = ListSet([Sample(Image.fromarray(pixels), 0, None, boxes, "")], None)
    assert numbers_of(Bright(), data)["gt_known_loc"] == 0
    report = evaluate(Bright(), data, LocalizationConfig(threshold=0.5, contour="all"))
    assert report.numbers["gt_known_loc"] == report.numbers["max_box_acc_v2"] == 100
    assert report.details["per_image"][0]["box"] == [2, 2, 12, 12]
    data.samples = [data.samples[0]._replace(boxes=boxes[::-1].copy())]
    assert numbers_of(Bright(), data, contour="all")["gt_known_loc"] == 100
    assert numbers_of(Bright(), data, contour="all", gt="first")["gt_known_loc"] == 0


def test_images_without_boxes_empty_ones_and_ones_outside_are_counted() -> None:
    good, outside, empty = rectangle((8, 8, 20, 20)), [[60, 60, 70, 70]], [[5, 5, 5, 9]]
    samples = [
        good,
        rectangle((8, 8, 20, 20), truth=[*outside, [8, 8, 20, 20], *empty]),
        rectangle((8, 8, 20, 20), truth=outside),
        good._replace(boxes=None),
        rectangle((40, 40, 48, 48), truth=[[40, 40, 60, 60]]),  # cut to the image
    ]
    report = evaluate(Bright(), ListSet(samples, None), FIXED)
    assert report.numbers["gt_known_loc"] == 100
    assert [image["index"] for image in report.details["per_image"]] == [0, 1, 4]
    assert report.details["without_boxes"] == [2, 3]
    notes = " ".join(report.details["notes"])
    assert "2 of 5 images have no box" in notes
    assert "3 boxes are empty or lie outside" in notes
    with pytest.raises(ValueError, match=r"none of 1 images has a box; .*val_boxes.txt"):
        evaluate(Bright(), ListSet(samples[2:3], None), FIXED)


def test_the_crop_moves_boxes_and_an_object_outside_is_missed() -> None:
    config = LocalizationConfig(preset="locloc", threshold=0.5)
    bird = Sample(Image.new("RGB", (500, 335)), 0, None, np.array([[60, 27, 385, 331]], np.float32), "")
    seen = evaluate(Bright(224), ListSet([bird], None), config)
    assert seen.numbers["gt_known_loc"] == 0  # a black image
    # Of the view: x (60, 385) * 256 / 335 - 79, y (27, 331) * 256 / 335 - 16, cut to [0, 224].
    from vitrail.data.transforms import EvalTransform, EvalTransformConfig

    geometry = EvalTransform(EvalTransformConfig(image_size=224)).geometry(335, 500)
    assert geometry.boxes(bird.boxes)[0].tolist() == pytest.approx([0, 4.63, 215.14, 224], abs=0.1)
    wide = [rectangle((2, 40, 60, 200), (224, 672)), rectangle((250, 40, 400, 200), (224, 672))]
    report = evaluate(Bright(224), ListSet(wide, None), config)
    assert report.numbers["gt_known_loc"] == 50
    assert "1 of 2 images have their object outside of the crop" in " ".join(report.details["notes"])


def test_constant_maps_are_missed_and_counted() -> None:
    samples = [rectangle((0, 0, 48, 48)), rectangle((4, 4, 30, 30))]
    report = evaluate(Bright(), ListSet(samples, None), FIXED)
    assert report.numbers["gt_known_loc"] == 50
    assert report.details["per_image"][0]["box"] is None
    assert "1 maps are constant" in " ".join(report.details["notes"])


def test_maps_that_are_none_stop_with_the_images_name() -> None:
    data = ListSet([rectangle((4, 4, 30, 30), path="bird.png")], None)
    with pytest.raises(ValueError, match=r"map of image 0 bird.png is not finite"):
        evaluate(Bright(change=lambda maps: maps / 0), data, FIXED)
    with pytest.raises(ValueError, match=r"gave maps \[1, 1, 48, 48\] for 1 images"):
        evaluate(Bright(change=lambda maps: maps[:, None]), data, FIXED)
    with pytest.raises(ValueError, match=r"gave logits \[2, 3\] for 1 images"):
        evaluate(Bright(logits=lambda *_: torch.zeros(2, 3)), data, FIXED)
    with pytest.raises(ValueError, match="data set is empty"):
        evaluate(Bright(), ListSet([], None), FIXED)


def test_labels_are_matched_by_name_and_handed_to_the_localizer() -> None:
    samples = [rectangle((4, 4, 30, 30), label=number) for number in (0, 1, 1)]
    data = ListSet(samples, ("cat", "dog"))
    localizer = Bright(classes=("bird", "dog", "cat"), logits=lambda _, labels: torch.eye(3)[labels])
    report = evaluate(localizer, data, FIXED)
    assert report.numbers["top1_loc"] == 100
    assert localizer.labels[0] is not None
    assert localizer.labels[0].tolist() == [2, 1, 1]
    assert "top5_loc" not in report.numbers  # of three classes all are among the five best
    rows = {row["class"]: row for row in report.details["per_class"]}
    assert rows["dog"]["images"] == 2
    assert rows["cat"]["top1_loc"] == rows["cat"]["gt_known_loc"] == 100
    with pytest.raises(ValueError, match="does not know 1 of the data set's classes"):
        evaluate(Bright(classes=("bird", "dog")), data, FIXED)
    with pytest.raises(ValueError, match="class 1, but Bright has 1 outputs"):
        evaluate(Bright(logits=lambda maps, _: torch.zeros(len(maps), 1)), data, FIXED)
    unlabeled = Bright(logits=lambda maps, _: torch.zeros(len(maps), 3))
    alone = ListSet([each._replace(label=None) for each in samples], None)
    assert "top1_loc" not in evaluate(unlabeled, alone, FIXED).numbers
    assert unlabeled.labels == [None]


def test_outputs_without_names_are_matched_by_wordnet_ids_or_refused() -> None:
    class Thousand(Bright):
        outputs = 1000

    samples = [rectangle((4, 4, 30, 30), label=number) for number in (0, 1, 1)]
    localizer = Thousand(logits=lambda _, labels: torch.eye(1000)[labels])
    report = evaluate(localizer, ListSet(samples, ("n01443537", "n15075141")), FIXED)
    assert localizer.labels[0] is not None
    assert localizer.labels[0].tolist() == [1, 999, 999]
    assert [row["predicted"] for row in report.details["per_image"]] == [1, 999, 999]
    assert report.numbers["top1_loc"] == 100
    with pytest.raises(ValueError, match=r"1,000 outputs without names and the data 2 classes \(cat, dog"):
        evaluate(localizer, ListSet(samples, ("cat", "dog")), FIXED)


def test_batches_and_workers_change_nothing() -> None:
    data = object_set(7)
    one = evaluate(Bright(change=torch.sin), data, SWEPT)
    other = evaluate(Bright(change=torch.sin), data, SWEPT.override(["batch_size=3", "workers=1"]))
    assert one.numbers == other.numbers
    assert one.details == other.details


def test_unreadable_images_are_left_out_and_masks_alone_are_enough() -> None:
    data = object_set(6)
    data.broken = (1, 4)
    report = evaluate(Bright(), data, FIXED)
    assert [image["index"] for image in report.details["per_image"]] == [0, 2, 3, 5]
    assert "2 of 6 images could not be read" in " ".join(report.details["notes"])
    masks = ListSet([each._replace(boxes=None) for each in object_set(4).samples], None)
    assert evaluate(Bright(), masks, FIXED).numbers == {"pxap": 100.0}


def test_reports_are_saved_and_say_their_conventions(tmp_path: Path) -> None:
    data, localizer = noisy()
    report = evaluate(localizer, data, LocalizationConfig(preset="wsolevaluation", image_size=48, threshold=0.3))
    report.save(tmp_path / "localization.json")
    assert report.card["preset"] == "wsolevaluation"
    assert 'boxes with "+1"' in report.card["averaging"]
    assert report.card["config"]["whole_pixels"] is True
    assert "image_size = 48 (standard null)" in report.card["deviations"]
    assert len(report.details["thresholds"]) == 255
    for view, words in (("squash", "the whole image, squashed (view squash)"), ("crop", "the middle of the image")):
        report = evaluate(localizer, data, LocalizationConfig(view=view, threshold=0.3))
        assert any(words in line for line in report.words()), view


def folder_of_maps(root: Path, names: list[str], maps: Tensor) -> HeatMaps:
    for name, map_ in zip(names, maps, strict=True):
        path = root / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, map_.numpy())
    return HeatMaps(root)


def named_set(count: int = 4) -> ListSet:
    data = object_set(count)
    data.samples = [each._replace(path=f"birds/{number}.png") for number, each in enumerate(data.samples)]
    return data


def test_a_folder_of_heat_maps_scores_as_the_localizer_that_wrote_it(tmp_path: Path) -> None:
    data = named_set()
    maps = torch.stack([torch.from_numpy(np.array(each.image)).float().mean(2) for each in data.samples])
    small = torch.nn.functional.avg_pool2d(maps, 4)  # 12 x 12: any size of the view's shape
    written = folder_of_maps(tmp_path, ["0", "1.png", "2", "3"], small)
    Image.fromarray(small[3].byte().numpy()).save(tmp_path / "3.png")
    (tmp_path / "3.npy").unlink()
    report = evaluate(written, data, LocalizationConfig(image_size=48, threshold=0.5))
    same = evaluate(Bright(change=lambda maps: torch.nn.functional.avg_pool2d(maps, 4)), data, FIXED)
    assert report.numbers == same.numbers
    assert report.card["layer"] == f"heat maps {tmp_path.name}"


def test_what_square_maps_are_taken_for_is_said(tmp_path: Path) -> None:
    samples = [rectangle((10, 10, 30, 30), size) for size in ((48, 48), (48, 96), (96, 48))]
    data = ListSet([each._replace(path=f"{number}.png") for number, each in enumerate(samples)], None)
    maps = torch.zeros(3, 12, 12)
    maps[:, 3:8, 3:8] = 1
    written = folder_of_maps(tmp_path, ["0", "1", "2"], maps)

    def notes(**settings: Any) -> str:
        config = LocalizationConfig(image_size=48, threshold=0.5, **settings)
        return "\n".join(evaluate(written, data, config).details["notes"])

    assert "2 heat maps have the shape of the view and not of their image, and are taken as of the whole" in notes()
    assert "3 heat maps are taken as of the middle of their image, which view=crop shows" in notes(view="crop")
    np.save(tmp_path / "1.npy", np.eye(12, 24))
    np.save(tmp_path / "2.npy", np.eye(24, 12))
    assert "heat maps" not in notes()
    assert "heat maps" not in "".join(evaluate(Bright(), data, FIXED).details["notes"])


def test_missing_and_unusable_heat_maps_stop_or_are_counted(tmp_path: Path) -> None:
    data = named_set()
    maps = torch.stack([torch.from_numpy(np.array(each.image)).float().mean(2) for each in data.samples])
    written = folder_of_maps(tmp_path, ["0", "1", "2", "3"], maps)
    (tmp_path / "1.npy").unlink()
    np.save(tmp_path / "2.npy", np.full((48, 48), np.nan))
    np.save(tmp_path / "3.npy", np.zeros((48, 20)))
    config = LocalizationConfig(image_size=48, threshold=0.5)
    with pytest.raises(ValueError, match="3 of 4 images have no usable map") as caught:
        evaluate(written, data, config)
    for words in (
        "1.png has no map",
        "2.npy holds NaN",
        "3.npy of 48 x 20 is not in proportion",
        "allow_missing",
    ):
        assert words in str(caught.value)
    report = evaluate(written, data, config.override(["allow_missing=true"]))
    assert report.numbers["gt_known_loc"] == 25
    assert [each["index"] for each in report.details["unusable"]] == [1, 2, 3]
    np.save(tmp_path / "3.npy", np.zeros((3, 48, 48)))
    (tmp_path / "2.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"2.npy cannot be read.*3.npy holds float64 \[3, 48, 48\]"):
        evaluate(written, data, config)
    with pytest.raises(ValueError, match="no folder of heat maps"):
        HeatMaps(tmp_path / "nothing")


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="ious"):
        LocalizationConfig().override(["ious=[]"])
    with pytest.raises(ValueError, match="threshold"):
        LocalizationConfig().override(["threshold=1.5"])
    with pytest.raises(ValueError, match="threshold"):
        LocalizationConfig().override(["threshold=val"])
    assert LocalizationConfig().override(["threshold=0.4", "ious=0.5"]).ious == (0.5,)


class Flat:
    mean = std = (0.5, 0.5, 0.5)
    image_size, classes = (32, 32), None

    def __call__(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        return Located(torch.zeros(len(images), 2, 2))


def test_floors_of_real_data(real_data: Callable[[str], Path]) -> None:
    for data, whole, centered, share in (
        (Wsol(real_data("cub-mini"), "test"), 21.7, 58.0, 0.65),
        (Wsol(real_data("in1k-mini"), "val"), 48.2, 61.6, 0.75),
    ):
        report = evaluate(Flat(), data, LocalizationConfig(threshold=0.5, thresholds=1))
        assert report.numbers["floor_whole_image"] == pytest.approx(whole, abs=0.2)
        assert report.numbers["floor_centered_box"] == pytest.approx(centered, abs=0.2)
        assert report.details["centered_box"]["share"] == share
    assert len(Cub(real_data("cub-mini"), "test")) == 1389


def test_the_centered_box_is_chosen_on_held_out_images() -> None:
    large = ListSet([rectangle((4, 4, 44, 44))], None, name="large")
    small = ListSet([rectangle((16, 16, 32, 32))], None, name="small")
    alone = evaluate(Bright(), large, FIXED)
    assert alone.numbers["floor_centered_box"] == 100
    assert alone.details["centered_box"]["chosen_on"] == "the images that are measured"
    held = evaluate(Bright(), large, held_out=small)
    assert held.numbers["floor_centered_box"] == 0
    assert held.details["centered_box"]["chosen_on"] == "held-out images"
    assert held.numbers["floor_whole_image"] == pytest.approx(100)


def test_held_out_images_that_are_measured_are_refused() -> None:
    data = object_set(12)
    with pytest.raises(ValueError, match="2 of 4 held-out images are among the 6 measured ones, such as 4;"):
        evaluate(Bright(), Part(data, range(6)), held_out=Part(data, range(4, 8)))
    with pytest.raises(ValueError, match="3 of 3 held-out images are among the 12 measured ones"):
        evaluate(Bright(), data, held_out=Part(data, range(3)))
    assert evaluate(Bright(), Part(data, range(6)), held_out=Part(data, range(6, 9))).numbers["gt_known_loc"] == 100


def test_sets_without_boxes_and_masks_are_refused_before_an_image_is_read() -> None:
    data = object_set(3)
    data.has_boxes = data.has_masks = False  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="none of 3 images has a box or a mask"):
        evaluate(Bright(), data, FIXED)
    assert data.reads == 0


def test_one_image_without_a_label_is_said() -> None:
    data = object_set(3)
    data.samples[1] = data.samples[1]._replace(label=None)
    report = evaluate(Bright(logits=lambda maps, _: torch.zeros(len(maps), 8)), data, FIXED)
    assert "top1_loc" not in report.numbers
    assert "1 of 3 images have a box and no label" in " ".join(report.details["notes"])


class Named(ListSet):
    def relative_path(self, index: int) -> str:
        return ("1.jpg", "1.png")[index]


def test_a_map_of_two_images_or_beyond_float32_is_refused(tmp_path: Path) -> None:
    written = folder_of_maps(tmp_path, ["1"], torch.rand(1, 4, 4))
    with pytest.raises(ValueError, match=r"1\.npy would be the map of both 1\.jpg and 1\.png; .* 1\.png\.npy"):
        written.missing(Named(object_set(2).samples, None))
    data = Named(object_set(1).samples, None)
    other = Named(object_set(2).samples, None)
    with pytest.raises(ValueError, match="2 held-out images have names of measured ones"):
        written.check_apart(data, other)
    data.folder = tmp_path  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="is the folder of the images themselves"):
        written.missing(data)
    np.save(tmp_path / "1.npy", np.array([[1e300, 0.0], [0.0, 1.0]]))
    with pytest.raises(UnusableMap, match="numbers beyond float32"):
        written.read("1.jpg")


def test_shapes_of_maps() -> None:
    for shape, frame in (((14, 14), (224, 224)), ((1, 1), (224, 224)), ((10, 15), (335, 500)), ((7, 11), (335, 500))):
        check_shape(shape, frame, None)
    for rows, columns in ((14, 13), (7, 6), (3, 2), (2, 1), (48, 20)):
        with pytest.raises(UnusableMap, match="not in proportion"):
            check_shape((rows, columns), (224, 224), None)
    with pytest.raises(UnusableMap, match="not in proportion"):
        check_shape((10, 13), (335, 500), None)


def test_thresholds_in_words_mean_the_same_level() -> None:
    for level in range(255):
        words = threshold_words(level / 255)
        assert level_of(float(words)) == level
        assert len(words) <= 5
    assert threshold_words(0.5) == "0.50"
