import time

import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet, MeanBackbone, TinyBackbone, object_set
from painted import painted
from PIL import Image

from vitrail.backbones import BackboneConfig, create
from vitrail.data import SyntheticScenes
from vitrail.evaluation.dense_scoring import packed, unpacked
from vitrail.evaluation.linear_seg import PRESETS, LinearSegConfig, evaluate

QUICK = {"image_size": 16, "samples": 4000, "batch_size": 16, "learning_rates": [0.03]}


def test_colors_are_learned_and_masks_of_other_images_are_not_met() -> None:
    train, val = painted(60), painted(20, seed=1)
    settings = QUICK | {"image_size": 24}
    report = evaluate(MeanBackbone(), train, val, LinearSegConfig.parse(settings))
    # Bilinear enlarging moves the border between cells, so that a part of the pixels there is lost.
    assert report.numbers["linear_seg_miou"] > 75
    assert report.numbers["floor_majority_miou"] < 20
    strange = [
        one._replace(mask=other.mask) for one, other in zip(val.samples, painted(20, seed=2).samples, strict=True)
    ]
    control = evaluate(MeanBackbone(), train, ListSet(strange, val.classes), LinearSegConfig.parse(settings))
    assert control.numbers["linear_seg_miou"] < 30


def test_numbers_are_those_of_the_label_maps() -> None:
    """The maps in the report, at the size of the truth, give the numbers again."""
    val = painted(4, seed=1, sizes=True)
    config = LinearSegConfig.parse(QUICK | {"image_size": 24, "pictures": 4})
    report = evaluate(MeanBackbone(), painted(30), val, config)
    examples = report.details["examples"]
    assert [entry["index"] for entry in examples] == [0, 1, 2, 3]
    called = [unpacked(entry["predicted"]) for entry in examples]
    truths = [sample.mask - 1 for sample in val.samples]  # type: ignore[operator]
    assert [each.shape for each in called] == [each.shape for each in truths]
    right = sum((one == other).sum() for one, other in zip(called, truths, strict=True))
    assert report.numbers["linear_seg_accuracy"] == pytest.approx(100 * right / sum(map(np.size, truths)))
    rows = {row["class"]: row for row in report.details["per_class"]}
    ious = []
    for label, name in enumerate(val.classes or ()):
        both = sum(((a == label) & (b == label)).sum() for a, b in zip(called, truths, strict=True))
        either = sum(((a == label) | (b == label)).sum() for a, b in zip(called, truths, strict=True))
        ious.append(100 * both / either)
        assert rows[name]["iou"] == pytest.approx(ious[-1])
    assert report.numbers["linear_seg_miou"] == pytest.approx(np.mean(ious))


def test_ignored_pixels_count_in_neither_training_nor_validation() -> None:
    train, val = painted(40, void=True), painted(10, seed=1, void=True)
    config = LinearSegConfig.parse(QUICK | {"image_size": 24})
    first = evaluate(MeanBackbone(), train, val, config)
    # What is painted there does not matter then: red where it is ignored.
    changed = []
    for sample in val.samples:
        pixels = np.array(sample.image)
        changed.append(
            sample._replace(image=Image.fromarray(pixels), mask=np.where(sample.mask == 0, 255, sample.mask))
        )
    second = evaluate(MeanBackbone(), train, ListSet(changed, val.classes), config)
    assert first.numbers == second.numbers
    assert sum(row["share"] for row in first.details["per_class"]) == pytest.approx(100)


@pytest.mark.parametrize("changes", [{}, {"crop_size": 16, "samples": 800, "batch_norm": True}])
def test_the_same_seed_gives_the_same_numbers(changes: dict[str, object]) -> None:
    train, val = painted(20), painted(6, seed=1)
    config = LinearSegConfig.parse(QUICK | {"samples": 200} | changes)
    first, again = (evaluate(TinyBackbone(), train, val, config) for _ in range(2))
    assert first.numbers == again.numbers
    assert first.details == again.details
    other = evaluate(TinyBackbone(), train, val, config.override(["seed=1"]))
    assert other.details["loss"] != first.details["loss"]


def test_crops_learn_too() -> None:
    config = LinearSegConfig.parse(
        QUICK | {"image_size": 24, "crop_size": 24, "samples": 1600, "preset": "voc", "crop_scale": (0.8, 1.0)}
    )
    train = painted(40)
    report = evaluate(MeanBackbone(), train, painted(12, seed=1), config)
    assert report.numbers["linear_seg_miou"] > 60
    assert train.reads == 1600
    assert report.card["preset"] == "voc"
    assert "random crops of 24 px" in report.card["token"]
    assert "crop_size = 24 (standard 336)" in report.card["deviations"]
    assert "crop_scale = [0.8, 1.0] (standard [0.5, 1.0])" in report.card["deviations"]


def test_where_pixels_are_counted() -> None:
    train, val = painted(20), painted(6, seed=1, sizes=True)
    own, seen = (
        evaluate(MeanBackbone(), train, val, LinearSegConfig.parse(QUICK | {"truth": truth}))
        for truth in ("image", "input")
    )
    assert own.numbers != seen.numbers
    assert "own size" in own.card["averaging"]
    assert "backbone sees" in seen.card["averaging"]


