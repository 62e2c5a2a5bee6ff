"""AdaViT as a ranker: what blocks use, computed by hand, and the scores of both variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitrail.backbones import BackboneConfig, TimmViT, create, load_part, save_exported, with_part
from vitrail.contracts import Ranker
from vitrail.rankers import open_ranker
from vitrail.rankers.ada_vit import AdaVitRanker, Used, adapt, decide, decisions, votes

TINY = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=4, heads=2)
N = 16


def network(config: BackboneConfig = TINY) -> tuple[TimmViT, nn.ModuleDict]:
    """With decisions that go both ways."""
    torch.manual_seed(0)
    vit = create(config).eval().requires_grad_(False)
    parts = decisions(vit).requires_grad_(False)
    for name, value in parts.named_parameters():
        value.copy_(torch.randn_like(value) * (0.5 if name.endswith("weight") else 0))
    return vit, parts


def images(size: int = 24, count: int = 4) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def deciding_file(folder: Path) -> dict[str, Any]:
    vit, parts = network()
    save_exported(with_part(vit.export(), "decisions", parts, {"threshold": 0.5}), folder / "x.safetensors")
    return {"weights": str(folder / "x.safetensors")}


OPENINGS = {
    "last_block": deciding_file,
    "summed": lambda folder: deciding_file(folder) | {"variant": "summed"},
}


def by_hand(vit: TimmViT, parts: nn.ModuleDict, image: Tensor, threshold: float) -> tuple[Tensor, list[list[int]]]:
    """The class token, and which patches each deciding block used; what is not used is really left out."""
    x = vit.embed(image[None])[0][0]
    used = []
    for index, block in enumerate(vit.vit.blocks):
        if index == 0:
            x = block(x[None])[0]
            continue
        part: Any = parts[str(index)]
        normed = block.norm1(x)
        rows = [0, *(1 + j for j in range(N) if torch.sigmoid(part.token(normed[1 + j])) > threshold)]
        heads, (attends, changes) = part.head(x[0]) > 0, part.layer(x[0]) > 0
        used.append([row - 1 for row in rows[1:]])
        if attends:
            attn = block.attn
            query, key, value = attn.qkv(normed[rows]).view(len(rows), 3, attn.num_heads, -1).permute(1, 2, 0, 3)
            mixed = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1) @ value
            mixed[~heads] = 0
            x = x.index_add(0, torch.tensor(rows), attn.proj(mixed.transpose(0, 1).flatten(1)))
        if changes:
            x = x.index_add(0, torch.tensor(rows), block.mlp(block.norm2(x[rows])))
    return vit.norm(x)[0], used


@pytest.mark.parametrize("threshold", [0.5, 0.6])
def test_what_is_not_used_is_as_if_it_were_not_there(threshold: float) -> None:
    vit, parts = network()
    given = images()
    adapted = adapt(vit, parts, given, threshold=threshold)
    counts = set()
    for row, image in enumerate(given):
        cls, used = by_hand(vit, parts, image, threshold)
        torch.testing.assert_close(adapted.cls[row], cls, rtol=1e-4, atol=1e-4)
        for block, patches in zip(adapted.used, used, strict=True):
            assert block.tokens[row].nonzero().flatten().tolist() == patches
            counts.add(len(patches))
    assert len(counts) > 1
    assert any(0 < float(block.heads.mean()) < 1 for block in adapted.used)
    assert any(0 < float(block.layers.mean()) < 1 for block in adapted.used)


def test_everything_used_is_the_plain_network() -> None:
    vit, parts = network()
    for value in parts.parameters():
        value.fill_(0)
    for part in parts.values():
        for linear in part.children():
            linear.bias.fill_(9)  # type: ignore[union-attr]
    adapted, tokens = adapt(vit, parts, images()), vit(images())
    torch.testing.assert_close(adapted.cls, tokens.cls, rtol=0, atol=2e-6)
    torch.testing.assert_close(adapted.patches, tokens.patches, rtol=0, atol=5e-6)


def test_decisions_are_hard_and_their_gradients_soft() -> None:
    logits = torch.tensor([-2.0, 0.3, 1.0], requires_grad=True)
    hard, soft = decide(logits, noisy=False, threshold=0.6)
    assert hard.tolist() == [0, 0, 1]
    hard.sum().backward()
    torch.testing.assert_close(logits.grad, (soft * (1 - soft)).detach())
    torch.manual_seed(0)
    drawn, clean = decide(torch.full((20000,), 0.8), noisy=True)
    assert clean.unique().tolist() == [pytest.approx(torch.tensor(0.8).sigmoid().item())]
    assert drawn.mean().item() == pytest.approx(torch.tensor(0.8).sigmoid().item(), abs=0.015)


def test_the_variants_by_hand() -> None:
    torch.manual_seed(0)
    soft = torch.rand(8, 1, 5)
    rest = torch.ones(1, 1), torch.ones(1, 2)
    blocks = [Used((each > 0.5).float(), *rest, each, *rest) for each in soft]
    last = votes(blocks[-1:])[0]
    assert last.argsort(descending=True).tolist() == soft[-1, 0].argsort(descending=True).tolist()
    assert last.floor().tolist() == (soft[-1, 0] > 0.5).float().tolist()
    summed = votes(blocks)[0]
    count, among = (soft[:, 0] > 0.5).sum(0).tolist(), soft[:, 0].sum(0).tolist()
    expected = sorted(range(5), key=lambda patch: (-count[patch], -among[patch]))
    assert summed.argsort(descending=True).tolist() == expected


def test_the_ranker_counts_the_last_six_blocks_and_an_image_s_scores_are_its_own() -> None:
    vit, parts = network(TINY.model_copy(update={"depth": 9}))
    given = images(36)[:, :, :24]
    used = adapt(vit, parts, given).used
    assert len(used) == 8
    for variant, blocks in (("last_block", used[-1:]), ("summed", used[-6:])):
        ranker = AdaVitRanker(vit, parts, variant)
        assert isinstance(ranker, Ranker)
        scores = ranker(given)
        assert torch.equal(scores, votes(blocks).view(4, 4, 6))
        for row, image in zip(scores, given, strict=True):
            torch.testing.assert_close(ranker(image[None])[0], row)


def test_the_released_layout_is_read(tmp_path: Path) -> None:
    vit, parts = network(TINY.model_copy(update={"embed_dim": 64, "heads": 1}))
    content = {"head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)}
    for name, value in vit.vit.state_dict().items():
        if ".qkv." in name:
            for word, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                content[name.replace("qkv", word)] = part
        else:
            content[name] = value
    for name, value in parts.state_dict().items():
        block, word, what = name.split(".")
        inside = f"attn.{word}" if word == "token" else word
        content[f"blocks.{block}.{inside}_select.mlp_head.{what}"] = value
    torch.save({"state_dict": content}, tmp_path / "ada.pth")
    ranker: Any = open_ranker("ada_vit", str(tmp_path / "ada.pth"), variant="summed")
    assert ranker.backbone.report.layout == "AdaViT"
    assert ranker.threshold == 0.6
    assert torch.equal(ranker(images()), AdaVitRanker(vit, parts, "summed", 0.6)(images()))
    assert load_part(tmp_path / "ada.pth", "score_predictor") is None
    with pytest.raises(ValueError, match="no variant 'first'; known: last_block, summed"):
        open_ranker("ada_vit", str(tmp_path / "ada.pth"), variant="first")


def test_blocks_that_cannot_decide() -> None:
    with pytest.raises(ValueError, match="blocks from 4 on are to decide, and there are 4"):
        decisions(create(TINY), 4)
    with pytest.raises(ValueError, match="block 3 has lost a skip connection"):
        decisions(create(TINY.model_copy(update={"surgery": "C"})))
