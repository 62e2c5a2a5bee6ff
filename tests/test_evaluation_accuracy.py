import pytest
import torch
from evaluation_doubles import ListSet, TinyBackbone, colored_set
from torch import nn

from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.accuracy import AccuracyConfig, evaluate, match_classes
from vitrail.evaluation.features import eval_transform, extract
from vitrail.evaluation.linear import PRESETS, fit_heads, shuffled

TRANSFORM = EvalTransformConfig(image_size=16)
SMALL = AccuracyConfig(transform=TRANSFORM)


def trained_head(backbone: TinyBackbone, data: ListSet) -> nn.Linear:
    found = extract(
        backbone,
        data,
        eval_transform(TRANSFORM, backbone),
    )
    settings = PRESETS["features"]._replace(epochs=30, learning_rates=(0.3,))
    assert found.labels is not None
    assert data.classes is not None
    heads, _ = fit_heads(shuffled(found.values, found.labels, 30, 32, 0), 12, len(data.classes), settings)
    head = nn.Linear(12, len(data.classes))
    with torch.no_grad():
        head.weight.copy_(heads.weight[0])
        head.bias.copy_(heads.bias[0])
    return head


def test_a_trained_head_beats_a_random_one_and_shuffled_labels() -> None:
    backbone, train, val = TinyBackbone(), colored_set(120, classes=6), colored_set(60, classes=6, seed=1)
    head = trained_head(backbone, train)
    good = evaluate(backbone, head, val, SMALL, classes=train.classes)
    control = evaluate(backbone, head, colored_set(60, classes=6, seed=1, shuffled=True), SMALL)
    assert good.numbers["top1"] > 90
    assert good.numbers["top5"] >= good.numbers["top1"]
    assert control.numbers["top1"] < 45
    assert good.details["per_class"].keys() == set(val.classes or ())
    assert all(entry["true"] != entry["predicted"] for entry in control.details["confused"])
    assert not any(parameter.grad is not None for parameter in backbone.parameters())


def test_labels_are_matched_by_name() -> None:
    backbone, train = TinyBackbone(), colored_set(120, classes=6)
    head = trained_head(backbone, train)
    val = colored_set(60, classes=6, seed=1)
    assert val.classes is not None
    backwards = ListSet([s._replace(label=5 - (s.label or 0)) for s in val.samples], val.classes[::-1])
    straight = evaluate(backbone, head, val, SMALL, classes=train.classes)
    turned = evaluate(backbone, head, backwards, SMALL, classes=train.classes)
    assert turned.numbers == straight.numbers


def test_match_classes() -> None:
    labels = torch.tensor([0, 1, 1])
    assert match_classes(labels, ("a", "b"), ("b", "x", "a")).tolist() == [2, 0, 0]
    assert match_classes(labels, None, ("b", "a")).tolist() == [0, 1, 1]
    assert match_classes(torch.tensor([0]), ("a", "unseen"), ("b", "a")).tolist() == [1]
    with pytest.raises(ValueError, match=r"does not know 1 of the data set's classes \(b\)"):
        match_classes(labels, ("a", "b"), ("a", "c"))


def test_the_head_reads_what_it_was_trained_on() -> None:
    backbone, data = TinyBackbone().eval(), colored_set(40)
    torch.manual_seed(0)
    head = nn.Linear(12, 4)
    images = torch.stack([eval_transform(SMALL.transform, backbone)(sample.image) for sample in data.samples])
    labels = torch.tensor([sample.label for sample in data.samples])
    with torch.no_grad():
        tokens = backbone(images)
        head.bias -= head(tokens.patches.mean(1)).mean(0)  # no class wins everywhere
        logits = {"cls": head(tokens.cls), "mean": head(tokens.patches.mean(1))}
    right = {pool: (values.argmax(1) == labels).float().mean().item() * 100 for pool, values in logits.items()}
    assert right["cls"] != right["mean"]
    for pool, words in (("cls", "CLS, linear head"), ("mean", "mean patch, linear head")):
        report = evaluate(backbone, head, data, SMALL, pool=pool)  # type: ignore[arg-type]
        assert report.numbers["top1"] == pytest.approx(right[pool])
        assert report.card["token"] == words


def test_errors() -> None:
    backbone, data = TinyBackbone(), colored_set(8)
    with pytest.raises(ValueError, match="val has class 3, but the head has 2 outputs"):
        evaluate(backbone, nn.Linear(12, 2), data, SMALL)
    unlabeled = ListSet([sample._replace(label=None) for sample in data.samples], None)
    with pytest.raises(ValueError, match="have no label"):
        evaluate(backbone, nn.Linear(12, 4), unlabeled, SMALL)


def test_a_head_may_know_more_classes_than_the_data() -> None:
    backbone, data = TinyBackbone(), colored_set(8)
    head = nn.Linear(12, 9)
    with torch.no_grad():
        head.bias[8] = 100.0
    report = evaluate(backbone, head, data, SMALL)
    assert report.numbers["top1"] == 0
    assert {entry["predicted"] for entry in report.details["confused"]} == {"8"}
