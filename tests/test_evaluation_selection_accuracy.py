"""A classifier that sees only kept patches."""

from __future__ import annotations

import pytest
import torch
from evaluation_doubles import ListSet, colored_set
from ranker_doubles import Brightness, Plain
from torch import nn

from vitrail.backbones import BackboneConfig, TimmViT, create
from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation import accuracy
from vitrail.evaluation.selecting import SelectingClassifier, renormalized
from vitrail.evaluation.selection_accuracy import SelectionAccuracyConfig, evaluate, flops_of
from vitrail.rankers.center import Center
from vitrail.rankers.grad_cam import GradCam, VitFeatures

SMALL = EvalTransformConfig(image_size=24)
CONFIG = SelectionAccuracyConfig(transform=SMALL, keeps=(0.25, 1.0), rounds=0, batch_size=16)
DEPTH, WIDTH, PATCHES, PATCH, CLASSES = 2, 24, 16, 6, 4


def classifier(seed: int = 0) -> tuple[TimmViT, nn.Linear]:
    torch.manual_seed(seed)
    config = BackboneConfig(image_size=24, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, heads=2)
    return create(config), nn.Linear(WIDTH, CLASSES)


def by_hand(kept: int) -> int:
    """Operations of the tiny ViT on `kept` patches: all patches are embedded, then the rest is dropped."""
    tokens = kept + 1
    embedding = 2 * PATCHES * WIDTH * 3 * PATCH * PATCH
    products = 2 * tokens * WIDTH * (3 * WIDTH + WIDTH + 2 * 4 * WIDTH)  # qkv, projection, MLP
    attention = 2 * 2 * tokens * tokens * WIDTH  # queries with keys, weights with values
    return embedding + DEPTH * (products + attention) + 2 * WIDTH * CLASSES


@pytest.mark.parametrize("kept", [1, 5, 16])
def test_operations_by_hand(kept: int) -> None:
    model = SelectingClassifier(*classifier())
    image, ids = torch.randn(1, 3, 24, 24), torch.arange(kept)[None]
    with torch.no_grad():
        assert flops_of(lambda: model(image, ids)) == by_hand(kept)
        assert flops_of(lambda: model(image)) == by_hand(PATCHES)


def test_operations_of_a_ranker_that_goes_backward() -> None:
    """Grad-CAM: forward, then slopes back to the last block's first norm."""
    backbone, head = classifier()
    ranker = GradCam(VitFeatures(backbone, head, "cls")).eval().requires_grad_(False)
    image = torch.randn(1, 3, 24, 24)
    with torch.no_grad():
        forward = flops_of(lambda: head(backbone(image).cls))
        both = flops_of(lambda: ranker(image))
    assert forward == by_hand(PATCHES)
    tokens = PATCHES + 1
    # Each product but those of weights has one slope, and attention's products have two.
    block = 2 * tokens * WIDTH * 12 * WIDTH + 2 * 4 * tokens * tokens * WIDTH
    assert both == forward + block + 2 * WIDTH * CLASSES


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_keeping_everything_is_plain_accuracy(pool: str) -> None:
    backbone, head = classifier()
    data = colored_set(40, CLASSES, 24)
    rankers = {"center": Center((24, 24), (6, 6)), "bright": Brightness(24, 6)}
    report = evaluate(backbone, head, data, rankers, CONFIG, pool=pool)  # type: ignore[arg-type]
    plain = accuracy.evaluate(backbone, head, data, accuracy.AccuracyConfig(transform=SMALL), pool=pool)  # type: ignore[arg-type]
    for name in ("full", "center_1", "bright_1", "random_1"):
        assert report.numbers[f"{name}_top1"] == plain.numbers["top1"]
    assert 0 < plain.numbers["top1"] < 100
    rows = report.details["rows"]
    assert [(row["ranker"], row["keep"], row["kept"]) for row in rows] == [
        (name, keep, kept) for name in ("random", "center", "bright") for keep, kept in ((0.25, 4), (1.0, 16))
    ]
    assert [row["gflops"] for row in rows] == [by_hand(row["kept"]) / 1e9 for row in rows]
    assert report.details["full"]["images_per_second"] is None


def test_a_part_of_the_patches_is_what_the_backbone_gives() -> None:
    backbone, head = classifier()
    data = colored_set(24, CLASSES, 24)
    report = evaluate(backbone, head, data, {"bright": Brightness(24, 6)}, CONFIG)
    transform = accuracy.eval_transform(SMALL, backbone)
    right = 0
    with torch.no_grad():
        for sample in data.samples:
            image = transform(sample.image)[None]
            scores = Brightness(24, 6)(renormalized(image, backbone, Brightness()))
            ids = scores.flatten(1).argsort(descending=True, stable=True)[:, :4].sort().values
            right += int(head(backbone(image, keep=ids).cls).argmax() == sample.label)
    assert report.numbers["bright_0.25_top1"] == pytest.approx(100 * right / 24)


