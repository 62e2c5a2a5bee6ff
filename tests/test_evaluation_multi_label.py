"""The protocol of several labels an image: against logits by hand, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet, colored_set
from PIL import Image
from ranker_doubles import Brightness
from torch import Tensor, nn

from vitrail.backbones import BackboneConfig, TimmViT, create
from vitrail.contracts import Sample
from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.features import eval_transform
from vitrail.evaluation.multi_label import MultiLabelConfig, evaluate
from vitrail.evaluation.selecting import renormalized
from vitrail.metrics.multi_label import f1, mean_average_precision
from vitrail.nn.ml_decoder import MlDecoder, MlDecoderConfig
from vitrail.rankers.center import Center

CONFIG = MultiLabelConfig(transform=EvalTransformConfig(image_size=24), keeps=(0.25, 1.0), batch_size=7)
NAMES = ("ant", "bee", "cat", "dog")


class Labeled(ListSet):
    """Noise with up to three labels an image; no image is a dog where `dogs` is False."""

    multi_label = True

    def __init__(self, count: int = 20, broken: tuple[int, ...] = (), dogs: bool = False) -> None:
        rng = np.random.default_rng(3)
        samples = []
        for index in range(count):
            image = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
            labels = tuple(np.flatnonzero(rng.random(3 + dogs) < 0.5).tolist())
            samples.append(Sample(image, path=f"{index}.png", labels=labels))
        super().__init__(samples, NAMES, broken=broken)

    def targets(self) -> Tensor:
        rows = torch.zeros(len(self), len(NAMES))
        for row, sample in zip(rows, self.samples):
            row[list(sample.labels or ())] = 1
        return rows


def network(outputs: int = 4) -> tuple[TimmViT, nn.Linear]:
    torch.manual_seed(0)
    return create(BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2)), nn.Linear(24, outputs)


def by_hand(backbone: TimmViT, head: nn.Module, data: ListSet, number: int, pool: str) -> Tensor:
    """Logits of the brightest patches, image by image."""
    transform, bright, found = eval_transform(CONFIG.transform, backbone), Brightness(24, 6), []
    with torch.no_grad():
        for sample in data.samples:
            image = transform(sample.image)[None]
            order = bright(renormalized(image, backbone, bright)).flatten(1).argsort(descending=True, stable=True)
            tokens = backbone(image, keep=order[:, :number].sort().values)
            every = torch.cat((tokens.cls[:, None], tokens.patches), 1)
            found.append(head({"cls": tokens.cls, "mean": tokens.patches.mean(1), "all": every}[pool]))
    return torch.cat(found)


@pytest.mark.parametrize("pool", ["cls", "mean", "all"])
def test_numbers_are_those_of_the_logits_of_all_images(pool: Any) -> None:
    backbone, head = network()
    if pool == "all":
        head = MlDecoder(MlDecoderConfig(width=8, heads=2, hidden=8), 24, 4).eval()  # type: ignore[assignment]
    data = Labeled()
    report = evaluate(backbone, head, data, {"bright": Brightness(24, 6)}, CONFIG, pool=pool)
    for name, number in (("bright_0.25", 4), ("bright_1", 16), ("full", 16), ("random_1", 16)):
        logits = by_hand(backbone, head, data, number, pool)
        assert report.numbers[f"{name}_map"] == pytest.approx(mean_average_precision(logits, data.targets()).mean)
        both = f1(logits > 0, data.targets())
        found = (report.numbers[f"{name}_cf1"], report.numbers[f"{name}_of1"])
        assert found == pytest.approx(tuple(both))
    assert report.numbers["bright_0.25_map"] != report.numbers["full_map"]
    rows = [(row["ranker"], row["keep"], row["kept"]) for row in report.details["rows"]]
    assert rows == [("random", 0.25, 4), ("random", 1.0, 16), ("bright", 0.25, 4), ("bright", 1.0, 16)]
    per_class = report.details["per_class"]
    assert [row["class"] for row in per_class] == ["ant", "bee", "cat"]
    assert [row["images"] for row in per_class] == data.targets().sum(0).int().tolist()[:3]
    assert sum(row["ap"] for row in per_class) / 3 == pytest.approx(report.numbers["full_map"])
    assert report.details["notes"] == ["no image has 1 of 4 classes, which are in no mean: dog"]


def test_batches_change_nothing_and_the_seed_draws() -> None:
    backbone, head = network()
    numbers = evaluate(backbone, head, Labeled(), None, CONFIG).numbers
    assert set(numbers) == {f"{name}_{what}" for name in ("full", "random_0.25", "random_1") for what in WHAT}
    assert evaluate(backbone, head, Labeled(), None, CONFIG.override(["batch_size=20"])).numbers == pytest.approx(
        numbers
    )
    assert evaluate(backbone, head, Labeled(), None, CONFIG.override(["seed=1"])).numbers != pytest.approx(numbers)


WHAT = ("map", "cf1", "of1")


def test_classes_are_matched_by_name() -> None:
    backbone, head = network(5)
    data = Labeled()
    order = [4, 0, 2, 1]  # of the data's classes among the head's outputs
    names = ("bee", "dog", "cat", "elk", "ant")
    report = evaluate(backbone, head, data, None, CONFIG, classes=names)
    expected = mean_average_precision(by_hand(backbone, head, data, 16, "cls")[:, order], data.targets()).mean
    assert report.numbers["full_map"] == pytest.approx(expected)
    assert "1 classes of the head are none of the data's and were left out: elk" in report.details["notes"]
    with pytest.raises(
        ValueError, match=r"does not know 1 of the data set's classes \(dog\); it knows ant, bee, cat, ..."
    ):
        evaluate(*network(3), data, None, CONFIG, classes=("ant", "bee", "cat"))
    for outputs, classes in ((5, None), (3, NAMES)):
        with pytest.raises(ValueError, match=f"the head has {outputs} outputs, and there are 4 classes"):
            evaluate(*network(outputs), data, None, CONFIG, classes=classes)


def test_images_that_cannot_be_read_are_left_out() -> None:
    backbone, head = network()
    data = Labeled(broken=(4, 9))
    report = evaluate(backbone, head, data, None, CONFIG)
    kept = [index for index in range(20) if index not in (4, 9)]
    logits = by_hand(backbone, head, data, 16, "cls")[kept]
    assert report.numbers["full_map"] == pytest.approx(mean_average_precision(logits, data.targets()[kept]).mean)
    assert report.details["images"] == 18
    assert report.details["notes"][0] == "2 of 20 images could not be read and were left out"
    with pytest.raises(ValueError, match="none of the 2 images could be read"):
        evaluate(backbone, head, Labeled(2, broken=(0, 1)), None, CONFIG)


def test_what_it_refuses() -> None:
    backbone, head = network()
    with pytest.raises(ValueError, match="data set is empty"):
        evaluate(backbone, head, Labeled(0), None, CONFIG)
    with pytest.raises(ValueError, match=r"no table of labels and no objects, .* or take accuracy for one label"):
        evaluate(backbone, head, colored_set(4, 4, 24), None, CONFIG)
    with pytest.raises(ValueError, match="ranker center scores a grid of 3 x 3 patches, the classifier sees 4 x 4"):
        evaluate(backbone, head, Labeled(), {"center": Center((24, 24), (8, 8))}, CONFIG)
    with pytest.raises(ValueError, match=r"shares in \(0, 1\]"):
        MultiLabelConfig(keeps=(0.0,))


def test_the_card_says_how() -> None:
    backbone, head = network()
    report = evaluate(backbone, head, Labeled(), {"bright": Brightness(24, 6)}, CONFIG.override(["seed=3"]))
    assert report.card["protocol"] == "multi_label"
    assert report.card["token"] == "CLS, linear head"
    assert report.card["resolution"] == [24, 24]
    assert set(report.card["config"]["rankers"]) == {"bright"}
    assert report.card["seed"] == 3
    assert report.card["deviations"] == ["transform.image_size = 24 (standard 224)"]
