"""Corruption errors of classifiers that are known, on trees and on images that are spoiled on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from corrupted_trees import COLORS, WNIDS, imagenet_c, wnid_folder
from evaluation_doubles import ListSet, MeanBackbone, colored_set
from PIL import Image
from torch import nn

from vitrail.config import ConfigError
from vitrail.contracts import Sample
from vitrail.data import ImageFolder
from vitrail.data.corruptions import CORRUPTIONS, GROUPS, SEVERITIES, corrupt
from vitrail.data.imagenet_c import ImageNetC
from vitrail.data.imagenet_names import are_wnids, imagenet_wnids, of_imagenet_a
from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.class_match import Match, output_names
from vitrail.evaluation.features import eval_transform
from vitrail.evaluation.robustness import RobustnessConfig, evaluate
from vitrail.metrics.robustness import ALEXNET

SIDE = 32
SMALL = RobustnessConfig(transform=EvalTransformConfig(image_size=SIDE), batch_size=7)


def nearest_color(colors: Sequence[Sequence[float]], places: Sequence[int] = (), outputs: int = 0) -> nn.Linear:
    """A head on `MeanBackbone` whose best output is that of the nearest color; others are never best."""
    backbone = MeanBackbone()
    transform = eval_transform(SMALL.transform, backbone)
    flat = [transform(np.full((SIDE, SIDE, 3), color, np.uint8)) for color in colors]
    points = backbone(torch.stack(flat)).cls
    head = nn.Linear(points.shape[1], outputs or len(colors))
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-1e6)
        rows = list(places or range(len(colors)))
        head.weight[rows], head.bias[rows] = 2 * points, -points.square().sum(1)
    return head


BY_COLOR = nearest_color([COLORS[wnid] for wnid in WNIDS])
FOG = {("fog", severity) for severity in SEVERITIES}


def test_imagenet_c_by_hand(tmp_path: Path) -> None:
    """All of fog is wrong and two fifths of snow: 100 / 81.9 and 40 / 86.7 of AlexNet, and 0 of the others."""
    tree = imagenet_c(tmp_path, images=2, shifted={*FOG, ("snow", 1), ("snow", 4)})
    config = SMALL.override(["clean_error=20"])
    report = evaluate(MeanBackbone(), BY_COLOR, ImageNetC(tree), config, classes=WNIDS)
    assert report.numbers["mce_unnormalized"] == pytest.approx(140 / 15)
    assert report.numbers["corrupted_top1"] == pytest.approx(100 - 140 / 15)
    assert report.numbers["mce"] == pytest.approx(100 * (100 / ALEXNET["fog"] + 40 / ALEXNET["snow"]) / 15)
    relative = [(80 if name == "fog" else 20 if name == "snow" else -20) / (ALEXNET[name] - 43.5) for name in ALEXNET]
    assert report.numbers["relative_mce"] == pytest.approx(100 * sum(relative) / 15)
    assert report.numbers["weather_error"] == pytest.approx(35)
    assert report.numbers["noise_error"] == 0
    rows = {row["corruption"]: row for row in report.details["rows"]}
    assert rows["snow"]["errors"] == {"1": 100, "2": 0, "3": 0, "4": 100, "5": 0}
    assert rows["snow"]["ce"] == pytest.approx(100 * 40 / ALEXNET["snow"])
    assert [row["corruption"] for row in report.details["rows"]] == list(CORRUPTIONS)
    assert any("AlexNet's errors are of 1,000 classes, these of 3" in note for note in report.details["notes"])
    assert report.card["resize"].startswith("none where images have the model's size")
    assert report.card["preset"] == "imagenet_c"


def test_a_tree_that_lacks_something(tmp_path: Path) -> None:
    tree = ImageNetC(imagenet_c(tmp_path, leave_out={("frost", 2), *FOG}, shifted={("frost", 1)}))
    (tmp_path / "frost" / "2").mkdir()
    assert ImageNetC(tmp_path).missing == tree.missing
    words = (
        r"lacks 6 of the 75 folders .*: frost 2, fog 1 to 5; of these are there and empty: frost 2\. .*allow_missing"
    )
    with pytest.raises(ValueError, match=words):
        evaluate(MeanBackbone(), BY_COLOR, ImageNetC(tmp_path), SMALL, classes=WNIDS)
    with pytest.raises(ValueError, match=r"lacks 6 of the 75 .*: frost 2, fog 1 to 5\. .*allow_missing=true"):
        evaluate(MeanBackbone(), BY_COLOR, tree, SMALL, classes=WNIDS)
    report = evaluate(MeanBackbone(), BY_COLOR, tree, SMALL.override(["allow_missing=true"]), classes=WNIDS)
    assert report.numbers["mce"] == 0  # frost is not complete, so its error counts in no mean
    assert "weather_error" not in report.numbers
    rows = {row["corruption"]: row for row in report.details["rows"]}
    assert rows["frost"]["error"] is None
    assert rows["frost"]["errors"]["1"] == 100
    assert "fog" not in rows
    assert report.details["missing"] == [["frost", 2], *(["fog", severity] for severity in SEVERITIES)]
    assert any("means are over 13 of 15 corruptions" in note for note in report.details["notes"])
    assert "mce and other means are over 13 of 15 corruptions: no published mCE" in report.card["deviations"]
    (tmp_path / "snow").rename(tmp_path / "snwo")
    with pytest.raises(ValueError, match=r"lacks 11 of the 75 .*; snwo is no corruption, did you mean snow\?"):
        evaluate(MeanBackbone(), BY_COLOR, ImageNetC(tmp_path), SMALL, classes=WNIDS)
    some = evaluate(
        MeanBackbone(), BY_COLOR, ImageNetC(tmp_path), SMALL.override(["allow_missing=true"]), classes=WNIDS
    )
    assert "left out: snwo is no corruption, did you mean snow?" in some.details["notes"]
    (tmp_path / "snwo").rename(tmp_path / "snow")
    report.save(tmp_path / "one.json")
    settings = ["allow_missing=true", f"baseline={tmp_path / 'one.json'}"]
    again = evaluate(MeanBackbone(), BY_COLOR, tree, SMALL.override(settings), classes=WNIDS)
    assert any("one makes no error with gaussian_noise" in note for note in again.details["notes"])


def test_only_classes_that_the_classifier_knows(tmp_path: Path) -> None:
    known = (WNIDS[2], "something else", WNIDS[0])
    head = nearest_color([COLORS[WNIDS[2]], (0, 0, 0), COLORS[WNIDS[0]]])
    report = evaluate(MeanBackbone(), head, ImageNetC(imagenet_c(tmp_path)), SMALL, classes=known)
    assert report.numbers["mce"] == 0
    assert report.details["images"] == 2
    assert any("images of 2 of 3 classes" in note for note in report.details["notes"])


def squares(count: int = 6, size: int = 40) -> ListSet:
    """Noisy images of three colors."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(count):
        pixels = np.array(COLORS[WNIDS[index % 3]]) + rng.normal(0, 20, (size, size, 3))
        samples.append(
            Sample(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), index % 3, path=f"{index}.png")
        )
    return ListSet(samples, WNIDS)


