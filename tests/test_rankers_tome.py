"""Token merging in a ViT against one written out token by token, and the scores of its groups."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from tiny_vit import images, tiny_vit, vit_file
from torch import Tensor

from vitrail.backbones import TimmViT
from vitrail.ops.selection import select
from vitrail.rankers import open_ranker
from vitrail.rankers.tome import Groups, Tome, merged

OPENINGS = {
    "representatives": lambda folder: {"weights": vit_file(folder)},
    "last_groups": lambda folder: {"weights": vit_file(folder), "variant": "last_groups"},
    "inverse_size": lambda folder: {"weights": vit_file(folder), "variant": "inverse_size"},
    "registers": lambda folder: {"weights": vit_file(folder, options={"reg_tokens": 2})},
}


def written_out(backbone: TimmViT, x: Tensor, merges: int) -> tuple[list[Tensor], list[list[int]]]:
    """Of one image: tokens after all blocks, and the members of each, the one that others were merged into first."""
    heads, prefix = backbone.heads, backbone.prefix_tokens
    tokens = list(backbone.embed(x[None])[0][0])
    members = [[index] for index in range(len(tokens))]
    blocks: list[Any] = list(backbone.vit.blocks)
    for block in blocks:
        normed = torch.stack([block.norm1(token) for token in tokens])
        query, key, value = block.attn.qkv(normed).view(len(tokens), 3, heads, -1).unbind(1)
        sizes = torch.tensor([float(len(each)) for each in members], dtype=x.dtype)
        rows = []
        for i in range(len(tokens)):
            mix = []
            for h in range(heads):
                weights = sizes * (key[:, h] @ query[i, h] / math.sqrt(key.shape[-1])).exp()  # a token s times
                mix.append((weights[:, None] * value[:, h]).sum(0) / weights.sum())
            rows.append(tokens[i] + block.attn.proj(torch.cat(mix)))
        direction = key.mean(1) / key.mean(1).norm(dim=1, keepdim=True)
        rows, members = merge_once(rows, members, direction @ direction.T, merges, prefix)
        tokens = [row + block.mlp(block.norm2(row)) for row in rows]
    return tokens, members


def merge_once(
    rows: list[Tensor], members: list[list[int]], alike: Tensor, merges: int, prefix: int
) -> tuple[list[Tensor], list[list[int]]]:
    count = len(rows)
    merges = min(merges, (count - prefix) // 2)
    if not merges:
        return rows, members
    edges = sorted(
        max((float(alike[a, b]), a, b) for b in range(1, count, 2) if b >= prefix)
        for a in range(prefix + prefix % 2, count, 2)
    )
    into = {a: b for _, a, b in edges[::-1][:merges]}
    order = [a for a in range(0, count, 2) if a not in into] + list(range(1, count, 2))
    order = list(range(prefix)) + [place for place in order if place >= prefix]
    new_rows, new_members = [], []
    for place in order:
        joined = [place, *sorted(a for a, b in into.items() if b == place)]
        weights = [len(members[each]) for each in joined]
        new_rows.append(sum(w * rows[each] for w, each in zip(weights, joined)) / sum(weights))
        new_members.append([member for each in joined for member in members[each]])
    return new_rows, new_members


def groups_of(backbone: TimmViT, x: Tensor, merges: int) -> Groups:
    with torch.no_grad():
        return merged(backbone, *backbone.embed(x), merges)


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 1}, {"reg_tokens": 2}])
@pytest.mark.parametrize("merges", [0, 1, 3, 5, 9])
def test_written_out(options: dict[str, int], merges: int) -> None:
    backbone, x = tiny_vit(options=options).double(), images(2).double()
    prefix = backbone.prefix_tokens
    found = groups_of(backbone, x, merges)
    for b in range(2):
        tokens, members = written_out(backbone, x[b], merges)
        torch.testing.assert_close(found.tokens[b], torch.stack(tokens))
        assert found.sizes[b].tolist() == [len(each) for each in members]
        assert found.seeds[b].tolist() == [each[0] - prefix for each in members[prefix:]]
        groups = [sorted(each - prefix for each in one) for one in members[prefix:]]
        assert [(found.group[b] == g).nonzero().flatten().tolist() for g in range(len(groups))] == groups


def test_without_merging_it_is_the_plain_network() -> None:
    backbone, x = tiny_vit(), images(2, 32, 48)
    found, plain = groups_of(backbone, x, 0), backbone(x, layers=(-1,))
    torch.testing.assert_close(found.tokens, plain.layers[-1])
    assert torch.equal(found.group, torch.arange(24).expand(2, -1))
    assert torch.equal(found.seeds, found.group)


def test_the_number_of_groups_follows_from_the_number() -> None:
    backbone = tiny_vit(image_size=64)  # 64 patches in 3 blocks
    ranker, x = Tome(backbone), images(2, 64, 64)
    for number in range(1, 65):
        scores = ranker(x, number=number).flatten(1)
        count = (scores > 1).sum(1)
        left = 64
        for _ in range(3):
            left -= min((65 - number) // 3, left // 2)
        assert count.tolist() == [left, left]
        assert number - 1 <= left <= number + 1 or number < 15  # there, half of the tokens is the bound


def test_scores_by_the_size_of_groups() -> None:
    backbone, x = tiny_vit(), images(2)
    found = groups_of(backbone, x, int((16 + 1 - 6) / 3))
    count = found.seeds.shape[1]
    scores = {
        variant: Tome(backbone, variant)(x, number=6).flatten(1) for variant in OPENINGS if variant != "registers"
    }
    for b in range(2):
        for patch in range(16):
            group = int(found.group[b, patch])
            inverse = 1 / int((found.group[b] == group).sum())
            first = int(found.seeds[b, group]) == patch
            assert float(scores["inverse_size"][b, patch]) == pytest.approx(inverse)
            assert float(scores["representatives"][b, patch]) == pytest.approx(inverse + first)
            place = 1 + (group + 1) / count if first else inverse
            assert float(scores["last_groups"][b, patch]) == pytest.approx(place)


def test_one_of_each_group_is_kept() -> None:
    backbone, x = tiny_vit(), images(3)
    for number in (3, 7, 12):
        found = groups_of(backbone, x, int((17 - number) / 3))
        ids = select(Tome(backbone)(x, number=number), found.seeds.shape[1])
        assert torch.equal(ids, found.seeds.sort(dim=1).values)


def test_patches_of_one_color_are_merged_with_their_like() -> None:
    backbone = tiny_vit(image_size=64)
    backbone.vit.pos_embed.zero_()
    colors = torch.randint(0, 4, (2, 1, 8, 8), generator=torch.Generator().manual_seed(2))
    palette = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    x = palette[colors[:, 0]].permute(0, 3, 1, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    found = groups_of(backbone, x, 10)
    for b in range(2):
        for group in range(found.seeds.shape[1]):
            assert len(set(colors[b].flatten()[found.group[b] == group].tolist())) == 1


def test_a_generator_draws_the_representatives() -> None:
    backbone, x = tiny_vit(), images(1)
    found = groups_of(backbone, x, int((17 - 6) / 3))
    generator, ranker = torch.Generator().manual_seed(0), Tome(backbone)
    counts = torch.zeros(16)
    for _ in range(30):
        counts += (ranker(x.expand(10, -1, -1, -1), number=6, generator=generator).flatten(1) > 1).sum(0)
    for patch in range(16):
        size = int((found.group[0] == found.group[0, patch]).sum())
        assert abs(counts[patch] - 300 / size) < 5 * math.sqrt(300 / size * (1 - 1 / size)) + 1e-6


def test_what_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="has no variant 'first'; known: representatives, last_groups, inverse_size"):
        open_ranker("tome", vit_file(tmp_path), variant="first")
    with pytest.raises(ValueError, match="variant is 'first'; known"):
        Tome(tiny_vit(), "first")
    with pytest.raises(ValueError, match="of the ranker tome depend on how many patches are kept; pass number="):
        Tome(tiny_vit())(images())
    with torch.device("meta"):
        closed = TimmViT(timm.create_model("vit_base_patch16_18x2_224", depth=2))
    with pytest.raises(ValueError, match="the ranker tome merges tokens inside all blocks; block 0: a block of type"):
        Tome(closed)
