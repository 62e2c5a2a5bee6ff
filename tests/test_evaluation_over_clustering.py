import numpy as np
import pytest
import torch
from evaluation_doubles import MeanBackbone, TinyBackbone
from painted import painted

from vitrail.evaluation.dense_scoring import unpacked
from vitrail.evaluation.over_clustering import OverClusteringConfig, confused, evaluate, matched

QUICK = {"image_size": 24, "clusters": [0, 12]}


def test_matching_by_hand() -> None:
    counts = torch.tensor([[5, 9, 0], [0, 8, 1], [3, 0, 2]])
    # Greedily, cluster 0 would take class 1 for its 9 pixels, and 11 were right in place of 15.
    assert matched(counts).tolist() == [0, 1, 2]
    assert matched(counts[:2]).tolist() == [0, 1]
    many = torch.tensor([[5, 9, 0], [0, 8, 1], [3, 0, 2], [0, 0, 0], [4, 4, 4]])
    assert matched(many).tolist() == [1, 1, 0, -1, 0]


def test_confusion_of_named_clusters() -> None:
    counts = torch.tensor([[5, 9], [0, 8], [3, 0]])
    assert confused(counts, torch.tensor([0, 1, 0])).tolist() == [[8, 0], [9, 8]]
    empty = torch.tensor([[5, 9], [0, 0]])
    assert confused(empty, torch.tensor([1, -1])).tolist() == [[0, 5], [0, 9]]


def test_colors_are_clusters() -> None:
    report = evaluate(MeanBackbone(), painted(30), painted(8, seed=1), OverClusteringConfig.parse(QUICK))
    assert report.numbers["hungarian_clusters3_miou"] > 99
    assert report.numbers["clusters12_miou"] > 99
    assert [run["matching"] for run in report.details["runs"]] == ["one to one", "many to one"]
    assert sorted(report.details["runs"][0]["class_of_cluster"]) == [0, 1, 2]
    truth = painted(8, seed=1).samples[0].mask
    assert truth is not None
    shown = unpacked(report.details["examples"][0]["predicted"])
    assert np.array_equal(shown, truth.astype(np.int64) - 1)


def test_where_clusters_are_named() -> None:
    """Names read off the training images may be wrong on others; those of the validation images cannot be worse."""
    train, val = painted(20), painted(6, seed=1)
    settings = QUICK | {"clusters": [60], "image_size": 16}
    own, before = (
        evaluate(TinyBackbone(), train, val, OverClusteringConfig.parse(settings | {"match_on": where}))
        for where in ("val", "train")
    )
    assert own.numbers["clusters60_accuracy"] > before.numbers["clusters60_accuracy"]
    assert "named by the truth of train" in before.card["token"]
    assert "match_on = train (standard val)" in before.card["deviations"]


def test_where_clusters_are_fitted() -> None:
    train, val = painted(20), painted(6, seed=1)
    report = evaluate(TinyBackbone(), train, val, OverClusteringConfig.parse(QUICK | {"fit_on": "val"}))
    assert report.details["patches"] == {"clustered": 54, "of": 54}
    some = evaluate(TinyBackbone(), train, val, OverClusteringConfig.parse(QUICK | {"patches": 50}))
    assert some.details["patches"] == {"clustered": 50, "of": 180}
    again = evaluate(TinyBackbone(), train, val, OverClusteringConfig.parse(QUICK | {"patches": 50}))
    assert some.numbers == again.numbers


def test_ignored_pixels_name_no_cluster() -> None:
    report = evaluate(
        MeanBackbone(), painted(20), painted(6, seed=1, void=True, sizes=True), OverClusteringConfig.parse(QUICK)
    )
    assert sum(row["share"] for row in report.details["per_class"]) == pytest.approx(100)


def test_errors() -> None:
    with pytest.raises(ValueError, match="one or more numbers of clusters"):
        OverClusteringConfig.parse({"clusters": []})
    with pytest.raises(ValueError, match="clusters is 500"):
        evaluate(MeanBackbone(), painted(4), painted(2), OverClusteringConfig(image_size=24))
