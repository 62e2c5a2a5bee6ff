from __future__ import annotations

from vitrail.metrics.by_head import is_of_head, named_by_head, quantities_by_head


def test_names_go_and_come_back_in_the_order_of_heads() -> None:
    numbers = named_by_head({"val/blobs": list(range(12)), "spatial_entropy": [0.5, 0.25]})
    assert numbers["val/blobs_head_11"] == 11
    assert len(numbers) == 14
    assert all(map(is_of_head, numbers))
    found = quantities_by_head([*sorted(numbers), "val/top1", "step"])
    assert list(found) == ["spatial_entropy", "val/blobs"]
    assert list(found["val/blobs"]) == list(range(12))  # by number: as text, 10 comes before 2
    assert found["spatial_entropy"] == {0: "spatial_entropy_head_0", 1: "spatial_entropy_head_1"}


def test_other_numbers_are_of_no_head() -> None:
    others = ["val/spatial_entropy", "val/blobs", "train/head", "train/loss_head_x", "train/overhead_head_", "head_1"]
    assert not any(map(is_of_head, others))
    assert quantities_by_head(others) == {}
