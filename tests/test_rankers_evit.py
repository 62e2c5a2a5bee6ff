"""EViT as a ranker: which tokens stay, what they are fused to, and scores that always give exactly k patches."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_vit import vit_file
from torch import Tensor

from vitrail.backbones import BackboneConfig, TimmViT, create
from vitrail.contracts import Ranker
from vitrail.evaluation.selection_accuracy import flops_of
from vitrail.ops.selection import select
from vitrail.rankers import open_ranker
from vitrail.rankers.evit import EvitRanker, number_left, staged_scores, thin
from vitrail.rankers.stages import blocks_of, by_level, rate_for

TINY = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=4, heads=2)
N = 16
OPENINGS = {
    "fourth_layer": lambda folder: {"weights": vit_file(folder, depth=4)},
    "staged": lambda folder: {"weights": vit_file(folder, depth=4), "variant": "staged"},
}


def backbone(config: BackboneConfig = TINY) -> TimmViT:
    """A tiny ViT whose class token prefers some patches: fresh weights attend to all alike."""
    torch.manual_seed(0)
    made = create(config).eval().requires_grad_(False)
    for block in made.vit.blocks:
        block.attn.qkv.weight.mul_(20)
    return made


def images(size: int = 24, count: int = 3) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def attention_by_hand(block: torch.nn.Module, x: Tensor) -> Tensor:
    """Mean over heads of the class token's softmax, `[T]`, of one image's tokens `[T, D]`."""
    attn = block.attn
    query, key, _ = attn.qkv(block.norm1(x)).view(len(x), 3, attn.num_heads, -1).unbind(1)
    rows = [(query[0, head] @ key[:, head].T / math.sqrt(key.shape[-1])).softmax(-1) for head in range(attn.num_heads)]
    return sum(rows) / len(rows)


def run_by_hand(vit: TimmViT, image: Tensor, keep: float) -> tuple[Tensor, list[set[int]], list[dict[int, float]]]:
    """The class token, the patches that stayed at each stage, and what the class token gave to each patch there."""
    x = vit.embed(image[None])[0][0]
    names: list[int | None] = list(range(len(x) - 1))
    stayed, seen = [], []
    for number, block in enumerate(vit.vit.blocks):
        given = attention_by_hand(block, x)[1:].tolist()
        x = x + block.attn(block.norm1(x[None]))[0]
        if number in (1, 2, 3):
            seen.append({name: value for name, value in zip(names, given) if name is not None})
            count = math.ceil(keep * len(names))
            best = sorted(sorted(range(len(names)), key=lambda place: -given[place])[:count])
            rest = [place for place in range(len(names)) if place not in best]
            rows = [x[0], *(x[1 + place] for place in best)]
            names = [names[place] for place in best]
            if rest:
                rows.append(sum(given[place] * x[1 + place] for place in rest))
                names.append(None)
            x = torch.stack(rows)
            stayed.append({name for name in names if name is not None})
        x = x + block.mlp(block.norm2(x))
    return vit.norm(x)[0], stayed, seen


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.77])
def test_tokens_stay_and_are_fused_as_computed_by_hand(keep: float) -> None:
    vit, given = backbone(), images()
    thinned = thin(vit, given, keep)
    for number, image in enumerate(given):
        cls, stayed, _ = run_by_hand(vit, image, keep)
        torch.testing.assert_close(thinned.cls[number], cls, rtol=1e-4, atol=1e-5)
        for stage, kept in zip(thinned.stages, stayed, strict=True):
            ids = stage.ids[number, stage.kept[number]]
            assert set(ids[ids < N].tolist()) == kept


@pytest.mark.parametrize("number", [1, 3, 8, 15])
def test_staged_scores_order_by_stage_and_then_by_attention(number: int) -> None:
    vit, given = backbone(), images()
    keep = (number / N) ** (1 / 3)
    scores = staged_scores(thin(vit, given, keep)).flatten(1)
    for row, image in zip(scores, given, strict=True):
        _, stayed, seen = run_by_hand(vit, image, keep)
        level = {patch: sum(patch in stage for stage in stayed) for patch in range(N)}
        last = {patch: value for stage in seen for patch, value in stage.items()}
        expected = sorted(range(N), key=lambda patch: (-level[patch], -last[patch]))
        assert row.argsort(descending=True).tolist() == expected
        assert row.floor().int().tolist() == [level[patch] for patch in range(N)]


def test_a_fused_token_that_survives_stands_for_no_patch() -> None:
    """Somewhere a fused token is chosen again; the released code counted it as patch 0."""
    vit, given = backbone(), images(count=8)
    survived = 0
    for keep in (0.5, 0.8, 0.9):
        thinned = thin(vit, given, keep)
        for stage in thinned.stages:
            survived += int((stage.ids.gather(1, stage.kept) == N).sum())
        scores = staged_scores(thinned)
        assert scores.isfinite().all()
        assert float(scores.max()) < len(thinned.stages) + 1
    assert survived


def test_exactly_k_unique_patches_for_all_k() -> None:
    ranker, given = EvitRanker(backbone(), "staged"), images()
    for number in range(1, N + 1):
        ids = select(ranker(given, number=number), number)
        assert ids.shape == (3, number)
        assert all(len(set(row.tolist())) == number for row in ids)


def test_the_default_is_the_attention_at_the_fourth_of_twelve_blocks() -> None:
    vit = backbone(TINY.model_copy(update={"depth": 12}))
    given = images()
    ranker = EvitRanker(vit)
    assert ranker.blocks == (3, 6, 9)
    scores = ranker(given)
    for row, image in zip(scores.flatten(1), given, strict=True):
        x = vit.embed(image[None])[0]
        for block in vit.vit.blocks[:3]:
            x = block(x)
        torch.testing.assert_close(row, attention_by_hand(vit.vit.blocks[3], x[0])[1:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fuse", [True, False])
def test_everything_kept_is_the_plain_network(fuse: bool) -> None:
    vit, given = backbone(), images()
    thinned = thin(vit, given, 1.0, fuse=fuse)
    tokens = vit(given)
    torch.testing.assert_close(thinned.cls, tokens.cls, rtol=0, atol=1e-6)
    torch.testing.assert_close(thinned.tokens, tokens.patches, rtol=0, atol=1e-6)
    assert thinned.used == 1
    every = EvitRanker(vit, "staged")(given, number=N)
    assert (every.floor() == 3).all()


def test_an_image_s_scores_are_its_own_and_any_size_is_taken() -> None:
    vit = backbone()
    for variant, number in (("fourth_layer", None), ("staged", 9)):
        ranker, given = EvitRanker(vit, variant), images(36)[:, :, :24]
        assert isinstance(ranker, Ranker)
        together = ranker(given, number=number)
        assert together.shape == (3, 4, 6)
        assert together.dtype == torch.float32
        for row, image in zip(together, given, strict=True):
            torch.testing.assert_close(ranker(image[None], number=number)[0], row, rtol=1e-4, atol=1e-5)


def test_numbers_and_blocks_that_cannot_be() -> None:
    assert [number_left(0.7, count) for count in (10, 138, 196, 1)] == [7, 97, 138, 1]
    assert number_left(0.07, 100) == 7  # 7.000000000000001 as floats
    assert blocks_of(None, 12) == (3, 6, 9)
    assert blocks_of(None, 24) == (6, 12, 18)
    assert rate_for(49, 196, "x") ** 3 == pytest.approx(0.25)
    with pytest.raises(ValueError, match="3 stages, and there are 3 blocks"):
        blocks_of(None, 3)
    for wrong in ((), (2, 1), (1, 1), (4,), (-1,)):
        with pytest.raises(ValueError, match="choose ascending ones of 0 to 3"):
            blocks_of(wrong, 4)
    ranker = EvitRanker(backbone(), "staged")
    with pytest.raises(ValueError, match="pass number=, 1 to 16"):
        ranker(images())
    for number in (0, 17):
        with pytest.raises(ValueError, match=f"{number} patches are to be kept of 16"):
            ranker(images(), number=number)
    with pytest.raises(ValueError, match="keep is 0"):
        thin(backbone(), images(), 0.0)


def test_levels_come_before_soft_scores() -> None:
    level = torch.tensor([[0, 2, 2, 1]])
    scores = by_level(level, torch.tensor([[9.0, 1e-30, 0.0, 9.0]]))
    assert scores.tolist() == [[0.75, 2.25, 2.0, 1.5]]


def test_a_file_in_deit_s_layout_and_a_variant_of_another_name(tmp_path: Path) -> None:
    vit = backbone(TINY.model_copy(update={"embed_dim": 64, "heads": 1}))
    content = {**vit.vit.state_dict(), "head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)}
    torch.save({"model": content}, tmp_path / "evit.pth")
    ranker = open_ranker("evit", str(tmp_path / "evit.pth"), variant="staged")
    assert ranker.blocks == (1, 2, 3)
    torch.testing.assert_close(ranker(images(), number=5), EvitRanker(vit, "staged")(images(), number=5))
    with pytest.raises(ValueError, match="no variant 'first'; known: fourth_layer, staged"):
        open_ranker("evit", str(tmp_path / "evit.pth"), variant="first")
    with pytest.raises(ValueError, match="the ranker evit needs weights"):
        open_ranker("evit")


@pytest.mark.parametrize("number", [1, 2, 5, 8, 13, 16])
def test_the_patches_kept_first_are_the_survivors_of_the_network(number: int) -> None:
    """Those that the last block of the whole network works on, however many; k of them where k are asked for."""
    ranker, given = EvitRanker(backbone(), "staged"), images(count=6)
    thinned = thin(ranker.backbone, given, (number / N) ** (1 / 3), ranker.blocks)
    last = thinned.stages[-1]
    scores = ranker(given, number=number)
    for row, kept in zip(scores, last.ids.gather(1, last.kept), strict=True):
        survivors = sorted(kept[kept < N].tolist())
        assert abs(len(survivors) - number) <= 2
        if survivors:  # of 1 asked for, the fused token may be the one
            assert select(row[None], len(survivors))[0].tolist() == survivors
        chosen = set(select(row[None], number)[0].tolist())
        assert chosen <= set(survivors) or chosen >= set(survivors)


def test_operations_of_the_ranker_are_those_counted_by_hand() -> None:
    """2 a multiply-add: patch embedding, matrix products, and what the class token gives in the blocks that decide."""
    vit, one = backbone(), images(count=1)
    width, hidden, embedding = 24, 96, 2 * N * 24 * 3 * 6**2

    def attention(tokens: int) -> int:
        return 2 * tokens * width * 3 * width + 2 * 2 * tokens**2 * width + 2 * tokens * width**2

    def mlp(tokens: int) -> int:
        return 2 * 2 * tokens * width * hidden

    # Blocks 1, 2, 3 drop between attention and MLP: r = 0.63 keeps 11 of 16 patches, 8 of 12 tokens, 6 of 9.
    left = [1 + 16, 1 + 11 + 1, 1 + 8 + 1, 1 + 6 + 1]
    whole = embedding + attention(17) + mlp(17)
    for before, after in pairwise(left):
        whole += attention(before) + 2 * before * width + mlp(after)
    assert flops_of(lambda: EvitRanker(vit, "staged")(one, number=4)) == whole
    first = embedding + 2 * (attention(17) + mlp(17)) + 2 * 17 * width
    assert flops_of(lambda: EvitRanker(vit)(one)) == first
