"""ML-Decoder: against attention written out, groups of classes, and tokens in any order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vitrail.config import ConfigError
from vitrail.nn.ml_decoder import MlDecoder, MlDecoderConfig

SMALL = MlDecoderConfig(width=12, heads=3, hidden=20, dropout=0)


def head(config: MlDecoderConfig = SMALL, classes: int = 5) -> MlDecoder:
    torch.manual_seed(0)
    made = MlDecoder(config, 8, classes).double()
    torch.nn.init.normal_(made.bias)
    return made


def tokens(batch: int = 2, count: int = 6) -> Tensor:
    return torch.randn(batch, count, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def brute_force(made: MlDecoder, given: Tensor, group_of: list[int]) -> Tensor:
    """Image by image, query by query, attention head by attention head."""
    width, heads = made.config.width, made.config.heads
    part = width // heads
    logits = torch.empty(len(given), made.classes, dtype=torch.float64)
    for row, image in enumerate(given):
        embedded = [F.relu(made.embed(token)) for token in image]
        answers = []
        for query in made.queries:
            start = F.layer_norm(query, (width,), made.norm_queries.weight, made.norm_queries.bias)
            seen = []
            for number in range(heads):
                own = slice(number * part, (number + 1) * part)
                likeness = torch.stack([made.query(start)[own] @ made.key(token)[own] for token in embedded])
                weights = (likeness / part**0.5).softmax(0)
                seen.append(sum(w * made.value(token)[own] for w, token in zip(weights, embedded)))
            answer = made.norm_attention(start + made.proj(torch.cat(seen)))
            answers.append(made.norm_mlp(answer + made.mlp[3](F.relu(made.mlp[0](answer)))))
        for number, group in enumerate(group_of):
            logits[row, number] = made.weight[number] @ answers[group] + made.bias[number]
    return logits


def test_one_group_a_class_by_brute_force() -> None:
    made, given = head(), tokens()
    assert made.groups == 5
    torch.testing.assert_close(made(given), brute_force(made, given, [0, 1, 2, 3, 4]))


@pytest.mark.parametrize(
    ("classes", "groups", "group_of"),
    [(6, 2, [0, 0, 0, 1, 1, 1]), (5, 2, [0, 0, 0, 1, 1]), (5, 1, [0] * 5), (10, 6, [0, 0, 1, 1, 2, 3, 3, 4, 4, 5])],
)
def test_fewer_groups_than_classes(classes: int, groups: int, group_of: list[int]) -> None:
    made, given = head(SMALL.model_copy(update={"groups": groups}), classes), tokens()
    assert made.queries.shape == (groups, 12)
    logits = made(given)
    torch.testing.assert_close(logits, brute_force(made, given, group_of))
    logits.square().sum().backward()
    for name, value in made.named_parameters():
        assert value.grad is not None, name
        if name != "key.bias":  # it moves all of a query's likenesses alike, which the softmax does not see
            assert float(value.grad.abs().max()) > 1e-6, name
    assert made.weight.grad is not None
    assert bool(made.weight.grad.any(1).all())  # each class learns from its own weights


def test_the_order_of_the_tokens_does_not_matter_and_their_number_is_free() -> None:
    made, given = head(), tokens(3, 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(made(given[:, order]), made(given))
    assert not torch.allclose(made(given[:, :4]), made(given))
    twice = torch.cat((given, given), 1)
    torch.testing.assert_close(made(twice), made(given))  # attention is a mean
    assert made(given[:, :1]).shape == (3, 5)


def test_queries_rest_unless_they_are_to_learn() -> None:
    made = head()
    assert "queries" not in dict(made.named_parameters())
    assert "queries" in made.state_dict()  # a file must bring them: they are drawn
    learning = head(SMALL.model_copy(update={"learned_queries": True}))
    learning(tokens()).square().sum().backward()
    assert isinstance(learning.queries, torch.nn.Parameter)
    assert bool(learning.queries.grad.any(1).all())
    again = MlDecoder(SMALL, 8, 5).double()
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(again(tokens()), made(tokens()))


def test_the_published_sizes() -> None:
    config = MlDecoderConfig()
    assert (config.width, config.heads, config.hidden, config.dropout) == (768, 8, 2048, 0.1)
    assert MlDecoder(SMALL, 8, 250).groups == 100
    assert MlDecoder(SMALL, 8, 80).groups == 80
    made = MlDecoder(config, 768, 80)
    count = sum(value.numel() for value in made.parameters())
    # Tokens to width, four projections, the feed-forward layer, three norms, a row and a bias a class.
    assert count == 5 * (768 * 768 + 768) + 2 * 768 * 2048 + 2048 + 768 + 3 * 2 * 768 + 80 * 769


def test_dropout_is_off_in_evaluation() -> None:
    made, given = head(SMALL.model_copy(update={"dropout": 0.5})), tokens()
    assert not torch.allclose(made(given), made(given))
    made.eval()
    assert torch.equal(made(given), made(given))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="6 groups are more than the 5 classes; set groups to 5"):
        head(SMALL.model_copy(update={"groups": 6}))
    with pytest.raises(ConfigError, match="width 10 does not split into 3 heads"):
        SMALL.override(["width=10"])
    with pytest.raises(ValueError, match=r"tokens are \[2, 0, 8\].*at least one"):
        head()(tokens(2, 0))
    with pytest.raises(ValueError, match=r"takes \[B, K, 8\]"):
        head()(tokens()[..., :4])
