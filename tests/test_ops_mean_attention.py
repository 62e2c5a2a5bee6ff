import pytest
import torch

from vitrail.ops.mean_attention import check_heads, mean_attention


def test_is_the_mean_stretched_to_the_unit_interval() -> None:
    maps = torch.rand(3, 4, 5, 6)
    found = mean_attention(maps, (0, 2))
    for own, each in zip(found, maps, strict=True):
        mean = (each[0] + each[2]) / 2
        assert torch.allclose(own, (mean - mean.min()) / (mean.max() - mean.min()))
        assert (float(own.min()), float(own.max())) == (0.0, 1.0)


def test_heads_by_default_and_all_of_them() -> None:
    maps = torch.rand(2, 4, 3, 3)
    assert torch.equal(mean_attention(maps), mean_attention(maps, [0, 1, 2]))
    assert torch.equal(mean_attention(maps, None), mean_attention(maps, [0, 1, 2, 3]))
    assert torch.equal(mean_attention(maps, [-1]), mean_attention(maps, [3]))


def test_an_image_does_not_depend_on_the_others() -> None:
    maps = torch.rand(3, 4, 3, 3)
    both = mean_attention(maps)
    assert torch.equal(both[1:2], mean_attention(maps[1:2]))


def test_a_constant_map_becomes_zero_and_half_precision_wide() -> None:
    maps = torch.full((2, 3, 4, 4), 1 / 17)
    maps[1, 0, 0, 0] = torch.nextafter(maps[1, 0, 0, 0], torch.tensor(1.0))  # softmax of equal scores, to rounding
    assert torch.equal(mean_attention(maps), torch.zeros(2, 4, 4))
    assert mean_attention(torch.rand(1, 3, 1, 1)).item() == 0
    assert mean_attention(torch.rand(1, 3, 2, 2).bfloat16()).dtype == torch.float32


def test_what_is_refused() -> None:
    maps = torch.rand(2, 3, 2, 2)
    with pytest.raises(ValueError, match=r"heads \[3\] are not there; the block has 3, 0 to 2"):
        mean_attention(maps, (0, 3))
    with pytest.raises(ValueError, match=r"heads are \[0, -3\]; name at least one of 3, each once"):
        check_heads((0, -3), 3)
    with pytest.raises(ValueError, match=r"heads are \[\]"):
        mean_attention(maps, ())
    with pytest.raises(ValueError, match=r"attention is \[2, 3, 4\]"):
        mean_attention(torch.rand(2, 3, 4))
    maps[1, 2, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"images \[1\] of the batch is NaN or infinite"):
        mean_attention(maps)
    assert mean_attention(maps, (0, 1)).isfinite().all()  # the broken head is not asked for
