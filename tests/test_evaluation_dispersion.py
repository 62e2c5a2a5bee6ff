import math

import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet, TinyBackbone
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from vitrail.contracts import Sample
from vitrail.data import EvalTransformConfig, SyntheticScenes
from vitrail.evaluation.dispersion import DispersionConfig, PairSums, evaluate, mean_similarity

SMALL = DispersionConfig(transform=EvalTransformConfig(image_size=48))


def drawn(images: int = 5, patches: int = 9, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            normalize(torch.randn(patches, 4, generator=generator), dim=1),
            torch.tensor([0, 2, 2, 5])[torch.randint(0, 4, (patches,), generator=generator)],
        )
        for _ in range(images)
    ]


def brute_force(parts: list[tuple[Tensor, Tensor]], one: int, other: int, same_image: bool) -> float:
    found = []
    for i, (first, first_labels) in enumerate(parts):
        for j, (second, second_labels) in enumerate(parts):
            if (i == j) != same_image:
                continue
            for a in range(len(first)):
                for b in range(len(second)):
                    if (i, a) != (j, b) and first_labels[a] == one and second_labels[b] == other:
                        found.append((first[a].double() @ second[b].double()).item())
    return math.fsum(found) / len(found) if found else math.nan


def test_sums_are_all_pairs() -> None:
    parts, sums = drawn(), PairSums()
    parts[3] = (parts[3][0], torch.full_like(parts[3][1], 5))
    for features, labels in parts:
        sums.add(features, labels)
    found = sums.similarity()
    assert found.ids == [0, 2, 5]
    assert sum(found.patches) == 45
    assert found.images[2] == sum(bool((labels == 5).any()) for _, labels in parts)
    for row, one in enumerate(found.ids):
        for column, other in enumerate(found.ids):
            for table, same in ((found.across, False), (found.within, True)):
                expected = brute_force(parts, one, other, same)
                assert table[row, column].item() == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_pairs_that_are_not_there_are_nan() -> None:
    sums = PairSums()
    sums.add(torch.eye(2), torch.tensor([1, 1]))
    sums.add(torch.eye(2)[:1], torch.tensor([4]))
    found = sums.similarity()
    assert found.across.isnan().tolist() == [[True, False], [False, True]]
    assert found.within.tolist()[0][0] == 0.0
    assert found.within.isnan().tolist() == [[False, True], [True, True]]
    assert found.across[0, 1].item() == 0.5


def test_averages() -> None:
    values = torch.tensor([[1.0, 0.5, math.nan], [0.5, 0.0, 0.1], [math.nan, 0.1, 0.2]], dtype=torch.float64)
    pairs = torch.tensor([[8.0, 3.0, 0.0], [3.0, 0.0, 1.0], [0.0, 1.0, 2.0]], dtype=torch.float64)
    assert mean_similarity(values, pairs, "macro") == pytest.approx((0.6, 0.3))
    assert mean_similarity(values, pairs, "micro") == pytest.approx((8.4 / 10, (3.0 + 0.2) / 8))


class Colors(TinyBackbone):
    """A patch's feature is its mean color alone."""

    def forward(self, images: Tensor, **how: object) -> object:  # type: ignore[override]
        tokens = TinyBackbone.forward(self, images)
        cells = torch.nn.functional.avg_pool2d(images, 8).flatten(2).transpose(1, 2)
        return tokens._replace(patches=cells)


def halves(count: int = 4, hue: int = 255) -> ListSet:
    """The left half red and of class 1, the right half green and of class 2; one void column of patches between."""
    pixels, mask = np.zeros((48, 48, 3), np.uint8), np.full((48, 48), 255, np.uint8)
    pixels[:, :16, 0], pixels[:, 32:, 1] = hue, hue
    mask[:, :16], mask[:, 32:] = 1, 2
    return ListSet([Sample(Image.fromarray(pixels), mask=mask)] * count, ("red", "green"), name="halves")


def test_classes_that_are_colors() -> None:
    backbone = Colors()
    backbone.mean, backbone.std = (0.0,) * 3, (1.0,) * 3
    report = evaluate(backbone, halves(), SMALL)
    assert report.numbers == pytest.approx(
        {
            "intra_class": 100.0,
            "inter_class": 0.0,
            "gap": 100.0,
            "intra_instance": 100.0,
            "inter_instance": 0.0,
            "gap_instance": 100.0,
        },
        abs=1e-4,
    )
    assert report.details["patches"] == 4 * 24
    assert [row["name"] for row in report.details["per_class"]] == ["red", "green"]
    assert report.details["per_class"][0]["intra_instance"] == pytest.approx(100)
    assert report.card["deviations"] == ["transform.image_size = 48 (standard 224)"]


def test_background_counts_where_the_set_says_so() -> None:
    data = halves()
    for sample in data.samples[:1]:
        sample.mask[sample.mask == 255] = 0  # type: ignore[index]  # one array in all samples
    assert [row["id"] for row in evaluate(TinyBackbone(), data, SMALL).details["per_class"]] == [1, 2]
    asked = evaluate(TinyBackbone(), data, SMALL.override(["background=true"]))
    assert [row["name"] for row in asked.details["per_class"]] == ["background", "red", "green"]
    data.background = True  # type: ignore[attr-defined]
    assert evaluate(TinyBackbone(), data, SMALL).numbers == asked.numbers


def test_scenes_and_what_does_not_matter() -> None:
    scenes = SyntheticScenes(40, split="val")
    one, many = (evaluate(TinyBackbone(), scenes, SMALL.override([f"batch_size={size}"])) for size in (3, 40))
    assert one.numbers == pytest.approx(many.numbers, abs=1e-4)
    assert one.numbers["gap"] == pytest.approx(one.numbers["intra_class"] - one.numbers["inter_class"])
    assert len(one.details["per_class"]) == 9
    few = evaluate(TinyBackbone(), scenes, SMALL.override(["images=20"]))
    assert few.card["data"]["val"]["images"] == 20
    assert few.details["notes"] == ["20 of 40 images, evenly spaced; images=null takes all"]


def test_random_classes_have_no_gap() -> None:
    generator, sums = torch.Generator().manual_seed(1), PairSums()
    shared = torch.randn(8, generator=generator)
    for _ in range(200):
        features = normalize(shared + torch.randn(20, 8, generator=generator), dim=1)
        sums.add(features, torch.randint(1, 4, (20,), generator=generator))
    found = sums.similarity()
    intra, inter = mean_similarity(found.across, found.across_pairs, "macro")
    assert intra > 0.3
    assert abs(intra - inter) < 0.003


def test_errors_name_the_way_out() -> None:
    with pytest.raises(ValueError, match="the data set is empty"):
        evaluate(TinyBackbone(), ListSet([], None), SMALL)
    without = ListSet([Sample(Image.new("RGB", (48, 48)))] * 2, None)
    with pytest.raises(ValueError, match="none of 2 images has a patch with a class by its mask; give data"):
        evaluate(TinyBackbone(), without, SMALL)
    with pytest.raises(ValueError, match="2 classes, each in 1 to 1 images; the gap needs"):
        evaluate(TinyBackbone(), halves(1), SMALL)
    broken = TinyBackbone()
    broken.norm.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="patches of image 0 are not finite"):
        evaluate(broken, halves(), SMALL)


def test_unreadable_images_are_said() -> None:
    data = halves(5)
    data.broken = (2,)
    report = evaluate(TinyBackbone(), data, SMALL)
    assert report.details["images"] == 4
    (note,) = report.details["notes"]
    assert note.startswith("dispersion: 1 of 5 images could not be used and were left out, the first one: ")
