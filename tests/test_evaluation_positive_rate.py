from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet, TinyBackbone
from PIL import Image
from test_evaluation_dispersion import Colors, halves
from tiny_vit import vit_file

from vitrail.contracts import Sample
from vitrail.data import EvalTransformConfig, SyntheticScenes
from vitrail.evaluation.labeled_patches import Labeled
from vitrail.evaluation.positive_rate import (
    BINS,
    PositiveRateConfig,
    area_under,
    count_pairs,
    curve_of,
    evaluate,
    image_pairs,
    rate_of_top,
)
from vitrail.recipes.measure import measure
from vitrail.viz.positive_rate import positive_rate_curve, positive_rate_figure

SMALL = PositiveRateConfig(transform=EvalTransformConfig(image_size=48))


def labeled(count: int, seed: int) -> Labeled:
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    return Labeled(0, features, torch.randint(0, 3, (count,), generator=generator), torch.arange(count), (1, count))


def test_against_all_pairs_one_by_one() -> None:
    first, second = labeled(40, 0), labeled(30, 1)
    counts = count_pairs(first, second, of_background=True)
    pairs = [
        (a.double() @ b.double(), bool(k == m))
        for a, k in zip(first.features, first.labels)
        for b, m in zip(second.features, second.labels)
    ]
    assert counts.sum() == 1200
    assert counts[:, 1].sum() == sum(same for _, same in pairs)
    positive, negative = ([value for value, same in pairs if same is kind] for kind in (True, False))
    wins = torch.tensor([[float(p > n) for n in negative] for p in positive]).mean().item()
    assert area_under(counts) == pytest.approx(wins, abs=1e-3)
    best = sorted(pairs, key=lambda each: -each[0])[:120]
    assert rate_of_top(counts, 0.1) == pytest.approx(sum(same for _, same in best) / 120, abs=0.02)
    assert rate_of_top(counts, 1.0) == pytest.approx(len(positive) / 1200)


def test_pairs_of_background_are_left_out() -> None:
    first, second = labeled(40, 0), labeled(30, 1)
    both = int((first.labels == 0).sum() * (second.labels == 0).sum())
    assert both > 50
    every, counts = count_pairs(first, second, of_background=True), count_pairs(first, second)
    assert torch.equal(every[:, 0], counts[:, 0])
    assert int((every - counts).sum()) == both
    scenes = SyntheticScenes(20, split="val")
    floors = [
        evaluate(TinyBackbone(), scenes, SMALL.override([f"background={word}"])).numbers["floor_positive_rate"]
        for word in ("other", "class", "none")
    ]
    assert floors[0] < floors[2] < floors[1]


def test_closed_forms() -> None:
    counts = torch.zeros(BINS, 2, dtype=torch.int64)
    counts[100, 0], counts[3000, 1] = 300, 100
    assert area_under(counts) == 1.0
    assert rate_of_top(counts, 0.25) == 1.0
    assert rate_of_top(counts, 0.5) == 0.5
    assert area_under(counts.flip(0)) == 0.0
    counts[3000, 0] = 300
    assert area_under(counts) == pytest.approx(0.75)  # half of the others are tied
    assert rate_of_top(counts, 0.1) == pytest.approx(0.25)
    curve = curve_of(counts)
    assert curve["positive_rate"][30] == pytest.approx(25)
    assert curve["positive_rate"][1] == 0
    assert curve["positive_rate"][2] is None
    assert curve["share"][1] == pytest.approx(100 * 300 / 700)
    assert curve["similarity"][30] == pytest.approx(0.525)


def test_pairs_of_images() -> None:
    for count, partners in ((7, 2), (8, 3), (2, 5), (100, 5)):
        pairs = image_pairs(count, partners, 0)
        assert len(set(pairs)) == len(pairs) == min(count * partners, count * (count - 1) // 2)
        assert all(one < other for one, other in pairs)
    for count in (5, 6):
        assert len(image_pairs(count, 99, 0)) == count * (count - 1) // 2
    assert image_pairs(1, 5, 0) == []
    assert image_pairs(9, 2, 0) == image_pairs(9, 2, 0) != image_pairs(9, 2, 1)


def test_classes_that_are_colors() -> None:
    backbone = Colors()
    backbone.mean, backbone.std = (0.0,) * 3, (1.0,) * 3
    report = evaluate(backbone, halves(6), SMALL)
    assert report.numbers == pytest.approx({"positive_rate_top": 100, "auc": 100, "floor_positive_rate": 50})
    assert report.details["image_pairs"] == 15
    assert report.details["pairs"] == 15 * 24 * 24
    assert report.details["curve"]["positive_rate"][-1] == 100


def test_features_without_meaning_earn_the_floor() -> None:
    rng = np.random.default_rng(0)
    samples = [
        Sample(
            Image.fromarray(rng.integers(0, 255, (48, 48, 3)).astype(np.uint8)),
            mask=np.kron(rng.integers(1, 3, (6, 6)), np.ones((8, 8))).astype(np.uint8),
        )
        for _ in range(30)
    ]
    report = evaluate(TinyBackbone(), ListSet(samples, ("a", "b")), SMALL)
    assert report.numbers["auc"] == pytest.approx(50, abs=1.5)
    assert report.numbers["positive_rate_top"] == pytest.approx(report.numbers["floor_positive_rate"], abs=5)


def test_scenes_and_what_does_not_matter() -> None:
    scenes = SyntheticScenes(30, split="val")
    one, many = (evaluate(TinyBackbone(), scenes, SMALL.override([f"batch_size={size}"])) for size in (4, 30))
    assert one.numbers == pytest.approx(many.numbers, abs=0.05)
    few = evaluate(TinyBackbone(), scenes, SMALL.override(["images=10"]))
    assert few.details["notes"] == ["10 of 30 images, evenly spaced; images=null takes all"]


def test_errors_name_the_way_out() -> None:
    with pytest.raises(ValueError, match="1 images with labeled patches give 0 pairs"):
        evaluate(TinyBackbone(), halves(1), SMALL)
    single = ListSet([Sample(Image.new("RGB", (48, 48)), mask=np.ones((48, 48), np.uint8))] * 3, ("a",))
    with pytest.raises(ValueError, match="of them of one class; the rate needs pairs of both kinds"):
        evaluate(TinyBackbone(), single, SMALL)


def test_the_picture() -> None:
    curve = {"similarity": [-0.5, 0.0, 0.5], "positive_rate": [None, 10.0, 60.0], "share": [0.0, 80.0, 20.0]}
    figure = positive_rate_figure({"before": curve, "after": curve}, floor=20)
    drawn = figure.axes[0].lines
    assert [each.get_label() for each in drawn] == ["before", "after", "all pairs, 20.0"]
    assert np.isnan(drawn[0].get_ydata()[0])
    assert figure.axes[0].get_ylim() == pytest.approx((0, 69))
    assert positive_rate_curve({"one": curve}).size == (640, 400)
    with pytest.raises(ValueError, match="at least one curve"):
        positive_rate_figure({})


def test_by_the_command(tmp_path: Path) -> None:
    settings = ["data.scenes.val_count=24", "data.scenes.image_size=32", "data.scenes.count=24"]
    for protocol in ("positive_rate", "dispersion", "correspondence"):
        report, path = measure(protocol, vit_file(tmp_path), "scenes", settings, device="cpu", out=tmp_path / "out")
        assert all(-100 <= value <= 100 for value in report.numbers.values())
        assert path.name == f"{protocol}.json"
    assert (tmp_path / "out" / "positive_rate.png").is_file()