def test_generated_is_what_a_loop_over_images_gives() -> None:
    config, backbone, data = (
        SMALL.override(["seed=4", "severities=1,5", "corruptions=contrast,fog"]),
        MeanBackbone(),
        squares(),
    )
    head = nearest_color([(200, 60, 60), (60, 200, 60), (110, 110, 120)])
    report = evaluate(backbone, head, data, config, classes=WNIDS)
    transform = eval_transform(config.transform, backbone)
    wanted = {}
    for name in ("contrast", "fog"):
        for severity in (1, 5):
            wrong = 0
            for index in range(len(data)):
                pixels = corrupt(transform.framed(data[index].image), name, severity, seed=4, index=index)
                with torch.no_grad():
                    best = int(head(backbone(transform(pixels)[None]).cls).argmax())
                wrong += best != data[index].label
            wanted[name, severity] = 100 * wrong / len(data)
    rows = {
        (row["corruption"], int(key)): value for row in report.details["rows"] for key, value in row["errors"].items()
    }
    assert rows == pytest.approx(wanted)
    assert len(set(rows.values())) > 1
    mean = sum(wanted.values()) / 4
    assert report.numbers["mce_unnormalized"] == pytest.approx(mean)
    clean = 100 - report.numbers["clean_top1"]
    assert report.numbers["relative_mce_unnormalized"] == pytest.approx(mean - clean)
    assert "mce" not in report.numbers
    assert report.card["seed"] == 4
    assert report.card["data"]["val"]["images"] == 6
    assert any("corruptions" in line for line in report.card["deviations"])


