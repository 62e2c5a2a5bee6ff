"""Alignment and diversity of masks: closed forms, sampling, and independence of how images are batched."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet, MeanBackbone, TinyBackbone, colored_set
from PIL import Image

from vitrail.config import ConfigError
from vitrail.contracts import Sample
from vitrail.data import SyntheticScenes
from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.alignment_diversity import AlignmentConfig, distances, evaluate

SMALL = EvalTransformConfig(image_size=48)
CONFIG = AlignmentConfig(taus=(0.0, 0.5, 1.0), transform=SMALL)


def scenes(count: int = 24) -> SyntheticScenes:
    return SyntheticScenes(count, image_size=48, split="val")


def test_distances_in_closed_form() -> None:
    full = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    masked = torch.tensor([[[3.0, 4.0], [-3.0, -4.0], [0.0, 0.0]], [[1.0, 1.0]] * 3])
    found = distances(full, masked)
    assert found.alignment.tolist() == pytest.approx([10 / 3, 0])
    assert found.diversity.tolist() == pytest.approx([(10 + 5 + 5) / 3, 0])
    ten = torch.randn(4, 5, 7)
    by_hand = [np.mean([(x[i] - x[j]).norm().item() for i in range(5) for j in range(i)]) for x in ten]
    assert distances(torch.zeros(4, 7), ten).diversity.tolist() == pytest.approx(by_hand, rel=1e-5)
    for full, masked in ((torch.zeros(2, 3), torch.zeros(2, 1, 3)), (torch.zeros(2, 3), torch.zeros(2, 5, 4))):
        with pytest.raises(ValueError, match=r"\[B, T, D\] with T at least 2"):
            distances(full, masked)


def test_equal_patches_mean_the_same_under_every_mask() -> None:
    images = [Sample(Image.new("RGB", (48, 48), (40 * n, 9, 200)), path=f"{n}.png") for n in range(3)]
    report = evaluate(MeanBackbone(), ListSet(images, None), CONFIG.override(["masks=block,attmask"]))
    for name, value in report.numbers.items():
        if name.startswith(("alignment", "diversity")):
            assert value == pytest.approx(0, abs=1e-5), name
    assert report.numbers["greedy_length_tau0"] == 1  # after the first patch, all others are like it
    assert report.numbers["floor_other_image"] == pytest.approx(2 * 40 / 255 * 8, rel=1e-4)  # one channel of 64 pixels


def test_no_chance_leaves_no_diversity() -> None:
    settings = ["taus=0", "first=argmax", "kernel=cosine"]
    report = evaluate(MeanBackbone(), scenes(), CONFIG.override(settings))
    assert report.numbers["diversity_tau0"] == 0
    assert report.numbers["alignment_tau0"] > 0
    drawn = evaluate(MeanBackbone(), scenes(), CONFIG.override(["taus=0"]))
    assert drawn.numbers["diversity_tau0"] > 0


def test_tau_1_is_random_masking() -> None:
    config = CONFIG.override(["taus=1", "masks=random", "trials=8"])
    report = evaluate(MeanBackbone(), scenes(60), config)
    rows = report.details["strategies"]
    assert report.numbers["greedy_length_tau1"] == 1
    for part in ("alignment", "diversity"):
        # Both see the same images, so the error of the difference is smaller than either's own.
        error = math.hypot(rows["tau1"][f"{part}_error"], rows["random"][f"{part}_error"])
        assert abs(rows["tau1"][part] - rows["random"][part]) < 2 * error
        assert rows["tau1"][part] != rows["random"][part]


def test_random_masks_have_the_diversity_of_samples_without_replacement() -> None:
    """Of k of N patches, E |mean - full|^2 = (1 - k / N) s^2 / k, and two masks lie sqrt(2) further apart."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 48, 48, 3), dtype=np.uint8)
    data = ListSet([Sample(Image.fromarray(each)) for each in pixels], None)
    report = evaluate(MeanBackbone(), data, CONFIG.override(["taus=1", "trials=6"]))
    patches, kept = 36, report.details["visible"]
    assert kept == 9
    spread = 4 / 12 * (256**2 - 1) / 255**2 * 192  # variance of uniform levels, normalized to [-1, 1], 192 values
    expected = math.sqrt((1 - kept / patches) * spread / kept)
    assert report.numbers["alignment_tau1"] == pytest.approx(expected, rel=0.02)
    assert report.numbers["diversity_tau1"] == pytest.approx(math.sqrt(2) * expected, rel=0.02)


@pytest.mark.parametrize("backbone", [MeanBackbone, lambda: TinyBackbone(seed=3)])
def test_masks_do_not_depend_on_the_batch_size_or_the_company(backbone) -> None:
    data = scenes(10)
    settings = ["masks=random,block,amt", "trials=3"]
    whole, single = (evaluate(backbone(), data, CONFIG.override([*settings, f"batch_size={size}"])) for size in (64, 1))
    assert whole.numbers == pytest.approx(single.numbers, rel=1e-4, abs=1e-5)
    assert whole.card["deviations"] == single.card["deviations"]


