"""The average of the weights."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import nn

from vitrail.nn.ema import Ema


def test_the_closed_form():
    module = nn.Linear(2, 1, bias=False)
    values = [torch.full((1, 2), float(k)) for k in range(5)]
    module.weight.data.copy_(values[0])
    ema = Ema(module, 0.75)
    for value in values[1:]:
        module.weight.data.copy_(value)
        ema.update(module)
    expected = 0.75**4 * values[0] + sum(0.25 * 0.75 ** (4 - k) * values[k] for k in range(1, 5))
    torch.testing.assert_close(ema.average["weight"], expected)
    assert torch.equal(module.weight, values[4])


def test_applied_gives_the_average_and_then_the_same_bits_again():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    module[0].bias.requires_grad_(False)
    ema = Ema(module, 0.5)
    assert set(ema.average) == {"0.weight", "1.weight", "1.bias"}
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.rand_like(value))
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    average = {name: value.clone() for name, value in ema.average.items()}
    with suppress(KeyError), ema.applied(module):
        assert torch.equal(module[0].weight, average["0.weight"])
        assert torch.equal(module[0].bias, kept["0.bias"])
        raise KeyError
    for name, value in module.state_dict().items():
        assert torch.equal(value, kept[name])
    for name, value in ema.state_dict().items():
        assert torch.equal(value, average[name])


def test_states_move_between_averages_of_the_same_module():
    module = nn.Linear(2, 2)
    first, second = Ema(module, 0.9), Ema(nn.Linear(2, 2), 0.9)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.average["weight"], module.weight)
    assert second.average["weight"] is not first.average["weight"]
    with pytest.raises(ValueError, match="1 names differ, such as 'bias'"):
        Ema(nn.Linear(2, 2, bias=False), 0.9).load_state_dict(first.state_dict())


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0, 2.0])
def test_a_decay_outside_the_open_interval_is_refused(decay):
    with pytest.raises(ValueError, match="not inside"):
        Ema(nn.Linear(1, 1), decay)
