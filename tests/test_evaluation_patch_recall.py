"""Patch recall as a protocol."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet, object_set
from PIL import Image
from ranker_doubles import Brightness

from vitrail.contracts import Ranker, Sample
from vitrail.data import Ade20k, CocoInstances, ImageFolder, SyntheticScenes, VocSegmentation
from vitrail.data.voc import VOC_CLASSES
from vitrail.evaluation.class_splits import COCO_UNSEEN, check_named, named, unseen_of
from vitrail.evaluation.patch_recall import PatchRecallConfig, evaluate
from vitrail.rankers.center import Center
from vitrail.recipes.sources import Part

SOME = PatchRecallConfig(keeps=(0.1, 0.5, 1.0))


def with_labels(data: ListSet) -> ListSet:
    """Boxes of the class in the mask."""
    for place, sample in enumerate(data.samples):
        assert sample.mask is not None
        assert sample.boxes is not None
        data.samples[place] = sample._replace(box_labels=np.full(len(sample.boxes), sample.mask.max(), np.int64))
    return data


def drawn(boxes: list[list[float]], labels: list[int], hard: list[bool] | None = None, size: int = 48) -> Sample:
    """White boxes on black."""
    pixels = np.zeros((size, size, 3), np.uint8)
    for x0, y0, x1, y1 in np.asarray(boxes, int):
        pixels[y0:y1, x0:x1] = 255
    flags = None if hard is None else np.asarray(hard)
    return Sample(Image.fromarray(pixels), None, None, np.asarray(boxes, np.float32), "", np.asarray(labels), flags)


@pytest.mark.parametrize("labels", ["boxes", "masks"])
def test_a_ranker_that_sees_the_objects_keeps_them_first(labels: str) -> None:
    data = with_labels(object_set(6, empty=(2,)))
    config = SOME.override([f"labels={labels}", "keeps=0.12,0.5,1"])  # 4 of 36 patches, no object is larger
    assert isinstance(Brightness(), Ranker)
    good = evaluate(Brightness(), data, config, name="bright")
    assert [good.numbers[f"recall_{keep}"] for keep in ("0.12", "0.5", "1")] == [100, 100, 100]
    assert good.details["without_objects"] == [2]
    assert "1 of 6 images have no labeled object and were left out" in good.details["notes"]
    assert good.details["images"] == 5
    bad = evaluate(Brightness(sign=-1.0), data, config)
    assert (bad.numbers["recall_0.12"], bad.numbers["recall_1"]) == (0, 100)
    assert good.card["config"]["labels"] == labels
    assert good.card["layer"] == "ranker bright, patches of 8 x 8 px"
    assert [row["class"] for row in good.details["per_class"]] == ["background", "one"]
    assert [row["recall"] for row in good.details["per_class"]] == [[100, 100, 100]] * 2


def test_macro_and_micro_by_hand() -> None:
    first = drawn([[0, 0, 16, 16], [40, 40, 48, 48]], [1, 2])  # 4 patches of one, 1 of two
    second = drawn([[0, 0, 8, 8]], [1])
    data = ListSet([first, second], ("one", "two"))
    ranker = Brightness(sign=-1.0)
    config = PatchRecallConfig(keeps=(32.5 / 36,))  # the dark ones first, then white ones by index
    macro = evaluate(ranker, data, config)
    micro = evaluate(ranker, data, config.override(["average=micro"]))
    # Of the first image 31 dark patches and the white patch 0; of the second the dark patches 1 to 32.
    one, two = [0.25, 0.0], [0.0]
    key = f"recall_{32.5 / 36:g}"
    assert macro.numbers[key] == pytest.approx(100 * (np.mean(one) + np.mean(two)) / 2)
    assert micro.numbers[key] == pytest.approx(100 * (0.25 * 4) / 6)
    assert macro.details["curves"]["kept"] == [32]


def test_random_is_the_diagonal_within_three_errors() -> None:
    data = with_labels(object_set(40))
    curves = evaluate(Center((48, 48), (8, 8)), data, PatchRecallConfig(), name="center").details["curves"]
    assert curves["random"] == [100 * kept / 36 for kept in curves["kept"]]
    for expected, value, error in zip(curves["random"], curves["random_drawn"], curves["random_drawn_error"]):
        assert abs(value - expected) <= 3 * error + 1e-9
    assert curves["random_drawn_error"][0] > 0
    assert curves["recall"] == curves["center"]
    assert curves["recall"][-1] == curves["random_drawn"][-1] == 100
    other = evaluate(Center((48, 48), (8, 8)), data, PatchRecallConfig(seed=1)).details["curves"]
    assert other["random_drawn"] != curves["random_drawn"]


def test_the_batch_size_changes_nothing() -> None:
    data = with_labels(object_set(7, empty=(3,)))
    one, all_ = (evaluate(Brightness(), data, SOME.override([f"batch_size={size}"])) for size in (1, 64))
    assert one.numbers == all_.numbers
    assert one.details == all_.details
    assert one.card["deviations"] == []


def test_a_ranker_that_needs_the_number_is_asked_for_each() -> None:
    data = with_labels(object_set(3))
    once, each = Brightness(), Brightness(needs_number=True)
    evaluate(once, data, SOME)
    evaluate(each, data, SOME)
    assert (len(once.numbers), each.numbers) == (1, [3, 18, 36])


def test_unseen_classes_and_their_weighted_mean() -> None:
    boxes = [[[0.0, 0, 20, 9], [8, 30, 30, 40]], [[30.0, 2, 46, 40]], [[1.0, 1, 40, 3], [9, 9, 17, 17]]]
    numbers = [[15, 1], [2], [2, 15]]
    data = ListSet([drawn(*each) for each in zip(boxes, numbers)], VOC_CLASSES)
    report = evaluate(Center((48, 48), (8, 8)), data, PatchRecallConfig(average="micro", keeps=(0.3,)))
    rows = {row["class"]: row for row in report.details["per_class"]}
    assert {name for name, row in rows.items() if row["unseen"]} == {"person"}
    learned = sum(row["positive"] for row in rows.values() if not row["unseen"])
    both = (
        learned * report.numbers["recall_learned_0.3"]
        + rows["person"]["positive"] * report.numbers["recall_unseen_0.3"]
    )
    assert both / (learned + rows["person"]["positive"]) == pytest.approx(report.numbers["recall_0.3"])
    own = evaluate(Brightness(), data, PatchRecallConfig(unseen=("bicycle",), keeps=(0.3,)))
    assert [row["class"] for row in own.details["per_class"] if row["unseen"]] == ["bicycle"]


def test_the_paper_s_lists() -> None:
    assert len(COCO_UNSEEN) == 13
    assert unseen_of(VOC_CLASSES) == ("person",)
    assert unseen_of(VOC_CLASSES[:19]) is None
    assert unseen_of([*COCO_UNSEEN, *map(str, range(67))]) == COCO_UNSEEN
    assert unseen_of([*COCO_UNSEEN, *map(str, range(66))]) is None
    assert named("sidewalk, pavement", ["pavement"])
    assert not named("sidewalk, pavement", ["pave"])


@pytest.mark.parametrize("setting", ["only", "unseen"])
def test_a_class_that_the_data_do_not_have_is_refused_before_any_image(setting: str) -> None:
    data = ListSet([drawn([[0, 0, 16, 16]], [15])], VOC_CLASSES)
    for asked, words in (
        ("persn", rf"{setting}: these data have no class 'persn'; did you mean 'person'\?"),
        ("bus,zzz", rf"{setting}: these data have no class 'zzz'; known: aeroplane, .*, tvmonitor$"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(Brightness(), data, SOME.override([f"{setting}={asked}"]))
    assert data.reads == 0
    assert evaluate(Brightness(), data, SOME.override([f"{setting}=person"])).details["images"] == 1
    unnamed = ListSet([drawn([[0, 0, 16, 16]], [15])], None)
    assert evaluate(Brightness(), unnamed, SOME.override(["unseen=persn"])).details["images"] == 1


def test_classes_are_known_by_their_words_and_beyond_the_list_by_their_number() -> None:
    classes = ("sidewalk, pavement", "wall")
    check_named(("pavement", "sidewalk, pavement", "wall", "class 3"), classes, "only")
    with pytest.raises(ValueError, match=r"no class 'class 2'; known: sidewalk, pavement, wall$"):
        check_named(("class 2",), classes, "only")
    with pytest.raises(ValueError, match="did you mean 'pavement'"):
        check_named(("pavment",), classes, "only")
    with pytest.raises(ValueError, match=r"known: a0, .*, a19 and 5 more$"):
        check_named(("zzz",), [f"a{number}" for number in range(25)], "only")


def test_hard_objects_count_when_asked() -> None:
    data = ListSet([drawn([[0, 0, 8, 8], [40, 40, 48, 48]], [1, 1], [False, True])], ("one",))
    left = evaluate(Brightness(), data, SOME)
    assert left.details["per_class"][0]["positive"] == 1
    assert "1 difficult objects or crowds were left out" in left.details["notes"]
    assert evaluate(Brightness(), data, SOME.override(["hard=true"])).details["per_class"][0]["positive"] == 2


def test_objects_too_small_for_the_rule_are_said() -> None:
    tiny, large = drawn([[1, 1, 3, 3]], [2]), drawn([[0, 0, 9, 9]], [1])
    report = evaluate(Brightness(), ListSet([tiny, large], ("one", "two")), SOME.override(["positive_rule=center"]))
    notes = report.details["notes"]
    assert "1 classes of images are too small for a positive patch and were left out" in notes
    assert "1 of 2 images have only such classes and were left out" in notes
    assert [row["positive"] for row in report.details["per_class"]] == [1]


def test_boxes_move_with_the_image() -> None:
    pixels = np.zeros((48, 96, 3), np.uint8)
    pixels[8:16, 16:32] = 255  # squashed: columns 8 to 16, row 1; cropped: outside of the middle 24 to 72, but 8 pixels
    boxes = np.array([[16.0, 8, 32, 16], [80, 8, 90, 16]], np.float32)
    data = ListSet([Sample(Image.fromarray(pixels), None, None, boxes, "", np.array([1, 2]))], ("one", "two"))
    squashed = evaluate(Brightness(), data, PatchRecallConfig(only=("one",), keeps=(0.03,)))
    assert squashed.details["per_class"][0]["positive"] == 1
    assert squashed.numbers["recall_0.03"] == 100
    cropped = evaluate(Brightness(), data, SOME.override(["mode=crop"]))
    assert "1 boxes lie outside of the crop and were left out" in cropped.details["notes"]
    assert [row["class"] for row in cropped.details["per_class"]] == ["one"]


def test_stuff_and_things(tmp_path: Path) -> None:
    for name in ("images/validation", "annotations/validation"):
        (tmp_path / name).mkdir(parents=True)
    mask = np.zeros((48, 48), np.uint8)
    mask[:24], mask[40:, 40:] = 1, 2
    Image.fromarray(np.stack([mask * 100] * 3, -1)).save(tmp_path / "images/validation/ADE_val_1.jpg", quality=95)
    Image.fromarray(mask).save(tmp_path / "annotations/validation/ADE_val_1.png")
    rows = ["Idx\tStuff\tName", *(f"{n}\t{int(n == 1)}\tclass {n}" for n in range(1, 151))]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows))
    report = evaluate(Brightness(), Ade20k(tmp_path), PatchRecallConfig(keeps=(0.2,)))  # 7 of 36 patches
    assert report.card["config"]["labels"] == "masks"
    assert report.numbers["recall_things_0.2"] == 100
    assert report.numbers["recall_stuff_0.2"] == pytest.approx(100 * 6 / 18)
    assert report.numbers["recall_0.2"] == pytest.approx(100 * (1 + 6 / 18) / 2)


def test_errors() -> None:
    data = with_labels(object_set(3))
    with pytest.raises(ValueError, match="the data set is empty"):
        evaluate(Brightness(), ListSet([], None))
    with pytest.raises(ValueError, match="not a multiple of the patch size 8"):
        evaluate(Brightness(), data, PatchRecallConfig(image_size=50))
    with pytest.raises(ValueError, match="none of 3 images has an object of the classes cat"):
        evaluate(Brightness(), ListSet(data.samples, (*data.classes, "cat")), PatchRecallConfig(only=("cat",)))
    with pytest.raises(ValueError, match="boxes have no classes"):
        evaluate(Brightness(), object_set(3))
    with pytest.raises(ValueError, match="none of 3 images has a labeled object with labels=masks"):
        evaluate(
            Brightness(), ListSet([s._replace(mask=None) for s in data.samples], None), SOME.override(["labels=masks"])
        )
    for bad, words in (
        ("keeps=0,1", r"shares in \(0, 1\]"),
        ("positive_rule=half", "the rule is"),
        ("average=x", "macro"),
    ):
        with pytest.raises(ValueError, match=words):
            PatchRecallConfig().override([bad])

    class Wrong(Brightness):
        def forward(self, images: torch.Tensor, **more: object) -> torch.Tensor:
            return torch.zeros(len(images), 3, 3)

    with pytest.raises(ValueError, match=r"scores \[3, 3, 3\], not \[3, 6, 6\]"):
        evaluate(Wrong(), data, SOME)


def test_data_without_boxes_and_masks_are_refused_before_any_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (48, 48)).save(tmp_path / "val" / name / "0.png")
    box_file = tmp_path / "val_boxes.txt"
    box_file.write_text("a/0.png 0 0 15 15\n")
    boxes = ImageFolder(tmp_path, "val", boxes=box_file)
    assert evaluate(Brightness(), boxes, SOME).details["labels"] == "boxes"
    monkeypatch.setattr(ImageFolder, "__getitem__", None)  # no image is read from here on
    plain = ImageFolder(tmp_path, "val")
    for data in (plain, Part(plain, [0])):
        for labels in ("auto", "boxes", "masks"):
            with pytest.raises(ValueError, match=r"neither boxes nor masks; give COCO, .* write val_boxes\.txt beside"):
                evaluate(Brightness(), data, SOME.override([f"labels={labels}"]))
    with pytest.raises(ValueError, match=r"these data have no masks; use labels=boxes, or give"):
        evaluate(Brightness(), boxes, SOME.override(["labels=masks"]))


def test_boxes_without_any_class_are_objects() -> None:
    data = ListSet([sample._replace(box_labels=None) for sample in object_set(3).samples], None)
    assert [row["class"] for row in evaluate(Brightness(), data, SOME).details["per_class"]] == ["object"]


def test_generated_scenes() -> None:
    data = SyntheticScenes(8, split="val")
    boxes = evaluate(Center((48, 48), (6, 6)), data, SOME)
    masks = evaluate(Center((48, 48), (6, 6)), data, SOME.override(["labels=masks"]))
    assert [row["class"] for row in boxes.details["per_class"]] == list(data.classes)
    for one, other in zip(boxes.details["per_class"], masks.details["per_class"]):
        assert one["class"] == other["class"]
        assert one["positive"] >= other["positive"] > 0


@pytest.mark.parametrize("name", ["coco-mini", "voc-mini"])
def test_real_data(name: str, real_data: Callable[[str], Path]) -> None:
    root = real_data(name)
    data = CocoInstances(root) if name == "coco-mini" else VocSegmentation(root)
    report = evaluate(Center(), data, PatchRecallConfig(keeps=(0.25, 1.0), average="micro"), name="center")
    assert report.numbers["recall_0.25"] > report.numbers["random_0.25"] + 5  # photographers center their subject
    assert report.numbers["recall_1"] == 100
    rows = report.details["per_class"]
    counts = {side: sum(row["positive"] for row in rows if row["unseen"] == side) for side in (True, False)}
    both = counts[True] * report.numbers["recall_unseen_0.25"] + counts[False] * report.numbers["recall_learned_0.25"]
    assert both / sum(counts.values()) == pytest.approx(report.numbers["recall_0.25"])
    note = "5 crowd regions were left out" if name == "coco-mini" else "difficult objects or crowds were left out"
    assert any(note in line for line in report.details["notes"])