def test_an_image_s_masks_follow_from_its_position_alone() -> None:
    data, seen = scenes(9), []
    for broken in ((), (0, 1)):
        backbone = MeanBackbone()
        some = ListSet([data[i] for i in range(9)], None, broken=broken)
        report = evaluate(backbone, some, CONFIG.override(["taus=0.5", "images=3", "trials=2"]))
        seen.append(torch.stack(backbone.kept))
    every = MeanBackbone()
    evaluate(every, ListSet([data[i] for i in range(9)], None), CONFIG.override(["taus=0.5", "trials=2"]))
    assert torch.equal(seen[0], torch.stack(every.kept)[:, [0, 3, 6]])
    assert torch.equal(seen[1], seen[0][:, 1:])
    assert report.details["images"] == 2
    assert report.details["notes"] == [
        "1 of 3 images could not be read and were left out",
        "3 of 9 images, evenly spaced; images=null takes all",
    ]
    assert report.card["data"]["val"]["name"] == "list"
    other = MeanBackbone()
    evaluate(other, data, CONFIG.override(["taus=0.5", "trials=2", "seed=1"]))
    assert not torch.equal(torch.stack(other.kept), torch.stack(every.kept))


def test_trials_and_images_draw_independently() -> None:
    backbone = MeanBackbone()
    same = ListSet([scenes(1)[0]] * 4, None)
    evaluate(backbone, same, CONFIG.override(["taus=1", "trials=4"]))
    masks = torch.stack(backbone.kept).flatten(0, 1)
    assert len(masks.unique(dim=0)) == 16


def test_the_search_goes_on_for_longer_where_tau_is_small() -> None:
    report = evaluate(MeanBackbone(), scenes(8), CONFIG.override(["taus=0,0.3,0.6,0.9,1"]))
    lengths = [report.numbers[f"greedy_length_tau{tau:g}"] for tau in (0, 0.3, 0.6, 0.9, 1)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]
    assert lengths[0] <= report.details["visible"] == 9
    assert report.details["patches"] == 36


def test_normalized_embeddings_lie_on_the_sphere() -> None:
    report = evaluate(MeanBackbone(), scenes(6), CONFIG.override(["normalized=true"]))
    assert report.details["length_of_full"] == pytest.approx(1)
    assert all(value <= 2 for name, value in report.numbers.items() if not name.startswith("greedy"))
    assert report.card["token"].endswith("divided by its length")
    assert "normalized = True (standard False)" in report.card["deviations"]


def test_numbers_and_details_agree() -> None:
    report = evaluate(TinyBackbone(), colored_set(6, size=48), CONFIG.override(["masks=block"]))
    names = ("tau0", "tau0.5", "tau1", "block")
    assert set(report.details["strategies"]) == set(names)
    for name in names:
        row = report.details["strategies"][name]
        assert report.numbers[f"alignment_{name}"] == row["alignment"]
        assert row["alignment_error"] >= 0
        assert ("greedy_length" in row) == (row["tau"] is not None) == (f"greedy_length_{name}" in report.numbers)
    assert report.card["seed"] == 0
    assert report.card["data"]["val"]["digest"] == colored_set(6, size=48).digest()
    assert report.card["resolution"] == [48, 48]
    one = evaluate(TinyBackbone(), colored_set(1, size=48), CONFIG)
    assert one.details["strategies"]["tau1"]["alignment_error"] is None
    assert "floor_other_image" not in one.numbers


def test_settings_as_people_write_them() -> None:
    assert AlignmentConfig().override(["taus=0.9,0.1"]).taus == (0.1, 0.9)
    assert AlignmentConfig().override(["taus=0.5"]).taus == (0.5,)
    assert AlignmentConfig().override(["masks=amt"]).masks == ("amt",)
    for settings, words in (
        (["taus=1.5"], r"every tau lies in \[0, 1\]"),
        (["taus=[]"], "both empty"),
        (["masks=blocks"], "block"),
        (["trials=1"], "trials"),
    ):
        with pytest.raises(ConfigError, match=words):
            AlignmentConfig().override(settings)


def test_errors_are_in_words() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        evaluate(MeanBackbone(), ListSet([], None), CONFIG)
    with pytest.raises(ValueError, match="none of the 3 images could be read"):
        evaluate(MeanBackbone(), colored_set(3, broken=(0, 1, 2)), CONFIG)
    with pytest.raises(ValueError, match="not a multiple of the patch size 7"):
        evaluate(MeanBackbone(7), scenes(2), CONFIG)
    broken = TinyBackbone()
    with torch.no_grad():
        broken.embed.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"embeddings of images \[0, 1\] are not finite"):
        evaluate(broken, scenes(2), CONFIG)
