"""One setting for all masks."""

from __future__ import annotations

import pickle

import pytest

from vitrail.config import ConfigError
from vitrail.masks import Amt, AttMask, Block, Dpp, InverseBlock, MaskConfig, Random, build
from vitrail.masks.build import _FIELDS


def test_each_kind_and_its_settings() -> None:
    assert isinstance(build(MaskConfig()), Random)
    assert isinstance(build(MaskConfig(kind="amt")), Amt)
    for kind, expected in (("block", Block), ("inverse_block", InverseBlock)):
        mask = build(MaskConfig(kind=kind, least=9, aspect=0.5))
        assert type(mask) is expected
        assert (mask.least, mask.aspect) == (9, 0.5)
    dpp = build(
        MaskConfig(kind="dpp", tau=0.1, kernel="cosine", bandwidth=3.0, randomness="mix", first="argmax"),
    )
    assert isinstance(dpp, Dpp)
    assert (dpp.tau, dpp.kind, dpp.bandwidth, dpp.randomness, dpp.first) == (0.1, "cosine", 3.0, "mix", "argmax")
    attmask = build(MaskConfig(kind="attmask", hints=0.1))
    assert isinstance(attmask, AttMask)
    assert (attmask.hints, attmask.order) == (0.1, "high")


def test_every_field_is_read_by_some_kind() -> None:
    assert {name for names in _FIELDS.values() for name in names} == set(MaskConfig.model_fields) - {"kind"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tau": 0.3}, r'tau is 0\.3, but kind "random" does not read it \(dpp does\); leave it at 0\.5'),
        ({"kind": "dpp", "hints": 0.1}, r'hints is 0\.1, but kind "dpp" .* \(attmask does\)'),
        ({"kind": "amt", "least": 4}, r"least is 4\.0, .* \(block and inverse_block do\)"),
        ({"kind": "attmask", "hints": 0.1, "order": "low"}, r'hints is 0\.1 with order "low"'),
        ({"kind": "dpp", "bandwidth": -1.0}, r"bandwidth"),
        ({"kind": "blocks"}, r"kind = 'blocks'"),
        ({"kind": "dpp", "taus": 0.1}, r"did you mean 'tau'"),
    ],
)
def test_contradictions_are_refused(values: dict[str, float | str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MaskConfig.parse(values)


def test_configuration_survives_yaml_and_masks_survive_pickling() -> None:
    config = MaskConfig(kind="dpp", tau=0.7)
    assert MaskConfig.parse(config.plain()) == config
    assert pickle.loads(pickle.dumps(build(config))).tau == 0.7
