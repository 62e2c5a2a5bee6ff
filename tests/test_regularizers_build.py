"""Regularizer and weight together, chosen by one setting."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
import torch

from vitrail.config import ConfigError
from vitrail.contracts import Step, Tokens
from vitrail.regularizers import (
    DRLoc,
    RegularizerConfig,
    SpatialEntropy,
    TotalVariation,
    WeightConfig,
    Weighted,
    build,
)

BACKBONE = SimpleNamespace(embed_dim=8, depth=4, heads=2, patch_size=(16, 16))


def tokens(scores: torch.Tensor) -> Tokens:
    return Tokens(torch.zeros(2, 8), torch.zeros(2, 12, 8), (3, 4), {}, {-1: scores})


def test_weighted_multiplies_and_logs_both() -> None:
    scores = torch.randn(2, 2, 6, 6, requires_grad=True)  # several components, or there is no gradient
    weighted = build(RegularizerConfig(weight=WeightConfig(kind="warmup_cosine", epochs=20)), BACKBONE)
    loss, parts = weighted(tokens(scores), Step(5, 20))
    raw = SpatialEntropy()(tokens(scores))
    assert loss.item() == pytest.approx(raw.item() * 0.01 * 5 / 9)
    assert parts.keys() == {"spatial_entropy", "spatial_entropy_weight"}
    assert parts["spatial_entropy"].item() == raw.item()
    assert parts["spatial_entropy_weight"].item() == pytest.approx(0.01 * 5 / 9)
    assert not any(part.requires_grad for part in parts.values())
    loss.backward()
    assert scores.grad.abs().max() > 0


def test_one_setting_switches() -> None:
    config = RegularizerConfig()
    kinds = {"spatial_entropy": SpatialEntropy, "total_variation": TotalVariation, "drloc": DRLoc}
    for kind, expected in kinds.items():
        weighted = build(config.override([f"kind={kind}", "block=2", "weight.peak=0.5"]), BACKBONE)
        assert isinstance(weighted.regularizer, expected)
        assert weighted.name == kind
        assert weighted.weight.peak == 0.5
        assert (weighted.layers, weighted.scores) == (((2,), ()) if kind == "drloc" else ((), (2,)))


def test_drloc_brings_its_parameters_along() -> None:
    weighted = build(RegularizerConfig(kind="drloc", hidden=16), BACKBONE)
    assert weighted.regularizer.mlp[0].in_features == 2 * BACKBONE.embed_dim
    assert len(list(weighted.parameters())) == 6
    assert not list(build(RegularizerConfig(), BACKBONE).parameters())


def test_configuration_survives_yaml_and_pickling() -> None:
    config = RegularizerConfig(kind="drloc", weight=WeightConfig(kind="warmup_cosine", epochs=30))
    assert RegularizerConfig.parse(config.plain()) == config
    assert isinstance(pickle.loads(pickle.dumps(build(config, BACKBONE))), Weighted)


def test_bad_settings_are_answered_in_words() -> None:
    with pytest.raises(ConfigError, match=r"block is 4, but the backbone has 4 blocks; choose -4 to 3"):
        build(RegularizerConfig(block=4), BACKBONE)
    with pytest.raises(ConfigError, match=r"kind = 'entropy'"):
        RegularizerConfig.parse({"kind": "entropy"})
    with pytest.raises(ConfigError, match=r"did you mean 'weight\.warmup_epochs'"):
        RegularizerConfig.parse({"weight": {"warmup_epoch": 3}})
