import doctest
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet, TinyBackbone, object_set
from torch import Tensor

from vitrail.evaluation import attention_jaccard as module
from vitrail.evaluation.attention_jaccard import (
    PRESETS,
    JaccardConfig,
    attention_regions,
    evaluate,
    image_jaccard,
)
from vitrail.ops.attention_mass import mass_mask

SMALL = JaccardConfig(image_size=48)


def test_golden_numbers(oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
    golden = oracle("voc_jaccard")
    attention = torch.from_numpy(golden["cls_attn"]).reshape(6, 30, 30)
    regions = attention_regions(attention.double().log(), float(golden["thr"]))
    large = regions.repeat_interleave(16, 1).repeat_interleave(16, 2)
    assert torch.equal(large, torch.from_numpy(golden["mask"]).bool())
    target = torch.from_numpy(golden["target"][0])
    counted = image_jaccard(regions, target, "counted").amax(1).mean().item()
    assert counted == pytest.approx(float(golden["jaccard"]), abs=1e-7)
    assert 100 * counted == pytest.approx(5.63, abs=0.005)
    assert 100 * image_jaccard(regions, target).amax(1).mean().item() == pytest.approx(5.70, abs=0.005)


def test_the_cls_key_in_the_softmax_changes_nothing() -> None:
    scores = torch.randn(50, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    cls_key = torch.randn(50, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 5
    with_cls = torch.cat([cls_key, scores.flatten(1)], 1).softmax(1)[:, 1:].reshape(scores.shape)
    for mass in (0.3, 0.6, 0.9):
        assert torch.equal(attention_regions(scores, mass), mass_mask(with_cls, mass, dims=2))


def brute_force(region: Tensor, mask: Tensor, void: str) -> list[list[float]]:
    heads, rows, columns = region.shape
    height, width = mask.shape
    result = []
    for value in sorted(set(mask.flatten().tolist()) - {0, 255}):
        overlaps = []
        for head in range(heads):
            both = either = 0
            for y in range(height):
                for x in range(width):
                    if void == "excluded" and mask[y, x] == 255:
                        continue
                    a, b = (
                        bool(region[head, y * rows // height, x * columns // width]),
                        bool(mask[y, x] == value),
                    )
                    both, either = both + (a and b), either + (a or b)
            overlaps.append(both / either)
        result.append(overlaps)
    return result


@pytest.mark.parametrize("void", ["excluded", "counted"])
def test_brute_force_on_a_non_square_image(void: module.Void) -> None:
    generator = torch.Generator().manual_seed(0)
    regions = torch.rand(2, 3, 4, generator=generator) > 0.5
    mask = torch.tensor([0, 1, 7, 255])[torch.randint(0, 4, (6, 16), generator=generator)]
    torch.testing.assert_close(
        image_jaccard(regions, mask, void),
        torch.tensor(brute_force(regions, mask, void), dtype=torch.float64),
    )


def test_corners() -> None:
    regions = torch.ones(3, 2, 2, dtype=torch.bool)
    assert image_jaccard(regions, torch.zeros(4, 4)).shape == (0, 3)
    assert image_jaccard(regions, torch.full((4, 4), 255)).shape == (0, 3)
    assert image_jaccard(regions, torch.ones(4, 4)).tolist() == [[1.0, 1.0, 1.0]]
    with pytest.raises(ValueError, match="5 x 4 px does not divide into a grid of 2 x 2"):
        image_jaccard(regions, torch.zeros(5, 4))
    with pytest.raises(ValueError, match="NaN"):
        attention_regions(torch.tensor([[float("nan"), 1.0]]), 0.6)
    assert attention_regions(torch.zeros(2, 10, 10), 0.6).sum((1, 2)).tolist() == [60, 60]
    assert attention_regions(torch.full((1, 2, 2), 3e4, dtype=torch.float16), 0.6).any()
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def test_attention_that_is_the_object_scores_100() -> None:
    report = evaluate(TinyBackbone(), object_set(), SMALL.model_copy(update={"mass": 0.999}))
    assert report.numbers["jaccard"] == pytest.approx(100)
    assert report.numbers["jaccard_fixed_head"] == pytest.approx(100)
    assert report.details["per_head"][0] == pytest.approx(100)
    assert report.details["per_head"][1] == pytest.approx(0)
    assert report.numbers["floor_other_image"] < 70
    assert report.numbers["floor_whole_image"] < 20
    assert [entry["index"] for entry in report.details["per_image"]] == list(range(6))


def test_even_attention_on_the_object_scores_its_mass() -> None:
    scores = torch.full((1, 20, 20), -30.0)
    scores[0, 5:15, 5:15] = 0.0
    mask = torch.zeros(80, 80, dtype=torch.uint8)
    mask[20:60, 20:60] = 3
    for mass in (0.6, 0.9):
        found = image_jaccard(attention_regions(scores, mass), mask).item()
        assert found == pytest.approx(mass, abs=0.011)


def test_attention_that_avoids_the_object_does_not() -> None:
    blind = TinyBackbone()
    blind.forward = (
        lambda *a, **k: (t := TinyBackbone.forward(blind, *a, **k))._replace(  # type: ignore[method-assign]
            scores={block: -scores[:, :1] for block, scores in t.scores.items()}
        )
    )
    report = evaluate(blind, object_set(), SMALL)
    assert report.numbers["jaccard"] == pytest.approx(0)
    assert report.numbers["floor_whole_image"] > 2


def test_void_presets_differ_as_said() -> None:
    data = object_set(8, void=True)
    correct = evaluate(TinyBackbone(), data, JaccardConfig(image_size=48, mass=0.999))
    quirk = evaluate(TinyBackbone(), data, JaccardConfig(preset="sar", image_size=48, mass=0.999))
    assert correct.numbers["jaccard"] == pytest.approx(100)
    assert quirk.numbers["jaccard"] <= correct.numbers["jaccard"]
    assert quirk.numbers["floor_whole_image"] < correct.numbers["floor_whole_image"]
    assert quirk.card["preset"] == "sar"
    assert quirk.card["deviations"] == ["image_size = 48 (standard 480)", "mass = 0.999 (standard 0.6)"]


def test_images_without_objects_are_left_out_and_counted() -> None:
    report = evaluate(TinyBackbone(), object_set(6, empty=(0, 3)), SMALL)
    assert report.details["without_objects"] == [0, 3]
    assert len(report.details["per_image"]) == 4
    assert report.details["notes"] == ["2 of 6 images have no labeled object and were left out"]
    with pytest.raises(ValueError, match="none of 2 images has a mask"):
        evaluate(TinyBackbone(), object_set(2, empty=(0, 1)), SMALL)


def test_batch_size_and_unreadable_images() -> None:
    data = object_set(7)
    one, many = (evaluate(TinyBackbone(), data, JaccardConfig(image_size=48, batch_size=b)) for b in (1, 5))
    assert one.numbers == pytest.approx(many.numbers)
    partly = ListSet(data.samples, data.classes, broken=(2,))
    report = evaluate(TinyBackbone(), partly, SMALL)
    assert [entry["index"] for entry in report.details["per_image"]] == [0, 1, 3, 4, 5, 6]
    assert any("could not be read" in note for note in report.details["notes"])


def test_errors_name_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"50 is not a multiple of the patch size 8"):
        evaluate(TinyBackbone(), object_set(), JaccardConfig(image_size=50))
    with pytest.raises(ValueError, match="empty"):
        evaluate(TinyBackbone(), ListSet([], None), SMALL)


def test_presets_and_overrides() -> None:
    assert JaccardConfig().settings() == PRESETS["default"] == (480, 0.6, "excluded")
    assert JaccardConfig(preset="intriguing").settings() == (512, 0.9, "counted")
    assert SMALL.override(["preset=intriguing", "mass=0.5"]).settings() == (48, 0.5, "counted")


def test_gradients_stay_on_after_an_error(tmp_path: Path) -> None:
    backbone = TinyBackbone().train()
    with torch.no_grad():
        backbone.sign = float("nan")
    with pytest.raises(ValueError, match=r"image 0 0\.png is not finite"):
        evaluate(backbone, object_set(), SMALL)
    assert torch.is_grad_enabled()
    assert backbone.training
