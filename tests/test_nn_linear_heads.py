import pytest
import torch
from torch import nn

from vitrail.nn.linear_heads import LinearHeads


def data(count: int = 96, width: int = 12, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, classes, (count,), generator=generator)
    centers = torch.randn(classes, width, generator=generator)
    return centers[labels] + 0.3 * torch.randn(count, width, generator=generator), labels


def test_each_head_is_what_plain_sgd_makes_of_it() -> None:
    features, labels = data()
    rates = (0.5, 0.05, 1e-3)
    heads = LinearHeads(12, 5, rates, momentum=0.9, seed=3)
    alone = []
    for rate in rates:
        layer = nn.Linear(12, 5)
        with torch.no_grad():
            layer.weight.copy_(heads.weight[0])
            layer.bias.zero_()
        alone.append((layer, torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9), rate))
    for step in range(6):
        factor = 1.0 - 0.1 * step
        part = slice(16 * step, 16 * step + 16)
        losses = heads.sgd_step(features[part], labels[part], factor)
        for index, (layer, optimizer, rate) in enumerate(alone):
            optimizer.param_groups[0]["lr"] = rate * factor
            loss = nn.functional.cross_entropy(layer(features[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert losses[index].item() == pytest.approx(loss.item(), rel=1e-5)
    for index, (layer, _, _) in enumerate(alone):
        torch.testing.assert_close(heads.weight[index], layer.weight.data, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(heads(features)[index], layer(features).data, atol=1e-4, rtol=1e-4)


def test_it_learns_what_is_there_to_learn() -> None:
    features, labels = data()
    heads = LinearHeads(12, 5, (0.1,))
    first = heads.sgd_step(features, labels)
    for _ in range(60):
        last = heads.sgd_step(features, labels)
    assert last.item() < 0.1 * first.item()
    assert (heads(features)[0].argmax(1) == labels).all()


def test_one_diverging_head_leaves_the_others_alone() -> None:
    features, labels = data()
    both, single = LinearHeads(12, 5, (0.1, 3e38)), LinearHeads(12, 5, (0.1,))
    for _ in range(5):
        both.sgd_step(features, labels)
        single.sgd_step(features, labels)
    assert not both.weight[1].isfinite().all()
    torch.testing.assert_close(both.weight[0], single.weight[0])


def test_rates_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        LinearHeads(2, 2, ())
    with pytest.raises(ValueError, match="positive"):
        LinearHeads(2, 2, (0.1, 0.0))