def test_workers_batches_and_a_part_of_the_images_change_nothing() -> None:
    config, data = SMALL.override(["severities=3"]), squares(8)
    one = evaluate(MeanBackbone(), BY_COLOR, data, config, classes=WNIDS)
    other = evaluate(MeanBackbone(), BY_COLOR, data, config.override(["workers=2", "batch_size=64"]), classes=WNIDS)
    assert one.details["rows"] == other.details["rows"]
    assert {row["group"] for row in one.details["rows"]} == set(GROUPS)
    few = evaluate(MeanBackbone(), BY_COLOR, data, config.override(["images=4"]), classes=WNIDS)
    assert few.details["images"] == 4
    assert any("4 of 8 images, evenly spaced" in note for note in few.details["notes"])


def test_unreadable_images_are_counted_once() -> None:
    data = squares(6)
    data.broken = (1,)
    report = evaluate(MeanBackbone(), BY_COLOR, data, SMALL.override(["severities=3"]), classes=WNIDS)
    assert report.details["images"] == 5
    assert report.details["notes"] == ["1 of 6 images could not be read and were left out"]


def test_a_baseline_of_numbers_and_of_a_report(tmp_path: Path) -> None:
    config, data = SMALL.override(["severities=2,5", "corruptions=snow,fog"]), squares()
    weak = nearest_color([(200, 60, 60), (60, 200, 60), (110, 110, 120)])
    other = evaluate(MeanBackbone(), weak, data, config, classes=WNIDS)
    other.save(tmp_path / "run" / "evaluation" / "robustness.json")
    itself = evaluate(MeanBackbone(), weak, data, config.override([f"baseline={tmp_path / 'run'}"]), classes=WNIDS)
    assert itself.numbers["mce"] == pytest.approx(100)
    assert itself.details["baseline"]["name"] == "run"
    known = {row["corruption"]: row["error"] for row in other.details["rows"]}
    told = config.override([f"baseline={{snow: {2 * known['snow']}, fog: {known['fog']}}}"])
    half = evaluate(MeanBackbone(), weak, data, told, classes=WNIDS)
    assert half.numbers["mce"] == pytest.approx(75)
    assert "relative_mce" not in half.numbers  # nothing says what the baseline's error is on clean images
    perfect = evaluate(MeanBackbone(), weak, data, config.override(["baseline={snow: 0, fog: 50}"]), classes=WNIDS)
    assert "mce" not in perfect.numbers
    assert "baseline makes no error with snow: no mCE" in perfect.details["notes"]
    with pytest.raises(ValueError, match=r"no error of fog; give one for each"):
        evaluate(MeanBackbone(), weak, data, config.override(["baseline={snow: 50}"]), classes=WNIDS)
    given = [f"baseline={tmp_path / 'run'}", "seed=1"]
    with pytest.raises(ValueError, match="measured with other seed, data"):
        evaluate(MeanBackbone(), weak, squares(5), config.override(given), classes=WNIDS)
    with pytest.raises(ValueError, match="there is no report at"):
        evaluate(MeanBackbone(), weak, data, config.override([f"baseline={tmp_path}"]), classes=WNIDS)


def test_of_a_runs_reports_the_one_that_was_measured_alike_is_the_baseline(tmp_path: Path) -> None:
    config, data, folder = SMALL.override(["severities=2,5", "corruptions=snow,fog"]), squares(), tmp_path / "run"
    weak = nearest_color([(200, 60, 60), (60, 200, 60), (110, 110, 120)])
    alike = {
        "robustness-generated-a": evaluate(
            MeanBackbone(), weak, data, config.override(["corruptions=fog"]), classes=WNIDS
        ),
        "robustness-generated-b": evaluate(MeanBackbone(), weak, data, config, classes=WNIDS),
    }
    others = {
        "robustness": evaluate(MeanBackbone(), weak, squares(5), config, classes=WNIDS),
        "robustness-generated-c": evaluate(
            MeanBackbone(), weak, data, config.override(["severities=3"]), classes=WNIDS
        ),
        "robustness-imagenet_a-d": evaluate(
            MeanBackbone(), weak, data, config.override(["mode=imagenet_a"]), classes=WNIDS
        ),
    }
    for name, report in others.items():
        report.save(folder / "evaluation" / f"{name}.json")
    (folder / "evaluation" / "robustness-cut.json").write_text("{")
    asked = config.override([f"baseline={folder}"])
    words = (
        r"no report in .*evaluation was measured as is asked for: robustness-cut.json is not an evaluation report; "
        r"robustness-generated-c.json was measured with other severities; robustness-imagenet_a-d.json is of "
        r"robustness, imagenet_a, and this of robustness, generated; robustness.json was measured with other data; "
        r"measure both"
    )
    with pytest.raises(ValueError, match=words):
        evaluate(MeanBackbone(), weak, data, asked, classes=WNIDS)
    for name, report in alike.items():
        report.save(folder / "evaluation" / f"{name}.json")
    report = evaluate(MeanBackbone(), weak, data, asked, classes=WNIDS)
    assert report.numbers["mce"] == pytest.approx(100)
    assert report.details["baseline"]["name"] == "run"
    assert set(report.details["baseline"]["errors"]) == {"snow", "fog"}
    with pytest.raises(ValueError, match=r"there is no report at .*gone.json"):
        evaluate(MeanBackbone(), weak, data, config.override([f"baseline={folder / 'gone.json'}"]), classes=WNIDS)


