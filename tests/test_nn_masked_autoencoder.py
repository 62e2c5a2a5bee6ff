"""MAE's decoder against a plain implementation, its order, grids, gradients and errors."""

from __future__ import annotations

import math

import pytest
import torch
from processes import python
from torch import Tensor, nn

from vitrail.config import ConfigError
from vitrail.nn.groups import parameter_groups
from vitrail.nn.masked_autoencoder import DecoderConfig, MaskedDecoder
from vitrail.nn.positions import sine_cosine
from vitrail.ops.patches import patchify

CONFIG = DecoderConfig(embed_dim=16, depth=2, heads=2)
WIDTH, PATCH, GRID = 12, (2, 3), (3, 4)


@pytest.fixture
def decoder() -> MaskedDecoder:
    """With every parameter moved from its start, so that none can be left out unseen."""
    torch.manual_seed(0)
    made = MaskedDecoder(CONFIG, WIDTH, PATCH, GRID)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn_like(value) * 0.2)
    return made.eval()


def inputs(grid: tuple[int, int] = GRID, batch: int = 3, kept: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Class tokens, visible tokens, and their ids in no order."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randperm(grid[0] * grid[1], generator=generator)[:kept] for _ in range(batch)])
    return (
        torch.randn(batch, WIDTH, generator=generator),
        torch.randn(batch, kept, WIDTH, generator=generator),
        ids,
    )


def plain(decoder: MaskedDecoder, cls: Tensor, patches: Tensor, ids: Tensor, grid: tuple[int, int]) -> Tensor:
    """Image by image: visible tokens, then mask tokens, put into raster order by looking each patch up."""
    count, wide = grid[0] * grid[1], decoder.config.embed_dim
    results = []
    for token, seen, places in zip(cls, patches, ids.tolist(), strict=True):
        listed = torch.cat((decoder.embed(seen), decoder.mask_token[0].expand(count - len(places), wide)))
        order = [*places, *(patch for patch in range(count) if patch not in places)]
        raster = torch.stack([listed[order.index(patch)] for patch in range(count)])
        x = torch.cat((decoder.embed(token)[None], raster + sine_cosine(grid, wide)))[None]
        for block in decoder.blocks:
            x = attended(block, x)
        x = nn.functional.layer_norm(x, (wide,), decoder.norm.weight, decoder.norm.bias, eps=1e-6)
        results.append(x[0, 1:] @ decoder.predict.weight.T + decoder.predict.bias)
    return torch.stack(results)


def attended(block: nn.Module, x: Tensor) -> Tensor:
    """A pre-norm transformer block, from its weights."""
    state = block.state_dict(keep_vars=True)

    def normed(value: Tensor, name: str) -> Tensor:
        centered = value - value.mean(-1, keepdim=True)
        scaled = centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(value: Tensor, name: str) -> Tensor:
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    q, k, v = (
        part.unflatten(-1, (CONFIG.heads, -1)).transpose(1, 2)
        for part in linear(normed(x, "norm1"), "attn.qkv").chunk(3, -1)
    )
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    x = x + linear((weights @ v).transpose(1, 2).flatten(2), "attn.proj")
    hidden = linear(normed(x, "norm2"), "mlp.fc1")
    return x + linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), "mlp.fc2")


