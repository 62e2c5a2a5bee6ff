import time

import pytest
import torch
from evaluation_doubles import TinyBackbone, colored_set

from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation.linear import PRESETS, SWEEP, LinearConfig, evaluate, fit_heads, shuffled

SMALL = EvalTransformConfig(image_size=16)


def quick(**values: object) -> LinearConfig:
    return LinearConfig.parse({"preset": "features", "epochs": 20, "batch_size": 32, "transform": SMALL, **values})


def test_it_tells_separable_from_shuffled() -> None:
    backbone, val = TinyBackbone(), colored_set(60, classes=6, seed=1)
    good = evaluate(backbone, colored_set(240, classes=6), val, quick())
    control = evaluate(backbone, colored_set(240, classes=6, shuffled=True), val, quick(learning_rates=[0.1]))
    assert good.numbers["linear_best_top1"] > 90
    assert control.numbers["linear_top1"] < 45
    assert set(good.numbers) == {"linear_best_top1", "linear_best_top5"}
    assert len(good.details["per_learning_rate"]) == 9
    losses = good.details["loss_per_epoch"]
    assert len(losses) == 20
    assert losses[-1] < losses[0]


def test_the_published_way_augments_and_learns() -> None:
    backbone, train, val = TinyBackbone(), colored_set(96, classes=4), colored_set(40, classes=4, seed=1)
    config = LinearConfig.parse(
        {
            "epochs": 6,
            "batch_size": 16,
            "learning_rates": [1.0],
            "cls_blocks": 2,
            "transform": SMALL,
            "train_transform": {"image_size": 16, "scale": [0.5, 1.0]},
        }
    )
    report = evaluate(backbone, train, val, config)
    assert report.numbers["linear_top1"] > 60
    assert train.reads >= 6 * 96
    assert report.card["preset"] == "dino"
    assert "no augmentation" not in " ".join(report.card["deviations"])
    assert evaluate(backbone, train, val, config).numbers == report.numbers


def test_the_card_says_that_it_did_not_augment() -> None:
    report = evaluate(
        TinyBackbone(),
        colored_set(24),
        colored_set(8, seed=1),
        quick(preset="dino", augment=False, cls_blocks=3, batch_size=None),
    )
    words = report.card["deviations"]
    assert "epochs = 20 (standard 100)" in words
    assert any(line.startswith("no augmentation") for line in words)
    assert "batch_size = 24 (standard 1024)" in words
    assert "train_transform" not in " ".join(words)
    assert report.card["layer"] == "last 3 blocks, after the final norm"
    assert report.card["config"]["learning_rates"] == [1e-3]


def test_presets() -> None:
    assert len(SWEEP) == 45
    assert SWEEP[0] == 1e-4
    assert SWEEP[-1] == 9.0
    dino = LinearConfig().settings()
    assert (dino.cls_blocks, dino.augment, dino.epochs, dino.learning_rates) == (4, True, 100, (1e-3,))
    assert LinearConfig().override(["preset=ibot", "epochs=3"]).settings() == PRESETS["ibot"]._replace(epochs=3)


def test_the_presets_of_mocov3_and_sar_differ_in_epochs_alone() -> None:
    """SGD at 3 times batch / 256, 90 epochs, as released for ViTs; SAR's text has 100."""
    mocov3 = LinearConfig().override(["preset=mocov3"]).settings()
    assert (mocov3.cls_blocks, mocov3.mean_patch, mocov3.augment) == (1, False, True)
    assert (mocov3.epochs, mocov3.batch_size, mocov3.learning_rates, mocov3.momentum) == (90, 1024, (3.0,), 0.9)
    assert LinearConfig().override(["preset=sar"]).settings() == mocov3._replace(epochs=100)


def test_one_head_equals_its_place_in_a_sweep() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = (
        torch.randn(50, 6, generator=generator),
        torch.randint(0, 3, (50,), generator=generator),
    )
    settings = PRESETS["features"]._replace(epochs=4, batch_size=16)
    sweep, losses = fit_heads(shuffled(features, labels, 4, 16, 0), 6, 3, settings)
    alone, loss = fit_heads(shuffled(features, labels, 4, 16, 0), 6, 3, settings._replace(learning_rates=(0.1,)))
    place = settings.learning_rates.index(0.1)
    torch.testing.assert_close(sweep.weight[place], alone.weight[0])
    assert [epoch[place] for epoch in losses] == pytest.approx([epoch[0] for epoch in loss])


def test_every_sample_once_per_epoch() -> None:
    features, labels = torch.arange(10.0)[:, None], torch.arange(10)
    seen = list(shuffled(features, labels, 2, 4, 0))
    assert [epoch for epoch, _, _ in seen] == [0, 0, 0, 1, 1, 1]
    assert [len(part) for _, part, _ in seen] == [4, 4, 2, 4, 4, 2]
    orders = [torch.cat([part for epoch, _, part in seen if epoch == e]).tolist() for e in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]


def test_divergence_is_said_and_refused_only_when_total() -> None:
    train, val = colored_set(40), colored_set(12, seed=1)
    partly = evaluate(TinyBackbone(), train, val, quick(learning_rates=[0.1, 1e38]))
    assert partly.details["best_learning_rate"] == 0.1
    assert any("diverged" in note for note in partly.details["notes"])
    with pytest.raises(ValueError, match="diverged at every learning rate"):
        evaluate(TinyBackbone(), train, val, quick(learning_rates=[1e38]))


def test_it_is_quick_enough_for_a_demo() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 8
    features = torch.randn(8, 192, generator=generator)[labels] + torch.randn(2000, 192, generator=generator)
    settings = PRESETS["features"]
    start = time.perf_counter()
    fit_heads(shuffled(features, labels, settings.epochs, settings.batch_size, 0), 192, 8, settings)
    assert time.perf_counter() - start < 20  # about 1 s on an idle core; the bound is for busy machines