def test_imagenet_a_restricts_a_thousand_outputs(tmp_path: Path) -> None:
    """A class that is not among the data's wins everywhere, and is left out."""
    data = ImageFolder(wnid_folder(tmp_path))
    places = [imagenet_wnids().index(wnid) for wnid in WNIDS]
    assert places == [0, 1, 2]
    head = nearest_color([COLORS[wnid] for wnid in WNIDS], places, outputs=1000)
    with torch.no_grad():
        head.bias[500] = 1e9
    report = evaluate(MeanBackbone(), head, data, SMALL)
    assert report.numbers == {"top1": 100}
    assert report.card["preset"] == "imagenet_a"
    assert report.details["mode"] == "imagenet_a"
    told = "3 classes, not the 200 of ImageNet-A: not comparable with its published numbers"
    assert report.details["notes"] == [told]
    assert told in report.card["source"]
    generated = evaluate(MeanBackbone(), head, data, SMALL.override(["mode=generated", "severities=1"]))
    assert generated.numbers["clean_top1"] == 0


def test_imagenet_a_maps_by_name(tmp_path: Path) -> None:
    data = ImageFolder(wnid_folder(tmp_path))
    backwards = ("n02000000", *WNIDS[::-1])
    head = nearest_color([(0, 0, 0), *(COLORS[wnid] for wnid in WNIDS[::-1])])
    assert evaluate(MeanBackbone(), head, data, SMALL, classes=backwards).numbers == {"top1": 100}
    partly = evaluate(MeanBackbone(), head, data, SMALL, classes=("a", "b", *WNIDS[1::-1]))
    assert partly.details["classes"] == 2
    assert any("1 classes that the classifier does not know" in note for note in partly.details["notes"])


# Places of ImageNet-A's classes among the 1,000, of the authors' program.
IMAGENET_A = """
6 11 13 15 17 22 23 27 30 37 39 42 47 50 57 70 71 76 79 89 90 94 96 97 99 105 107 108 110 113 124 125 130 132 143 144
150 151 207 234 235 254 277 283 287 291 295 298 301 306 307 308 309 310 311 313 314 315 317 319 323 324 326 327 330
334 335 336 347 361 363 372 378 386 397 400 401 402 404 407 411 416 417 420 425 428 430 437 438 445 456 457 461 462
470 472 483 486 488 492 496 514 516 528 530 539 542 543 549 552 557 561 562 569 572 573 575 579 589 606 607 609 614
626 627 640 641 642 643 658 668 677 682 684 687 701 704 719 736 746 749 752 758 763 765 768 773 774 776 779 780 786
792 797 802 803 804 813 815 820 823 831 833 835 839 845 847 850 859 862 870 879 880 888 890 897 900 907 913 924 932
933 934 937 943 945 947 951 954 956 957 959 971 972 980 981 984 986 987 988
"""


def test_the_200_classes_of_imagenet_a() -> None:
    names = [imagenet_wnids()[int(place)] for place in IMAGENET_A.split()]
    assert len(names) == 200
    assert of_imagenet_a(names)
    assert of_imagenet_a(names[::-1])
    assert not of_imagenet_a(names[1:])
    assert not of_imagenet_a([imagenet_wnids()[0], *names[1:]])


