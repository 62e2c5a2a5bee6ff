import pytest
import torch
from evaluation_doubles import ListSet, TinyBackbone, colored_set
from torch import nn

from vitrail.data.imagenet_names import imagenet_wnids
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
    with pytest.raises(
        ValueError, match=r"2 outputs without names and the data 4 classes \(.*nothing says which is which"
    ):
        evaluate(backbone, nn.Linear(12, 2), data, SMALL)
    bare = ListSet(data.samples, None)  # numbers alone
    with pytest.raises(ValueError, match="val has class 3, but the head has 2 outputs"):
        evaluate(backbone, nn.Linear(12, 2), bare, SMALL)
    unlabeled = ListSet([sample._replace(label=None) for sample in data.samples], None)
    with pytest.raises(ValueError, match="have no label"):
        evaluate(backbone, nn.Linear(12, 4), unlabeled, SMALL)


def test_a_head_may_know_more_classes_than_the_data() -> None:
    backbone, data = TinyBackbone(), colored_set(8)
    head = nn.Linear(12, 9)
    with torch.no_grad():
        head.bias[8] = 100.0
    names = [*(data.classes or ()), *"efghi"]
    report = evaluate(backbone, head, data, SMALL, classes=names)
    assert report.numbers["top1"] == 0
    assert {entry["predicted"] for entry in report.details["confused"]} == {"i"}
    with pytest.raises(ValueError, match="9 outputs without names and the data 4 classes"):
        evaluate(backbone, head, data, SMALL)
    numbered = ListSet(data.samples, tuple(f"class {place}" for place in range(4)))  # lists without names: by number
    report = evaluate(backbone, head, numbered, SMALL)
    assert {entry["predicted"] for entry in report.details["confused"]} == {"class 8"}


def test_a_thousand_outputs_without_names_are_imagenet_s_where_the_data_are_wordnet_ids() -> None:
    """Right by id, and by position nothing: labels 0 to 3 of the folder are not the outputs 0 to 3."""
    backbone, data = TinyBackbone().eval(), colored_set(12)
    wnids = ("n01440764", "n02109961", "n07747607", "n15075141")
    places = [imagenet_wnids().index(each) for each in wnids]
    images = torch.stack([eval_transform(TRANSFORM, backbone)(sample.image) for sample in data.samples])
    with torch.no_grad():
        features = backbone(images).cls
    labels = torch.tensor([sample.label for sample in data.samples])
    head = nn.Linear(12, 1000)
    with torch.no_grad():  # the class whose mean is most alike; all other outputs far below
        head.weight.zero_()
        head.bias.fill_(-100)
        for label, place in enumerate(places):
            head.weight[place], head.bias[place] = features[labels == label].mean(0) - features.mean(0), 0
        right = 100 * (head(features).argmax(1) == torch.tensor(places)[labels]).double().mean().item()
    named = ListSet(data.samples, wnids)
    report = evaluate(backbone, head, named, SMALL)
    assert right > 50
    assert report.numbers["top1"] == pytest.approx(right)
    assert set(report.details["per_class"]) == set(wnids)
    assert report.numbers == evaluate(backbone, head, named, SMALL, classes=imagenet_wnids()).numbers
    with pytest.raises(ValueError, match=r"1,000 outputs without names and the data 4 classes"):
        evaluate(backbone, head, data, SMALL)
