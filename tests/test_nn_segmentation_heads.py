import pytest
import torch

from vitrail.nn.segmentation_heads import ConvSegmenter, LinearSegmenter


def test_linear_is_one_product_for_each_patch() -> None:
    head = LinearSegmenter(5, 3)
    features = torch.randn(2, 5, 4, 6)
    weight, bias = head.classifier.weight[:, :, 0, 0], head.classifier.bias
    assert bias is not None
    expected = torch.einsum("cd,bdyx->bcyx", weight, features) + bias[:, None, None]
    torch.testing.assert_close(head(features), expected)


def test_batch_norm_normalizes_and_learns_nothing() -> None:
    head = LinearSegmenter(5, 3, batch_norm=True)
    assert sum(value.numel() for value in head.parameters()) == 5 * 3 + 3
    features = 7 + 3 * torch.randn(16, 5, 8, 8)
    normed = head.norm(features)
    assert normed.mean((0, 2, 3)).abs().max() < 1e-5
    assert (normed.std((0, 2, 3)) - 1).abs().max() < 1e-2


@pytest.mark.parametrize("width", [8, 12])
def test_conv_has_the_published_layers(width: int) -> None:
    head = ConvSegmenter(5, 3, width=width)
    assert head(torch.randn(2, 5, 4, 6)).shape == (2, 3, 32, 48)
    kernels = [layer.kernel_size for layer in head.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert kernels == [(1, 1), (1, 1), (3, 3)] * 3 + [(1, 1)]
    assert sum(isinstance(layer, torch.nn.ReLU) for layer in head.modules()) == 9
    assert sum(isinstance(layer, torch.nn.Upsample) for layer in head.modules()) == 3


@pytest.mark.parametrize("kind", [LinearSegmenter, ConvSegmenter])
def test_seeds_decide_the_start_and_disturb_nobody(kind: type[LinearSegmenter] | type[ConvSegmenter]) -> None:
    before = torch.random.get_rng_state()
    features = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    first, same, other = (kind(4, 3, seed=seed)(features) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)