def test_a_baseline_of_other_classes_is_refused(tmp_path: Path) -> None:
    tree = ImageNetC(imagenet_c(tmp_path / "tree"))
    every = evaluate(MeanBackbone(), BY_COLOR, tree, SMALL, classes=WNIDS)
    assert every.details["class_names"] == list(WNIDS)
    every.save(tmp_path / "every.json")
    config = SMALL.override([f"baseline={tmp_path / 'every.json'}"])
    known = (WNIDS[2], "something else", WNIDS[0])
    with pytest.raises(ValueError, match=r"on 3 classes .* and this on 2 .*\(n01443537, .*that both classifiers know"):
        evaluate(MeanBackbone(), BY_COLOR, tree, config, classes=known)


def test_match() -> None:
    assert Match(None, 3).to(("a", "b", "c")).tolist() == [0, 1, 2]
    assert Match(("c", "a"), 2).to(("a", "b", "c")).tolist() == [1, -1, 0]
    assert Match(None, 1000).to(("n15075141", "n01440764")).tolist() == [999, 0]
    with pytest.raises(ValueError, match=r"1,000 outputs without names and the data 2 classes \(cat, dog"):
        Match(None, 1000).to(("cat", "dog"))
    with pytest.raises(ValueError, match=r"8 outputs without names and the data 3 classes"):
        Match(None, 8).to(WNIDS)
    english = tuple(f"name {place}" for place in range(1000))
    with pytest.raises(ValueError, match=r"knows name 0.*none of the data's 3.*imagenet_order=true"):
        Match(english, 1000).to(WNIDS)
    assert Match(None, 1000).to(("class 0", "n01443537", "class 2")).tolist() == [0, 1, 2]  # an id in its place
    with pytest.raises(ValueError, match=r"1,000 outputs without names and the data 2 classes"):
        Match(None, 1000).to(("class 0", "n01440764"))  # an id, but of another place
    assert Match(None, 8).to(("class 0", "class 1")).tolist() == [0, 1]
    assert output_names(4, ("class 0", "class 1"))[1:] == ("class 1", "class 2", "class 3")
    with pytest.raises(ValueError, match="1,000 outputs without names and the data 2 classes"):
        output_names(1000, ("0", "1"))  # folders that happen to be numbers
    assert Match(None, 1000, imagenet=True).to(WNIDS).tolist() == [0, 1, 2]
    assert len(imagenet_wnids()) == 1000
    assert list(imagenet_wnids()) == sorted(imagenet_wnids())
    assert are_wnids(WNIDS)
    assert not are_wnids(("n01440764", "cat"))
    assert not are_wnids(("n00000001",))
    assert not are_wnids(())
    assert not are_wnids(None)


def test_errors(tmp_path: Path) -> None:
    data = colored_set(8, classes=3, size=32)
    with pytest.raises(ValueError, match=r"does not know 1 of the data's classes \(class2\)"):
        evaluate(MeanBackbone(), BY_COLOR, data, SMALL, classes=("class0", "class1", "other"))
    with pytest.raises(ValueError, match="mode is imagenet_c, and the data are no tree"):
        evaluate(MeanBackbone(), BY_COLOR, data, SMALL.override(["mode=imagenet_c"]))
    with pytest.raises(ValueError, match="mode is generated, and the data are a tree"):
        evaluate(MeanBackbone(), BY_COLOR, ImageNetC(imagenet_c(tmp_path)), SMALL.override(["mode=generated"]))
    with pytest.raises(ValueError, match='mode is "pad"'):
        evaluate(MeanBackbone(), BY_COLOR, data, SMALL.override(["transform.mode=pad"]))
    with pytest.raises(ValueError, match="images are of 24 pixels, and corruptions want 32 a side"):
        evaluate(MeanBackbone(), BY_COLOR, data, SMALL.override(["transform.image_size=24"]))
    with pytest.raises(ValueError, match="no labels; give class folders"):
        evaluate(MeanBackbone(), BY_COLOR, ListSet(data.samples, None), SMALL)
    with pytest.raises(ValueError, match="empty"):
        evaluate(MeanBackbone(), BY_COLOR, ListSet([], WNIDS), SMALL)
    with pytest.raises(ConfigError, match="known: gaussian_noise"):
        RobustnessConfig().override(["corruptions=fogg"])
    with pytest.raises(ConfigError, match="known: 1, 2, 3, 4, 5"):
        RobustnessConfig().override(["severities=0,1"])
