"""Batch norm over all processes: alone it is torch's; two processes together are tested in `test_nn_across`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitrail.nn.whole_batch_norm import WholeBatchNorm


@pytest.mark.parametrize("affine", [True, False])
def test_alone_it_is_torchs_bit_for_bit(affine: bool) -> None:
    ours, theirs = WholeBatchNorm(5, affine=affine), nn.BatchNorm1d(5, affine=affine)
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }
    if affine:
        with torch.no_grad():
            for each in (ours, theirs):
                each.weight.copy_(torch.arange(1.0, 6))
                each.bias.copy_(torch.arange(5.0))
    for _ in range(3):
        rows = 3 + 2 * torch.randn(7, 5)
        assert torch.equal(ours(rows), theirs(rows))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert torch.equal(ours.eval()(rows), theirs.eval()(rows))


def test_a_single_row_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        WholeBatchNorm(5)(torch.randn(1, 5))
