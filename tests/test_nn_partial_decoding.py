"""The decoder on some of its tokens: all of them, and what leaving one out does to the first block's attention."""

from __future__ import annotations

import pytest
import torch

from vitrail.nn.masked_autoencoder import DecoderConfig, MaskedDecoder
from vitrail.nn.partial_decoding import first_influence, partial_pass, whole_pass


@pytest.fixture
def decoder() -> MaskedDecoder:
    torch.manual_seed(0)
    made = MaskedDecoder(DecoderConfig(embed_dim=16, depth=3, heads=2), 8, (2, 2), (3, 3)).double().eval()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn_like(value) * 0.3)
    return made


@torch.no_grad()
def test_nothing_changes_where_nothing_is_left_out(decoder: MaskedDecoder) -> None:
    sequence = torch.randn(2, 10, 16, dtype=torch.float64)
    whole, kept = whole_pass(decoder, sequence)
    torch.testing.assert_close(decoder.norm(whole), decoder.features(sequence), atol=1e-12, rtol=0)
    image, fresh = torch.tensor([1, 0, 1]), torch.tensor([[0, 4, 7], [9, 2, 1], [3, 4, 5]])
    still = torch.tensor([[place for place in range(10) if place not in row] for row in fresh.tolist()])
    wanted = torch.tensor([[2, 0], [1, 1], [0, 2]])
    found = partial_pass(decoder, sequence, kept, image, still, fresh, wanted)
    expected = whole[image[:, None], fresh.gather(1, wanted)]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("depth", [1, 2, 3])
@torch.no_grad()
def test_without_a_token_all_others_are_computed(decoder: MaskedDecoder, depth: int) -> None:
    decoder.blocks = decoder.blocks[:depth]
    sequence = torch.randn(2, 10, 16, dtype=torch.float64)
    _, kept = whole_pass(decoder, sequence, blocks=1)
    assert len(kept) == 1
    image, fresh = torch.tensor([1, 0]), torch.tensor([[0, 1, 2, 4, 5, 6, 7, 8, 9], [0, 1, 2, 3, 4, 5, 6, 7, 9]])
    wanted = torch.tensor([[8, 1, 3], [0, 2, 4]])
    found = partial_pass(decoder, sequence, kept, image, fresh[:, :0], fresh, wanted)
    expected = decoder.features(sequence[image[:, None], fresh], wanted)
    torch.testing.assert_close(decoder.norm(found), expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_influence_is_the_length_of_the_attention_s_step(decoder: MaskedDecoder) -> None:
    sequence, sources = torch.randn(2, 10, 16, dtype=torch.float64), torch.tensor([[1, 7], [3, 9]])
    found = first_influence(whole_pass(decoder, sequence, blocks=1)[1][0], sources)
    block = decoder.blocks[0]
    qkv = block.get_submodule("attn.qkv")(block.get_submodule("norm1")(sequence))  # type: ignore[operator]
    q, k, v = (part.unflatten(2, (2, 8)).transpose(1, 2) for part in qkv.chunk(3, -1))
    for b in range(2):
        for i, gone in enumerate(sources[b].tolist()):
            rest = [place for place in range(10) if place != gone]
            whole = (q[b] @ k[b].transpose(-1, -2) / 8**0.5).softmax(-1) @ v[b]
            without = (q[b] @ k[b][:, rest].transpose(-1, -2) / 8**0.5).softmax(-1) @ v[b][:, rest]
            expected = (whole - without).square().sum((0, 2)).sqrt()
            torch.testing.assert_close(found[b, i].double(), expected, atol=1e-4, rtol=1e-4)