@pytest.mark.parametrize("grid", [GRID, (4, 3), (2, 7), (1, 6)])
@pytest.mark.parametrize("kept", [0, 1, 5, 6])
@torch.no_grad()
def test_equals_the_plain_one(grid: tuple[int, int], kept: int, decoder: MaskedDecoder) -> None:
    given = inputs(grid, kept=kept)
    found = decoder(*given, grid)
    assert found.shape == (3, grid[0] * grid[1], 18)
    torch.testing.assert_close(found, plain(decoder, *given, grid), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_everything_visible_needs_no_mask_token(decoder: MaskedDecoder) -> None:
    given = inputs(kept=12)
    before = decoder(*given, GRID)
    decoder.mask_token.add_(1)
    assert torch.equal(decoder(*given, GRID), before)


@torch.no_grad()
def test_the_order_of_the_tokens_does_not_matter(decoder: MaskedDecoder) -> None:
    cls, patches, ids = inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    expected = decoder(cls, patches, ids, GRID)
    torch.testing.assert_close(decoder(cls, patches[:, order], ids[:, order], GRID), expected, atol=1e-6, rtol=1e-6)
    other = decoder(cls, patches[:, order], ids, GRID)  # tokens at other places
    assert not torch.allclose(other, expected, atol=1e-3)


@torch.no_grad()
def test_wanted_patches_in_their_order(decoder: MaskedDecoder) -> None:
    given = inputs()
    wanted = torch.tensor([[7, 0], [3, 3], [11, 5]])
    expected = decoder(*given, GRID).gather(1, wanted[..., None].expand(-1, -1, 18))
    torch.testing.assert_close(decoder(*given, GRID, wanted), expected)
    assert decoder(*given, GRID, wanted[:, :0]).shape == (3, 0, 18)


@torch.no_grad()
def test_an_image_alone_and_in_a_batch(decoder: MaskedDecoder) -> None:
    cls, patches, ids = inputs()
    torch.testing.assert_close(decoder(cls[1:2], patches[1:2], ids[1:2], GRID), decoder(cls, patches, ids, GRID)[1:2])


def test_gradients_reach_everything_that_is_learned(decoder: MaskedDecoder) -> None:
    cls, patches, ids = inputs()
    cls.requires_grad_()
    patches.requires_grad_()
    decoder(cls, patches, ids, GRID).square().mean().backward()
    for name, value in [("cls", cls), ("patches", patches), *decoder.named_parameters()]:
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name
        assert value.grad.any(), name
    assert "positions" not in dict(decoder.named_parameters())


def test_gradient_in_float64() -> None:
    torch.manual_seed(0)
    decoder = MaskedDecoder(DecoderConfig(embed_dim=4, depth=1, heads=1), 3, (1, 1), (2, 2)).double()
    cls, patches = torch.randn(1, 3).double().requires_grad_(), torch.randn(1, 2, 3).double().requires_grad_()
    ids = torch.tensor([[3, 1]])
    assert torch.autograd.gradcheck(lambda c, p: decoder(c, p, ids, (2, 2)), (cls, patches))


def test_how_it_starts() -> None:
    torch.manual_seed(0)
    decoder = MaskedDecoder(DecoderConfig(embed_dim=256, depth=1, heads=2), 384, (16, 16))
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            assert 0.98 * bound < module.weight.abs().max() <= bound
            assert not module.bias.any()
    assert 0.016 < decoder.mask_token.std() < 0.024
    assert decoder.predict.out_features == patchify(torch.zeros(1, 3, 16, 16), 16).shape[2]


def test_positions_stay_out_of_the_state_and_follow_the_module(decoder: MaskedDecoder) -> None:
    assert "positions" not in decoder.state_dict()
    again = MaskedDecoder(CONFIG, WIDTH, PATCH, (9, 9))
    again.load_state_dict(decoder.state_dict())
    given = inputs()
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(*given, GRID), decoder(*given, GRID))
        cls, patches, ids = inputs()
        for grid in (GRID, (4, 4)):
            assert again.double()(cls.double(), patches.double(), ids, grid).dtype == torch.float64


def test_mixed_precision(decoder: MaskedDecoder) -> None:
    given = inputs()
    with torch.no_grad():
        expected = decoder(*given, GRID)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = decoder(*given, GRID)
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_the_mask_token_is_not_decayed(decoder: MaskedDecoder) -> None:
    free = [group["params"] for group in parameter_groups(decoder, weight_decay=0.05) if not group["weight_decay"]]
    assert any(value is decoder.mask_token for group in free for value in group)


class TestErrors:
    def test_shapes(self, decoder: MaskedDecoder) -> None:
        cls, patches, ids = inputs()
        with pytest.raises(ValueError, match=r"cls is \[3, 1, 12\] and patches \[3, 5, 12\]; they are \[B, D\]"):
            decoder(cls[:, None], patches, ids, GRID)
        with pytest.raises(ValueError, match=r"visible is \[3, 4\] of torch.int64; .* int64 \[3, 5\]"):
            decoder(cls, patches, ids[:, :4], GRID)
        with pytest.raises(ValueError, match=r"of torch.int32"):
            decoder(cls, patches, ids.int(), GRID)
        with pytest.raises(ValueError, match=r"wanted is \[2, 5\] of torch.int64; .* with B = 3"):
            decoder(cls, patches, ids, GRID, ids[:2])

    def test_ids(self, decoder: MaskedDecoder) -> None:
        cls, patches, ids = inputs()
        with pytest.raises(ValueError, match=r"visible names patches \d+ to 12; a grid of 3x4 has 0 to 11"):
            decoder(cls, patches, torch.where(ids == ids.max(), 12, ids), GRID)
        with pytest.raises(ValueError, match=r"wanted names patches -1 to \d+"):
            decoder(cls, patches, ids, GRID, ids - ids.min() - 1)
        twice = ids.clone()
        twice[2, 4] = twice[2, 0]
        with pytest.raises(ValueError, match="names a patch twice"):
            decoder(cls, patches, twice, GRID)

    def test_sizes(self) -> None:
        with pytest.raises(ConfigError, match="embed_dim 64 is not a multiple of heads 3"):
            DecoderConfig.parse({"embed_dim": 64, "heads": 3})
        with pytest.raises(ConfigError, match="multiple of 4"):
            DecoderConfig.parse({"embed_dim": 6, "heads": 3})


def test_the_module_does_not_import_timm() -> None:
    code = "import sys, vitrail.nn.masked_autoencoder; print('timm' in sys.modules)"
    done = python("-c", code)
    assert done.stdout.strip() == "False"
