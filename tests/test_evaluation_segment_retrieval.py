import pytest
import torch
from evaluation_doubles import ListSet, MeanBackbone, TinyBackbone
from painted import painted
from torch.nn import functional

from vitrail.evaluation.segment_retrieval import SegmentRetrievalConfig, evaluate, votes

QUICK = {"image_size": 24, "k": 5}


def test_votes_by_hand() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    shares = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    features = torch.tensor([[2.0, 0.0], [3.0, 3.0]]).T.reshape(1, 2, 1, 2)
    found = votes(features, bank, shares, k=2, temperature=0.5)
    weight = torch.tensor([1.0, 0.0]).div(0.5).softmax(0)
    expected = torch.stack([weight @ shares[:2], torch.tensor([0.5, 0.5]) @ shares[:2]], 1)
    torch.testing.assert_close(found, expected.reshape(1, 3, 1, 2))


def test_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 6, 2, 4, generator=generator)
    bank, shares = torch.randn(50, 6, generator=generator), torch.rand(50, 4, generator=generator)
    found = votes(features, bank, shares, k=50, temperature=0.1)
    for image in range(3):
        for y in range(2):
            for x in range(4):
                cosines = functional.cosine_similarity(features[image, :, y, x][None], bank)
                expected = (cosines / 0.1).softmax(0) @ shares
                torch.testing.assert_close(found[image, :, y, x], expected)


def test_colors_are_met_again() -> None:
    train, val = painted(30), painted(10, seed=1)
    report = evaluate(MeanBackbone(), train, val, SegmentRetrievalConfig.parse(QUICK))
    assert report.numbers["segment_retrieval_miou"] > 75
    assert report.numbers["floor_majority_miou"] < 20
    assert report.details["bank"] == {"patches": 270, "of": 270}
    assert len(report.details["examples"]) == 6
    other = [one._replace(mask=two.mask) for one, two in zip(val.samples, painted(10, seed=2).samples, strict=True)]
    control = evaluate(MeanBackbone(), train, ListSet(other, val.classes), SegmentRetrievalConfig.parse(QUICK))
    assert control.numbers["segment_retrieval_miou"] < 32


def test_a_smaller_bank_is_drawn_and_stated() -> None:
    config = SegmentRetrievalConfig.parse(QUICK | {"bank": 40})
    first, again = (evaluate(TinyBackbone(), painted(30), painted(5, seed=1), config) for _ in range(2))
    assert first.numbers == again.numbers
    assert first.details["bank"] == {"patches": 40, "of": 270}
    assert "a bank of 40" in first.card["token"]
    assert "bank = 40 (standard 20000)" in first.card["deviations"]


def test_patches_without_a_label_do_not_vote() -> None:
    report = evaluate(MeanBackbone(), painted(30, void=True), painted(5, seed=1), SegmentRetrievalConfig.parse(QUICK))
    assert report.details["bank"] == {"patches": 180, "of": 270}
    with pytest.raises(ValueError, match="the bank has 6 patches with a labeled pixel, and k is 30; take a smaller k"):
        evaluate(MeanBackbone(), painted(1, void=True), painted(1), SegmentRetrievalConfig(image_size=24))


def test_majority_and_shares_differ_where_patches_are_mixed() -> None:
    train, val = painted(30), painted(10, seed=1)
    mixed = {"image_size": 16, "k": 9, "temperature": 0.1}
    numbers = [
        evaluate(MeanBackbone(), train, val, SegmentRetrievalConfig.parse(mixed | {"labels": labels})).numbers
        for labels in ("shares", "majority")
    ]
    assert numbers[0] != numbers[1]


def test_the_same_images_are_said() -> None:
    data = painted(6)
    report = evaluate(MeanBackbone(), data, data, SegmentRetrievalConfig.parse(QUICK | {"k": 1}))
    assert any("every patch finds itself" in note for note in report.details["notes"])