def test_rankers_see_pixels_in_their_own_normalization() -> None:
    backbone, head = classifier()
    data, ranker = colored_set(3, CLASSES, 24), Brightness(24, 6)
    evaluate(backbone, head, data, {"bright": ranker}, CONFIG)
    pixels = accuracy.eval_transform(SMALL, Plain)(data.samples[0].image)
    assert torch.allclose(ranker.seen[0][0], pixels, atol=1e-5)
    same = torch.rand(1, 3, 2, 2)
    assert renormalized(same, backbone, backbone) is same


def test_the_cost_of_the_ranker_is_told_apart() -> None:
    class Product(Brightness):
        def forward(self, images: torch.Tensor, **more: object) -> torch.Tensor:
            return images.flatten(1) @ torch.zeros(3 * 24 * 24, 16) @ torch.eye(16) + torch.zeros(16)

    class Shaped(Product):
        def forward(self, images: torch.Tensor, **more: object) -> torch.Tensor:
            return super().forward(images).unflatten(1, (4, 4))

    backbone, head = classifier()
    data = colored_set(4, CLASSES, 24)
    report = evaluate(backbone, head, data, {"product": Shaped(24, 6)}, CONFIG)
    row = next(row for row in report.details["rows"] if row["ranker"] == "product")
    own = 2 * 3 * 24 * 24 * 16 + 2 * 16 * 16
    assert row["gflops_ranker"] == own / 1e9
    assert report.numbers["product_0.25_gflops"] == pytest.approx((by_hand(4) + own) / 1e9)
    with pytest.raises(ValueError, match="the ranker center scores a grid of 3 x 3 patches, the classifier sees 4 x 4"):
        evaluate(backbone, head, data, {"center": Center((24, 24), (8, 8))}, CONFIG)


def test_speed_is_measured_when_asked() -> None:
    backbone, head = classifier()
    before = torch.random.get_rng_state()
    report = evaluate(
        backbone, head, colored_set(8, 4, 24), {"bright": Brightness(24, 6)}, CONFIG.override(["rounds=2"])
    )
    assert torch.equal(before, torch.random.get_rng_state())
    speeds = [row[key] for row in report.details["rows"] for key in row if key.startswith("images_per_second")]
    assert len(speeds) == 8
    assert min(speeds) > 0
    alone = {row["ranker"]: row["images_per_second"] for row in report.details["rows"] if row["keep"] == 0.25}
    assert alone["random"] == alone["bright"]  # the classifier is the same
    assert report.details["full"]["images_per_second"] > 0


def test_a_ranker_that_needs_the_number_and_one_that_is_called_random() -> None:
    backbone, head = classifier()
    ranker = Brightness(24, 6, needs_number=True)
    report = evaluate(backbone, head, colored_set(8, 4, 24), {"random": ranker}, CONFIG)
    assert ranker.numbers == [4, 16, 4, 16]  # accuracy, then operations
    assert [row["ranker"] for row in report.details["rows"]] == ["random", "random"]


def test_errors_and_what_is_left_out() -> None:
    backbone, head = classifier()
    data = colored_set(8, CLASSES, 24, broken=(2,))
    report = evaluate(backbone, head, data, {}, CONFIG)
    assert report.details["notes"] == ["1 of 8 images could not be read and were left out"]
    assert report.details["images"] == 7
    with pytest.raises(ValueError, match="the data set is empty"):
        evaluate(backbone, head, ListSet([], None), {}, CONFIG)
    with pytest.raises(ValueError, match="does not know 4 of the data set's classes"):
        evaluate(backbone, head, data, {}, CONFIG, classes=["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="have no labels"):
        evaluate(backbone, head, ListSet([s._replace(label=None) for s in data.samples], None), {}, CONFIG)
    with pytest.raises(ValueError, match="2 outputs without names and the data 4 classes"):
        evaluate(backbone, nn.Linear(WIDTH, 2), data, {}, CONFIG)
    with pytest.raises(ValueError, match="val has class 3, but the head has 2 outputs"):
        evaluate(backbone, nn.Linear(WIDTH, 2), ListSet(data.samples, None), {}, CONFIG)
    with pytest.raises(ValueError, match=r"shares in \(0, 1\]"):
        CONFIG.override(["keeps=0.5,2"])
