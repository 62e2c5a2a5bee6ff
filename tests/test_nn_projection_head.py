"""The head between features and a loss on two views."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitrail.nn.projection_head import ProjectionConfig, ProjectionHead


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (ProjectionConfig(), ["Linear", "BatchNorm1d", "ReLU", "Linear"]),
        (ProjectionConfig(norm=False), ["Linear", "ReLU", "Linear"]),
        (ProjectionConfig(last_norm=True), ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]),
        (ProjectionConfig(layers=3, norm=False), ["Linear", "ReLU", "Linear", "ReLU", "Linear"]),
        (ProjectionConfig(layers=1), ["Linear"]),
        (
            ProjectionConfig(last_norm=True, whole_batch=True),
            ["Linear", "WholeBatchNorm", "ReLU", "Linear", "WholeBatchNorm"],
        ),
    ],
)
def test_layers(config: ProjectionConfig, kinds: list[str]) -> None:
    head = ProjectionHead(config, 20)
    assert [type(part).__name__ for part in head.mlp] == kinds
    assert head(torch.randn(5, 20)).shape == (5, 128)


def test_a_bias_stands_where_no_norm_would_take_it_out() -> None:
    head = ProjectionHead(ProjectionConfig(layers=3, hidden_dim=8, out_dim=6, last_norm=True), 4)
    linear = [part for part in head.mlp if isinstance(part, nn.Linear)]
    assert [(part.in_features, part.out_features, part.bias is not None) for part in linear] == [
        (4, 8, False),
        (8, 8, False),
        (8, 6, False),
    ]
    last = head.mlp[-1]
    assert isinstance(last, nn.BatchNorm1d)
    assert not last.affine
    found = head(torch.randn(64, 4))
    torch.testing.assert_close(found.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(6), atol=1e-2, rtol=0)
