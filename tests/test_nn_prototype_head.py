"""The prototype head: cosines, linearity, freezing, half precision; and heads of DINO and iBOT under its names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail.nn.prototype_head import HeadConfig, PrototypeHead

SIZES: dict[str, Any] = {"prototypes": 11, "hidden_dim": 12, "bottleneck_dim": 6}
TOKENS = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


class PlainHead(nn.Module):
    """DINO's head as its paper tells it, with the names of its files, and torch's own weight normalization."""

    def __init__(self, layers: int = 3, *, old: bool = False, learned: bool = True, patches: int = 0) -> None:
        super().__init__()
        wide, narrow = SIZES["hidden_dim"], SIZES["bottleneck_dim"]
        parts: list[nn.Module] = [nn.Linear(8, wide)]
        for _ in range(layers - 2):
            parts += [nn.GELU(), nn.Linear(wide, wide)]
        parts += [nn.GELU(), nn.Linear(wide, narrow)]
        self.mlp: nn.Module = nn.Sequential(*parts) if layers > 1 else nn.Linear(8, narrow)
        wrap: Any = nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm
        self.last_layer = wrap(nn.Linear(narrow, SIZES["prototypes"], bias=False))
        self.last_layer2 = wrap(nn.Linear(narrow, patches, bias=False)) if patches else None
        names = ["weight_g"] if old else ["parametrizations.weight.original0"]
        for name, value in self.named_parameters():
            if name.rpartition("last_layer")[2].lstrip("2.") in names:
                value.data = torch.rand_like(value) + 0.5 if learned else torch.ones_like(value)

    def forward(self, tokens: Tensor, patches: bool = False) -> Tensor:
        layer = self.last_layer2 if patches else self.last_layer
        return layer(functional.normalize(self.mlp(tokens), dim=-1, p=2))  # type: ignore[misc]


def head(layers: int = 3, *, fixed_norm: bool = False, **sizes: Any) -> PrototypeHead:
    torch.manual_seed(1)
    return PrototypeHead(HeadConfig(**SIZES | sizes, layers=layers, fixed_norm=fixed_norm), 8)


def test_logits_are_cosines() -> None:
    module = head(fixed_norm=True)
    expected = functional.cosine_similarity(module.mlp(TOKENS)[:, None], module.prototypes[None], dim=-1)
    torch.testing.assert_close(module(TOKENS), expected)
    assert module.norms is None
    torch.testing.assert_close(module.embed(TOKENS).norm(dim=-1), torch.ones(5))


def test_start_as_published() -> None:
    module = PrototypeHead(HeadConfig(prototypes=500, hidden_dim=64, bottleneck_dim=64, fixed_norm=False), 64)
    assert [type(part) for part in module.mlp] == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]
    assert module.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not module.mlp[2].bias.any()
    assert 0.99 / 8 < module.prototypes.abs().max() <= 1 / 8
    assert module.norms is not None
    assert torch.equal(module.norms, torch.ones(500))


def test_the_logits_of_a_mean_are_the_mean_of_the_logits() -> None:
    module = head().double()
    with torch.no_grad():
        module.norms.uniform_(0.5, 2)  # type: ignore[union-attr]
    embedded = module.embed(TOKENS.double())
    torch.testing.assert_close(module.compare(embedded.mean(0)), module.compare(embedded).mean(0))


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_groups_let_prototypes_and_their_lengths_rest(share: float) -> None:
    module = head()
    groups = module.groups(frozen_until=share, weight_decay=0.04, weight_decay_end=0.4)
    found = {id(value): group for group in groups for value in group["params"]}
    assert found.keys() == {id(value) for value in module.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(found)
    for name, value in module.named_parameters():
        rests = name in ("prototypes", "norms") and share > 0
        assert found[id(value)].get("frozen_until", 0) == (share if rests else 0), name
        assert found[id(value)]["weight_decay"] == (0.04 if value.ndim > 1 else 0.0), name


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_comparisons_stay_in_float32(kind: torch.dtype) -> None:
    module = head(bottleneck_dim=64)
    with torch.autocast("cpu", kind):
        embedded, logits = module.embed(TOKENS), module(TOKENS)
    assert logits.dtype == embedded.dtype == torch.float32
    torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(5))
    assert torch.equal(logits, module.compare(embedded))


def test_no_tokens() -> None:
    module = head()
    logits = module(torch.zeros(0, 8))
    logits.sum().backward()
    assert logits.shape == (0, 11)
    assert all(value.grad is not None and not value.grad.any() for value in module.parameters())


class TestTranslated:
    @pytest.mark.parametrize("layers", [1, 2, 3, 4])
    @pytest.mark.parametrize("old", [False, True], ids=["parametrizations", "weight_g"])
    @pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
    def test_published_heads_give_the_same_logits(self, layers: int, old: bool) -> None:
        torch.manual_seed(2)
        theirs, ours = PlainHead(layers, old=old), head(layers)
        assert ("last_layer.weight_g" in theirs.state_dict()) == old
        ours.load_state_dict(ours.translated(theirs.state_dict()))
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS))

    def test_lengths_of_one_need_no_norms(self) -> None:
        theirs, ours = PlainHead(learned=False), head(fixed_norm=True)
        ours.load_state_dict(ours.translated(theirs.state_dict()))
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS))

    def test_learned_lengths_need_the_option(self) -> None:
        with pytest.raises(ValueError, match=r"from 0\.\d+ to 1\.\d+, and this head keeps all at 1; set fixed_norm=fa"):
            head(fixed_norm=True).translated(PlainHead().state_dict())

    def test_own_names(self) -> None:
        one, other = head(), head()
        with torch.no_grad():
            for value in one.parameters():
                value.add_(torch.rand_like(value))
        other.load_state_dict(other.translated(one.state_dict()))
        assert torch.equal(other(TOKENS), one(TOKENS))
        plain = head(fixed_norm=True)
        other.load_state_dict(other.translated(plain.state_dict()))
        assert torch.equal(other(TOKENS), plain(TOKENS))
        with pytest.raises(ValueError, match="set fixed_norm=false"):
            plain.translated(one.state_dict())

    def test_ibot_s_prototypes_of_patches_are_left_to_another_part(self) -> None:
        theirs, ours = PlainHead(patches=9), head()
        ours.load_state_dict(ours.translated(theirs.state_dict()))
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS))

    @pytest.mark.parametrize(
        ("name", "words"),
        [("mlp.1.running_mean", "batch norm in its MLP"), ("last_norm.weight", "normalizes its outputs")],
    )
    def test_heads_that_are_built_otherwise(self, name: str, words: str) -> None:
        state = PlainHead().state_dict() | {name: torch.zeros(12)}
        with pytest.raises(ValueError, match=rf"{words} \({name}\).*vitrail export"):
            head().translated(state)

    def test_a_head_without_prototypes(self) -> None:
        state = {name: value for name, value in PlainHead().state_dict().items() if name.startswith("mlp.")}
        with pytest.raises(ValueError, match="no last_layer"):
            head().translated(state)
