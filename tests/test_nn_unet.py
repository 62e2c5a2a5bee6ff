"""LocLoc's U-Net: sizes, wirings, weights that lead nowhere."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from vitrail.nn.unet import UNet, _joined, _pooled


@pytest.mark.parametrize("size", [(14, 14), (16, 16), (13, 9), (8, 8), (7, 7), (6, 6), (3, 5), (2, 1), (1, 1)])
@pytest.mark.parametrize("wiring", ["text", "released"])
def test_the_map_keeps_its_size(size: tuple[int, int], wiring: str) -> None:
    net = UNet(6, 5, wiring=wiring).eval()  # type: ignore[arg-type]
    found = net(torch.randn(2, 6, *size))
    assert found.shape == (2, 5, *size)
    assert found.isfinite().all()


def test_published_number_of_weights() -> None:
    for wiring in ("text", "released"):
        with torch.device("meta"):
            net = UNet(384, 200, wiring=wiring)  # type: ignore[arg-type]
        assert sum(value.numel() for value in net.parameters()) == 1_132_544
    idle = [value for part in (net.down_3, net.up_1) for value in part.parameters()]
    assert sum(value.numel() for value in idle) == 23_232


def test_gradients_reach_all_weights_of_the_text_alone() -> None:
    torch.manual_seed(0)
    for wiring in ("text", "released"):
        net = UNet(6, 5, wiring=wiring)  # type: ignore[arg-type]
        net(torch.randn(4, 6, 14, 14)).square().sum().backward()
        without = {name.split(".")[0] for name, value in net.named_parameters() if value.grad is None}
        assert without == ({"down_3", "up_1"} if wiring == "released" else set())
        assert all(value.grad.abs().sum() > 0 for value in net.parameters() if value.grad is not None)


def test_the_wirings_differ_in_what_the_second_step_up_reads() -> None:
    """By hand, from the same weights: with 8 x 8 cells x3 is 2 x 2, and y1 has its channels and size."""
    text, released = UNet(6, 5).eval(), UNet(6, 5, wiring="released").eval()
    released.load_state_dict(text.state_dict())
    x1 = torch.randn(1, 6, 8, 8)
    x2 = text.down_1(functional.max_pool2d(x1, 2))
    x3 = text.down_2(functional.max_pool2d(x2, 2))
    x4 = text.down_3(functional.max_pool2d(x3, 2))
    grown = functional.interpolate(x4, (2, 2), mode="bilinear", align_corners=False)
    y1 = text.up_1(torch.cat((x3, grown), 1))
    for net, deepest in ((text, y1), (released, x3)):
        y2 = net.up_2(_joined(deepest, x2))
        assert torch.equal(net(x1), net.up_3(_joined(y2, x1)))
    assert not torch.equal(text(x1), released(x1))


def test_a_deep_change_reaches_all_of_the_texts_map() -> None:
    """The text's bottom is one cell of 14 x 14; what it says changes every cell."""
    net = UNet(3, 2).eval()
    x = torch.randn(1, 3, 14, 14)
    before = net(x)
    with torch.no_grad():
        net.down_3[3].weight.mul_(3)
    assert bool((net(x) != before).any(1).all())


def test_pooling_stops_at_one_cell() -> None:
    assert _pooled(torch.zeros(1, 1, 1, 5)).shape == (1, 1, 1, 2)
    assert _pooled(torch.zeros(1, 1, 14, 7)).shape == (1, 1, 7, 3)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="wiring is 'faithful'; choose 'text' or 'released'"):
        UNet(6, 5, wiring="faithful")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"features are \[1, 5, 8, 8\]; this U-Net takes \[B, 6, Y, X\]"):
        UNet(6, 5)(torch.zeros(1, 5, 8, 8))
