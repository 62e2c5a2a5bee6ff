"""The object-aware filter: golden numbers, brute force, what passes as it is, and precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitrail.config import ConfigError
from vitrail.nn.groups import parameter_groups
from vitrail.nn.object_filter import ObjectFilter, ObjectFilterConfig
from vitrail.nn.open_block import OpenBlock

GRID = (3, 4)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def a_filter(width: int = 12, heads: int = 3, **settings: Any) -> ObjectFilter:
    """With numbers that matter everywhere, in float64."""
    made = ObjectFilter(ObjectFilterConfig(**{"prototypes": 5} | settings), width, heads).double()
    with torch.no_grad():
        for seed, value in enumerate(made.parameters()):
            value.copy_(0.3 * drawn(*value.shape, seed=seed))
    return made


def brute_force(made: ObjectFilter, tokens: Tensor) -> Tensor:
    """o of Eq. 17 to 19 for patches `[N, D]` of GRID, cell by cell."""
    rows, columns = GRID
    width = tokens.shape[1]
    each = width // made.heads
    query = tokens @ made.query.weight.T + made.query.bias
    found = torch.zeros(rows * columns, width, dtype=tokens.dtype)
    for y in range(rows):
        for x in range(columns):
            for head in range(made.heads):
                part = slice(head * each, (head + 1) * each)
                scores, values = [], []
                for prototype in made.prototypes:
                    score = torch.zeros((), dtype=tokens.dtype)
                    mean = torch.zeros(each, dtype=tokens.dtype)
                    for dy in range(3):
                        for dx in range(3):
                            cell = prototype[:, dy, dx]
                            mean += (made.value.weight @ cell + made.value.bias)[part] / 9
                            ny, nx = y + dy - 1, x + dx - 1
                            if 0 <= ny < rows and 0 <= nx < columns:
                                key = (made.key.weight @ cell + made.key.bias)[part]
                                score += query[ny * columns + nx, part] @ key
                    scores.append(score / math.sqrt(each))
                    values.append(mean)
                found[y * columns + x, part] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return found


class TestGolden:
    @pytest.fixture
    def golden(self, oracle: Callable[[str], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return oracle("oaf_text_reference")

    def made(self, golden: dict[str, np.ndarray], heads: int, **settings: Any) -> ObjectFilter:
        made = ObjectFilter(ObjectFilterConfig(prototypes=5, **settings), 24, heads).double()
        with torch.no_grad():
            made.prototypes.copy_(torch.from_numpy(golden["U"]))
            for part, name in ((made.query, "Wq"), (made.key, "Wk"), (made.value, "Wv")):
                part.weight.copy_(torch.from_numpy(golden[name])[:, :, 0, 0])
        return made

    @pytest.mark.parametrize("heads", [1, 3])
    def test_output_and_attention(self, golden: dict[str, np.ndarray], heads: int) -> None:
        made = self.made(golden, heads)
        patches = torch.from_numpy(golden["h"]).flatten(2).transpose(1, 2)
        with torch.no_grad():
            found, attention = made.filtered(patches, (7, 7)), made.attention(patches, (7, 7))
        np.testing.assert_allclose(found, golden[f"out_{heads}head"], rtol=0, atol=1e-10)
        scores = torch.from_numpy(golden[f"mu_{heads}head"]) / math.sqrt(24 // heads)  # [B, heads, N, M]
        expected = scores.softmax(-1).transpose(2, 3).unflatten(3, (7, 7))
        torch.testing.assert_close(attention, expected, rtol=0, atol=1e-10)

    def test_the_concatenation(self, golden: dict[str, np.ndarray]) -> None:
        """Eq. 19: what the linear layer reads, where the filter asks with what it is put beside."""
        made = self.made(golden, 1, reads="attention")
        seen: list[Tensor] = []
        made.join.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        patches = torch.from_numpy(golden["h"]).flatten(2).transpose(1, 2)
        with torch.no_grad():
            made(torch.full_like(patches, math.nan), patches, (7, 7))
        np.testing.assert_allclose(seen[0], golden["h_o_1head"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_brute_force_with_biases(heads: int) -> None:
    made, tokens = a_filter(heads=heads), drawn(2, 12, 12, seed=9)
    with torch.no_grad():
        expected = torch.stack([brute_force(made, each) for each in tokens])
        torch.testing.assert_close(made.filtered(tokens, GRID), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reads", ["input", "attention"])
def test_the_whole_is_a_linear_layer_of_both(reads: str) -> None:
    made, normed, attended = a_filter(reads=reads), drawn(2, 14, 12, seed=8), drawn(2, 14, 12, seed=9)
    asking = normed if reads == "input" else attended
    with torch.no_grad():
        found = made(normed, attended, GRID)
        both = torch.cat((attended[:, 2:], made.filtered(asking, GRID)), dim=-1)
        weight = made.join.weight + torch.eye(12, 24, dtype=torch.float64)
    assert torch.equal(found[:, :2], attended[:, :2])  # the class token and a register
    torch.testing.assert_close(found[:, 2:], both @ weight.T + made.join.bias, rtol=0, atol=1e-12)


def test_a_class_token_that_asks_stands_in_all_cells() -> None:
    """In the middle of a picture that is everywhere the same token, a patch is scored just so."""
    made = a_filter(class_token=True)
    normed, attended = drawn(2, 11, 12, seed=8), drawn(2, 11, 12, seed=9)
    with torch.no_grad():
        found = made(normed, attended, (3, 3))
        constant = made.filtered(normed[:, :1].expand(-1, 9, -1), (3, 3))[:, 4:5]
        changed = made.join(torch.cat((attended[:, :1], constant), dim=-1))
        plain = a_filter()(normed, attended, (3, 3))
    torch.testing.assert_close(found[:, :1], attended[:, :1] + changed, rtol=0, atol=1e-12)
    assert torch.equal(found[:, 1], attended[:, 1])
    torch.testing.assert_close(found[:, 2:], plain[:, 2:], rtol=0, atol=1e-12)


def test_without_any_other_token_all_are_patches() -> None:
    made, tokens = a_filter(class_token=True), drawn(2, 12, 12)
    with torch.no_grad():
        assert torch.equal(made(tokens, tokens, GRID), a_filter()(tokens, tokens, GRID))


def test_attention_sums_to_one_and_knows_rows_from_columns() -> None:
    made, tokens = a_filter(), drawn(2, 14, 12)
    with torch.no_grad():
        attention = made.attention(tokens, GRID)
        assert attention.shape == (2, 3, 5, *GRID)
        torch.testing.assert_close(attention.sum(2), torch.ones(2, 3, *GRID, dtype=torch.float64))
        # A prototype mirrored left to right sees a mirrored picture as the plain one sees the plain picture.
        made.prototypes.copy_(made.prototypes.flip(-1))
        mirrored = tokens[:, 2:].unflatten(1, GRID).flip(2).flatten(1, 2)
        torch.testing.assert_close(made.attention(mirrored, GRID).flip(-1), attention, rtol=0, atol=1e-12)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("class_token", [False, True])
def test_a_fresh_one_changes_nothing(precision: torch.dtype, class_token: bool) -> None:
    made = ObjectFilter(ObjectFilterConfig(class_token=class_token), 48, 3)
    normed, attended = drawn(2, 50, 48).float(), drawn(2, 50, 48, seed=1).to(precision)
    with torch.autocast("cpu", enabled=precision == torch.bfloat16):
        assert torch.equal(made(normed, attended, (7, 7)), attended)


def test_gradients() -> None:
    made = a_filter(width=6, heads=2, prototypes=2, class_token=True)
    names = [name for name, _ in made.named_parameters()]
    normed, attended = drawn(1, 7, 6, seed=8).requires_grad_(), drawn(1, 7, 6, seed=9).requires_grad_()

    def run(normed: Tensor, attended: Tensor, *values: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(made, dict(zip(names, values)), (normed, attended, (2, 3)))
        return found

    assert torch.autograd.gradcheck(run, (normed, attended, *made.parameters()), nondet_tol=1e-10)


def test_the_first_step_reaches_the_join_and_the_second_all() -> None:
    made = ObjectFilter(ObjectFilterConfig(prototypes=5), 12, 3)
    tokens, wanted = drawn(2, 12, 12).float(), drawn(2, 12, 12, seed=1).float()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        (made(tokens, tokens, GRID) - wanted).square().mean().backward()
        optimizer.step()
        moved.append({name for name, value in made.named_parameters() if value.grad is not None and value.grad.any()})
    assert moved[0] == {"join.weight", "join.bias"}
    assert moved[1] == {name for name, _ in made.named_parameters()}


def test_under_autocast_and_in_half_precision() -> None:
    made, tokens = a_filter(width=48).float(), drawn(2, 50, 48).float()
    with torch.no_grad():
        expected = made(tokens, tokens, (7, 7))
        with torch.autocast("cpu"):
            mixed = made(tokens.bfloat16(), tokens.bfloat16(), (7, 7))
            attention = made.attention(tokens, (7, 7))
        half = made.bfloat16()(tokens.bfloat16(), tokens.bfloat16(), (7, 7))
    assert (mixed.dtype, attention.dtype, half.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    for found in (mixed, half):
        assert float((found.float() - expected).norm() / expected.norm()) < 0.02


def test_sizes_and_how_it_starts() -> None:
    made = ObjectFilter(ObjectFilterConfig(), 384, 6)
    assert made.prototypes.numel() == 221_184  # as the paper says
    assert made.prototypes.shape == (64, 384, 3, 3)
    assert float(made.prototypes.detach().flatten(1).norm(dim=1).mean()) == pytest.approx(1.18, abs=0.05)
    assert not made.join.weight.any()
    assert "prototypes=64, heads=6" in repr(made)
    decayed = [group for group in parameter_groups(made, weight_decay=0.1) if group["weight_decay"]]
    assert any(value is made.prototypes for group in decayed for value in group["params"])


def test_no_picture_depends_on_the_others() -> None:
    made, tokens = a_filter(), drawn(3, 12, 12)
    with torch.no_grad():
        alone = made.filtered(tokens[1:2], GRID)
        torch.testing.assert_close(made.filtered(tokens, GRID)[1:2], alone, rtol=0, atol=1e-14)


def test_nothing_is_kept_between_calls() -> None:
    """However the parameters move, the next call knows."""
    made, tokens = a_filter().eval().requires_grad_(False), drawn(1, 12, 12)
    first = made(tokens, tokens, GRID)
    for change in (
        lambda: made.prototypes.data.mul_(2),  # leaves no version behind
        lambda: made.load_state_dict(a_filter(prototypes=5).state_dict() | {"key.bias": torch.ones(12)}),
        lambda: setattr(made.value, "bias", nn.Parameter(torch.ones(12, dtype=torch.float64))),
    ):
        change()
        then = made(tokens, tokens, GRID)
        assert not torch.allclose(then, first)
        first = then


class TestRefused:
    def test_heads_that_do_not_divide_the_width(self) -> None:
        with pytest.raises(ValueError, match=r"heads 5 does not divide the width 12.*the block's own 3"):
            ObjectFilter(ObjectFilterConfig(heads=5), 12, 3)

    def test_too_few_tokens(self) -> None:
        with pytest.raises(ValueError, match="11 tokens are fewer than the 3 x 4 patches"):
            a_filter()(drawn(1, 11, 12), drawn(1, 11, 12), GRID)

    def test_settings(self) -> None:
        with pytest.raises(ConfigError, match="prototypes"):
            ObjectFilterConfig().override(["prototypes=0"])


class TestInABlock:
    @pytest.fixture
    def block(self) -> OpenBlock:
        from timm.models.vision_transformer import Block

        torch.manual_seed(0)
        opened = OpenBlock(Block(12, 3, qkv_bias=True)).double().eval()
        opened.object_filter = a_filter()
        return opened

    def test_by_its_definition(self, block: OpenBlock) -> None:
        x = drawn(2, 13, 12)
        with torch.no_grad():
            normed = block.norm1(x)
            assert block.object_filter is not None
            middle = x + block.object_filter(normed, block.attn(normed), GRID)
            expected = middle + block.mlp(block.norm2(middle))
            torch.testing.assert_close(block(x, grid=GRID), expected)
            found, scores = block(x, grid=GRID, scores=True)
        torch.testing.assert_close(found, expected)
        assert scores.shape == (2, 3, 13)

    def test_never_passed_by_in_silence(self, block: OpenBlock) -> None:
        x = drawn(2, 13, 12)
        with pytest.raises(ValueError, match=r"needs the grid of the patches.*grid=\(Y, X\)"):
            block(x)
        with pytest.raises(ValueError, match=r"passes by its object-aware filter.*weights without a filter"):
            block.join(x, x)

    def test_taken_over_by_surgery(self, block: OpenBlock) -> None:
        operated = OpenBlock(block, msa_skip=False, norm2=False)
        assert operated.object_filter is block.object_filter
        x = drawn(2, 13, 12)
        with torch.no_grad():
            normed = block.norm1(x)
            assert block.object_filter is not None
            middle = block.object_filter(normed, block.attn(normed), GRID)
            torch.testing.assert_close(operated(x, grid=GRID), middle + block.mlp(middle))
