"""DynamicViT as a ranker: what its predictors compute, exact numbers, and dropping against masking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitrail.backbones import BackboneConfig, TimmViT, create, load_part, save_exported, with_part
from vitrail.contracts import Ranker
from vitrail.ops.selection import select
from vitrail.rankers import open_ranker
from vitrail.rankers.dynamic_vit import DynamicVitRanker, Predictor, decided, drop, mask, predictors, staged_scores

TINY = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=4, heads=2)
N = 16


def network(config: BackboneConfig = TINY) -> tuple[TimmViT, nn.ModuleList]:
    torch.manual_seed(0)
    vit = create(config).eval().requires_grad_(False)
    parts = predictors(vit.embed_dim).requires_grad_(False)
    for value in parts.parameters():
        value.add_(torch.randn_like(value) * 0.3)  # fresh ones prefer no patch
    return vit, parts


def images(size: int = 24, count: int = 3) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def pruning_file(folder: Path) -> dict[str, Any]:
    vit, parts = network()
    save_exported(with_part(vit.export(), "score_predictor", parts, {}), folder / "x.safetensors")
    return {"weights": str(folder / "x.safetensors")}


OPENINGS = {"staged": pruning_file}


def test_a_predictor_by_hand() -> None:
    torch.manual_seed(0)
    part, x = Predictor(8), torch.randn(1, 5, 8)
    kept = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0]])
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    u = nn.functional.gelu(part.in_conv[1](normed))[0]
    mean = (u[0, 4:] + u[2, 4:] + u[3, 4:]) / 3
    for patch in range(5):
        z = torch.cat((u[patch, :4], mean))
        for index in (0, 2, 4):
            z = part.out_conv[index](z)
            z = nn.functional.gelu(z) if index < 4 else z
        torch.testing.assert_close(part(x, kept)[0, patch], z - z.exp().sum().log())


@pytest.mark.parametrize("number", [2, 5, 9, 16])
def test_ids_and_scores_as_composed_by_hand(number: int) -> None:
    vit, parts = network()
    given, keep = images(), (number / N) ** (1 / 3)
    sparse = drop(vit, parts, given, keep)
    scores = staged_scores(sparse).flatten(1)
    for row, image in enumerate(given):
        x = vit.embed(image[None])[0]
        left, level, last = list(range(N)), dict.fromkeys(range(N), 0), {}
        for index, block in enumerate(vit.vit.blocks):
            if index:
                says = parts[index - 1](x[:, 1:], torch.ones(1, len(left)))[0, :, 0].tolist()
                last |= dict(zip(left, says, strict=True))
                count = int(N * keep**index + 1e-9)
                best = sorted(sorted(range(len(left)), key=lambda place: -says[place])[:count])
                left = [left[place] for place in best]
                x = x[:, [0, *(1 + place for place in best)]]
                level |= {patch: level[patch] + 1 for patch in left}
            x = block(x)
        assert sparse.ids[row].tolist() == left
        torch.testing.assert_close(sparse.cls[row], vit.norm(x)[0, 0], rtol=1e-4, atol=1e-5)
        expected = sorted(range(N), key=lambda patch: (-level[patch], -last[patch]))
        assert scores[row].argsort(descending=True).tolist() == expected


def test_exactly_k_patches_are_left_for_all_k() -> None:
    vit, parts = network()
    ranker, given = DynamicVitRanker(vit, parts), images()
    assert isinstance(ranker, Ranker)
    for number in range(1, N + 1):
        sparse = drop(vit, parts, given, (number / N) ** (1 / 3))
        assert sparse.ids.shape == (3, number)
        assert torch.equal(select(ranker(given, number=number), number), sparse.ids)


def test_a_number_of_196_is_never_missed_by_rounding() -> None:
    vit, parts = network(TINY.model_copy(update={"image_size": 84}))
    for number in (2, 8, 16, 27, 30, 37, 52, 195):  # the released code leaves one less of the first seven
        assert drop(vit, parts, images(84, 1), (number / 196) ** (1 / 3)).ids.shape == (1, number)


def test_everything_kept_is_the_plain_network() -> None:
    vit, parts = network()
    given, tokens = images(), vit(images())
    dropped = drop(vit, parts, given, 1.0)
    assert dropped.used == 1
    torch.testing.assert_close(dropped.cls, tokens.cls, rtol=0, atol=1e-6)
    masked = decided(vit, parts, given, lambda says: torch.ones_like(says[:, :, 0]))
    torch.testing.assert_close(masked.cls, tokens.cls, rtol=0, atol=2e-6)
    torch.testing.assert_close(masked.patches, tokens.patches, rtol=0, atol=5e-6)


def test_dropping_is_masking_with_the_same_decisions() -> None:
    vit, parts = network()
    given, keep = images(), 0.7
    dropped = drop(vit, parts, given, keep)
    planned = []
    for stage in dropped.stages:
        planned.append(torch.zeros(3, N).scatter(1, stage.ids.gather(1, stage.kept), 1.0))
    decisions = iter(planned)
    masked = decided(vit, parts, given, lambda says: next(decisions))
    torch.testing.assert_close(masked.cls, dropped.cls, rtol=0, atol=1e-5)
    rows = dropped.ids.unsqueeze(-1).expand(-1, -1, 24)
    torch.testing.assert_close(masked.patches.gather(1, rows), dropped.patches, rtol=0, atol=1e-5)


def test_what_is_gone_stays_gone_and_draws_follow_the_probabilities() -> None:
    vit, parts = network()
    torch.manual_seed(0)
    given = images(count=2).repeat(200, 1, 1, 1)
    masked = mask(vit, parts, given)
    first, second, third = masked.decisions
    assert set(first.unique().round(decimals=5).tolist()) == {0.0, 1.0}
    assert (second <= first + 1e-6).all()
    assert (third <= second + 1e-6).all()
    probability = parts[0](vit.vit.blocks[0](vit.embed(given[:2])[0])[:, 1:], torch.ones(2, N))[:, :, 0].exp()
    torch.testing.assert_close(first.view(200, 2, N).mean(0), probability, rtol=0, atol=0.15)


def test_an_image_s_scores_are_its_own() -> None:
    ranker, given = DynamicVitRanker(*network()), images(36)[:, :, :24]
    together = ranker(given, number=9)
    assert together.shape == (3, 4, 6)
    for row, image in zip(together, given, strict=True):
        torch.testing.assert_close(ranker(image[None], number=9)[0], row)
    with pytest.raises(ValueError, match="pass number=, 1 to 24"):
        ranker(given)


def test_the_released_layout_is_read(tmp_path: Path) -> None:
    vit, parts = network(TINY.model_copy(update={"embed_dim": 64, "heads": 1}))
    content = {**vit.vit.state_dict(), "head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)}
    content |= {f"score_predictor.{key}": value for key, value in parts.state_dict().items()}
    names = {"in_conv.0", "in_conv.1", "out_conv.0", "out_conv.2", "out_conv.4"}
    assert {key.partition(".")[2].rpartition(".")[0] for key in parts.state_dict()} == names
    torch.save({"model": content}, tmp_path / "dynamic-vit.pth")
    ranker: Any = open_ranker("dynamic_vit", str(tmp_path / "dynamic-vit.pth"))
    assert ranker.backbone.report.layout == "DynamicViT"
    torch.testing.assert_close(ranker(images(), number=5), DynamicVitRanker(vit, parts)(images(), number=5))
    torch.save({"model": {key: content[key] for key in vit.vit.state_dict()}}, tmp_path / "deit.pth")
    assert load_part(tmp_path / "deit.pth", "score_predictor") is None
    with pytest.raises(ValueError, match="holds no score_predictor beside the backbone"):
        open_ranker("dynamic_vit", str(tmp_path / "deit.pth"))
    with pytest.raises(ValueError, match="the ranker dynamic_vit needs weights"):
        open_ranker("dynamic_vit")


def test_predictors_and_blocks_go_together() -> None:
    vit, parts = network()
    with pytest.raises(ValueError, match="3 predictors for 2 blocks"):
        drop(vit, parts, images(), 0.5, (1, 2))