def test_a_sweep_reports_its_best_and_says_so() -> None:
    config = LinearSegConfig.parse(QUICK | {"learning_rates": [1e-6, 0.03, 1e37], "image_size": 24})
    report = evaluate(MeanBackbone(), painted(30), painted(8, seed=1), config)
    assert report.details["best_learning_rate"] == 0.03
    assert [row["learning_rate"] for row in report.details["per_learning_rate"]] == [1e-6, 0.03, 1e37]
    notes = " ".join(report.details["notes"])
    assert "diverged at the learning rates [1e+37]" in notes
    assert "chosen on the validation set" in notes
    losses = [loss for _, loss in report.details["loss"]]
    assert losses[-1] < losses[0]
    assert len(losses) <= 100
    with pytest.raises(ValueError, match="diverged at every"):
        evaluate(MeanBackbone(), painted(8), painted(4), LinearSegConfig.parse(QUICK | {"learning_rates": [1e37]}))


def test_presets() -> None:
    assert LinearSegConfig().settings() == PRESETS["features"]
    published = LinearSegConfig(preset="cocostuff27_one_epoch").settings()
    assert published == (448, 336, None, 1, 256, (3e-3,), None)
    assert published.steps(49_629) == 193
    assert LinearSegConfig(preset="cityscapes").settings().steps(2975) == 1562
    assert LinearSegConfig(preset="voc", epochs=2).settings().samples is None
    assert PRESETS["voc"].learning_rates == (1e-4, 1e-3, 3e-3, 1e-2)
    with pytest.raises(ValueError, match="above 0"):
        LinearSegConfig.parse({"learning_rates": [0.1, 0]})


def test_what_cannot_be_measured() -> None:
    val = painted(4)
    with pytest.raises(ValueError, match="28 is not a multiple of the patch size 8"):
        evaluate(MeanBackbone(), val, val, LinearSegConfig(image_size=28))
    with pytest.raises(ValueError, match="20 is not a multiple of the patch size 8"):
        evaluate(MeanBackbone(), val, val, LinearSegConfig(image_size=24, crop_size=20))
    with pytest.raises(ValueError, match="train has 3 classes"):
        evaluate(MeanBackbone(), val, object_set(4), LinearSegConfig(image_size=24))
    with pytest.raises(ValueError, match="memory is 1e-06"):
        evaluate(MeanBackbone(), val, val, LinearSegConfig(image_size=24, memory=1e-6))
    broken = ListSet(val.samples, val.classes, broken=range(4))
    with pytest.raises(ValueError, match=r"none of 4 images could be read, the first one: .*truncated"):
        evaluate(MeanBackbone(), broken, val, LinearSegConfig(image_size=24))
    with pytest.raises(ValueError, match="none of 4 images could be read"):
        evaluate(MeanBackbone(), val, broken, LinearSegConfig.parse(QUICK | {"samples": 16}))


def test_unreadable_images_and_fewer_images_are_said() -> None:
    train = painted(10)
    some = ListSet(train.samples, train.classes, broken=(0,))
    report = evaluate(MeanBackbone(), some, train, LinearSegConfig.parse(QUICK | {"samples": 32, "images": 5}))
    note = report.details["notes"][0]
    assert note.startswith("train: 1 of 10 images could not be used and were left out, the first one: ")
    assert some.reads == 5
    assert "images = 5 (standard null)" in report.card["deviations"]


def test_label_maps_survive_packing() -> None:
    for most in (9, 300):
        classes = torch.randint(0, most, (20, 30))
        assert unpacked(packed(classes)).tolist() == classes.tolist()
    assert unpacked(packed(torch.zeros(1000, 500, dtype=torch.int64))).shape == (320, 160)


def test_scenes_in_seconds() -> None:
    backbone = create(BackboneConfig(patch_size=8, embed_dim=96, depth=4, heads=3, image_size=48))
    train, val = (SyntheticScenes(200, split=split) for split in ("train", "val"))
    start = time.perf_counter()
    report = evaluate(backbone, train, val, LinearSegConfig(image_size=48, samples=8000))
    assert time.perf_counter() - start < 30  # about 2 s on an idle core; the bound is for busy machines
    assert report.numbers["linear_seg_miou"] > report.numbers["floor_majority_miou"]
    assert report.details["majority"] == "background"
    assert len(report.details["classes"]) == 9


def test_grids_that_are_not_square_and_images_of_several_sizes() -> None:
    train, val = painted(40, sizes=True), painted(9, seed=1, sizes=True)
    config = LinearSegConfig.parse(QUICK | {"image_size": (24, 32)})
    report = evaluate(MeanBackbone(), train, val, config)
    assert report.card["resolution"] == [24, 32]
    assert report.numbers["linear_seg_miou"] > 60


def test_bfloat16() -> None:
    config = LinearSegConfig.parse(QUICK | {"image_size": 24, "precision": "bf16", "samples": 1600})
    report = evaluate(TinyBackbone(), painted(20), painted(6, seed=1), config)
    assert report.card["precision"] == "bf16"
    assert report.numbers["linear_seg_accuracy"] > report.numbers["floor_majority_accuracy"]
